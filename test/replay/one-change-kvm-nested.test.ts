/**
 * A replay of a guest that is a hypervisor cannot pass wrongly: whatever one thing is changed in a recording of KVM is
 * found at its step, in each kind of step, while L1 runs and while L2 does. What is not compared is listed here.
 */

import { afterEach, describe, expect, test, vi } from 'vitest';
import { isHostEvent, KVM_EVENT_NAMES, KvmEvent } from '../../src/formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../../src/formats/kvm-event-fields.ts';
import { OBS_EXCEPTION_EXITS, OBS_KIND_MASK, OBS_VECTOR_SHIFT, Obs } from '../../src/formats/observation.ts';
import { Reg } from '../../src/formats/registers.ts';
import {
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  Invalidation,
  STEP_KIND_MASK,
  STEP_KIND_NAMES,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  StepKind,
} from '../../src/formats/step.ts';
import { FieldCounter } from '../../src/replay/event-counters.ts';
import type { ReplayResult } from '../../src/replay/result.ts';
import type { StepColumns } from '../../src/trace/columns.ts';
import { changedColumns, firstSteps, withRows } from './edited-columns.ts';
import {
  ascending,
  counterOf,
  edit,
  flip,
  isFrameBit,
  nameOf,
  read,
  replay,
  rounds,
  rowsOf,
  type Seen,
  stepOfRow,
  watch,
} from './watched-events.ts';

afterEach(() => vi.restoreAllMocks());

/** On two-dimensional and on shadow paging; the last has no A and D bits in the host's EPT. */
const RECORDINGS = ['c_nest_np1', 'c_nest_np0_npt0', 'nest_ept', 'nest_ept0', 'nest_ept_noad'] as const;

/** Events of each class whose every bit is turned over. */
const EVENTS_PER_CLASS = Number(process.env['REWALK_EVENTS_PER_CLASS'] ?? 12);
/** Replays with a change in many steps; unless told how many, one, in every fourth step. */
const SWEEPS = Number(process.env['REWALK_SWEEPS'] ?? 1);
const SWEEP_STRIDE = process.env['REWALK_SWEEPS'] === undefined ? 4 : 1;
/** Replays with a change in one event of every class: what finds no step of its own in so many is left out. */
const ROUNDS = Number(process.env['REWALK_ROUNDS'] ?? 1);

function kindOfStep(columns: StepColumns, step: number): number {
  return columns.op[step]! & STEP_KIND_MASK;
}

function registerOf(columns: StepColumns, step: number): number {
  return (columns.op[step]! >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
}

/** Whether L2 runs, by step. */
function runsL2(columns: StepColumns): boolean[] {
  let mode = 0;
  return Array.from({ length: columns.stepCount }, (_, step) => {
    if (kindOfStep(columns, step) === StepKind.REGISTER_SET && registerOf(columns, step) === Reg.GUEST_MODE) {
      mode = columns.operand[2 * step]!;
    }
    return mode !== 0;
  });
}

/** Interruption information of VMX: what of it says which fault it is. */
const FAULT_BITS = 0x8000_0fff;
const HAS_ERROR_CODE = 1 << 11;

/**
 * Bits that no replay compares, and why: IDT vectoring and EXITINTINFO tell of events under delivery, which the MMU has no
 * part in; of an exit that the MMU did not raise, a step holds the reason and one operand.
 */
function notCompared(
  columns: StepColumns,
  intel: boolean,
  { event, step, row }: Seen,
  { name }: KvmField,
  bit: number,
): boolean {
  if (event !== KvmEvent.NESTED_VMEXIT && event !== KvmEvent.NESTED_VMEXIT_INJECT) return false;
  const ofMmu = kindOfStep(columns, step) !== StepKind.NESTED_EXIT;
  const information = columns.observationValue[2 * (row + 1)]!;
  switch (name) {
    case 'info2':
    case 'exit_info2':
      return intel || !ofMmu;
    case 'exit_int_info':
      return !intel || !ofMmu || ((FAULT_BITS >>> bit) & 1) === 0;
    case 'exit_int_info_err':
      return !intel || !ofMmu || (information & HAS_ERROR_CODE) === 0;
    default:
      return false;
  }
}

/** Classes whose events were changed in an earlier recording of the same vendor and kind of paging. */
const covered = new Set<string>();

interface Change {
  readonly key: string;
  readonly index: number;
  readonly field: KvmField;
  readonly bit: number;
}

/** A random number below `bound`, the same in every run. */
function generator(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

describe.each(RECORDINGS)('%s', (name) => {
  const recording = read(name);
  const { columns } = recording;
  const { vendor, tdp } = recording.header.hypervisor!.mmu!;
  const intel = vendor === 'intel';
  const inL2 = runsL2(columns);
  const placeOf = (step: number): string =>
    `${STEP_KIND_NAMES[kindOfStep(columns, step)]}${inL2[step] === true ? ' of L2' : ''}`;
  const classOf = (event: number, row: number): string =>
    `${placeOf(stepOfRow(columns, row))}: ${KVM_EVENT_NAMES[event]}`;
  const { seen, result: unchanged } = watch(recording, EVENTS_PER_CLASS, classOf);
  const known = new Set(recording.expectations.flatMap(({ steps = [] }) => steps));
  const byClass = new Map<string, Seen[]>();
  for (const each of seen) {
    if (known.has(each.step)) continue;
    const key = classOf(each.event, each.row);
    const found = byClass.get(key);
    if (found === undefined) byClass.set(key, [each]);
    else found.push(each);
  }
  // The rarest first: they have the fewest steps to choose from.
  const classes = [...byClass.keys()].sort((a, b) => byClass.get(a)!.length - byClass.get(b)!.length);
  const fresh = classes.filter((key) => !covered.has(`${vendor} ${tdp} ${key}`));
  for (const key of fresh) covered.add(`${vendor} ${tdp} ${key}`);
  const isRepetition = fresh.length < classes.length / 4;
  const ofClass = (key: string): readonly Seen[] => byClass.get(key)!;
  const next = new Map(seen.map((event) => [event.row, event]));
  const expectDiverged = (changed: StepColumns, steps: Iterable<number>): ReplayResult => {
    const result = replay(recording, changed, { maxDiffs: Number.POSITIVE_INFINITY });
    expect(result.divergences.map(({ step }) => step)).toEqual(ascending(steps));
    return result;
  };
  const firstDiverged = (change: (copy: StepColumns) => void): number | undefined =>
    replay(recording, changedColumns(columns, change), { bail: true }).divergences[0]?.step;

  test('as it is matches, with nothing that the machine does not model', () => {
    const { diverged, undetermined, notModelled } = unchanged.receipt;
    expect([unchanged.verdict, diverged, undetermined, notModelled]).toEqual(['match', 0, 0, {}]);
  });

  test('all events of nesting are there, and both L1 and L2 have faults and walks', () => {
    const events = new Set(seen.map(({ event }) => event));
    const nesting = [KvmEvent.NESTED_VMENTER, KvmEvent.NESTED_VMEXIT, KvmEvent.NESTED_VMEXIT_INJECT];
    const wanted = [...nesting, ...(intel ? [] : [KvmEvent.NESTED_INTERCEPTS, KvmEvent.INVLPGA])];
    expect(wanted.filter((event) => !events.has(event))).toEqual([]);
    for (const place of ['fault-exit', 'software-walk', 'vm-entry', 'nested-entry', 'nested-exit']) {
      expect([place, classes.some((key) => key.startsWith(`${place} of L2: `))]).toEqual([place, true]);
    }
    expect(classes.some((key) => key.startsWith('fault-exit: '))).toBe(true);
  });

  test('of every class of events every bit counts, but for frames at first sight and what is not compared', () => {
    const holes = seen.flatMap((each) =>
      each.unnoticed.flatMap(({ index, bit }) => {
        const field = KVM_EVENT_FIELDS[each.event]![index]!;
        const firstSight = isFrameBit(field, bit) && counterOf(each, index, field, bit) === FieldCounter.LEARNED;
        if (firstSight || notCompared(columns, intel, each, field, bit)) return [];
        return `step ${each.step} ${placeOf(each.step)}: ${nameOf(each.event, field, bit)} bit ${bit}`;
      }),
    );
    expect(holes).toEqual([]);
  });

  test('a field that is changed diverges at its step, and nothing else does', () => {
    const changes = fresh.flatMap((key): Change[] =>
      KVM_EVENT_FIELDS[ofClass(key)[0]!.event]!.flatMap((field, index) =>
        ascending([field.low, field.low + field.width - 1]).map((bit) => ({ key, index, field, bit })),
      ),
    );
    const candidates = ({ key, field, bit }: Change): Seen[] =>
      ofClass(key).filter(
        (each) => !isHostEvent(each.event) && !isFrameBit(field, bit) && !notCompared(columns, intel, each, field, bit),
      );
    for (const round of rounds(changes, candidates).slice(0, 2 * ROUNDS)) {
      const changed = changedColumns(columns, (copy) => {
        for (const [{ field, bit }, { row }] of round) flip(copy, row, field, bit);
      });
      const steps = [...round.values()].map(({ step }) => step);
      expectDiverged(changed, steps);
    }
  });

  test('another host frame under a name that is bound diverges at its step', () => {
    const changes = fresh.flatMap((key): Change[] =>
      KVM_EVENT_FIELDS[ofClass(key)[0]!.event]!.flatMap((field, index) => {
        const bit = [0, 12].find((each) => isFrameBit(field, each));
        return bit === undefined ? [] : [{ key, index, field, bit }];
      }),
    );
    const isBound = (each: Seen, { index, field, bit }: Change): boolean =>
      (field.kind === 'spte' ? each.frameCounter[index] : counterOf(each, index, field, bit)) === FieldCounter.RENAMED;
    // A replay each, up to the change: of each kind of field once, where it comes first.
    const first = new Map<string, { readonly change: Change; readonly step: number; readonly row: number }>();
    for (const change of changes) {
      const found = ofClass(change.key).find((each) => isBound(each, change));
      if (found === undefined || found.step >= (first.get(change.field.name)?.step ?? Number.POSITIVE_INFINITY))
        continue;
      first.set(change.field.name, { change, step: found.step, row: found.row });
    }
    for (const { change, step, row } of first.values()) {
      const { field, bit } = change;
      const changed = changedColumns(columns, (copy) => flip(copy, row, field, bit));
      const { divergences } = replay(recording, firstSteps(changed, step + 1), { bail: true });
      expect(divergences.map((each) => each.step)).toEqual([step]);
      expect(divergences[0]!.group).toContain(`wrong frame in ${field.name}`);
    }
    if (fresh.length === classes.length) expect(first.size).toBeGreaterThan(2);
  });

  /** Every class that is new once, in as few replays as keep the steps apart; changes `make` to the rows of its event. */
  const inEveryClass = (
    candidates: (key: string) => readonly Seen[],
    make: (edits: Map<number, readonly number[]>, event: Seen) => void,
  ): void => {
    for (const round of rounds(fresh, candidates).slice(0, ROUNDS)) {
      const edits = new Map<number, readonly number[]>();
      for (const event of round.values()) make(edits, event);
      const steps = [...round.values()].map(({ step }) => step);
      expectDiverged(withRows(columns, edits), steps);
    }
  };
  const ofGuest = (key: string): readonly Seen[] => ofClass(key).filter(({ event }) => !isHostEvent(event));

  test('an event that is left out diverges at its step, and nothing else does', () => {
    inEveryClass(ofClass, (edits, event) => edit(edits, event, []));
  });

  test('an event that is there twice diverges at its step, and nothing else does', () => {
    inEveryClass(ofGuest, (edits, event) => edit(edits, event, [...rowsOf(event), ...rowsOf(event)]));
  });

  const sameText = (a: Seen, b: Seen): boolean => {
    const text = (event: Seen): string =>
      rowsOf(event)
        .map((row) => [
          columns.observationOp[row],
          ...columns.observationAddress.subarray(2 * row, 2 * row + 2),
          ...columns.observationValue.subarray(2 * row, 2 * row + 2),
        ])
        .join();
    return text(a) === text(b);
  };
  const neighbour = (event: Seen): Seen | undefined => {
    const after = next.get(event.end);
    return after?.step === event.step && !sameText(event, after) ? after : undefined;
  };

  test('two events that change places diverge at their step, and nothing else does', () => {
    inEveryClass(
      (key) => ofClass(key).filter((event) => neighbour(event) !== undefined),
      (edits, event) => {
        const after = neighbour(event)!;
        edit(edits, event, rowsOf(after));
        edit(edits, after, rowsOf(event));
      },
    );
  });

  test.skipIf(isRepetition)('one change in each of many steps: all of them diverge, and nothing else does', () => {
    const byStep = new Map<number, Seen[]>();
    for (const each of seen) {
      if (known.has(each.step) || isHostEvent(each.event)) continue;
      const found = byStep.get(each.step);
      if (found === undefined) byStep.set(each.step, [each]);
      else found.push(each);
    }
    for (let sweep = 0; sweep < SWEEPS; sweep++) {
      const random = generator(sweep + 1);
      const edits = new Map<number, readonly number[]>();
      const flips: (() => [event: Seen, field: KvmField, bit: number])[] = [];
      const steps = [...byStep.keys()].filter((_, i) => (i + sweep) % SWEEP_STRIDE === 0);
      for (const step of steps) {
        const events = byStep.get(step)!;
        const event = events[random(events.length)]!;
        const after = neighbour(event);
        const choice = random(4);
        if (choice === 0) edit(edits, event, []);
        else if (choice === 1) edit(edits, event, [...rowsOf(event), ...rowsOf(event)]);
        else if (choice === 2 && after !== undefined && !isHostEvent(after.event)) {
          edit(edits, event, rowsOf(after));
          edit(edits, after, rowsOf(event));
        } else {
          const bits = KVM_EVENT_FIELDS[event.event]!.flatMap((field) =>
            Array.from({ length: field.width }, (_, i): [KvmField, number] => [field, field.low + i]).filter(
              ([, bit]) => !isFrameBit(field, bit) && !notCompared(columns, intel, event, field, bit),
            ),
          );
          const [field, bit] = bits[random(bits.length)]!;
          flips.push(() => [event, field, bit]);
        }
      }
      const flipped = changedColumns(columns, (copy) => {
        for (const each of flips) {
          const [{ row }, field, bit] = each();
          flip(copy, row, field, bit);
        }
      });
      expectDiverged(withRows(flipped, edits), steps);
    }
  });

  test.skipIf(isRepetition)('how an access of the processor ended is compared', () => {
    const accesses = [...columns.op.keys()].filter((step) => {
      const begin = step === 0 ? 0 : columns.observationEnd[step - 1]!;
      return kindOfStep(columns, step) === StepKind.ACCESS && columns.observationEnd[step]! > begin && !known.has(step);
    });
    expect(accesses.every((step) => inL2[step])).toBe(true);
    expect(accesses.length).toBeGreaterThan(100);
    // What may be changed in an exception: whether L1 gets it, the vector, CR2, the error code.
    const ways = [
      (copy: StepColumns, row: number) => (copy.observationOp[row]! ^= OBS_EXCEPTION_EXITS),
      (copy: StepColumns, row: number) => (copy.observationOp[row]! ^= 1 << OBS_VECTOR_SHIFT),
      (copy: StepColumns, row: number) => (copy.observationAddress[2 * row]! ^= 8),
      (copy: StepColumns, row: number) => (copy.observationAddress[2 * row + 1]! ^= 1 << 31),
      (copy: StepColumns, row: number) => (copy.observationValue[2 * row]! ^= 1),
      (copy: StepColumns, row: number) => (copy.observationValue[2 * row]! ^= 1 << 4),
    ];
    const changed = changedColumns(columns, (copy) => {
      accesses.forEach((step, i) => {
        const row = columns.observationEnd[step]! - 1;
        if ((columns.observationOp[row]! & OBS_KIND_MASK) === Obs.COMPLETED) copy.observationOp[row] = Obs.FAULTED;
        else ways[i % ways.length]!(copy, row);
      });
    });
    expectDiverged(changed, accesses);
  });

  const stepsOf = (kind: number, is: (step: number) => boolean = () => true): number[] =>
    [...columns.op.keys()].filter((step) => kindOfStep(columns, step) === kind && is(step));
  const setsOf = (register: number): number[] =>
    stepsOf(StepKind.REGISTER_SET, (step) => registerOf(columns, step) === register);

  test.skipIf(isRepetition)("another root of L2's diverges at the entry", () => {
    const root =
      !tdp || !classes.includes('fault-exit of L2: nested-vmexit-inject') ? Reg.CR3 : intel ? Reg.EPTP : Reg.NCR3;
    const sets = setsOf(root).filter((step) => root !== Reg.CR3 || !inL2[step]);
    const step = sets[sets.length >>> 1]!;
    const entry = stepsOf(StepKind.NESTED_ENTRY).find((each) => each > step);
    expect(firstDiverged(({ operand }) => (operand[2 * step]! ^= 0x1000))).toBe(entry);
  });

  test.skipIf(isRepetition)("L1's controls that are changed diverge before L2 has left twice", () => {
    const changes: readonly [register: number, bit: number][] = tdp
      ? intel
        ? []
        : [
            [Reg.HOST_CR4, 1 << 20],
            [Reg.HOST_EFER, 1 << 11],
            [Reg.NESTED_CONTROL, 1],
          ]
      : [[Reg.EXCEPTION_BITMAP, 1 << 14]];
    const exits = stepsOf(StepKind.NESTED_EXIT);
    for (const [register, bit] of changes) {
      const step = setsOf(register).at(-1)!;
      const first = firstDiverged(({ operand }) => (operand[2 * step]! ^= bit))!;
      const end = exits.filter((each) => each > step)[register === Reg.EXCEPTION_BITMAP ? 20 : 1]!;
      expect([register, first > step, first < end]).toEqual([register, true, true]);
    }
  });

  test.skipIf(isRepetition)(
    'an entry that is left out diverges at its step, and so does an exit that the MMU did not raise',
    () => {
      const note = columns.stimuli.length;
      const stimuli = [...columns.stimuli, { kind: 'note', text: '' } as const];
      const without = (steps: readonly number[]): number | undefined => {
        const changed = changedColumns({ ...columns, stimuli }, (copy) => {
          for (const step of steps) {
            copy.op[step] = StepKind.RARE;
            copy.operand[2 * step] = note;
          }
        });
        return replay(recording, changed, { bail: true }).divergences[0]?.step;
      };
      const hasRows = (step: number): boolean => columns.observationEnd[step]! > columns.observationEnd[step - 1]!;
      for (const steps of [stepsOf(StepKind.NESTED_ENTRY), stepsOf(StepKind.NESTED_EXIT, hasRows)]) {
        const step = steps[steps.length >>> 1]!;
        expect(without([step])).toBe(step);
      }
      // Where KVM has shadow pages of the tables, L1's or L2's, its invalidations are of account.
      const kinds = tdp
        ? intel
          ? [Invalidation.INVEPT, Invalidation.EPTP_SWITCH]
          : [Invalidation.INVLPGA]
        : [Invalidation.INVLPG, intel ? Invalidation.INVVPID : Invalidation.INVLPGA];
      for (const kind of kinds) {
        const all = stepsOf(
          StepKind.INVALIDATE,
          (step) => ((columns.op[step]! >>> INVALIDATION_SHIFT) & INVALIDATION_MASK) === kind,
        );
        const first = without(all);
        expect([kind, all.length > 0, first !== undefined && first >= all[0]!]).toEqual([kind, true, true]);
      }
    },
  );

  test.skipIf(isRepetition)(
    "tables of L1's and L2's that are changed as they are written diverge where they are used",
    () => {
      // With two-dimensional paging L2's own tables are read by the processor, of which a recording says little.
      const stores = stepsOf(
        StepKind.STORE,
        (step) => (columns.op[step]! & STORE_KNOWLEDGE) === 0 && (!tdp || !inL2[step]),
      );
      const noticed = Array.from({ length: 3 }, (_, i) => {
        const step = stores[Math.floor(((i + 0.5) * stores.length) / 3)]!;
        const first = firstDiverged(({ operand }) => (operand[2 * step]! ^= 2));
        if (first !== undefined) expect(first).toBeGreaterThanOrEqual(step);
        return first !== undefined;
      });
      expect(noticed).toContain(true);
    },
  );
});
