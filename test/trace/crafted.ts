/** Chunks made by hand, whose checksums hold however wrong they are otherwise. */

import { crc32, deflateRawSync } from 'node:zlib';
import { ChunkField, Codec, PREFIX_ROOM, putFrame, putInnerChunk } from '../../src/trace/framing.ts';
import { encodeHeader } from '../../src/trace/header-message.ts';
import { putVarint, tagOf } from '../../src/trace/wire.ts';
import { HEADER } from './samples.ts';

export function chunk(field: number, body: Uint8Array, codec = Codec.NONE as number, unpackedSize = 0): Buffer {
  const buffer = Buffer.alloc(PREFIX_ROOM + body.length);
  buffer.set(body, PREFIX_ROOM);
  const { start } = putFrame(buffer, PREFIX_ROOM, body.length, { field, codec, unpackedSize });
  return buffer.subarray(start);
}

/** A chunk that holds these fields and nothing else, not even padding. */
export function rawChunk(fields: Uint8Array): Buffer {
  const start = Buffer.alloc(16);
  start[0] = 0x0a;
  const end = putVarint(start, 1, 5 + fields.length);
  start[end] = 0x0d;
  const before = start.subarray(0, end + 1);
  const crc = Buffer.alloc(4);
  crc.writeUInt32LE(crc32(fields, crc32(before)));
  return Buffer.concat([before, crc, fields]);
}

export const header = (changes: Partial<typeof HEADER> = {}): Buffer =>
  chunk(ChunkField.HEADER, encodeHeader({ ...HEADER, ...changes }));

/** A trace whose one chunk of steps has this body. */
export const stepsFile = (body: Uint8Array): Buffer => Buffer.concat([header(), chunk(ChunkField.STEPS, body)]);

/** A trace whose one chunk of steps is packed and claims this size. */
export function packedFile(body: Uint8Array, claim?: number, codec: number = Codec.DEFLATE): Buffer {
  const buffer = Buffer.alloc(PREFIX_ROOM + body.length);
  buffer.set(body, PREFIX_ROOM);
  const inner = buffer.subarray(putInnerChunk(buffer, PREFIX_ROOM, body.length));
  return Buffer.concat([header(), chunk(ChunkField.PACKED, deflateRawSync(inner), codec, claim ?? inner.length)]);
}

/** A varint field. */
export function number(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(20);
  return bytes.subarray(0, putVarint(bytes, putVarint(bytes, 0, tagOf(field, 0)), value));
}

/** A length-delimited field. */
export function bytes(field: number, value: Uint8Array | readonly number[], claim = value.length): Buffer {
  const start = Buffer.alloc(20);
  const end = putVarint(start, putVarint(start, 0, tagOf(field, 2)), claim);
  return Buffer.concat([start.subarray(0, end), Uint8Array.from(value)]);
}

/** A packed column of 32-bit elements; a 64-bit column has two for each of its own. */
export function column(field: number, ...words: readonly number[]): Buffer {
  return bytes(field, new Uint8Array(Uint32Array.from(words).buffer));
}

export const message = (...fields: readonly Uint8Array[]): Buffer => Buffer.concat(fields);
