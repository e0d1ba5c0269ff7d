/** The index, a segment's last chunk: where its chunks are. */

import { Problem } from '../bits/problem.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { countOf, decoded, longOfCount } from './messages.ts';
import { rewalk } from './schema/trace.js';
import { tagOf, WireReader, WireType } from './wire.ts';

/** Where a chunk of steps is. */
export interface ChunkPosition {
  /** Bytes from the start of the segment. */
  readonly offset: number;
  readonly firstOrdinal: number;
  readonly stepCount: number;
}

export interface SegmentIndex {
  readonly steps: number;
  readonly chunks: readonly ChunkPosition[];
  /** 64 hexadecimal digits, see `digest.ts`. */
  readonly digest: string;
  /** Of the index's own chunk from the start of the segment. */
  readonly indexOffset: number;
  /** Bytes of the whole segment. */
  readonly segmentSize: number;
}

/** The last bytes of every segment: two fields of 64 bits, `index_offset` and `segment_size`. */
export const TRAILER_BYTES = 18;
const INDEX_OFFSET_TAG = tagOf(4, WireType.FIXED64);
const SEGMENT_SIZE_TAG = tagOf(5, WireType.FIXED64);
const CHUNK_TAG = tagOf(2, WireType.BYTES);

/** Bytes that one position can take at most. */
const POSITION_BYTES = 32;

export function encodeIndex(index: SegmentIndex): Uint8Array {
  return rewalk.Index.encode({
    stepCount: longOfCount(index.steps),
    chunk: index.chunks.map(({ offset, firstOrdinal, stepCount }) => ({
      offset: longOfCount(offset),
      firstOrdinal: longOfCount(firstOrdinal),
      stepCount,
    })),
    digest: Buffer.from(index.digest, 'hex'),
    indexOffset: longOfCount(index.indexOffset),
    segmentSize: longOfCount(index.segmentSize),
  }).finish();
}

/** The most bytes that a believable index chunk has. */
export function maxIndexBytes(limits: TraceLimits): number {
  return limits.maxChunks * POSITION_BYTES + 1024;
}

/** Throws E_UNSOUND or E_LIMIT. */
export function decodeIndex(bytes: Uint8Array, start: number, end: number, limits: TraceLimits): SegmentIndex {
  // Counted first: the generated code would make objects of however many there are.
  const reader = new WireReader(bytes, start, end);
  let count = 0;
  while (!reader.atEnd) {
    const tag = reader.uint32();
    if (tag === CHUNK_TAG) count++;
    reader.skip(tag & 7);
  }
  withinLimit(limits, 'maxChunks', count, "the number of the index's chunks");
  const message = decoded(rewalk.Index, bytes, start, end, 'the index');
  if (message.digest.length !== 32) throw new Problem('E_UNSOUND', "the index's digest has not 32 bytes");
  return {
    steps: countOf(message.stepCount, "the index's number of steps"),
    chunks: message.chunk.map((chunk) => ({
      offset: countOf(chunk.offset, "a chunk's offset"),
      firstOrdinal: countOf(chunk.firstOrdinal, "a chunk's first ordinal"),
      stepCount: chunk.stepCount ?? 0,
    })),
    digest: Buffer.from(message.digest).toString('hex'),
    indexOffset: countOf(message.indexOffset, "the index's offset"),
    segmentSize: countOf(message.segmentSize, "the segment's size"),
  };
}

/** The two numbers at the very end of a segment; `undefined` if these bytes are no trailer. */
export function parseTrailer(bytes: Uint8Array): { indexOffset: number; segmentSize: number } | undefined {
  if (bytes.length !== TRAILER_BYTES || bytes[0] !== INDEX_OFFSET_TAG || bytes[9] !== SEGMENT_SIZE_TAG)
    return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, TRAILER_BYTES);
  const at = (offset: number): number =>
    view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 0x1_0000_0000;
  const indexOffset = at(1);
  const segmentSize = at(10);
  if (!Number.isSafeInteger(segmentSize) || indexOffset + TRAILER_BYTES > segmentSize) return undefined;
  return { indexOffset, segmentSize };
}
