/** Comparisons of many traces added up. */

import { addUp } from '../replay/totals.ts';
import type { ComparisonResult, ComparisonVerdict, DocumentedCount } from './result.ts';

export interface ComparisonTotals {
  readonly traces: number;
  readonly verdicts: Readonly<Record<ComparisonVerdict, number>>;
  readonly steps: number;
  readonly stepsCompared: number;
  readonly rows: number;
  readonly events: number;
  readonly registerSets: number;
  readonly entries: number;
  readonly words: number;
  readonly documented: readonly DocumentedCount[];
  readonly notCompared: Readonly<Record<string, number>>;
  readonly notModelled: Readonly<Record<string, number>>;
  readonly changed: number;
  /** By class: how many, and in how many traces. */
  readonly groups: readonly { readonly group: string; readonly count: number; readonly traces: number }[];
}

export function comparisonTotals(results: readonly ComparisonResult[]): ComparisonTotals {
  const receipts = results.map(({ receipt }) => receipt);
  const sum = (pick: (receipt: (typeof receipts)[number]) => number): number =>
    receipts.reduce((total, receipt) => total + pick(receipt), 0);
  const verdicts: Record<ComparisonVerdict, number> = {
    unchanged: 0,
    changed: 0,
    'not-modelled': 0,
    'nothing-compared': 0,
    skipped: 0,
  };
  for (const { verdict } of results) verdicts[verdict]++;
  const documented = new Map<string, DocumentedCount>();
  for (const each of receipts.flatMap((receipt) => receipt.documented)) {
    documented.set(each.name, { ...each, count: each.count + (documented.get(each.name)?.count ?? 0) });
  }
  const groups = new Map<string, { count: number; traces: number }>();
  for (const { group, count } of receipts.flatMap((receipt) => receipt.groups)) {
    const found = groups.get(group) ?? { count: 0, traces: 0 };
    groups.set(group, { count: found.count + count, traces: found.traces + 1 });
  }
  return {
    traces: results.length,
    verdicts,
    steps: sum(({ steps }) => steps),
    stepsCompared: sum(({ stepsCompared }) => stepsCompared),
    rows: sum(({ rows }) => rows),
    events: sum(({ events }) => events),
    registerSets: sum(({ registerSets }) => registerSets),
    entries: sum(({ entries }) => entries),
    words: sum(({ words }) => words),
    documented: [...documented.values()],
    notCompared: addUp(receipts.map(({ notCompared }) => notCompared)),
    notModelled: addUp(receipts.map(({ notModelled }) => notModelled)),
    changed: sum(({ changed }) => changed),
    groups: [...groups].map(([group, counts]) => ({ group, ...counts })).sort((a, b) => b.count - a.count),
  };
}
