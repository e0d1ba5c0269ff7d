/** Reading the traces that a command was given, one after the other. */

import { Problem } from '../bits/problem.ts';
import type { TraceItem } from '../trace/reader.ts';
import { type OpenTrace, openTrace } from '../trace/text/either-form.ts';
import type { Context } from './command.ts';
import { isClosedOutput } from './error-text.ts';
import { worseStatus } from './status.ts';

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
