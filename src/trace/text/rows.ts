/** Whole rows, steps and observations, as the fields of a JSON object, both ways. */

import { wordText } from '../../bits/word64.ts';
import {
  emptyRow,
  type Field,
  fieldValue,
  type Json,
  parseWord,
  putField,
  putUsual,
  type Row,
  suggestion,
  textProblem,
} from './fields.ts';
import { type Kind, REST_OF_BITS } from './kinds.ts';

/** An object of the text form that is being written. */
export type TextObject = { [name: string]: Json | TextObject | TextObject[] };

/** An object of the text form that was read: nothing is known of its values. */
export type ReadObject = Readonly<Record<string, unknown>>;

/** Adds a row's fields, but for the one that names the kind, to `target`. */
export function putRowFields(target: TextObject, kind: Kind, row: Row): void {
  const done: Field[] = [];
  for (const field of kind.fields) {
    // A word that an optional one has shown is not shown again under its column's name.
    const shown = done.some((other) => sameWord(field, other));
    const value = shown ? undefined : fieldValue(field, row);
    if (value === undefined) continue;
    target[field.name] = value;
    done.push(field);
  }
  const rest = (row.op & kind.rest) >>> 0;
  if (rest !== 0) target[REST_OF_BITS] = wordText({ lo: rest, hi: 0 });
}

/** A row of a kind as an object. */
export function rowObject(kind: Kind, row: Row): TextObject {
  const object: TextObject = { [kind.main.name]: fieldValue(kind.main, row, true) ?? true };
  putRowFields(object, kind, row);
  return object;
}

/** The kind that a key of `object` names. Throws E_TEXT_FORM if none does; `what` is the subject, "a step". */
export function namedKind(object: ReadObject, kinds: ReadonlyMap<string, Kind>, what: string): Kind {
  const keys = Object.keys(object);
  for (const key of keys) {
    const kind = kinds.get(key);
    if (kind !== undefined) return kind;
  }
  const names = [...kinds.keys()];
  const hint = keys.map((key) => suggestion(key, names)).find((text) => text !== '') ?? '';
  throw textProblem(`no key says what kind of ${what} this is${hint}`);
}

function sameWord(a: Field, b: Field): boolean {
  return 'of' in a && 'of' in b && a.of === b.of;
}

/**
 * Reads the row of a kind. `others`: keys that are someone else's business; `what`: the subject of messages, "a step
 * 'access'". Throws E_TEXT_FORM.
 */
export function parseRow(object: ReadObject, kind: Kind, others: readonly string[], what: string): Row {
  const row = emptyRow(kind.bits);
  const usual = new Set([kind.main, ...kind.fields]);
  for (const [name, value] of Object.entries(object)) {
    if (others.includes(name)) continue;
    const field = name === kind.main.name ? kind.main : kind.fields.find((candidate) => candidate.name === name);
    if (field !== undefined) {
      const same = [kind.main, ...kind.fields].find(
        (other) => other !== field && !usual.has(other) && sameWord(field, other),
      );
      if (same !== undefined) throw textProblem(`'${same.name}' and '${name}' exclude each other`);
      putField(field, row, value);
      usual.delete(field);
    } else if (name === REST_OF_BITS) {
      row.op = (row.op | parseRest(kind, value)) >>> 0;
    } else throw unknownField(name, kind, others, what);
  }
  for (const field of usual) putUsual(field, row);
  return row;
}

function parseRest(kind: Kind, value: unknown): number {
  const { lo, hi } = parseWord(REST_OF_BITS, value);
  if (hi === 0 && (lo & ~kind.rest) === 0) return lo;
  throw textProblem(`'${REST_OF_BITS}' sets bits that have fields of their own`);
}

function unknownField(name: string, kind: Kind, others: readonly string[], what: string): Error {
  const names = [kind.main, ...kind.fields].map((field) => field.name);
  return textProblem(`'${name}' is no field of ${what}${suggestion(name, [...names, ...others])}`);
}
