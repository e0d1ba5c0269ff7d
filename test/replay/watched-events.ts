/**
 * A recording of KVM, replayed while somebody watches which events were equal and what their fields told; and where to
 * change it, so that one replay tries many changes, each at a step of its own.
 */

import { expect, vi } from 'vitest';
import { KVM_EVENT_NAMES, KVM_MORE_ROWS, KvmEvent, kvmEventOf } from '../../src/formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../../src/formats/kvm-event-fields.ts';
import { EventCounters } from '../../src/replay/event-counters.ts';
import { EventMatcher } from '../../src/replay/event-match.ts';
import { type Expectation, expectationsFor } from '../../src/replay/expectations.ts';
import type { ReplayResult } from '../../src/replay/result.ts';
import { type ReplayOptions, ReplaySession } from '../../src/replay/session.ts';
import { keptColumns, type StepColumns } from '../../src/trace/columns.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

/** A recorded event that was found equal, and what its fields told. */
export interface Seen {
  readonly step: number;
  /** Its KVM_EVENT row, and the row after its last. */
  readonly row: number;
  readonly end: number;
  readonly event: number;
  /** By index of the field: `FieldCounter` of the field as such, and of the frame in an SPTE. */
  readonly counter: readonly number[];
  readonly frameCounter: readonly (number | undefined)[];
  /** Bits that make no difference. */
  readonly unnoticed: readonly { readonly index: number; readonly bit: number }[];
}

export interface Recording {
  readonly name: string;
  readonly header: TraceHeader;
  readonly columns: StepColumns;
  readonly expectations: readonly Expectation[];
}

const PATH = (name: string): string => `traces/kvmmmu/${name}.rwt`;

export function read(name: string): Recording {
  const trace = openTrace(PATH(name));
  try {
    let header: TraceHeader | undefined;
    const chunks: StepColumns[] = [];
    for (const item of trace) {
      if (item.kind === 'header') header = item.header;
      else if (item.kind === 'steps') chunks.push(keptColumns(item.columns));
    }
    expect(chunks.length).toBe(1);
    return { name, header: header!, columns: chunks[0]!, expectations: expectationsFor(PATH(name)) };
  } finally {
    trace.close();
  }
}

export function replay(recording: Recording, columns = recording.columns, options: ReplayOptions = {}): ReplayResult {
  const { name, header, expectations } = recording;
  const session = new ReplaySession(PATH(name), header, { expectations, ...options });
  session.run(columns);
  return session.result(undefined, 'complete');
}

export function stepOfRow({ observationEnd }: StepColumns, row: number): number {
  let [low, high] = [0, observationEnd.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (observationEnd[middle]! > row) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** A bit of an event's field, turned over in the columns. */
export function flip(columns: StepColumns, eventRow: number, { row, column }: KvmField, bit: number): void {
  const at = eventRow + row;
  const word = (1 << (bit & 31)) >>> 0;
  if (column === 'op') columns.observationOp[at]! ^= word;
  else columns[column === 'address' ? 'observationAddress' : 'observationValue'][2 * at + (bit >>> 5)]! ^= word;
}

const { takeRecorded, takeRows, commit } = EventMatcher.prototype;
const { field: countField, second: countSecond, equal: countEqual } = EventCounters.prototype;

/**
 * Replays a recording, taking down every event that was equal in its turn. `bitsOf`: so many events of each class are also
 * compared with each of their bits turned over; `classOf`: the class of the event at a row, by default its kind.
 */
export function watch(
  recording: Recording,
  bitsOf = 0,
  classOf = (event: number, _row: number): number | string => event,
): { readonly seen: Seen[]; readonly result: ReplayResult } {
  const { columns } = recording;
  const copy = keptColumns(columns);
  const seen: Seen[] = [];
  const sofar = new Map<number | string, number>();
  let at = -1;
  let unnoticed: { index: number; bit: number }[] = [];
  let counter: number[] = [];
  let frameCounter: (number | undefined)[] = [];
  vi.spyOn(EventMatcher.prototype, 'takeRecorded').mockImplementation(function (this: EventMatcher, from, row) {
    at = row;
    takeRecorded.call(this, from, row);
  });
  vi.spyOn(EventMatcher.prototype, 'takeRows').mockImplementation(function (this: EventMatcher, ...rows) {
    at = -1;
    takeRows.apply(this, rows);
  });
  vi.spyOn(EventMatcher.prototype, 'commit').mockImplementation(function (this: EventMatcher, ...args) {
    const event = at < 0 ? KvmEvent.NONE : kvmEventOf(columns.observationOp[at]!);
    const key = classOf(event, at);
    const count = sofar.get(key) ?? 0;
    sofar.set(key, count + 1);
    unnoticed = [];
    if (count < bitsOf) {
      KVM_EVENT_FIELDS[event]!.forEach((field, index) => {
        for (let bit = field.low; bit < field.low + field.width; bit++) {
          flip(copy, at, field, bit);
          takeRecorded.call(this, copy, at);
          if (this.matches()) unnoticed.push({ index, bit });
          flip(copy, at, field, bit);
        }
      });
      if (at >= 0) takeRecorded.call(this, columns, at);
    }
    commit.apply(this, args);
  });
  vi.spyOn(EventCounters.prototype, 'field').mockImplementation(function (this: EventCounters, event, index, which) {
    counter[index] = which;
    countField.call(this, event, index, which);
  });
  vi.spyOn(EventCounters.prototype, 'second').mockImplementation(function (this: EventCounters, event, index, which) {
    frameCounter[index] = which;
    countSecond.call(this, event, index, which);
  });
  vi.spyOn(EventCounters.prototype, 'equal').mockImplementation(function (this: EventCounters, event) {
    if (at >= 0) {
      const end = at + 1 + KVM_MORE_ROWS[event]!;
      seen.push({ step: stepOfRow(columns, at), row: at, end, event, counter, frameCounter, unnoticed });
    }
    [counter, frameCounter, unnoticed] = [[], [], []];
    countEqual.call(this, event);
  });
  const result = replay(recording);
  vi.restoreAllMocks();
  return { seen, result };
}

const FRAME_BITS: Readonly<Partial<Record<KvmField['kind'], readonly [number, number]>>> = {
  spte: [12, 51],
  sptep: [12, 63],
  pfn: [0, 63],
};

export function isFrameBit({ kind }: KvmField, bit: number): boolean {
  const range = FRAME_BITS[kind];
  return range !== undefined && bit >= range[0] && bit <= range[1];
}

/** What a bit of an event's field told. */
export function counterOf({ counter, frameCounter }: Seen, index: number, field: KvmField, bit: number): number {
  if (field.kind === 'spte' && isFrameBit(field, bit) && frameCounter[index] !== undefined) return frameCounter[index];
  return counter[index]!;
}

export function nameOf(event: number, field: KvmField, bit: number): string {
  const frame = field.kind === 'spte' && isFrameBit(field, bit) ? ' frame' : '';
  return `${KVM_EVENT_NAMES[event]} ${field.name}${frame}`;
}

/** Changes that are tried in one replay: each at a step of its own. */
export type Round<T> = Map<T, Seen>;

/**
 * A place for each of `wanted`, that nearest to the middle of its candidates, in as few rounds as keep the steps of each
 * round apart. What has no candidate is left out.
 */
export function rounds<T>(wanted: readonly T[], candidates: (want: T) => readonly Seen[]): Round<T>[] {
  const taken: Set<number>[] = [];
  const found: Round<T>[] = [];
  for (const want of wanted) {
    const all = candidates(want);
    const fromMiddle = all
      .map((each, i) => ({ each, far: Math.abs(i - all.length / 2) }))
      .sort((x, y) => x.far - y.far);
    for (let round = 0; fromMiddle.length > 0; round++) {
      taken[round] ??= new Set();
      found[round] ??= new Map();
      const free = fromMiddle.find(({ each }) => !taken[round]!.has(each.step));
      if (free === undefined) continue;
      taken[round]!.add(free.each.step);
      found[round]!.set(want, free.each);
      break;
    }
  }
  return found;
}

export function ascending(steps: Iterable<number>): number[] {
  return [...new Set(steps)].sort((a, b) => a - b);
}

/** A change of one bit of one field in events of one kind. */
export interface Change {
  readonly event: number;
  readonly index: number;
  readonly field: KvmField;
  readonly bit: number;
}

/** Of each field of each kind the lowest bit, and that of the frame in it. */
export function changesOf(kinds: readonly number[]): Change[] {
  return kinds.flatMap((event) =>
    KVM_EVENT_FIELDS[event]!.flatMap((field, index) => {
      const frame = FRAME_BITS[field.kind]?.[0];
      const bits = new Set(frame === undefined ? [field.low] : [field.low, frame]);
      return [...bits].map((bit) => ({ event, field, index, bit }));
    }),
  );
}

export function isFrame({ field, bit }: Change): boolean {
  return isFrameBit(field, bit);
}

/** Rows of one event. */
export function rowsOf({ row, end }: Seen): number[] {
  return Array.from({ length: end - row }, (_, i) => row + i);
}

/** Replaces the rows of an event by others. */
export function edit(edits: Map<number, readonly number[]>, event: Seen, by: readonly number[]): void {
  edits.set(event.row, by);
  for (let row = event.row + 1; row < event.end; row++) edits.set(row, []);
}
