/**
 * Bits into words: a format is a list of fields that tile the word, decoding is taking them out one by one.
 *
 * Every decoder in this folder gives a `DecodedWord`, which has two forms: short (one line, what is set) and long
 * (one line per field, what each value means).
 */

import { type Word64, wordText } from '../../bits/word64.ts';

/** One field of a format. */
export interface FieldSpec {
  /** Short dotted-style name, lower case: `p`, `xd`, `memory-type`. */
  readonly name: string;
  readonly high: number;
  readonly low: number;
  /** Fields without a meaning of their own are shown only where they are not 0. */
  readonly meaningless: boolean;
  /** Its part of the short form; empty = no part. Parts stand in the order of the list. */
  readonly short: (value: number) => string;
  /** What this value means, for the long form. */
  readonly words: (value: number) => string;
}

export interface DecodedField {
  readonly name: string;
  readonly high: number;
  readonly low: number;
  readonly value: number;
  readonly words: string;
}

export interface DecodedWord {
  /** What the word is: `PTE`, `EPT PDE`, `CR0` … */
  readonly title: string;
  readonly word: Word64;
  /** The short form: `P W U A D gfn 0x209`. */
  readonly short: string;
  /** From bit 0 upwards. Meaningless fields that are 0 are left out. */
  readonly fields: readonly DecodedField[];
}

/** Bits `high`:`low` of a word; at most 53 of them, so that the result is exact. */
export function bitsOf(word: Word64, high: number, low: number): number {
  const hi = high < 32 ? 0 : word.hi % 2 ** (high - 31);
  const lo = high < 32 ? word.lo % 2 ** (high + 1) : word.lo;
  return low < 32 ? Math.floor(lo / 2 ** low) + hi * 2 ** (32 - low) : Math.floor(hi / 2 ** (low - 32));
}

export function bitOf(word: Word64, bit: number): boolean {
  return bitsOf(word, bit, bit) === 1;
}

/** `0x1f`. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A single bit. `token`: its part of the short form when set. */
export function flag(name: string, bit: number, token: string, set: string, clear: string): FieldSpec {
  return {
    name,
    high: bit,
    low: bit,
    meaningless: false,
    short: (value) => (value === 1 ? token : ''),
    words: (value) => (value === 1 ? set : clear),
  };
}

/** A field of several bits. */
export function field(
  name: string,
  high: number,
  low: number,
  words: (value: number) => string,
  short: (value: number) => string = () => '',
): FieldSpec {
  return { name, high, low, meaningless: false, short, words };
}

/** `17` or `20:13`. */
export function bitRange(high: number, low: number): string {
  return high === low ? `${low}` : `${high}:${low}`;
}

/** Bits that must be 0; the short form tells when they are not. */
export function reserved(high: number, low: number): FieldSpec[] {
  if (high < low) return [];
  return [
    {
      name: 'reserved',
      high,
      low,
      meaningless: true,
      short: (value) => (value === 0 ? '' : `RSVD(${bitRange(high, low)})`),
      words: () => 'reserved, must be 0',
    },
  ];
}

/** Bits that the processor does not look at here. */
export function ignored(high: number, low: number, words = 'ignored'): FieldSpec[] {
  if (high < low) return [];
  return [{ name: 'ignored', high, low, meaningless: true, short: () => '', words: () => words }];
}

/** Takes the fields of `specs` out of `word`. `short`: the short form, where it is more than its parts in a row. */
export function decodeWord(title: string, word: Word64, specs: readonly FieldSpec[], short?: string): DecodedWord {
  const parts: string[] = [];
  const fields: DecodedField[] = [];
  for (const spec of specs) {
    const value = bitsOf(word, spec.high, spec.low);
    const part = spec.short(value);
    if (part !== '') parts.push(part);
    if (spec.meaningless && value === 0) continue;
    fields.push({ name: spec.name, high: spec.high, low: spec.low, value, words: spec.words(value) });
  }
  fields.sort((a, b) => a.low - b.low);
  return { title, word, short: short ?? (parts.length === 0 ? '-' : parts.join(' ')), fields };
}

/** The long form: a heading, then one line per field. */
export function longForm(decoded: DecodedWord): string[] {
  const rows = decoded.fields.map((f) => [bitRange(f.high, f.low), f.name, hex(f.value)] as const);
  const width = (column: 0 | 1 | 2): number => Math.max(0, ...rows.map((row) => row[column].length));
  const [bits, name, value] = [width(0), width(1), width(2)];
  return [
    `${decoded.title} ${wordText(decoded.word)}: ${decoded.short}`,
    ...rows.map((row, i) => {
      const words = decoded.fields[i]?.words ?? '';
      return `  ${row[0].padStart(bits)}  ${row[1].padEnd(name)}  ${row[2].padStart(value)}  ${words}`.trimEnd();
    }),
  ];
}

/** The decoded word as JSON carries it; words and values as hexadecimal strings. */
export function jsonForm(decoded: DecodedWord): object {
  return {
    title: decoded.title,
    word: wordText(decoded.word),
    short: decoded.short,
    fields: decoded.fields.map((f) => ({
      bits: bitRange(f.high, f.low),
      name: f.name,
      value: hex(f.value),
      words: f.words,
    })),
  };
}
