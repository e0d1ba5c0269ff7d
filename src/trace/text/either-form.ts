/** Traces whatever their form: which form a file has, reading it, writing it, and one made of the other. */

import { closeSync, openSync, readSync, statSync } from 'node:fs';
import type { StepColumns } from '../columns.ts';
import type { TraceHeader } from '../header.ts';
import { Input } from '../input.ts';
import { limitsWith, type TraceLimits } from '../limits.ts';
import { type TraceItem, TraceReader } from '../reader.ts';
import { TraceWriter, type WriterOptions } from '../writer.ts';
import { readText } from './reading.ts';
import { TextWriter } from './writing.ts';

/** How the steps of a file are written down. */
export type TraceForm = 'trace' | 'text';

/** The form that a name asks for: `.jsonl` is the text form, all else packed. */
export function formByName(path: string): TraceForm {
  return path.endsWith('.jsonl') ? 'text' : 'trace';
}

/** The form of a file: by its name, else by its first byte. A pipe is not looked into and counts as packed. */
export function formOf(path: string): TraceForm {
  if (path === '-' || formByName(path) === 'text') return formByName(path);
  try {
    if (!statSync(path).isFile()) return 'trace';
    const fd = openSync(path, 'r');
    try {
      const first = new Uint8Array(1);
      return readSync(fd, first) === 1 && first[0] === 0x7b ? 'text' : 'trace';
    } finally {
      closeSync(fd);
    }
  } catch {
    // Whoever opens it for good says why that does not work.
    return 'trace';
  }
}

export interface OpenTrace extends Iterable<TraceItem> {
  close(): void;
}

/** Throws E_NO_SUCH_FILE or E_IO; iterating throws what reading throws. `path`: a file or `-`. */
export function openTrace(path: string, form = formOf(path), limits?: Partial<TraceLimits>): OpenTrace {
  if (form === 'trace') return TraceReader.open(path, limits);
  const input = Input.open(path);
  return { [Symbol.iterator]: () => readText(input, limitsWith(limits)), close: () => input.close() };
}

export interface Written {
  readonly output: string;
  readonly form: TraceForm;
  readonly steps: number;
  readonly segments: number;
  readonly bytes: number;
  /** Of a packed trace's last segment. */
  readonly digest?: string;
}

/**
 * Where segments go. Nothing is created before the first header; the file appears under its name when `finish` is
 * called, or not at all. All methods but `abort` throw E_IO, E_UNSOUND, E_LIMIT.
 */
export class TraceOutput {
  private readonly path: string;
  private readonly form: TraceForm;
  private readonly options: WriterOptions;
  private writer: TraceWriter | TextWriter | undefined;

  /** `path`: a file or `-`. The options are those of a packed trace. */
  constructor(path: string, form = formByName(path), options: WriterOptions = {}) {
    this.path = path;
    this.form = form;
    this.options = options;
  }

  /** Begins a segment. */
  header(header: TraceHeader): void {
    if (this.form === 'text') this.writer ??= TextWriter.create(this.path);
    if (this.writer === undefined) this.writer = TraceWriter.create(this.path, header, this.options);
    else this.writer.beginSegment(header);
  }

  steps(columns: StepColumns): void {
    this.begun.add(columns);
  }

  finish(): Written {
    const { path, form, begun } = this;
    if (begun instanceof TextWriter) return { output: path, form, ...begun.finish() };
    const { steps, bytes, digest, segments } = begun.finish();
    return { output: path, form, steps, segments: segments.length, bytes, digest };
  }

  /** Leaves nothing behind. After `finish` it does nothing. */
  abort(): void {
    this.writer?.abort();
  }

  private get begun(): TraceWriter | TextWriter {
    if (this.writer === undefined) throw new Error('a trace begins with a header');
    return this.writer;
  }
}

/**
 * Copies a trace item by item; after each, yields how many steps are copied. Does not finish `output`. Throws what
 * reading and writing throw, and the problem of a segment that is not complete: an output that is not the whole input
 * would look like one that is.
 */
export function* copyTrace(trace: OpenTrace, output: TraceOutput): Generator<number, void, void> {
  let steps = 0;
  for (const item of trace) {
    if (item.kind === 'header') output.header(item.header);
    else if (item.kind === 'steps') {
      output.steps(item.columns);
      steps += item.columns.stepCount;
    } else if (item.problem !== undefined) throw item.problem;
    yield steps;
  }
}
