/** The work of `rewalk compare` with two results files. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import {
  addToTotals,
  type Change,
  type ChangeClass,
  compareTraceResults,
  emptyTotals,
  type ResultsTotals,
  type TraceChange,
  type TraceSide,
} from '../compare/results.ts';
import { isSameTrace, pairTraces, type TracePair } from '../compare/results-pairs.ts';
import { resultsCase } from '../report/compare-results-cases.ts';
import {
  type ChangeKind,
  changeKindLines,
  classTableLines,
  fullChangeLines,
  fullTraceLines,
  type ResultsFacts,
  resultsHeadLines,
  type TraceLine,
  traceTableLines,
  verdictLine,
} from '../report/compare-results-text.ts';
import { unpainted } from '../report/replay-cases.ts';
import { counted } from '../report/table.ts';
import { type StoredStep, type StoredTrace, traceName } from '../results/model.ts';
import { ResultsReader } from '../results/reader.ts';
import type { Context } from './command.ts';
import { Reports } from './report-output.ts';
import type { ReportRequest } from './report-request.ts';

export interface CompareResultsOptions {
  /** Any change is an exit status of 1, not just a regression. */
  readonly strict: boolean;
  readonly allowOtherCorpus: boolean;
  readonly reports: readonly ReportRequest[];
}

/** Lines of traces kept for the table; the others are counted. */
const MAXIMUM_TRACE_LINES = 1000;
/** Kinds of change that are told apart. */
const MAXIMUM_KINDS = 10_000;

/** Opens a results file for comparing. Throws what opening throws, and E_NOTHING_COMPARED. */
export function openCompared(path: string): ResultsReader {
  const reader = ResultsReader.open(path);
  // A run in which all diverged has compared something, though it predicted nothing.
  if (reader.end.observationsPredicted > 0 || reader.traces.some(({ verdict }) => verdict === 'diverged'))
    return reader;
  reader.close();
  throw new Problem(
    'E_NOTHING_COMPARED',
    'the run that left these results compared nothing: nothing can be told from them',
    { file: path },
    'replay again; `rewalk replay` says why nothing was compared',
  );
}

function factsOf({ file, run, end }: ResultsReader): ResultsFacts {
  return { file, run, traces: end.traces, observationsPredicted: end.observationsPredicted };
}

/** In which way machines and policies are not the same, in sentences. */
function otherwise(a: ResultsReader, b: ResultsReader, pairs: readonly TracePair[]): string[] {
  const notes: string[] = [];
  const counts = new Map<string, number>();
  const count = (text: string): void => {
    counts.set(text, (counts.get(text) ?? 0) + 1);
  };
  for (const pair of pairs) {
    if (pair.a === undefined || pair.b === undefined) continue;
    if (pair.a.machine !== pair.b.machine) count(`other machine: ${pair.a.machine} → ${pair.b.machine}`);
    if (pair.a.policy !== pair.b.policy) count(`other policy: ${pair.a.policy} → ${pair.b.policy}`);
    if (!isSameTrace(pair)) count('recorded again, compared by counts of groups only');
  }
  for (const [text, traces] of counts) notes.push(`${counted(traces, 'trace')}: ${text}`);
  const differ = (what: string, x: string, y: string): void => {
    if (x !== y) notes.push(`${what}: ${x || 'none'} → ${y || 'none'}`);
  };
  const list = (names: readonly string[]): string => [...names].sort().join(', ');
  differ('compared only', a.run.scope.join(' '), b.run.scope.join(' '));
  differ('--allow-unmodelled', list(a.run.allowedUnmodelled), list(b.run.allowedUnmodelled));
  differ('expectations', a.run.expectations ? 'used' : 'not used', b.run.expectations ? 'used' : 'not used');
  return notes;
}

/** `last-week.rwr 12 traces (corpus 0aa1250ece04)`. */
function corpusText({ file, end }: ResultsReader): string {
  return `${file} ${counted(end.traces, 'trace')} (corpus ${end.corpusDigest.slice(0, 12)})`;
}

/** Throws E_OTHER_CORPUS. */
function checkCorpus(a: ResultsReader, b: ResultsReader, { allowOtherCorpus }: CompareResultsOptions): void {
  if (allowOtherCorpus || a.end.corpusDigest === b.end.corpusDigest) return;
  throw new Problem(
    'E_OTHER_CORPUS',
    `the runs replayed other traces: ${corpusText(a)}, ${corpusText(b)}`,
    { file: b.file },
    'add --allow-other-corpus to compare the traces that both have',
  );
}

export interface TraceResult {
  readonly name: string;
  readonly change: TraceChange;
  readonly a: TraceSide | undefined;
  readonly b: TraceSide | undefined;
}

/** Each pair in turn, read from both files and compared. */
export function* comparedTraces(
  a: ResultsReader,
  b: ResultsReader,
  pairs: readonly TracePair[],
): Generator<TraceResult, void, void> {
  for (const pair of pairs) {
    const before = pair.a && a.traceAt(pair.a);
    const after = pair.b && b.traceAt(pair.b);
    const name = traceName((after ?? before)!.trace);
    if (before !== undefined && after !== undefined) {
      yield { name, change: compareTraceResults(before, after, isSameTrace(pair)), a: before, b: after };
    } else {
      const kind: ChangeClass = before === undefined ? 'added' : 'removed';
      yield { name, change: { class: kind, changes: [], unchangedSteps: 0 }, a: before, b: after };
    }
  }
}

interface FirstChange {
  readonly name: string;
  readonly change: Change;
  readonly traces: readonly [StoredTrace | undefined, StoredTrace | undefined];
}

/** Gathers what the report is made of, trace by trace. */
class Gathered {
  readonly totals: ResultsTotals = emptyTotals();
  readonly lines: TraceLine[] = [];
  further = 0;
  readonly kinds = new Map<string, ChangeKind>();
  readonly firsts = new Map<ChangeClass, FirstChange>();
  readonly whole = new Map<'added' | 'removed', { trace: StoredTrace; steps: readonly StoredStep[] }>();
  readonly objects: object[] = [];
  private readonly json: boolean;

  constructor(json: boolean) {
    this.json = json;
  }

  add({ name, change, a, b }: TraceResult): void {
    addToTotals(this.totals, change);
    if (change.class === 'unchanged') return;
    const verdicts = [a?.trace.verdict, b?.trace.verdict] as const;
    if (this.lines.length < MAXIMUM_TRACE_LINES) this.lines.push({ name, change, verdicts });
    else this.further++;
    const { class: kind } = change;
    const side = a ?? b;
    if ((kind === 'added' || kind === 'removed') && !this.whole.has(kind) && side !== undefined)
      this.whole.set(kind, side);
    for (const each of change.changes) {
      this.kind(each);
      if (!this.firsts.has(each.class)) {
        this.firsts.set(each.class, { name, change: each, traces: [a?.trace, b?.trace] });
      }
    }
    if (this.json) this.objects.push(traceObject(name, change, a, b));
  }

  private kind(change: Change): void {
    const text = JSON.stringify([change.class, change.a, change.b]);
    const known = this.kinds.get(text);
    if (known !== undefined) {
      known.count += change.count;
      known.traces++;
    } else if (this.kinds.size < MAXIMUM_KINDS) {
      const { class: kind, a, b, count } = change;
      this.kinds.set(text, { class: kind, a, b, count, traces: 1 });
    }
  }
}

function stepObject(step: StoredStep | undefined): object | null {
  if (step === undefined) return null;
  const { judgement, group, cause, line, source } = step;
  return { step: step.step, judgement, group, cause, line, source };
}

function traceObject(name: string, change: TraceChange, a: TraceSide | undefined, b: TraceSide | undefined): object {
  return {
    trace: name,
    digest: (b ?? a)?.trace.receipt.digest ?? null,
    class: change.class,
    verdicts: { a: a?.trace.verdict ?? null, b: b?.trace.verdict ?? null },
    machines: { a: a?.trace.receipt.machine ?? null, b: b?.trace.receipt.machine ?? null },
    unchangedSteps: change.unchangedSteps,
    changes: change.changes.map((each) => ({
      class: each.class,
      a: each.a ?? null,
      b: each.b ?? null,
      steps: each.count,
      first: each.first ?? null,
      ...(each.note === undefined ? {} : { note: each.note }),
      firstSteps: { a: stepObject(each.steps[0]), b: stepObject(each.steps[1]) },
    })),
  };
}

/** Compares, prints, returns the exit status. Throws what opening throws, E_NOTHING_COMPARED and E_OTHER_CORPUS. */
export async function compareResults(
  pathA: string,
  pathB: string,
  options: CompareResultsOptions,
  context: Context,
): Promise<number> {
  const a = openCompared(pathA);
  try {
    const b = openCompared(pathB);
    try {
      checkCorpus(a, b, options);
      const about = { command: 'rewalk compare', unit: 'observations predicted', inputs: [pathA, pathB] };
      const reports = Reports.open(options.reports, context, about);
      try {
        return await compareOpened(a, b, options, reports);
      } finally {
        reports.abort();
      }
    } finally {
      b.close();
    }
  } finally {
    a.close();
  }
}

async function compareOpened(
  a: ResultsReader,
  b: ResultsReader,
  options: CompareResultsOptions,
  reports: Reports,
): Promise<number> {
  const { context } = reports;
  const pairs = pairTraces(a.traces, b.traces);
  if (!pairs.some((pair) => pair.a !== undefined && pair.b !== undefined)) {
    throw new Problem(
      'E_NOTHING_COMPARED',
      `no trace was replayed for both results: ${corpusText(a)}, ${corpusText(b)}`,
      { file: b.file },
      'replay the same traces; they go together by content, or by name where they were recorded again',
    );
  }
  const gathered = new Gathered(reports.documents);
  const progress = await context.progress('comparing');
  try {
    for (const result of comparedTraces(a, b, pairs)) {
      progress.update(() => result.name);
      gathered.add(result);
      const { name, change } = result;
      reports.begin();
      reports.add({
        report: () => resultsCase(name, change, [result.a, result.b], options.strict),
        object: () => traceObject(name, change, result.a, result.b),
        explain: undefined,
      });
      await context.breathe();
    }
  } finally {
    progress.done();
  }
  const { totals } = gathered;
  const notes = otherwise(a, b, pairs);
  const isOther = pairs.length > totals.unchanged.traces;
  const status = totals.regressed.traces > 0 || (options.strict && isOther) ? ExitStatus.DIVERGED : ExitStatus.MATCH;
  const facts = ({ file, run, end }: ResultsReader): object => ({ file, ...run, ...end });
  const sides = { a: facts(a), b: facts(b) };
  const document = (): object => ({
    mode: 'results',
    ...sides,
    notes,
    totals,
    traces: gathered.objects,
    exitStatus: status,
  });
  if (context.json) context.out.json(document());
  else printResults(a, b, notes, gathered, context);
  await reports.finish({
    exitStatus: status,
    totals: [...resultsHeadLines(factsOf(a), factsOf(b), notes), ...classTableLines(totals, unpainted)],
    faults: [],
    document,
  });
  return status;
}

function printResults(
  a: ResultsReader,
  b: ResultsReader,
  notes: readonly string[],
  gathered: Gathered,
  { out, paint }: Context,
): void {
  const { totals, firsts, whole } = gathered;
  out.lines(resultsHeadLines(factsOf(a), factsOf(b), notes));
  out.line();
  out.lines(classTableLines(totals, paint));
  if (gathered.lines.length > 0) out.line();
  out.lines(traceTableLines(gathered.lines, gathered.further, paint));
  for (const name of ['regressed', 'changed', 'fixed'] as const) {
    const first = firsts.get(name);
    if (first === undefined) continue;
    out.line();
    out.lines(fullChangeLines(first.name, first.change, first.traces, paint));
  }
  for (const kind of ['added', 'removed'] as const) {
    const found = whole.get(kind);
    if (found === undefined) continue;
    out.line();
    out.lines(fullTraceLines(kind, found.trace, found.steps, paint));
  }
  if (gathered.kinds.size > 0) out.line();
  out.lines(changeKindLines([...gathered.kinds.values()], paint));
  out.line(verdictLine(totals, paint));
}
