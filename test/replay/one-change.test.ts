/** What the replay is for: one thing that was changed by hand in a real trace is found and named, and nothing else. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { hex64 } from '../../src/bits/word64.ts';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { keptColumns, type StepColumns } from '../../src/trace/columns.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { TraceWriter } from '../../src/trace/writer.ts';
import { file, folder, rewalk } from '../cli/cli.ts';
import type { Line } from './small-traces.ts';

const WALKLOG = fileURLToPath(new URL('../../traces/walklog/', import.meta.url));
const SVM_NPT = join(WALKLOG, 'svm-npt.rwt');

interface Side {
  readonly kind: string;
  readonly address: string;
  readonly value: string;
}

interface Found {
  readonly status: number;
  readonly text: string;
  /** Of the first divergence. */
  readonly step: number;
  readonly cause: string;
  readonly recorded: Side | undefined;
  readonly replayed: Side | undefined;
  readonly diverged: number;
}

/** Replays a trace, as text and as JSON. */
async function found(path: string): Promise<Found> {
  const asText = await rewalk('replay', path);
  const asJson = await rewalk('replay', path, '--json');
  expect([asJson.status, asText.stderr, asJson.stderr]).toEqual([asText.status, '', '']);
  const { results } = JSON.parse(asJson.stdout) as {
    results: {
      receipt: { diverged: number };
      divergences: { step: number; cause: string; firstDifference: number; recorded: Side[]; replayed: Side[] }[];
    }[];
  };
  const { receipt, divergences } = results[0]!;
  const first = divergences[0]!;
  return {
    status: asText.status,
    text: asText.stdout,
    step: first.step,
    cause: first.cause,
    recorded: first.recorded[first.firstDifference],
    replayed: first.replayed[first.firstDifference],
    diverged: receipt.diverged,
  };
}

describe('an expected entry of svm-npt, changed in the columns', () => {
  let header: TraceHeader;
  const chunks: StepColumns[] = [];
  beforeAll(() => {
    const reader = TraceReader.open(SVM_NPT);
    for (const item of reader) {
      if (item.kind === 'header') header = item.header;
      if (item.kind === 'steps') chunks.push(keptColumns(item.columns));
    }
    reader.close();
  });

  /** The trace with a change made in a copy of its first chunk. */
  function changed(name: string, change: (columns: StepColumns) => void): string {
    const path = join(folder, name);
    const [first, ...others] = chunks.map(keptColumns) as [StepColumns, ...StepColumns[]];
    change(first);
    const writer = TraceWriter.create(path, header);
    for (const columns of [first, ...others]) writer.add(columns);
    writer.finish();
    return path;
  }

  /** Row of the entry in question: the last one that is read of a walk far into the trace, and its step. */
  function entry(columns: StepColumns): { step: number; row: number; address: string; value: string } {
    const row = columns.observationOp.findLastIndex((op) => (op & OBS_KIND_MASK) === Obs.ELEMENT);
    const word = (column: Uint32Array): string => `0x${hex64(column[2 * row]!, column[2 * row + 1]!)}`;
    return {
      step: columns.observationEnd.findIndex((end) => end > row),
      row,
      address: word(columns.observationAddress),
      value: word(columns.observationValue),
    };
  }

  test('without a change it matches', async () => {
    expect(
      (
        await rewalk(
          'replay',
          changed('unchanged.rwt', () => undefined),
        )
      ).status,
    ).toBe(0);
  });

  test('its value: exit status 1, and text and JSON name the entry with both values', async () => {
    const { step, row, address, value } = entry(chunks[0]!);
    const path = changed('value.rwt', (columns) => {
      columns.observationValue[2 * row]! ^= 0x20;
    });
    const other = `0x${(BigInt(value) ^ 0x20n).toString(16)}`;
    const { status, text, ...first } = await found(path);
    expect(status).toBe(1);
    expect(first).toMatchObject({
      step,
      diverged: 1,
      recorded: { kind: 'element', address, value: other },
      replayed: { kind: 'element', address, value },
    });
    expect(first.cause).toContain(`at ${address} was read as ${other}, memory holds ${value}: bit 5 differ`);
    expect(text).toContain(`DIVERGED ${path}`);
    expect(text).toContain(`step ${step} (svm-npt.walklog.gz line `);
    expect(text).toMatch(new RegExp(`\\[${address}\\] = ${other} .*\\[${address}\\] = ${value} `));
  });

  test('its address: the walks part there', async () => {
    const { step, row, address } = entry(chunks[0]!);
    const path = changed('address.rwt', (columns) => {
      columns.observationAddress[2 * row]! ^= 8;
    });
    const other = `0x${(BigInt(address) ^ 8n).toString(16)}`;
    const first = await found(path);
    expect(first).toMatchObject({ status: 1, step, diverged: 1, recorded: { address: other }, replayed: { address } });
    expect(first.cause).toMatch(/^the walks part below /);
    expect(first.cause).toContain(`at ${other}, the replay the`);
    expect(first.text).toContain(`[${other}] = `);
  });
});

/** The lines of a trace of the corpus in the text form. */
async function linesOf(name: string): Promise<Line[]> {
  const path = join(folder, `${name}.jsonl`);
  const { status, stderr } = await rewalk('convert', join(WALKLOG, `${name}.rwt`), '-o', path);
  if (status !== 0) throw new Error(stderr);
  return readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

/** Ordinal of the step that a line of the text is. */
function stepOf(lines: readonly Line[], index: number): number {
  return lines.slice(0, index).filter((line) => !('header' in line || 'state' in line)).length;
}

describe('one line of 32bit-eventinj, changed in the text form', () => {
  let lines: Line[] = [];
  beforeAll(async () => {
    lines = await linesOf('32bit-eventinj');
  });

  const expected = (line: Line | undefined): Line[] => (line?.['expect'] ?? []) as Line[];
  /** The first line that `holds`, with its observations replaced. */
  async function changed(
    name: string,
    holds: (line: Line) => boolean,
    change: (line: Line) => Line,
  ): Promise<Found & { index: number }> {
    const index = lines.findIndex(holds);
    const text = lines.with(index, change(lines[index]!)).map((line) => JSON.stringify(line));
    return { ...(await found(file(`${name}.jsonl`, text.join('\n')))), index };
  }
  const faults = (line: Line): boolean => expected(line).some((row) => 'exception' in row);
  const walks = (line: Line): boolean => 'access' in line && expected(line)[1]?.['element'] !== undefined;

  test('the lines as they are match', async () => {
    const path = file('as-they-are.jsonl', lines.map((line) => JSON.stringify(line)).join('\n'));
    expect((await rewalk('replay', path)).status).toBe(0);
  });

  test('an error code: both are named, with the bits that differ', async () => {
    const first = await changed('error-code', faults, (line) => ({
      ...line,
      expect: expected(line).map((row) => ('exception' in row ? { ...row, error: '0x1d' } : row)),
    }));
    const { error, cr2 } = expected(lines[first.index]).find((row) => 'exception' in row)!;
    expect(first).toMatchObject({ status: 1, step: stepOf(lines, first.index), diverged: 1 });
    expect(first.recorded).toMatchObject({ kind: 'exception', address: cr2, value: '0x1d' });
    expect(first.replayed).toMatchObject({ kind: 'exception', address: cr2, value: error });
    expect(first.cause).toMatch(
      new RegExp(`^#PF 0x1d was recorded, #PF ${error} replayed, bits? .*; the replay says: #PF: the guest P`),
    );
    expect(first.text).toContain(`#PF error 0x1d `);
    expect(first.text).toContain(`#PF error ${error} `);
  });

  test('a removed observation: the replay has it, the recording what came after it', async () => {
    const first = await changed('removed', walks, (line) => ({ ...line, expect: expected(line).slice(1) }));
    const [removed, next] = expected(lines[first.index]);
    expect(first).toMatchObject({ status: 1, step: stepOf(lines, first.index), diverged: 1 });
    expect(first.recorded?.address).toBe(next!['element']);
    expect(first.replayed).toMatchObject({ address: removed!['element'], value: removed!['value'] });
    expect(first.text).toContain(`[${String(removed!['element'])}] = ${String(removed!['value'])}`);
  });

  test('an inserted observation: the recording has it, the replay what comes next', async () => {
    const inserted = { element: '0xabc000', level: 1, fourBytes: true, value: '0x5007' };
    const first = await changed('inserted', walks, (line) => ({
      ...line,
      expect: expected(line).toSpliced(1, 0, inserted),
    }));
    expect(first).toMatchObject({ status: 1, step: stepOf(lines, first.index), diverged: 1 });
    expect(first.recorded).toMatchObject({ address: '0xabc000', value: '0x5007' });
    expect(first.replayed?.address).toBe(expected(lines[first.index])[1]!['element']);
    expect(first.text).toContain('[0xabc000] = 0x5007');
  });

  test('an observation after the last one: the replay has nothing there', async () => {
    const first = await changed('appended', walks, (line) => ({
      ...line,
      expect: [...expected(line), { 'exit-linear': '0x1234' }],
    }));
    expect(first).toMatchObject({ status: 1, diverged: 1, recorded: { kind: 'exit-linear', address: '0x1234' } });
    expect(first.replayed).toBeUndefined();
    expect(first.text).toContain('(nothing)');
  });

  test('an entry of memory: the first walk that reads it diverges there', async () => {
    const first = await changed(
      'store',
      (line) => 'store' in line,
      (line) => ({ ...line, value: '0x12345067' }),
    );
    const { store, value } = lines[first.index]!;
    const reader = lines.findIndex((line) => expected(line).some((row) => row['element'] === store));
    expect(first).toMatchObject({ status: 1, step: stepOf(lines, reader) });
    expect(first.recorded).toMatchObject({ kind: 'element', address: store, value });
    expect(first.replayed).toMatchObject({ kind: 'element', address: store, value: '0x12345067' });
    expect(first.cause).toContain(`at ${String(store)} was read as ${String(value)}, memory holds 0x12345067`);
    expect(first.text).toContain(`[${String(store)}] = 0x12345067`);
  });

  test('an entry of memory that no walk reads makes no difference', async () => {
    const path = file(
      'aside.jsonl',
      [...lines, { store: '0xabc000', value: '0x5007' }].map((line) => JSON.stringify(line)).join('\n'),
    );
    expect((await rewalk('replay', path)).status).toBe(0);
  });
});
