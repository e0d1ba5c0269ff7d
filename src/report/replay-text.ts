/** A replay's result as text for people: the receipt, the first divergences side by side, groups of the like. */

import { OBS_DIM_MASK, OBS_DIM_SHIFT, OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { Divergence, Ending, Judgement, Receipt, ReplayResult, Row, Verdict } from '../replay/result.ts';
import { CHUNK_STATE } from '../replay/result.ts';
import type { Totals } from '../replay/totals.ts';
import type { TraceHeader } from '../trace/header.ts';
import { escapeControls } from './escape.ts';
import { ContextTracker, translationName } from './row-context.ts';
import { type RowContext, rowText } from './rows.ts';
import { stepText } from './steps.ts';
import { countText, tableLines } from './table.ts';

/** Puts a style on a text; the identity where no colour is wanted. */
export type PaintText = (style: 'bold' | 'green' | 'red' | 'yellow' | 'dim', text: string) => string;

/** Rows shown from the first difference on. */
const MAXIMUM_ROWS = 12;

const ENDING_TEXT: Readonly<Record<Ending, string>> = {
  complete: '',
  'cut short': ' (the trace is cut short)',
  'not read': ' (stopped before the end of the trace)',
};

const VERDICT_TEXT: Readonly<Record<Verdict, string>> = {
  match: 'match',
  diverged: 'DIVERGED',
  'not-modelled': 'NOT MODELLED',
  'nothing-compared': 'NOTHING COMPARED',
};

/** One line per trace. */
export function summaryLine({ verdict, receipt }: ReplayResult, paint: PaintText): string {
  const extra = [
    receipt.staleAllowed > 0 ? `${countText(receipt.staleAllowed)} stale, allowed` : '',
    sum(receipt.expected) > 0 ? `${countText(sum(receipt.expected))} expected` : '',
    receipt.undetermined > 0 ? `${countText(receipt.undetermined)} undetermined` : '',
    receipt.diverged > 0 ? `${countText(receipt.diverged)} diverged` : '',
    sum(receipt.notModelled) > 0 ? `${countText(sum(receipt.notModelled))} not modelled` : '',
    receipt.ending === 'cut short' ? 'CUT SHORT' : '',
  ].filter((part) => part !== '');
  const word = paint(verdict === 'match' ? 'green' : 'red', VERDICT_TEXT[verdict].padEnd(8));
  const counts = `${countText(receipt.steps)} steps, ${countText(receipt.observationsPredicted)} observations predicted`;
  return [`${word} ${escapeControls(receipt.file)}: ${counts}`, ...extra].join(', ');
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}

function listOf(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([name, count]) => `${countText(count)} ${escapeControls(name)}`)
    .join(', ');
}

/** What a receipt and the totals of many have in common. */
type Counted = Pick<
  Receipt,
  'counts' | 'observationsPredicted' | 'skipped' | 'notModelled' | 'staleAllowed' | 'undetermined' | 'expected'
>;

function countLines(counted: Counted): string[] {
  const head = ['observation', 'count', 'predicted', 'renamed', 'learned', 'input'];
  const rows = counted.counts.map((c) => [
    c.kind,
    ...[c.observations, c.predicted, c.renamed, c.learned, c.input].map(countText),
  ]);
  const lines = ['compared and equal; predicted to input are fields:'];
  lines.push(...tableLines([head, ...rows], ['left', 'right', 'right', 'right', 'right', 'right'], 2));
  lines.push(`observations predicted in every field: ${countText(counted.observationsPredicted)}`);
  if (sum(counted.skipped) > 0) lines.push(`not compared: ${listOf(counted.skipped)}`);
  if (sum(counted.notModelled) > 0) lines.push(`not modelled: ${listOf(counted.notModelled)}`);
  if (counted.staleAllowed > 0) lines.push(`match (stale, allowed): ${countText(counted.staleAllowed)}`);
  if (counted.undetermined > 0) lines.push(`undetermined: ${countText(counted.undetermined)}`);
  if (sum(counted.expected) > 0) lines.push(`expected, by known fault: ${listOf(counted.expected)}`);
  return lines;
}

/** All traces of a run together. */
export function totalLines(totals: Totals, paint: PaintText): string[] {
  const verdicts = listOf(Object.fromEntries(Object.entries(totals.verdicts).filter(([, count]) => count > 0)));
  const good = totals.traces > 0 && totals.verdicts.match === totals.traces;
  return [
    paint('bold', `${countText(totals.traces)} traces, ${countText(totals.steps)} steps`),
    ...countLines(totals),
    paint(good ? 'green' : 'red', verdicts === '' ? 'nothing replayed' : verdicts),
  ];
}

/** The receipt: what was compared, what was not and why. */
export function receiptLines(receipt: Receipt): string[] {
  const facts: [string, string][] = [
    ['trace', `${receipt.file}: ${receipt.title}`],
    ['recorder', receipt.recorder],
    ['machine', `${receipt.machine}; ${receipt.policy}`],
    ['digest', `${receipt.digest ?? 'none'}${ENDING_TEXT[receipt.ending]}`],
    ['steps', `${countText(receipt.steps)}: ${listOf(receipt.stepsByKind)}`],
  ];
  const lines = tableLines(facts.map(([name, value]) => [name, escapeControls(value)]));
  lines.push(...countLines(receipt));
  for (const sentence of receipt.brokenExpectations)
    lines.push(`expectation does not hold: ${escapeControls(sentence)}`);
  return lines;
}

function judgementText(judgement: Judgement): string {
  switch (judgement.kind) {
    case 'stale-after-invalidation':
      return `diverged (stale after invalidation at step ${judgement.invalidatedAt})`;
    case 'undetermined':
      return `undetermined (${judgement.why})`;
    default:
      return judgement.kind;
  }
}

function indentOf(row: Row): string {
  const kind = row.op & OBS_KIND_MASK;
  const nested =
    ((row.op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) !== 0 && (kind === Obs.ELEMENT || kind === Obs.ENTRY_WRITE);
  return nested ? '  ' : '';
}

function text(row: Row | undefined, context: RowContext): string {
  if (row === undefined) return '(nothing)';
  return indentOf(row) + rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi, context);
}

/** One divergence: the step, both sides, the cause. */
export function divergenceLines(divergence: Divergence, header: TraceHeader, paint: PaintText): string[] {
  const { recorded, replayed, firstDifference: at } = divergence;
  const { context } = new ContextTracker(header, divergence.registers);
  const where =
    divergence.source === undefined
      ? ''
      : ` (${divergence.source}${divergence.line === undefined ? '' : ` line ${divergence.line}`})`;
  const { op, addressLo, addressHi, operandLo, operandHi } = divergence;
  const stimulus =
    divergence.group === CHUNK_STATE
      ? 'none yet: a chunk of steps begins'
      : stepText(op, addressLo, addressHi, operandLo, operandHi, [], context);
  const lines = [
    paint('bold', `step ${divergence.step}${escapeControls(where)}: ${judgementText(divergence.judgement)}`),
    `  stimulus: ${stimulus}  in ${translationName(divergence.registers)}`,
    `  cause: ${paint('red', divergence.cause)}`,
  ];
  if (at > 0) {
    lines.push(`  alike before, ${at} observation${at === 1 ? '' : 's'}:`);
    for (const row of recorded.slice(0, at)) lines.push(paint('dim', `    ${text(row, context)}`));
  }
  const end = Math.max(recorded.length, replayed.length);
  const shown = Math.min(end, at + MAXIMUM_ROWS);
  const sides = Array.from({ length: shown - at }, (_, i) => [
    text(recorded[at + i], context),
    text(replayed[at + i], context),
  ]);
  lines.push(...tableLines([['recorded', 'replayed'], ...sides], [], 4));
  if (shown < end) lines.push(`    and ${end - shown} more`);
  const unseen = divergence.walk.length > replayed.length ? divergence.walk : [];
  if (unseen.length > 0) {
    lines.push('  the walk of the replay:');
    for (const row of unseen) lines.push(paint('dim', `    ${text(row, context)}`));
  }
  return lines;
}

/** The divergences by group, most frequent first. */
export function groupLines(receipt: Receipt, limit = 20): string[] {
  if (receipt.groups.length === 0) return [];
  const rows = receipt.groups.slice(0, limit).map((g) => [countText(g.count), g.group, `first at step ${g.first}`]);
  const lines = ['divergences of the like:', ...tableLines(rows, ['right'], 2)];
  if (receipt.groups.length > limit) lines.push(`  and ${receipt.groups.length - limit} groups more`);
  return lines;
}
