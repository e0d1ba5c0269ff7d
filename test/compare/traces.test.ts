/** Two traces against each other: what is only a name is equal, what was inserted is told as just that. */

import { describe, expect, test } from 'vitest';
import { type SegmentSource, TracesComparison, type TracesResult } from '../../src/compare/traces.ts';
import { KVM_EVENT_SHIFT, KvmEvent } from '../../src/formats/kvm-event.ts';
import { OBS_KIND_MASK, OBS_LEVEL_SHIFT, Obs } from '../../src/formats/observation.ts';
import { STEP_KIND_MASK, StepKind } from '../../src/formats/step.ts';
import { keptColumns, StepBuilder, type StepColumns } from '../../src/trace/columns.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { renamedColumns } from './renamed-trace.ts';

interface Recording {
  readonly header: TraceHeader;
  readonly chunks: readonly StepColumns[];
}

function read(path: string): Recording {
  const reader = TraceReader.open(path);
  try {
    let header: TraceHeader | undefined;
    const chunks: StepColumns[] = [];
    for (const item of reader) {
      if (item.kind === 'header') header = item.header;
      else if (item.kind === 'steps') chunks.push(keptColumns(item.columns));
    }
    return { header: header!, chunks };
  } finally {
    reader.close();
  }
}

function sourceOf({ header, chunks }: Recording): SegmentSource {
  const left = [...chunks];
  return { header, chunk: async () => left.shift() };
}

async function compared(a: Recording, b: Recording, window?: number): Promise<TracesResult> {
  const comparison = new TracesComparison(window);
  await comparison.segment(sourceOf(a), sourceOf(b), async () => undefined);
  return comparison.result();
}

interface ClassText {
  readonly subject: string;
  readonly kind: string;
  readonly change: string;
  readonly count: number;
}

function classes({ classes: all }: TracesResult): ClassText[] {
  return all.map(({ subject, kind, change, count }) => ({ subject, kind, change, count }));
}

const NPT = read('traces/kvmmmu/a_npt1.rwt');
const SHADOW = read('traces/kvmmmu/b_pse_npt0.rwt');
const NESTED = read('traces/kvmmmu/c_nest_np0.rwt');

/** Steps once more, one by one; `change` may leave one out, put others beside it, or change its rows. */
function rewritten(
  { header, chunks }: Recording,
  change: (step: StepCopy, ordinal: number) => readonly StepCopy[],
): Recording {
  const builder = new StepBuilder();
  for (const chunk of chunks) {
    for (let at = 0; at < chunk.stepCount; at++) {
      for (const step of change(copyOf(chunk, at), chunk.firstOrdinal + at)) step.into(builder);
    }
  }
  const { registers, source, vcpu } = chunks[0]!;
  return { header, chunks: [builder.take(registers, source, vcpu)] };
}

type RowCopy = [op: number, aLo: number, aHi: number, vLo: number, vHi: number];

class StepCopy {
  readonly rows: RowCopy[];
  private readonly columns: StepColumns;
  private readonly at: number;

  constructor(columns: StepColumns, at: number, rows: RowCopy[]) {
    this.columns = columns;
    this.at = at;
    this.rows = rows;
  }

  get kind(): number {
    return this.columns.op[this.at]! & STEP_KIND_MASK;
  }

  with(rows: RowCopy[]): StepCopy {
    return new StepCopy(this.columns, this.at, rows);
  }

  into(builder: StepBuilder): void {
    const { columns, at } = this;
    const op = columns.op[at]!;
    const i = 2 * at;
    if (this.kind === StepKind.RARE) builder.rare(columns.stimuli[columns.operand[i]!]!, op & ~STEP_KIND_MASK);
    else builder.step(op, columns.address[i]!, columns.address[i + 1]!, columns.operand[i]!, columns.operand[i + 1]!);
    for (const row of this.rows) builder.observe(...row);
  }
}

function copyOf(columns: StepColumns, at: number): StepCopy {
  const rows: RowCopy[] = [];
  const { observationEnd, observationOp, observationAddress: address, observationValue: value } = columns;
  for (let row = at === 0 ? 0 : observationEnd[at - 1]!; row < observationEnd[at]!; row++) {
    const i = 2 * row;
    rows.push([observationOp[row]!, address[i]!, address[i + 1]!, value[i]!, value[i + 1]!]);
  }
  return new StepCopy(columns, at, rows);
}

function isEvent([op]: RowCopy, event: number): boolean {
  return (op & OBS_KIND_MASK) === Obs.KVM_EVENT && ((op >>> KVM_EVENT_SHIFT) & 0x1f) === event;
}

/** The n-th step, from 0, that has an event. */
function nth(recording: Recording, event: number, n: number): number {
  let [found, wanted] = [-1, n];
  rewritten(recording, (step, ordinal) => {
    if (step.rows.some((row) => isEvent(row, event)) && wanted-- === 0) found = ordinal;
    return [step];
  });
  return found;
}

describe('names of the host', () => {
  test.each([
    ['NPT', NPT],
    ['shadow paging', SHADOW],
    ['a nested guest', NESTED],
  ])('%s with other frames, pointers, host addresses, lines and times is equal', async (_, recording) => {
    const copy = { ...recording, chunks: recording.chunks.map(renamedColumns) };
    const result = await compared(recording, copy);
    expect(classes(result)).toEqual([]);
    expect(result.steps).toMatchObject({ differ: 0, onlyA: 0, onlyB: 0 });
    expect(result.steps.both).toBeGreaterThan(5000);
    expect(result.events).toMatchObject({ differ: 0, moved: 0, onlyA: 0, onlyB: 0 });
    expect(result.events.equal).toBeGreaterThan(5000);
    expect(result.marks).toBeGreaterThan(10);
  });

  test('a page that is not the one requested is a difference, in one place', async () => {
    const at = nth(NPT, KvmEvent.SET_SPTE, 30);
    const wrong = rewritten(NPT, (step, ordinal) => {
      if (ordinal !== at) return [step];
      return [
        step.with(
          step.rows.map((row) =>
            isEvent(row, KvmEvent.SET_SPTE) ? ([...row.slice(0, 3), row[3] ^ 0x7000, row[4]] as RowCopy) : row,
          ),
        ),
      ];
    });
    const found = classes(await compared(NPT, wrong));
    expect(found).toContainEqual({
      subject: 'set-spte',
      kind: 'differs',
      change: 'frame: the one requested only in A',
      count: 1,
    });
    expect(found.length).toBeLessThan(4);
  });

  test('an entry of another table, while none has gone, is a difference', async () => {
    const at = nth(NPT, KvmEvent.SET_SPTE, 30);
    const wrong = rewritten(NPT, (step, ordinal) => {
      if (ordinal !== at) return [step];
      const set = step.rows.findIndex((row) => isEvent(row, KvmEvent.SET_SPTE));
      const rows = step.rows.map((row, i) =>
        i === set + 1 ? ([row[0], row[1] ^ 0x9000, ...row.slice(2)] as RowCopy) : row,
      );
      return [step.with(rows)];
    });
    const found = classes(await compared(NPT, wrong));
    expect(found[0]).toMatchObject({ subject: 'set-spte', kind: 'differs', change: 'sptep: in another table' });
  });
});

describe('what one side has alone', () => {
  const at = nth(NPT, KvmEvent.SET_SPTE, 40);

  test('an event that is missing', async () => {
    const removed = rewritten(NPT, (step, ordinal) => {
      if (ordinal !== at) return [step];
      const set = step.rows.findIndex((row) => isEvent(row, KvmEvent.SET_SPTE));
      return [step.with(step.rows.filter((_, i) => i !== set && i !== set + 1))];
    });
    const result = await compared(NPT, removed);
    expect(classes(result)).toEqual([{ subject: 'set-spte', kind: 'only-a', change: '', count: 1 }]);
    expect(result.classes[0]?.first).toMatchObject({ a: { step: at }, b: { step: at } });
    const back = await compared(removed, NPT);
    expect(classes(back)).toEqual([{ subject: 'set-spte', kind: 'only-b', change: '', count: 1 }]);
  });

  test('an event that was inserted', async () => {
    const row: RowCopy = [Obs.KVM_EVENT | (KvmEvent.GET_PAGE << KVM_EVENT_SHIFT), 0x77, 0, 0x12, 0];
    const inserted = rewritten(NPT, (step, ordinal) => (ordinal === at ? [step.with([row, ...step.rows])] : [step]));
    expect(classes(await compared(NPT, inserted))).toEqual([
      { subject: 'get-page', kind: 'only-b', change: '', count: 1 },
    ]);
  });

  test('an exit with its entry is one difference, with its events', async () => {
    const exit = (step: StepCopy, ordinal: number): boolean => step.kind === StepKind.FAULT_EXIT && ordinal === at;
    expect(rewritten(NPT, (step, ordinal) => (exit(step, ordinal) ? [step] : [])).chunks[0]?.stepCount).toBe(1);
    const removed = rewritten(NPT, (step, ordinal) => (ordinal === at || ordinal === at + 1 ? [] : [step]));
    const result = await compared(NPT, removed);
    expect(result.classes).toHaveLength(1);
    expect(result.classes[0]).toMatchObject({ kind: 'only-a', count: 1, companions: 1 });
    expect(result.classes[0]?.subject).toMatch(/^exit /);
    expect(result.classes[0]?.events).toBeGreaterThan(2);
  });

  test.each([100, 1000])('a long insertion is found again with a window of %i steps', async (window) => {
    const steps = window / 4;
    const inserted = rewritten(NPT, (step, ordinal) => {
      if (ordinal !== at) return [step];
      const stores = new StepBuilder();
      for (let i = 0; i < steps; i++) stores.step(StepKind.STORE | (8 << 7), 0x70_0000 + 8 * i, 0, i, 0);
      const columns = stores.take(NPT.chunks[0]!.registers);
      return [...Array.from({ length: steps }, (_, i) => copyOf(columns, i)), step];
    });
    const result = await compared(NPT, inserted, window);
    expect(classes(result)).toEqual([{ subject: 'store', kind: 'only-b', change: '', count: steps }]);
  });

  test('events in another order are told as moved', async () => {
    const split = nth(NPT, KvmEvent.PREPARE_ZAP_PAGE, 0);
    const swapped = rewritten(NPT, (step, ordinal) => {
      if (ordinal !== split) return [step];
      const zap = step.rows.filter((row) => isEvent(row, KvmEvent.PREPARE_ZAP_PAGE));
      return [step.with([...step.rows.filter((row) => !zap.includes(row)), ...zap])];
    });
    const found = classes(await compared(NPT, swapped));
    expect(found.map(({ kind }) => kind)).toEqual(found.map(() => 'moved'));
    expect(found.length).toBeGreaterThan(0);
  });
});

describe('fields', () => {
  test('bits of an SPTE by their names, guest entries by bits, levels by value', async () => {
    const event = (id: number, level: number): number =>
      Obs.KVM_EVENT | (id << KVM_EVENT_SHIFT) | (level << OBS_LEVEL_SHIFT);
    const make = (spte: number, pte: number): Recording => {
      const builder = new StepBuilder();
      builder.step(StepKind.VM_ENTRY, 0, 0, 0, 0);
      builder.observe(event(KvmEvent.TDP_SPTE_CHANGED, 1), 5, 0, 0, 0);
      builder.observe(Obs.KVM_MORE, 0, 0, spte, 0);
      builder.observe(event(KvmEvent.PAGING_ELEMENT, 2), 0, 0, pte, 0);
      return { header: NPT.header, chunks: [builder.take(NPT.chunks[0]!.registers)] };
    };
    const found = classes(await compared(make(0x29d_3e67, 0x1067), make(0x777_7e47, 0x1027)));
    expect(found).toEqual([
      { subject: 'tdp-spte-changed', kind: 'differs', change: 'new_spte: a 1 → 0 (bit 5)', count: 1 },
      { subject: 'paging-element', kind: 'differs', change: 'pte: bit 6 1 → 0', count: 1 },
    ]);
  });

  test('the removed entry of two kernels is one, though its value is another', async () => {
    const mmu = NPT.header.hypervisor!.mmu!;
    const newer: TraceHeader = {
      ...NPT.header,
      hypervisor: { ...NPT.header.hypervisor!, mmu: { ...mmu, profile: '7.3' } },
    };
    const make = (header: TraceHeader, lo: number, hi: number): Recording => {
      const builder = new StepBuilder();
      builder.step(StepKind.VM_ENTRY, 0, 0, 0, 0);
      builder.observe(
        Obs.KVM_EVENT | (KvmEvent.TDP_SPTE_CHANGED << KVM_EVENT_SHIFT) | (1 << OBS_LEVEL_SHIFT),
        5,
        0,
        0,
        0,
      );
      builder.observe(Obs.KVM_MORE, 0, 0, lo, hi);
      return { header, chunks: [builder.take(NPT.chunks[0]!.registers)] };
    };
    const result = await compared(make(NPT.header, 0x5a0, 0), make(newer, 0x1a0, 0x8000_0000));
    expect(classes(result)).toEqual([]);
  });
});

describe('vCPUs and segments', () => {
  const steps = (order: readonly number[]): Recording => {
    const builder = new StepBuilder();
    const at = [0, 0];
    let current = 0;
    for (const vcpu of order) {
      if (vcpu !== current) builder.step(StepKind.VCPU, 0, 0, vcpu, 0);
      current = vcpu;
      builder.step(StepKind.STORE | (8 << 7), 0x1000 * vcpu + 8 * at[vcpu]!++, 0, vcpu, 0);
    }
    return { header: NPT.header, chunks: [builder.take(NPT.chunks[0]!.registers)] };
  };

  test('vCPUs may take turns otherwise', async () => {
    const a = steps(Array.from({ length: 400 }, (_, i) => i % 2));
    const b = steps(Array.from({ length: 400 }, (_, i) => (i < 200 ? 0 : 1)));
    for (const window of [64, 1000]) {
      expect(classes(await compared(a, b, window)), `window ${window}`).toEqual([]);
    }
    // Farther apart than what may wait: told as it is, and to the end.
    const { steps: counts } = await compared(a, b, 16);
    expect([counts.both + counts.onlyA, counts.both + counts.onlyB]).toEqual([400, 400]);
  });

  test('a segment that only one trace has is told step by step', async () => {
    const comparison = new TracesComparison();
    const a = steps([0, 0, 1]);
    await comparison.segment(sourceOf(a), sourceOf(a), async () => undefined);
    await comparison.segment(sourceOf(a), undefined, async () => undefined);
    const result = comparison.result();
    expect(result.segments).toEqual({ a: 2, b: 1 });
    expect(classes(result)).toEqual([{ subject: 'store', kind: 'only-a', change: '', count: 3 }]);
    expect(result.classes[0]?.first.segment).toBe(1);
  });

  test('registers at the beginning', async () => {
    const a = steps([0]);
    const registers = a.chunks[0]!.registers.slice();
    registers[0]! ^= 1;
    const b = { ...a, chunks: [{ ...a.chunks[0]!, registers }] };
    expect(classes(await compared(a, b))).toMatchObject([{ subject: expect.stringMatching(/at the beginning$/) }]);
  });
});
