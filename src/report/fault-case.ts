/** A fault of a whole run as a case: nothing was compared, though no trace diverged. */

import type { ReportCase, ReportRun } from './run.ts';

/** What makes a run fail though no trace does, as a case: who reads the file may not look at exit statuses. */
export function faultCase({ command, unit }: ReportRun, fault: string): ReportCase {
  return {
    file: command,
    title: unit,
    outcome: 'fail',
    verdict: 'run',
    summary: fault,
    reason: fault,
    steps: 0,
    compared: 0,
    seconds: 0,
    receipt: [],
    differing: 0,
    differences: [],
    groups: [],
  };
}
