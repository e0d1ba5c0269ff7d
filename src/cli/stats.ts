/** `rewalk stats`: how much of what is in traces, and which cells of the model they reach. */

import { Problem } from '../bits/problem.ts';
import type { MachineName } from '../replay/machines.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneOf } from './option-values.ts';
import { traceFiles, tracesPositional } from './traces.ts';

const MACHINES: readonly MachineName[] = ['bare', 'kvm'];
const machineName = oneOf('--machine', MACHINES);

export const stats = defineCommand({
  command: 'stats <traces..>',
  describe: 'Count steps, accesses, outcomes, paging modes and observations, or the cells of the model reached',
  examples: [
    ['rewalk stats traces', 'the whole corpus, and its sum'],
    ['rewalk stats --json trace.rwt', 'for scripts'],
    ['rewalk stats --coverage traces', 'which checks, at which levels, with which outcomes replaying them reaches'],
    ['rewalk stats --coverage --unreached traces/kvm', 'and which it does not'],
    ['rewalk stats --coverage --minimum traces', 'the few traces that reach as much as all'],
  ],
  positionals: tracesPositional,
  options: {
    sum: { type: 'boolean', default: false, describe: 'Only the sum over all traces' },
    coverage: {
      type: 'boolean',
      default: false,
      describe: 'Replay, and count the cells check × level × context × outcome that were reached',
    },
    unreached: { type: 'boolean', default: false, describe: 'With --coverage: list the cells that were not reached' },
    minimum: {
      type: 'boolean',
      default: false,
      describe: 'With --coverage: choose the fewest traces that reach as much',
    },
    machine: {
      type: 'string',
      coerce: machineName,
      describe: 'With --coverage: replay on this machine (bare, kvm); by default on what was recorded',
    },
    ...jsonOption,
  },
  async run(args, context) {
    const files = traceFiles(args.traces);
    if (!args.coverage) {
      const { unreached, minimum, machine } = args;
      const given = unreached ? 'unreached' : minimum ? 'minimum' : machine !== undefined ? 'machine' : undefined;
      if (given !== undefined)
        throw new Problem('E_USAGE', `--${given} says how to count coverage`, {}, 'add --coverage');
      const { printStatistics } = await import('./stats-report.ts');
      return printStatistics(files, args.sum, context);
    }
    if (args.sum)
      throw new Problem(
        'E_USAGE',
        '--coverage is of all traces together: --sum has nothing to add',
        {},
        'leave out --sum',
      );
    const { printCoverage } = await import('./stats-coverage.ts');
    const machine = args.machine === undefined ? {} : { machine: args.machine };
    return printCoverage(files, { machine, unreached: args.unreached, minimum: args.minimum }, context);
  },
});
