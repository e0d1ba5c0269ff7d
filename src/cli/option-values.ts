/** Option values with a form of their own. Each throws E_USAGE with what was expected. */

import { Problem } from '../bits/problem.ts';
import { fromBigInt, parseHex64, toBigInt, type Word64 } from '../bits/word64.ts';
import { suggestion } from './suggest.ts';

function usage(option: string, given: string, expected: string): Problem {
  return new Problem('E_USAGE', `${option} ${JSON.stringify(given)}: ${expected}`);
}

/** The one value of an option that may be given once. */
function once(option: string, value: unknown): string {
  if (Array.isArray(value)) throw new Problem('E_USAGE', `${option} is given more than once`);
  return String(value);
}

/** A yargs `coerce` for a whole number of `minimum` or more, decimal or 0x hexadecimal. */
export function wholeNumber(option: string, minimum = 0, maximum = Number.MAX_SAFE_INTEGER) {
  return (value: unknown): number | undefined => {
    if (value === undefined) return undefined;
    const text = once(option, value);
    const number = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : Number.NaN;
    if (Number.isSafeInteger(number) && number >= minimum && number <= maximum) return number;
    const range = maximum === Number.MAX_SAFE_INTEGER ? `of ${minimum} or more` : `from ${minimum} to ${maximum}`;
    throw usage(option, text, `expected a whole number ${range}`);
  };
}

/** A yargs `coerce` for a text that may be given once. */
export function oneText(option: string) {
  return (value: unknown): string | undefined => (value === undefined ? undefined : once(option, value));
}

/** A yargs `coerce` for one of `choices`. */
export function oneOf<Choice extends string>(option: string, choices: readonly Choice[]) {
  return (value: unknown): Choice | undefined => {
    if (value === undefined) return undefined;
    const text = once(option, value);
    const choice = choices.find((each) => each === text);
    if (choice === undefined) throw usage(option, text, `expected ${choices.join(' or ')}`);
    return choice;
  };
}

/** The word that a hexadecimal text spells, with or without 0x; underscores may group digits. */
export function hexWordValue(option: string, text: string): Word64 {
  const word = parseHex64(text.replace(/^0x/i, '').replaceAll('_', ''));
  if (word === undefined) throw usage(option, text, 'expected a hexadecimal word of at most 64 bits, like 0x15');
  return word;
}

/** Addresses from `first` to `last`, both included. */
export interface AddressRange {
  readonly first: Word64;
  readonly last: Word64;
}

const MAXIMUM = (1n << 64n) - 1n;

/** A yargs `coerce` for `0x1000`, `0x1000..0x1fff` (both included) or `0x1000+0x200`; always hexadecimal. */
export function addressRange(option: string) {
  return (value: unknown): AddressRange | undefined => {
    if (value === undefined) return undefined;
    const text = once(option, value);
    const number = (part: string): bigint => {
      const { lo, hi } = hexWordValue(option, part);
      return toBigInt(lo, hi);
    };
    const [, start, end, size] = /^([^.+]+)(?:\.\.([^.+]+)|\+([^.+]+))?$/.exec(text) ?? [];
    if (start === undefined) throw usage(option, text, 'expected ADDRESS, FIRST..LAST or ADDRESS+SIZE');
    const first = number(start);
    const last = end !== undefined ? number(end) : size !== undefined ? first + number(size) - 1n : first;
    if (last < first || last > MAXIMUM) throw usage(option, text, 'the range is empty or goes beyond 64 bits');
    return { first: fromBigInt(first), last: fromBigInt(last) };
  };
}

/** A yargs `coerce` for a frame number, hexadecimal; gives the addresses of the frame. */
export function frameRange(option: string) {
  return (value: unknown): AddressRange | undefined => {
    if (value === undefined) return undefined;
    const text = once(option, value);
    const { lo, hi } = hexWordValue(option, text);
    const frame = toBigInt(lo, hi);
    if (frame >= 1n << 52n) throw usage(option, text, 'expected a frame number of at most 52 bits');
    return { first: fromBigInt(frame << 12n), last: fromBigInt((frame << 12n) | 0xfffn) };
  };
}

/** A yargs `coerce` for names out of `known`, given in a row with commas or by repeating the option. */
export function names(option: string, known: readonly string[]) {
  return (value: unknown): ReadonlySet<string> | undefined => {
    if (value === undefined) return undefined;
    const given = (Array.isArray(value) ? value.map(String) : [String(value)]).flatMap((text) => text.split(','));
    for (const name of given) {
      if (known.includes(name)) continue;
      const near = suggestion(name, known);
      const remedy = near === undefined ? undefined : `did you mean ${near}?`;
      throw new Problem(
        'E_USAGE',
        `${option} ${JSON.stringify(name)}: expected one of ${known.join(', ')}`,
        {},
        remedy,
      );
    }
    return new Set(given);
  };
}
