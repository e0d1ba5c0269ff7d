/** Finite-state entropy tables of Zstandard (RFC 8878 §4.1): read from a stream or built from known probabilities. */

import { ZstdError } from './bits.ts';

export interface FseTable {
  /** The table has 2^log states. */
  readonly log: number;
  readonly symbol: Uint8Array;
  /** Bits to read for the next state, and what they are added to. */
  readonly bits: Uint8Array;
  readonly base: Uint16Array;
}

/** The table in which every state is `symbol`. */
export function constantTable(symbol: number): FseTable {
  return { log: 0, symbol: Uint8Array.of(symbol), bits: new Uint8Array(1), base: new Uint16Array(1) };
}

/** `counts`: states per symbol; -1: less than one, at the end of the table. They add up to 2^log. */
export function buildTable(counts: readonly number[], log: number): FseTable {
  const size = 1 << log;
  const symbol = new Uint8Array(size);
  const bits = new Uint8Array(size);
  const base = new Uint16Array(size);
  const next: number[] = [];
  let high = size;
  counts.forEach((count, at) => {
    next.push(count === -1 ? 1 : count);
    if (count === -1) symbol[--high] = at;
  });
  const step = (size >>> 1) + (size >>> 3) + 3;
  let position = 0;
  counts.forEach((count, at) => {
    for (let i = 0; i < count; i++) {
      symbol[position] = at;
      do position = (position + step) & (size - 1);
      while (position >= high);
    }
  });
  if (position !== 0) throw new ZstdError('probabilities do not fill a table');
  for (let state = 0; state < size; state++) {
    const count = next[symbol[state]!]!++;
    const width = log - (31 - Math.clz32(count));
    bits[state] = width;
    base[state] = (count << width) - size;
  }
  return { log, symbol, bits, base };
}

/** Reads a table's description from `bytes[start..end)`. Returns the table and where the description ends. */
export function readTable(
  bytes: Uint8Array,
  start: number,
  end: number,
  limits: { readonly log: number; readonly symbols: number },
): { readonly table: FseTable; readonly end: number } {
  let position = start * 8;
  const peek = (count: number): number => {
    let value = 0;
    for (let i = 0; i < 3; i++) value |= (bytes[(position >>> 3) + i] ?? 0) << (8 * i);
    return (value >>> (position & 7)) & ((1 << count) - 1);
  };
  const take = (count: number): number => {
    const value = peek(count);
    position += count;
    if (position > end * 8) throw new ZstdError('a table description is cut short');
    return value;
  };
  const log = take(4) + 5;
  if (log > limits.log) throw new ZstdError('a table is too large');
  const counts: number[] = [];
  let remaining = (1 << log) + 1;
  let threshold = 1 << log;
  let width = log + 1;
  while (remaining > 1) {
    if (counts.length >= limits.symbols) throw new ZstdError('a table has too many symbols');
    const short = 2 * threshold - 1 - remaining;
    let value = peek(width - 1);
    if (value < short) {
      take(width - 1);
    } else {
      value = take(width);
      if (value >= threshold) value -= short;
    }
    const count = value - 1;
    counts.push(count);
    remaining -= Math.abs(count);
    if (count === 0) {
      let more = 3;
      while (more === 3) {
        more = take(2);
        for (let i = 0; i < more; i++) counts.push(0);
      }
    }
    while (remaining < threshold && width > 1) {
      width--;
      threshold >>>= 1;
    }
  }
  if (remaining !== 1 || counts.length > limits.symbols) throw new ZstdError('a table description is unsound');
  return { table: buildTable(counts, log), end: (position + 7) >>> 3 };
}
