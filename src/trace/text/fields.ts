/**
 * How one part of a row looks in the text form, both ways: a bit, a number, a name, a word of 64 bits.
 *
 * The rows of `kinds.ts` are made of these, so writing and parsing cannot drift apart.
 */

import { Problem } from '../../bits/problem.ts';
import { parseHex64, type Word64, wordText, ZERO } from '../../bits/word64.ts';
import { nearest } from '../nearest.ts';

/** A step or an observation on its way into or out of text. `second`: a step's operand, an observation's value. */
export interface Row {
  op: number;
  address: Word64;
  second: Word64;
}

/** Names by number; a number without a name is written as a number. */
export type Names = readonly string[] | Readonly<Record<number, string>>;

interface Bits {
  readonly shift: number;
  readonly mask: number;
  /** What an absent field means; default 0. May depend on the row's flags. */
  readonly usual?: number | ((op: number) => number);
}

export type Field = { readonly name: string } & (
  | { readonly type: 'flag'; readonly bit: number }
  | ({ readonly type: 'number' } & Bits)
  | ({ readonly type: 'name'; readonly names: Names } & Bits)
  | { readonly type: 'word'; readonly of: 'address' | 'second' }
  /** A word whose presence is a bit of its own. */
  | { readonly type: 'optional-word'; readonly of: 'address' | 'second'; readonly bit: number }
  /** A word that is a number from 0 to `greatest`, below 2^32. */
  | { readonly type: 'whole'; readonly of: 'second'; readonly greatest: number }
  /** The word 1 or 0. */
  | { readonly type: 'truth'; readonly of: 'second' }
  /** Says nothing but the row's kind. */
  | { readonly type: 'mark' }
);

export type Json = string | number | boolean;

export function textProblem(sentence: string): Problem {
  return new Problem('E_TEXT_FORM', sentence, {}, 'the text form is described in src/trace/text/TEXT-FORM.md');
}

/** `; did you mean 'x'?`, or nothing if no name is near. */
export function suggestion(name: string, names: readonly string[]): string {
  const near = nearest(name, names);
  return near === undefined ? '' : `; did you mean '${near}'?`;
}

/** What a value is, for messages. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

export function parseWord(name: string, value: unknown): Word64 {
  const word = typeof value === 'string' && value.startsWith('0x') ? parseHex64(value.slice(2)) : undefined;
  if (word === undefined)
    throw textProblem(`'${name}' is ${shown(value)}, but a hexadecimal string like "0x1000" is due`);
  return word;
}

export function parseNumber(name: string, value: unknown, greatest: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= greatest) return value;
  throw textProblem(`'${name}' is ${shown(value)}, but a whole number from 0 to ${greatest} is due`);
}

export function parseTruth(name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw textProblem(`'${name}' is ${shown(value)}, but true or false is due`);
}

/** A name's number; numbers stand for themselves. */
export function parseName(name: string, value: unknown, names: Names, greatest: number): number {
  if (typeof value === 'number') return parseNumber(name, value, greatest);
  if (typeof value !== 'string') {
    throw textProblem(`'${name}' is ${shown(value)}, but a name is due: ${Object.values(names).join(', ')}`);
  }
  const known = Object.entries(names).find(([, text]) => text === value);
  if (known !== undefined) return Number(known[0]);
  throw textProblem(
    `'${name}' is ${shown(value)}, which is none of its values${suggestion(value, Object.values(names))}`,
  );
}

/** The bits of the step or observation word that a field takes. */
export function fieldMask(field: Field): number {
  switch (field.type) {
    case 'flag':
    case 'optional-word':
      return field.bit;
    case 'number':
    case 'name':
      return field.mask << field.shift;
    default:
      return 0;
  }
}

function usualBits(field: Bits, op: number): number {
  return typeof field.usual === 'function' ? field.usual(op) : (field.usual ?? 0);
}

/** The field's value in `row`; `undefined` where it may be left out. `always`: the field names the kind and stays. */
export function fieldValue(field: Field, row: Row, always = false): Json | undefined {
  switch (field.type) {
    case 'mark':
      return true;
    case 'flag':
      return (row.op & field.bit) !== 0 || undefined;
    case 'number':
    case 'name': {
      const bits = (row.op >>> field.shift) & field.mask;
      if (!always && bits === usualBits(field, row.op)) return undefined;
      return field.type === 'name' ? (field.names[bits] ?? bits) : bits;
    }
    case 'word': {
      const word = row[field.of];
      return always || word.lo !== 0 || word.hi !== 0 ? wordText(word) : undefined;
    }
    case 'optional-word':
      return (row.op & field.bit) !== 0 ? wordText(row[field.of]) : undefined;
    case 'whole':
      return row[field.of].lo;
    case 'truth': {
      const { lo, hi } = row[field.of];
      return hi === 0 && lo <= 1 ? lo === 1 : wordText({ lo, hi });
    }
  }
}

/** Puts a value into `row`, whose bits for this field are still 0. Throws E_TEXT_FORM. */
export function putField(field: Field, row: Row, value: unknown): void {
  switch (field.type) {
    case 'mark':
      if (value !== true) throw textProblem(`'${field.name}' is ${shown(value)}, but true is due`);
      return;
    case 'flag':
      if (parseTruth(field.name, value)) row.op = (row.op | field.bit) >>> 0;
      return;
    case 'number':
      row.op = (row.op | (parseNumber(field.name, value, field.mask) << field.shift)) >>> 0;
      return;
    case 'name':
      row.op = (row.op | (parseName(field.name, value, field.names, field.mask) << field.shift)) >>> 0;
      return;
    case 'word':
      row[field.of] = parseWord(field.name, value);
      return;
    case 'optional-word':
      row[field.of] = parseWord(field.name, value);
      row.op = (row.op | field.bit) >>> 0;
      return;
    case 'whole':
      row[field.of] = { lo: parseNumber(field.name, value, field.greatest), hi: 0 };
      return;
    case 'truth':
      row[field.of] = typeof value === 'boolean' ? { lo: value ? 1 : 0, hi: 0 } : parseWord(field.name, value);
      return;
  }
}

/** Puts what an absent field means into `row`, whose other fields are there already. */
export function putUsual(field: Field, row: Row): void {
  if (field.type !== 'number' && field.type !== 'name') return;
  row.op = (row.op | (usualBits(field, row.op) << field.shift)) >>> 0;
}

export function emptyRow(op: number): Row {
  return { op, address: ZERO, second: ZERO };
}
