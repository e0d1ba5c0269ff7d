/**
 * Protobuf's wire format, as far as the reader and the writer handle it themselves: varints, tags and lengths.
 * What is small and rare goes through the generated code instead.
 */

import { endianness } from 'node:os';
import { Problem } from '../bits/problem.ts';

export const WireType = { VARINT: 0, FIXED64: 1, BYTES: 2, FIXED32: 5 } as const;

if (endianness() !== 'LE') throw new Error('rewalk views trace files in place and needs a little-endian processor');

/** Bytes of the shortest varint of `value`, an integer in [0, 2^53). */
export function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++;
  return size;
}

/** Writes the shortest varint of `value`, an integer in [0, 2^53), and returns the position after it. */
export function putVarint(bytes: Uint8Array, position: number, value: number): number {
  let rest = value;
  let at = position;
  while (rest >= 0x80) {
    bytes[at++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  bytes[at++] = rest;
  return at;
}

export function tagOf(field: number, wireType: number): number {
  return field * 8 + wireType;
}

/**
 * Reads one message's fields. Every step is checked against the message's end; what does not hold is E_UNSOUND with
 * the byte's offset in the file, if `fileOffset` (that of `bytes[0]`) is known.
 */
export class WireReader {
  readonly bytes: Uint8Array;
  position: number;
  readonly end: number;
  private readonly fileOffset: number | undefined;

  constructor(bytes: Uint8Array, position: number, end: number, fileOffset?: number) {
    this.bytes = bytes;
    this.position = position;
    this.end = end;
    this.fileOffset = fileOffset;
  }

  problem(sentence: string, position = this.position): Problem {
    return new Problem(
      'E_UNSOUND',
      sentence,
      this.fileOffset === undefined ? {} : { offset: this.fileOffset + position },
    );
  }

  get atEnd(): boolean {
    return this.position >= this.end;
  }

  /** An unsigned number below 2^53; larger ones, which no field of ours has, are refused. */
  varint(): number {
    const start = this.position;
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      if (this.position >= this.end) throw this.problem('a number runs over the end of its message', start);
      const byte = this.bytes[this.position++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
      scale *= 0x80;
    }
    throw this.problem('a number is too large', start);
  }

  /** A number below 2^32. */
  uint32(): number {
    const start = this.position;
    const value = this.varint();
    if (value > 0xffff_ffff) throw this.problem('a number is too large', start);
    return value;
  }

  /** A length, checked against the message's end, whose bytes are then skipped: they end at the new position. */
  skipBytes(): number {
    const start = this.position;
    const length = this.varint();
    if (length > this.end - this.position) throw this.problem('a field runs over the end of its message', start);
    this.position += length;
    return length;
  }

  /** Skips the value of a field that means nothing to this version. */
  skip(wireType: number): void {
    const start = this.position;
    if (wireType === WireType.VARINT) {
      while (this.position < this.end && this.bytes[this.position]! >= 0x80) this.position++;
      this.position++;
    } else if (wireType === WireType.FIXED64) this.position += 8;
    else if (wireType === WireType.FIXED32) this.position += 4;
    else if (wireType === WireType.BYTES) this.skipBytes();
    else throw this.problem(`wire type ${wireType} does not exist`, start);
    if (this.position > this.end) throw this.problem('a field runs over the end of its message', start);
  }
}

/**
 * `length` bytes at `start` as 32-bit elements: a view where they are aligned, a copy made in one go where not.
 * `length` is a multiple of 4.
 */
export function words32(bytes: Uint8Array, start: number, length: number): Uint32Array {
  const offset = bytes.byteOffset + start;
  if ((offset & 3) === 0) return new Uint32Array(bytes.buffer, offset, length >>> 2);
  const copy = new Uint32Array(length >>> 2);
  new Uint8Array(copy.buffer).set(bytes.subarray(start, start + length));
  return copy;
}
