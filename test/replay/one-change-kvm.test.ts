/**
 * A replay of KVM's events cannot pass wrongly: whatever one thing is changed in a recording of KVM is found, at its
 * step. What may change unnoticed is listed here, and is counted as what it is: learned at first sight, or the host's.
 */

import { afterEach, describe, expect, test, vi } from 'vitest';
import { isHostEvent, KVM_EVENT_NAMES, KvmEvent, kvmEventOf } from '../../src/formats/kvm-event.ts';
import { KVM_EVENT_FIELDS } from '../../src/formats/kvm-event-fields.ts';
import { Reg } from '../../src/formats/registers.ts';
import {
  HOST_PAGE_MASK,
  HOST_PAGE_SHIFT,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  StepKind,
} from '../../src/formats/step.ts';
import { ROW, ROW_ADDRESS_LO } from '../../src/paging/row-log.ts';
import { FieldCounter } from '../../src/replay/event-counters.ts';
import { EventMatcher } from '../../src/replay/event-match.ts';
import type { Expectation } from '../../src/replay/expectations.ts';
import type { ReplayResult } from '../../src/replay/result.ts';
import type { ReplayOptions } from '../../src/replay/session.ts';
import type { StepColumns } from '../../src/trace/columns.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';
import { changedColumns, firstSteps, withRows } from './edited-columns.ts';
import {
  ascending,
  type Change,
  changesOf,
  counterOf,
  edit,
  flip,
  isFrame,
  isFrameBit,
  nameOf,
  type Recording,
  read,
  replay,
  rounds,
  rowsOf,
  type Seen,
  stepOfRow,
  watch,
} from './watched-events.ts';

afterEach(() => vi.restoreAllMocks());

/** Recordings, and the fields that hold nothing there but frames which are seen once: nothing can be said against them. */
const RECORDINGS: readonly [name: string, onceSeen: readonly string[]][] = [
  ['b_pse_npt0', ['mark-mmio-spte sptep']],
  ['ept1_pse', []],
  ['a_npt1_notdpmmu', []],
  ['ept1_noad_g64', []],
];

/** Kinds of events that were changed in an earlier recording; the first two are changed in all that they have. */
const covered = new Set<number>();

const { takeRecorded, takeReplayed } = EventMatcher.prototype;

describe.each(RECORDINGS)('%s', (name, onceSeen) => {
  const recording = read(name);
  const { columns } = recording;
  if (name === 'ept1_pse') covered.clear();
  const { seen, result: unchanged } = watch(recording, 200);
  const kinds = ascending(seen.map(({ event }) => event)).filter((event) => !covered.has(event));
  for (const event of kinds) covered.add(event);
  const known = new Set(recording.expectations.flatMap(({ steps = [] }) => steps));
  const ofKind = (event: number): Seen[] => seen.filter((each) => each.event === event && !known.has(each.step));
  /** These steps diverge, and no others. */
  const expectDiverged = (changed: StepColumns, steps: Iterable<number>): ReplayResult => {
    const result = replay(recording, changed, { maxDiffs: Number.POSITIVE_INFINITY });
    expect(result.divergences.map(({ step }) => step)).toEqual(ascending(steps));
    return result;
  };

  test('as it is matches', () => {
    expect([unchanged.verdict, unchanged.receipt.diverged, unchanged.receipt.undetermined]).toEqual(['match', 0, 0]);
  });

  test('of every event every bit counts, but for those of host frames where they are first seen', () => {
    const holes = seen.flatMap((each) =>
      each.unnoticed.flatMap(({ index, bit }) => {
        const field = KVM_EVENT_FIELDS[each.event]![index]!;
        const firstSight = counterOf(each, index, field, bit) === FieldCounter.LEARNED;
        return isFrameBit(field, bit) && firstSight
          ? []
          : `step ${each.step} ${nameOf(each.event, field, bit)} bit ${bit}`;
      }),
    );
    expect(holes).toEqual([]);
  });

  const changes = changesOf(kinds);
  const places = rounds(changes, ({ event, field, index, bit }) =>
    ofKind(event).filter((each) => {
      const holdsFrame = field.kind !== 'spte' || each.frameCounter[index] !== undefined;
      if (isFrameBit(field, bit) && !holdsFrame) return false;
      return counterOf(each, index, field, bit) !== FieldCounter.LEARNED;
    }),
  );

  test('every field of every kind of event is predicted somewhere, but for frames that are seen once', () => {
    const placed = new Set(places.flatMap((round) => [...round.keys()]));
    const holdsFrame = ({ event, field, index }: Change): boolean =>
      field.kind !== 'spte' || ofKind(event).some(({ frameCounter }) => frameCounter[index] !== undefined);
    const never = changes.filter((change) => !placed.has(change) && (!isFrame(change) || holdsFrame(change)));
    expect([...new Set(never.map(({ event, field, bit }) => nameOf(event, field, bit)))]).toEqual(onceSeen);
  });

  test('a field that is changed diverges at its step, and nothing else does', () => {
    for (const round of places) {
      const plain = [...round].filter(([change]) => !isFrame(change));
      const changed = changedColumns(columns, (copy) => {
        for (const [{ field, bit }, { row }] of plain) flip(copy, row, field, bit);
      });
      expectDiverged(
        changed,
        plain.map(([, { step }]) => step),
      );
    }
  });

  test('another host frame under a name that is bound diverges at its step', () => {
    for (const [change, { step, row }] of places.flatMap((round) => [...round])) {
      if (!isFrame(change)) continue;
      const changed = changedColumns(columns, (copy) => flip(copy, row, change.field, change.bit));
      const { verdict, divergences } = replay(recording, firstSteps(changed, step + 1), { bail: true });
      expect([verdict, divergences.map((each) => each.step)]).toEqual(['diverged', [step]]);
      expect(divergences[0]!.group).toContain(`wrong frame in ${change.field.name}`);
    }
  });

  test('an event that is left out diverges at its step, and nothing else does', () => {
    for (const round of rounds(kinds, ofKind)) {
      const edits = new Map<number, readonly number[]>();
      for (const event of round.values()) edit(edits, event, []);
      expectDiverged(
        withRows(columns, edits),
        [...round.values()].map(({ step }) => step),
      );
    }
  });

  test('an event that is there twice diverges at its step; of the host it is counted as not replayed', () => {
    for (const round of rounds(kinds, ofKind)) {
      const edits = new Map<number, readonly number[]>();
      for (const event of round.values()) edit(edits, event, [...rowsOf(event), ...rowsOf(event)]);
      const changed = withRows(columns, edits);
      const others = [...round].filter(([kind]) => !isHostEvent(kind));
      const { events } = expectDiverged(
        changed,
        others.map(([, { step }]) => step),
      ).receipt;
      const unanswered = events.flatMap((each) => (each.unanswered > 0 ? [[each.event, each.unanswered]] : []));
      const hosts = [...round.keys()].filter(isHostEvent);
      expect(unanswered).toEqual(hosts.map((kind) => [KVM_EVENT_NAMES[kind], 1]));
    }
  });

  test('two events that change places diverge at their step, and nothing else does', () => {
    const text = (event: Seen): string =>
      rowsOf(event)
        .map((row) => [
          columns.observationOp[row],
          ...columns.observationAddress.subarray(2 * row, 2 * row + 2),
          ...columns.observationValue.subarray(2 * row, 2 * row + 2),
        ])
        .join();
    const next = new Map(seen.map((event) => [event.row, event]));
    const neighbour = (event: Seen): Seen | undefined => {
      const after = next.get(event.end);
      return after?.step === event.step && text(after) !== text(event) ? after : undefined;
    };
    const withNeighbour = (kind: number): Seen[] => ofKind(kind).filter((event) => neighbour(event) !== undefined);
    for (const round of rounds(kinds, withNeighbour)) {
      const edits = new Map<number, readonly number[]>();
      for (const event of round.values()) {
        const after = neighbour(event)!;
        edit(edits, event, rowsOf(after));
        edit(edits, after, rowsOf(event));
      }
      expectDiverged(
        withRows(columns, edits),
        [...round.values()].map(({ step }) => step),
      );
    }
  });

  test('further fields without their event, or too few or too many of them, diverge', () => {
    const [places] = rounds([0, 1, 2], () => ofKind(KvmEvent.SET_SPTE));
    const [first, second, third] = [...places!.values()] as [Seen, Seen, Seen];
    const steps = [first.step, second.step, third.step];
    const bare = ofKind(KvmEvent.GET_PAGE).findLast(({ step }) => !steps.includes(step))!;
    const more = first.row + 1;
    const edits = new Map<number, readonly number[]>();
    edit(edits, first, [first.row]);
    edit(edits, second, [...rowsOf(second), more]);
    edit(edits, third, [more, ...rowsOf(third)]);
    edit(edits, bare, [bare.row, more]);
    expectDiverged(withRows(columns, edits), [...steps, bare.step]);
  });

  test('a step all of whose events are left out diverges, whatever its kind', () => {
    const byKind = new Map<number, number>();
    for (const { step } of seen) byKind.set(columns.op[step]! & STEP_KIND_MASK, step);
    expect(byKind.size).toBeGreaterThan(3);
    const gone = new Set(byKind.values());
    const edits = new Map(seen.flatMap((event) => (gone.has(event.step) ? rowsOf(event) : [])).map((row) => [row, []]));
    expectDiverged(withRows(columns, edits), gone);
  });

  test('the counters of each kind are those of all fields of the events that were equal', () => {
    for (const count of unchanged.receipt.events) {
      const event = KVM_EVENT_NAMES.indexOf(count.event);
      const fields = KVM_EVENT_FIELDS[event]!;
      for (const { name: field } of fields) {
        const found = count.fields.find((each) => each.field === field)!;
        expect(found.predicted + found.renamed + found.learned + found.input).toBe(count.events);
      }
      const equal = seen.filter((each) => each.event === event);
      const total = count.predicted + count.renamed + count.learned + count.input;
      // Some stand in a step that is expected to differ, and were not taken down one by one.
      if (equal.length === count.events) {
        const told = equal.map(({ counter, frameCounter }) => [
          ...counter,
          ...frameCounter.filter((each) => each !== undefined),
        ]);
        const notPredicted: number[] = [FieldCounter.LEARNED, FieldCounter.INPUT];
        expect(total).toBe(told.flat().length);
        expect(count.whollyPredicted).toBe(
          told.filter((each) => !each.some((one) => notPredicted.includes(one))).length,
        );
      }
      if (isHostEvent(event)) {
        expect([count.predicted, count.renamed, count.learned, count.whollyPredicted]).toEqual([0, 0, 0, 0]);
      }
    }
    const { receipt } = unchanged;
    const sum = (counts: readonly { readonly whollyPredicted: number }[]): number =>
      counts.reduce((total, { whollyPredicted }) => total + whollyPredicted, 0);
    expect(receipt.observationsPredicted).toBe(sum(receipt.counts) + sum(receipt.events));
  });

  test('a part of it, chosen by ordinal or otherwise, matches, and all of it is accounted for', () => {
    const last = columns.stepCount;
    const parts: ReplayOptions[] = [
      { from: Math.floor(last / 2) },
      { from: Math.floor(last / 4), to: Math.floor(last / 2), filter: (_, index) => index % 3 === 1 },
      { filter: ({ op }, index) => (op[index]! & STEP_KIND_MASK) === StepKind.FAULT_EXIT },
    ];
    const observed = (result: ReplayResult): number => {
      const { skipped, expected, diverged } = result.receipt;
      const left = (skipped['outside --from and --to'] ?? 0) + (skipped['left out by --filter'] ?? 0);
      return left + diverged + Object.values(expected).reduce((total, count) => total + count, 0);
    };
    for (const part of parts) {
      const result = replay(recording, columns, part);
      expect([result.verdict, result.receipt.diverged]).toEqual(['match', 0]);
      expect(result.receipt.observationsPredicted).toBeLessThan(unchanged.receipt.observationsPredicted);
      expect(observed(result)).toBeGreaterThan(0);
    }
    expect(replay(recording, columns, { to: 0 }).verdict).toBe('nothing-compared');
    const hosts = new Set(seen.filter(({ event }) => isHostEvent(event)).map(({ step }) => step));
    const onlyHosts = [...hosts].filter((step) => seen.every((each) => each.step !== step || isHostEvent(each.event)));
    expect(onlyHosts.length).toBeGreaterThan(0);
    const ofHost = replay(recording, columns, { filter: (_, index) => onlyHosts.includes(index) });
    expect([ofHost.verdict, ofHost.receipt.observationsPredicted]).toEqual(['nothing-compared', 0]);
    expect(ofHost.receipt.events.every(({ input, events }) => events > 0 && input > 0)).toBe(true);
  });

  /** Ordinals of steps of a kind with events, but for those that are expected to differ. */
  const stepsOf = (kind: number): number[] =>
    ascending(seen.map(({ step }) => step)).filter(
      (step) => (columns.op[step]! & STEP_KIND_MASK) === kind && !known.has(step),
    );
  const middleOf = (steps: readonly number[]): number => steps[steps.length >>> 1]!;
  /** The first step that diverges once `change` is made. */
  const firstDiverged = (change: (copy: StepColumns) => void): number | undefined =>
    replay(recording, changedColumns(columns, change), { bail: true }).divergences[0]?.step;

  test('a stimulus that is changed diverges at its step', () => {
    const faults = middleOf(stepsOf(StepKind.FAULT_EXIT));
    const walks = middleOf(stepsOf(StepKind.SOFTWARE_WALK));
    const changed = [
      firstDiverged(({ address }) => (address[2 * faults]! ^= 0x1000)),
      firstDiverged(({ operand }) => (operand[2 * faults]! ^= 2)),
      firstDiverged(({ address }) => (address[2 * walks]! ^= 0x1000)),
      firstDiverged(({ operand }) => (operand[2 * walks]! ^= 2)),
    ];
    expect(changed).toEqual([faults, faults, walks, walks]);
  });

  test('a stored entry that is changed diverges where a walk reads it', () => {
    const { step, read: reader } = storeAndReader(recording, known);
    const first = firstDiverged(({ operand }) => (operand[2 * step]! ^= 2));
    // With TDP nobody looks at the guest's stores.
    if (recording.header.hypervisor!.mmu!.tdp) expect(first).toBe(reader);
    else expect([first! >= step, first! <= reader]).toEqual([true, true]);
  });

  test.each([
    ['CR0.WP', Reg.CR0, 1 << 16],
    ['CR3', Reg.CR3, 1 << 12],
    ['CR4.SMEP', Reg.CR4, 1 << 20],
  ])('%s changed in a write diverges before the next write', (_, register, bit) => {
    const writes = [...columns.op.keys()].filter(
      (step) =>
        (columns.op[step]! & STEP_KIND_MASK) === StepKind.REGISTER_WRITE &&
        ((columns.op[step]! >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK) === register,
    );
    const step = middleOf(writes);
    const first = firstDiverged(({ operand }) => (operand[2 * step]! ^= bit));
    const next = writes[writes.indexOf(step) + 1] ?? columns.stepCount;
    expect([first! > step, first! < next]).toEqual([true, true]);
  });

  test('another kind of page of the host diverges where it is mapped', () => {
    const step = [...columns.op.keys()].filter(
      (each) => (columns.op[each]! & STEP_KIND_MASK) === StepKind.HOST_PAGES,
    )[1]!;
    expect(firstDiverged(({ op }) => (op[step]! ^= HOST_PAGE_MASK << HOST_PAGE_SHIFT))).toBeGreaterThan(step);
  });

  test('a call of the VMM that is left out diverges; of the notifier its event is counted as not replayed', () => {
    const rare = [...columns.op.keys()].filter((step) => (columns.op[step]! & STEP_KIND_MASK) === StepKind.RARE);
    const without = (kind: Stimulus['kind']): [number, ReplayResult] => {
      const index = columns.stimuli.findLastIndex((stimulus) => stimulus.kind === kind);
      const stimuli = columns.stimuli.with(index, { kind: 'note', text: '' });
      return [rare[index]!, replay(recording, { ...columns, stimuli }, { bail: kind !== 'notifier' })];
    };
    for (const kind of ['memslot', 'dirty-log', 'hypervisor'] as const) {
      const [step, { verdict, divergences }] = without(kind);
      expect([kind, verdict]).toEqual([kind, 'diverged']);
      expect(divergences[0]!.step).toBeGreaterThanOrEqual(step);
    }
    const [, { receipt }] = without('notifier');
    const unanswered = receipt.events.reduce((sum, each) => sum + each.unanswered, 0);
    expect(unanswered).toBe(1);
  });

  test('an expectation covers its steps only, and only what it says', () => {
    const { expectations } = recording;
    if (expectations.length === 0) return;
    const verdictWith = (change: (each: Expectation) => Expectation): [string, number, number] => {
      const changed = { ...recording, expectations: expectations.map(change) };
      const { verdict, receipt } = replay(changed);
      return [verdict, receipt.diverged, receipt.brokenExpectations.length];
    };
    const count = expectations.reduce((sum, each) => sum + each.count, 0);
    const all = expectations.length;
    expect(verdictWith((each) => ({ ...each, steps: each.steps!.map((step) => step + 1) }))).toEqual([
      'diverged',
      count,
      all,
    ]);
    expect(verdictWith((each) => ({ ...each, steps: each.steps!.slice(1) }))).toEqual(['diverged', all, all]);
    expect(verdictWith((each) => ({ ...each, count: each.count + 1 }))).toEqual(['diverged', 0, all]);
    expect(verdictWith((each) => ({ ...each, group: `${each.group}x` }))).toEqual(['diverged', count, all]);
  });

  test('in a step that is expected to differ nothing else may', () => {
    const [step] = [...known].filter((each) => (columns.op[each]! & STEP_KIND_MASK) === StepKind.FAULT_EXIT);
    if (step === undefined) return;
    const begin = columns.observationEnd[step - 1]!;
    const end = columns.observationEnd[step]!;
    expect(kvmEventOf(columns.observationOp[begin]!)).toBe(KvmEvent.PAGE_FAULT);
    const diverges = (change: (copy: StepColumns) => void): void =>
      void expectDiverged(changedColumns(columns, change), [step]);
    diverges(({ observationValue }) => (observationValue[2 * begin]! ^= 2));
    diverges(({ observationAddress }) => (observationAddress[2 * begin]! ^= 0x1000));
    expectDiverged(withRows(columns, new Map([[end - 1, [end - 1, end - 1]]])), [step]);
  });
});

/** A store in the middle of a recording that a walk reads later, before anybody stores there again; and that walk's step. */
function storeAndReader(recording: Recording, known: ReadonlySet<number>): { step: number; read: number } {
  const { columns } = recording;
  const stores = new Map<number, number>();
  const found: { step: number; read: number }[] = [];
  let done = 0;
  let row = -1;
  const stepsUpTo = (step: number): void => {
    for (; done <= step; done++) {
      if ((columns.op[done]! & STEP_KIND_MASK) !== StepKind.STORE) continue;
      const address = columns.address[2 * done]!;
      // One that was learned says nothing.
      if ((columns.op[done]! & STORE_KNOWLEDGE) === 0) stores.set(address, done);
      else stores.delete(address);
    }
  };
  vi.spyOn(EventMatcher.prototype, 'takeRecorded').mockImplementation(function (this: EventMatcher, from, at) {
    row = at;
    takeRecorded.call(this, from, at);
  });
  vi.spyOn(EventMatcher.prototype, 'takeReplayed').mockImplementation(function (this: EventMatcher, log, at) {
    takeReplayed.call(this, log, at);
    if (kvmEventOf(log.op(at)) !== KvmEvent.PAGING_ELEMENT) return;
    const read = stepOfRow(columns, row);
    stepsUpTo(read);
    const address = log.rows[at * ROW + ROW_ADDRESS_LO]! >>> 0;
    const step = stores.get(address);
    stores.delete(address);
    if (step !== undefined && step < read && !known.has(read)) found.push({ step, read });
  });
  replay(recording);
  vi.restoreAllMocks();
  return found[found.length >>> 1]!;
}
