/** The chunks of a file or pipe, one after the other, each whole and with a CRC that holds. */

import { Problem } from '../bits/problem.ts';
import { CHUNK_TAG, checkedFrame, FRAME_HEAD, type Frame, parseFrameHead } from './framing.ts';
import type { Input } from './input.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { notATrace } from './not-a-trace.ts';

/** The input ended inside a chunk. */
export interface CutShort {
  readonly chunk: number;
  readonly offset: number;
  /** Bytes of the chunk that are there. */
  readonly have: number;
  /** Bytes that the chunk says it has; `undefined` where not even that is there. */
  readonly want: number | undefined;
}

/** A pipe is believed this many bytes ahead of what it has delivered. */
const FIRST_STRETCH = 1 << 20;

export class FrameSource {
  private readonly input: Input;
  private readonly limits: TraceLimits;
  /** Reused by every chunk. Its start is aligned, so what is aligned in a chunk is so in memory. */
  private buffer = new Uint8Array(1 << 16);
  private chunk = 0;
  private offset = 0;

  constructor(input: Input, limits: TraceLimits) {
    this.input = input;
    this.limits = limits;
  }

  /** The next chunk, valid until the next call; `undefined` at the end. Throws E_NOT_A_TRACE, E_CORRUPT, E_LIMIT. */
  next(): Frame | CutShort | undefined {
    const { chunk, offset } = this;
    const got = this.input.read(this.buffer, 0, FRAME_HEAD);
    if (got === 0) {
      if (chunk === 0) throw notATrace(new Uint8Array(0));
      return undefined;
    }
    const head = parseFrameHead(this.buffer, got);
    if (head === undefined) {
      if (got < FRAME_HEAD && this.buffer[0] === CHUNK_TAG) return { chunk, offset, have: got, want: undefined };
      if (chunk === 0) throw this.foreign(got);
      throw new Problem(
        'E_CORRUPT',
        'no chunk begins where the one before ends',
        { chunk, offset },
        '`rewalk recover` saves the chunks that are whole',
      );
    }
    const size = head.start + head.length;
    if (this.input.size !== undefined && size > this.input.size - offset) {
      return { chunk, offset, have: this.input.size - offset, want: size };
    }
    withinLimit(this.limits, 'maxChunkBytes', size, "the chunk's size");
    const have = this.fill(got, size);
    if (have < size) return { chunk, offset, have, want: size };
    const frame = checkedFrame(this.buffer.subarray(0, size), head, chunk, offset);
    this.chunk++;
    this.offset += size;
    return frame;
  }

  /** Where the next chunk begins. */
  get place(): { chunk: number; offset: number } {
    return { chunk: this.chunk, offset: this.offset };
  }

  /** Reads until `size` bytes of the chunk are there. Memory grows with what has come, not with what was claimed. */
  private fill(got: number, size: number): number {
    let have = got;
    while (have < size) {
      const known = this.input.size !== undefined;
      const goal = known ? size : Math.min(size, Math.max(FIRST_STRETCH, 2 * have));
      if (goal > this.buffer.length) {
        const larger = new Uint8Array(Math.min(goal + (goal >>> 2), this.limits.maxChunkBytes));
        larger.set(this.buffer.subarray(0, have));
        this.buffer = larger;
      }
      const more = this.input.read(this.buffer, have, goal - have);
      have += more;
      if (have < goal) break;
    }
    return have;
  }

  private foreign(got: number): Problem {
    const more = this.input.read(this.buffer, got, 64);
    return notATrace(this.buffer.subarray(0, got + more));
  }
}
