/** The schema's enumerations and our names for them: by number. */

import { Problem } from '../bits/problem.ts';
import type { Ending, PairState, Verdict } from '../replay/result.ts';
import type { JudgementKind } from './model.ts';

export const VERDICTS: readonly Verdict[] = ['match', 'diverged', 'undetermined', 'not-modelled', 'nothing-compared'];
export const ENDINGS: readonly Ending[] = ['complete', 'cut short', 'not read'];
export const JUDGEMENTS: readonly JudgementKind[] = [
  'diverged',
  'stale-allowed',
  'stale-after-invalidation',
  'undetermined',
  'expected',
  'guest-differs',
];
export const PAIR_STATES: readonly PairState[] = ['equal', 'differs', 'wrong-frame', 'missing', 'extra', 'host'];

/** The name of an enumeration's number; absent means 0. Throws E_UNSOUND. */
export function nameOf<T>(names: readonly T[], number: number | null | undefined, what: string): T {
  const name = names[number ?? 0];
  if (name === undefined) throw new Problem('E_UNSOUND', `the file gives ${what} ${number}, which does not exist`);
  return name;
}
