/** Reads the text of one event from left to right. What does not fit is a Problem (E_IMPORT) that shows where. */

import { Problem } from '../../bits/problem.ts';

export class Cursor {
  readonly text: string;
  at: number;

  constructor(text: string, at = 0) {
    this.text = text;
    this.at = at;
  }

  /** Passes over `expected`, which must be next. */
  literal(expected: string): void {
    if (!this.skip(expected)) throw this.problem(`“${expected.trim()}”`);
  }

  /** Passes over `expected` if it is next. */
  skip(expected: string): boolean {
    const is = this.text.startsWith(expected, this.at);
    if (is) this.at += expected.length;
    return is;
  }

  spaces(): void {
    while (this.text.charCodeAt(this.at) === 0x20) this.at++;
  }

  /** A decimal number, perhaps with a sign. */
  decimal(): number {
    const from = this.at;
    this.skip('-');
    this.#digits(isDecimal, 16, 'a decimal number');
    return Number(this.text.slice(from, this.at));
  }

  /** A hexadecimal number of up to 32 bits, with or without `0x`. */
  hex(): number {
    const digits = this.#hexDigits();
    const value = Number.parseInt(digits, 16);
    if (value > 0xffffffff) throw this.problem('a number of 32 bits', this.at - digits.length);
    return value;
  }

  /** A hexadecimal number of up to 64 bits, with or without `0x`. */
  big(): bigint {
    return BigInt(`0x${this.#hexDigits()}`);
  }

  /** Everything up to the next space or the end; not empty. */
  word(): string {
    const space = this.text.indexOf(' ', this.at);
    const end = space === -1 ? this.text.length : space;
    if (end === this.at) throw this.problem('a word');
    const word = this.text.slice(this.at, end);
    this.at = end;
    return word;
  }

  /** Everything up to `mark`, which is passed over. */
  before(mark: string): string {
    const end = this.text.indexOf(mark, this.at);
    if (end === -1) throw this.problem(`“${mark.trim()}”`);
    const found = this.text.slice(this.at, end);
    this.at = end + mark.length;
    return found;
  }

  /** One of `names`, passed over. */
  oneOf<Name extends string>(...names: readonly Name[]): Name {
    for (const name of names) if (this.skip(name)) return name;
    throw this.problem(names.map((name) => `“${name.trim()}”`).join(' or '));
  }

  problem(expected: string, at = this.at): Problem {
    const shown = JSON.stringify(this.text.slice(at, at + 30));
    return new Problem('E_IMPORT', `expected ${expected} at ${shown}`);
  }

  #hexDigits(): string {
    this.skip('0x');
    return this.#digits(isHex, 16, 'a hexadecimal number');
  }

  #digits(is: (code: number) => boolean, most: number, what: string): string {
    const from = this.at;
    while (is(this.text.charCodeAt(this.at))) this.at++;
    if (this.at === from || this.at - from > most) throw this.problem(what, from);
    return this.text.slice(from, this.at);
  }
}

export function isDecimal(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

function isHex(code: number): boolean {
  return isDecimal(code) || (code >= 0x61 && code <= 0x66) || (code >= 0x41 && code <= 0x46);
}
