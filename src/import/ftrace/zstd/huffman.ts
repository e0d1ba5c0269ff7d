/** Huffman codes of Zstandard's literals (RFC 8878 §4.2). */

import { BackwardBits, ZstdError } from './bits.ts';
import { type FseTable, readTable } from './fse.ts';

const MAX_CODE_BITS = 11;

export interface HuffmanTable {
  /** Bits of the longest code; the table is indexed by that many bits. */
  readonly log: number;
  readonly symbol: Uint8Array;
  readonly bits: Uint8Array;
}

/** Reads the description of a tree from `bytes[start..end)`. Returns the table and where the description ends. */
export function readHuffman(
  bytes: Uint8Array,
  start: number,
  end: number,
): { readonly table: HuffmanTable; readonly end: number } {
  if (start >= end) throw new ZstdError('a Huffman tree is cut short');
  const head = bytes[start]!;
  const from = start + 1;
  if (head >= 128) {
    const count = head - 127;
    const to = from + ((count + 1) >>> 1);
    if (to > end) throw new ZstdError('a Huffman tree is cut short');
    const weights: number[] = [];
    for (let i = 0; i < count; i++) {
      const pair = bytes[from + (i >>> 1)]!;
      weights.push((i & 1) === 0 ? pair >>> 4 : pair & 0xf);
    }
    return { table: tableOf(weights), end: to };
  }
  const to = from + head;
  if (to > end) throw new ZstdError('a Huffman tree is cut short');
  const described = readTable(bytes, from, to, { log: 6, symbols: 13 });
  return { table: tableOf(readWeights(described.table, new BackwardBits(bytes, described.end, to))), end: to };
}

/** Two states take turns until the stream has no bits left for a change of state. */
function readWeights(table: FseTable, stream: BackwardBits): number[] {
  const weights: number[] = [];
  const states = [stream.take(table.log), stream.take(table.log)];
  for (let turn = 0; weights.length < 255; turn ^= 1) {
    const state = states[turn]!;
    weights.push(table.symbol[state]!);
    states[turn] = table.base[state]! + stream.take(table.bits[state]!);
    if (stream.left < 0) {
      weights.push(table.symbol[states[turn ^ 1]!]!);
      return weights;
    }
  }
  throw new ZstdError('a Huffman tree has too many weights');
}

/** The weight of the last symbol is what the others leave. */
function tableOf(weights: readonly number[]): HuffmanTable {
  let sum = 0;
  for (const weight of weights) if (weight > 0) sum += 2 ** (weight - 1);
  const log = sum === 0 ? 0 : 32 - Math.clz32(sum);
  const rest = 2 ** log - sum;
  if (log === 0 || log > MAX_CODE_BITS || (rest & (rest - 1)) !== 0) throw new ZstdError('Huffman weights are unsound');
  const all = [...weights, 32 - Math.clz32(rest)];
  const symbol = new Uint8Array(1 << log);
  const bits = new Uint8Array(1 << log);
  let at = 0;
  for (let weight = 1; weight <= log; weight++) {
    for (let value = 0; value < all.length; value++) {
      if (all[value] !== weight) continue;
      const states = 1 << (weight - 1);
      symbol.fill(value, at, at + states);
      bits.fill(log + 1 - weight, at, at + states);
      at += states;
    }
  }
  return { log, symbol, bits };
}

/** Decodes `bytes[start..end)` into `out[from..to)`, which it fills exactly. */
export function decodeHuffman(
  table: HuffmanTable,
  bytes: Uint8Array,
  start: number,
  end: number,
  out: Uint8Array,
  from: number,
  to: number,
): void {
  const stream = new BackwardBits(bytes, start, end);
  for (let i = from; i < to; i++) {
    const code = stream.peek(table.log);
    out[i] = table.symbol[code]!;
    stream.left -= table.bits[code]!;
  }
  if (stream.left !== 0) throw new ZstdError('a Huffman stream has another length than its literals');
}
