/** `rewalk minimise`: the smallest trace that still shows a divergence of the same class. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { SCOPES } from '../compare/result.ts';
import { defineCommand, jsonOption } from './command.ts';
import { givenMachines, machinePairOptions } from './machine-pairs.ts';
import { oneOf, oneText, wholeNumber } from './option-values.ts';
import { codecOption } from './trace-output.ts';

/** Seconds, unless told otherwise. */
const USUAL_BUDGET = 120;

const scopeName = oneOf('--scope', SCOPES);

export const minimise = defineCommand({
  command: 'minimise <trace>',
  describe: 'Write the smallest trace that still shows a divergence of the same class',
  examples: [
    ['rewalk minimise trace.rwt -o small.jsonl', 'of what a replay finds, as text'],
    [
      'rewalk minimise --mutant m01-inherited-permissions trace.rwt -o small.rwt',
      'what tells a machine with a historical bug from a clean one',
    ],
    ['rewalk minimise --machine kvm --tdp off --step 18470 trace.rwt -o small.rwt', 'the divergence at one step'],
    ['rewalk minimise --wiring walk-mmu --wiring gva-walk trace.rwt -o small.rwt', 'given twice: two machines'],
  ],
  positionals: { trace: { type: 'string', demandOption: true, describe: 'A trace, packed or text' } },
  options: {
    output: {
      type: 'string',
      alias: 'o',
      default: '-',
      coerce: oneText('--output'),
      describe: 'New file, text for *.jsonl; - for a pipe',
    },
    step: {
      type: 'string',
      coerce: wholeNumber('--step'),
      describe: 'Minimise for the divergence at this step [the first]',
    },
    ...machinePairOptions,
    scope: {
      type: 'string',
      coerce: scopeName,
      describe: 'Of two machines: compare every row, or what the guest sees [what a replay would tell, else every row]',
    },
    budget: {
      type: 'string',
      coerce: wholeNumber('--budget', 1),
      describe: `Seconds after which the smallest trace so far will do [${USUAL_BUDGET}]`,
    },
    ...codecOption,
    ...jsonOption,
  },
  async run(args, context) {
    if (args.trace === '-') {
      throw new Problem('E_USAGE', 'a trace is read more than once to be minimised: - cannot be', {}, 'give a file');
    }
    const { wantedMachines } = await import('./wanted-machines.ts');
    const { minimiseTrace } = await import('./minimise-trace.ts');
    const budget = args.budget ?? USUAL_BUDGET;
    await minimiseTrace(
      args.trace,
      args.output ?? '-',
      { ...wantedMachines(givenMachines(args), args.scope), step: args.step },
      { budget, codec: args.codec },
      context,
    );
    return ExitStatus.MATCH;
  },
});
