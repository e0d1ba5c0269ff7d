/** Exit statuses, and which of two counts (design §6). */

import { ExitStatus } from '../bits/problem.ts';
import type { Verdict } from '../replay/result.ts';

/** The reader of standard output closed it: what a program that SIGPIPE ends leaves behind. */
export const STATUS_CLOSED_OUTPUT = 141;
/** Ended by SIGINT, as shells number it. */
export const STATUS_INTERRUPTED = 130;
/** EX_SOFTWARE of sysexits.h: rewalk itself is wrong. */
export const STATUS_BUG = 70;

/** What `git bisect run` understands as "this commit cannot be tested". */
export const STATUS_SKIP = 125;

/** Under `--bisect` a trace that cannot be read or is not modelled says nothing of the commit. */
export function bisectStatus(status: number): number {
  return status === ExitStatus.UNREADABLE || status === ExitStatus.NOT_MODELLED ? STATUS_SKIP : status;
}

const PRECEDENCE: readonly number[] = [
  ExitStatus.UNREADABLE,
  ExitStatus.NOT_MODELLED,
  ExitStatus.USAGE,
  ExitStatus.DIVERGED,
  ExitStatus.MATCH,
];

/** Of two traces' statuses the one that the whole run ends with: unreadable, then not modelled, then diverged. */
export function worseStatus(a: number, b: number): number {
  return PRECEDENCE.find((status) => status === a || status === b) ?? Math.max(a, b);
}

/** What a trace's verdict makes of the exit status of its replay. */
export const VERDICT_STATUS: Readonly<Record<Verdict, number>> = {
  match: ExitStatus.MATCH,
  diverged: ExitStatus.DIVERGED,
  undetermined: ExitStatus.NOT_MODELLED,
  'not-modelled': ExitStatus.NOT_MODELLED,
  'nothing-compared': ExitStatus.DIVERGED,
};
