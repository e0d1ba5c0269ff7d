/** The frame of a chunk: tag, length, CRC, padding. What is inside is `chunk.ts`'s business. */

import { crc32 } from 'node:zlib';
import { Problem } from '../bits/problem.ts';
import { putVarint, tagOf, varintSize, WireType } from './wire.ts';

/** Field 1 of Trace: every chunk begins with it. */
export const CHUNK_TAG = tagOf(1, WireType.BYTES);
/** Field 1 of Chunk: behind the length. */
export const CRC_TAG = tagOf(1, WireType.FIXED32);

export const ChunkField = {
  CODEC: 2,
  UNPACKED_SIZE: 3,
  HEADER: 4,
  STEPS: 5,
  INDEX: 6,
  PACKED: 7,
  PADDING: 8,
} as const;

export const Codec = { NONE: 0, DEFLATE: 1 } as const;

/** Bytes of a frame that are enough to know the chunk's length; no chunk is smaller. */
export const FRAME_HEAD = 7;

/** A chunk as it stands in the file. */
export interface Frame {
  /** Number in the file, from 0. */
  readonly chunk: number;
  /** Of its first byte in the file. */
  readonly offset: number;
  /** The whole chunk, its frame included. */
  readonly bytes: Uint8Array;
  /** Where the first field behind the CRC begins in `bytes`. */
  readonly content: number;
  /** The length that the frame gives: that of the Chunk message. */
  readonly length: number;
  readonly crc: number;
}

export interface FrameHead {
  readonly length: number;
  /** Where the Chunk message begins, behind tag and length. */
  readonly start: number;
}

/** Reads tag and length of a chunk; `undefined` where no chunk can begin with these bytes. */
export function parseFrameHead(bytes: Uint8Array, available: number): FrameHead | undefined {
  if (available < FRAME_HEAD || bytes[0] !== CHUNK_TAG) return undefined;
  let length = 0;
  for (let i = 1; i < FRAME_HEAD - 1; i++) {
    const byte = bytes[i]!;
    length += (byte & 0x7f) * 2 ** (7 * (i - 1));
    if (byte >= 0x80) continue;
    // A last byte of zero is not the shortest form.
    if ((byte === 0 && i > 1) || length < 5 || bytes[i + 1] !== CRC_TAG) return undefined;
    return { length, start: i + 1 };
  }
  return undefined;
}

export function storedCrc(bytes: Uint8Array, head: FrameHead): number {
  const at = head.start + 1;
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/** The CRC of a whole chunk, over everything but the CRC's own four bytes. */
export function frameCrc(bytes: Uint8Array, head: FrameHead): number {
  const before = crc32(bytes.subarray(0, head.start + 1));
  return crc32(bytes.subarray(head.start + 5, head.start + head.length), before);
}

/** The chunk in `bytes`, whose CRC must hold; else E_CORRUPT. */
export function checkedFrame(bytes: Uint8Array, head: FrameHead, chunk: number, offset: number): Frame {
  const crc = storedCrc(bytes, head);
  if (frameCrc(bytes, head) !== crc) {
    throw new Problem(
      'E_CORRUPT',
      'the chunk is damaged: its checksum does not match its bytes',
      { chunk, offset },
      '`rewalk recover` saves the other chunks',
    );
  }
  return { chunk, offset, bytes, content: head.start + 5, length: head.length, crc };
}

/** Size of a padding field that fills up to a multiple of 8, where `size` bytes are there already; 0, or 2 to 9. */
export function paddingFor(size: number): number {
  const missing = -size & 7;
  return missing === 1 ? 9 : missing;
}

/** The most bytes that `putChunk` needs before the content's body. */
export const PREFIX_ROOM = 48;

export interface ChunkContent {
  /** One of `ChunkField`. */
  readonly field: number;
  readonly codec: number;
  /** Bytes; only with a codec. */
  readonly unpackedSize: number;
}

/** Everything of a Chunk message between the CRC and the body: codec, padding, and the content's tag and length. */
function putFields(
  target: Uint8Array,
  position: number,
  content: ChunkContent,
  bodyLength: number,
  padding: number,
): number {
  let at = position;
  if (content.codec !== Codec.NONE) {
    target[at++] = tagOf(ChunkField.CODEC, WireType.VARINT);
    at = putVarint(target, at, content.codec);
    target[at++] = tagOf(ChunkField.UNPACKED_SIZE, WireType.VARINT);
    at = putVarint(target, at, content.unpackedSize);
  }
  if (padding > 0) {
    target[at++] = tagOf(ChunkField.PADDING, WireType.BYTES);
    target[at++] = padding - 2;
    target.fill(0, at, at + padding - 2);
    at += padding - 2;
  }
  target[at++] = tagOf(content.field, WireType.BYTES);
  return putVarint(target, at, bodyLength);
}

function fieldsSize(content: ChunkContent, bodyLength: number): number {
  const codec = content.codec === Codec.NONE ? 0 : 2 + varintSize(content.codec) + varintSize(content.unpackedSize);
  return codec + 1 + varintSize(bodyLength);
}

/**
 * Frames the body that lies in `buffer` from `bodyStart` (at least PREFIX_ROOM) for `bodyLength` bytes: writes what
 * belongs before it, right up to it. Returns where the chunk begins. Its size is a multiple of 8, so a body whose size
 * is one too begins at one.
 */
export function putFrame(
  buffer: Uint8Array,
  bodyStart: number,
  bodyLength: number,
  content: ChunkContent,
): { start: number; length: number; crc: number } {
  const fixed = 5 + fieldsSize(content, bodyLength) + bodyLength;
  for (let lengthSize = 1; ; lengthSize++) {
    // The padding depends on the size of the length and the other way round. Where neither of two neighbouring sizes
    // agrees with itself, eight more bytes of padding make the larger one do so.
    for (const more of [0, 8]) {
      const smallest = paddingFor(1 + lengthSize + fixed);
      const padding = more > 0 && smallest === 0 ? 8 : smallest + more;
      const length = fixed + padding;
      if (varintSize(length) !== lengthSize) continue;
      const start = bodyStart - (1 + lengthSize + length - bodyLength);
      buffer[start] = CHUNK_TAG;
      const message = putVarint(buffer, start + 1, length);
      buffer[message] = CRC_TAG;
      putFields(buffer, message + 5, content, bodyLength, padding);
      const whole = buffer.subarray(start, bodyStart + bodyLength);
      const crc = frameCrc(whole, { length, start: message - start });
      new DataView(buffer.buffer, buffer.byteOffset).setUint32(message + 1, crc, true);
      return { start, length, crc };
    }
  }
}

/** A Chunk message without frame, as it is packed: `steps` and padding. Returns where it begins. */
export function putInnerChunk(buffer: Uint8Array, bodyStart: number, bodyLength: number): number {
  const content = { field: ChunkField.STEPS, codec: Codec.NONE, unpackedSize: 0 };
  const size = fieldsSize(content, bodyLength);
  const padding = paddingFor(size + bodyLength);
  const start = bodyStart - size - padding;
  putFields(buffer, start, content, bodyLength, padding);
  return start;
}
