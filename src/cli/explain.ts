/** `rewalk explain`: one step looked at closely: its walks, what took part, and why it differs. */

import { defineCommand, jsonOption } from './command.ts';
import { givenMachines, machinePairOptions } from './machine-pairs.ts';
import { oneText, wholeNumber } from './option-values.ts';

export const explain = defineCommand({
  command: 'explain <step>',
  describe: 'Show the 2-D walk of a step as a tree with every check and its rule, and the cause of a divergence',
  examples: [
    ['rewalk explain trace.rwt@1239', 'a step by its number'],
    ['rewalk explain trace.rwt@first --machine kvm --tdp off', 'the first that diverges on that machine'],
    ['rewalk explain "trace.rwt@note:unmap the page"', 'the step after a note that has this text'],
    ['rewalk explain trace.rwt@first --mutant m06-child-of-other-role', 'a clean machine beside: where do they part?'],
    ['rewalk explain trace.rwt@17 --all --html step.html', 'as a page with the walk as a picture'],
  ],
  positionals: {
    step: { type: 'string', demandOption: true, describe: 'TRACE@STEP, TRACE@first or TRACE@note:TEXT' },
  },
  options: {
    ...machinePairOptions,
    segment: { type: 'string', coerce: wholeNumber('--segment'), describe: 'Segment of the file, from 0 [0]' },
    all: { type: 'boolean', default: false, describe: 'Also rules that did not apply, all registers, every action' },
    html: { type: 'string', coerce: oneText('--html'), describe: 'Write a page to this file, too' },
    expectations: {
      type: 'boolean',
      default: true,
      describe: 'Use expectations.json beside the trace (--no-expectations shows every difference)',
    },
    ...jsonOption,
  },
  async run(args, context) {
    const { wantedMachines } = await import('./wanted-machines.ts');
    const { explainTrace, stepAsked } = await import('./explain-trace.ts');
    const given = givenMachines(args);
    return explainTrace(
      stepAsked(args.step),
      {
        ...wantedMachines(given, undefined),
        internals: [given.machine, given.profile, given.wiring, given.tdp, given.tdpMmu].every(
          ({ length }) => length < 2,
        ),
        segment: args.segment ?? 0,
        all: args.all,
        html: args.html,
        expectations: args.expectations,
      },
      context,
    );
  },
});
