import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { TraceReader } from '../../src/trace/reader.ts';
import { recoverTrace } from '../../src/trace/recover.ts';
import {
  accesses,
  fileOf,
  folder,
  freshPath,
  outcome,
  PLAIN_HEADER,
  plain,
  problemOf,
  readAll,
  registersOf,
  sampleBytes,
  writeTrace,
} from './samples.ts';

/** Five chunks of ten steps. */
const chunks = [1, 2, 3, 4, 5].map((seed, i) => ({ ...accesses(10).take(registersOf(seed)), firstOrdinal: 10 * i }));
const { path: WHOLE } = writeTrace(chunks, { header: PLAIN_HEADER });
const bytes = readFileSync(WHOLE);
const reader = TraceReader.open(WHOLE);
const { chunks: positions, indexOffset } = reader.indices()[0]!;
reader.close();
const offsets = positions.map(({ offset }) => offset);

function recovered(damaged: Uint8Array): ReturnType<typeof recoverTrace> & { items: unknown[] } {
  const to = freshPath();
  const recovery = recoverTrace(fileOf(damaged), to);
  expect(outcome(to).ended).toBe('complete');
  return { ...recovery, items: readAll(to) };
}

const damagedAt = (...places: number[]): Buffer => {
  const copy = Buffer.from(bytes);
  for (const place of places) copy[place]! ^= 0x10;
  return copy;
};

describe.each(['none', 'deflate'] as const)('with codec %s', (codec) => {
  test('a sound file is recovered as it is', () => {
    const file = sampleBytes({ codec });
    const to = freshPath();
    const recovery = recoverTrace(fileOf(Buffer.concat([file, file])), to);
    expect(readFileSync(to).equals(Buffer.concat([file, file]))).toBe(true);
    expect(recovery).toMatchObject({ chunks: 4, losses: [], missingSteps: 0 });
  });
});

test('a file that was cut is recovered up to its last whole chunk', () => {
  const { items, chunks: saved, losses } = recovered(bytes.subarray(0, offsets[3]! + 40));
  expect(saved).toBe(3);
  expect(items.slice(1, -1)).toEqual(chunks.slice(0, 3).map(plain));
  expect(losses).toEqual([
    { from: offsets[3], to: offsets[3]! + 40, reason: 'a chunk that was cut short, or whose length is damaged' },
  ]);
});

test('a file without its index gets one, and has lost nothing', () => {
  const to = freshPath();
  expect(recoverTrace(fileOf(bytes.subarray(0, indexOffset)), to)).toMatchObject({ losses: [], missingSteps: 0 });
  expect(readFileSync(to).equals(bytes)).toBe(true);
});

test('behind a damaged chunk a new segment begins, which says how many steps are missing', () => {
  const { items, losses, missingSteps } = recovered(damagedAt(offsets[1]! + 60, offsets[2]! + 60));
  expect(items.slice(1, 2)).toEqual([plain(chunks[0]!)]);
  expect(items.slice(4, 6)).toEqual([
    plain({ ...chunks[3]!, firstOrdinal: 0 }),
    plain({ ...chunks[4]!, firstOrdinal: 10 }),
  ]);
  expect(items[3]).toMatchObject({
    header: { title: PLAIN_HEADER.title, omissions: [{ what: 'steps lost to damage before this segment', count: 20 }] },
  });
  expect(missingSteps).toBe(20);
  expect(losses).toEqual([
    { from: offsets[1], to: offsets[3], reason: 'a chunk whose checksum does not match its bytes' },
  ]);
});

test('chunks are found again behind damage to a length, and behind bytes that came or went', () => {
  for (const damaged of [
    damagedAt(offsets[1]! + 1),
    damagedAt(offsets[1]!),
    Buffer.concat([bytes.subarray(0, offsets[1]! + 9), bytes.subarray(offsets[1]! + 20)]),
    Buffer.concat([bytes.subarray(0, offsets[1]! + 9), Buffer.from('garbage'), bytes.subarray(offsets[1]! + 9)]),
  ]) {
    const { chunks: saved, missingSteps } = recovered(damaged);
    expect([saved, missingSteps]).toEqual([4, 10]);
  }
});

test('steps lost right behind the header leave no empty segment', () => {
  const { items, missingSteps } = recovered(damagedAt(offsets[0]! + 60));
  expect(items).toHaveLength(6);
  expect(items[0]).toMatchObject({ header: { omissions: [{ count: 10 }] } });
  expect(missingSteps).toBe(10);
});

test('steps whose header is lost are lost, those of the next segment are not', () => {
  const both = Buffer.concat([damagedAt(20), bytes]);
  const { items, losses, chunks: saved } = recovered(both);
  expect(saved).toBe(5);
  expect(items.slice(1, -1)).toEqual(chunks.map(plain));
  expect(losses.map(({ reason }) => reason)).toEqual([
    'a chunk whose checksum does not match its bytes',
    ...chunks.map(() => 'steps whose header is lost'),
  ]);
});

test('nothing is written where nothing can be recovered', () => {
  const before = readdirSync(folder).length;
  const from = fileOf('nothing of a trace');
  const to = freshPath();
  expect(problemOf(() => recoverTrace(from, to))).toMatchObject({ code: 'E_CORRUPT' });
  expect(() => readFileSync(to)).toThrow('ENOENT');
  expect(readdirSync(folder).length).toBe(before + 1);
});

test('a file made of nothing but beginnings of chunks is given up in time', () => {
  const bait = Buffer.from([0x0a, 0xff, 0xff, 0x3f, 0x0d, 0, 0, 0]);
  const hostile = Buffer.concat([bytes, Buffer.alloc(4 << 20, bait)]);
  const started = performance.now();
  const { chunks: saved, losses } = recovered(hostile);
  expect(performance.now() - started).toBeLessThan(5000);
  expect(saved).toBe(5);
  expect(losses).toMatchObject([
    { from: bytes.length, to: hostile.length, reason: expect.stringContaining('given up') },
  ]);
});

test('a flipped bit anywhere loses no more than one chunk and its neighbours’ seam', () => {
  for (let at = offsets[0]!; at < bytes.length; at += 7) {
    const { chunks: saved } = recovered(damagedAt(at));
    expect(saved).toBeGreaterThanOrEqual(4);
  }
});
