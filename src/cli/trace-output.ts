/** Writing a trace in either form, and telling what was written. */

import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { Output } from '../trace/output.ts';
import { traceLines } from '../trace/text-writing.ts';
import { TraceWriter } from '../trace/writer.ts';
import type { Context } from './command.ts';
import type { TraceForm } from './trace-input.ts';
import { isTextForm } from './traces.ts';

export const CODECS = ['none', 'deflate'] as const;
export type CodecName = (typeof CODECS)[number];

export const codecOption = {
  codec: { choices: CODECS, default: 'none', describe: 'Packing of chunks' },
} as const;

/** The form that a name asks for: `.jsonl` is the text form, all else packed. */
export function formByName(path: string): TraceForm {
  return isTextForm(path) ? 'text' : 'trace';
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

/** Where segments go. The file appears under its name when `finish` is called, or not at all. */
export interface TraceOutput {
  /** Begins a segment. */
  header(header: TraceHeader): void;
  steps(columns: StepColumns): void;
  finish(): Written;
  /** Leaves nothing behind. After `finish` it does nothing. */
  abort(): void;
}

/** `path`: a file or `-`. Nothing is created before the first header. Its methods throw E_IO, E_UNSOUND, E_LIMIT. */
export function createTrace(path: string, form: TraceForm, codec: CodecName): TraceOutput {
  return form === 'text' ? new TextOutput(path) : new PackedOutput(path, codec);
}

class PackedOutput implements TraceOutput {
  private readonly path: string;
  private readonly codec: CodecName;
  private writer: TraceWriter | undefined;

  constructor(path: string, codec: CodecName) {
    this.path = path;
    this.codec = codec;
  }

  header(header: TraceHeader): void {
    if (this.writer === undefined) this.writer = TraceWriter.create(this.path, header, { codec: this.codec });
    else this.writer.beginSegment(header);
  }

  steps(columns: StepColumns): void {
    if (this.writer === undefined) throw new Error('a trace begins with a header');
    this.writer.add(columns);
  }

  finish(): Written {
    if (this.writer === undefined) throw new Error('a trace has a header');
    const { steps, bytes, digest, segments } = this.writer.finish();
    return { output: this.path, form: 'trace', steps, segments: segments.length, bytes, digest };
  }

  abort(): void {
    this.writer?.abort();
  }
}

class TextOutput implements TraceOutput {
  private readonly path: string;
  private output: Output | undefined;
  private stepCount = 0;
  private segments = 0;

  constructor(path: string) {
    this.path = path;
  }

  header(header: TraceHeader): void {
    this.output ??= Output.create(this.path);
    this.write(traceLines([{ kind: 'header', header, segment: this.segments }]));
    this.segments++;
  }

  steps(columns: StepColumns): void {
    this.write(traceLines([{ kind: 'steps', columns, place: {} }]));
    this.stepCount += columns.stepCount;
  }

  private write(lines: Iterable<string>): void {
    if (this.output === undefined) throw new Error('a trace begins with a header');
    let text = '';
    for (const line of lines) {
      text += `${line}\n`;
      if (text.length < 0x1_0000) continue;
      this.output.write(Buffer.from(text));
      text = '';
    }
    this.output.write(Buffer.from(text));
  }

  finish(): Written {
    if (this.output === undefined) throw new Error('a trace has a header');
    this.output.finish();
    return { output: this.path, form: 'text', steps: this.stepCount, segments: this.segments, bytes: this.output.size };
  }

  abort(): void {
    this.output?.abort();
  }
}

/**
 * Tells what was written to `output`: on standard output, but on standard error if the trace itself went there.
 */
export function reportWritten(context: Context, output: string, json: object, lines: readonly string[]): void {
  const text = context.json ? [JSON.stringify(json)] : lines;
  if (output !== '-') context.out.lines(text);
  else for (const line of text) context.io.stderr.write(`${line}\n`);
}
