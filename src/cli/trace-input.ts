/** Opening a trace whatever its form: packed, or the text form. */

import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { Problem } from '../bits/problem.ts';
import { Input } from '../trace/input.ts';
import { limitsWith, type TraceLimits } from '../trace/limits.ts';
import { type TraceItem, TraceReader } from '../trace/reader.ts';
import { type TextLine, textLines } from '../trace/text-lines.ts';
import { parseTextLines } from '../trace/text-reading.ts';
import type { Context } from './command.ts';
import { isClosedOutput } from './error-text.ts';
import { worseStatus } from './status.ts';
import { isTextForm } from './traces.ts';

/** How the steps of a file are written down. */
export type TraceForm = 'trace' | 'text';

export interface OpenTrace extends Iterable<TraceItem> {
  close(): void;
}

/** The form of a file: by its name, else by its first byte. A pipe is not looked into and counts as packed. */
export function formOf(path: string): TraceForm {
  if (path === '-') return 'trace';
  if (isTextForm(path)) return 'text';
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

/** Throws E_NO_SUCH_FILE or E_IO; iterating throws what reading throws. `path`: a file or `-`. */
export function openTrace(path: string, form = formOf(path), limits?: Partial<TraceLimits>): OpenTrace {
  if (form === 'trace') return TraceReader.open(path, limits);
  const input = Input.open(path);
  return { [Symbol.iterator]: () => textItems(input, limitsWith(limits)), close: () => input.close() };
}

/** The text form as the items of a reader. The digest is the SHA-256 of the file's lines so far. */
function* textItems(input: Input, limits: TraceLimits): Generator<TraceItem, void, void> {
  const hash = createHash('sha256');
  const hashed = function* (): Generator<TextLine, void, void> {
    for (const line of textLines(input, limits)) {
      hash.update(line.text).update('\n');
      yield line;
    }
  };
  let segment = -1;
  let steps = 0;
  let chunk = 0;
  const end = (): TraceItem => {
    return { kind: 'end', complete: true, digest: hash.copy().digest('hex'), steps, problem: undefined };
  };
  try {
    for (const item of parseTextLines(hashed(), limits)) {
      if (item.kind === 'header') {
        if (segment >= 0) yield end();
        segment++;
        steps = 0;
        yield { kind: 'header', header: item.header, segment };
      } else {
        const place = { file: input.name, chunk: chunk++ };
        yield { kind: 'steps', columns: { ...item.columns, firstOrdinal: steps }, place };
        steps += item.columns.stepCount;
      }
    }
  } catch (error) {
    throw error instanceof Problem ? error.at({ file: input.name }) : error;
  }
  yield end();
}

/**
 * Calls `visit` for each trace in turn. The items come one at a time, with signals let in between; a segment that was
 * cut short has its problem told when its end is reached. A trace that cannot be read, or not to its end, is told of
 * and does not keep from the others. Returns the exit status.
 *
 * `visit` returns whether to go on with the next trace.
 */
export async function eachTrace(
  paths: readonly string[],
  context: Context,
  visit: (path: string, items: AsyncIterable<TraceItem>) => Promise<'go on' | 'stop'>,
): Promise<number> {
  let status = 0;
  const tell = async (problem: Problem): Promise<void> => {
    // What was printed of the trace so far comes before the news of its end.
    await context.out.flush();
    context.problem(problem);
    status = worseStatus(status, problem.exitStatus);
  };
  for (const path of paths) {
    let trace: OpenTrace | undefined;
    try {
      const opened = openTrace(path);
      trace = opened;
      const items = async function* (): AsyncGenerator<TraceItem, void, void> {
        for (const item of opened) {
          await context.breathe();
          yield item;
          if (item.kind === 'end' && item.problem !== undefined) await tell(item.problem);
        }
      };
      if ((await visit(path, items())) === 'stop') return status;
    } catch (error) {
      if (!(error instanceof Problem) || error.code === 'E_USAGE' || isClosedOutput(error)) throw error;
      await tell(error);
    } finally {
      trace?.close();
    }
  }
  return status;
}
