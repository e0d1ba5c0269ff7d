/** Whether `rewalk compare` was given two results files. */

import { Problem } from '../bits/problem.ts';
import { isResultsFile } from '../results/reader.ts';

/**
 * The two results files, `undefined` if there is none among the arguments. Throws E_USAGE for one among something else, and
 * for options of machines, by option: none runs here.
 */
export function resultsPair(
  args: readonly string[],
  given: Readonly<Record<string, readonly unknown[]>>,
): [a: string, b: string] | undefined {
  const isResults = (path: string): boolean => path.endsWith('.rwr') || isResultsFile(path);
  if (!args.some(isResults)) return undefined;
  const [a, b] = args;
  if (args.length !== 2 || a === undefined || b === undefined || !args.every(isResults)) {
    throw new Problem(
      'E_USAGE',
      'results are compared two by two, with nothing else',
      {},
      'give two files that `rewalk replay -o` wrote',
    );
  }
  const option = Object.entries(given).find(([, values]) => values.length > 0)?.[0];
  if (option !== undefined) {
    throw new Problem(
      'E_USAGE',
      `two results are compared as they are: no machine runs, so options of machines (${option}) cannot apply`,
    );
  }
  return [a, b];
}
