/** The lines of a text input, one after the other, in bounded memory. */

import { Problem } from '../../bits/problem.ts';
import type { Input } from '../input.ts';
import { type TraceLimits, withinLimit } from '../limits.ts';

export interface TextLine {
  readonly text: string;
  /** From 1. */
  readonly line: number;
}

const STRETCH = 1 << 16;
const NEWLINE = 0x0a;

/** Throws E_TEXT_FORM for what is no UTF-8 and E_LIMIT for a line that is too long. */
export function* textLines(input: Input, limits: TraceLimits): Generator<TextLine, void, void> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let buffer = Buffer.alloc(STRETCH);
  let length = 0;
  let line = 0;
  const lineAt = (start: number, end: number): TextLine => {
    line++;
    try {
      withinLimit(limits, 'maxTextLine', end - start, "the line's length");
      return { text: decoder.decode(buffer.subarray(start, end)), line };
    } catch (error) {
      if (error instanceof Problem) throw error.at({ line });
      throw new Problem('E_TEXT_FORM', 'the line is no UTF-8 text', { line });
    }
  };
  for (;;) {
    if (length === buffer.length) buffer = Buffer.concat([buffer], 2 * length);
    // As much as has come, not as much as fits: whoever types at a pipe is answered line by line.
    const got = input.readSome(buffer, length, buffer.length - length);
    if (got === 0) break;
    length += got;
    const there = buffer.subarray(0, length);
    let start = 0;
    for (let end = there.indexOf(NEWLINE, length - got); end >= 0; end = there.indexOf(NEWLINE, start)) {
      yield lineAt(start, end);
      start = end + 1;
    }
    buffer.copyWithin(0, start, length);
    length -= start;
    if (length > limits.maxTextLine) lineAt(0, length);
  }
  if (length > 0) yield lineAt(0, length);
}
