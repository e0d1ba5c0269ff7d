/** The options that choose one machine or two: what is given twice makes the one and the other. */

import type { GivenMachines } from '../compare/sides.ts';
import { KVM_PROFILES, type KvmProfile } from '../formats/decode/kvm-role.ts';
import { WIRING_NAMES, type WiringName } from '../mmu/wiring.ts';
import type { MachineName } from '../replay/machines.ts';
import { mutantNumbers } from './mutant-names.ts';
import { oneOf } from './option-values.ts';

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

export const machinePairOptions = {
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
} as const;

export interface MachinePairArgs {
  readonly machine: readonly MachineName[] | undefined;
  readonly profile: readonly KvmProfile[] | undefined;
  readonly wiring: readonly WiringName[] | undefined;
  readonly tdp: readonly boolean[] | undefined;
  readonly 'tdp-mmu': readonly boolean[] | undefined;
  readonly mutant: readonly (readonly number[])[] | undefined;
}

export function givenMachines(args: MachinePairArgs): GivenMachines {
  return {
    machine: args.machine ?? [],
    profile: args.profile ?? [],
    wiring: args.wiring ?? [],
    tdp: args.tdp ?? [],
    tdpMmu: args['tdp-mmu'] ?? [],
    mutant: args.mutant ?? [],
  };
}
