/** `rewalk accept`: reviewed results become what later runs are held against. */

import { Problem } from '../bits/problem.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneText } from './option-values.ts';

/** `--when machine=kvm`, repeatable: the conditions of an expectation, checked where they are written. */
function conditions(value: unknown): ReadonlyMap<string, string> | undefined {
  if (value === undefined) return undefined;
  const given = new Map<string, string>();
  for (const text of (Array.isArray(value) ? value : [value]).map(String)) {
    const [name = '', ...rest] = text.split('=');
    if (name === '' || rest.length === 0) {
      throw new Problem('E_USAGE', `--when ${JSON.stringify(text)}: expected NAME=VALUE, like machine=kvm`);
    }
    if (given.has(name)) throw new Problem('E_USAGE', `--when ${name} is given more than once`);
    given.set(name, rest.join('='));
  }
  return given;
}

function faultName(value: unknown): string | undefined {
  const text = oneText('--fault')(value);
  if (text === undefined || /^[a-z0-9]+(-[a-z0-9]+)*$/.test(text)) return text;
  throw new Problem('E_USAGE', `--fault ${JSON.stringify(text)}: expected a name like kvm-keeps-large-page`);
}

export const accept = defineCommand({
  command: 'accept <from> [names..]',
  describe: 'Review results by name, and make those accepted the new baseline or expected failures',
  examples: [
    ['rewalk accept run.rwr', 'list what differs from baseline.rwr beside it; writes nothing'],
    ['rewalk accept run.rwr a_npt1.rwt --show', 'one trace in full'],
    ['rewalk accept run.rwr a_npt1.rwt', 'its result becomes the baseline'],
    ['rewalk accept traces', 'list what rewalk replay --pending left beside the traces'],
    [
      'rewalk accept traces a.rwt#1 --fault qemu-rsvd --reason "QEMU 7.2 leaves P out, ..."',
      'a known fault, into expectations.json',
    ],
  ],
  positionals: {
    from: {
      type: 'string',
      demandOption: true,
      describe: 'Results (*.rwr) for the baseline; or traces with pending files beside them, for expectations.json',
    },
    names: { type: 'string', array: true, describe: 'What to accept, or to show: names of the list' },
  },
  options: {
    all: { type: 'boolean', default: false, describe: 'Everything on the list' },
    show: { type: 'boolean', default: false, describe: 'Print in full instead of accepting' },
    baseline: {
      type: 'string',
      coerce: oneText('--baseline'),
      describe: 'The baseline [baseline.rwr beside the results]',
    },
    fault: { type: 'string', coerce: faultName, describe: 'Name of a known fault, for an expected failure' },
    reason: {
      type: 'string',
      coerce: oneText('--reason'),
      describe: 'Why the recording, not the machine, is wrong, with its source',
    },
    when: {
      type: 'string',
      array: true,
      coerce: conditions,
      describe: 'Where it holds: machine=, profile=, wiring=, tdp=on, tdpMmu=off, mutant=; repeatable [everywhere]',
    },
    yes: { type: 'boolean', default: false, describe: 'Write without a terminal, too (never in CI)' },
    ...jsonOption,
  },
  async run(args, context) {
    const names = args.names ?? [];
    if (args.all && names.length > 0) throw new Problem('E_USAGE', '--all and names exclude each other');
    const review = { names, all: args.all, show: args.show, yes: args.yes };
    const { isResultsFile } = await import('../results/reader.ts');
    const { PENDING_SUFFIX } = await import('./run-recorder.ts');
    const isResults = args.from.endsWith('.rwr') || isResultsFile(args.from);
    if (isResults && !args.from.endsWith(PENDING_SUFFIX)) {
      for (const option of ['fault', 'reason', 'when'] as const) {
        if (args[option] === undefined) continue;
        throw new Problem(
          'E_USAGE',
          `--${option} is for expected failures, which are accepted from pending files`,
          {},
          'run `rewalk replay --pending` and give the traces instead of the results',
        );
      }
      const { acceptBaseline } = await import('./accept-baseline.ts');
      return acceptBaseline(args.from, args.baseline, review, context);
    }
    if (args.baseline !== undefined) {
      throw new Problem('E_USAGE', '--baseline is for results; pending files go to expectations.json');
    }
    const { acceptPending } = await import('./accept-pending.ts');
    const expected = { fault: args.fault, reason: args.reason, when: args.when };
    return acceptPending(args.from, expected, review, context);
  },
});
