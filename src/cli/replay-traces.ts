/** The work of `rewalk replay`. */

import { ExitStatus } from '../bits/problem.ts';
import { hexText } from '../bits/word64.ts';
import { expectationsFor } from '../replay/expectations.ts';
import { type MachineChoice, machineFacts } from '../replay/machines.ts';
import type { ReplayResult } from '../replay/result.ts';
import { type ReplayOptions, ReplaySession } from '../replay/session.ts';
import { totalsOf } from '../replay/totals.ts';
import { escapeControls } from '../report/escape.ts';
import { replayCase, unpainted } from '../report/replay-cases.ts';
import { replayObject } from '../report/replay-json.ts';
import {
  divergenceLines,
  groupLines,
  receiptLines,
  scenarioLines,
  summaryLine,
  totalLines,
} from '../report/replay-text.ts';
import { guestDifferenceLines, guestGroupLines } from '../report/same-guest.ts';
import { counted, countText } from '../report/table.ts';
import type { TimelineBuilder } from '../report/timeline.ts';
import { RESULTS_LIMITS, type StoredCoverage } from '../results/model.ts';
import type { VerdictLog } from '../results/verdict-log.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { TraceItem } from '../trace/reader.ts';
import type { Context } from './command.ts';
import { explainerOf } from './explain-for-report.ts';
import { Reports } from './report-output.ts';
import type { ReportRequest } from './report-request.ts';
import { RunRecorder } from './run-recorder.ts';
import { VERDICT_STATUS, worseStatus } from './status.ts';
import { type StepFilter, selectStep } from './step-filter.ts';
import { eachTrace } from './trace-input.ts';

export interface ReplayTracesOptions {
  readonly maxDiffs: number;
  readonly bail: boolean;
  readonly filter: StepFilter | undefined;
  readonly from: number;
  /** Last step compared. */
  readonly to: number;
  readonly receipts: boolean;
  readonly minPredicted: number;
  readonly allowUnmodelled: readonly string[];
  readonly expectations: boolean;
  readonly machine: MachineChoice;
  /** Results file, if one is asked for. */
  readonly output: string | undefined;
  /** Pending files beside the traces. */
  readonly pending: boolean;
  readonly reports: readonly ReportRequest[];
}

/** What limits the comparison, as the options read. */
function scopeOf({ from, to, bail, filter }: ReplayTracesOptions): string[] {
  return [
    ...(from === 0 ? [] : [`--from ${from}`]),
    ...(to === Number.POSITIVE_INFINITY ? [] : [`--to ${to}`]),
    ...(bail ? ['--bail'] : []),
    ...(filter === undefined ? [] : [`--filter ${filterText(filter)}`]),
  ];
}

function filterText({ kinds, observed, linear, physical }: StepFilter): string {
  const range = (name: string, of: typeof linear): string[] =>
    of === undefined ? [] : [`${name}=${hexText(of.first.lo, of.first.hi)}..${hexText(of.last.lo, of.last.hi)}`];
  const list = (name: string, of: ReadonlySet<string> | undefined): string[] =>
    of === undefined ? [] : [`${name}=${[...of].join(',')}`];
  return [
    ...list('kind', kinds),
    ...list('observed', observed),
    ...range('gva', linear),
    ...range('entry', physical),
  ].join(' ');
}

function sessionOptions(
  path: string,
  segment: number,
  header: TraceHeader,
  options: ReplayTracesOptions,
  log: VerdictLog | undefined,
): ReplayOptions {
  const { bail, from, to, filter, allowUnmodelled, machine } = options;
  const facts = options.expectations ? machineFacts(header, machine) : undefined;
  return {
    // Of guests' differences as many are kept as the results hold; divergences come one by one.
    maxDiffs: log === undefined ? options.maxDiffs : Math.max(options.maxDiffs, RESULTS_LIMITS.maxDetails),
    ...(log === undefined ? {} : { onVerdict: (verdict) => log.add(verdict) }),
    bail,
    allowUnmodelled,
    machine,
    ...(from === 0 ? {} : { from }),
    ...(to === Number.POSITIVE_INFINITY ? {} : { to: to + 1 }),
    ...(filter === undefined ? {} : { filter: (columns, index) => selectStep(columns, index, filter) !== 'none' }),
    expectations: facts === undefined ? [] : expectationsFor(path, segment, facts),
  };
}

/** The result with as many divergences as were asked for. */
function shortened(result: ReplayResult, maxDiffs: number): ReplayResult {
  const { divergences, guestDifferences } = result;
  return {
    ...result,
    divergences: divergences.slice(0, maxDiffs),
    ...(guestDifferences === undefined ? {} : { guestDifferences: guestDifferences.slice(0, maxDiffs) }),
  };
}

/** Replays, prints, returns the exit status. */
export async function replayTraces(
  files: readonly string[],
  options: ReplayTracesOptions,
  context: Context,
): Promise<number> {
  const recorder = new RunRecorder({
    output: options.output,
    pending: options.pending,
    machine: options.machine,
    run: {
      allowedUnmodelled: options.allowUnmodelled,
      expectations: options.expectations,
      scope: scopeOf(options),
    },
  });
  let reports: Reports | undefined;
  try {
    reports = Reports.open(options.reports, context, {
      command: 'rewalk replay',
      unit: 'observations predicted',
      inputs: files,
    });
    const status = await replayAll(files, options, reports, recorder);
    const bytes = recorder.finish(status);
    if (bytes !== undefined) context.note(`wrote the results to ${escapeControls(options.output ?? '')}`);
    const { pending } = recorder;
    if (pending.length > 0) {
      context.note(`wrote ${counted(pending.length, 'pending file')}, the first ${escapeControls(pending[0]!)}`);
      context.note('review with `rewalk accept`, given the same traces');
    }
    return status;
  } finally {
    reports?.abort();
    recorder.abort();
  }
}

/** A segment that is being replayed. */
interface Open {
  readonly path: string;
  readonly segment: number;
  readonly session: ReplaySession;
  readonly header: TraceHeader;
  readonly log: VerdictLog | undefined;
  readonly coverage: StoredCoverage | undefined;
  readonly timeline: TimelineBuilder | undefined;
}

async function replayAll(
  files: readonly string[],
  options: ReplayTracesOptions,
  reports: Reports,
  recorder: RunRecorder,
): Promise<number> {
  const { context } = reports;
  const results: ReplayResult[] = [];
  const objects: object[] = [];
  const full = options.receipts || files.length === 1;
  const progress = await context.progress('replaying');
  let status: number = ExitStatus.MATCH;

  const { machine, expectations } = options;
  const explained = { sides: undefined, machine, internals: false, expectations };

  const finish = (
    { path, segment, session, header, log, coverage, timeline }: Open,
    end: TraceItem | undefined,
  ): boolean => {
    const reached = end?.kind === 'end';
    const ending = !reached ? 'not read' : end.complete ? 'complete' : 'cut short';
    const whole = session.result(reached ? end.digest : undefined, ending);
    if (log !== undefined) recorder.add(path, segment, header, whole, log, coverage);
    const result = log === undefined ? whole : shortened(whole, options.maxDiffs);
    results.push(result);
    status = worseStatus(status, VERDICT_STATUS[result.verdict]);
    if (context.json) objects.push(replayObject(result, header));
    else print(result, header, full, context);
    reports.add({
      report: (seconds) => replayCase(result, header, seconds, timeline?.result()),
      object: () => replayObject(result, header),
      explain: explainerOf(path, segment, explained, context),
    });
    return result.verdict !== 'diverged' || !options.bail;
  };

  try {
    const read = await eachTrace(files, context, async (path, items) => {
      let open: Open | undefined;
      let stopped = false;
      for await (const item of items) {
        if (item.kind === 'header') {
          if (stopped) return 'stop';
          const { header, segment } = item;
          const log = recorder.begin(segment);
          const name = path === '-' ? '<stdin>' : path;
          const session = new ReplaySession(name, header, sessionOptions(path, segment, header, options, log));
          const coverage = recorder.watch(session);
          open = { path: name, segment, session, header, log, coverage, timeline: reports.begin() };
        } else if (open === undefined) {
          throw new Error('the reader gives a header before anything else');
        } else if (item.kind === 'end') {
          // Not left at once: what is wrong with the end of the trace is told on the way out.
          stopped = !finish(open, item);
        } else {
          const { columns } = item;
          progress.update(() => `${path}: step ${countText(columns.firstOrdinal)}`);
          open.timeline?.add(columns);
          if (!open.session.run(columns)) {
            finish(open, undefined);
            return 'stop';
          }
        }
      }
      recorder.endOfFile(path);
      return stopped ? 'stop' : 'go on';
    });
    status = worseStatus(status, read);
  } finally {
    progress.done();
  }

  const totals = totalsOf(results);
  const enough = totals.observationsPredicted >= options.minPredicted;
  if (!enough) status = worseStatus(status, ExitStatus.DIVERGED);
  const { minPredicted } = options;
  const document = (all: readonly object[]): object => ({ results: all, totals, minPredicted, exitStatus: status });
  const faults = enough
    ? []
    : [
        `only ${countText(totals.observationsPredicted)} observations were predicted and equal, --min-predicted asks for ${countText(minPredicted)}`,
      ];
  if (context.json) {
    context.out.json(document(objects));
  } else if (results.length > 0) {
    if (results.length > 1) context.out.lines(scenarioLines(results));
    if (results.length > 1) context.out.lines(totalLines(totals, context.paint));
    context.out.lines(faults.map((sentence) => context.paint('red', sentence)));
  }
  await reports.finish({ exitStatus: status, totals: totalLines(totals, unpainted), faults, document });
  return status;
}

function print(result: ReplayResult, header: TraceHeader, full: boolean, { out, paint }: Context): void {
  const { receipt, divergences } = result;
  if (full) {
    out.lines(receiptLines(receipt));
  }
  out.line(summaryLine(result, paint));
  for (const { step, sentence } of full ? [] : receipt.brokenInvariants.slice(0, 1))
    out.line(`  invariant broken at step ${step}: ${escapeControls(sentence)}`);
  for (const sentence of full ? [] : receipt.brokenExpectations)
    out.line(`  expectation does not hold: ${escapeControls(sentence)}`);
  for (const divergence of divergences) out.lines(divergenceLines(divergence, header, paint));
  out.lines(groupLines(receipt));
  for (const difference of result.guestDifferences ?? []) out.lines(guestDifferenceLines(difference, header, paint));
  if (receipt.sameGuest !== undefined) out.lines(guestGroupLines(receipt.sameGuest));
}
