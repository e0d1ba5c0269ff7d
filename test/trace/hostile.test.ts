import { describe, expect, test } from 'vitest';
import { Problem } from '../../src/bits/problem.ts';
import { REGISTER_COUNT } from '../../src/formats/registers.ts';
import { ChunkField } from '../../src/trace/framing.ts';
import type { TraceLimits } from '../../src/trace/limits.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { checkColumns } from '../../src/trace/soundness.ts';
import { bytes, chunk, column, header, message, number, packedFile, rawChunk, stepsFile } from './crafted.ts';
import {
  accesses,
  fileOf,
  outcome,
  problemOf,
  registersOf,
  sampleBytes,
  sampleChunks,
  told,
  writeTrace,
} from './samples.ts';

/** What the reader says about a file, or how many steps it has. */
function said(file: Uint8Array, limits: Partial<TraceLimits> = {}): string {
  const reader = TraceReader.open(fileOf(file), limits);
  let steps = 0;
  try {
    for (const item of reader) if (item.kind === 'steps') steps += item.columns.stepCount;
    return `${steps} steps`;
  } catch (error) {
    if (error instanceof Problem) return told(error);
    throw error;
  } finally {
    reader.close();
  }
}

/** One access without rows. */
const ONE_STEP = [number(3, 1), column(5, 1), column(6, 0, 0), column(7, 0, 0), column(8, 0)];
const steps = (...fields: Buffer[]): string => said(stepsFile(message(...fields)));

test('the crafted chunks are good where nothing is wrong with them', () => {
  expect(steps(...ONE_STEP)).toBe('1 steps');
  expect(steps()).toBe('0 steps');
  expect(said(packedFile(message(...ONE_STEP)))).toBe('1 steps');
});

describe('columns that contradict their counts are refused', () => {
  test.each([
    ['too short', [number(3, 2), ...ONE_STEP.slice(1)]],
    ['too long', [number(3, 1), column(5, 1, 1), ...ONE_STEP.slice(2)]],
    ['missing', ONE_STEP.slice(0, 4)],
    ['there without a count', ONE_STEP.slice(1)],
    ['cut inside an element', [number(3, 1), bytes(5, [1, 0, 0]), ...ONE_STEP.slice(2)]],
    ['there twice', [...ONE_STEP, column(5, 1)]],
    ['a number instead', [...ONE_STEP.slice(0, 4), number(8, 0)]],
    ['running over the end', [...ONE_STEP.slice(0, 4), bytes(8, [0, 0, 0, 0], 5)]],
    ['of absurd length', [...ONE_STEP.slice(0, 4), bytes(8, [0, 0, 0, 0], 2 ** 52)]],
    ['of observations nobody has', [...ONE_STEP, number(4, 1), column(9, 1), column(10, 0, 0), column(11, 0, 0)]],
    ['of lines for other steps', [...ONE_STEP, bytes(14, [2, 2])]],
    ['of lines that end inside a number', [...ONE_STEP, bytes(14, [0x82])]],
    ['of times for other steps', [...ONE_STEP, bytes(15, [2, 2, 2])]],
    ['of too many registers', [...ONE_STEP, column(2, ...registersOf(1), 0, 0)]],
  ])('%s', (_, fields) => {
    expect(steps(...fields)).toMatch(/^E_(UNSOUND|UNKNOWN_FEATURE) FILE.rwt, chunk 1, byte \d+/);
  });
});

test('registers that a writer did not know are 0', () => {
  const reader = TraceReader.open(fileOf(stepsFile(message(...ONE_STEP, column(2, 7, 8)))));
  reader.next();
  const item = reader.next();
  reader.close();
  const registers = item?.kind === 'steps' ? [...item.columns.registers] : [];
  expect(registers).toEqual([7, 8, ...new Array<number>(2 * REGISTER_COUNT - 2).fill(0)]);
});

test('fields that this version does not know are skipped, of whatever wire type', () => {
  const unknown = [
    number(30, 5),
    bytes(31, [1, 2, 3]),
    Buffer.from([0xa1, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
    Buffer.from([0xa5, 2, 0, 0, 0, 0]),
  ];
  expect(steps(...unknown, ...ONE_STEP)).toBe('1 steps');
  expect(steps(Buffer.from([0xa3, 2]), ...ONE_STEP)).toContain('wire type 3 does not exist');
});

test('observations must follow their steps', () => {
  const rows = (...ends: number[]): Buffer[] => [
    number(3, ends.length),
    number(4, 2),
    column(5, ...ends.map(() => 1)),
    column(6, ...ends.flatMap(() => [0, 0])),
    column(7, ...ends.flatMap(() => [0, 0])),
    column(8, ...ends),
    column(9, 1, 1),
    column(10, 0, 0, 0, 0),
    column(11, 0, 0, 0, 0),
  ];
  expect(steps(...rows(1, 2))).toBe('2 steps');
  expect([
    steps(...rows(2, 1)),
    steps(...rows(1, 1)),
    steps(...rows(0, 3)),
    steps(...rows(1, 0xffff_ffff)),
    steps(...rows(0xffff_ffff, 2)),
    steps(...rows(0, 0x8000_0000, 1, 2)),
  ]).toMatchInlineSnapshot(`
    [
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 1: the observations of a step end before those of the step before it -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248: the steps have 1 observations and the chunk says 2 -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248: the steps have 3 observations and the chunk says 2 -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 1: the observations of a step end before those of the step before it -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 0: the observations of a step end before those of the step before it -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 1: the observations of a step end before those of the step before it -> the program that wrote the file has a fault; record or import again",
    ]
  `);
});

test('rare steps must refer to the chunk’s stimuli in order', () => {
  const rare = (operands: number[], stimuli: number): string =>
    steps(
      number(3, operands.length),
      column(5, ...operands.map(() => 0)),
      column(6, ...operands.flatMap(() => [0, 0])),
      column(7, ...operands.flatMap((operand) => [operand, 0])),
      column(8, ...operands.map(() => 0)),
      ...Array.from({ length: stimuli }, () => bytes(12, bytes(3, []))),
    );
  expect(rare([0, 1], 2)).toBe('2 steps');
  expect([rare([0], 0), rare([1, 0], 2), rare([0, 0], 2), rare([0], 2), rare([0xffff_ffff], 1)]).toMatchInlineSnapshot(`
    [
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 0: a step does not refer to the next one of the rare stimuli -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 0: a step does not refer to the next one of the rare stimuli -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 1: a step does not refer to the next one of the rare stimuli -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248: the chunk has 2 rare stimuli for 1 steps -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 248, step 0: a step does not refer to the next one of the rare stimuli -> the program that wrote the file has a fault; record or import again",
    ]
  `);
});

test('kinds that do not exist are refused, with the step', () => {
  const step = (op: number): string => steps(number(3, 1), column(5, op), ...ONE_STEP.slice(2));
  const row = (op: number): string =>
    steps(...ONE_STEP.slice(0, 4), column(8, 1), number(4, 1), column(9, op), column(10, 0, 0), column(11, 0, 0));
  expect([step(16), step(31), row(20), row(31)]).toMatchInlineSnapshot(`
    [
      "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248, step 0: a step is of kind 16, which this version does not know -> use a newer rewalk",
      "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248, step 0: a step is of kind 31, which this version does not know -> use a newer rewalk",
      "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248, step 0: an observation is of kind 20, which this version does not know -> use a newer rewalk",
      "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248, step 0: an observation is of kind 31, which this version does not know -> use a newer rewalk",
    ]
  `);
  expect([step(14), row(18)]).toEqual(['1 steps', '1 steps']);
});

test('one bad step is found at whatever place of a chunk it stands', () => {
  for (let count = 1; count <= 9; count++) {
    for (let bad = 0; bad < count; bad++) {
      const columns = accesses(count).take(registersOf(1));
      const ends = {
        ...columns,
        observationCount: 2,
        observationEnd: columns.observationEnd.fill(2).fill(1, bad, bad + 1),
      };
      const rows = {
        observationOp: new Uint32Array(2),
        observationAddress: new Uint32Array(4),
        observationValue: new Uint32Array(4),
      };
      const told = (): void => checkColumns({ ...ends, ...rows });
      if (bad === 0 && count > 1) expect(told).not.toThrow();
      else expect(told, `${bad} of ${count}`).toThrow(Problem);
      columns.op[bad] = 16;
      expect(() => checkColumns({ ...columns, observationEnd: new Uint32Array(count) })).toThrow(
        'a step is of kind 16',
      );
    }
  }
});

describe('a stimulus that cannot be', () => {
  const one = (...stimulus: Buffer[]): string =>
    steps(number(3, 1), column(5, 0), ...ONE_STEP.slice(2), bytes(12, message(...stimulus)));
  const fixed64 = (field: number, lo: number, hi = 0): Buffer =>
    Buffer.concat([Buffer.from([field * 8 + 1]), Buffer.from(Uint32Array.of(lo, hi).buffer)]);

  test.each([
    ['of no known kind', one()],
    ['with broken bytes', one(bytes(1, [0xff]))],
    ['a page image that is not aligned', one(bytes(1, fixed64(1, 8)))],
    ['a page image with more indices than words', one(bytes(1, bytes(2, [1, 2])))],
    ['a page image with an index beyond the page', one(bytes(1, message(bytes(2, [0x80, 4]), column(3, 1, 0))))],
    ['a page image with falling indices', one(bytes(1, message(bytes(2, [2, 1]), column(3, 1, 0, 1, 0))))],
    ['a fill of odd entries', one(bytes(2, message(number(2, 1), number(5, 3))))],
    ['a fill of all memory', one(bytes(2, message(number(2, 0xffff_ffff), number(5, 8))))],
    ['a memslot that nobody knows what happens to', one(bytes(4, number(1, 4)))],
    ['a memslot of a third address space', one(bytes(4, number(3, 2)))],
    ['a memslot with too high a number', one(bytes(4, number(2, 0x8000)))],
    ['a memslot that is not aligned', one(bytes(4, fixed64(4, 0x800)))],
    ['a memslot of half a page', one(bytes(4, fixed64(5, 0x800)))],
    ['a memslot of half a page of the host', one(bytes(4, fixed64(8, 0x800)))],
    ['a memslot beyond physical memory', one(bytes(4, message(fixed64(4, 0xffff_f000, 0xf_ffff), fixed64(5, 0x2000))))],
    ['a dirty log of too high a number', one(bytes(5, number(1, 0x8000)))],
    ['a notifier that does what nobody knows', one(bytes(6, number(1, 4)))],
    ['a notifier whose range falls', one(bytes(6, message(fixed64(2, 0x2000), fixed64(3, 0x1000))))],
    ['a change of the hypervisor that nobody knows', one(bytes(7, number(1, 4)))],
    ['a note of a megabyte', one(bytes(3, bytes(1, new Uint8Array(1 << 20))))],
  ])('is refused: %s', (_, result) => {
    expect(result).toMatch(/^E_(UNSOUND|LIMIT|UNKNOWN_FEATURE) FILE.rwt, chunk 1, byte \d+/);
  });
});

describe('what is packed', () => {
  const body = message(...ONE_STEP);

  test('must unpack to the size that the chunk gives', () => {
    expect([said(packedFile(body, 1)), said(packedFile(body, 200)), said(packedFile(body, 0))]).toMatchInlineSnapshot(`
      [
        "E_UNSOUND FILE.rwt, chunk 1, byte 248: what is packed in the chunk does not unpack to the size that it gives -> the program that wrote the file has a fault; record or import again",
        "E_UNSOUND FILE.rwt, chunk 1, byte 248: the chunk unpacks to 40 bytes and says 200 -> the program that wrote the file has a fault; record or import again",
        "E_UNSOUND FILE.rwt, chunk 1, byte 248: what is packed in the chunk does not unpack to the size that it gives -> the program that wrote the file has a fault; record or import again",
      ]
    `);
  });

  test('may not claim more than packing can do, nor more than the limits', () => {
    expect([said(packedFile(body, 1 << 20)), said(packedFile(body, 0xffff_ffff))]).toMatchInlineSnapshot(`
      [
        "E_LIMIT FILE.rwt, chunk 1, byte 248: the chunk's packing ratio is 38837, more than the limit maxRatio of 1032 -> if you trust the file, raise maxRatio; if not, the file may be damaged or made to do harm",
        "E_LIMIT FILE.rwt, chunk 1, byte 248: the chunk's unpacked size is 4294967295, more than the limit maxUnpackedBytes of 67108864 -> if you trust the file, raise maxUnpackedBytes; if not, the file may be damaged or made to do harm",
      ]
    `);
  });

  test('must be packed at all', () => {
    const garbage = Buffer.concat([header(), chunk(ChunkField.PACKED, new Uint8Array(16).fill(0xff), 1, 64)]);
    const noCodec = Buffer.concat([header(), chunk(ChunkField.PACKED, new Uint8Array(16), 0)]);
    const notSteps = Buffer.concat([header(), chunk(ChunkField.STEPS, body, 1, 64)]);
    expect([said(garbage), said(noCodec), said(notSteps)]).toMatchInlineSnapshot(`
      [
        "E_UNSOUND FILE.rwt, chunk 1, byte 248: what is packed in the chunk does not unpack to the size that it gives -> the program that wrote the file has a fault; record or import again",
        "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248: the chunk is packed with codec 0, which this version does not know -> use a newer rewalk",
        "E_UNSOUND FILE.rwt, chunk 1, byte 248: the chunk has a codec, but nothing is packed -> the program that wrote the file has a fault; record or import again",
      ]
    `);
  });
});

test('limits hold, and say which they are', () => {
  const file = sampleBytes();
  const packed = sampleBytes({ codec: 'deflate' });
  expect([
    said(file, { maxChunkBytes: 300 }),
    said(file, { maxHeaderBytes: 100 }),
    said(file, { maxHeaderEntries: 1 }),
    said(file, { maxStimuli: 1 }),
    said(file, { maxStimulusBytes: 4000 }),
    said(file, { maxStimulusMessageBytes: 20 }),
    said(file, { maxFillEntries: 100 }),
    said(file, { maxChunks: 1 }),
    said(packed, { maxUnpackedBytes: 300 }),
    said(packed, { maxRatio: 1 }),
  ]).toMatchInlineSnapshot(`
    [
      "E_LIMIT FILE.rwt, chunk 1, byte 248: the chunk's size is 464, more than the limit maxChunkBytes of 300 -> if you trust the file, raise maxChunkBytes; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 0, byte 0: the header's size is 230, more than the limit maxHeaderBytes of 100 -> if you trust the file, raise maxHeaderBytes; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 0, byte 0: the length of a list in the header is 3, more than the limit maxHeaderEntries of 1 -> if you trust the file, raise maxHeaderEntries; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 1, byte 248: the number of the chunk's rare stimuli is 2, more than the limit maxStimuli of 1 -> if you trust the file, raise maxStimuli; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 1, byte 248: the memory of the chunk's rare stimuli is 4178, more than the limit maxStimulusBytes of 4000 -> if you trust the file, raise maxStimulusBytes; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 1, byte 248: a stimulus' size is 33, more than the limit maxStimulusMessageBytes of 20 -> if you trust the file, raise maxStimulusMessageBytes; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 2, byte 712: the count of an entry fill is 512, more than the limit maxFillEntries of 100 -> if you trust the file, raise maxFillEntries; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 2, byte 712: the number of a segment's chunks is 2, more than the limit maxChunks of 1 -> if you trust the file, raise maxChunks; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 1, byte 248: the chunk's unpacked size is 456, more than the limit maxUnpackedBytes of 300 -> if you trust the file, raise maxUnpackedBytes; if not, the file may be damaged or made to do harm",
      "E_LIMIT FILE.rwt, chunk 1, byte 248: the chunk's packing ratio is 2, more than the limit maxRatio of 1 -> if you trust the file, raise maxRatio; if not, the file may be damaged or made to do harm",
    ]
  `);
});

test('a header that nobody can believe is refused', () => {
  const processor = {
    vendor: 'amd',
    model: '',
    maxphyaddr: 53,
    features: [],
    eptVpidCap: { lo: 0, hi: 0 },
    secondaryControlsAllowed: 0,
  } as const;
  expect([
    said(header({ processor })),
    said(header({ formatVersion: 0 })),
    said(header({ sources: [{ name: 'x', size: 0, sha256: new Uint8Array(31) }] })),
    said(chunk(ChunkField.HEADER, message(number(1, 1), number(7, 9), bytes(6, number(3, 40))))),
    said(chunk(ChunkField.HEADER, message(number(1, 1), bytes(5, [0xff, 0xfe])))),
    said(chunk(ChunkField.HEADER, Buffer.from([0x0b]))),
  ]).toMatchInlineSnapshot(`
    [
      "E_UNSOUND FILE.rwt, chunk 0, byte 0: the header gives MAXPHYADDR 53; it is 32 to 52 -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 0, byte 0: the header gives no format version -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 0, byte 0: the SHA-256 of source 'x' has 31 bytes instead of 32 -> the program that wrote the file has a fault; record or import again",
      "E_UNKNOWN_FEATURE FILE.rwt, chunk 0, byte 0: the header gives A/D policy 9, which this version does not know",
      "E_UNSOUND FILE.rwt, chunk 0, byte 0: the header cannot be decoded -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 0, byte 0: the header cannot be decoded -> the program that wrote the file has a fault; record or import again",
    ]
  `);
});

test('a chunk with two contents, or a broken field, is refused', () => {
  const one = bytes(ChunkField.STEPS, message(...ONE_STEP));
  const file = (...fields: Buffer[]): string => said(Buffer.concat([header(), rawChunk(message(...fields))]));
  expect(file(one)).toBe('1 steps');
  expect(file(number(99, 1), one, bytes(98, [1]))).toBe('1 steps');
  expect([
    file(one, one),
    file(),
    file(bytes(ChunkField.STEPS, [], 9)),
    file(Buffer.from([0x83])),
  ]).toMatchInlineSnapshot(`
    [
      "E_UNSOUND FILE.rwt, chunk 1, byte 292: the chunk has two contents -> the program that wrote the file has a fault; record or import again",
      "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248: the chunk holds nothing that this version knows -> use a newer rewalk",
      "E_UNSOUND FILE.rwt, chunk 1, byte 256: a field runs over the end of its message -> the program that wrote the file has a fault; record or import again",
      "E_UNSOUND FILE.rwt, chunk 1, byte 255: a number runs over the end of its message -> the program that wrote the file has a fault; record or import again",
    ]
  `);
});

test('an index with more chunks than memory should hold is refused before they are made', () => {
  const index = Buffer.alloc(600_000, bytes(2, []));
  expect(said(Buffer.concat([header(), chunk(ChunkField.INDEX, index)]))).toContain('maxChunks');
});

test('an index that points anywhere gives problems, not steps', () => {
  const chunks = [accesses(3).take(registersOf(1)), accesses(3).take(registersOf(2))];
  const { path } = writeTrace(chunks);
  const reader = TraceReader.open(path);
  expect(told(problemOf(() => reader.stepsAt(6)))).toMatchInlineSnapshot(
    `"E_USAGE FILE.rwt: there is no step 6: the segment has 6"`,
  );
  reader.close();
  const cut = TraceReader.open(fileOf(sampleBytes().subarray(0, -8)));
  expect(told(problemOf(() => cut.stepsAt(0)))).toMatchInlineSnapshot(
    `"E_CUT_SHORT FILE.rwt, byte 1216: no index ends here, so no step can be found by its number -> the steps up to there are good; \`rewalk recover\` writes them as a whole file"`,
  );
  expect(told(problemOf(() => cut.indices()))).toMatch(/^E_CUT_SHORT/);
  cut.close();
});

test('what a reader would refuse, the writer does not write', () => {
  const [columns] = sampleChunks();
  const bad = { ...columns!, observationEnd: Uint32Array.of(9, 0, 0, 0) };
  const long = accesses(3_000_000).take(registersOf(1));
  expect([told(problemOf(() => writeTrace([bad]))), told(problemOf(() => writeTrace([long])))]).toMatchInlineSnapshot(`
    [
      "E_UNSOUND step 1: the observations of a step end before those of the step before it",
      "E_LIMIT : the chunk's size is 75000272, more than the limit maxUnpackedBytes of 67108864 -> divide the steps among more chunks",
    ]
  `);
});

test('reading goes no further after a problem', () => {
  const reader = TraceReader.open(fileOf(stepsFile(message(number(3, 1)))));
  expect(reader.next()?.kind).toBe('header');
  expect(problemOf(() => reader.next()).code).toBe('E_UNSOUND');
  expect(reader.next()).toBeUndefined();
  reader.close();
  expect(outcome(fileOf(stepsFile(message(...ONE_STEP)))).ended).toBe('incomplete');
});
