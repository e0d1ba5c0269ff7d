/** What `rewalk compare` is to hold against each other, by what it was given; and the options that apply to that. */

import { existsSync } from 'node:fs';
import { Problem } from '../bits/problem.ts';
import { type GivenMachines, MACHINE_OPTIONS } from '../compare/sides.ts';
import { isResultsFile } from '../results/reader.ts';

/** Two results files; two traces, recordings or folders of them; or two machines on all the traces. */
export type CompareKind =
  | { readonly kind: 'results' | 'traces'; readonly a: string; readonly b: string }
  | { readonly kind: 'machines' };

type Kind = CompareKind['kind'];

/** Options that say something of some kinds only. What asks for a stricter exit status than there is harms nobody. */
const APPLIES: Readonly<Record<string, readonly Kind[]>> = {
  scope: ['machines'],
  bail: ['machines'],
  receipts: ['machines'],
  'allow-unmodelled': ['machines'],
  'max-diffs': ['machines', 'traces'],
  vm: ['traces'],
  'allow-other-corpus': ['results'],
};

const WHAT: Readonly<Record<Kind, string>> = {
  results: 'two results are compared as they are: no machine runs',
  traces: 'two traces are compared as they are: no machine runs',
  machines: 'traces are run on two machines',
};

const REMEDY: Readonly<Record<Kind, string>> = {
  results: 'leave it out; `rewalk compare` of two machines takes traces',
  traces: 'leave it out, or give two machines, such as --wiring walk-mmu --wiring gva-walk',
  machines: 'leave it out; without two machines, two traces or two results can be given',
};

/**
 * Throws E_USAGE for a results file among something else, `-` twice, and options (`others`: as given, by name) that cannot
 * apply; E_NO_SUCH_FILE for what should be the second results file.
 */
export function compareKind(
  args: readonly string[],
  given: GivenMachines,
  others: Readonly<Record<string, unknown>>,
): CompareKind {
  const found = resultsPair(args) ?? tracesPair(args, given);
  const { kind } = found;
  const machine = (Object.keys(MACHINE_OPTIONS) as (keyof GivenMachines)[]).find((name) => given[name].length > 0);
  const wrong =
    kind !== 'machines' && machine !== undefined
      ? MACHINE_OPTIONS[machine]
      : Object.keys(APPLIES)
          .filter((name) => others[name] !== undefined && others[name] !== false && !APPLIES[name]!.includes(kind))
          .map((name) => `--${name}`)[0];
  if (wrong !== undefined) throw new Problem('E_USAGE', `${WHAT[kind]}, so ${wrong} cannot apply`, {}, REMEDY[kind]);
  return found;
}

function resultsPair(args: readonly string[]): CompareKind | undefined {
  const isResults = (path: string): boolean => path.endsWith('.rwr') || isResultsFile(path);
  const results = args.find(isResults);
  if (results === undefined) return undefined;
  const remedy = 'give two files that `rewalk replay -o` wrote';
  const other = args.find((path) => !isResults(path));
  if (other !== undefined && other !== '-' && !existsSync(other)) {
    throw new Problem('E_NO_SUCH_FILE', 'no such file or folder', { file: other }, remedy);
  }
  if (other !== undefined) {
    const sentence = `results (${results}) are compared with results, and this is no results file`;
    throw new Problem('E_USAGE', sentence, { file: other }, remedy);
  }
  const [a, b] = args;
  if (args.length === 2 && a !== undefined && b !== undefined) return { kind: 'results', a, b };
  throw new Problem(
    'E_USAGE',
    `results are compared two by two; ${args.length === 1 ? 'there is one' : `these are ${args.length}`}`,
    { file: results },
    remedy,
  );
}

function tracesPair(args: readonly string[], given: GivenMachines): CompareKind {
  const [a, b] = args;
  const isMachines = Object.values(given).some((values) => values.length > 0);
  if (isMachines) return { kind: 'machines' };
  if (args.length !== 2 || a === undefined || b === undefined) {
    throw new Problem(
      'E_USAGE',
      `${args.length === 1 ? 'one trace' : `${args.length} traces`}, and no two machines: there is nothing to compare with`,
      {},
      'give --mutant, or --wiring, --profile, --tdp, --tdp-mmu or --machine twice; or just two traces, folders or results',
    );
  }
  if (a === '-' && b === '-') throw new Problem('E_USAGE', 'standard input (-) can be read only once');
  return { kind: 'traces', a, b };
}
