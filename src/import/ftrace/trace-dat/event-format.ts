/** A `format` file of the kernel: where the fields of an event's record are. */

import { comparisons, type SymbolTable, symbolTables } from './print-format.ts';

/** `field:u64 gfn; offset:16; size:8; signed:0;` */
export interface FieldFormat {
  readonly name: string;
  /** Bytes from the beginning of the record. */
  readonly offset: number;
  /** Bytes; 0: to the end of the record. */
  readonly size: number;
  readonly signed: boolean;
  /** The field holds where in the record its data are: offset in the low half, length in the high. */
  readonly located: boolean;
}

export class EventFormat {
  readonly name: string;
  readonly id: number;
  readonly #text: string;
  #fields: ReadonlyMap<string, FieldFormat> | undefined;
  #tables: readonly SymbolTable[] | undefined;
  readonly #comparisons = new Map<string, readonly number[]>();

  private constructor(name: string, id: number, text: string) {
    this.name = name;
    this.id = id;
    this.#text = text;
  }

  /** undefined: the text has no name or no number. */
  static parse(text: string): EventFormat | undefined {
    const name = lineAfter(text, 'name: ');
    const id = Number(lineAfter(text, 'ID: ') ?? Number.NaN);
    return name === undefined || !Number.isInteger(id) ? undefined : new EventFormat(name, id, text);
  }

  field(name: string): FieldFormat | undefined {
    this.#fields ??= fieldsOf(this.#text);
    return this.#fields.get(name);
  }

  get tables(): readonly SymbolTable[] {
    this.#tables ??= symbolTables(this.#print());
    return this.#tables;
  }

  comparisons(field: string): readonly number[] {
    let numbers = this.#comparisons.get(field);
    if (numbers === undefined) {
      numbers = comparisons(this.#print(), field);
      this.#comparisons.set(field, numbers);
    }
    return numbers;
  }

  #print(): string {
    const at = this.#text.indexOf('\nprint fmt: ');
    return at === -1 ? '' : this.#text.slice(at);
  }
}

/** The rest of the line that begins with `start`. */
function lineAfter(text: string, start: string): string | undefined {
  const found = text.startsWith(start) ? 0 : text.indexOf(`\n${start}`) + 1;
  if (found === 0 && !text.startsWith(start)) return undefined;
  const end = text.indexOf('\n', found);
  return text.slice(found + start.length, end === -1 ? text.length : end);
}

/** All `field:` lines of a format, also of `header_page`, which has nothing else. */
export function fieldsOf(text: string): Map<string, FieldFormat> {
  const fields = new Map<string, FieldFormat>();
  for (const line of text.split('\n')) {
    const start = line.indexOf('field:');
    if (start === -1 || line.slice(0, start).trim() !== '') continue;
    const field = fieldOf(line.slice(start));
    if (field !== undefined) fields.set(field.name, field);
  }
  return fields;
}

function fieldOf(line: string): FieldFormat | undefined {
  const parts = new Map<string, string>();
  for (const part of line.split(';')) {
    const colon = part.indexOf(':');
    if (colon !== -1) parts.set(part.slice(0, colon).trim(), part.slice(colon + 1).trim());
  }
  const declaration = parts.get('field') ?? '';
  const array = declaration.indexOf('[', declaration.lastIndexOf(' '));
  const named = array === -1 ? declaration : declaration.slice(0, array);
  const name = named.slice(Math.max(named.lastIndexOf(' '), named.lastIndexOf('*')) + 1);
  const offset = Number(parts.get('offset') ?? Number.NaN);
  const size = Number(parts.get('size') ?? Number.NaN);
  if (name === '' || !isSmall(offset) || !isSmall(size)) return undefined;
  return { name, offset, size, signed: parts.get('signed') === '1', located: declaration.startsWith('__data_loc') };
}

function isSmall(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0x10000;
}
