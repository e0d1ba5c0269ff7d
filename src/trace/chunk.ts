/** What a chunk holds, unpacked. */

import { inflateRawSync } from 'node:zlib';
import { Problem } from '../bits/problem.ts';
import { ChunkField, Codec, type Frame } from './framing.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { WireReader, WireType } from './wire.ts';

/** A message inside a chunk: `bytes` from `start` to `end`. */
export interface ChunkBody {
  readonly kind: 'header' | 'steps' | 'index';
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
  /** Of `bytes[0]` in the file; unknown for what was packed. */
  readonly fileOffset: number | undefined;
}

const KINDS: Readonly<Record<number, ChunkBody['kind'] | 'packed'>> = {
  [ChunkField.HEADER]: 'header',
  [ChunkField.STEPS]: 'steps',
  [ChunkField.INDEX]: 'index',
  [ChunkField.PACKED]: 'packed',
};

interface Fields {
  codec: number;
  unpackedSize: number;
  kind: ChunkBody['kind'] | 'packed' | undefined;
  start: number;
  end: number;
}

function readFields(reader: WireReader): Fields {
  const fields: Fields = { codec: Codec.NONE, unpackedSize: 0, kind: undefined, start: 0, end: 0 };
  while (!reader.atEnd) {
    const tag = reader.uint32();
    const field = tag >>> 3;
    const kind = KINDS[field];
    if (tag === ChunkField.CODEC * 8 + WireType.VARINT) fields.codec = reader.uint32();
    else if (tag === ChunkField.UNPACKED_SIZE * 8 + WireType.VARINT) fields.unpackedSize = reader.uint32();
    else if (kind !== undefined && (tag & 7) === WireType.BYTES) {
      if (fields.kind !== undefined) throw reader.problem('the chunk has two contents');
      const length = reader.skipBytes();
      fields.kind = kind;
      fields.end = reader.position;
      fields.start = reader.position - length;
    } else reader.skip(tag & 7);
  }
  return fields;
}

/** Inflates what is packed; it must have the size that the chunk gives. */
function unpacked(packed: Uint8Array, fields: Fields, limits: TraceLimits): Uint8Array {
  if (fields.codec !== Codec.DEFLATE) {
    throw new Problem(
      'E_UNKNOWN_FEATURE',
      `the chunk is packed with codec ${fields.codec}, which this version does not know`,
      {},
      'use a newer rewalk',
    );
  }
  const size = fields.unpackedSize;
  withinLimit(limits, 'maxUnpackedBytes', size, "the chunk's unpacked size");
  withinLimit(limits, 'maxRatio', Math.ceil(size / Math.max(1, packed.length)), "the chunk's packing ratio");
  let bytes: Uint8Array;
  try {
    // One byte more than needed: room left over tells zlib that it is done, and all stays in one buffer.
    bytes = inflateRawSync(packed, { maxOutputLength: Math.max(1, size), chunkSize: Math.max(64, size + 1) });
  } catch {
    throw new Problem('E_UNSOUND', 'what is packed in the chunk does not unpack to the size that it gives');
  }
  if (bytes.length !== size) {
    throw new Problem('E_UNSOUND', `the chunk unpacks to ${bytes.length} bytes and says ${size}`);
  }
  return new Uint8Array(bytes.buffer, bytes.byteOffset, size);
}

/** The content of a chunk. Throws E_UNSOUND, E_LIMIT or E_UNKNOWN_FEATURE, with the chunk's place. */
export function chunkBody(frame: Frame, limits: TraceLimits): ChunkBody {
  try {
    const bytes = frame.bytes;
    const fields = readFields(new WireReader(bytes, frame.content, bytes.length, frame.offset));
    if (fields.kind === undefined) {
      throw new Problem(
        'E_UNKNOWN_FEATURE',
        'the chunk holds nothing that this version knows',
        {},
        'use a newer rewalk',
      );
    }
    const { start, end } = fields;
    if (fields.kind !== 'packed') {
      if (fields.codec !== Codec.NONE) throw new Problem('E_UNSOUND', 'the chunk has a codec, but nothing is packed');
      return { kind: fields.kind, bytes, start, end, fileOffset: frame.offset };
    }
    const inner = unpacked(bytes.subarray(start, end), fields, limits);
    const unpackedFields = readFields(new WireReader(inner, 0, inner.length));
    if (unpackedFields.kind !== 'steps' || unpackedFields.codec !== Codec.NONE) {
      throw new Problem('E_UNSOUND', 'what is packed in the chunk are no steps');
    }
    return { kind: 'steps', bytes: inner, start: unpackedFields.start, end: unpackedFields.end, fileOffset: undefined };
  } catch (error) {
    throw error instanceof Problem ? error.at({ chunk: frame.chunk, offset: frame.offset }) : error;
  }
}
