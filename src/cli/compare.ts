/** `rewalk compare`: what changed between two sides: two machines on the same traces, two traces or folders of them, two results. */

import { SCOPES } from '../compare/result.ts';
import { allowUnmodelledOption } from './allow-unmodelled.ts';
import { bisectOption, defineCommand, jsonOption } from './command.ts';
import { givenMachines, machinePairOptions } from './machine-pairs.ts';
import { oneOf, wholeNumber } from './option-values.ts';
import { reportOption } from './report-request.ts';
import { traceFiles, tracesPositional } from './traces.ts';

const scopeName = oneOf('--scope', SCOPES);

export const compare = defineCommand({
  command: 'compare <traces..>',
  describe: 'What changed, and where first: two machines on the same traces, two traces, folders or results',
  examples: [
    ['rewalk compare --wiring walk-mmu --wiring gva-walk traces', 'two arrangements of the MMU must do the same'],
    ['rewalk compare --mutant m01-inherited-permissions traces', 'a clean machine against one with a historical bug'],
    ['rewalk compare --profile 6.1 --profile 7.3 traces', 'two kernels, as far as a guest can tell'],
    [
      'rewalk compare recordings/a_npt1 recordings/a_npt1_notdpmmu',
      'two recordings, traces or trace.dat, by what they mean',
    ],
    ['rewalk compare recordings/6.1 recordings/6.12', 'two folders, each trace with the one of its name'],
    ['rewalk compare last-week.rwr today.rwr', 'two results files of rewalk replay -o; 1 on regressions only'],
    ['rewalk compare --tdp on --tdp off --profile 7.3 trace.rwt', 'given once: common to both machines'],
  ],
  positionals: {
    traces: {
      ...tracesPositional.traces,
      describe: 'Traces, folders of them, patterns, - for a pipe; without machines two of these, or two results',
    },
  },
  options: {
    ...machinePairOptions,
    scope: {
      type: 'string',
      coerce: scopeName,
      describe:
        "all: every row, KVM's events too; guest: what the guest sees [all with --wiring and --mutant, else guest]",
    },
    'max-diffs': {
      type: 'string',
      coerce: wholeNumber('--max-diffs'),
      describe: 'Differences to print in full for each trace [1]; of two traces: classes of these [what fits]',
    },
    bail: { type: 'boolean', default: false, describe: 'Stop at the first difference' },
    ...reportOption,
    receipts: { type: 'boolean', default: false, describe: 'Print the full receipt of each trace, not just of all' },
    ...allowUnmodelledOption,
    strict: {
      type: 'boolean',
      default: false,
      describe: 'Two results: exit status 1 for any change, not just for regressions (traces, machines: always)',
    },
    'allow-other-corpus': {
      type: 'boolean',
      default: false,
      describe: 'Two results: compare the traces that both have, though others were replayed',
    },
    vm: {
      type: 'string',
      array: true,
      describe: 'Recordings: which guest of those recorded together; once for both sides, or twice',
    },
    ...bisectOption,
    ...jsonOption,
  },
  async run(args, context) {
    const given = givenMachines(args);
    const { compareKind } = await import('./compare-kind.ts');
    const found = compareKind(args.traces, given, args);
    const reports = args.report ?? [];
    if (found.kind === 'results') {
      const { compareResults } = await import('./compare-results.ts');
      const options = { strict: args.strict, allowOtherCorpus: args['allow-other-corpus'], reports };
      return compareResults(found.a, found.b, options, context);
    }
    if (found.kind === 'traces') {
      const options = { maxDiffs: args['max-diffs'], vms: args.vm ?? [], reports };
      const { traceFolders } = await import('./trace-folders.ts');
      const folders = traceFolders(found.a, found.b);
      if (folders !== undefined) {
        const { compareFolders } = await import('./compare-folders.ts');
        return compareFolders([found.a, found.b], folders, options, context);
      }
      const { compareTwoTraces } = await import('./compare-two-traces.ts');
      return compareTwoTraces(found.a, found.b, options, context);
    }
    const { builtAlike, sidesOf, usualScope } = await import('../compare/sides.ts');
    const sides = sidesOf(given);
    const files = traceFiles(args.traces);
    const { compareTraces } = await import('./compare-traces.ts');
    const options = {
      scope: args.scope ?? usualScope(given),
      maxDiffs: args['max-diffs'] ?? 1,
      bail: args.bail,
      receipts: args.receipts,
      reports,
      internals: builtAlike(given),
      allowUnmodelled: [...(args['allow-unmodelled'] ?? [])],
    };
    return compareTraces(files, sides, options, context);
  },
});
