/** The work of `rewalk compare` with two traces, or two recordings imported on the fly. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { eventsOfOne, headerChanges, seenByOne } from '../compare/trace-headers.ts';
import { TracesComparison } from '../compare/traces.ts';
import { tracesCase } from '../report/compare-traces-cases.ts';
import { tracesObject } from '../report/compare-traces-json.ts';
import { type TraceFacts, type TracesReport, tracesLines } from '../report/compare-traces-text.ts';
import { unpainted } from '../report/replay-cases.ts';
import { countText } from '../report/table.ts';
import type { Context } from './command.ts';
import { Reports } from './report-output.ts';
import type { ReportRequest } from './report-request.ts';
import { openSegments, type Segments } from './segment-source.ts';
import { worseStatus } from './status.ts';

export interface TwoTracesOptions {
  /** Classes whose first difference is told in full; undefined: as many as fit. */
  readonly maxDiffs: number | undefined;
  /** Which guest of a recording of several: of both, or of either. */
  readonly vms: readonly string[];
  readonly reports: readonly ReportRequest[];
}

/** What the comparison of two traces came to. */
export interface TwoTraces {
  readonly report: TracesReport;
  /** There was something to compare. */
  readonly compared: boolean;
  readonly isEqual: boolean;
  /** Ends that are missing: traces that were cut short. */
  readonly problems: readonly Problem[];
}

function factsOf({ path, headers, steps }: Segments): TraceFacts {
  const header = headers[0];
  if (header === undefined) throw new Problem('E_NOT_A_TRACE', 'the trace has no segment', { file: path });
  return { path: path === '-' ? '<stdin>' : path, header, steps };
}

/** Compares two traces or recordings. `what` names them in the progress. Throws what reading throws. */
export async function heldAgainst(
  pathA: string,
  pathB: string,
  vms: readonly string[],
  what: string,
  context: Context,
): Promise<TwoTraces> {
  const a = await openSegments(pathA, vms[0], context);
  try {
    const b = await openSegments(pathB, vms[1] ?? vms[0], context);
    try {
      return await comparedSegments(a, b, what, context);
    } finally {
      b.close();
    }
  } finally {
    a.close();
  }
}

async function comparedSegments(a: Segments, b: Segments, what: string, context: Context): Promise<TwoTraces> {
  const comparison = new TracesComparison();
  const progress = await context.progress('comparing');
  try {
    for (;;) {
      const [x, y] = [a.next(), b.next()];
      if (x === undefined && y === undefined) break;
      await comparison.segment(x, y, async (steps) => {
        progress.update(() => `${what}: ${countText(steps)} steps`);
        await context.breathe();
      });
    }
  } finally {
    progress.done();
  }
  const result = comparison.result();
  const [factsA, factsB] = [factsOf(a), factsOf(b)];
  const report: TracesReport = {
    a: factsA,
    b: factsB,
    headers: headerChanges(factsA.header, factsB.header),
    notCompared: seenByOne(factsA.header, factsB.header),
    oneSided: eventsOfOne(factsA.header, factsB.header),
    result,
  };
  const { steps, differences, segments } = result;
  return {
    report,
    compared: segments.a > 0 && segments.b > 0 && steps.both + steps.onlyA + steps.onlyB > 0,
    isEqual: differences === 0 && segments.a === segments.b,
    problems: [...a.problems, ...b.problems],
  };
}

/** 0 equal, 1 different or nothing compared, 3 cut short. */
export function statusOf({ compared, isEqual, problems }: TwoTraces): number {
  const status = compared && isEqual ? ExitStatus.MATCH : ExitStatus.DIVERGED;
  return problems.reduce<number>((worst, problem) => worseStatus(worst, problem.exitStatus), status);
}

export function checkVms(vms: readonly string[]): void {
  if (vms.length > 2) throw new Problem('E_USAGE', '--vm is given more than twice: two traces are compared');
}

/** Compares, prints, returns the exit status. Throws what reading throws. */
export async function compareTwoTraces(
  pathA: string,
  pathB: string,
  { maxDiffs, vms, reports: requests }: TwoTracesOptions,
  context: Context,
): Promise<number> {
  checkVms(vms);
  const about = { command: 'rewalk compare', unit: 'events equal', inputs: [pathA, pathB] };
  const reports = Reports.open(requests, context, about);
  try {
    const two = await heldAgainst(pathA, pathB, vms, 'comparing', reports.context);
    return await tell(two, maxDiffs, reports);
  } finally {
    reports.abort();
  }
}

async function tell(two: TwoTraces, maxDiffs: number | undefined, reports: Reports): Promise<number> {
  const { context } = reports;
  const { report, compared, isEqual, problems } = two;
  const status = statusOf(two);
  if (context.json) context.out.json(tracesObject(report, status));
  else context.out.lines(tracesLines(report, maxDiffs, context.paint));
  if (problems.length > 0) await context.out.flush();
  reports.add({
    report: (seconds) => tracesCase(report, compared, isEqual, seconds),
    object: () => tracesObject(report, status),
    explain: undefined,
  });
  for (const problem of problems) context.problem(problem);
  await reports.finish({
    exitStatus: status,
    totals: tracesLines(report, 0, unpainted),
    faults: [],
    document: () => tracesObject(report, status),
  });
  return status;
}
