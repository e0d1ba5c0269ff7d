/**
 * 64-bit words as two unsigned 32-bit halves.
 *
 * Hot code never holds a BigInt: a word is a pair of numbers `lo`, `hi`, both in [0, 2^32), or two neighbouring
 * elements (low half first) of a `Uint32Array`. BigInt appears at the edges only: command line, reports, tests.
 */

/** A word at the edges of hot code, where a small object does no harm. */
export interface Word64 {
  readonly lo: number;
  readonly hi: number;
}

export const ZERO: Word64 = { lo: 0, hi: 0 };

/** The word made of two halves, each taken modulo 2^32. */
export function word64(lo: number, hi = 0): Word64 {
  return { lo: lo >>> 0, hi: hi >>> 0 };
}

/** The low 64 bits of `value`. */
export function fromBigInt(value: bigint): Word64 {
  return { lo: Number(value & 0xffff_ffffn), hi: Number((value >> 32n) & 0xffff_ffffn) };
}

export function toBigInt(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** Lower-case hexadecimal without prefix and without leading zeros: the kernel's `%llx`. */
export function hex64(lo: number, hi: number): string {
  return hi === 0 ? (lo >>> 0).toString(16) : (hi >>> 0).toString(16) + (lo >>> 0).toString(16).padStart(8, '0');
}

/** `0x40d027`. */
export function hexText(lo: number, hi: number): string {
  return `0x${hex64(lo, hi)}`;
}

/** The same of a word. */
export function wordText({ lo, hi }: Word64): string {
  return hexText(lo, hi);
}

/** The word that 1 to 16 hexadecimal digits (no prefix) spell, or `undefined` for anything else. */
export function parseHex64(text: string): Word64 | undefined {
  if (!/^[0-9a-fA-F]{1,16}$/.test(text)) return undefined;
  const split = Math.max(0, text.length - 8);
  return {
    lo: Number.parseInt(text.slice(split), 16),
    hi: split === 0 ? 0 : Number.parseInt(text.slice(0, split), 16),
  };
}
