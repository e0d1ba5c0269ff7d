/** Baselines and pending files are for people to review: nobody writes them unseen. */

import { Problem } from '../bits/problem.ts';
import type { Io } from './io.ts';

/** `CI` is set by every CI service that there is; `CI=`, `0` and `false` switch that off. */
function isCi({ env }: Io): boolean {
  const value = env['CI'];
  return value !== undefined && value !== '' && value !== '0' && value.toLowerCase() !== 'false';
}

/**
 * Throws E_REVIEW where nobody reviews what is written: in CI, always; without a terminal, unless `yes` says that it was
 * reviewed. `what`: the subject of the sentence, e.g. "a baseline".
 */
export function checkReviewed(what: string, yes: boolean, io: Io): void {
  if (isCi(io)) {
    throw new Problem(
      'E_REVIEW',
      `${what} is never written in CI (the environment has CI set)`,
      {},
      'run the same command where you can review what changed, and commit what it writes',
    );
  }
  if (yes || io.stdout.isTTY === true || io.stderr.isTTY === true) return;
  throw new Problem(
    'E_REVIEW',
    `${what} is written from a terminal only: here nobody sees what is accepted`,
    {},
    'run it in a terminal, or add --yes if you have reviewed it',
  );
}
