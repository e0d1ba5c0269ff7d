/** How an error reaches the user: one clear message on standard error, as text or as one line of JSON. */

import { Problem, placeText } from '../bits/problem.ts';
import { escapeControls } from '../report/escape.ts';
import { errorCode } from '../trace/input.ts';
import { ClosedOutput } from './io.ts';

/** `rewalk: E_CUT_SHORT: the file ends inside a chunk (a.rwt, chunk 3, byte 4711)`, and what to do about it. */
export function problemLines(problem: Problem): string[] {
  const place = placeText(problem.place);
  const where = place === '' ? '' : ` (${escapeControls(place)})`;
  const lines = [`rewalk: ${problem.code}: ${escapeControls(problem.message)}${where}`];
  if (problem.remedy !== undefined) lines.push(`  hint: ${escapeControls(problem.remedy)}`);
  return lines;
}

export function problemJson(problem: Problem): object {
  const { code, message, place, remedy, exitStatus } = problem;
  return { error: { code, message, place, ...(remedy === undefined ? {} : { remedy }), exitStatus } };
}

/** Anything that is no `Problem` is our own mistake, and says so. `debug`: with the stack. */
export function bugLines(error: unknown, debug: boolean): string[] {
  const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  const lines = [`rewalk: this is a bug in rewalk: ${escapeControls(what)}`];
  if (!debug) lines.push('  hint: please report it with the output of the same command under REWALK_DEBUG=1');
  else if (error instanceof Error && error.stack !== undefined) lines.push(...error.stack.split('\n').slice(1));
  return lines;
}

export function bugJson(error: unknown, debug: boolean): object {
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  const stack = debug && error instanceof Error ? { stack: error.stack } : {};
  return { error: { code: 'BUG', message: `this is a bug in rewalk: ${message}`, ...stack, exitStatus: 70 } };
}

/**
 * Whether an error only says that the reader of standard output has gone away. A trace that is written there meets the
 * broken pipe in `trace/output.ts`, whose problem has the system's words but not its code.
 */
export function isClosedOutput(error: unknown): boolean {
  if (error instanceof ClosedOutput || errorCode(error) === 'EPIPE') return true;
  if (!(error instanceof Problem) || error.code !== 'E_IO' || error.place.file !== '<stdout>') return false;
  return /\bbroken pipe\b|\bEPIPE\b/.test(error.message);
}
