/**
 * Results against results: what became of each trace, and of each of its steps that was not a plain match, from one run to
 * another. Steps are compared one by one as far as both files keep all of them; beyond that, and where the trace itself was
 * recorded again, groups are compared by their counts.
 */

import type { Verdict } from '../replay/result.ts';
import type { JudgementKind, StoredStep, StoredTrace, VerdictGroup } from '../results/model.ts';

export const CHANGE_CLASSES = ['regressed', 'changed', 'fixed', 'added', 'removed', 'unchanged'] as const;
export type ChangeClass = (typeof CHANGE_CLASSES)[number];

/** One side of a step or group: how it was judged and its shape; undefined: a plain match, or nothing of the kind. */
export interface ChangeSide {
  readonly judgement: JudgementKind | 'finding';
  readonly group: string;
}

/** Steps that changed in one way, or something else of the trace that did. */
export interface Change {
  readonly class: 'regressed' | 'changed' | 'fixed';
  readonly a: ChangeSide | undefined;
  readonly b: ChangeSide | undefined;
  /** Steps; of what is not about steps, 0. */
  count: number;
  /** The first such step, undefined if it is not known. */
  readonly first: number | undefined;
  /** It, as each side has it, where it was kept. */
  readonly steps: readonly [a: StoredStep | undefined, b: StoredStep | undefined];
  /** A sentence for what is not about steps, or not step by step. */
  readonly note: string | undefined;
}

export interface TraceChange {
  readonly class: ChangeClass;
  /** In the order of first steps. */
  readonly changes: readonly Change[];
  /** Steps that were no plain match and are judged as before. */
  readonly unchangedSteps: number;
}

export interface TraceSide {
  readonly trace: StoredTrace;
  readonly steps: readonly StoredStep[];
}

/** 2: wrong. 1: could not be judged. 0: a match of some kind. Partial traces tell beforehand that they leave things open. */
function severity(judgement: JudgementKind, isPartial: boolean): 0 | 1 | 2 {
  switch (judgement) {
    case 'diverged':
    case 'stale-after-invalidation':
    case 'guest-differs':
      return 2;
    case 'undetermined':
      return isPartial ? 0 : 1;
    default:
      return 0;
  }
}

const VERDICT_SEVERITY: Readonly<Record<Verdict, number>> = {
  match: 0,
  undetermined: 1,
  'not-modelled': 1,
  diverged: 2,
  'nothing-compared': 2,
};

type Judged = Pick<StoredStep, 'group' | 'cause' | 'fingerprint'> & { readonly judgement: JudgementKind };

/** What a change of one step's judgement is; undefined: none. */
function classOf(a: Judged | undefined, b: Judged | undefined, isPartial: boolean): Change['class'] | undefined {
  const [before, after] = [a, b].map((side) => (side === undefined ? 0 : severity(side.judgement, isPartial))) as [
    number,
    number,
  ];
  if (after > before) return 'regressed';
  // A divergence that is expected or no longer judged has changed; only what matches now is fixed.
  if (after < before) return b === undefined || b.judgement === 'stale-allowed' ? 'fixed' : 'changed';
  const same =
    a?.judgement === b?.judgement &&
    a?.group === b?.group &&
    a?.cause === b?.cause &&
    a?.fingerprint === b?.fingerprint;
  return same ? undefined : 'changed';
}

function judged(step: StoredStep | undefined): Judged | undefined {
  return step && { ...step, judgement: step.judgement.kind };
}

function sideOf(side: ChangeSide | Judged | undefined): ChangeSide | undefined {
  return side && { judgement: side.judgement, group: side.group };
}

/** Guests' differences have their own steps beside those of the replay. */
function keyOf({ step, judgement }: StoredStep): string {
  return `${judgement.kind === 'guest-differs' ? 'guest' : 'step'} ${step}`;
}

class TraceComparer {
  private readonly changes = new Map<string, Change>();
  private unchanged = 0;
  private readonly a: TraceSide;
  private readonly b: TraceSide;
  private readonly isPartial: boolean;

  constructor(a: TraceSide, b: TraceSide) {
    this.a = a;
    this.b = b;
    this.isPartial = b.trace.receipt.partial !== undefined;
  }

  compare(sameTrace: boolean): TraceChange {
    const below = sameTrace ? Math.min(this.a.trace.keptBelow, this.b.trace.keptBelow) : 0;
    this.bySteps(below);
    if (below !== Number.POSITIVE_INFINITY) this.byGroups(below, sameTrace);
    this.findings();
    const changes = [...this.changes.values()].sort(
      (x, y) => (x.first ?? Number.POSITIVE_INFINITY) - (y.first ?? Number.POSITIVE_INFINITY),
    );
    const has = (name: Change['class']): boolean => changes.some((change) => change.class === name);
    const whole = has('regressed') ? 'regressed' : has('changed') ? 'changed' : has('fixed') ? 'fixed' : 'unchanged';
    return { class: whole, changes, unchangedSteps: this.unchanged };
  }

  private bySteps(below: number): void {
    const kept = (side: TraceSide): Map<string, StoredStep> =>
      new Map(side.steps.filter(({ step }) => step < below).map((step) => [keyOf(step), step]));
    const [a, b] = [kept(this.a), kept(this.b)];
    for (const key of new Set([...a.keys(), ...b.keys()])) {
      const [before, after] = [a.get(key), b.get(key)];
      const kind = classOf(judged(before), judged(after), this.isPartial);
      if (kind === undefined) this.unchanged++;
      else this.add(kind, judged(before), judged(after), 1, (before ?? after)!.step, [before, after]);
    }
  }

  /** What is left of each group behind the steps that both sides keep whole. */
  private byGroups(below: number, sameTrace: boolean): void {
    const [a, b] = [this.left(this.a, below), this.left(this.b, below)];
    for (const key of new Set([...a.keys(), ...b.keys()])) {
      const [before, after] = [a.get(key), b.get(key)];
      const { judgement, group } = (before ?? after)!;
      const counts = [before?.count ?? 0, after?.count ?? 0] as const;
      if (counts[0] === counts[1]) {
        this.unchanged += counts[0];
        continue;
      }
      const isBad = severity(judgement, this.isPartial) > 0;
      const more = counts[1] > counts[0];
      const kind = !isBad ? 'changed' : more ? 'regressed' : 'fixed';
      const first = (more ? after : before)?.first;
      const side = { judgement, group };
      const where = sameTrace ? `from step ${below} on, where not every step is kept` : 'in another recording';
      const note = `${counts[0]} steps before, ${counts[1]} now, ${where}`;
      const find = (of: TraceSide): StoredStep | undefined =>
        of.steps.find((step) => step.step >= below && step.group === group && step.judgement.kind === judgement);
      const count = Math.abs(counts[1] - counts[0]);
      const sides = [before && side, after && side] as const;
      this.add(kind, sides[0], sides[1], count, first, [find(this.a), find(this.b)], note);
      this.unchanged += Math.min(...counts);
    }
  }

  private left({ trace, steps }: TraceSide, below: number): Map<string, VerdictGroup> {
    const seen = new Map<string, number>();
    for (const { step, judgement, group } of steps) {
      if (step >= below) continue;
      const key = `${judgement.kind} ${group}`;
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }
    const left = new Map<string, VerdictGroup>();
    for (const each of trace.groups) {
      const key = `${each.judgement} ${each.group}`;
      const count = each.count - (seen.get(key) ?? 0);
      if (count > 0) left.set(key, { ...each, count });
    }
    return left;
  }

  /** What is not about single steps: things not modelled, broken invariants and expectations, the verdict. */
  private findings(): void {
    const [a, b] = [this.a.trace, this.b.trace];
    const names = new Set([...Object.keys(a.receipt.notModelled), ...Object.keys(b.receipt.notModelled)]);
    for (const name of names) {
      const [before, after] = [a.receipt.notModelled[name] ?? 0, b.receipt.notModelled[name] ?? 0];
      this.counts(`not modelled: ${name}`, before, after);
    }
    this.counts('broken invariants', a.brokenInvariants, b.brokenInvariants, b.receipt.brokenInvariants[0]?.step);
    const [before, after] = [a.receipt.brokenExpectations, b.receipt.brokenExpectations];
    for (const sentence of after)
      if (!before.includes(sentence)) this.finding('regressed', `expectation does not hold: ${sentence}`);
    for (const sentence of before)
      if (!after.includes(sentence)) this.finding('fixed', `expectation does not hold: ${sentence}`);
    const verdicts = `verdict ${a.verdict} before, ${b.verdict} now`;
    const [worse, better] = [
      VERDICT_SEVERITY[b.verdict] > VERDICT_SEVERITY[a.verdict],
      VERDICT_SEVERITY[b.verdict] < VERDICT_SEVERITY[a.verdict],
    ];
    const isTold = (name: Change['class']): boolean => [...this.changes.values()].some((each) => each.class === name);
    if (worse && !isTold('regressed')) this.finding('regressed', verdicts);
    else if (this.changes.size === 0 && a.verdict !== b.verdict) this.finding(better ? 'fixed' : 'changed', verdicts);
    const [told, tells] = [a.receipt.observationsPredicted, b.receipt.observationsPredicted];
    if (this.changes.size === 0 && told !== tells) {
      this.finding('changed', `${told} observations predicted before, ${tells} now`);
    }
  }

  private counts(what: string, before: number, after: number, first?: number): void {
    if (before === after) return;
    this.finding(after > before ? 'regressed' : 'fixed', `${what}: ${before} before, ${after} now`, first);
  }

  private finding(kind: Change['class'], note: string, first?: number): void {
    const side: ChangeSide = { judgement: 'finding', group: note };
    this.changes.set(`${kind} ${note}`, {
      class: kind,
      a: kind === 'regressed' ? undefined : side,
      b: kind === 'fixed' ? undefined : side,
      count: 0,
      first,
      steps: [undefined, undefined],
      note,
    });
  }

  private add(
    kind: Change['class'],
    a: ChangeSide | undefined,
    b: ChangeSide | undefined,
    count: number,
    first: number | undefined,
    steps: Change['steps'],
    note?: string,
  ): void {
    const text = (side: ChangeSide | undefined): string =>
      side === undefined ? '' : `${side.judgement} ${side.group}`;
    const key = [kind, text(a), text(b), note === undefined ? '' : 'by groups'].join('\n');
    const known = this.changes.get(key);
    if (known !== undefined) known.count += count;
    else this.changes.set(key, { class: kind, a: sideOf(a), b: sideOf(b), count, first, steps, note });
  }
}

/** `sameTrace`: both replayed the same steps. */
export function compareTraceResults(a: TraceSide, b: TraceSide, sameTrace: boolean): TraceChange {
  return new TraceComparer(a, b).compare(sameTrace);
}

/** How many traces, kinds of change and steps are of each class. */
export interface ClassCounts {
  traces: number;
  changes: number;
  steps: number;
}

export type ResultsTotals = Record<ChangeClass, ClassCounts>;

export function emptyTotals(): ResultsTotals {
  return Object.fromEntries(CHANGE_CLASSES.map((name) => [name, { traces: 0, changes: 0, steps: 0 }])) as ResultsTotals;
}

/** Adds one trace's changes to the totals. */
export function addToTotals(totals: ResultsTotals, change: TraceChange): void {
  totals[change.class].traces++;
  totals.unchanged.steps += change.unchangedSteps;
  for (const each of change.changes) {
    totals[each.class].changes++;
    totals[each.class].steps += each.count;
  }
}
