/** What became of a trace from one results file to another as a case of a report. */

import type { Change, ChangeClass, TraceChange, TraceSide } from '../compare/results.ts';
import type { StoredStep } from '../results/model.ts';
import { fullChangeLines } from './compare-results-text.ts';
import { plainLine } from './lines.ts';
import { divergenceOf, guestDifferenceOf, placeOf, unpainted } from './replay-cases.ts';
import { receiptLines } from './replay-text.ts';
import type { CaseOutcome, ReportCase, ReportDifference, ReportLine, ReportPlace } from './run.ts';
import { counted } from './table.ts';

/** Changes of a trace in full. */
const MAXIMUM_CHANGES = 10;

const SIDES = ['A', 'B'] as const;

/** A step that a run kept, as a replay's report has it; undefined if it kept no more than the judgement. */
function keptStep(step: StoredStep, { trace }: TraceSide): ReportDifference | undefined {
  const { detail } = step;
  if (detail === undefined) return undefined;
  if (detail.kind === 'guest') return guestDifferenceOf(detail.difference, trace.header);
  return divergenceOf(detail.divergence, trace.header);
}

/** What a run made of the step: its verdict and cause. */
function verdictLine(step: StoredStep | undefined, side: TraceSide | undefined, change: Change): ReportPlace['a'] {
  if (step !== undefined) return [plainLine(`${step.judgement.kind}: ${step.cause}`)];
  if (side === undefined) return [plainLine('no such trace')];
  return change.count === 0 ? [] : [plainLine('as recorded, or not kept')];
}

/** What a replay did: what stands once is both sides'. */
function replayedLines({ places }: ReportDifference): readonly ReportLine[] {
  return places.flatMap(({ state, a, b }) => (state === 'equal' ? a : b));
}

/**
 * What the runs did in the step, side by side. A run that did not keep it did as was recorded, which is what the other
 * one's recorded side says.
 */
function placesOf(a: ReportDifference | undefined, b: ReportDifference | undefined): readonly ReportPlace[] {
  if (a === undefined) return b?.places ?? [];
  if (b === undefined) {
    const swapped = { equal: 'equal', differs: 'differs', 'only-a': 'only-b', 'only-b': 'only-a' } as const;
    return a.places.map(({ state, a: recorded, b: replayed }) =>
      state === 'equal' ? { state, a: recorded, b: replayed } : { state: swapped[state], a: replayed, b: recorded },
    );
  }
  const [left, right] = [replayedLines(a), replayedLines(b)];
  return Array.from({ length: Math.max(left.length, right.length) }, (_, i): ReportPlace => {
    const [one, other] = [left[i], right[i]];
    if (one === undefined) return { state: 'only-b', a: [], b: [other!] };
    if (other === undefined) return { state: 'only-a', a: [one], b: [] };
    return { state: one.text === other.text ? 'equal' : 'differs', a: [one], b: [other] };
  });
}

function differenceOf(
  name: string,
  change: Change,
  sides: readonly [TraceSide | undefined, TraceSide | undefined],
): ReportDifference {
  const { steps, first, note } = change;
  const kept = SIDES.map((_, i) => (steps[i] && sides[i] ? keptStep(steps[i], sides[i]) : undefined));
  const shown = kept[1] ?? kept[0];
  const step = steps[1] ?? steps[0];
  const count = change.count > 1 ? `, ${counted(change.count, 'step')} alike` : '';
  return {
    step: first,
    where: placeOf(step?.source, step?.line),
    judgement: `${change.class}${count}`,
    stimulus: shown?.stimulus ?? '',
    mode: shown?.mode ?? '',
    cause: note ?? (change.class === 'fixed' ? `as recorded now; it was: ${step?.cause ?? ''}` : (step?.cause ?? '')),
    group: change.b?.group ?? change.a?.group ?? '',
    labels: SIDES,
    places: [
      {
        state: 'differs',
        a: verdictLine(steps[0], sides[0], change),
        b: verdictLine(steps[1], sides[1], change),
      },
      ...placesOf(kept[0], kept[1]),
    ],
    registers: shown?.registers ?? [],
    walks: kept.flatMap((each, i) =>
      (each?.walks ?? [])
        .filter(({ label }) => label !== each?.labels[0])
        .map(({ walk }) => ({ label: SIDES[i]!, walk: { ...walk, title: `replayed by ${SIDES[i]}` } })),
    ),
    text: fullChangeLines(name, change, [sides[0]?.trace, sides[1]?.trace], unpainted),
  };
}

const OUTCOME: Readonly<Record<ChangeClass, CaseOutcome>> = {
  unchanged: 'pass',
  fixed: 'pass',
  changed: 'pass',
  added: 'pass',
  removed: 'pass',
  regressed: 'fail',
};

function reasonOf(change: TraceChange): string {
  const { class: kind, changes } = change;
  const first = changes.find((each) => each.class === kind) ?? changes[0];
  if (kind === 'unchanged') return '';
  if (first === undefined) return kind;
  const cause = first.note ?? (first.steps[1] ?? first.steps[0])?.cause ?? first.b?.group ?? first.a?.group ?? '';
  return `${first.first === undefined ? '' : `step ${first.first}: `}${kind}: ${cause}`;
}

/** One case for each trace of either run. `strict`: any change is a failure. */
export function resultsCase(
  name: string,
  change: TraceChange,
  sides: readonly [a: TraceSide | undefined, b: TraceSide | undefined],
  strict: boolean,
): ReportCase {
  const { class: kind, changes } = change;
  const trace = (sides[1] ?? sides[0])?.trace;
  const verdicts = sides.map((side) => side?.trace.verdict ?? 'none').join(' → ');
  const outcome = strict && kind !== 'unchanged' ? 'fail' : OUTCOME[kind];
  return {
    file: name,
    title: trace?.receipt.title ?? '',
    outcome,
    verdict: kind,
    summary: `${kind} ${name}: ${verdicts}`,
    reason: reasonOf(change),
    steps: trace?.receipt.steps ?? 0,
    compared: trace?.receipt.observationsPredicted ?? 0,
    seconds: 0,
    receipt: trace === undefined ? [] : receiptLines(trace.receipt),
    differing: changes.reduce((sum, each) => sum + Math.max(1, each.count), 0),
    differences: changes.slice(0, MAXIMUM_CHANGES).map((each) => differenceOf(name, each, sides)),
    groups: [],
  };
}
