/** `rewalk view`: the steps of traces as text, all or those that touch an address, an entry, a page. */

import { ExitStatus } from '../bits/problem.ts';
import { defineCommand, jsonOption } from './command.ts';
import { addressRange, frameRange, names, wholeNumber } from './option-values.ts';
import { FILTER_KINDS, FILTER_OBSERVATIONS } from './step-filter.ts';
import { rangeOptions, stepRange } from './step-range.ts';
import { traceFiles, tracesPositional } from './traces.ts';

export const view = defineCommand({
  command: 'view <traces..>',
  describe: 'Print steps with their expected observations, all or filtered',
  examples: [
    ['rewalk view trace.rwt --limit 20', 'the first steps'],
    ['rewalk view trace.rwt --entry 0x40e000', 'the history of one paging-structure entry'],
    ['rewalk view trace.rwt --kind access --observed npf', 'the accesses that ended in a nested page fault'],
  ],
  positionals: tracesPositional,
  options: {
    kind: { type: 'string', coerce: names('--kind', FILTER_KINDS), describe: `Step kinds: ${FILTER_KINDS.join(', ')}` },
    observed: {
      type: 'string',
      coerce: names('--observed', FILTER_OBSERVATIONS),
      describe: `Steps that have an observation of a kind: ${FILTER_OBSERVATIONS.join(', ')}`,
    },
    gva: {
      type: 'string',
      alias: 'address',
      coerce: addressRange('--gva'),
      describe: 'Linear address, FIRST..LAST or ADDRESS+SIZE',
    },
    entry: {
      type: 'string',
      coerce: addressRange('--entry'),
      conflicts: 'gfn',
      describe: 'Physical address or range: the history of an entry',
    },
    gfn: { type: 'string', coerce: frameRange('--gfn'), describe: 'Frame number: the history of a page' },
    ...rangeOptions,
    limit: { type: 'string', coerce: wholeNumber('--limit', 1), describe: 'Stop after so many steps' },
    source: { type: 'boolean', default: false, describe: 'With the line of the source and the timestamp' },
    ...jsonOption,
  },
  async run(args, context) {
    const files = traceFiles(args.traces);
    const { viewTraces } = await import('./view-traces.ts');
    const filter = {
      kinds: args.kind,
      observed: args.observed,
      linear: args.gva,
      physical: args.entry ?? args.gfn,
    };
    const limit = args.limit ?? Number.POSITIVE_INFINITY;
    const status = await viewTraces(files, { filter, range: stepRange(args), limit, source: args.source }, context);
    return Math.max(status, ExitStatus.MATCH);
  },
});
