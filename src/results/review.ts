/** What of a trace's result can be accepted as an expectation: groups of diverging steps, and expectations that moved. */

import type { StoredTrace } from './model.ts';

/** Steps that diverge and are not expected. */
export interface DivergenceItem {
  readonly kind: 'divergence';
  readonly group: string;
  /** Steps that an expectation would cover, and those that none can: something else differs in them, too. */
  readonly count: number;
  readonly mixed: number;
  readonly first: number;
}

/** An expectation that was met more or less often than it says. */
export interface OutcomeItem {
  readonly kind: 'expectation';
  readonly fault: string;
  readonly group: string;
  readonly expected: number;
  readonly met: number;
}

export type ReviewItem = DivergenceItem | OutcomeItem;

/** In the order of first steps; expectations last. */
export function reviewItems({ groups, receipt }: StoredTrace): ReviewItem[] {
  const byGroup = new Map<string, DivergenceItem>();
  for (const { judgement, group, count, first, mixed } of groups) {
    if (judgement !== 'diverged' && judgement !== 'stale-after-invalidation') continue;
    const known = byGroup.get(group) ?? { kind: 'divergence', group, count: 0, mixed: 0, first };
    byGroup.set(group, {
      ...known,
      count: known.count + count - mixed,
      mixed: known.mixed + mixed,
      first: Math.min(known.first, first),
    });
  }
  const outcomes = (receipt.expectationOutcomes ?? []).filter(({ expected, met }) => expected !== met);
  return [
    ...[...byGroup.values()].sort((a, b) => a.first - b.first),
    ...outcomes.map((outcome): OutcomeItem => ({ kind: 'expectation', ...outcome })),
  ];
}
