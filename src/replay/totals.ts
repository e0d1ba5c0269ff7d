/** The receipts of many replays added up. */

import type { KindCount } from './counters.ts';
import type { ReplayResult, Verdict } from './result.ts';

export interface Totals {
  readonly traces: number;
  readonly verdicts: Readonly<Record<Verdict, number>>;
  readonly steps: number;
  readonly counts: readonly KindCount[];
  readonly observationsPredicted: number;
  readonly skipped: Readonly<Record<string, number>>;
  readonly notModelled: Readonly<Record<string, number>>;
  readonly staleAllowed: number;
  readonly undetermined: number;
  readonly expected: Readonly<Record<string, number>>;
  readonly diverged: number;
}

function addUp(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const record of records) {
    for (const [name, count] of Object.entries(record)) sum[name] = (sum[name] ?? 0) + count;
  }
  return sum;
}

function addCounts(lists: readonly (readonly KindCount[])[]): KindCount[] {
  const sums = new Map<string, KindCount>();
  for (const count of lists.flat()) {
    const sum = sums.get(count.kind);
    sums.set(
      count.kind,
      sum === undefined
        ? count
        : {
            kind: count.kind,
            observations: sum.observations + count.observations,
            whollyPredicted: sum.whollyPredicted + count.whollyPredicted,
            predicted: sum.predicted + count.predicted,
            renamed: sum.renamed + count.renamed,
            learned: sum.learned + count.learned,
            input: sum.input + count.input,
          },
    );
  }
  return [...sums.values()];
}

export function totalsOf(results: readonly ReplayResult[]): Totals {
  const receipts = results.map(({ receipt }) => receipt);
  const sum = (pick: (receipt: (typeof receipts)[number]) => number): number =>
    receipts.reduce((total, receipt) => total + pick(receipt), 0);
  const verdicts: Record<Verdict, number> = { match: 0, diverged: 0, 'not-modelled': 0, 'nothing-compared': 0 };
  for (const { verdict } of results) verdicts[verdict]++;
  return {
    traces: results.length,
    verdicts,
    steps: sum(({ steps }) => steps),
    counts: addCounts(receipts.map(({ counts }) => counts)),
    observationsPredicted: sum(({ observationsPredicted }) => observationsPredicted),
    skipped: addUp(receipts.map(({ skipped }) => skipped)),
    notModelled: addUp(receipts.map(({ notModelled }) => notModelled)),
    staleAllowed: sum(({ staleAllowed }) => staleAllowed),
    undetermined: sum(({ undetermined }) => undetermined),
    expected: addUp(receipts.map(({ expected }) => expected)),
    diverged: sum(({ diverged }) => diverged),
  };
}
