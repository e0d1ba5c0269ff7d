/** `rewalk replay`: the main job. Steps into the machine, observations compared, verdict and exit status. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { KVM_PROFILES } from '../formats/decode/kvm-role.ts';
import { OBS_NAMES } from '../formats/observation.ts';
import type { WiringName } from '../mmu/wiring.ts';
import type { MachineChoice, MachineName } from '../replay/machines.ts';
import { allowUnmodelledOption } from './allow-unmodelled.ts';
import { bisectOption, defineCommand, jsonOption } from './command.ts';
import { mutantNumbers } from './mutant-names.ts';
import { addressRange, frameRange, names, oneOf, oneText, wholeNumber } from './option-values.ts';
import { reportOption } from './report-request.ts';
import { checkReviewed } from './review-allowed.ts';
import { FILTER_KINDS, type StepFilter } from './step-filter.ts';
import { rangeOptions, stepRange } from './step-range.ts';
import { suggestion } from './suggest.ts';
import { traceFiles, tracesPositional } from './traces.ts';

const MACHINES = ['bare', 'kvm'] as const satisfies readonly MachineName[];
const WIRINGS = ['walk-mmu', 'nested-cpu-walk', 'gva-walk'] as const satisfies readonly WiringName[];
const SWITCH = ['on', 'off'] as const;

const machineName = oneOf('--machine', MACHINES);
const profileName = oneOf('--profile', KVM_PROFILES);
const tdpSwitch = oneOf('--tdp', SWITCH);
const tdpMmuSwitch = oneOf('--tdp-mmu', SWITCH);
const wiringName = oneOf('--wiring', WIRINGS);

function switched(value: string | undefined): boolean | undefined {
  return value === undefined ? undefined : value === 'on';
}

const FILTERS = ['kind', 'observed', 'gva', 'entry', 'gfn'];

/** `--filter gva=0x1000+0x1000`, repeatable: the filters of `view`, all of which must hold. */
function filterValue(value: unknown): StepFilter | undefined {
  if (value === undefined) return undefined;
  const given = new Map<string, string>();
  for (const text of (Array.isArray(value) ? value : [value]).map(String)) {
    const [name = '', ...rest] = text.split('=');
    if (!FILTERS.includes(name) || rest.length === 0) {
      const near = suggestion(name, FILTERS);
      throw new Problem(
        'E_USAGE',
        `--filter ${JSON.stringify(text)}: expected NAME=VALUE with one of ${FILTERS.join(', ')}`,
        {},
        near === undefined ? undefined : `did you mean ${near}?`,
      );
    }
    if (given.has(name)) throw new Problem('E_USAGE', `--filter ${name} is given more than once`);
    given.set(name, rest.join('='));
  }
  if (given.has('entry') && given.has('gfn')) {
    throw new Problem('E_USAGE', '--filter entry and --filter gfn exclude each other');
  }
  return {
    kinds: names('--filter kind', FILTER_KINDS)(given.get('kind')),
    observed: names('--filter observed', OBS_NAMES.slice(1))(given.get('observed')),
    linear: addressRange('--filter gva')(given.get('gva')),
    physical: addressRange('--filter entry')(given.get('entry')) ?? frameRange('--filter gfn')(given.get('gfn')),
  };
}

export const replay = defineCommand({
  command: 'replay <traces..>',
  describe: 'Replay traces on the emulated machine and compare, step by step, with what was recorded',
  examples: [
    ['rewalk replay traces', 'the whole corpus; exit status 1 if anything diverged'],
    ['rewalk replay trace.rwt --machine kvm --tdp off', 'the same guest above an emulated KVM with shadow paging'],
    ['rewalk replay trace.rwt --bail', 'stop at the first divergence'],
    ['rewalk replay traces -o run.rwr', 'keep the results, for rewalk compare and rewalk accept'],
    ['rewalk replay traces --report junit=rewalk.xml --report html=rewalk.html', 'for CI and for people'],
    ['rewalk replay trace.rwt --filter gva=0x40001000+0x1000 --json', 'compare the accesses to one page only'],
  ],
  positionals: tracesPositional,
  options: {
    machine: {
      type: 'string',
      coerce: machineName,
      describe: 'bare: a processor; kvm: with an emulated KVM below it [as recorded]',
    },
    profile: {
      type: 'string',
      coerce: profileName,
      describe: `Kernel that the emulated KVM behaves like: ${KVM_PROFILES.join(', ')} [as recorded]`,
    },
    tdp: {
      type: 'string',
      coerce: tdpSwitch,
      describe: 'Two-dimensional paging, on or off (shadow paging) [as recorded]',
    },
    'tdp-mmu': {
      type: 'string',
      coerce: tdpMmuSwitch,
      describe: 'Direct tables by the TDP MMU, on or off (legacy) [as recorded]',
    },
    wiring: {
      type: 'string',
      coerce: wiringName,
      describe: `How the emulated KVM wires its page walks: ${WIRINGS.join(', ')} [as in the profile's kernel]`,
    },
    mutant: {
      type: 'string',
      array: true,
      coerce: mutantNumbers,
      describe: 'Put a historical bug into the emulated KVM: a name of rewalk mutants',
    },
    'check-invariants': {
      type: 'boolean',
      default: false,
      describe: "Check the invariants of the emulated KVM's tables after every step (slow)",
    },
    'max-diffs': {
      type: 'string',
      coerce: wholeNumber('--max-diffs'),
      describe: 'Divergences to print in full for each trace [1]',
    },
    bail: { type: 'boolean', default: false, describe: 'Stop at the first divergence' },
    filter: {
      type: 'string',
      array: true,
      coerce: filterValue,
      describe: `Compare only steps with ${FILTERS.join('=, ')}=`,
    },
    ...rangeOptions,
    output: {
      type: 'string',
      alias: 'o',
      coerce: oneText('--output'),
      describe: 'Write the results to a file (*.rwr): receipts, and every step that was not a plain match',
    },
    pending: {
      type: 'boolean',
      default: false,
      describe: 'Write what diverged beside each trace (*.pending.rwr), for review with rewalk accept',
    },
    yes: { type: 'boolean', default: false, describe: 'Write pending files without a terminal, too (never in CI)' },
    ...reportOption,
    receipts: { type: 'boolean', default: false, describe: 'Print the full receipt of each trace, not just of all' },
    'min-predicted': {
      type: 'string',
      coerce: wholeNumber('--min-predicted'),
      describe: 'Fail unless at least so many observations were predicted and equal',
    },
    ...allowUnmodelledOption,
    expectations: {
      type: 'boolean',
      default: true,
      describe: 'Use expectations.json beside the traces (--no-expectations shows every difference)',
    },
    ...bisectOption,
    ...jsonOption,
  },
  async run(args, context) {
    const machine: MachineChoice = {
      machine: args.machine,
      profile: args.profile,
      tdp: switched(args.tdp),
      tdpMmu: switched(args['tdp-mmu']),
      wiring: args.wiring,
      mutants: args.mutant,
      checkInvariants: args['check-invariants'],
    };
    const { checkChoice } = await import('../replay/machines.ts');
    checkChoice(machine);
    const files = traceFiles(args.traces);
    const { output } = args;
    const { from, to } = stepRange(args);
    if (output === '-')
      throw new Problem('E_USAGE', '--output -: standard output is for the report', {}, 'name a file');
    if (output !== undefined && files.includes(output)) {
      throw new Problem('E_USAGE', 'the results would replace a trace', { file: output }, 'name another file');
    }
    if (args.pending && (args.bail || args.filter !== undefined || from !== 0 || to !== Number.POSITIVE_INFINITY)) {
      throw new Problem('E_USAGE', '--pending is about whole traces: without --bail, --filter, --from and --to');
    }
    if (args.pending) checkReviewed('a pending file', args.yes, context.io);
    const { replayTraces } = await import('./replay-traces.ts');
    const status = await replayTraces(
      files,
      {
        maxDiffs: args['max-diffs'] ?? 1,
        bail: args.bail,
        filter: args.filter,
        from,
        to,
        receipts: args.receipts,
        minPredicted: args['min-predicted'] ?? 1,
        allowUnmodelled: [...(args['allow-unmodelled'] ?? [])],
        expectations: args.expectations,
        machine,
        output,
        pending: args.pending,
        reports: args.report ?? [],
      },
      context,
    );
    return Math.max(status, ExitStatus.MATCH);
  },
});
