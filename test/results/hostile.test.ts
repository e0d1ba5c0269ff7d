/** A results file is hostile input: whatever its bytes are, reading it ends in a `Problem` or in something to print. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Problem } from '../../src/bits/problem.ts';
import { fullTraceLines, storedStepLines } from '../../src/report/compare-results-text.ts';
import { framed } from '../../src/results/framing.ts';
import { RESULTS_LIMITS } from '../../src/results/model.ts';
import { ResultsReader } from '../../src/results/reader.ts';
import { rewalk } from '../../src/results/schema/results.js';
import { frameCrc, parseFrameHead } from '../../src/trace/framing.ts';
import { Random } from '../reference/random.ts';
import { CORPUS, folder, guestThatDiffers, RUN, replayed, written } from './samples.ts';

let sound = Buffer.alloc(0);
const path = join(folder, 'hostile.rwr');
const plain = (_: string, text: string): string => text;

beforeAll(() => {
  const machine = { mutants: [1] };
  const [bare] = replayed(join(CORPUS, 'hand/stale-translations.rwt'));
  const [kvm] = replayed(join(CORPUS, 'kvmmmu/b_pse_npt0.rwt'), machine);
  const [guest] = guestThatDiffers();
  // Short, so that there are few bytes to go through, and of every kind.
  sound = readFileSync(written([bare!, { ...kvm!, steps: kvm!.steps.slice(0, 3) }, guest!]));
});

/** Reads everything and renders it; the code of the problem, if there is one. */
function outcome(bytes: Uint8Array): string {
  writeFileSync(path, bytes);
  try {
    const reader = ResultsReader.open(path);
    try {
      for (const entry of reader.traces) {
        const { trace, steps } = reader.traceAt(entry);
        const lines = fullTraceLines('added', trace, steps, plain);
        for (const step of steps) lines.push(...storedStepLines(step, trace, plain));
        // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not be there
        expect(lines.filter((line) => /[\u0000-\u001f\u007f-\u009f]/.test(line))).toEqual([]);
      }
    } finally {
      reader.close();
    }
    return 'read';
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    expect(error.place.file).toBe(path);
    return error.code;
  }
}

/** Where the records begin, and behind them the end of the file. */
function recordStarts(bytes: Uint8Array): number[] {
  const starts = [0];
  while (starts.at(-1)! < bytes.length) {
    const at = starts.at(-1)!;
    const head = parseFrameHead(bytes.subarray(at), bytes.length - at)!;
    starts.push(at + head.start + head.length);
  }
  return starts;
}

/** With the CRC of the record at `start` made right again. */
function resealed(bytes: Buffer, start: number, end: number): Buffer {
  const record = bytes.subarray(start, end);
  const head = parseFrameHead(record, record.length);
  if (head !== undefined && head.start + head.length === record.length) {
    record.writeUInt32LE(frameCrc(record, head), head.start + 1);
  }
  return bytes;
}

test('the sound one is read', () => {
  expect(outcome(sound)).toBe('read');
});

test('cut short anywhere: said, with the place', () => {
  const random = new Random(1);
  const starts = recordStarts(sound);
  const cuts = [...starts.slice(1, -1), ...Array.from({ length: 200 }, () => random.below(sound.length))];
  const codes = new Set(cuts.map((cut) => outcome(sound.subarray(0, cut))));
  expect([...codes].filter((code) => !['E_CUT_SHORT', 'E_NOT_RESULTS'].includes(code))).toEqual([]);
  expect(codes.has('E_CUT_SHORT')).toBe(true);
});

test('one bit changed anywhere: noticed', () => {
  const random = new Random(2);
  for (let i = 0; i < 400; i++) {
    const bytes = Buffer.from(sound);
    const at = random.below(bytes.length);
    bytes[at] = bytes[at]! ^ (1 << random.below(8));
    expect([at, outcome(bytes)]).not.toEqual([at, 'read']);
  }
});

test('bytes changed under a checksum that holds: read or refused, never a crash', () => {
  const random = new Random(3);
  const starts = recordStarts(sound);
  const codes = new Map<string, number>();
  for (let i = 0; i < 600; i++) {
    const bytes = Buffer.from(sound);
    const record = random.below(starts.length - 1);
    const [start, end] = [starts[record]!, starts[record + 1]!];
    for (let n = 1 + random.below(4); n > 0; n--) bytes[start + 8 + random.below(end - start - 8)] = random.below(256);
    const code = outcome(resealed(bytes, start, end));
    codes.set(code, (codes.get(code) ?? 0) + 1);
  }
  expect([...codes.keys()].filter((code) => !/^(read|E_[A-Z_]+)$/.test(code))).toEqual([]);
  expect((codes.get('read') ?? 0) > 20 && (codes.get('E_UNSOUND') ?? 0) > 20).toBe(true);
});

const WHEN = { formatVersion: 1, writer: RUN.writer };

/** A file of these records. */
function file(...records: Parameters<typeof framed>[0][]): Uint8Array {
  return Buffer.concat(records.map(framed));
}

describe('refused', () => {
  const end = { end: rewalk.results.End.create({}) };
  test.each<[string, () => Uint8Array, string]>([
    ['an empty file', () => new Uint8Array(0), 'E_NOT_RESULTS'],
    ['a trace', () => readFileSync(join(CORPUS, 'hand/pml.rwt')), 'E_NOT_RESULTS'],
    ['another version', () => file({ run: { ...WHEN, formatVersion: 2 } }, end), 'E_NEWER_VERSION'],
    ['no version', () => file({ run: { writer: 'x' } }, end), 'E_NEWER_VERSION'],
    ['no end', () => file({ run: WHEN }), 'E_CUT_SHORT'],
    ['an end with another digest', () => file({ run: WHEN }, end), 'E_UNSOUND'],
    ['a step where a trace is due', () => file({ run: WHEN }, { step: { group: 'x' } }, end), 'E_UNSOUND'],
    ['a trace without header', () => file({ run: WHEN }, { trace: { file: 'x' } }, end), 'E_UNSOUND'],
    ['more steps than there may be', () => file({ run: WHEN }, { trace: { keptSteps: 1 << 30 } }, end), 'E_LIMIT'],
    ['something behind the end', () => Buffer.concat([sound, Buffer.from([0x0a])]), 'E_UNSOUND'],
  ])('%s', (_, bytes, code) => {
    expect(outcome(bytes())).toBe(code);
  });

  test('a record larger than is believed, before it is read', () => {
    const claim = Buffer.from([0x0a, 0xff, 0xff, 0xff, 0x7f, 0x0d, 0, 0, 0, 0, 0x82, 0x01]);
    expect(outcome(claim)).toBe('E_LIMIT');
  });

  test('more traces than are believed', () => {
    writeFileSync(path, sound);
    expect(() => ResultsReader.open(path, { ...RESULTS_LIMITS, maxTraces: 2 })).toThrow(/limit maxTraces of 2/);
  });

  test('standard input and folders', () => {
    expect(() => ResultsReader.open('-')).toThrow(Problem);
    expect(() => ResultsReader.open(folder)).toThrow(Problem);
  });
});

test('a record full of empty messages does not take memory without bound', () => {
  const count = 1_900_000;
  const receipt = Buffer.alloc(2 * count);
  for (let i = 0; i < count; i++) receipt[2 * i] = 0x52;
  const trace = rewalk.results.TraceResult.encode({ file: 'x' }).finish();
  const varint = (value: number): number[] =>
    value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
  const message = Buffer.concat([trace, Buffer.from([0x2a, ...varint(receipt.length)]), receipt]);
  const record = Buffer.concat([Buffer.from([0x0d, 0, 0, 0, 0, 0x8a, 0x01, ...varint(message.length)]), message]);
  const bytes = Buffer.concat([Buffer.from([0x0a, ...varint(record.length)]), record]);
  const head = file({ run: WHEN });
  const before = process.memoryUsage().rss;
  expect(outcome(Buffer.concat([head, resealed(bytes, 0, bytes.length)]))).toBe('E_UNSOUND');
  expect(process.memoryUsage().rss - before).toBeLessThan(1_500_000_000);
});
