/** Reading the text form's plain objects: header, state, stimuli. Every field has a type, and unknown ones are errors. */

import type { Word64 } from '../../bits/word64.ts';
import { ZERO } from '../../bits/word64.ts';
import { type Names, parseName, parseNumber, parseTruth, parseWord, shown, suggestion, textProblem } from './fields.ts';
import type { ReadObject } from './rows.ts';

export function asObject(name: string, value: unknown): ReadObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as ReadObject;
  throw textProblem(`'${name}' is ${shown(value)}, but an object is due`);
}

export function asList(name: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw textProblem(`'${name}' is ${shown(value)}, but a list is due`);
}

export function asText(name: string, value: unknown): string {
  if (typeof value === 'string') return value;
  throw textProblem(`'${name}' is ${shown(value)}, but a string is due`);
}

/** One object, whose fields are asked for by name; `end` complains about those that nobody asked for. */
export class ObjectReader {
  private readonly object: ReadObject;
  private readonly what: string;
  private readonly asked: string[] = [];

  /** `what`: the subject of messages, "the header". */
  constructor(object: ReadObject, what: string) {
    this.object = object;
    this.what = what;
  }

  private get<T>(name: string, absent: T, parse: (name: string, value: unknown) => T): T {
    this.asked.push(name);
    const value = this.object[name];
    return value === undefined ? absent : parse(name, value);
  }

  text(name: string): string {
    return this.get(name, '', asText);
  }

  number(name: string, absent: number, greatest: number): number {
    return this.get(name, absent, (_, value) => parseNumber(name, value, greatest));
  }

  truth(name: string, absent = false): boolean {
    return this.get(name, absent, parseTruth);
  }

  word(name: string): Word64 {
    return this.get(name, ZERO, parseWord);
  }

  /** A word of 32 bits. */
  word32(name: string): number {
    const { lo, hi } = this.word(name);
    if (hi === 0) return lo;
    throw textProblem(`'${name}' has more than 32 bits`);
  }

  named(name: string, names: Names, absent = 0): number {
    return this.get(name, absent, (_, value) => parseName(name, asText(name, value), names, 0));
  }

  list<T>(name: string, parse: (name: string, value: unknown) => T): T[] {
    return this.get<T[]>(name, [], (_, value) => asList(name, value).map((element) => parse(name, element)));
  }

  /** `undefined` where the field is absent. */
  optional<T>(name: string, parse: (name: string, value: unknown) => T): T | undefined {
    return this.get<T | undefined>(name, undefined, parse);
  }

  end(): void {
    const unknown = Object.keys(this.object).find((name) => !this.asked.includes(name));
    if (unknown === undefined) return;
    throw textProblem(`'${unknown}' is no field of ${this.what}${suggestion(unknown, this.asked)}`);
  }
}
