/** `rewalk bisect`: the first bad step. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { SCOPES } from '../compare/result.ts';
import { defineCommand, jsonOption } from './command.ts';
import { givenMachines, machinePairOptions } from './machine-pairs.ts';
import { oneOf } from './option-values.ts';

const scopeName = oneOf('--scope', SCOPES);

export const bisect = defineCommand({
  command: 'bisect <trace>',
  describe: 'Find the first bad step: where a replay diverges, or where two machines part, seen or not',
  examples: [
    ['rewalk bisect --mutant m44-pcide-keeps-roots trace.rwt', 'a clean machine against one with a historical bug'],
    ['rewalk bisect --wiring walk-mmu --wiring gva-walk trace.rwt', 'two arrangements of the MMU'],
    ['rewalk bisect --machine kvm --tdp off trace.rwt', 'where a replay first diverges'],
    ['git bisect run rewalk replay --bisect trace.rwt', 'which commit: 125 tells git bisect to skip one'],
  ],
  positionals: { trace: { type: 'string', demandOption: true, describe: 'A trace, packed or text' } },
  options: {
    ...machinePairOptions,
    scope: {
      type: 'string',
      coerce: scopeName,
      describe:
        'Of two machines: compare every row, or what the guest sees [all with --wiring and --mutant, else guest]',
    },
    ...jsonOption,
  },
  async run(args, context) {
    if (args.trace === '-') {
      throw new Problem('E_USAGE', 'a trace is read more than once to be bisected: - cannot be', {}, 'give a file');
    }
    const { wantedMachines } = await import('./wanted-machines.ts');
    const { bisectTrace } = await import('./bisect-trace.ts');
    const wanted = wantedMachines(givenMachines(args), args.scope);
    const found = await bisectTrace(args.trace, wanted, context);
    return found ? ExitStatus.DIVERGED : ExitStatus.MATCH;
  },
});
