/** Traces to test with: a small one that has everything, and generated ones. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll } from 'vitest';
import { Problem, placeText } from '../../src/bits/problem.ts';
import { toBigInt } from '../../src/bits/word64.ts';
import { defaultKvmConfig } from '../../src/formats/kvm-config.ts';
import { KVM_EVENT_SHIFT } from '../../src/formats/kvm-event.ts';
import { KVM_EVENT_BITS } from '../../src/formats/kvm-event-fields.ts';
import { OBS_KIND_COUNT, Obs } from '../../src/formats/observation.ts';
import { REGISTER_COUNT } from '../../src/formats/registers.ts';
import {
  ACCESS_CPL_SHIFT,
  ACCESS_EXPECTS_ADDRESS,
  ACCESS_LENGTH_SHIFT,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  MAXIMUM_VCPUS,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../src/formats/step.ts';
import { StepBuilder, type StepColumns } from '../../src/trace/columns.ts';
import { FORMAT_VERSION, type TraceHeader } from '../../src/trace/header.ts';
import { type TraceItem, TraceReader } from '../../src/trace/reader.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';
import { copyTrace, formOf, openTrace, TraceOutput, type Written } from '../../src/trace/text/either-form.ts';
import { TraceWriter, type WriterOptions, type WriteSummary } from '../../src/trace/writer.ts';

export const folder = mkdtempSync(join(tmpdir(), 'rewalk-trace-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
/** A path that nobody else uses. */
export function freshPath(suffix = '.rwt'): string {
  return join(folder, `${files++}${suffix}`);
}

export function fileOf(bytes: Uint8Array | string, suffix?: string): string {
  const path = freshPath(suffix);
  writeFileSync(path, bytes);
  return path;
}

export const HEADER: TraceHeader = {
  formatVersion: FORMAT_VERSION,
  featureFlags: 0,
  recorder: 'bochs 3.0',
  writer: 'rewalk test',
  title: 'a sample',
  processor: {
    vendor: 'intel',
    model: 'arrow_lake',
    maxphyaddr: 40,
    features: ['pae', 'nx', 'smep'],
    eptVpidCap: { lo: 0x0633_4141, hi: 0xf01 },
    secondaryControlsAllowed: 0x6d_77ff,
  },
  adPolicy: 'after-permissions',
  observable: 0xffff,
  independent: false,
  sources: [
    { name: 'sample.walklog', size: 5_000_000_000, sha256: new Uint8Array(32).fill(0xab) },
    { name: 'second.walklog', size: 0, sha256: new Uint8Array(0) },
  ],
  knownFaults: ['mbec-qualification'],
  hypervisor: { name: 'kvm', version: '6.1.192', tdp: true, parameters: ['ept=1'], mmu: undefined },
  omissions: [{ what: 'port accesses', count: 3 }],
};

export const PLAIN_HEADER: TraceHeader = {
  ...HEADER,
  sources: [],
  knownFaults: [],
  omissions: [],
  hypervisor: undefined,
};

/** Of a recording of a hypervisor's own tracing. */
export const KVM_HEADER: TraceHeader = {
  ...PLAIN_HEADER,
  observable: (1 << Obs.KVM_EVENT) | (1 << Obs.KVM_MORE),
  hypervisor: {
    name: 'kvm',
    version: '6.1.192',
    tdp: true,
    parameters: [],
    mmu: defaultKvmConfig({ vendor: 'intel', pml: true, tdpMmu: false, maxLevel: 2, l1tfBits: 44 }),
  },
};

/** Registers that version 1 of the format has always had; the later ones are 0 in its fixture. */
const FIRST_REGISTERS = 22;

export function registersOf(seed: number): Uint32Array {
  return Uint32Array.from({ length: 2 * REGISTER_COUNT }, (_, i) => (i < 2 * FIRST_REGISTERS ? (i * seed) >>> 0 : 0));
}

/** A builder with `count` accesses that need no rows, the commonest steps there are. */
export function accesses(count: number, builder = new StepBuilder()): StepBuilder {
  const op =
    StepKind.ACCESS |
    (AccessType.WRITE << ACCESS_TYPE_SHIFT) |
    ACCESS_USER |
    (3 << ACCESS_CPL_SHIFT) |
    ACCESS_EXPECTS_ADDRESS |
    (8 << ACCESS_LENGTH_SHIFT);
  for (let i = 0; i < count; i++) builder.step(op, (i << 12) | 0x10, 0x7fff, (i << 13) | 0x10, 1, i + 1);
  return builder;
}

export const PAGE: Stimulus = {
  kind: 'page-image',
  address: { lo: 0x3000, hi: 1 },
  words: new Uint32Array(1024).fill(0xdead_beef, 6, 9),
};
export const FILL: Stimulus = {
  kind: 'entry-fill',
  address: { lo: 0x5000, hi: 0 },
  count: 512,
  first: { lo: 0x7, hi: 0 },
  increment: { lo: 0x1000, hi: 0 },
  size: 8,
};

/** Two small chunks with rows, rare stimuli, lines and, in the second, timestamps. */
export function sampleChunks(): StepColumns[] {
  const builder = new StepBuilder();
  builder.rare({ kind: 'note', text: 'begin “µ”' }, 0, 2);
  builder.rare(PAGE, 0, 4);
  accesses(2, builder);
  builder.observe(1 | (4 << 7), 0x1000, 0, 0x2007, 0);
  builder.observe(3 | (1 << 5), 0x2000, 0, 0, 0);
  const first = builder.take(registersOf(0x1234_5671));
  builder.rare(FILL, 0, 9);
  builder.stamp(1_700_000_000_000_000_000n);
  builder.step(StepKind.STORE | (4 << STORE_SIZE_SHIFT), 0x6000, 0, 0x8000_0001, 0, 7);
  builder.stamp(1_700_000_000_000_000_500n);
  builder.step(StepKind.PDPTE_LOAD, 0x7000, 0, 0, 0);
  builder.stamp(1_700_000_000_000_000_400n);
  builder.observe(12, 0, 0, 1, 0);
  return [first, builder.take(registersOf(3), 1)];
}

export function writeTrace(
  chunks: Iterable<StepColumns>,
  options: WriterOptions & { path?: string; header?: TraceHeader } = {},
): WriteSummary & { path: string } {
  const path = options.path ?? freshPath();
  const { codec = 'none' } = options;
  const writer = TraceWriter.create(path, options.header ?? HEADER, { codec });
  for (const columns of chunks) writer.add(columns);
  return { ...writer.finish(), path };
}

/** Writes the trace `from` in the form that the name of `to` asks for. */
export function convert(from: string, to: string, form = formOf(from)): Written {
  const trace = openTrace(from, form);
  const output = new TraceOutput(to);
  try {
    for (const _ of copyTrace(trace, output));
    return output.finish();
  } finally {
    output.abort();
    trace.close();
  }
}

/** The bytes of a small trace with everything in it. */
export function sampleBytes(options: WriterOptions = {}): Buffer {
  return readFileSync(writeTrace(sampleChunks(), options).path);
}

/** Everything that the columns hold, as plain values that last and compare. */
export function plain(columns: StepColumns): unknown {
  const words = (column: Uint32Array): bigint[] =>
    Array.from({ length: column.length / 2 }, (_, i) => toBigInt(column[2 * i]!, column[2 * i + 1]!));
  const steps = Array.from({ length: columns.stepCount }, (_, i) => i);
  return {
    firstOrdinal: columns.firstOrdinal,
    source: columns.source,
    registers: words(columns.registers),
    vcpu: columns.vcpu,
    others: columns.others.map(({ vcpu, registers }) => [vcpu, words(registers)]),
    op: [...columns.op],
    address: words(columns.address),
    operand: words(columns.operand),
    end: [...columns.observationEnd],
    observationOp: [...columns.observationOp],
    observationAddress: words(columns.observationAddress),
    observationValue: words(columns.observationValue),
    stimuli: columns.stimuli.map((stimulus) =>
      stimulus.kind === 'page-image' ? { ...stimulus, words: [...stimulus.words] } : stimulus,
    ),
    lines: steps.map((step) => columns.lineOf(step)),
    times: steps.map((step) => columns.timeOf(step)),
  };
}

/** The items of a trace with columns made plain while they are valid. */
export function readAll(path: string): unknown[] {
  const reader = TraceReader.open(path);
  try {
    return Array.from(reader, (item: TraceItem) => (item.kind === 'steps' ? plain(item.columns) : item));
  } finally {
    reader.close();
  }
}

/** What happened to someone who read the whole file: how many steps came, and how it ended. */
export function outcome(path: string): { steps: number; ended: 'complete' | 'incomplete' | Problem } {
  const reader = TraceReader.open(path);
  let steps = 0;
  let ended: 'complete' | 'incomplete' = 'complete';
  try {
    for (const item of reader) {
      if (item.kind === 'steps') steps += item.columns.stepCount;
      if (item.kind === 'end' && !item.complete) ended = 'incomplete';
    }
    return { steps, ended };
  } catch (error) {
    if (error instanceof Problem) return { steps, ended: error };
    throw error;
  } finally {
    reader.close();
  }
}

/** A problem as the user sees it, without the folder of the test. */
export function told(problem: Problem): string {
  const remedy = problem.remedy === undefined ? '' : ` -> ${problem.remedy}`;
  return `${problem.code} ${placeText(problem.place).replace(/\/\S*\/\d+/, 'FILE')}: ${problem.message}${remedy}`;
}

export function problemOf(run: () => unknown): Problem {
  try {
    run();
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  throw new Error('no problem was thrown');
}

const word = fc.nat({ max: 0xffff_ffff });
const rowArbitrary = fc.record({ op: word, words: fc.tuple(word, word, word, word) });

const frame = word.map((lo) => (lo & ~0xfff) >>> 0);

const stimulusArbitrary: fc.Arbitrary<Stimulus> = fc.oneof(
  fc.record({ kind: fc.constant('note' as const), text: fc.string({ unit: 'binary' }) }),
  fc.record({
    kind: fc.constant('page-image' as const),
    address: fc.record({ lo: word.map((lo) => (lo & ~0xfff) >>> 0), hi: word }),
    words: fc
      .array(fc.tuple(fc.nat({ max: 1023 }), word), { maxLength: 6 })
      .map((set) => set.reduce((words, [at, value]) => words.fill(value, at, at + 1), new Uint32Array(1024))),
  }),
  fc.record({
    kind: fc.constant('entry-fill' as const),
    address: fc.record({ lo: word.map((lo) => (lo & ~7) >>> 0), hi: word }),
    count: fc.nat({ max: 0x10_0000 }),
    first: fc.record({ lo: word, hi: word }),
    increment: fc.record({ lo: word, hi: word }),
    size: fc.constantFrom(4 as const, 8 as const),
  }),
  fc.record({
    kind: fc.constant('memslot' as const),
    what: fc.constantFrom('create', 'delete', 'move', 'flags'),
    slot: fc.nat({ max: 0x7fff }),
    addressSpace: fc.nat({ max: 1 }),
    address: fc.record({ lo: frame, hi: fc.nat({ max: 0x7_ffff }) }),
    size: fc.record({ lo: frame, hi: fc.nat({ max: 0x7_ffff }) }),
    readOnly: fc.boolean(),
    dirtyLog: fc.boolean(),
    userspace: fc.record({ lo: frame, hi: word }),
  }),
  fc.record({ kind: fc.constant('dirty-log' as const), slot: fc.nat({ max: 0x7fff }) }),
  fc.record({
    kind: fc.constant('notifier' as const),
    what: fc.constantFrom('unmap', 'set-pte', 'age', 'test-age'),
    start: fc.record({ lo: word, hi: fc.nat({ max: 0x7fff_ffff }) }),
    end: fc.record({ lo: word, hi: fc.integer({ min: 0x8000_0000, max: 0xffff_ffff }) }),
  }),
  fc.record({
    kind: fc.constant('hypervisor' as const),
    what: fc.constantFrom('zap-all', 'destroy', 'set-cpuid', 'set-sregs'),
  }),
);

const STEP_KINDS = Object.values(StepKind).filter((kind) => kind !== StepKind.RARE);

interface AnyRow {
  op: number;
  words: [number, number, number, number];
}

/** Words of a column: mostly those that say nothing. */
const column: fc.Arbitrary<[number, number]> = fc.oneof(
  { weight: 2, arbitrary: fc.constant<[number, number]>([0, 0]) },
  { weight: 1, arbitrary: fc.tuple(word, fc.constant(0)) },
  { weight: 1, arbitrary: fc.tuple(word, fc.constant(0xffff_ffff)) },
  { weight: 1, arbitrary: fc.tuple(word, word) },
);

/** An event of KVM's that has, with luck, the rows that it should have; the event itself may be none that is known. */
const eventArbitrary: fc.Arbitrary<AnyRow[]> = fc
  .record({
    event: fc.nat({ max: 31 }),
    op: word,
    clean: fc.boolean(),
    rows: fc.array(fc.tuple(column, column), { minLength: 1, maxLength: 4 }),
    strange: fc.integer({ min: -8, max: 0xff }),
  })
  .map(({ event, op, clean, rows, strange }) =>
    rows.map(([address, value], i): AnyRow => {
      const bits = clean ? op & (KVM_EVENT_BITS[event] ?? 0) : op;
      const own = Obs.KVM_EVENT | (event << KVM_EVENT_SHIFT);
      const head = ((bits & ~0xf81f) | own) >>> 0;
      return { op: i === 0 ? head : Obs.KVM_MORE | (strange > 0 ? 0 : strange << 7), words: [...address, ...value] };
    }),
  );

const rowsArbitrary: fc.Arbitrary<AnyRow[]> = fc.oneof(
  fc
    .record({ kind: fc.nat({ max: OBS_KIND_COUNT - 1 }), row: rowArbitrary })
    .map(({ kind, row }) => [{ op: ((row.op & ~0x1f) | kind) >>> 0, words: row.words }]),
  eventArbitrary,
);

const stepArbitrary = fc.record({
  kind: fc.constantFrom(...STEP_KINDS),
  row: rowArbitrary,
  rare: fc.option(stimulusArbitrary, { freq: 4 }),
  line: fc.oneof(fc.nat({ max: 100 }), word),
  time: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  rows: fc.array(rowsArbitrary, { maxLength: 4 }).map((rows) => rows.flat()),
});

/** Chunks of any steps that a reader accepts, however strange. */
export const chunksArbitrary: fc.Arbitrary<StepColumns[]> = fc
  .array(
    fc.record({
      steps: fc.array(stepArbitrary, { maxLength: 12 }),
      vcpus: fc.array(
        fc.record({
          vcpu: fc.nat({ max: MAXIMUM_VCPUS - 1 }),
          registers: fc.uint32Array({ minLength: 2 * REGISTER_COUNT, maxLength: 2 * REGISTER_COUNT }),
          told: fc.nat({ max: 2 * REGISTER_COUNT }),
        }),
        { minLength: 1, maxLength: 3 },
      ),
      source: fc.nat({ max: 1 }),
      stamped: fc.boolean(),
    }),
    { maxLength: 4 },
  )
  .map((chunks) => {
    const builder = new StepBuilder();
    return chunks.map(({ steps, vcpus, source, stamped }) => {
      const states = vcpus.map(({ vcpu, registers, told }) => ({ vcpu, registers: registers.fill(0, told) }));
      const { vcpu, registers } = states[0]!;
      const others = states
        .filter((each, i) => states.findIndex((other) => other.vcpu === each.vcpu) === i && i > 0)
        .sort((a, b) => a.vcpu - b.vcpu);
      for (const { kind, row, rare, line, time, rows } of steps) {
        const op = (row.op & ~0x1f) >>> 0;
        if (rare !== null) builder.rare(rare, op, line);
        else if (kind === StepKind.VCPU)
          builder.step((op | kind) >>> 0, row.words[0], row.words[1], row.words[2] % 64, 0, line);
        else builder.step((op | kind) >>> 0, ...row.words, line);
        if (stamped) builder.stamp(time);
        for (const observed of rows) builder.observe(observed.op >>> 0, ...observed.words);
      }
      return builder.take(registers, source, vcpu, others);
    });
  });

/** Seeded, so that a failure can be had again. */
export const SEEDED = { seed: 0x5eed, numRuns: 60 };
