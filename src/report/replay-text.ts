/** A replay's result as text for people: the receipt, the first divergences side by side, groups of the like. */

import { basename } from 'node:path';
import { OBS_DIM_MASK, OBS_DIM_SHIFT, OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { EventCount } from '../replay/event-counters.ts';
import type { Divergence, Ending, Judgement, Receipt, ReplayResult, Row, SidePair, Verdict } from '../replay/result.ts';
import { CHUNK_STATE } from '../replay/result.ts';
import type { Totals } from '../replay/totals.ts';
import type { TraceHeader } from '../trace/header.ts';
import { escapeControls } from './escape.ts';
import { kvmEventText } from './kvm-events.ts';
import { ContextTracker, translationName } from './row-context.ts';
import { type RowContext, rowText } from './rows.ts';
import { guestCountLines } from './same-guest.ts';
import { stepText } from './steps.ts';
import { counted, countText, tableLines } from './table.ts';

/** Puts a style on a text; the identity where no colour is wanted. */
export type PaintText = (style: 'bold' | 'green' | 'red' | 'yellow' | 'dim', text: string) => string;

/** Rows shown from the first difference on. */
const MAXIMUM_ROWS = 12;

/** What the receipt's digest says beside it of how far the trace was read. */
export const ENDING_TEXT: Readonly<Record<Ending, string>> = {
  complete: '',
  'cut short': ' (the trace is cut short)',
  'not read': ' (stopped before the end of the trace)',
};

const VERDICT_TEXT: Readonly<Record<Verdict, string>> = {
  match: 'match',
  diverged: 'DIVERGED',
  undetermined: 'UNDETERMINED',
  'not-modelled': 'NOT MODELLED',
  'nothing-compared': 'NOTHING COMPARED',
};

/** One line per trace. */
export function summaryLine({ verdict, receipt }: ReplayResult, paint: PaintText): string {
  const unexplained = receipt.sameGuest?.unexplained ?? 0;
  const undetermined = receipt.undetermined + (receipt.sameGuest?.undetermined ?? 0);
  const extra = [
    receipt.staleAllowed > 0 ? `${countText(receipt.staleAllowed)} stale, allowed` : '',
    sum(receipt.expected) > 0 ? `${countText(sum(receipt.expected))} expected` : '',
    undetermined > 0 ? `${countText(undetermined)} undetermined` : '',
    unexplained > 0 ? `${countText(unexplained)} unexplained on KVM` : '',
    receipt.diverged > 0 ? `${countText(receipt.diverged)} diverged` : '',
    sum(receipt.notModelled) > 0 ? `${countText(sum(receipt.notModelled))} not modelled` : '',
    receipt.ending === 'cut short' ? 'CUT SHORT' : '',
  ].filter((part) => part !== '');
  const word = paint(verdict === 'match' ? 'green' : 'red', VERDICT_TEXT[verdict].padEnd(8));
  const counts = `${counted(receipt.steps, 'step')}, ${counted(receipt.observationsPredicted, 'observation')} predicted`;
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
  | 'counts'
  | 'events'
  | 'observationsPredicted'
  | 'skipped'
  | 'notModelled'
  | 'staleAllowed'
  | 'undetermined'
  | 'expected'
  | 'sameGuest'
>;

function countLines(counted: Counted): string[] {
  const head = ['observation', 'count', 'predicted', 'renamed', 'learned', 'input'];
  const rows = counted.counts.map((c) => [
    c.kind,
    ...[c.observations, c.predicted, c.renamed, c.learned, c.input].map(countText),
  ]);
  const lines: string[] = [];
  if (rows.length > 0 || counted.events.length === 0) {
    lines.push('compared and equal; predicted to input are fields:');
    lines.push(...tableLines([head, ...rows], ['left', 'right', 'right', 'right', 'right', 'right'], 2));
  }
  lines.push(...eventLines(counted.events));
  lines.push(`observations predicted in every field: ${countText(counted.observationsPredicted)}`);
  if (sum(counted.skipped) > 0) lines.push(`not compared: ${listOf(counted.skipped)}`);
  if (sum(counted.notModelled) > 0) lines.push(`not modelled: ${listOf(counted.notModelled)}`);
  if (counted.staleAllowed > 0) lines.push(`match (stale, allowed): ${countText(counted.staleAllowed)}`);
  if (counted.undetermined > 0) lines.push(`undetermined: ${countText(counted.undetermined)}`);
  if (sum(counted.expected) > 0) lines.push(`expected, by known fault: ${listOf(counted.expected)}`);
  if (counted.sameGuest !== undefined) lines.push(...guestCountLines(counted.sameGuest));
  return lines;
}

const EVENT_COLUMNS = ['equal', 'predicted', 'renamed', 'learned', 'input', 'diverged', 'missing', 'extra'];

/** Of one event or of all: equal ones, their fields by counter, what was not equal. */
function eventCells(count: EventCount): string[] {
  const { events, predicted, renamed, learned, input, diverged, missing, extra } = count;
  return [events, predicted, renamed, learned, input, diverged, missing, extra].map(countText);
}

/** KVM's events, a line each, and which fields were learned. */
function eventLines(events: readonly EventCount[]): string[] {
  if (events.length === 0) return [];
  const unmodelled = events.some(({ notModelled }) => notModelled > 0);
  const unanswered = events.some((each) => each.unanswered > 0);
  const notJudged = events.some((each) => each.notJudged !== undefined);
  const rows = events.map((count) => [
    count.event,
    ...eventCells(count),
    ...(unmodelled ? [countText(count.notModelled)] : []),
    ...(unanswered ? [countText(count.unanswered)] : []),
    ...(notJudged ? [countText(count.notJudged ?? 0)] : []),
  ]);
  const head = [
    'event of KVM',
    ...EVENT_COLUMNS,
    ...(unmodelled ? ['not modelled'] : []),
    ...(unanswered ? ["host's, not replayed"] : []),
    ...(notJudged ? ['not judged'] : []),
  ];
  const learned = events.flatMap(({ event, fields }) =>
    fields.flatMap((f) => (f.learned > 0 ? [`${countText(f.learned)} ${event} ${f.field}`] : [])),
  );
  const lines = ["KVM's events; predicted to input are fields of the equal ones:"];
  lines.push(...tableLines([head, ...rows], ['left', ...head.slice(1).map(() => 'right' as const)], 2));
  if (learned.length > 0) lines.push(`learned, not predicted: ${learned.join(', ')}`);
  return lines;
}

/** One line per trace that has events of KVM: the receipts side by side. */
export function scenarioLines(results: readonly ReplayResult[]): string[] {
  const recordings = results.filter(({ receipt }) => receipt.events.length > 0);
  if (recordings.length === 0) return [];
  const head = ['trace', 'machine', ...EVENT_COLUMNS, 'steps diverged'];
  const rows = recordings.map(({ receipt }) => {
    const sum = (key: Exclude<keyof EventCount, 'event' | 'fields' | 'notJudged'>): number =>
      receipt.events.reduce((total, count) => total + count[key], 0);
    const all: EventCount = {
      event: '',
      fields: [],
      events: sum('events'),
      whollyPredicted: sum('whollyPredicted'),
      predicted: sum('predicted'),
      renamed: sum('renamed'),
      learned: sum('learned'),
      input: sum('input'),
      diverged: sum('diverged'),
      missing: sum('missing'),
      extra: sum('extra'),
      notModelled: sum('notModelled'),
      unanswered: sum('unanswered'),
    };
    const { file, machine, diverged } = receipt;
    return [escapeControls(basename(file)), escapeControls(machine), ...eventCells(all), countText(diverged)];
  });
  const alignment = ['left', 'left', ...EVENT_COLUMNS.map(() => 'right' as const), 'right'] as const;
  return ["KVM's events by trace; predicted to input are fields:", ...tableLines([head, ...rows], [...alignment], 2)];
}

/** All traces of a run together. */
export function totalLines(totals: Totals, paint: PaintText): string[] {
  const verdicts = listOf(Object.fromEntries(Object.entries(totals.verdicts).filter(([, count]) => count > 0)));
  const good = totals.traces > 0 && totals.verdicts.match === totals.traces;
  return [
    paint('bold', `${counted(totals.traces, 'trace')}, ${counted(totals.steps, 'step')}`),
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
  for (const sentence of receipt.limits) lines.push(`note: ${escapeControls(sentence)}`);
  lines.push(...countLines(receipt));
  lines.push(...partialLines(receipt));
  for (const { step, sentence } of receipt.brokenInvariants.slice(0, 20))
    lines.push(`invariant broken at step ${countText(step)}: ${escapeControls(sentence)}`);
  for (const sentence of receipt.brokenExpectations)
    lines.push(`expectation does not hold: ${escapeControls(sentence)}`);
  return lines;
}

/** Of a partial trace: how much of what it tells could be judged, and what was in the way of the rest. */
function partialLines({ partial, events }: Receipt): string[] {
  if (partial === undefined) return [];
  let [all, predicted, learned, notJudged] = [0, 0, 0, 0];
  for (const count of events) {
    const unjudged = count.notJudged ?? 0;
    all += count.events + unjudged + count.diverged + count.missing + count.notModelled + count.unanswered;
    predicted += count.whollyPredicted;
    learned += count.events - count.whollyPredicted;
    notJudged += unjudged;
  }
  const share = (count: number): string => `${countText(count)} (${percent(count, all)})`;
  const because = Object.entries(partial.undetermined)
    .sort(([, a], [, b]) => b - a)
    .map(([state, steps]) => `${counted(steps, 'step')} because ${escapeControls(state)} unknown`);
  return [
    `partial trace, it does not tell: ${partial.unknown.map(escapeControls).join(', ')}`,
    `judged: of ${countText(all)} events ${share(predicted)} predicted, ${share(learned)} equal with learned or given parts, ${share(notJudged)} not judged`,
    ...(because.length === 0 ? [] : [`not judged: ${because.join(', ')}`]),
  ];
}

function percent(count: number, all: number): string {
  return `${(all === 0 ? 0 : Math.floor((1000 * count) / all) / 10).toFixed(1)} %`;
}

export function judgementText(judgement: Judgement): string {
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
  if (divergence.pairs !== undefined) {
    lines.push(...pairLines(divergence.pairs, at, context, paint));
    return lines;
  }
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

const PAIR_MARK: Readonly<Record<SidePair['state'], string>> = {
  equal: ' ',
  host: ' ',
  differs: '!',
  'wrong-frame': '!',
  missing: '-',
  extra: '+',
};

/** Equal pairs shown before the first difference, and what stands after it at most. */
const PAIRS_BEFORE = 6;

/** A step with events of KVM: what is equal stands once, what differs on both sides. */
function pairLines(pairs: readonly SidePair[], at: number, context: RowContext, paint: PaintText): string[] {
  const lines: string[] = [];
  const begin = Math.max(0, at - PAIRS_BEFORE);
  const end = Math.min(pairs.length, at + MAXIMUM_ROWS);
  if (begin > 0) lines.push(paint('dim', `      ${begin} observation${begin === 1 ? '' : 's'} alike`));
  for (const { state, recorded, replayed } of pairs.slice(begin, end)) {
    const mark = `    ${PAIR_MARK[state]} `;
    if (state === 'equal' || state === 'host') {
      lines.push(paint('dim', mark + rowsText(recorded, context)));
    } else if (recorded.length > 0 && replayed.length > 0) {
      lines.push(`${mark}recorded ${rowsText(recorded, context)}`, `${mark}replayed ${rowsText(replayed, context)}`);
    } else if (recorded.length > 0) {
      lines.push(`${mark}recorded only: ${rowsText(recorded, context)}`);
    } else {
      lines.push(`${mark}replayed only: ${rowsText(replayed, context)}`);
    }
  }
  if (end < pairs.length) lines.push(`    and ${pairs.length - end} more`);
  return lines;
}

/** An event of KVM with its further rows, or one row of another kind. */
function rowsText(rows: readonly Row[], context: RowContext): string {
  const isEvent = (rows[0]!.op & OBS_KIND_MASK) === Obs.KVM_EVENT;
  return isEvent ? kvmEventText(rows, context.mmu) : text(rows[0], context);
}

/** The divergences by group, most frequent first. */
export function groupLines(receipt: Receipt, limit = 20): string[] {
  if (receipt.groups.length === 0) return [];
  const rows = receipt.groups
    .slice(0, limit)
    .map((g) => [
      countText(g.count),
      g.group,
      `first at step ${g.first}${g.leads === g.count ? '' : g.leads === 0 ? ', always after others' : `, begins ${g.leads}`}`,
    ]);
  const lines = ['divergences of the like:', ...tableLines(rows, ['right'], 2)];
  if (receipt.groups.length > limit) lines.push(`  and ${receipt.groups.length - limit} groups more`);
  return lines;
}
