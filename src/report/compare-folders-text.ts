/**
 * What `rewalk compare` found between two folders of traces, as text: a table of the traces that differ, one of the classes
 * of difference over all of them, then the first of each class.
 */

import type { CorpusClass, PairVerdict } from '../compare/trace-corpus.ts';
import type { EventCounts } from '../compare/trace-events.ts';
import type { StepCounts } from '../compare/traces.ts';
import {
  classesText,
  classTitle,
  cut,
  eventsText,
  NAMES_OF_DOING,
  placeText,
  type Sides,
  sideLines,
  stepsText,
  tableTitle,
} from './compare-traces-text.ts';
import { escapeControls } from './escape.ts';
import type { PaintText } from './replay-text.ts';
import { counted, countText, tableLines } from './table.ts';

/** Where a class was first met. */
export interface TraceWhere extends Sides {
  /** The trace's name below both folders. */
  readonly name: string;
}

/** One trace that both folders have, and that is not equal. */
export interface PairLine {
  readonly name: string;
  readonly verdict: Exclude<PairVerdict, 'equal'>;
  readonly differences: number;
  readonly classes: number;
  /** The most frequent class, or why there is none. */
  readonly what: string;
}

export interface FoldersReport {
  readonly a: string;
  readonly b: string;
  readonly verdicts: Readonly<Record<PairVerdict, number>>;
  /** Names that only one folder has. */
  readonly removed: readonly string[];
  readonly added: readonly string[];
  readonly pairs: readonly PairLine[];
  readonly steps: StepCounts;
  readonly events: EventCounts;
  readonly marks: number;
  readonly differences: number;
  readonly classes: readonly CorpusClass<TraceWhere>[];
  readonly beyond: number;
}

/** A whole report has fewer lines than this, unless more is asked for. */
const LINES = 78;
const PAIR_ROWS = 20;
const CLASS_ROWS = 16;
const NAMES = 6;
const WHAT_WIDTH = 80;

const VERDICT_TEXT: Readonly<Record<PairVerdict, string>> = {
  equal: 'equal',
  different: 'different',
  'nothing-compared': 'nothing compared',
  unreadable: 'unreadable',
};

function traces(count: number): string {
  return counted(count, 'trace');
}

/** The first names, and how many more there are. */
export function someNames(names: readonly string[]): string {
  const shown = names.slice(0, NAMES).map(escapeControls);
  if (names.length > NAMES) shown.push(`${names.length - NAMES} more`);
  return shown.join(', ');
}

function verdictsText(verdicts: FoldersReport['verdicts']): string {
  const names = Object.keys(VERDICT_TEXT) as PairVerdict[];
  const parts = names.filter((name) => verdicts[name] > 0).map((name) => `${verdicts[name]} ${VERDICT_TEXT[name]}`);
  return parts.join(', ');
}

/** Which two folders, how far they stand side by side. */
export function foldersHeadLines(report: FoldersReport): string[] {
  const { a, b, removed, added, verdicts, steps, events, marks } = report;
  const both = Object.values(verdicts).reduce((sum, count) => sum + count, 0);
  const rows = [
    ['A', `${escapeControls(a)}: ${traces(both + removed.length)}`],
    ['B', `${escapeControls(b)}: ${traces(both + added.length)}`],
    ['both', `${traces(both)} of the same name: ${verdictsText(verdicts)}`],
  ];
  if (removed.length > 0) rows.push(['removed', `${countText(removed.length)} only in A: ${someNames(removed)}`]);
  if (added.length > 0) rows.push(['added', `${countText(added.length)} only in B: ${someNames(added)}`]);
  rows.push(['steps', stepsText(steps, marks)], ['events', eventsText(events)]);
  return tableLines(rows);
}

function pairTable(pairs: readonly PairLine[]): string[] {
  const rows = pairs
    .slice(0, PAIR_ROWS)
    .map(({ name, verdict, differences, classes, what }) => [
      countText(differences),
      countText(classes),
      escapeControls(name),
      VERDICT_TEXT[verdict],
      cut(what, WHAT_WIDTH),
    ]);
  const lines = tableLines(
    [['differences', 'classes', 'trace', 'verdict', 'most frequent'], ...rows],
    ['right', 'right'],
    2,
  );
  if (pairs.length > PAIR_ROWS) lines.push(`  and ${traces(pairs.length - PAIR_ROWS)} more, all in --json`);
  return lines;
}

function classTable(classes: FoldersReport['classes'], beyond: number): string[] {
  const rows = classes
    .slice(0, CLASS_ROWS)
    .map((each) => [
      countText(each.count),
      countText(each.traces),
      NAMES_OF_DOING[each.doing],
      tableTitle(each),
      escapeControls(each.where.name),
      placeText(each.first.a, each.first),
      placeText(each.first.b, each.first),
    ]);
  const head = ['times', 'traces', 'whose', 'difference', 'first in', 'of A', 'of B'];
  const lines = tableLines([head, ...rows], ['right', 'right'], 2);
  const rest = classes.slice(CLASS_ROWS);
  const further = rest.reduce((sum, { count }) => sum + count, 0) + beyond;
  if (further > 0) {
    lines.push(`  and ${counted(further, 'difference')} of ${classesText(rest.length, 'further ')}, all in --json`);
  }
  return lines;
}

/** The sentence that ends the report. */
export function foldersVerdict(report: FoldersReport, paint: PaintText): string {
  const { verdicts, removed, added, differences, classes, beyond } = report;
  const { equal, different, 'nothing-compared': nothing, unreadable } = verdicts;
  if (equal + different === 0) return paint('red', 'nothing compared');
  const parts: string[] = [];
  if (different > 0) {
    const more = beyond > 0 ? ' and more' : '';
    parts.push(`${traces(different)}: ${counted(differences, 'difference')} of ${classesText(classes.length)}${more}`);
  }
  if (removed.length + added.length > 0) parts.push(`${traces(removed.length + added.length)} of one folder only`);
  if (nothing > 0) parts.push(`${traces(nothing)} of which nothing was compared`);
  if (unreadable > 0) parts.push(`${traces(unreadable)} that could not be read`);
  if (parts.length === 0) return paint('green', `equal: ${traces(equal)} of both say the same`);
  return paint('red', `different: ${parts.join('; ')}`);
}

/** `full`: classes whose first is told in full; undefined: as many as a report of bounded length holds. */
export function foldersLines(report: FoldersReport, full: number | undefined, paint: PaintText): string[] {
  const { classes, pairs, beyond } = report;
  const lines = foldersHeadLines(report);
  if (pairs.length > 0) lines.push('', ...pairTable(pairs));
  if (classes.length > 0) lines.push('', ...classTable(classes, beyond));
  let told = 0;
  for (const each of classes) {
    const title = `${told + 1}. ${classTitle(each)}  in ${escapeControls(each.where.name)}`;
    const next = [...(told === 0 ? [''] : []), paint('bold', title), ...sideLines(each, each.where)];
    // Two lines are kept: for what is not told, and for the verdict.
    if (full === undefined ? lines.length + next.length > LINES - 2 : told >= full) break;
    lines.push(...next);
    told++;
  }
  if (told < classes.length) {
    lines.push(`   (the first of ${classesText(classes.length - told, 'more ')}: --max-diffs ${classes.length})`);
  }
  lines.push(foldersVerdict(report, paint));
  return lines;
}
