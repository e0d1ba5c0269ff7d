/** Finds a step of a file by its ordinal: from the file's end to the index, from the index to the chunk. */

import { Problem } from '../bits/problem.ts';
import { chunkBody } from './chunk.ts';
import type { StepColumns } from './columns.ts';
import { checkedFrame, FRAME_HEAD, type Frame, parseFrameHead } from './framing.ts';
import { decodeHeader } from './header-message.ts';
import { decodeIndex, maxIndexBytes, parseTrailer, type SegmentIndex, TRAILER_BYTES } from './index-message.ts';
import type { Input } from './input.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { CUT_REMEDY } from './segment.ts';
import { readSteps } from './steps-reading.ts';
import { upgradeSteps } from './upgrade.ts';

interface FoundSegment {
  /** Of the header's chunk: byte offset and number in the file. */
  readonly start: number;
  readonly index: SegmentIndex;
  firstChunk: number;
  /** Format version; read when first needed. */
  version: number | undefined;
}

/** Position in `chunks` of the one that holds step `ordinal`; their ordinals are contiguous. */
function chunkHolding(chunks: SegmentIndex['chunks'], ordinal: number): number {
  let low = 0;
  let high = chunks.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const { firstOrdinal, stepCount } = chunks[middle]!;
    if (firstOrdinal + stepCount <= ordinal) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class RandomAccess {
  private readonly input: Input;
  private readonly size: number;
  private readonly limits: TraceLimits;
  private found: readonly FoundSegment[] | undefined;

  /** Throws E_USAGE for a pipe. */
  constructor(input: Input, limits: TraceLimits) {
    if (input.size === undefined) {
      throw new Problem('E_USAGE', 'a pipe can only be read from front to back', { file: input.name }, 'give a file');
    }
    this.input = input;
    this.size = input.size;
    this.limits = limits;
  }

  /** One index for each segment. Throws E_CUT_SHORT if a segment has none. */
  indices(): readonly SegmentIndex[] {
    return this.segments().map(({ index }) => index);
  }

  /** The chunk with step `ordinal`, in memory of its own. */
  stepsAt(ordinal: number, segment: number): StepColumns {
    const found = this.segments()[segment];
    const at = found === undefined ? 0 : chunkHolding(found.index.chunks, ordinal);
    const position = found?.index.chunks[at];
    if (found === undefined || position === undefined || !(ordinal >= 0)) {
      const steps = found?.index.steps ?? 0;
      throw new Problem('E_USAGE', `there is no step ${ordinal}: the segment has ${steps}`, { file: this.input.name });
    }
    found.version ??= this.versionOf(found);
    const { version, firstChunk, start } = found;
    return this.readChunk(start + position.offset, firstChunk + 1 + at, this.limits.maxChunkBytes, (frame) => {
      const body = chunkBody(frame, this.limits);
      const columns = body.kind === 'steps' ? readSteps(body, this.limits) : undefined;
      if (columns?.firstOrdinal !== position.firstOrdinal || columns.stepCount !== position.stepCount) {
        throw new Problem('E_CORRUPT', 'the chunk is not the one that the index promises', {}, 'see `rewalk check`');
      }
      return upgradeSteps(columns, version);
    });
  }

  private versionOf({ start, firstChunk }: FoundSegment): number {
    return this.readChunk(start, firstChunk, this.limits.maxChunkBytes, (frame) => {
      const body = chunkBody(frame, this.limits);
      if (body.kind === 'header') return decodeHeader(body.bytes, body.start, body.end, this.limits).formatVersion;
      throw new Problem('E_CORRUPT', 'the segment does not begin with a header', {}, 'see `rewalk check`');
    });
  }

  private segments(): readonly FoundSegment[] {
    if (this.found !== undefined) return this.found;
    const found: FoundSegment[] = [];
    let chunks = 0;
    for (let end = this.size; end > 0; end = found.at(-1)!.start) {
      const segment = this.segmentBefore(end);
      chunks += segment.index.chunks.length + 2;
      withinLimit(this.limits, 'maxChunks', chunks, "the number of the file's chunks");
      found.push(segment);
    }
    found.reverse();
    let firstChunk = 0;
    for (const segment of found) {
      segment.firstChunk = firstChunk;
      firstChunk += segment.index.chunks.length + 2;
    }
    this.found = found;
    return found;
  }

  /** The segment that ends at `end`. */
  private segmentBefore(end: number): FoundSegment {
    const bytes = new Uint8Array(TRAILER_BYTES);
    const length = Math.min(end, TRAILER_BYTES);
    const trailer = parseTrailer(bytes.subarray(0, this.input.readAt(end - length, bytes, 0, length)));
    if (trailer !== undefined && trailer.segmentSize <= end) {
      const start = end - trailer.segmentSize;
      const at = start + trailer.indexOffset;
      const index = this.readChunk(at, undefined, maxIndexBytes(this.limits), (frame) => this.indexIn(frame));
      const { segmentSize, indexOffset } = index;
      if (segmentSize === trailer.segmentSize && indexOffset === trailer.indexOffset) {
        return { start, index, firstChunk: 0, version: undefined };
      }
    }
    const place = { file: this.input.name, offset: end };
    throw new Problem('E_CUT_SHORT', 'no index ends here, so no step can be found by its number', place, CUT_REMEDY);
  }

  /** An index whose ordinals are contiguous, so that it can be searched, and whose chunks are inside the segment. */
  private indexIn(frame: Frame): SegmentIndex {
    const body = chunkBody(frame, this.limits);
    if (body.kind !== 'index') throw new Problem('E_CORRUPT', 'no index is where the end of the segment says');
    const index = decodeIndex(body.bytes, body.start, body.end, this.limits);
    let steps = 0;
    let sound = true;
    for (const { offset, firstOrdinal, stepCount } of index.chunks) {
      sound &&= offset < index.indexOffset && firstOrdinal === steps;
      steps += stepCount;
    }
    if (sound && steps === index.steps) return index;
    throw new Problem('E_UNSOUND', 'the index contradicts itself');
  }

  /** Reads the chunk at `offset` into memory of its own and makes something of it. */
  private readChunk<T>(offset: number, chunk: number | undefined, maxBytes: number, use: (frame: Frame) => T): T {
    try {
      const start = new Uint8Array(FRAME_HEAD);
      const head = parseFrameHead(start, this.input.readAt(offset, start, 0, FRAME_HEAD));
      const size = head === undefined ? 0 : head.start + head.length;
      if (head === undefined || size > this.size - offset) {
        throw new Problem('E_CORRUPT', 'no chunk begins where the index says', {}, 'see `rewalk check`');
      }
      withinLimit({ ...this.limits, maxChunkBytes: maxBytes }, 'maxChunkBytes', size, "the chunk's size");
      const bytes = new Uint8Array(size);
      this.input.readAt(offset, bytes, 0, size);
      return use(checkedFrame(bytes, head, chunk ?? 0, offset));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const { chunk: _unknown, ...place } = error.place;
      const numbered = chunk === undefined ? place : { ...place, chunk };
      throw new Problem(error.code, error.message, { file: this.input.name, offset, ...numbered }, error.remedy);
    }
  }
}
