/**
 * `rewalk accept traces`: what `rewalk replay --pending` left beside the traces is reviewed by name, and accepted as
 * expected failures with a reason. Expectations that were met more or less often than they say are brought up to date.
 */

import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ExitStatus, Problem } from '../bits/problem.ts';
import {
  checkedExpectations,
  EXPECTATIONS_FILE,
  type Expectation,
  type ExpectationCondition,
  expectationsName,
  holdsFor,
  readExpectations,
} from '../replay/expectations.ts';
import { storedStepLines } from '../report/compare-results-text.ts';
import { escapeControls } from '../report/escape.ts';
import { counted, tableLines } from '../report/table.ts';
import type { StoredStep, StoredTrace } from '../results/model.ts';
import { ResultsReader } from '../results/reader.ts';
import { type ReviewItem, reviewItems } from '../results/review.ts';
import { Output } from '../trace/output.ts';
import type { Context } from './command.ts';
import { chosen, isListing, type Review } from './review.ts';
import { checkReviewed } from './review-allowed.ts';
import { PENDING_SUFFIX, removeFile } from './run-recorder.ts';
import { traceFiles } from './traces.ts';

/** Steps are listed in an expectation if they are few enough. */
const MAXIMUM_STEPS = 20;

export interface Expected {
  readonly fault: string | undefined;
  readonly reason: string | undefined;
  readonly when: ReadonlyMap<string, string> | undefined;
}

interface Item {
  /** `a.rwt#1` */
  readonly name: string;
  /** The trace, beside which the pending file is. */
  readonly path: string;
  readonly item: ReviewItem;
  readonly trace: StoredTrace;
  readonly steps: readonly StoredStep[];
}

function fitsTrace({ name, path }: Item, given: string): boolean {
  const ofTrace = name.slice(0, name.lastIndexOf('#'));
  return (
    ofTrace === given ||
    path === given ||
    path.endsWith(`/${given}`) ||
    `${path}${name.slice(ofTrace.length)}`.endsWith(`/${given}`)
  );
}

/** The traces that have a pending file. */
function pendingTraces(from: string): string[] {
  if (from.endsWith(PENDING_SUFFIX)) return [from.slice(0, -PENDING_SUFFIX.length)];
  return traceFiles([from]).filter((path) => existsSync(path + PENDING_SUFFIX));
}

function itemsOf(path: string): Item[] {
  const reader = ResultsReader.open(path + PENDING_SUFFIX);
  try {
    const items: Item[] = [];
    for (const entry of reader.traces) {
      const { trace, steps } = reader.traceAt(entry);
      for (const item of reviewItems(trace)) {
        const ofGroup = steps.filter((step) => step.group === item.group);
        items.push({ name: `${basename(path)}#${items.length + 1}`, path, item, trace, steps: ofGroup });
      }
    }
    return items;
  } finally {
    reader.close();
  }
}

function itemText({ item }: Item): string {
  if (item.kind === 'expectation') {
    return `expectation "${item.fault}" (${item.group}): ${item.expected} steps expected, met in ${item.met}`;
  }
  const mixed = item.mixed === 0 ? '' : `; in ${item.mixed} steps more differs, which no expectation covers`;
  return `${counted(item.count, 'step')} from step ${item.first} on: ${item.group}${mixed}`;
}

/** Lists, shows or accepts; returns the exit status. Throws E_REVIEW, E_USAGE, E_EXPECTATIONS, and what reading throws. */
export async function acceptPending(
  from: string,
  expected: Expected,
  review: Review,
  context: Context,
): Promise<number> {
  const { out } = context;
  const items: Item[] = [];
  for (const path of pendingTraces(from)) {
    await context.breathe();
    items.push(...itemsOf(path));
  }
  if (items.length === 0) {
    if (context.json) out.json({ review: [] });
    else out.line('nothing to review: no pending files (`rewalk replay --pending` writes them)');
    return ExitStatus.MATCH;
  }
  if (isListing(review)) {
    const shown = review.names.length === 0 ? items : chosen(items, review, ({ name }) => name, fitsTrace, true);
    if (context.json) {
      out.json({ review: shown.map(({ name, path, item }) => ({ name, trace: path, ...item })) });
    } else if (review.show) for (const item of shown) showItem(item, context);
    else out.lines(tableLines(shown.map((item) => [item.name, itemText(item)].map(escapeControls))));
    return ExitStatus.MATCH;
  }
  const accepted = chosen(items, review, ({ name }) => name, fitsTrace, true);
  checkReviewed('an expectation', review.yes, context.io);
  const changes = accepted.map((item) => ({ item, change: changeFor(item, expected) }));
  const files = writeChanges(changes);
  for (const path of new Set(accepted.map((item) => item.path))) {
    const isLeft = items.some((item) => item.path === path && !accepted.includes(item));
    if (!isLeft) removeFile(path + PENDING_SUFFIX);
  }
  if (context.json) out.json({ accepted: accepted.map(({ name }) => name), files });
  else {
    out.lines(accepted.map((item) => `accepted ${escapeControls(`${item.name}: ${itemText(item)}`)}`));
    out.lines(files.map((file) => `wrote ${escapeControls(file)}`));
  }
  return ExitStatus.MATCH;
}

function showItem(item: Item, { out, paint }: Context): void {
  out.line(paint('bold', escapeControls(`${item.name}: ${itemText(item)}`)));
  const { item: what, steps, trace } = item;
  const first = steps.find((step) => step.group === what.group && step.judgement.kind !== 'stale-allowed');
  if (first !== undefined) out.lines(storedStepLines(first, trace, paint).map((line) => `  ${line}`));
}

type ListChange = (list: readonly Expectation[]) => readonly Expectation[];

/** What accepting an item does to the trace's expectations. Throws E_USAGE where it lacks a name, a reason or anything. */
function changeFor({ name, item, trace, steps }: Item, expected: Expected): ListChange {
  const { segment, machine } = trace;
  if (item.kind === 'expectation') {
    const isIt = (each: Expectation): boolean =>
      each.fault === item.fault &&
      each.group === item.group &&
      each.count === item.expected &&
      (each.segment ?? 0) === segment &&
      holdsFor(each.when, machine);
    return (list) =>
      list.flatMap((each): Expectation[] => {
        if (!isIt(each)) return [each];
        if (item.met === 0) return [];
        const { steps: listed, ...rest } = each;
        const now = listed && stepsOf(steps, item.group, 'expected', item.met);
        return [{ ...rest, count: item.met, ...(now === undefined ? {} : { steps: now }) }];
      });
  }
  const { fault, reason } = expected;
  if (fault === undefined || reason === undefined || reason.trim() === '') {
    throw new Problem(
      'E_USAGE',
      `${name} diverges: to expect that, give the fault a name and say why the recording is wrong`,
      {},
      'add --fault NAME and --reason TEXT',
    );
  }
  if (item.count === 0) {
    throw new Problem(
      'E_USAGE',
      `${name}: more than one thing differs in each of its steps, which no expectation covers`,
    );
  }
  const listed = item.mixed > 0 ? undefined : stepsOf(steps, item.group, 'diverged', item.count);
  const when = conditionOf(expected.when);
  const added: Expectation = {
    fault,
    reason,
    group: item.group,
    count: item.count,
    ...(listed === undefined ? {} : { steps: listed }),
    ...(segment === 0 ? {} : { segment }),
    ...(when === undefined ? {} : { when }),
  };
  if (!holdsFor(when, machine)) {
    throw new Problem(
      'E_USAGE',
      `${name}: --when does not hold for the machine that diverged (${trace.receipt.machine})`,
    );
  }
  return (list) => [...list, added];
}

/** The ordinals of a group's steps, if they are few and all kept. */
function stepsOf(
  steps: readonly StoredStep[],
  group: string,
  kind: 'diverged' | 'expected',
  count: number,
): number[] | undefined {
  const found = steps.filter(
    (step) => step.group === group && (step.judgement.kind === 'expected') === (kind === 'expected'),
  );
  return found.length === count && count <= MAXIMUM_STEPS ? found.map(({ step }) => step) : undefined;
}

const SWITCHES: Readonly<Record<string, boolean>> = { on: true, true: true, off: false, false: false };

function conditionOf(when: ReadonlyMap<string, string> | undefined): ExpectationCondition | undefined {
  if (when === undefined || when.size === 0) return undefined;
  const entries = [...when].map(([name, value]) => [
    name,
    name === 'tdp' || name === 'tdpMmu' ? (SWITCHES[value] ?? value) : value,
  ]);
  // Whoever writes it has it checked with all the rest.
  return Object.fromEntries(entries) as ExpectationCondition;
}

/** Changes the files beside the traces, each whole or not at all, none before all are known to be right. */
function writeChanges(changes: readonly { readonly item: Item; readonly change: ListChange }[]): string[] {
  const contents = new Map<string, Record<string, unknown>>();
  for (const { item, change } of changes) {
    const file = join(dirname(item.path), EXPECTATIONS_FILE);
    const content = contents.get(file) ?? readExpectations(file);
    const name = expectationsName(item.path);
    const before = checkedExpectations(content[name] ?? [], name, file);
    const after = change(before);
    checkedExpectations(after, name, file);
    const { [name]: _, ...others } = content;
    contents.set(file, after.length === 0 ? others : { ...content, [name]: after });
  }
  for (const [file, content] of contents) {
    if (Object.keys(content).length === 0) {
      removeFile(file);
      continue;
    }
    const output = Output.create(file);
    try {
      output.write(Buffer.from(`${JSON.stringify(content, undefined, 2)}\n`));
      output.finish();
    } finally {
      output.abort();
    }
  }
  return [...contents.keys()];
}
