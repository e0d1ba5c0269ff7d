/** What `rewalk compare` found between two folders of traces, as plain data. */

import type { FoldersReport } from './compare-folders-text.ts';
import { classObject } from './compare-traces-json.ts';

/** `traces`: an object for each name that both folders have. */
export function foldersObject(report: FoldersReport, traces: readonly object[], exitStatus: number): object {
  const { a, b, removed, added, verdicts, steps, events, marks, differences, beyond, classes } = report;
  return {
    mode: 'folders',
    a: { path: a },
    b: { path: b },
    verdicts,
    removed,
    added,
    steps,
    marks,
    events,
    differences,
    classes: classes.map((each) => ({
      ...classObject(each, each.where),
      traces: each.traces,
      firstTrace: each.where.name,
    })),
    beyond,
    traces,
    exitStatus,
  };
}
