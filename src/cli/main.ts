#!/usr/bin/env node
/** The `rewalk` command: connects one run to this process. */

import { run } from './run.ts';
import { STATUS_INTERRUPTED } from './status.ts';

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
