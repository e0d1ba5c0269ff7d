/** Which task of a trace of several VMs is the one that a log is of: the VMM writes every mark into both. */

import { Problem } from '../../bits/problem.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import { type Mark, parseMark } from '../kvm-guest/marks.ts';

function same(a: Mark, b: Mark): boolean {
  const key = (mark: Mark): string =>
    JSON.stringify({ ...mark, line: 0 }, (_name, value) => (typeof value === 'bigint' ? value.toString(16) : value));
  return key(a) === key(b);
}

/**
 * The id of the task that wrote the marks of a log, in a trace that was read from its beginning. Throws E_IMPORT
 * if none or several did.
 */
export async function taskOf(
  events: AsyncIterable<TraceEvent> | Iterable<TraceEvent>,
  marks: readonly Mark[],
): Promise<number> {
  const start = marks.findIndex((mark) => mark.kind === 'vmmStart');
  const log = start < 0 ? marks : marks.slice(start);
  const wrong = new Set<number>();
  /** Marks that tasks have written as the log has them. */
  const written = new Map<number, number>();
  for await (const event of events) {
    if (event.name !== 'mark' || wrong.has(event.pid)) continue;
    const at = written.get(event.pid) ?? 0;
    const expected = log[at];
    if (expected !== undefined && same(parseMark(event.text, event.position), expected)) {
      written.set(event.pid, at + 1);
    } else {
      wrong.add(event.pid);
      written.delete(event.pid);
    }
  }
  const [task, ...others] = [...written.keys()];
  if (task === undefined || others.length > 0) {
    const what = task === undefined ? 'no task' : 'more than one task';
    throw new Problem('E_IMPORT', `${what} of the trace wrote the marks of the log`);
  }
  return task;
}

/** Events kept while no task has entered a guest: a trace without entries has no task that is known to. */
const MAXIMUM_KEPT = 1 << 16;

/** The events of the first task that enters a guest; all of them if none does, or late. */
export async function* ofOneTask(events: AsyncIterable<TraceEvent> | Iterable<TraceEvent>): AsyncGenerator<TraceEvent> {
  let kept: TraceEvent[] | undefined = [];
  let task: number | undefined;
  for await (const event of events) {
    if (kept === undefined) {
      if (task === undefined || event.pid === task) yield event;
      continue;
    }
    kept.push(event);
    if (event.name === 'kvm_entry') task = event.pid;
    else if (kept.length < MAXIMUM_KEPT) continue;
    for (const each of kept) if (task === undefined || each.pid === task) yield each;
    kept = undefined;
  }
  yield* kept ?? [];
}
