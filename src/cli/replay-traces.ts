/** The work of `rewalk replay`. */

import { ExitStatus } from '../bits/problem.ts';
import { expectationsFor } from '../replay/expectations.ts';
import type { MachineChoice } from '../replay/machines.ts';
import type { ReplayResult, Verdict } from '../replay/result.ts';
import { type ReplayOptions, ReplaySession } from '../replay/session.ts';
import { totalsOf } from '../replay/totals.ts';
import { escapeControls } from '../report/escape.ts';
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
import { countText } from '../report/table.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { TraceItem } from '../trace/reader.ts';
import type { Context } from './command.ts';
import { worseStatus } from './status.ts';
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
}

const STATUS: Readonly<Record<Verdict, number>> = {
  match: ExitStatus.MATCH,
  diverged: ExitStatus.DIVERGED,
  undetermined: ExitStatus.NOT_MODELLED,
  'not-modelled': ExitStatus.NOT_MODELLED,
  'nothing-compared': ExitStatus.DIVERGED,
};

function sessionOptions(path: string, segment: number, options: ReplayTracesOptions): ReplayOptions {
  const { maxDiffs, bail, from, to, filter, allowUnmodelled, machine } = options;
  return {
    maxDiffs,
    bail,
    allowUnmodelled,
    machine,
    ...(from === 0 ? {} : { from }),
    ...(to === Number.POSITIVE_INFINITY ? {} : { to: to + 1 }),
    ...(filter === undefined ? {} : { filter: (columns, index) => selectStep(columns, index, filter) !== 'none' }),
    expectations: options.expectations ? expectationsFor(path, segment) : [],
  };
}

/** Replays, prints, returns the exit status. */
export async function replayTraces(
  files: readonly string[],
  options: ReplayTracesOptions,
  context: Context,
): Promise<number> {
  const results: ReplayResult[] = [];
  const objects: object[] = [];
  const full = options.receipts || files.length === 1;
  const progress = await context.progress('replaying');
  let status: number = ExitStatus.MATCH;

  const finish = (session: ReplaySession, header: TraceHeader, end: TraceItem | undefined): boolean => {
    const reached = end?.kind === 'end';
    const ending = !reached ? 'not read' : end.complete ? 'complete' : 'cut short';
    const result = session.result(reached ? end.digest : undefined, ending);
    results.push(result);
    status = worseStatus(status, STATUS[result.verdict]);
    if (context.json) objects.push(replayObject(result, header));
    else print(result, header, full, context);
    return result.verdict !== 'diverged' || !options.bail;
  };

  try {
    const read = await eachTrace(files, context, async (path, items) => {
      let session: ReplaySession | undefined;
      let stopped = false;
      let header: TraceHeader | undefined;
      for await (const item of items) {
        if (item.kind === 'header') {
          if (stopped) return 'stop';
          header = item.header;
          session = new ReplaySession(
            path === '-' ? '<stdin>' : path,
            header,
            sessionOptions(path, item.segment, options),
          );
        } else if (session === undefined || header === undefined) {
          throw new Error('the reader gives a header before anything else');
        } else if (item.kind === 'end') {
          // Not left at once: what is wrong with the end of the trace is told on the way out.
          stopped = !finish(session, header, item);
        } else {
          const { columns } = item;
          progress.update(() => `${path}: step ${countText(columns.firstOrdinal)}`);
          if (!session.run(columns)) {
            finish(session, header, undefined);
            return 'stop';
          }
        }
      }
      return stopped ? 'stop' : 'go on';
    });
    status = worseStatus(status, read);
  } finally {
    progress.done();
  }

  const totals = totalsOf(results);
  const enough = totals.observationsPredicted >= options.minPredicted;
  if (!enough) status = worseStatus(status, ExitStatus.DIVERGED);
  if (context.json) {
    context.out.json({ results: objects, totals, minPredicted: options.minPredicted, exitStatus: status });
  } else if (results.length > 0) {
    if (results.length > 1) context.out.lines(scenarioLines(results));
    if (results.length > 1) context.out.lines(totalLines(totals, context.paint));
    if (!enough) {
      const sentence = `only ${countText(totals.observationsPredicted)} observations were predicted and equal, --min-predicted asks for ${countText(options.minPredicted)}`;
      context.out.line(context.paint('red', sentence));
    }
  }
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
