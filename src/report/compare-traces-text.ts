/** What `rewalk compare` found between two traces, as text: a table of classes, then the first of each, in few lines. */

import type { DifferenceClass, FirstDifference } from '../compare/trace-classes.ts';
import type { EventCounts, Observed } from '../compare/trace-events.ts';
import type { HeaderChange } from '../compare/trace-headers.ts';
import type { TraceStep } from '../compare/trace-steps.ts';
import type { StepCounts, TracesResult } from '../compare/traces.ts';
import type { TraceHeader } from '../trace/header.ts';
import { escapeControls } from './escape.ts';
import { reportLine } from './lines.ts';
import type { PaintText } from './replay-text.ts';
import { ContextTracker } from './row-context.ts';
import type { RowContext } from './rows.ts';
import { stepText } from './steps.ts';
import { counted, countText, tableLines } from './table.ts';

/** One of the two, as the report names it. */
export interface TraceFacts {
  readonly path: string;
  readonly header: TraceHeader;
  readonly steps: number;
}

/** Both, as the report names them. */
export type Sides = Readonly<Record<'a' | 'b', TraceFacts>>;

export interface TracesReport extends Sides {
  readonly headers: readonly HeaderChange[];
  /** Kinds of observation that one recorder could not see. */
  readonly notCompared: readonly string[];
  /** Events of KVM that one of the recordings does not have at all. */
  readonly oneSided: readonly string[];
  readonly result: TracesResult;
}

/** A whole report has fewer lines than this, unless more is asked for. */
const LINES = 58;
const TABLE_ROWS = 22;
const HEADER_CHANGES = 6;
const TITLE_WIDTH = 100;
const VALUE_WIDTH = 40;
export const NAMES_OF_DOING = { guest: 'guest', host: 'host', kvm: 'KVM' } as const;

export function cut(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text;
}

function contextOf(header: TraceHeader, { columns }: TraceStep): RowContext {
  return new ContextTracker(header, columns.registers).context;
}

function factsText({ path, header, steps }: TraceFacts): string {
  const { hypervisor } = header;
  const under = hypervisor === undefined ? '' : `, ${hypervisor.name} ${hypervisor.version}`.trimEnd();
  return `${escapeControls(path)}: ${escapeControls(header.title) || 'untitled'}${escapeControls(under)}, ${counted(steps, 'step')}`;
}

/** Which two, in what their headers differ, how far they stand side by side. */
function headLines({ a, b, headers, notCompared, oneSided, result }: TracesReport): string[] {
  const { steps, events, marks } = result;
  const rows: string[][] = [
    ['A', factsText(a)],
    ['B', factsText(b)],
  ];
  const shown = headers
    .slice(0, HEADER_CHANGES)
    .map(({ what, a: x, b: y }) => escapeControls(`${what} ${cut(x, VALUE_WIDTH)} → ${cut(y, VALUE_WIDTH)}`));
  if (headers.length > HEADER_CHANGES) shown.push(`${headers.length - HEADER_CHANGES} more`);
  if (shown.length > 0) rows.push(['recorded', `with ${shown.join(', ')}`]);
  if (notCompared.length > 0) rows.push(['skipped', `only one recorder could see: ${notCompared.join(', ')}`]);
  if (oneSided.length > 0)
    rows.push(['absent', `from one of the two, switched off or never met: ${oneSided.join(', ')}`]);
  rows.push(['steps', stepsText(steps, marks)], ['events', eventsText(events)]);
  return tableLines(rows);
}

/** How many stand side by side. `marks`: notes of the guest among them. */
export function stepsText(steps: StepCounts, marks: number): string {
  const by = marks === 0 ? 'by content' : `${counted(marks, 'mark')} of the guest among them`;
  return `${countText(steps.both)} in both (${by}), ${countText(steps.differ)} of which differ; ${countText(steps.onlyA)} only in A, ${countText(steps.onlyB)} only in B`;
}

export function eventsText(events: EventCounts): string {
  return `${countText(events.equal)} equal, ${countText(events.differ)} differ, ${countText(events.moved)} in another order; ${countText(events.onlyA)} only in A, ${countText(events.onlyB)} only in B`;
}

/** `set-spte, spte: a 1 → 0 (bit 8)`, `exit P|W only in A`. */
export function classTitle({ subject, kind, change }: Pick<DifferenceClass, 'subject' | 'kind' | 'change'>): string {
  if (kind === 'differs') return change === '' ? `${subject} differs` : `${subject}, ${change}`;
  if (kind === 'moved') return `${subject} in another order within a step`;
  return `${subject} only in ${kind === 'only-a' ? 'A' : 'B'}`;
}

/** `1 class`, `12 more classes`. */
export function classesText(count: number, which = ''): string {
  return `${countText(count)} ${which}${count === 1 ? 'class' : 'classes'}`;
}

/** The same with what comes along, no longer than a table can have. */
export function tableTitle(each: Omit<DifferenceClass, 'count'>): string {
  const { companions, events } = each;
  const along = [
    events === 0 ? '' : counted(events, 'event'),
    companions === 0 ? '' : `${counted(companions, 'step')} beside`,
  ].filter((text) => text !== '');
  const title = classTitle(each);
  const shown = cut(title, TITLE_WIDTH);
  return along.length === 0 ? shown : `${shown} (with ${along.join(' and ')})`;
}

export function placeText(step: TraceStep | undefined, { segment }: FirstDifference): string {
  if (step === undefined) return '-';
  const vcpu = step.vcpu === 0 ? '' : `, vCPU ${step.vcpu}`;
  return `${segment === 0 ? '' : `segment ${segment}, `}step ${step.step}${vcpu}`;
}

function classTable(classes: readonly DifferenceClass[], beyond: number): string[] {
  const shown = classes.slice(0, TABLE_ROWS);
  const rows = shown.map((each) => [
    countText(each.count),
    NAMES_OF_DOING[each.doing],
    tableTitle(each),
    placeText(each.first.a, each.first),
    placeText(each.first.b, each.first),
  ]);
  const lines = tableLines([['times', 'whose', 'difference', 'first in A', 'in B'], ...rows], ['right'], 2);
  const rest = classes.slice(TABLE_ROWS);
  const further = rest.reduce((sum, { count }) => sum + count, 0) + beyond;
  if (further > 0) {
    lines.push(`  and ${counted(further, 'difference')} of ${classesText(rest.length, 'further ')}, all in --json`);
  }
  return lines;
}

/** A step in one line, without where it stands. */
export function stepLine(step: TraceStep, header: TraceHeader): string {
  const { op, address, operand, stimuli } = step.columns;
  const i = 2 * step.at;
  const context = contextOf(header, step);
  return stepText(op[step.at]!, address[i]!, address[i + 1]!, operand[i]!, operand[i + 1]!, stimuli, context);
}

/** One side of a difference in full: where, the step, the event in it. */
export function sideText(step: TraceStep, rows: Observed | undefined, header: TraceHeader): string {
  const line = step.columns.lineOf(step.at);
  const at = `step ${step.step}${line === undefined ? '' : ` (line ${line})`}`;
  const stimulus = stepLine(step, header);
  if (rows === undefined) return `${at}  ${stimulus}`;
  return `${at}  ${reportLine(rows, contextOf(header, step)).text}  in: ${stimulus}`;
}

/** What either side has at the first difference of a class. */
export function sideLines({ kind, first }: Pick<DifferenceClass, 'kind' | 'first'>, { a, b }: Sides): string[] {
  const lines: string[] = [];
  if (first.a !== undefined && kind !== 'only-b') lines.push(`   A ${sideText(first.a, first.rowsA, a.header)}`);
  if (first.b !== undefined && kind !== 'only-a') lines.push(`   B ${sideText(first.b, first.rowsB, b.header)}`);
  return lines;
}

/** The sentence that ends the report. */
export function tracesVerdict({ result }: TracesReport, paint: PaintText): string {
  const { differences, classes, beyond, steps, segments } = result;
  if (segments.a === 0 || segments.b === 0 || steps.both + steps.onlyA + steps.onlyB === 0) {
    return paint('red', 'nothing compared');
  }
  if (differences === 0) return paint('green', `equal: ${counted(steps.both, 'step')} of both say the same`);
  const kinds = `${countText(classes.length)}${beyond > 0 ? ' and more' : ''} ${classes.length === 1 ? 'class' : 'classes'}`;
  return paint('red', `different: ${counted(differences, 'difference')} of ${kinds}`);
}

/** `full`: classes whose first is told in full; undefined: as many as a report of bounded length holds. */
export function tracesLines(report: TracesReport, full: number | undefined, paint: PaintText): string[] {
  const { classes, beyond } = report.result;
  const lines = headLines(report);
  if (classes.length > 0) lines.push('', ...classTable(classes, beyond), '');
  let told = 0;
  for (const each of classes) {
    const next = [paint('bold', `${told + 1}. ${classTitle(each)}`), ...sideLines(each, report)];
    // Two lines are kept: for what is not told, and for the verdict.
    if (full === undefined ? lines.length + next.length > LINES - 2 : told >= full) break;
    lines.push(...next);
    told++;
  }
  if (told < classes.length) {
    lines.push(`   (the first of ${classesText(classes.length - told, 'more ')}: --max-diffs ${classes.length})`);
  }
  lines.push(tracesVerdict(report, paint));
  return lines;
}
