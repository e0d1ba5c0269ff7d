/** A comparison's result as text for people: the receipt, the first differences in full, how often each class was met. */

import type {
  ComparisonReceipt,
  ComparisonResult,
  ComparisonVerdict,
  Difference,
  DocumentedCount,
  Place,
  PlaceState,
} from '../compare/result.ts';
import type { ComparisonTotals } from '../compare/totals.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { Row } from '../replay/result.ts';
import { unitsOf } from '../replay/units.ts';
import type { TraceHeader } from '../trace/header.ts';
import { escapeControls } from './escape.ts';
import { kvmEventText } from './kvm-events.ts';
import { ENDING_TEXT, type PaintText } from './replay-text.ts';
import { ContextTracker, translationName } from './row-context.ts';
import { type RowContext, rowText } from './rows.ts';
import { stepText } from './steps.ts';
import { counted, countText, tableLines } from './table.ts';

/** Places shown before the first difference and from it on; rows of one side where they are not aligned. */
const PLACES_BEFORE = 6;
const MAXIMUM_PLACES = 16;
const MAXIMUM_ROWS = 40;
const MAXIMUM_GROUPS = 20;

export const VERDICT_TEXT: Readonly<Record<ComparisonVerdict, string>> = {
  unchanged: 'unchanged',
  changed: 'CHANGED',
  'not-modelled': 'NOT MODELLED',
  'nothing-compared': 'NOTHING COMPARED',
  skipped: 'skipped',
};

function isGood(verdict: ComparisonVerdict): boolean {
  return verdict === 'unchanged' || verdict === 'skipped';
}

function listOf(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([name, count]) => `${countText(count)} ${name}`)
    .join(', ');
}

type Counts = Pick<
  ComparisonReceipt,
  | 'stepsCompared'
  | 'rows'
  | 'events'
  | 'registerSets'
  | 'entries'
  | 'words'
  | 'documented'
  | 'notCompared'
  | 'notModelled'
  | 'changed'
>;

function countLines(counts: Counts): string[] {
  const { stepsCompared, rows, events, registerSets, entries, words, documented, notCompared, notModelled, changed } =
    counts;
  const events_ = events === 0 ? '' : `, ${counted(events, 'event')} of KVM among them`;
  const lines = [
    `compared: ${counted(stepsCompared, 'step')}, ${counted(rows, 'row')}${events_}`,
    `  also registers after ${counted(registerSets, 'step')}, ${countText(entries)} guest ${entries === 1 ? 'entry' : 'entries'}, ${counted(words, 'word')} of guest memory at the end`,
  ];
  if (Object.keys(notCompared).length > 0) lines.push(`not compared: ${listOf(notCompared)}`);
  if (Object.keys(notModelled).length > 0) lines.push(`not modelled by one side or both: ${listOf(notModelled)}`);
  lines.push(...documentedLines(documented));
  lines.push(changed === 0 ? 'nothing changed' : counted(changed, 'difference'));
  return lines;
}

function documentedLines(documented: readonly DocumentedCount[]): string[] {
  return documented.map(
    ({ name, citation, count }) => `documented difference ${name}: ${countText(count)} (${citation})`,
  );
}

/** What was compared, what was not and why: before all else. */
export function comparisonReceiptLines({ receipt, labels }: ComparisonResult): string[] {
  const facts: [string, string][] = [
    ['trace', `${receipt.file}: ${receipt.title}`],
    [labels[0], receipt.sides[0]],
    [labels[1], receipt.sides[1]],
    ['policy', receipt.policy],
    ['digest', `${receipt.digest ?? 'none'}${ENDING_TEXT[receipt.ending]}`],
    ['steps', countText(receipt.steps)],
  ];
  const lines = tableLines(facts.map(([name, value]) => [name, escapeControls(value)]));
  for (const sentence of receipt.limits) lines.push(`note: ${escapeControls(sentence)}`);
  return [...lines, ...countLines(receipt)];
}

/** One line per trace. */
export function comparisonSummaryLine({ verdict, receipt }: ComparisonResult, paint: PaintText): string {
  const { steps, rows, changed, documented, notModelled, groups, ending } = receipt;
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, count) => total + count, 0);
  const known = sum(documented.map(({ count }) => count));
  const unmodelled = sum(Object.values(notModelled));
  const first = Math.min(...groups.map((group) => group.first));
  const extra = [
    changed > 0 ? `${counted(changed, 'difference')}, the first at step ${first}` : '',
    known > 0 ? `${countText(known)} documented` : '',
    unmodelled > 0 ? `${countText(unmodelled)} not modelled` : '',
    ending === 'cut short' ? 'CUT SHORT' : '',
  ].filter((part) => part !== '');
  const word = paint(isGood(verdict) ? 'green' : 'red', VERDICT_TEXT[verdict].padEnd(9));
  return [`${word} ${escapeControls(receipt.file)}: ${counted(steps, 'step')}, ${counted(rows, 'row')}`, ...extra].join(
    ', ',
  );
}

interface SideContext {
  readonly rows: RowContext;
  readonly mmu: KvmConfig | undefined;
}

function contextsOf(
  { registers, configs }: Difference,
  header: TraceHeader,
): readonly [a: SideContext, b: SideContext] {
  const { context } = new ContextTracker(header, registers);
  const [a, b] = configs;
  return [
    { rows: { ...context, mmu: a }, mmu: a },
    { rows: { ...context, mmu: b }, mmu: b },
  ];
}

/** An event of KVM with its further rows, or one row of another kind. */
function unitText(rows: readonly Row[], { rows: context, mmu }: SideContext): string {
  const row = rows[0]!;
  if ((row.op & OBS_KIND_MASK) === Obs.KVM_EVENT) return kvmEventText(rows, mmu);
  return rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi, context);
}

/** What one side did, a line each. */
function sideLines(rows: readonly Row[], context: SideContext): string[] {
  const lines = unitsOf(rows.slice(0, 3 * MAXIMUM_ROWS))
    .slice(0, MAXIMUM_ROWS)
    .map((unit) => unitText(unit.rows, context));
  if (lines.length === 0) return ['(nothing)'];
  const shown = unitsOf(rows).length;
  return shown > lines.length ? [...lines, `and ${countText(shown - lines.length)} more`] : lines;
}

export function stimulusText(difference: Difference, header: TraceHeader): string | undefined {
  if (!difference.ofStep) return undefined;
  const { op, addressLo, addressHi, operandLo, operandHi } = difference;
  return stepText(op, addressLo, addressHi, operandLo, operandHi, [], contextsOf(difference, header)[0].rows);
}

const MARK: Readonly<Record<PlaceState, string>> = { equal: ' ', differs: '!', 'only-a': '-', 'only-b': '+' };

/** What is equal stands once, what differs on both sides. */
function placeLines(
  difference: Difference,
  labels: readonly [string, string],
  contexts: readonly [SideContext, SideContext],
  paint: PaintText,
): string[] {
  const { places, at } = difference;
  const begin = Math.max(0, at - PLACES_BEFORE);
  const end = Math.min(places.length, at + MAXIMUM_PLACES);
  const width = Math.max(labels[0].length, labels[1].length);
  const lines: string[] = [];
  if (begin > 0) lines.push(paint('dim', `      ${counted(begin, 'row')} alike`));
  const side = (which: 0 | 1, rows: readonly Row[]): string =>
    `${labels[which].padEnd(width)}  ${unitText(rows, contexts[which])}`;
  for (const { state, a, b } of places.slice(begin, end)) {
    const mark = `    ${MARK[state]} `;
    if (state === 'equal') {
      lines.push(paint('dim', `${mark}${unitText(a, contexts[0])}`));
      continue;
    }
    if (a.length > 0) lines.push(mark + side(0, a));
    if (b.length > 0) lines.push(mark + side(1, b));
  }
  if (end < places.length) lines.push(`    and ${countText(places.length - end)} more`);
  return lines;
}

/** One difference: the step, both sides, what differs. */
export function differenceLines(
  difference: Difference,
  { labels }: ComparisonResult,
  header: TraceHeader,
  paint: PaintText,
): string[] {
  const { step, line, source, cause, places, a, b, registers, ofStep } = difference;
  const where = source === undefined ? '' : ` (${source}${line === undefined ? '' : ` line ${line}`})`;
  const lines = [
    paint('bold', ofStep ? `step ${step}${escapeControls(where)}` : `after step ${step}, the last one`),
    ...(ofStep ? [`  stimulus: ${stimulusText(difference, header)}  in ${translationName(registers)}`] : []),
    `  ${paint('red', escapeControls(cause))}`,
  ];
  if (!ofStep) return lines;
  const contexts = contextsOf(difference, header);
  if (places.length > 0) return [...lines, ...placeLines(difference, labels, contexts, paint)];
  for (const [which, rows] of [a, b].entries()) {
    lines.push(`  ${labels[which]}:`);
    lines.push(...sideLines(rows, contexts[which]!).map((text) => paint('dim', `    ${text}`)));
  }
  return lines;
}

/** The differences by class, in the order in which they were first met. */
export function differenceGroupLines({ groups }: ComparisonReceipt): string[] {
  if (groups.length === 0) return [];
  const rows = groups
    .slice(0, MAXIMUM_GROUPS)
    .map(({ group, count, first }) => [countText(count), group, `first at step ${first}`]);
  const lines = ['differences by class:', ...tableLines(rows, ['right'], 2)];
  if (groups.length > MAXIMUM_GROUPS) lines.push(`  and ${groups.length - MAXIMUM_GROUPS} classes more`);
  return lines;
}

/** All traces of a run together. */
export function comparisonTotalLines(totals: ComparisonTotals, paint: PaintText): string[] {
  const verdicts = Object.entries(totals.verdicts).filter(([, count]) => count > 0);
  const good = verdicts.every(([verdict]) => isGood(verdict as ComparisonVerdict)) && totals.rows > 0;
  const lines = [paint('bold', `${counted(totals.traces, 'trace')}, ${counted(totals.steps, 'step')}`)];
  lines.push(...countLines(totals));
  const groups = totals.groups
    .slice(0, MAXIMUM_GROUPS)
    .map(({ group, count, traces }) => [countText(count), group, `in ${counted(traces, 'trace')}`]);
  if (groups.length > 0) lines.push('differences by class:', ...tableLines(groups, ['right'], 2));
  if (totals.groups.length > MAXIMUM_GROUPS) lines.push(`  and ${totals.groups.length - MAXIMUM_GROUPS} classes more`);
  const words = verdicts.map(([verdict, count]) => `${countText(count)} ${VERDICT_TEXT[verdict as ComparisonVerdict]}`);
  lines.push(paint(good ? 'green' : 'red', words.length === 0 ? 'nothing compared' : words.join(', ')));
  return lines;
}

/** A place for machines: each side as one line of text, `null` for nothing. */
export function placeObject(place: Place, difference: Difference, header: TraceHeader): object {
  const contexts = contextsOf(difference, header);
  const side = (which: 0 | 1, rows: readonly Row[]): string | null =>
    rows.length === 0 ? null : unitText(rows, contexts[which]);
  const fields = place.fields.length === 0 ? {} : { fields: place.fields };
  return { state: place.state, a: side(0, place.a), b: side(1, place.b), ...fields };
}

/** What each side did, for machines. */
export function sideTexts(difference: Difference, header: TraceHeader): readonly [a: string[], b: string[]] {
  const [a, b] = contextsOf(difference, header);
  return [sideLines(difference.a, a), sideLines(difference.b, b)];
}
