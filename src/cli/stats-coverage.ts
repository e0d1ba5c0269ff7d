/** The work of `rewalk stats --coverage`: replays, and counts the cells of the model that were reached. */

import { coverageOf } from '../replay/coverage.ts';
import { COVERAGE_CELLS } from '../replay/coverage-cells.ts';
import { byContext, minimumCorpus, type TraceCoverage, unionOf } from '../replay/coverage-corpus.ts';
import { CoverageSet } from '../replay/coverage-set.ts';
import type { MachineChoice } from '../replay/machines.ts';
import { ReplaySession } from '../replay/session.ts';
import { coverageLines, minimumLines, unreachedLines } from '../report/coverage-text.ts';
import { escapeControls } from '../report/escape.ts';
import { countText } from '../report/table.ts';
import type { Context } from './command.ts';
import { eachTrace } from './trace-input.ts';

export interface CoverageRequest {
  readonly machine: MachineChoice;
  /** List what was not reached. */
  readonly unreached: boolean;
  /** Choose a minimum corpus. */
  readonly minimum: boolean;
}

/** Prints; returns the exit status. What the replays come to is of no account: a step that diverges reaches cells, too. */
export async function printCoverage(
  files: readonly string[],
  { machine, unreached, minimum }: CoverageRequest,
  context: Context,
): Promise<number> {
  const traces: TraceCoverage[] = [];
  const progress = await context.progress('replaying');
  let status: number;
  try {
    status = await eachTrace(files, context, async (path, items) => {
      const set = new CoverageSet();
      let session: ReplaySession | undefined;
      let reached: CoverageSet | undefined;
      try {
        for await (const item of items) {
          if (item.kind === 'header') {
            session?.release();
            if (reached !== undefined) set.add(reached);
            session = new ReplaySession(path, item.header, { machine, maxDiffs: 0 });
            reached = coverageOf(session);
          } else if (item.kind === 'steps') {
            session?.run(item.columns);
            const { firstOrdinal, stepCount } = item.columns;
            progress.update(() => `${escapeControls(path)}: ${countText(firstOrdinal + stepCount)} steps`);
          }
        }
      } finally {
        // Also of a damaged trace: what was replayed has reached what it has.
        session?.release();
        if (reached !== undefined) {
          set.add(reached);
          traces.push({ trace: path, set });
        }
      }
      return 'go on';
    });
  } finally {
    progress.done();
  }
  if (traces.length === 0) return status;
  const union = unionOf(traces);
  const contexts = byContext(union);
  const missing = COVERAGE_CELLS.filter(({ number }) => !union.has(number));
  const chosen = minimum ? minimumCorpus(traces) : [];
  for (const name of union.unlisted) context.note(`reached, and not in the list of cells: ${name}`);
  if (context.json) {
    context.out.json({
      coverage: {
        cells: COVERAGE_CELLS.length,
        reached: union.count,
        contexts,
        traces: traces.map(({ trace, set }) => ({ trace, reached: set.count })),
        unreached: missing.map(({ number, name, unreachable }) => ({
          number,
          name,
          ...(unreachable === undefined ? {} : { unreachable }),
        })),
        ...(minimum ? { minimum: chosen } : {}),
      },
    });
    return status;
  }
  context.out.lines(coverageLines(contexts, traces.length));
  if (minimum) context.out.lines(['', ...minimumLines(chosen, traces.length)]);
  if (unreached) context.out.lines(['', ...unreachedLines(missing)]);
  return status;
}
