/**
 * The head of a line: who, where and when, then the event's name. One grammar for all that print it:
 *
 *     TASK-PID     [CPU] FLAGS TIME: event: text           the kernel's `trace` and `trace_pipe`, `trace-cmd report`
 *     TASK-PID (TGID) [CPU] TIME: event: text              with the option record-tgid; without flags
 *     TASK PID/TID [CPU] TIME: system:event: text          `perf script`, also with the TID alone
 *
 * Names of tasks may hold spaces, dashes, slashes and colons.
 */

import { isDecimal } from './cursor.ts';

export interface LineHead {
  readonly task: string;
  /** The thread's. */
  readonly pid: number;
  readonly cpu: number;
  /** Nanoseconds; of a clock that counts something else, its units. */
  readonly time: number;
  /** Empty if the line names none. */
  readonly event: string;
  readonly text: string;
  /** As `perf script` writes heads. */
  readonly perf: boolean;
}

/** undefined: the line begins no event. */
export function parseLineHead(line: string): LineHead | undefined {
  for (let open = line.indexOf('['); open !== -1; open = line.indexOf('[', open + 1)) {
    const when = whereAndWhen(line, open);
    const who = when === undefined ? undefined : taskOf(line.slice(0, open));
    if (when === undefined || who === undefined) continue;
    const { event, text } = eventOf(line, when.end);
    return { task: who.task, pid: who.pid, cpu: when.cpu, time: when.time, event, text, perf: who.perf };
  }
  return undefined;
}

/** `[CPU] FLAGS TIME:` or `[CPU] TIME:`, from the bracket on. */
function whereAndWhen(
  line: string,
  open: number,
): { readonly cpu: number; readonly time: number; readonly end: number } | undefined {
  const close = decimalEnd(line, open + 1);
  if (close === open + 1 || close - open > 6 || line[close] !== ']') return undefined;
  let at = spacesEnd(line, close + 1);
  let end = timeEnd(line, at);
  if (end === undefined) {
    const flags = line.indexOf(' ', at);
    if (flags === -1 || flags - at > 16) return undefined;
    at = spacesEnd(line, flags);
    end = timeEnd(line, at);
  }
  if (end === undefined) return undefined;
  return { cpu: Number(line.slice(open + 1, close)), time: timeOf(line.slice(at, end)), end: end + 1 };
}

/** Where the colon behind the time is. */
function timeEnd(line: string, at: number): number | undefined {
  let end = decimalEnd(line, at);
  if (end === at) return undefined;
  if (line[end] === '.') end = decimalEnd(line, end + 1);
  return line[end] === ':' && end - at <= 32 ? end : undefined;
}

/** Seconds with a fraction into nanoseconds; a plain number stays. */
function timeOf(text: string): number {
  const point = text.indexOf('.');
  if (point === -1) return Number(text);
  return Number(text.slice(0, point)) * 1e9 + Number(text.slice(point + 1, point + 10).padEnd(9, '0'));
}

/** `TASK-PID`, `TASK-PID (TGID)`, `TASK TID`, `TASK PID/TID`; spaces around it are padding. */
function taskOf(text: string): { readonly task: string; readonly pid: number; readonly perf: boolean } | undefined {
  let who = text.trim();
  if (who.endsWith(')')) {
    const group = who.lastIndexOf('(');
    if (group > 0 && isGroup(who.slice(group + 1, -1))) who = who.slice(0, group).trimEnd();
  }
  let from = who.length;
  while (from > 0 && isDecimal(who.charCodeAt(from - 1))) from--;
  if (from === who.length || who.length - from > 10 || from < 2) return undefined;
  const pid = Number(who.slice(from));
  const before = who[from - 1];
  if (before === '-') return { task: who.slice(0, from - 1), pid, perf: false };
  let end = from;
  if (before === '/') {
    end = from - 1;
    while (end > 0 && isDecimal(who.charCodeAt(end - 1))) end--;
    if (end === from - 1) return undefined;
  }
  if (who[end - 1] !== ' ') return undefined;
  return { task: who.slice(0, end).trimEnd(), pid, perf: true };
}

/** The number of a thread group, or dashes if it is not known. */
function isGroup(text: string): boolean {
  const group = text.trim();
  for (let i = 0; i < group.length; i++) if (!isDecimal(group.charCodeAt(i)) && group[i] !== '-') return false;
  return group !== '';
}

/** `event: text`, `system:event: text`; the kernel's text of a shadow page ends in a NUL. */
function eventOf(line: string, at: number): { readonly event: string; readonly text: string } {
  const from = spacesEnd(line, at);
  const space = line.indexOf(' ', from);
  const end = space === -1 ? line.length : space;
  if (end === from || line[end - 1] !== ':') return { event: '', text: line.slice(from) };
  const colon = line.lastIndexOf(':', end - 2);
  const event = line.slice(colon < from ? from : colon + 1, end - 1);
  return { event, text: line.slice(end + 1) };
}

function decimalEnd(line: string, at: number): number {
  let end = at;
  while (isDecimal(line.charCodeAt(end))) end++;
  return end;
}

function spacesEnd(line: string, at: number): number {
  let end = at;
  while (line.charCodeAt(end) === 0x20) end++;
  return end;
}
