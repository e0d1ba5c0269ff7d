/** Exit statuses, and which of two counts (design §6). */

import { ExitStatus } from '../bits/problem.ts';

/** The reader of standard output closed it: what a program that SIGPIPE ends leaves behind. */
export const STATUS_CLOSED_OUTPUT = 141;
/** Ended by SIGINT, as shells number it. */
export const STATUS_INTERRUPTED = 130;
/** EX_SOFTWARE of sysexits.h: rewalk itself is wrong. */
export const STATUS_BUG = 70;

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
