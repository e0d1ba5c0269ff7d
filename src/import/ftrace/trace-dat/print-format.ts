/**
 * The `print fmt` line of an event's format: not executed, but searched for what only the recording kernel knows, the
 * tables of names that it prints for numbers and the numbers that it compares a field with.
 */

/** Names by number, in the kernel's order. */
export type SymbolTable = ReadonlyMap<bigint, string>;

/** The tables of all `__print_symbolic` and `__print_flags` in the text. */
export function symbolTables(text: string): SymbolTable[] {
  const tables: SymbolTable[] = [];
  let at = 0;
  for (;;) {
    const found = [text.indexOf('__print_symbolic(', at), text.indexOf('__print_flags(', at)].filter((i) => i !== -1);
    if (found.length === 0) return tables;
    at = text.indexOf('(', Math.min(...found)) + 1;
    tables.push(tableFrom(text, at));
  }
}

/** The numbers in `REC->field == number`, in order. */
export function comparisons(text: string, field: string): number[] {
  const numbers: number[] = [];
  const before = `REC->${field} == `;
  for (let at = text.indexOf(before); at !== -1; at = text.indexOf(before, at + 1)) {
    const number = Number.parseInt(text.slice(at + before.length, at + before.length + 12), 10);
    if (!Number.isNaN(number)) numbers.push(number);
  }
  return numbers;
}

/** The entries `{ number, "name" }` up to the parenthesis that closes the call. */
function tableFrom(text: string, start: number): SymbolTable {
  const table = new Map<bigint, string>();
  let depth = 1;
  let at = start;
  while (at < text.length && depth > 0) {
    const char = text[at];
    if (char === '"') {
      at = stringEnd(text, at);
      continue;
    }
    if (char === '(') depth++;
    if (char === ')') depth--;
    if (char === '{' && depth === 1) {
      const end = entryEnd(text, at);
      const entry = entryOf(text.slice(at + 1, end));
      if (entry !== undefined && !table.has(entry.value)) table.set(entry.value, entry.name);
      at = end;
    }
    at++;
  }
  return table;
}

/** Behind the closing quote. */
function stringEnd(text: string, open: number): number {
  let at = open + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at + 1;
}

/** At the closing brace. */
function entryEnd(text: string, open: number): number {
  let at = open;
  while (at < text.length && text[at] !== '}') at = text[at] === '"' ? stringEnd(text, at) : at + 1;
  return at;
}

/** `number, "name" "more of it"`; undefined if the number is none that can be computed. */
function entryOf(text: string): { readonly value: bigint; readonly name: string } | undefined {
  const quote = text.indexOf('"');
  const comma = text.lastIndexOf(',', quote);
  if (quote === -1 || comma === -1) return undefined;
  let name = '';
  for (let at = quote; at !== -1 && at < text.length; ) {
    const end = stringEnd(text, at);
    name += text.slice(at + 1, end - 1);
    at = text.indexOf('"', end);
  }
  const value = new Expression(text.slice(0, comma)).value();
  return value === undefined ? undefined : { value: BigInt.asUintN(64, value), name };
}

/** A constant expression of C: numbers, parentheses, and the operators that tables of the kernel use. */
class Expression {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** undefined: something else stands in it, e.g. a name. */
  value(): bigint | undefined {
    const value = this.#or(0);
    this.#spaces();
    return this.#at === this.#text.length ? value : undefined;
  }

  #or(depth: number): bigint | undefined {
    let value = this.#shift(depth);
    while (value !== undefined && this.#skip('|')) {
      const right = this.#shift(depth);
      value = right === undefined ? undefined : value | right;
    }
    return value;
  }

  #shift(depth: number): bigint | undefined {
    let value = this.#sum(depth);
    while (value !== undefined && this.#skip('<<')) {
      const right = this.#sum(depth);
      value = right === undefined || right < 0n || right > 63n ? undefined : value << right;
    }
    return value;
  }

  #sum(depth: number): bigint | undefined {
    let value = this.#operand(depth);
    while (value !== undefined && this.#skip('+')) {
      const right = this.#operand(depth);
      value = right === undefined ? undefined : value + right;
    }
    return value;
  }

  #operand(depth: number): bigint | undefined {
    if (depth > 20) return undefined;
    if (this.#skip('(')) {
      const value = this.#or(depth + 1);
      return this.#skip(')') ? value : undefined;
    }
    if (this.#skip('-')) return negated(this.#operand(depth + 1), (value) => -value);
    if (this.#skip('~')) return negated(this.#operand(depth + 1), (value) => ~value);
    this.#spaces();
    const digits = /^(0x[\da-f]{1,16}|\d{1,20})(?:u?l{0,2})(?!\w)/i.exec(this.#text.slice(this.#at, this.#at + 30));
    if (digits === null) return undefined;
    this.#at += digits[0].length;
    return BigInt(digits[1]!);
  }

  #skip(token: string): boolean {
    this.#spaces();
    const is = this.#text.startsWith(token, this.#at);
    if (is) this.#at += token.length;
    return is;
  }

  #spaces(): void {
    while (this.#text[this.#at] === ' ') this.#at++;
  }
}

function negated(value: bigint | undefined, change: (value: bigint) => bigint): bigint | undefined {
  return value === undefined ? undefined : change(value);
}
