/** Decoding with the generated code, whose own errors become problems; and its 64-bit numbers. */

import protobuf from 'protobufjs/minimal.js';
import { Problem } from '../bits/problem.ts';
import { type Word64, word64 } from '../bits/word64.ts';
import type { rewalk } from './schema/trace.js';

/** The part of `long`'s Long that is used. */
interface LongBits {
  readonly low: number;
  readonly high: number;
}

/** What the generated code holds 64-bit numbers in. */
type Long = NonNullable<rewalk.EntryFill.$Properties['address']>;

/** Runs a generated `decode` over `bytes[start, end)`; whatever it throws is E_UNSOUND about `what`. */
export function decoded<T>(
  type: { decode(reader: protobuf.Reader): T },
  bytes: Uint8Array,
  start: number,
  end: number,
  what: string,
): T {
  try {
    return type.decode(protobuf.Reader.create(bytes.subarray(start, end)));
  } catch {
    throw new Problem('E_UNSOUND', `${what} cannot be decoded`);
  }
}

export function wordOf(value: LongBits | null | undefined): Word64 {
  return value ? word64(value.low, value.high) : word64(0);
}

export function longOf(word: Word64): Long {
  return new protobuf.util.Long(word.lo | 0, word.hi | 0, true) as Long;
}

/** A count, size or offset; E_UNSOUND beyond 2^53. */
export function countOf(value: LongBits | null | undefined, what: string): number {
  const { lo, hi } = wordOf(value);
  if (hi >= 0x20_0000) throw new Problem('E_UNSOUND', `${what} is too large`);
  return hi * 0x1_0000_0000 + lo;
}

export function longOfCount(value: number): Long {
  return longOf(word64(value, Math.floor(value / 0x1_0000_0000)));
}
