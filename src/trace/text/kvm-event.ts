/**
 * KVM's tracepoints in the text form: one object for a KVM_EVENT row and the KVM_MORE rows behind it, with the kernel's
 * names for the fields, both ways. Rows that do not make up an event stay rows of their own, so that nothing is lost.
 */

import { wordText, ZERO } from '../../bits/word64.ts';
import {
  KVM_EVENT_COUNT,
  KVM_EVENT_MASK,
  KVM_EVENT_NAMES,
  KVM_EVENT_SHIFT,
  KVM_MORE_ROWS,
  KvmEvent,
  kvmEventOf,
  SET_SPTE_NO_U,
  SET_SPTE_R,
  SET_SPTE_U,
  SET_SPTE_X,
} from '../../formats/kvm-event.ts';
import { fieldNumber, KVM_EVENT_BITS, KVM_EVENT_FIELDS, type KvmField } from '../../formats/kvm-event-fields.ts';
import { Obs } from '../../formats/observation.ts';
import {
  type Json,
  parseName,
  parseNumber,
  parseTruth,
  parseWord,
  type Row,
  shown,
  suggestion,
  textProblem,
} from './fields.ts';
import { REST_OF_BITS } from './kinds.ts';
import type { ReadObject, TextObject } from './rows.ts';

/** The key that names an event. */
export const KVM_EVENT_KEY = 'kvm';
/** How many KVM_MORE rows are there, where it is not as many as the event has. */
const MORE = 'more';
/** SET_SPTE's flags are letters, as the kernel prints them; `w` is bit 1 of the entry. */
const RIGHTS = 'rwx';
const RIGHTS_FIELDS: readonly string[] = ['r', 'x', 'u', 'no_u'];
const WRITABLE = 2;
/** Columns of the event's row that it has no field for, under their own names. */
const COLUMNS = ['address', 'value'] as const;
type Column = (typeof COLUMNS)[number];

const EVENT_BITS = (KVM_EVENT_MASK << KVM_EVENT_SHIFT) | 0x1f;

interface Shape {
  /** In the order of writing. */
  readonly fields: readonly KvmField[];
  /** KVM_MORE rows. */
  readonly more: number;
  /** Bits of the event's word that no field shows. */
  readonly rest: number;
  readonly names: readonly string[];
}

const SHAPES: readonly Shape[] = Array.from({ length: KVM_EVENT_MASK + 1 }, (_, event) => {
  const fields = KVM_EVENT_FIELDS[event] ?? [];
  const more = KVM_MORE_ROWS[event] ?? 0;
  const names = fields.map(({ name }) => name).filter((name) => !isRight(event, name));
  if (event === KvmEvent.SET_SPTE) names.push(RIGHTS);
  names.push(...COLUMNS.filter((column) => !hasField(fields, 0, column)));
  return { fields, more, rest: ~(KVM_EVENT_BITS[event] ?? EVENT_BITS) >>> 0, names };
});

/** Every name that a field of an event has in text, for the description's sake. */
export const KVM_FIELD_NAMES: ReadonlySet<string> = new Set(SHAPES.flatMap(({ names }) => names).concat(MORE));

function isRight(event: number, name: string): boolean {
  return event === KvmEvent.SET_SPTE && RIGHTS_FIELDS.includes(name);
}

function hasField(fields: readonly KvmField[], row: number, column: Column): boolean {
  return fields.some((field) => field.row === row && field.column === column);
}

/** Whether `row` can be the `n`-th KVM_MORE row of an event, saying nothing that the event has no field for. */
function isMore(row: Row, fields: readonly KvmField[], n: number): boolean {
  if (row.op !== Obs.KVM_MORE) return false;
  const says = (column: Column): boolean => !hasField(fields, n, column) && !isZero(row, column);
  return !COLUMNS.some(says);
}

function columnOf(row: Row, column: KvmField['column']): { lo: number; hi: number } {
  if (column === 'op') return { lo: row.op, hi: 0 };
  return column === 'address' ? row.address : row.second;
}

function isZero(row: Row, column: Column): boolean {
  const { lo, hi } = columnOf(row, column);
  return lo === 0 && hi === 0;
}

/** A whole number in 64 bits, as JSON where that is exact. */
function numberJson(lo: number, hi: number, signed: boolean): Json {
  const number = (signed ? hi | 0 : hi) * 0x1_0000_0000 + lo;
  return Number.isSafeInteger(number) ? number : wordText({ lo, hi });
}

/** A field's value; `undefined` where it may be left out. */
function fieldJson(field: KvmField, row: Row): Json | undefined {
  const { lo, hi } = columnOf(row, field.column);
  if (field.width === 64) {
    if (lo === 0 && hi === 0) return undefined;
    return field.kind === 'number' ? numberJson(lo, hi, field.signed) : wordText({ lo, hi });
  }
  const value = fieldNumber(field, lo, hi);
  if (value === 0 && field.names === undefined) return undefined;
  if (field.kind === 'number') return field.names?.[value] ?? value;
  return field.kind === 'flags' && field.width === 1 ? true : wordText({ lo: value, hi: 0 });
}

function rightsText({ op, second }: Row): string {
  const u = (op & SET_SPTE_U) !== 0 ? 'u' : (op & SET_SPTE_NO_U) !== 0 ? '' : '-';
  const letter = (is: boolean, name: string): string => (is ? name : '-');
  return (
    letter((op & SET_SPTE_R) !== 0, 'r') +
    letter((second.lo & WRITABLE) !== 0, 'w') +
    letter((op & SET_SPTE_X) !== 0, 'x') +
    u
  );
}

/**
 * The event whose KVM_EVENT row is `rows[0]` as an object, and how many of `rows` (those of its step from there on) it
 * is made of.
 */
export function kvmEventObject(rows: readonly Row[]): { readonly object: TextObject; readonly rows: number } {
  const head = rows[0]!;
  const event = kvmEventOf(head.op);
  const { fields, more, rest } = SHAPES[event]!;
  let folded = 0;
  while (folded < more && folded + 1 < rows.length && isMore(rows[folded + 1]!, fields, folded + 1)) folded++;
  const object: TextObject = { [KVM_EVENT_KEY]: KVM_EVENT_NAMES[event] ?? event };
  for (const field of fields) {
    if (isRight(event, field.name)) {
      if (field.name === RIGHTS_FIELDS[0]) object[RIGHTS] = rightsText(head);
      continue;
    }
    const json = field.row > folded ? undefined : fieldJson(field, rows[field.row]!);
    if (json !== undefined) object[field.name] = json;
  }
  for (const column of COLUMNS) {
    if (!hasField(fields, 0, column) && !isZero(head, column)) object[column] = wordText(columnOf(head, column));
  }
  if (folded !== more) object[MORE] = folded;
  const bits = ((head.op & rest) | strangeRights(event, head.op)) >>> 0;
  if (bits !== 0) object[REST_OF_BITS] = wordText({ lo: bits, hi: 0 });
  return { object, rows: folded + 1 };
}

/** A user right in a format that has none: the letters cannot say it. */
function strangeRights(event: number, op: number): number {
  const both = SET_SPTE_U | SET_SPTE_NO_U;
  return event === KvmEvent.SET_SPTE && (op & both) === both ? SET_SPTE_NO_U : 0;
}

function parseEvent(value: unknown): number {
  return parseName(KVM_EVENT_KEY, value, KVM_EVENT_NAMES.slice(0, KVM_EVENT_COUNT), KVM_EVENT_MASK);
}

/** Puts the bits of a field, which are still 0, into its row. */
function putField(field: KvmField, rows: Row[], lo: number, hi: number): void {
  const row = rows[field.row]!;
  if (field.column === 'op') row.op = (row.op | (lo << field.low)) >>> 0;
  else {
    const { lo: oldLo, hi: oldHi } = columnOf(row, field.column);
    const high = field.width !== 64 && field.low >= 32;
    const word = high
      ? { lo: oldLo, hi: (oldHi | (lo << (field.low - 32))) >>> 0 }
      : { lo: (oldLo | (lo << field.low)) >>> 0, hi: (oldHi | hi) >>> 0 };
    row[field.column === 'address' ? 'address' : 'second'] = word;
  }
}

function putJson(field: KvmField, rows: Row[], value: unknown): void {
  const { name, width, kind } = field;
  const greatest = 2 ** width - 1;
  if (width === 64 && kind === 'number' && typeof value === 'number') {
    const least = field.signed ? -Number.MAX_SAFE_INTEGER : 0;
    if (!Number.isSafeInteger(value) || value < least) {
      throw textProblem(`'${name}' is ${shown(value)}, but a whole number is due`);
    }
    putField(field, rows, value >>> 0, Math.floor(value / 0x1_0000_0000) >>> 0);
  } else if (width === 64) {
    const { lo, hi } = parseWord(name, value);
    putField(field, rows, lo, hi);
  } else if (kind === 'number') {
    const names = field.names;
    putField(
      field,
      rows,
      names === undefined ? parseNumber(name, value, greatest) : parseName(name, value, names, greatest),
      0,
    );
  } else if (kind === 'flags' && width === 1) putField(field, rows, parseTruth(name, value) ? 1 : 0, 0);
  else {
    const { lo, hi } = parseWord(name, value);
    if (hi !== 0 || lo > greatest) throw textProblem(`'${name}' has more than ${width} bits`);
    putField(field, rows, lo, 0);
  }
}

/** The letters' flags, and whether they say `w`. */
function parseRights(value: unknown): { readonly op: number; readonly writable: boolean } {
  if (typeof value !== 'string' || !/^[r-][w-][x-][u-]?$/.test(value)) {
    throw textProblem(`'${RIGHTS}' is ${shown(value)}, but letters like "rw-u" are due`);
  }
  const flag = (at: number, bit: number): number => (value[at] === '-' ? 0 : bit);
  const u = value.length === 3 ? SET_SPTE_NO_U : flag(3, SET_SPTE_U);
  return { op: flag(0, SET_SPTE_R) | flag(2, SET_SPTE_X) | u, writable: value[1] === 'w' };
}

/** The rows of an event. Throws E_TEXT_FORM. */
export function parseKvmEvent(object: ReadObject): readonly Row[] {
  const event = parseEvent(object[KVM_EVENT_KEY]);
  const shape = SHAPES[event]!;
  const more = object[MORE] === undefined ? shape.more : parseNumber(MORE, object[MORE], shape.more);
  const rows: Row[] = Array.from({ length: more + 1 }, (_, row) => ({
    op: row === 0 ? Obs.KVM_EVENT | (event << KVM_EVENT_SHIFT) : Obs.KVM_MORE,
    address: ZERO,
    second: ZERO,
  }));
  for (const [name, value] of Object.entries(object)) {
    if (name === KVM_EVENT_KEY || name === MORE || name === REST_OF_BITS || name === RIGHTS) continue;
    putNamed(shape, event, rows, name, value);
  }
  const head = rows[0]!;
  if (RIGHTS in object) {
    if (event !== KvmEvent.SET_SPTE) throw unknownField(shape, event, RIGHTS);
    const { op, writable } = parseRights(object[RIGHTS]);
    if (writable !== ((head.second.lo & WRITABLE) !== 0)) {
      throw textProblem(`'${RIGHTS}' and bit 1 of 'spte' say different things of writing`);
    }
    head.op = (head.op | op) >>> 0;
  }
  if (REST_OF_BITS in object) {
    const { lo, hi } = parseWord(REST_OF_BITS, object[REST_OF_BITS]);
    const allowed = shape.rest | strangeRights(event, head.op | SET_SPTE_NO_U);
    if (hi !== 0 || (lo & ~allowed) !== 0) {
      throw textProblem(`'${REST_OF_BITS}' sets bits that have fields of their own`);
    }
    head.op = (head.op | lo) >>> 0;
  }
  return rows;
}

function putNamed(shape: Shape, event: number, rows: Row[], name: string, value: unknown): void {
  const field = shape.fields.find((candidate) => candidate.name === name && !isRight(event, name));
  if (field !== undefined) {
    if (field.row >= rows.length) throw textProblem(`'${name}' is in a row that '${MORE}' says is not there`);
    putJson(field, rows, value);
  } else if (shape.names.includes(name)) {
    rows[0]![name === 'address' ? 'address' : 'second'] = parseWord(name, value);
  } else throw unknownField(shape, event, name);
}

function unknownField(shape: Shape, event: number, name: string): Error {
  const what = KVM_EVENT_NAMES[event] ?? String(event);
  return textProblem(`'${name}' is no field of the event '${what}'${suggestion(name, shape.names)}`);
}
