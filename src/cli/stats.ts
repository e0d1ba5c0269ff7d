/** `rewalk stats`: how much of what is in traces. */

import { defineCommand, jsonOption } from './command.ts';
import { traceFiles, tracesPositional } from './traces.ts';

export const stats = defineCommand({
  command: 'stats <traces..>',
  describe: 'Count steps, accesses, outcomes, paging modes and observations',
  examples: [
    ['rewalk stats traces', 'the whole corpus, and its sum'],
    ['rewalk stats --json trace.rwt', 'for scripts'],
  ],
  positionals: tracesPositional,
  options: {
    sum: { type: 'boolean', default: false, describe: 'Only the sum over all traces' },
    ...jsonOption,
  },
  async run(args, context) {
    const files = traceFiles(args.traces);
    const { printStatistics } = await import('./stats-report.ts');
    return printStatistics(files, args.sum, context);
  },
});
