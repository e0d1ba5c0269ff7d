/** Whether `rewalk compare` was given two traces to hold against each other: two of them, and no machine to run on. */

import { Problem } from '../bits/problem.ts';
import type { GivenMachines } from '../compare/sides.ts';

/**
 * The two, `undefined` if machines are to be compared. Throws E_USAGE for an option that only makes sense with machines
 * or results (`others`: options as given, by name).
 */
export function tracesPair(
  args: readonly string[],
  given: GivenMachines,
  others: Readonly<Record<string, unknown>>,
): readonly [a: string, b: string] | undefined {
  if (Object.values(given).some((values) => values.length > 0)) return undefined;
  const [a, b] = args;
  if (args.length !== 2 || a === undefined || b === undefined) return undefined;
  if (a === '-' && b === '-') throw new Problem('E_USAGE', 'standard input (-) can be read only once');
  const option = Object.entries(others).find(([, value]) => value !== undefined && value !== false)?.[0];
  if (option !== undefined) {
    throw new Problem(
      'E_USAGE',
      `two traces are compared as they are: no machine runs, so ${option} cannot apply`,
      {},
      'leave it out, or give two machines, such as --wiring walk-mmu --wiring gva-walk',
    );
  }
  return [a, b];
}
