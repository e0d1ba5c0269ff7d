/** The receipts of many replays added up. */

import type { KindCount } from './counters.ts';
import type { EventCount, FieldCount } from './event-counters.ts';
import type { GuestComparison, LegalCount, ReplayResult, Verdict } from './result.ts';

export interface Totals {
  readonly traces: number;
  readonly verdicts: Readonly<Record<Verdict, number>>;
  readonly steps: number;
  readonly counts: readonly KindCount[];
  readonly events: readonly EventCount[];
  readonly observationsPredicted: number;
  readonly skipped: Readonly<Record<string, number>>;
  readonly notModelled: Readonly<Record<string, number>>;
  readonly staleAllowed: number;
  readonly undetermined: number;
  readonly expected: Readonly<Record<string, number>>;
  readonly diverged: number;
  /** Of traces that were replayed on an emulated KVM beside the bare machine; undefined if there was none. */
  readonly sameGuest: GuestComparison | undefined;
}

/** Sums counts by name. */
export function addUp(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const record of records) {
    for (const [name, count] of Object.entries(record)) sum[name] = (sum[name] ?? 0) + count;
  }
  return sum;
}

/** Sums records with the same key, which hold nothing but that and `numbers`. */
function addBy<K extends string, N extends string, T extends Record<K, string> & Record<N, number>>(
  lists: readonly (readonly T[])[],
  key: K,
  numbers: readonly N[],
): T[] {
  const sums = new Map<string, T>();
  for (const count of lists.flat()) {
    const sum = sums.get(count[key]);
    const added = sum === undefined ? [] : numbers.map((name) => [name, sum[name] + count[name]]);
    sums.set(count[key], { ...count, ...Object.fromEntries(added) });
  }
  return [...sums.values()];
}

const HOW_KNOWN = ['predicted', 'renamed', 'learned', 'input'] as const;

function addCounts(lists: readonly (readonly KindCount[])[]): KindCount[] {
  return addBy(lists, 'kind', ['observations', 'whollyPredicted', ...HOW_KNOWN]);
}

/** Sums counts by event, and within each by field. */
function addEvents(lists: readonly (readonly EventCount[])[]): EventCount[] {
  const byEvent = new Map<string, EventCount[]>();
  for (const count of lists.flat()) byEvent.set(count.event, [...(byEvent.get(count.event) ?? []), count]);
  return [...byEvent].map(([event, counts]): EventCount => {
    const sum = (key: Exclude<keyof EventCount, 'event' | 'fields' | 'notJudged'>): number =>
      counts.reduce((total, count) => total + count[key], 0);
    return {
      event,
      events: sum('events'),
      whollyPredicted: sum('whollyPredicted'),
      predicted: sum('predicted'),
      renamed: sum('renamed'),
      learned: sum('learned'),
      input: sum('input'),
      diverged: sum('diverged'),
      missing: sum('missing'),
      extra: sum('extra'),
      notModelled: sum('notModelled'),
      unanswered: sum('unanswered'),
      ...(counts.some(({ notJudged }) => notJudged !== undefined)
        ? { notJudged: counts.reduce((total, { notJudged = 0 }) => total + notJudged, 0) }
        : {}),
      fields: addFields(counts.map(({ fields }) => fields)),
    };
  });
}

function addFields(lists: readonly (readonly FieldCount[])[]): FieldCount[] {
  return addBy(lists, 'field', [...HOW_KNOWN, 'diverged']);
}

function addLegal(lists: readonly (readonly LegalCount[])[]): LegalCount[] {
  const sums = new Map<number, LegalCount>();
  for (const entry of lists.flat()) {
    sums.set(entry.number, { ...entry, count: entry.count + (sums.get(entry.number)?.count ?? 0) });
  }
  return [...sums.values()].sort((a, b) => a.number - b.number);
}

function addGuests(all: readonly GuestComparison[]): GuestComparison | undefined {
  if (all.length === 0) return undefined;
  const sum = (key: Exclude<keyof GuestComparison, 'legal' | 'groups'>): number =>
    all.reduce((total, comparison) => total + comparison[key], 0);
  return {
    accesses: sum('accesses'),
    equal: sum('equal'),
    asBare: sum('asBare'),
    legal: addLegal(all.map(({ legal }) => legal)),
    stale: sum('stale'),
    undetermined: sum('undetermined'),
    entries: sum('entries'),
    staleEntries: sum('staleEntries'),
    questions: sum('questions'),
    registerWrites: sum('registerWrites'),
    words: sum('words'),
    wordsInAd: sum('wordsInAd'),
    unexplained: sum('unexplained'),
    groups: [],
  };
}

export function totalsOf(results: readonly ReplayResult[]): Totals {
  const receipts = results.map(({ receipt }) => receipt);
  const sum = (pick: (receipt: (typeof receipts)[number]) => number): number =>
    receipts.reduce((total, receipt) => total + pick(receipt), 0);
  const verdicts: Record<Verdict, number> = {
    match: 0,
    diverged: 0,
    undetermined: 0,
    'not-modelled': 0,
    'nothing-compared': 0,
  };
  for (const { verdict } of results) verdicts[verdict]++;
  return {
    traces: results.length,
    verdicts,
    steps: sum(({ steps }) => steps),
    counts: addCounts(receipts.map(({ counts }) => counts)),
    events: addEvents(receipts.map(({ events }) => events)),
    observationsPredicted: sum(({ observationsPredicted }) => observationsPredicted),
    skipped: addUp(receipts.map(({ skipped }) => skipped)),
    notModelled: addUp(receipts.map(({ notModelled }) => notModelled)),
    staleAllowed: sum(({ staleAllowed }) => staleAllowed),
    undetermined: sum(({ undetermined }) => undetermined),
    expected: addUp(receipts.map(({ expected }) => expected)),
    diverged: sum(({ diverged }) => diverged),
    sameGuest: addGuests(receipts.flatMap(({ sameGuest }) => sameGuest ?? [])),
  };
}
