/** Collects, while a trace is replayed, its steps that were not a plain match: all counted, the first ones kept. */

import type { Divergence, GuestDifference } from '../replay/result.ts';
import { fingerprintOf, guestFingerprint } from './fingerprint.ts';
import {
  type JudgementKind,
  OTHER_GROUPS,
  RESULTS_LIMITS,
  type ResultsLimits,
  type StoredStep,
  type VerdictGroup,
} from './model.ts';

interface Counted {
  readonly judgement: JudgementKind;
  readonly group: string;
  count: number;
  readonly first: number;
  leads: number;
  mixed: number;
}

export class VerdictLog {
  private readonly limits: ResultsLimits;
  private readonly kept: StoredStep[] = [];
  private readonly counted = new Map<string, Counted>();
  private details = 0;
  private count = 0;
  /** Every step below this ordinal is kept. */
  keptBelow = Number.POSITIVE_INFINITY;

  constructor(limits: ResultsLimits = RESULTS_LIMITS) {
    this.limits = limits;
  }

  /** A step of the replay; to be called in the order of steps. */
  add(divergence: Divergence): void {
    const { step, line, source, judgement, group, cause } = divergence;
    const isFirst = this.tally(judgement.kind, group, step, 1, divergence.mixed === true ? 1 : 0);
    this.count++;
    if (this.kept.length >= this.limits.maxSteps - 2 * this.limits.maxDetails && !isFirst) {
      this.keptBelow = Math.min(this.keptBelow, step);
      return;
    }
    const isDetailed = isFirst || this.details < this.limits.maxDetails;
    if (isDetailed) this.details++;
    const detail = isDetailed ? ({ kind: 'replay', divergence } as const) : undefined;
    const fingerprint = fingerprintOf(divergence);
    this.kept.push({ step, line, source, judgement, group, cause, fingerprint, detail });
  }

  /**
   * At the end of the trace: the guest's differences that were kept, the first ones in the order of steps, and how often
   * each group was met.
   */
  addGuest(
    differences: readonly GuestDifference[],
    groups: readonly { readonly group: string; readonly count: number; readonly first: number }[],
  ): void {
    let all = 0;
    for (const { group, count, first } of groups) {
      this.tally('guest-differs', group, first, count);
      all += count;
    }
    this.count += all;
    const kept = differences.slice(0, this.limits.maxDetails);
    for (const difference of kept) {
      const { step, line, group, cause } = difference;
      const judgement = { kind: 'guest-differs' } as const;
      const fingerprint = guestFingerprint(difference);
      const detail = { kind: 'guest', difference } as const;
      this.kept.push({ step, line, source: undefined, judgement, group, cause, fingerprint, detail });
    }
    if (kept.length < all) this.keptBelow = Math.min(this.keptBelow, (kept.at(-1)?.step ?? -1) + 1);
  }

  /** Steps that were not a plain match, kept or not. */
  get stepCount(): number {
    return this.count;
  }

  get steps(): readonly StoredStep[] {
    return this.kept;
  }

  /** Most frequent first. `leads`: by group, of the diverging ones. */
  groups(leads: ReadonlyMap<string, number>): VerdictGroup[] {
    return [...this.counted.values()]
      .map((each) => ({ ...each, leads: each.judgement === 'diverged' ? (leads.get(each.group) ?? 0) : 0 }))
      .sort((a, b) => b.count - a.count || a.first - b.first);
  }

  /** Returns whether it is the first of its group. */
  private tally(judgement: JudgementKind, group: string, first: number, count = 1, mixed = 0): boolean {
    const name = this.counted.size < this.limits.maxGroups - 1 ? group : OTHER_GROUPS;
    const known = this.counted.get(`${judgement} ${group}`) ?? this.counted.get(`${judgement} ${name}`);
    if (known === undefined) {
      this.counted.set(`${judgement} ${name}`, { judgement, group: name, count, first, leads: 0, mixed });
    } else {
      known.count += count;
      known.mixed += mixed;
    }
    return known === undefined;
  }
}
