/** `--from` and `--to`: a range of step ordinals, both included. */

import { Problem } from '../bits/problem.ts';
import { wholeNumber } from './option-values.ts';

export const rangeOptions = {
  from: { type: 'string', coerce: wholeNumber('--from'), describe: 'First step, from 0' },
  to: { type: 'string', coerce: wholeNumber('--to'), describe: 'Last step, included' },
} as const;

export interface StepRange {
  readonly from: number;
  readonly to: number;
}

/** Throws E_USAGE if the range is empty. */
export function stepRange(args: { readonly from: number | undefined; readonly to: number | undefined }): StepRange {
  const range = { from: args.from ?? 0, to: args.to ?? Number.POSITIVE_INFINITY };
  if (range.to >= range.from) return range;
  throw new Problem('E_USAGE', `--to ${range.to} comes before --from ${range.from}`);
}
