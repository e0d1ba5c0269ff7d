/** One run of the command line, from arguments to exit status. The process itself is `main.ts`'s business. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { colourWanted, painter } from './colour.ts';
import type { Context } from './command.ts';
import { bugJson, bugLines, isClosedOutput, problemJson, problemLines } from './error-text.ts';
import { Interrupted, type Io } from './io.ts';
import { parse } from './parse.ts';
import { showProgress } from './progress.ts';
import { ResultOutput } from './result-output.ts';
import { bisectStatus, STATUS_BUG, STATUS_CLOSED_OUTPUT, STATUS_INTERRUPTED } from './status.ts';

/** Whether an option is given that errors depend on; asked before parsing, since parsing may be what fails. */
function isAsked(argv: readonly string[], option: string): boolean {
  const end = argv.indexOf('--');
  return (end < 0 ? argv : argv.slice(0, end)).includes(option);
}

/** `argv`: without node and script. Never throws. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  const json = isAsked(argv, '--json');
  const statusOf = isAsked(argv, '--bisect') ? bisectStatus : (status: number) => status;
  const errorLines = (lines: readonly string[], value: () => object): void => {
    io.stderr.write(json ? `${JSON.stringify(value())}\n` : `${lines.join('\n')}\n`);
  };
  const problem = (what: Problem): void => errorLines(problemLines(what), () => problemJson(what));
  try {
    const out = new ResultOutput(io.stdout);
    const parsed = await parse(argv, io.stdout.isTTY === true ? io.stdout.columns : undefined);
    let status: number = ExitStatus.MATCH;
    if (parsed.kind === 'text') out.line(parsed.text);
    else status = await parsed.run(contextOf(io, out, parsed, problem));
    await out.flush();
    return statusOf(status);
  } catch (error) {
    if (isClosedOutput(error)) return STATUS_CLOSED_OUTPUT;
    if (error instanceof Interrupted) {
      errorLines(['rewalk: interrupted'], () => ({
        error: { code: 'INTERRUPTED', message: 'interrupted', exitStatus: STATUS_INTERRUPTED },
      }));
      return STATUS_INTERRUPTED;
    }
    if (error instanceof Problem) {
      problem(error);
      return statusOf(error.exitStatus);
    }
    const debug = io.env['REWALK_DEBUG'] === '1';
    errorLines(bugLines(error, debug), () => bugJson(error, debug));
    return STATUS_BUG;
  }
}

function contextOf(
  io: Io,
  out: ResultOutput,
  { color, json }: { color: 'auto' | 'always' | 'never'; json: boolean },
  problem: (what: Problem) => void,
): Context {
  return {
    io,
    out,
    json,
    paint: painter(!json && colourWanted(color, io.stdout, io.env)),
    problem,
    note: (text) => {
      if (!json) io.stderr.write(`rewalk: ${text}\n`);
    },
    breathe: async () => {
      if (out.full) await out.flush();
      // A turn of the event loop: signal handlers and stream errors come through here.
      await new Promise((resolve) => setImmediate(resolve));
      if (io.signal.aborted) throw new Interrupted('interrupted');
    },
    progress: (text) => showProgress(io.stderr, json, text),
  };
}
