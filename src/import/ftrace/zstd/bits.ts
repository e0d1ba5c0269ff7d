/** Bits of a Zstandard stream that is read from its end to its beginning (RFC 8878 §4.1). */

/** Thrown inside the decoder only; `decompressZstd` turns it into its own error. */
export class ZstdError extends Error {}

export class BackwardBits {
  /** Bits not yet read; negative once more were asked for than there are (they read as 0). */
  left: number;
  readonly #bytes: Uint8Array;
  readonly #start: number;

  /** The stream is `bytes[start..end)`; its last byte holds an end mark, the highest bit that is set. */
  constructor(bytes: Uint8Array, start: number, end: number) {
    const last = end > start && end <= bytes.length ? bytes[end - 1]! : 0;
    if (last === 0) throw new ZstdError('a bit stream has no end mark');
    this.#bytes = bytes;
    this.#start = start;
    this.left = (end - start - 1) * 8 + 31 - Math.clz32(last);
  }

  /** The next `count` bits (at most 24), without taking them. */
  peek(count: number): number {
    const low = this.left - count;
    if (low >= 0) return this.#at(low, count);
    return this.left <= 0 ? 0 : this.#at(0, this.left) << -low;
  }

  take(count: number): number {
    const value = this.peek(count);
    this.left -= count;
    return value;
  }

  /** Up to 32 bits, as an unsigned number. */
  takeLong(count: number): number {
    if (count <= 16) return this.take(count);
    const high = this.take(count - 16);
    return high * 0x10000 + this.take(16);
  }

  #at(position: number, count: number): number {
    const bytes = this.#bytes;
    const index = this.#start + (position >>> 3);
    const word =
      (bytes[index] ?? 0) |
      ((bytes[index + 1] ?? 0) << 8) |
      ((bytes[index + 2] ?? 0) << 16) |
      ((bytes[index + 3] ?? 0) << 24);
    return (word >>> (position & 7)) & ((1 << count) - 1);
  }
}
