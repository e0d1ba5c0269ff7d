/** The work of `rewalk stats`. */

import { escapeControls } from '../report/escape.ts';
import { counted, countText, tableLines } from '../report/table.ts';
import type { Context } from './command.ts';
import { eachTrace } from './trace-input.ts';
import { GROUPS, type Group, TraceStatistics } from './trace-statistics.ts';

function object(trace: string | undefined, statistics: TraceStatistics): object {
  const groups = (Object.keys(GROUPS) as Group[]).map((group) => [group, Object.fromEntries(statistics.sorted(group))]);
  const { segments, chunks, steps, observations } = statistics;
  return {
    ...(trace === undefined ? {} : { trace }),
    segments,
    chunks,
    stepCount: steps,
    observationCount: observations,
    ...Object.fromEntries(groups),
  };
}

function print(name: string, statistics: TraceStatistics, { out, paint }: Context): void {
  const { segments, chunks, steps, observations } = statistics;
  out.line(paint('bold', name));
  const sizes = [counted(steps, 'step'), counted(observations, 'expected observation'), counted(chunks, 'chunk')];
  if (segments !== 1) sizes.push(counted(segments, 'segment'));
  out.line(`  ${sizes.join(', ')}`);
  for (const group of Object.keys(GROUPS) as Group[]) {
    const rows = statistics.sorted(group);
    if (rows.length === 0) continue;
    out.line(`  ${GROUPS[group]}`);
    const cells = rows.map(([what, n]) => [countText(n), escapeControls(what)]);
    out.lines(tableLines(cells, ['right', 'left'], 4));
  }
}

/** Prints; returns the exit status. */
export async function printStatistics(files: readonly string[], sumOnly: boolean, context: Context): Promise<number> {
  const sum = new TraceStatistics();
  const traces: object[] = [];
  let first = true;
  const show = (name: string, statistics: TraceStatistics): void => {
    if (!first) context.out.line();
    first = false;
    print(name, statistics, context);
  };
  const progress = await context.progress('counting');
  let status: number;
  try {
    status = await eachTrace(files, context, async (path, items) => {
      const statistics = new TraceStatistics();
      // What was counted before a damaged chunk is still worth telling.
      try {
        for await (const item of items) {
          if (item.kind === 'header') statistics.beginSegment(item.header);
          else if (item.kind === 'steps') statistics.count(item.columns);
          progress.update(() => `${escapeControls(path)}: ${countText(statistics.steps)} steps`);
        }
      } finally {
        sum.merge(statistics);
        if (context.json) traces.push(object(path, statistics));
        else if (!sumOnly && statistics.segments > 0) show(escapeControls(path), statistics);
      }
      return 'go on';
    });
  } finally {
    progress.done();
  }
  if (context.json) context.out.json({ ...(sumOnly ? {} : { traces }), sum: object(undefined, sum) });
  else if (sumOnly || files.length > 1) show(`sum of ${counted(files.length, 'trace')}`, sum);
  return status;
}
