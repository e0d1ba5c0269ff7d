/**
 * Writes traces. One `add` is one chunk: its columns begin with the vCPU state, which only whoever made the steps
 * knows, so the writer can neither split nor merge. Importers choose the size: `StepBuilder.isFull`.
 */

import { deflateRawSync } from 'node:zlib';
import { Problem } from '../bits/problem.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import type { StepColumns } from './columns.ts';
import { ChunkField, Codec, PREFIX_ROOM, putFrame, putInnerChunk } from './framing.ts';
import { FORMAT_VERSION, type TraceHeader } from './header.ts';
import { checkHeader, encodeHeader } from './header-message.ts';
import { encodeIndex } from './index-message.ts';
import { DEFAULT_LIMITS, type TraceLimits, withinLimit } from './limits.ts';
import { Output } from './output.ts';
import { Segment } from './segment.ts';
import { checkColumns } from './soundness.ts';
import { BODY_START, MessageBuffer, putSteps } from './steps-writing.ts';
import { stimulusBytes, stimulusFault } from './stimulus-message.ts';

export interface WriterOptions {
  /** How chunks of steps are packed. Default `none`: its columns are read in place. */
  readonly codec?: 'none' | 'deflate';
}

export interface SegmentSummary {
  /** 64 hexadecimal digits; the same as in the reader's `end` item. */
  readonly digest: string;
  readonly steps: number;
}

export interface WriteSummary {
  /** Of the last segment, which is nearly always the only one. */
  readonly digest: string;
  /** Of all segments. */
  readonly steps: number;
  /** Size of the file. */
  readonly bytes: number;
  readonly segments: readonly SegmentSummary[];
}

function checkSize(name: keyof TraceLimits, value: number, what: string): void {
  withinLimit(DEFAULT_LIMITS, name, value, what, 'divide the steps among more chunks');
}

/** Throws a problem if a reader would refuse these columns. */
function checkWritable(columns: StepColumns): void {
  if (columns.registers.length !== 2 * REGISTER_COUNT) throw new Error('registers are 2 × REGISTER_COUNT elements');
  checkColumns(columns);
  let bytes = 0;
  for (const stimulus of columns.stimuli) {
    const fault = stimulusFault(stimulus, DEFAULT_LIMITS);
    if (fault !== undefined) throw new Problem('E_UNSOUND', fault);
    bytes += stimulusBytes(stimulus);
  }
  checkSize('maxStimuli', columns.stimuli.length, "the number of the chunk's rare stimuli");
  checkSize('maxStimulusBytes', bytes, "the memory of the chunk's rare stimuli");
}

export class TraceWriter {
  private readonly output: Output;
  private readonly codec: number;
  private readonly buffer = new MessageBuffer();
  private readonly packed = new MessageBuffer();
  private readonly finished: SegmentSummary[] = [];
  private segment: Segment;

  private constructor(output: Output, header: TraceHeader, codec: number) {
    this.output = output;
    this.codec = codec;
    this.segment = this.begin(header);
  }

  /**
   * `path`: a file, which appears under its name only when it is whole, or `-` for standard output. The header's
   * format version is the writer's business. Throws E_IO, E_UNSOUND or E_LIMIT.
   */
  static create(path: string, header: TraceHeader, options: WriterOptions = {}): TraceWriter {
    const output = Output.create(path);
    try {
      return new TraceWriter(output, header, options.codec === 'deflate' ? Codec.DEFLATE : Codec.NONE);
    } catch (error) {
      output.abort();
      throw error;
    }
  }

  /**
   * Writes one chunk; the columns are not kept. Ordinals are the writer's business too: `firstOrdinal` is ignored.
   * Throws E_IO, and E_UNSOUND or E_LIMIT where a reader would.
   */
  add(columns: StepColumns): void {
    checkWritable(columns);
    putSteps(this.buffer, columns, this.segment.steps);
    const length = this.buffer.position - BODY_START;
    checkSize('maxUnpackedBytes', length + PREFIX_ROOM, "the chunk's size");
    const { size } = this.output;
    if (this.codec === Codec.NONE || !this.writePacked(length)) {
      this.writeFrame(this.buffer, length, { field: ChunkField.STEPS, codec: Codec.NONE, unpackedSize: 0 });
    }
    this.segment.append(size, columns.stepCount, DEFAULT_LIMITS);
  }

  /** Ends the present segment and begins another, whose ordinals start from 0 again. */
  beginSegment(header: TraceHeader): void {
    this.end();
    this.segment = this.begin(header);
  }

  /** Writes the index and makes the file appear. */
  finish(): WriteSummary {
    this.end();
    this.output.finish();
    const steps = this.finished.reduce((sum, segment) => sum + segment.steps, 0);
    return { digest: this.finished.at(-1)!.digest, steps, bytes: this.output.size, segments: this.finished };
  }

  /** Leaves no file behind. After `finish` it does nothing, so that it can stand in a `finally`. */
  abort(): void {
    this.output.abort();
  }

  private begin(header: TraceHeader): Segment {
    const written = { ...header, formatVersion: FORMAT_VERSION };
    checkHeader(written, DEFAULT_LIMITS);
    const message = encodeHeader(written);
    withinLimit(DEFAULT_LIMITS, 'maxHeaderBytes', message.length, "the header's size");
    this.segment = new Segment(written, FORMAT_VERSION, this.output.size);
    this.writeSmall(ChunkField.HEADER, message);
    return this.segment;
  }

  private end(): void {
    const { steps, chunks, digest, start } = this.segment;
    const indexOffset = this.output.size - start;
    // Its last fields have a fixed width, so the size is known before they are.
    const index = { steps, chunks, digest, indexOffset, segmentSize: indexOffset };
    const message = encodeIndex(index);
    this.buffer.position = BODY_START;
    this.buffer.reserve(message.length);
    const content = { field: ChunkField.INDEX, codec: Codec.NONE, unpackedSize: 0 };
    const frame = putFrame(this.buffer.bytes, BODY_START, message.length, content);
    const segmentSize = indexOffset + BODY_START + message.length - frame.start;
    this.writeSmall(ChunkField.INDEX, encodeIndex({ ...index, segmentSize }));
    this.finished.push({ digest, steps });
  }

  /** Packs the steps in the buffer; false, with nothing written, if that makes them no smaller. */
  private writePacked(length: number): boolean {
    const start = putInnerChunk(this.buffer.bytes, BODY_START, length);
    const inner = this.buffer.bytes.subarray(start, BODY_START + length);
    const packed = deflateRawSync(inner);
    if (packed.length >= inner.length) return false;
    this.packed.position = BODY_START;
    this.packed.reserve(packed.length);
    this.packed.bytes.set(packed, BODY_START);
    const content = { field: ChunkField.PACKED, codec: this.codec, unpackedSize: inner.length };
    this.writeFrame(this.packed, packed.length, content);
    return true;
  }

  private writeSmall(field: number, message: Uint8Array): void {
    this.buffer.position = BODY_START;
    this.buffer.reserve(message.length);
    this.buffer.bytes.set(message, BODY_START);
    this.writeFrame(this.buffer, message.length, { field, codec: Codec.NONE, unpackedSize: 0 });
  }

  private writeFrame(buffer: MessageBuffer, length: number, content: Parameters<typeof putFrame>[3]): void {
    const frame = putFrame(buffer.bytes, BODY_START, length, content);
    this.output.write(buffer.bytes.subarray(frame.start, BODY_START + length));
    this.segment.count(frame);
  }
}
