/** The work of `rewalk compare` with two machines. */

import { ExitStatus } from '../bits/problem.ts';
import { MachineComparison, type MachineComparisonOptions } from '../compare/machines.ts';
import type { ComparisonResult, ComparisonVerdict } from '../compare/result.ts';
import type { Sides } from '../compare/sides.ts';
import { comparisonTotals } from '../compare/totals.ts';
import { comparisonObject } from '../report/compare-json.ts';
import {
  comparisonReceiptLines,
  comparisonSummaryLine,
  comparisonTotalLines,
  differenceGroupLines,
  differenceLines,
} from '../report/compare-text.ts';
import { countText } from '../report/table.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { TraceItem } from '../trace/reader.ts';
import type { Context } from './command.ts';
import { worseStatus } from './status.ts';
import { eachTrace } from './trace-input.ts';

export interface CompareTracesOptions extends MachineComparisonOptions {
  readonly receipts: boolean;
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
  const results: ComparisonResult[] = [];
  const objects: object[] = [];
  const full = options.receipts || files.length === 1;
  const progress = await context.progress('comparing');
  let status: number = ExitStatus.MATCH;

  const finish = (comparison: MachineComparison, header: TraceHeader, end: TraceItem | undefined): boolean => {
    const reached = end?.kind === 'end';
    const ending = !reached ? 'not read' : end.complete ? 'complete' : 'cut short';
    const result = comparison.result(reached ? end.digest : undefined, ending);
    // Only the totals need what is left of it.
    results.push({ ...result, differences: [] });
    status = worseStatus(status, STATUS[result.verdict]);
    if (context.json) objects.push(comparisonObject(result, header));
    else print(result, header, full, context);
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
  if (context.json) {
    context.out.json({ results: objects, totals, exitStatus: status });
  } else if (results.length > 1) {
    context.out.lines(comparisonTotalLines(totals, context.paint));
  } else if (results.length === 1 && totals.rows === 0) {
    context.out.line(context.paint('red', 'nothing compared'));
  }
  return status;
}

function print(result: ComparisonResult, header: TraceHeader, full: boolean, { out, paint }: Context): void {
  if (full) out.lines(comparisonReceiptLines(result));
  out.line(comparisonSummaryLine(result, paint));
  for (const difference of result.differences) out.lines(differenceLines(difference, result, header, paint));
  if (full) out.lines(differenceGroupLines(result.receipt));
}
