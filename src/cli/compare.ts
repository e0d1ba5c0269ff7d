/** `rewalk compare`: what changed between two sides. Today two machines on the same traces. */

import { SCOPES } from '../compare/result.ts';
import { KVM_PROFILES } from '../formats/decode/kvm-role.ts';
import { NOT_MODELLED_NAMES } from '../formats/observation.ts';
import { WIRING_NAMES } from '../mmu/wiring.ts';
import type { MachineName } from '../replay/machines.ts';
import { defineCommand, jsonOption } from './command.ts';
import { mutantNumbers } from './mutant-names.ts';
import { names, oneOf, wholeNumber } from './option-values.ts';
import { traceFiles, tracesPositional } from './traces.ts';

const MACHINES = ['bare', 'kvm'] as const satisfies readonly MachineName[];
const SWITCH = ['on', 'off'] as const;

/** A yargs `coerce` for an option that may be given for each side: all its values in the order given. */
function each<Value>(one: (value: unknown) => Value | undefined) {
  return (value: unknown): readonly Value[] => {
    const given: readonly unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
    return given.flatMap((text) => one(text) ?? []);
  };
}

function switchValue(option: string) {
  const value = oneOf(option, SWITCH);
  return each((text) => {
    const given = value(text);
    return given === undefined ? undefined : given === 'on';
  });
}

/** One list for each time that the option is given. */
function mutantLists(value: unknown): readonly (readonly number[])[] {
  const given: readonly unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
  return given.map((text) => mutantNumbers(text) ?? []);
}

const machineNames = each(oneOf('--machine', MACHINES));
const profileNames = each(oneOf('--profile', KVM_PROFILES));
const wiringNames = each(oneOf('--wiring', WIRING_NAMES));
const tdpSwitches = switchValue('--tdp');
const tdpMmuSwitches = switchValue('--tdp-mmu');
const scopeName = oneOf('--scope', SCOPES);

export const compare = defineCommand({
  command: 'compare <traces..>',
  describe: 'Run traces on two machines and compare these step by step: has anything changed, and where first',
  examples: [
    ['rewalk compare --wiring walk-mmu --wiring gva-walk traces', 'two arrangements of the MMU must do the same'],
    ['rewalk compare --mutant m01-inherited-permissions traces', 'a clean machine against one with a historical bug'],
    ['rewalk compare --profile 6.1 --profile 7.3 traces', 'two kernels, as far as a guest can tell'],
    ['rewalk compare --tdp on --tdp off --profile 7.3 trace.rwt', 'given once: common to both machines'],
  ],
  positionals: tracesPositional,
  options: {
    wiring: {
      type: 'string',
      array: true,
      coerce: wiringNames,
      describe: `How walks and MMUs are wired: ${WIRING_NAMES.join(', ')} [as the profile's kernel]`,
    },
    profile: {
      type: 'string',
      array: true,
      coerce: profileNames,
      describe: `Kernel that the emulated KVM behaves like: ${KVM_PROFILES.join(', ')} [as recorded]`,
    },
    mutant: {
      type: 'string',
      array: true,
      coerce: mutantLists,
      describe: 'A historical bug, or several with commas; given once: a clean machine against it',
    },
    tdp: {
      type: 'string',
      array: true,
      coerce: tdpSwitches,
      describe: 'Two-dimensional paging, on or off (shadow paging) [as recorded]',
    },
    'tdp-mmu': {
      type: 'string',
      array: true,
      coerce: tdpMmuSwitches,
      describe: 'Direct tables by the TDP MMU, on or off (legacy) [as recorded]',
    },
    machine: {
      type: 'string',
      array: true,
      coerce: machineNames,
      describe: 'bare: a processor; kvm: with an emulated KVM below it [kvm]',
    },
    scope: {
      type: 'string',
      coerce: scopeName,
      describe:
        "all: every row, KVM's events too; guest: what the guest sees [all with --wiring and --mutant, else guest]",
    },
    'max-diffs': {
      type: 'string',
      coerce: wholeNumber('--max-diffs'),
      describe: 'Differences to print in full for each trace [1]',
    },
    bail: { type: 'boolean', default: false, describe: 'Stop at the first difference' },
    receipts: { type: 'boolean', default: false, describe: 'Print the full receipt of each trace, not just of all' },
    'allow-unmodelled': {
      type: 'string',
      coerce: names('--allow-unmodelled', Object.values(NOT_MODELLED_NAMES)),
      describe: 'What may be met and not modelled without failing',
    },
    ...jsonOption,
  },
  async run(args, context) {
    const { sidesOf, usualScope } = await import('../compare/sides.ts');
    const given = {
      machine: args.machine ?? [],
      profile: args.profile ?? [],
      wiring: args.wiring ?? [],
      tdp: args.tdp ?? [],
      tdpMmu: args['tdp-mmu'] ?? [],
      mutant: args.mutant ?? [],
    };
    const sides = sidesOf(given);
    const files = traceFiles(args.traces);
    const { compareTraces } = await import('./compare-traces.ts');
    const options = {
      scope: args.scope ?? usualScope(given),
      maxDiffs: args['max-diffs'] ?? 1,
      bail: args.bail,
      receipts: args.receipts,
      allowUnmodelled: [...(args['allow-unmodelled'] ?? [])],
    };
    return compareTraces(files, sides, options, context);
  },
});
