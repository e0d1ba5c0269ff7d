/** The work of `rewalk compare` with two machines. */

import { ExitStatus } from '../bits/problem.ts';
import { MachineComparison, type MachineComparisonOptions } from '../compare/machines.ts';
import type { ComparisonResult, ComparisonVerdict } from '../compare/result.ts';
import type { Sides } from '../compare/sides.ts';
import { comparisonTotals } from '../compare/totals.ts';
import { comparisonCase } from '../report/compare-cases.ts';
import { comparisonObject } from '../report/compare-json.ts';
import {
  comparisonReceiptLines,
  comparisonSummaryLine,
  comparisonTotalLines,
  differenceGroupLines,
  differenceLines,
} from '../report/compare-text.ts';
import { unpainted } from '../report/replay-cases.ts';
import { countText } from '../report/table.ts';
import type { TimelineBuilder } from '../report/timeline.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { TraceItem } from '../trace/reader.ts';
import type { Context } from './command.ts';
import { explainerOf } from './explain-for-report.ts';
import { Reports } from './report-output.ts';
import type { ReportRequest } from './report-request.ts';
import { worseStatus } from './status.ts';
import { eachTrace } from './trace-input.ts';

export interface CompareTracesOptions extends MachineComparisonOptions {
  readonly receipts: boolean;
  readonly reports: readonly ReportRequest[];
  /** The two sides are built alike: also what no row tells can be compared. */
  readonly internals: boolean;
}

const STATUS: Readonly<Record<ComparisonVerdict, number>> = {
  unchanged: ExitStatus.MATCH,
  changed: ExitStatus.DIVERGED,
  'not-modelled': ExitStatus.NOT_MODELLED,
  'nothing-compared': ExitStatus.DIVERGED,
  // Judged for all traces together: if it is so for each of them, nothing was compared.
  skipped: ExitStatus.MATCH,
};

/** Compares, prints, returns the exit status. */
export async function compareTraces(
  files: readonly string[],
  sides: Sides,
  options: CompareTracesOptions,
  context: Context,
): Promise<number> {
  const reports = Reports.open(options.reports, context, {
    command: 'rewalk compare',
    unit: 'rows compared',
    inputs: files,
  });
  try {
    return await compareAll(files, sides, options, reports);
  } finally {
    reports.abort();
  }
}

async function compareAll(
  files: readonly string[],
  sides: Sides,
  options: CompareTracesOptions,
  reports: Reports,
): Promise<number> {
  const { context } = reports;
  const results: ComparisonResult[] = [];
  const objects: object[] = [];
  const full = options.receipts || files.length === 1;
  const progress = await context.progress('comparing');
  let status: number = ExitStatus.MATCH;

  let timeline: TimelineBuilder | undefined;
  let segment = 0;
  const explained = { sides, machine: {}, internals: options.internals, expectations: false };

  const finish = (comparison: MachineComparison, header: TraceHeader, end: TraceItem | undefined): boolean => {
    const reached = end?.kind === 'end';
    const ending = !reached ? 'not read' : end.complete ? 'complete' : 'cut short';
    const result = comparison.result(reached ? end.digest : undefined, ending);
    // Only the totals need what is left of it.
    results.push({ ...result, differences: [] });
    status = worseStatus(status, STATUS[result.verdict]);
    if (context.json) objects.push(comparisonObject(result, header));
    else print(result, header, full, context);
    reports.add({
      report: (seconds) => comparisonCase(result, header, seconds, timeline?.result()),
      object: () => comparisonObject(result, header),
      explain: explainerOf(result.receipt.file, segment, explained, context),
    });
    return result.receipt.changed === 0 || !options.bail;
  };

  try {
    const read = await eachTrace(files, context, async (path, items) => {
      let comparison: MachineComparison | undefined;
      let header: TraceHeader | undefined;
      let stopped = false;
      for await (const item of items) {
        if (item.kind === 'header') {
          if (stopped) return 'stop';
          header = item.header;
          segment = item.segment;
          timeline = reports.begin();
          comparison = new MachineComparison(path === '-' ? '<stdin>' : path, header, sides, options);
        } else if (comparison === undefined || header === undefined) {
          throw new Error('the reader gives a header before anything else');
        } else if (item.kind === 'end') {
          // Not left at once: what is wrong with the end of the trace is told on the way out.
          stopped = !finish(comparison, header, item);
        } else {
          const { columns } = item;
          progress.update(() => `${path}: step ${countText(columns.firstOrdinal)}`);
          // A trace that needs no more comparing is read on: its digest is part of the receipt, its faults are told.
          comparison.run(columns);
          timeline?.add(columns);
        }
      }
      return stopped ? 'stop' : 'go on';
    });
    status = worseStatus(status, read);
  } finally {
    progress.done();
  }

  const totals = comparisonTotals(results);
  if (totals.rows === 0) status = worseStatus(status, ExitStatus.DIVERGED);
  const document = (all: readonly object[]): object => ({ results: all, totals, exitStatus: status });
  const faults = totals.rows === 0 ? ['nothing compared'] : [];
  if (context.json) {
    context.out.json(document(objects));
  } else if (results.length > 1) {
    context.out.lines(comparisonTotalLines(totals, context.paint));
  } else if (results.length === 1) {
    context.out.lines(faults.map((sentence) => context.paint('red', sentence)));
  }
  await reports.finish({ exitStatus: status, totals: comparisonTotalLines(totals, unpainted), faults, document });
  return status;
}

function print(result: ComparisonResult, header: TraceHeader, full: boolean, { out, paint }: Context): void {
  if (full) out.lines(comparisonReceiptLines(result));
  out.line(comparisonSummaryLine(result, paint));
  for (const difference of result.differences) out.lines(differenceLines(difference, result, header, paint));
  if (full) out.lines(differenceGroupLines(result.receipt));
}
