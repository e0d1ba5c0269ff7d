#!/usr/bin/env node
/** The `rewalk` command: connects one run to this process. */

import { bugLines } from './error-text.ts';
import { run } from './run.ts';
import { STATUS_BUG, STATUS_INTERRUPTED } from './status.ts';

// What escapes every other net must not look like a verdict: Node's own status for it, 1, means "diverged".
process.on('uncaughtException', (error) => {
  process.stderr.write(`${bugLines(error, process.env['REWALK_DEBUG'] === '1').join('\n')}\n`);
  process.exit(STATUS_BUG);
});
// Messages that nobody can read are no reason to fail.
process.stderr.on('error', () => {});

const stop = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    // The first asks the command to end at the next whole chunk; the second does not wait. Either way, unfinished
    // output files are removed when the process exits.
    if (stop.signal.aborted) process.exit(STATUS_INTERRUPTED);
    stop.abort();
  });
}

process.exitCode = await run(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  signal: stop.signal,
});
