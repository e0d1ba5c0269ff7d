/** A replay's result as text for people: the receipt, the first divergences side by side, groups of the like. */

import { OBS_DIM_MASK, OBS_DIM_SHIFT, OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { Divergence, Judgement, Receipt, ReplayResult, Row, Verdict } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { escapeControls } from './escape.ts';
import { ContextTracker, translationName } from './row-context.ts';
import { type RowContext, rowText } from './rows.ts';
import { stepText } from './steps.ts';
import { countText, tableLines } from './table.ts';

/** Puts a style on a text; the identity where no colour is wanted. */
export type PaintText = (style: 'bold' | 'green' | 'red' | 'yellow' | 'dim', text: string) => string;

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
    receipt.complete ? '' : 'CUT SHORT',
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
    .map(([name, count]) => `${countText(count)} ${name}`)
    .join(', ');
}

/** The receipt: what was compared, what was not and why. */
export function receiptLines(receipt: Receipt): string[] {
  const facts: [string, string][] = [
    ['trace', `${receipt.file}: ${receipt.title}`],
    ['recorder', receipt.recorder],
    ['machine', `${receipt.machine}; ${receipt.policy}`],
    ['digest', `${receipt.digest ?? 'none'}${receipt.complete ? '' : ' (the trace is cut short)'}`],
    ['steps', `${countText(receipt.steps)}: ${listOf(receipt.stepsByKind)}`],
  ];
  const lines = tableLines(facts.map(([name, value]) => [name, escapeControls(value)]));
  const counts = receipt.counts.map((c) => [
    c.kind,
    countText(c.observations),
    countText(c.predicted),
    countText(c.renamed),
    countText(c.learned),
    countText(c.input),
  ]);
  lines.push('compared and equal, in fields:');
  const head = ['observation', 'count', 'predicted', 'renamed', 'learned', 'input'];
  lines.push(...tableLines([head, ...counts], ['left', 'right', 'right', 'right', 'right', 'right'], 2));
  lines.push(`observations predicted in every field: ${countText(receipt.observationsPredicted)}`);
  if (sum(receipt.skipped) > 0) lines.push(`not compared: ${listOf(receipt.skipped)}`);
  if (sum(receipt.notModelled) > 0) lines.push(`not modelled: ${listOf(receipt.notModelled)}`);
  if (receipt.staleAllowed > 0) lines.push(`match (stale, allowed): ${countText(receipt.staleAllowed)}`);
  if (receipt.undetermined > 0) lines.push(`undetermined: ${countText(receipt.undetermined)}`);
  if (sum(receipt.expected) > 0) lines.push(`expected, by known fault: ${listOf(receipt.expected)}`);
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
  const lines = [
    paint('bold', `step ${divergence.step}${escapeControls(where)}: ${judgementText(divergence.judgement)}`),
    `  stimulus: ${stepText(op, addressLo, addressHi, operandLo, operandHi, [], context)}  in ${translationName(divergence.registers)}`,
    `  cause: ${paint('red', divergence.cause)}`,
  ];
  if (at > 0) {
    lines.push(`  alike before, ${at} observation${at === 1 ? '' : 's'}:`);
    for (const row of recorded.slice(0, at)) lines.push(paint('dim', `    ${text(row, context)}`));
  }
  const end = Math.max(recorded.length, replayed.length);
  for (let i = at; i < end; i++) {
    lines.push(`  recorded: ${text(recorded[i], context)}`);
    lines.push(`  replayed: ${text(replayed[i], context)}`);
  }
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
