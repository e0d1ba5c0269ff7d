/** Trace to text and text to trace, from file to file, in bounded memory. */

import { Problem } from '../bits/problem.ts';
import { Input } from './input.ts';
import { limitsWith, type TraceLimits } from './limits.ts';
import { Output } from './output.ts';
import { TraceReader } from './reader.ts';
import { textLines } from './text-lines.ts';
import { parseTextLines } from './text-reading.ts';
import { traceLines } from './text-writing.ts';
import { TraceWriter, type WriterOptions, type WriteSummary } from './writer.ts';

export interface TextSummary {
  readonly steps: number;
  readonly segments: number;
  /** E_CUT_SHORT of the segments that are not complete; their whole chunks are in the text. */
  readonly problems: readonly Problem[];
}

/** Text is handed to the system in pieces of about this many characters. */
const STRETCH = 1 << 16;

/** Writes the trace `from` as text to `to`; either may be `-`. Throws whatever reading and writing throw. */
export function traceToText(from: string, to: string, limits?: Partial<TraceLimits>): TextSummary {
  const reader = TraceReader.open(from, limits);
  let output: Output | undefined;
  const problems: Problem[] = [];
  let steps = 0;
  let segments = 0;
  const items = function* () {
    for (const item of reader) {
      if (item.kind === 'header') segments++;
      if (item.kind === 'end') steps += item.steps;
      if (item.kind === 'end' && item.problem !== undefined) problems.push(item.problem);
      yield item;
    }
  };
  try {
    output = Output.create(to);
    let text = '';
    for (const line of traceLines(items())) {
      text += `${line}\n`;
      if (text.length < STRETCH) continue;
      output.write(Buffer.from(text));
      text = '';
    }
    output.write(Buffer.from(text));
    output.finish();
    return { steps, segments, problems };
  } finally {
    output?.abort();
    reader.close();
  }
}

/** Writes the text `from` as a trace to `to`; either may be `-`. Throws E_TEXT_FORM with the line, E_LIMIT, E_IO. */
export function textToTrace(
  from: string,
  to: string,
  options: WriterOptions = {},
  limits?: Partial<TraceLimits>,
): WriteSummary {
  const input = Input.open(from);
  const all = limitsWith(limits);
  let writer: TraceWriter | undefined;
  try {
    for (const item of parseTextLines(textLines(input, all), all)) {
      if (item.kind === 'steps') writer?.add(item.columns);
      else if (writer === undefined) writer = TraceWriter.create(to, item.header, options);
      else writer.beginSegment(item.header);
    }
    if (writer === undefined) throw new Error('the parser yields a header or throws');
    return writer.finish();
  } catch (error) {
    throw error instanceof Problem ? error.at({ file: input.name }) : error;
  } finally {
    writer?.abort();
    input.close();
  }
}
