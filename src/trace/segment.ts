/** What the chunks of one segment must add up to, read or written. */

import { Problem } from '../bits/problem.ts';
import { SegmentDigest } from './digest.ts';
import type { Frame } from './framing.ts';
import type { TraceHeader } from './header.ts';
import type { ChunkPosition, SegmentIndex } from './index-message.ts';
import { type TraceLimits, withinLimit } from './limits.ts';

/** What to do about a file that was cut short. */
export const CUT_REMEDY = 'the steps up to there are good; `rewalk recover` writes them as a whole file';

export class Segment {
  readonly header: TraceHeader;
  /** Format version of the file, before upgrading. */
  readonly version: number;
  /** Of the header's chunk in the file. */
  readonly start: number;
  steps = 0;
  readonly chunks: ChunkPosition[] = [];
  private readonly sums = new SegmentDigest();

  constructor(header: TraceHeader, version: number, start: number) {
    this.header = header;
    this.version = version;
    this.start = start;
  }

  get digest(): string {
    return this.sums.hex;
  }

  /** Counts a chunk, the header's too, into the digest. */
  count(frame: Pick<Frame, 'length' | 'crc'>): void {
    this.sums.add(frame.length, frame.crc);
  }

  /** Adds a chunk of steps at `offset` in the file. */
  append(offset: number, stepCount: number, limits: TraceLimits): void {
    withinLimit(limits, 'maxChunks', this.chunks.length + 1, "the number of a segment's chunks");
    this.chunks.push({ offset: offset - this.start, firstOrdinal: this.steps, stepCount });
    this.steps += stepCount;
  }

  /** Throws E_CORRUPT unless the index, in the chunk `frame`, tells of the very chunks that were read. */
  checkIndex(index: SegmentIndex, frame: Frame): void {
    const { chunks } = this;
    const same =
      index.steps === this.steps &&
      index.chunks.length === chunks.length &&
      index.chunks.every((chunk, i) => {
        const ours = chunks[i]!;
        return (
          chunk.offset === ours.offset && chunk.firstOrdinal === ours.firstOrdinal && chunk.stepCount === ours.stepCount
        );
      }) &&
      index.digest === this.digest &&
      index.indexOffset === frame.offset - this.start &&
      index.segmentSize === frame.offset - this.start + frame.bytes.length;
    if (same) return;
    throw new Problem(
      'E_CORRUPT',
      'the index does not tell of the chunks before it: some are missing, changed or in another order',
      { chunk: frame.chunk, offset: frame.offset },
      'see `rewalk check`; `rewalk recover` writes a new index',
    );
  }
}
