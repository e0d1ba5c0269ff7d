/** Results against results as text for people: a table first, then the first change of each class in full. */

import {
  CHANGE_CLASSES,
  type Change,
  type ChangeClass,
  type ChangeSide,
  type ResultsTotals,
  type TraceChange,
} from '../compare/results.ts';
import type { RunFacts, StoredJudgement, StoredStep, StoredTrace } from '../results/model.ts';
import { traceName } from '../results/model.ts';
import { escapeControls } from './escape.ts';
import { divergenceLines, type PaintText, summaryLine } from './replay-text.ts';
import { guestDifferenceLines } from './same-guest.ts';
import { counted, countText, tableLines } from './table.ts';

/** Of traces and kinds of change, at most so many lines each. */
const MAXIMUM_LINES = 20;

type Style = Parameters<PaintText>[0];

const STYLES: Readonly<Record<ChangeClass, Style>> = {
  regressed: 'red',
  changed: 'yellow',
  fixed: 'green',
  added: 'yellow',
  removed: 'yellow',
  unchanged: 'green',
};

/** What a report needs of one side's file. */
export interface ResultsFacts {
  readonly file: string;
  readonly run: RunFacts;
  readonly traces: number;
  readonly observationsPredicted: number;
}

function factsLine(label: string, { file, run, traces, observationsPredicted }: ResultsFacts): string[] {
  const scope = run.scope.length === 0 ? '' : `, only ${run.scope.join(' ')}`;
  const counts = `${counted(traces, 'trace')}, ${countText(observationsPredicted)} observations predicted`;
  return [label, escapeControls(file), `${counts}${escapeControls(scope)}`, escapeControls(run.writer)];
}

/** Both files, and in which way their machines and policies are not the same. */
export function resultsHeadLines(a: ResultsFacts, b: ResultsFacts, notes: readonly string[]): string[] {
  return [
    ...tableLines([factsLine('A', a), factsLine('B', b)]),
    ...notes.slice(0, MAXIMUM_LINES).map((note) => `note: ${escapeControls(note)}`),
    ...(notes.length > MAXIMUM_LINES ? [`and ${notes.length - MAXIMUM_LINES} notes more`] : []),
  ];
}

/** Classes by row; `unchanged` even if there is nothing of it. */
export function classTableLines(totals: ResultsTotals, paint: PaintText): string[] {
  const rows = CHANGE_CLASSES.filter(
    (name) => name === 'unchanged' || totals[name].traces + totals[name].changes > 0,
  ).map((name) => {
    const { traces, changes, steps } = totals[name];
    return [
      paint(STYLES[name], name),
      countText(traces),
      name === 'unchanged' ? '' : countText(changes),
      countText(steps),
    ];
  });
  return tableLines([['', 'traces', 'changes', 'steps'], ...rows], ['left', 'right', 'right', 'right']);
}

/** One line per trace that is not as before. */
export interface TraceLine {
  readonly name: string;
  readonly change: TraceChange;
  readonly verdicts: readonly [a: string | undefined, b: string | undefined];
}

function traceCells({ name, change, verdicts: [a, b] }: TraceLine, paint: PaintText): string[] {
  const verdict = a === b ? `${a}` : [a, b].filter((each) => each !== undefined).join(' → ');
  const cells = [paint(STYLES[change.class], change.class), escapeControls(name), verdict];
  if (change.changes.length === 0) return cells;
  const steps = change.changes.reduce((sum, each) => sum + each.count, 0);
  const firsts = change.changes.flatMap(({ first }) => first ?? []);
  const where = firsts.length === 0 ? '' : `, the first at step ${Math.min(...firsts)}`;
  return [...cells, `${counted(steps, 'step')}, ${counted(change.changes.length, 'kind')} of change${where}`];
}

export function traceTableLines(lines: readonly TraceLine[], further: number, paint: PaintText): string[] {
  const rows = lines.slice(0, MAXIMUM_LINES).map((line) => traceCells(line, paint));
  const more = further + Math.max(0, lines.length - MAXIMUM_LINES);
  return [...tableLines(rows), ...(more > 0 ? [`and ${counted(more, 'trace')} more`] : [])];
}

function sideText(side: ChangeSide | undefined): string {
  if (side === undefined) return 'match';
  return side.judgement === 'finding' ? side.group : `${side.judgement}: ${side.group}`;
}

/** A step's texts come from a file. */
function escapedJudgement(judgement: StoredJudgement): StoredJudgement {
  if (judgement.kind === 'undetermined') return { ...judgement, why: escapeControls(judgement.why) };
  return judgement.kind === 'expected' ? { ...judgement, name: escapeControls(judgement.name) } : judgement;
}

/** What was kept of a step. */
export function storedStepLines(step: StoredStep, { header }: StoredTrace, paint: PaintText): string[] {
  const [cause, group] = [escapeControls(step.cause), escapeControls(step.group)];
  const { detail } = step;
  if (detail?.kind === 'guest') return guestDifferenceLines({ ...detail.difference, cause, group }, header, paint);
  const judgement = escapedJudgement(step.judgement);
  if (detail !== undefined && judgement.kind !== 'guest-differs') {
    return divergenceLines({ ...detail.divergence, cause, group, judgement }, header, paint);
  }
  const line = step.line === undefined ? '' : ` line ${step.line}`;
  const where = step.source === undefined ? '' : ` (${escapeControls(step.source)}${line})`;
  return [`step ${step.step}${where}: ${judgement.kind}`, `  cause: ${paint('red', cause)}`];
}

function fullSide(
  label: string,
  side: ChangeSide | undefined,
  step: StoredStep | undefined,
  trace: StoredTrace | undefined,
  paint: PaintText,
): string[] {
  const head = `  ${label}  ${escapeControls(sideText(side))}`;
  if (side === undefined || side.judgement === 'finding') return side === undefined ? [head] : [];
  if (step === undefined || trace === undefined) return [head, '       (the step was not kept)'];
  return [head, ...storedStepLines(step, trace, paint).map((line) => `     ${line}`)];
}

/** The first change of a class, with both sides. */
export function fullChangeLines(
  name: string,
  change: Change,
  traces: readonly [a: StoredTrace | undefined, b: StoredTrace | undefined],
  paint: PaintText,
  head = `the first ${change.class}: `,
): string[] {
  const first = change.first === undefined ? '' : `, step ${change.first}`;
  return [
    paint('bold', `${head}${escapeControls(name)}${first}`),
    ...(change.note === undefined ? [] : [`  ${escapeControls(change.note)}`]),
    ...fullSide('A', change.a, change.steps[0], traces[0], paint),
    ...fullSide('B', change.b, change.steps[1], traces[1], paint),
  ];
}

/** The first trace that was added or removed. */
export function fullTraceLines(
  kind: 'added' | 'removed',
  trace: StoredTrace,
  steps: readonly StoredStep[],
  paint: PaintText,
): string[] {
  const { verdict, receipt } = trace;
  return [
    paint('bold', `the first ${kind}: ${escapeControls(traceName(trace))}`),
    `  ${summaryLine({ verdict, receipt, divergences: [] }, paint)}`,
    ...steps.slice(0, 1).flatMap((step) => storedStepLines(step, trace, paint).map((line) => `  ${line}`)),
  ];
}

/** Kinds of change over all traces. */
export interface ChangeKind {
  readonly class: Change['class'];
  readonly a: ChangeSide | undefined;
  readonly b: ChangeSide | undefined;
  count: number;
  traces: number;
}

export function changeKindLines(kinds: readonly ChangeKind[], paint: PaintText): string[] {
  if (kinds.length === 0) return [];
  const sorted = [...kinds].sort(
    (x, y) => CHANGE_CLASSES.indexOf(x.class) - CHANGE_CLASSES.indexOf(y.class) || y.count - x.count,
  );
  const rows = sorted
    .slice(0, MAXIMUM_LINES)
    .map((kind) => [
      paint(STYLES[kind.class], kind.class),
      kind.count === 0 ? '' : counted(kind.count, 'step'),
      `in ${counted(kind.traces, 'trace')}`,
      escapeControls(kindText(kind)),
    ]);
  const more = kinds.length > MAXIMUM_LINES ? [`  and ${kinds.length - MAXIMUM_LINES} kinds more`] : [];
  return ['changes by kind:', ...tableLines(rows, ['left', 'right'], 2), ...more];
}

function kindText({ a, b }: ChangeKind): string {
  if (a?.judgement === 'finding' || b?.judgement === 'finding') return sideText(b ?? a);
  return `${sideText(a)} → ${sideText(b)}`;
}

/** The last line: what the exit status says. */
export function verdictLine(totals: ResultsTotals, paint: PaintText): string {
  const parts = CHANGE_CLASSES.filter((name) => totals[name].traces > 0).map(
    (name) => `${counted(totals[name].traces, 'trace')} ${name}`,
  );
  return paint(totals.regressed.traces > 0 ? 'red' : 'green', parts.length === 0 ? 'no traces' : parts.join(', '));
}
