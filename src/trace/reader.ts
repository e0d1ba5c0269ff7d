/**
 * Reads traces: chunk by chunk from front to back, from a file or a pipe, or any chunk of a file by ordinal.
 *
 * One chunk is in memory at a time. A damaged file throws a `Problem`; one that was only cut short does not, since all
 * of its whole chunks are good: they are delivered, and the `end` item says what is missing.
 */

import { type Place, Problem } from '../bits/problem.ts';
import { chunkBody } from './chunk.ts';
import type { StepColumns } from './columns.ts';
import { type CutShort, FrameSource } from './frame-source.ts';
import type { Frame } from './framing.ts';
import type { TraceHeader } from './header.ts';
import { decodeHeader } from './header-message.ts';
import { decodeIndex, type SegmentIndex } from './index-message.ts';
import { Input } from './input.ts';
import { limitsWith, type TraceLimits } from './limits.ts';
import { RandomAccess } from './random-access.ts';
import { CUT_REMEDY, Segment } from './segment.ts';
import { readSteps } from './steps-reading.ts';
import { upgradeHeader, upgradeSteps } from './upgrade.ts';

/** A segment begins. */
export interface HeaderItem {
  readonly kind: 'header';
  readonly header: TraceHeader;
  /** Number of the segment in the file, from 0. */
  readonly segment: number;
}

/** A chunk of steps. */
export interface StepsItem {
  readonly kind: 'steps';
  /** Views of the reader's own buffer: valid until the next item is asked for. `keptColumns` makes them last. */
  readonly columns: StepColumns;
  /** File, chunk and byte offset, for messages. */
  readonly place: Place;
}

/** A segment ends. */
export interface EndItem {
  readonly kind: 'end';
  /** The index was there and agreed with all chunks. */
  readonly complete: boolean;
  /** Of the chunks that were read; 64 hexadecimal digits. */
  readonly digest: string;
  readonly steps: number;
  /** E_CUT_SHORT, not thrown, if the segment is not complete. */
  readonly problem: Problem | undefined;
}

export type TraceItem = HeaderItem | StepsItem | EndItem;

/** The checksum holds, so these are the bytes that were meant. */
const UNSOUND_REMEDY = 'the program that wrote the file has a fault; record or import again';

export class TraceReader {
  private readonly input: Input;
  private readonly limits: TraceLimits;
  private readonly frames: FrameSource;
  private readonly queue: TraceItem[] = [];
  private segment: Segment | undefined;
  private segmentCount = 0;
  private done = false;
  private access: RandomAccess | undefined;

  private constructor(input: Input, limits: TraceLimits) {
    this.input = input;
    this.limits = limits;
    this.frames = new FrameSource(input, limits);
  }

  /** `path`: a trace file, or `-` for standard input. Throws E_NO_SUCH_FILE or E_IO; the caller closes. */
  static open(path: string, limits?: Partial<TraceLimits>): TraceReader {
    return new TraceReader(Input.open(path), limitsWith(limits));
  }

  close(): void {
    this.input.close();
  }

  *[Symbol.iterator](): Generator<TraceItem, void, void> {
    for (let item = this.next(); item !== undefined; item = this.next()) yield item;
  }

  /**
   * The next item, `undefined` at the end; what the one before referred to is overwritten. Throws any of the trace
   * file's problems, with file, chunk and byte offset; after that there is nothing more to read.
   */
  next(): TraceItem | undefined {
    try {
      while (this.queue.length === 0 && !this.done) this.advance();
      return this.queue.shift();
    } catch (error) {
      this.done = true;
      throw this.placed(error, this.frames.place);
    }
  }

  /** Reads one chunk and queues what follows from it. */
  private advance(): void {
    const frame = this.frames.next();
    if (frame === undefined || !('bytes' in frame)) {
      this.done = true;
      this.endOfInput(frame);
      return;
    }
    const body = chunkBody(frame, this.limits);
    try {
      if (body.kind === 'header') this.beginSegment(frame, decodeHeader(body.bytes, body.start, body.end, this.limits));
      else if (body.kind === 'index') {
        this.endSegment(frame, decodeIndex(body.bytes, body.start, body.end, this.limits));
      } else this.steps(frame, readSteps(body, this.limits));
    } catch (error) {
      throw this.placed(error, frame);
    }
  }

  private beginSegment(frame: Frame, header: TraceHeader): void {
    if (this.segment !== undefined)
      this.queue.push(this.cutItem('the next segment begins before the index of this one', frame));
    this.segment = new Segment(upgradeHeader(header), header.formatVersion, frame.offset);
    this.segment.count(frame);
    this.queue.push({ kind: 'header', header: this.segment.header, segment: this.segmentCount++ });
  }

  private steps(frame: Frame, columns: StepColumns): void {
    const segment = this.openSegment('steps');
    if (columns.firstOrdinal !== segment.steps) {
      throw new Problem(
        'E_CORRUPT',
        `the chunk begins with step ${columns.firstOrdinal} where step ${segment.steps} is due: chunks are missing or in another order`,
        {},
        '`rewalk recover` saves what is there, in segments',
      );
    }
    segment.append(frame.offset, columns.stepCount, this.limits);
    segment.count(frame);
    const place = { file: this.input.name, chunk: frame.chunk, offset: frame.offset };
    this.queue.push({ kind: 'steps', columns: upgradeSteps(columns, segment.version), place });
  }

  private endSegment(frame: Frame, index: SegmentIndex): void {
    const segment = this.openSegment('an index');
    segment.checkIndex(index, frame);
    this.segment = undefined;
    this.queue.push({ kind: 'end', complete: true, digest: segment.digest, steps: segment.steps, problem: undefined });
  }

  private openSegment(what: string): Segment {
    if (this.segment !== undefined) return this.segment;
    throw new Problem(
      'E_CORRUPT',
      `the chunk holds ${what}, but no header is before it`,
      {},
      'record or copy it again',
    );
  }

  private endOfInput(cut: CutShort | undefined): void {
    const place = cut ?? this.frames.place;
    let sentence = 'the file ends without its index';
    if (cut?.want !== undefined) {
      sentence = `the file ends inside a chunk, of which ${cut.have} of ${cut.want} bytes are there (or the chunk's length is damaged)`;
    } else if (cut !== undefined) sentence = 'the file ends inside a chunk';
    if (this.segment !== undefined) this.queue.push(this.cutItem(sentence, place));
    else if (cut !== undefined)
      throw new Problem('E_CUT_SHORT', sentence, { chunk: cut.chunk, offset: cut.offset }, 'record or copy it again');
  }

  private cutItem(sentence: string, { chunk, offset }: { chunk: number; offset: number }): EndItem {
    const segment = this.segment!;
    const place = { file: this.input.name, chunk, offset, step: segment.steps };
    const problem = new Problem('E_CUT_SHORT', sentence, place, CUT_REMEDY);
    return { kind: 'end', complete: false, digest: segment.digest, steps: segment.steps, problem };
  }

  private placed(error: unknown, { chunk, offset }: { chunk: number; offset: number }): unknown {
    if (!(error instanceof Problem)) return error;
    const { code, message, place, remedy } = error;
    const usual = code === 'E_UNSOUND' ? UNSOUND_REMEDY : undefined;
    return new Problem(code, message, { file: this.input.name, chunk, offset, ...place }, remedy ?? usual);
  }

  /**
   * The indices of a file's segments, first segment first, read from the file's end: no chunk of steps is touched.
   * Throws E_CUT_SHORT if a segment has no index, and E_USAGE for a pipe.
   */
  indices(): readonly SegmentIndex[] {
    this.access ??= new RandomAccess(this.input, this.limits);
    return this.access.indices();
  }

  /**
   * The chunk that holds step `ordinal` of a segment. Its columns are the caller's for good, and iteration is not
   * disturbed. Throws E_USAGE if there is no such step, else as `indices` and `next` do.
   */
  stepsAt(ordinal: number, segment = 0): StepColumns {
    this.access ??= new RandomAccess(this.input, this.limits);
    return this.access.stepsAt(ordinal, segment);
  }
}
