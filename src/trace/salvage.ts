/** Finds the whole chunks of a damaged file, and what lies between them. */

import { Problem } from '../bits/problem.ts';
import { CHUNK_TAG, FRAME_HEAD, type Frame, frameCrc, parseFrameHead, storedCrc } from './framing.ts';
import type { Input } from './input.ts';
import type { TraceLimits } from './limits.ts';

/** Bytes that belong to no whole chunk. */
export interface LostBytes {
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

const WINDOW = 1 << 20;

/** A file can be made of nothing but beginnings of chunks: this many times its size is read in search of true ones. */
const EFFORT = 8;

/** The chunks of a regular file, valid until the next is asked for, and the stretches of bytes that are none. */
export class Salvage {
  private readonly input: Input;
  private readonly size: number;
  private readonly limits: TraceLimits;
  private buffer = new Uint8Array(WINDOW);
  private effort: number;
  private chunk = 0;

  /** Throws E_USAGE for a pipe. */
  constructor(input: Input, limits: TraceLimits) {
    if (input.size === undefined) {
      throw new Problem(
        'E_USAGE',
        'only a file can be searched for whole chunks',
        { file: input.name },
        'save the pipe to a file',
      );
    }
    this.input = input;
    this.size = input.size;
    this.limits = limits;
    this.effort = EFFORT * input.size + WINDOW;
  }

  *parts(): Generator<Frame | LostBytes, void, void> {
    let offset = 0;
    while (offset < this.size) {
      const frame = this.frameAt(offset);
      if (frame !== undefined) {
        yield frame;
        offset += frame.bytes.length;
        continue;
      }
      const next = this.nextFrame(offset + 1);
      yield { from: offset, to: next, reason: this.reasonAt(offset, next) };
      offset = next;
    }
  }

  private reasonAt(offset: number, next: number): string {
    if (this.effort <= 0) return 'too much here looks like chunks and is none: the search was given up';
    const head = new Uint8Array(FRAME_HEAD);
    const parsed = parseFrameHead(head, this.input.readAt(offset, head, 0, FRAME_HEAD));
    if (parsed === undefined)
      return next === this.size && this.size - offset < FRAME_HEAD
        ? 'a chunk that was cut short'
        : 'no chunk begins here';
    if (parsed.start + parsed.length > this.size - offset)
      return 'a chunk that was cut short, or whose length is damaged';
    if (parsed.start + parsed.length > this.limits.maxChunkBytes) return 'a chunk beyond the limit maxChunkBytes';
    return 'a chunk whose checksum does not match its bytes';
  }

  /** The whole chunk at `offset`, if one is there. */
  private frameAt(offset: number): Frame | undefined {
    const start = new Uint8Array(FRAME_HEAD);
    const head = parseFrameHead(start, this.input.readAt(offset, start, 0, FRAME_HEAD));
    if (head === undefined) return undefined;
    const size = head.start + head.length;
    if (size > Math.min(this.size - offset, this.limits.maxChunkBytes)) return undefined;
    if (size > this.buffer.length) this.buffer = new Uint8Array(size);
    const bytes = this.buffer.subarray(0, size);
    this.input.readAt(offset, bytes, 0, size);
    const crc = storedCrc(bytes, head);
    if (frameCrc(bytes, head) !== crc) {
      this.effort -= size;
      return undefined;
    }
    return { chunk: this.chunk++, offset, bytes, content: head.start + 5, length: head.length, crc };
  }

  /** Where the next whole chunk begins, from `offset` on; the file's size if none does. */
  private nextFrame(offset: number): number {
    const window = new Uint8Array(WINDOW);
    for (let start = offset; start < this.size && this.effort > 0; start += WINDOW) {
      const got = this.input.readAt(start, window, 0, WINDOW);
      const there = window.subarray(0, got);
      for (let i = there.indexOf(CHUNK_TAG); i >= 0 && this.effort > 0; i = there.indexOf(CHUNK_TAG, i + 1)) {
        const { chunk } = this;
        if (this.frameAt(start + i) === undefined) continue;
        this.chunk = chunk;
        return start + i;
      }
    }
    return this.size;
  }
}
