/** `rewalk accept run.rwr`: traces of a run, reviewed one by one, become part of the baseline that runs are compared with. */

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ExitStatus, Problem } from '../bits/problem.ts';
import { pairTraces } from '../compare/results-pairs.ts';
import type { Verdict } from '../replay/result.ts';
import { fullChangeLines, fullTraceLines, traceTableLines } from '../report/compare-results-text.ts';
import { escapeControls } from '../report/escape.ts';
import { counted } from '../report/table.ts';
import { ResultsReader, type TraceEntry } from '../results/reader.ts';
import { ResultsWriter } from '../results/writer.ts';
import type { Context } from './command.ts';
import { comparedTraces, openCompared, type TraceResult } from './compare-results.ts';
import { chosen, isListing, type Review } from './review.ts';
import { checkReviewed } from './review-allowed.ts';
import { VERDICT_STATUS, worseStatus } from './status.ts';

const BASELINE = 'baseline.rwr';
/** A list for people. */
const MAXIMUM_LINES = 1000;

/** A trace that is not as in the baseline. */
interface Item {
  readonly name: string;
  readonly a: TraceEntry | undefined;
  readonly b: TraceEntry | undefined;
  /** For the list; without steps. */
  readonly line: Parameters<typeof traceTableLines>[0][number];
}

function entries(reader: ResultsReader | undefined): readonly TraceEntry[] {
  return reader?.traces ?? [];
}

/** Lists, shows or accepts; returns the exit status. Throws E_REVIEW, E_NOTHING_COMPARED, and what reading throws. */
export async function acceptBaseline(
  path: string,
  baselinePath: string | undefined,
  review: Review,
  context: Context,
): Promise<number> {
  const baseline = baselinePath ?? join(dirname(path), BASELINE);
  if (baseline === path) throw new Problem('E_USAGE', 'these results are the baseline already', { file: path });
  const run = openCompared(path);
  let old: ResultsReader | undefined;
  try {
    if (run.run.scope.length > 0) {
      throw new Problem(
        'E_REVIEW',
        `the run compared only a part (${run.run.scope.join(' ')}), which is no baseline`,
        { file: path },
        'replay again without that',
      );
    }
    old = existsSync(baseline) ? ResultsReader.open(baseline) : undefined;
    return await reviewRun(run, old, baseline, review, context);
  } finally {
    old?.close();
    run.close();
  }
}

async function reviewRun(
  run: ResultsReader,
  old: ResultsReader | undefined,
  baseline: string,
  review: Review,
  context: Context,
): Promise<number> {
  const pairs = pairTraces(entries(old), run.traces);
  const compared = old === undefined ? undefined : comparedTraces(old, run, pairs);
  const items: Item[] = [];
  if (compared === undefined) {
    for (const { b } of pairs) items.push(addedItem(b!));
  } else {
    let at = 0;
    for (const { name, change, a, b } of compared) {
      const pair = pairs[at++]!;
      await context.breathe();
      if (change.class === 'unchanged') continue;
      // The steps themselves are read again if they are to be shown.
      const changes = change.changes.map((each) => ({ ...each, steps: [undefined, undefined] as const }));
      const verdicts = [a?.trace.verdict, b?.trace.verdict] as const;
      items.push({ name, a: pair.a, b: pair.b, line: { name, change: { ...change, changes }, verdicts } });
    }
  }
  if (review.show) return show(items, run, old, review, context);
  if (isListing(review)) return list(items, old, baseline, context);
  const accepted = chosen(items, review, ({ name }) => name, isEnd, false);
  checkReviewed('a baseline', review.yes, context.io);
  if (accepted.length === 0) {
    tell(context, { baseline, accepted: [], written: false }, [
      'nothing to accept: the results are as in the baseline',
    ]);
    return ExitStatus.MATCH;
  }
  write(run, old, baseline, pairs, new Set(accepted.flatMap(({ a, b }) => b ?? a ?? [])));
  const names = accepted.map(({ name }) => name);
  tell(context, { baseline, accepted: names, written: true }, [
    ...names.map((name) => `accepted ${escapeControls(name)}`),
    `${counted(names.length, 'trace')} accepted into ${escapeControls(baseline)}, ${items.length - names.length} left as they were`,
  ]);
  return ExitStatus.MATCH;
}

function addedItem(b: TraceEntry): Item {
  const name = b.segment === 0 ? b.file : `${b.file} segment ${b.segment}`;
  const change = { class: 'added', changes: [], unchangedSteps: 0 } as const;
  return { name, a: undefined, b, line: { name, change, verdicts: [undefined, b.verdict] } };
}

/** `traces/kvm/a.rwt` ends with `kvm/a.rwt` and `a.rwt`. */
function isEnd({ name }: Item, end: string): boolean {
  return name.endsWith(`/${end}`);
}

function tell(context: Context, json: object, lines: readonly string[]): void {
  if (context.json) context.out.json(json);
  else context.out.lines(lines);
}

function list(items: readonly Item[], old: ResultsReader | undefined, baseline: string, context: Context): number {
  const { out, paint } = context;
  if (context.json) {
    const rows = items.map(({ name, line }) => ({
      name,
      class: line.change.class,
      verdicts: { baseline: line.verdicts[0] ?? null, run: line.verdicts[1] ?? null },
    }));
    out.json({ baseline: old === undefined ? null : baseline, review: rows });
    return ExitStatus.MATCH;
  }
  const name = escapeControls(baseline);
  out.line(old === undefined ? `there is no baseline ${name} yet` : `against ${name}:`);
  if (items.length === 0) out.line('nothing to review: all as in the baseline');
  // In the order of the table's limit all are shown: what is reviewed must be seen.
  for (const { line } of items.slice(0, MAXIMUM_LINES)) out.lines(traceTableLines([line], 0, paint));
  if (items.length > MAXIMUM_LINES) out.line(`and ${items.length - MAXIMUM_LINES} more`);
  return ExitStatus.MATCH;
}

function show(
  items: readonly Item[],
  run: ResultsReader,
  old: ResultsReader | undefined,
  review: Review,
  context: Context,
): number {
  const { out, paint } = context;
  for (const item of chosen(items, review, ({ name }) => name, isEnd, false)) {
    const [a, b] = [item.a && old?.traceAt(item.a), item.b && run.traceAt(item.b)];
    if (a === undefined || b === undefined) {
      const side = (a ?? b)!;
      if (context.json) out.json({ name: item.name, class: item.line.change.class, verdict: side.trace.verdict });
      else out.lines(fullTraceLines(a === undefined ? 'added' : 'removed', side.trace, side.steps, paint));
      continue;
    }
    for (const result of comparedTraces(old!, run, [{ a: item.a, b: item.b }])) showTrace(result, context);
  }
  return ExitStatus.MATCH;
}

function showTrace({ name, change, a, b }: TraceResult, { json, out, paint }: Context): void {
  if (json) {
    const changes = change.changes.map(({ steps: _, ...each }) => each);
    out.json({ name, class: change.class, changes });
    return;
  }
  for (const each of change.changes) {
    out.lines(fullChangeLines(name, each, [a?.trace, b?.trace], paint, `${each.class}: `));
    out.line();
  }
}

/** The baseline with the accepted traces as in the run, all others as they were. */
function write(
  run: ResultsReader,
  old: ResultsReader | undefined,
  baseline: string,
  pairs: ReturnType<typeof pairTraces>,
  accepted: ReadonlySet<TraceEntry>,
): void {
  const writer = new ResultsWriter(baseline, run.run);
  try {
    let status: number = ExitStatus.MATCH;
    for (const { a, b } of pairs) {
      const isAccepted = accepted.has((b ?? a)!);
      const [reader, entry] = isAccepted || a === undefined ? [run, b] : [old!, a];
      // A removed trace that is accepted leaves the baseline, an added one that is not does not enter it.
      if (entry === undefined || (a === undefined && !isAccepted)) continue;
      const { trace, steps } = reader.traceAt(entry);
      const verdict: Verdict = trace.verdict;
      status = worseStatus(status, VERDICT_STATUS[verdict]);
      writer.add(trace, steps);
    }
    writer.finish(status);
  } finally {
    writer.abort();
  }
}
