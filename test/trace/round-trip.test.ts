import { spawnSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { keptColumns, type StepColumns } from '../../src/trace/columns.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import {
  accesses,
  chunksArbitrary,
  fileOf,
  freshPath,
  HEADER,
  plain,
  readAll,
  registersOf,
  SEEDED,
  sampleBytes,
  sampleChunks,
  writeTrace,
} from './samples.ts';

/** Reads a trace and writes what was read. */
function rewritten(path: string, codec: 'none' | 'deflate'): Buffer {
  const reader = TraceReader.open(path);
  const first = reader.next();
  if (first?.kind !== 'header') throw new Error('no header');
  const chunks = function* (): Generator<StepColumns> {
    for (const item of reader) if (item.kind === 'steps') yield item.columns;
  };
  const copy = writeTrace(chunks(), { codec, header: first.header });
  reader.close();
  return readFileSync(copy.path);
}

describe.each(['none', 'deflate'] as const)('with codec %s', (codec) => {
  test('what is read is what was written', () => {
    const chunks = sampleChunks();
    const { path, digest, steps } = writeTrace(chunks, { codec });
    expect(readAll(path)).toEqual([
      { kind: 'header', header: HEADER, segment: 0 },
      ...chunks.map(plain),
      { kind: 'end', complete: true, digest, steps, problem: undefined },
    ]);
  });

  test('writing what was read gives the same bytes', () => {
    fc.assert(
      fc.property(chunksArbitrary, (chunks) => {
        const { path } = writeTrace(chunks, { codec });
        expect(rewritten(path, codec).equals(readFileSync(path))).toBe(true);
        expect(readAll(path).slice(1, -1)).toEqual(chunks.map(plain));
      }),
      SEEDED,
    );
  });

  test('the writer tells the size of the file and the digest that the reader finds', () => {
    const { path, digest, bytes } = writeTrace(sampleChunks(), { codec });
    expect(statSync(path).size).toBe(bytes);
    expect(readAll(path).at(-1)).toMatchObject({ digest });
  });

  test('files put one behind the other are read as segments, each with ordinals from 0', () => {
    const bytes = sampleBytes({ codec });
    const items = readAll(fileOf(Buffer.concat([bytes, bytes])));
    expect(items).toHaveLength(8);
    expect(items[5]).toEqual(items[1]);
    expect(items[4]).toMatchObject({ kind: 'header', segment: 1 });
    expect(items[7]).toMatchObject({ complete: true, steps: 7 });
  });

  test('any step of a file is found by its ordinal, without disturbing who reads from front to back', () => {
    const chunks = sampleChunks();
    const { path } = writeTrace(chunks, { codec });
    const twice = fileOf(Buffer.concat([readFileSync(path), readFileSync(path)]));
    const reader = TraceReader.open(twice);
    reader.next();
    const item = reader.next();
    const seen = item?.kind === 'steps' ? plain(item.columns) : undefined;
    for (const segment of [1, 0]) {
      for (const [ordinal, chunk] of [0, 0, 0, 0, 1, 1, 1].entries()) {
        expect(plain(reader.stepsAt(ordinal, segment))).toEqual(plain(chunks[chunk]!));
      }
    }
    expect(item?.kind === 'steps' && plain(item.columns)).toEqual(seen);
    expect(() => reader.stepsAt(7)).toThrow('there is no step 7: the segment has 7');
    expect(() => reader.stepsAt(0, 2)).toThrow('there is no step 0');
    expect(() => reader.stepsAt(-1)).toThrow('there is no step -1');
    reader.close();
  });
});

test('an incompressible chunk is written unpacked, since packing makes it no smaller', () => {
  const noise = accesses(1).take(registersOf(0x9e37_79b1));
  const none = writeTrace([noise], { codec: 'none' });
  const deflate = writeTrace([noise], { codec: 'deflate' });
  expect(deflate.bytes).toBeLessThanOrEqual(none.bytes);
});

describe('columns of an uncompressed chunk', () => {
  const COLUMNS = ['op', 'address', 'operand', 'observationEnd'] as const;

  test('are views of the buffer at multiples of 8, in the file too', () => {
    for (const count of [1, 2, 3, 31, 32, 127, 4095, 4096, 70_000]) {
      const { path, bytes } = writeTrace([accesses(count).take(registersOf(1)), accesses(1).take(registersOf(2))]);
      expect(bytes % 8).toBe(0);
      const file = readFileSync(path);
      const reader = TraceReader.open(path);
      for (const item of reader) {
        if (item.kind !== 'steps') continue;
        const { columns, place } = item;
        for (const name of COLUMNS) {
          expect(columns[name].byteOffset % 8, `${name} of ${count}`).toBe(0);
          const inFile = place.offset! + columns[name].byteOffset;
          const view = Buffer.from(columns[name].buffer, columns[name].byteOffset, columns[name].byteLength);
          expect(file.subarray(inFile, inFile + view.length).equals(view)).toBe(true);
        }
      }
      reader.close();
    }
  });

  test('are copied where another writer did not align them', () => {
    const { path } = writeTrace(sampleChunks());
    const before = readAll(path);
    const moved = withoutPadding(readFileSync(path));
    expect(moved.length % 8).not.toBe(0);
    const reader = TraceReader.open(fileOf(moved));
    const items: unknown[] = [];
    // The index tells of offsets, which moved: only what comes before it is looked at.
    for (let i = 0; i < 3; i++) {
      const item = reader.next();
      items.push(item?.kind === 'steps' ? plain(item.columns) : item);
    }
    reader.close();
    expect(items).toEqual(before.slice(0, 3));
  });

  test('are overwritten by the next item, and last as a copy', () => {
    const chunks = [1, 2].map((seed) => accesses(5).take(registersOf(seed)));
    const { path } = writeTrace(chunks);
    const reader = TraceReader.open(path);
    reader.next();
    const item = reader.next();
    if (item?.kind !== 'steps') throw new Error('no steps');
    const kept = keptColumns(item.columns);
    const before = plain(kept);
    while (reader.next() !== undefined);
    expect(plain(kept)).toEqual(before);
    expect(plain(kept)).toEqual(plain(chunks[0]!));
    reader.close();
  });
});

/** The same trace as a writer without any care for alignment would have written it, chunk by chunk. */
function withoutPadding(file: Buffer): Buffer {
  const script = `
    import { rewalk } from './src/trace/schema/trace.js';
    import zlib from 'node:zlib';
    import fs from 'node:fs';
    const trace = rewalk.Trace.decode(fs.readFileSync(0));
    const out = [];
    for (const chunk of trace.chunk) {
      delete chunk.padding;
      if (chunk.steps) delete chunk.steps.padding;
      chunk.crc = 1;
      const bytes = Buffer.from(rewalk.Trace.encode({ chunk: [chunk] }).finish());
      const crcAt = bytes.indexOf(0x0d, 2) + 1;
      const crc = zlib.crc32(bytes.subarray(crcAt + 4), zlib.crc32(bytes.subarray(0, crcAt)));
      bytes.writeUInt32LE(crc, crcAt);
      out.push(bytes);
    }
    process.stdout.write(Buffer.concat(out));`;
  const { stdout } = spawnSync('node', ['--input-type=module', '-e', script], { input: file });
  return stdout;
}

test('any protobuf reader understands the file', () => {
  const script = `
    import { rewalk } from './src/trace/schema/trace.js';
    import fs from 'node:fs';
    const { chunk } = rewalk.Trace.decode(fs.readFileSync(0));
    console.log(JSON.stringify(chunk.map((c) => c.content)), chunk[1].steps.op.length, chunk[0].header.title, chunk[3].index.chunk.length);`;
  const { stdout } = spawnSync('node', ['--input-type=module', '-e', script], {
    input: sampleBytes(),
    encoding: 'utf8',
  });
  expect(stdout).toBe('["header","steps","steps","index"] 4 a sample 2\n');
});

test('a trace without steps is whole', () => {
  const { path } = writeTrace([], { path: freshPath() });
  expect(readAll(path)).toMatchObject([{ kind: 'header' }, { kind: 'end', complete: true, steps: 0 }]);
});
