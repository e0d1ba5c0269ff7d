/** `--mutant`: names of historical bugs, as `rewalk mutants` lists them. */

import { Problem } from '../bits/problem.ts';
import { MUTANTS, type MutantText } from '../mmu/mutants.ts';
import { suggestion } from './suggest.ts';

/** `m01-inherited-permissions`, `inherited-permissions`, and `m01`, `m1`, `01` or `1`. */
function spellings({ number, name }: MutantText): readonly string[] {
  const dash = name.indexOf('-');
  return [name, name.slice(dash + 1), name.slice(0, dash), name.slice(1, dash), `m${number}`, String(number)];
}

function numberOf(text: string): number {
  const found = MUTANTS.find((mutant) => spellings(mutant).includes(text));
  if (found !== undefined) return found.number;
  const names = MUTANTS.map(({ name }) => name);
  const short = names.map((name) => name.slice(name.indexOf('-') + 1));
  const near = suggestion(text, names) ?? names[short.indexOf(suggestion(text, short) ?? '')];
  throw new Problem(
    'E_USAGE',
    `--mutant ${JSON.stringify(text)}: expected one of ${names.join(', ')}`,
    {},
    near === undefined ? 'rewalk mutants says what each of them is' : `did you mean ${near}?`,
  );
}

/** A yargs `coerce` for mutants, given in a row with commas or by repeating the option. Throws E_USAGE. */
export function mutantNumbers(value: unknown): readonly number[] | undefined {
  if (value === undefined) return undefined;
  const given = (Array.isArray(value) ? value.map(String) : [String(value)]).flatMap((text) => text.split(','));
  return [...new Set(given.map(numberOf))].sort((a, b) => a - b);
}
