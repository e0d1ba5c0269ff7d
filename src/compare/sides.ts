/**
 * The two machines of a comparison, from options of which some are given twice: the first value makes the one machine,
 * the second the other; what is given once is common to both.
 */

import { Problem } from '../bits/problem.ts';
import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { MUTANTS } from '../mmu/mutants.ts';
import type { WiringName } from '../mmu/wiring.ts';
import { checkChoice, type MachineChoice, type MachineName } from '../replay/machines.ts';
import type { Scope } from './result.ts';

/** Every value of every option, in the order given. */
export interface GivenMachines {
  readonly machine: readonly MachineName[];
  readonly profile: readonly KvmProfile[];
  readonly wiring: readonly WiringName[];
  readonly tdp: readonly boolean[];
  readonly tdpMmu: readonly boolean[];
  /** Each time the option was given: numbers of the bugs that one machine has together. */
  readonly mutant: readonly (readonly number[])[];
}

export interface Side {
  /** What tells it from the other one: `gva-walk`, `TDP off`, `clean`. */
  readonly label: string;
  readonly choice: MachineChoice;
}

export type Sides = readonly [a: Side, b: Side];

/** The options by which machines are chosen. */
export const MACHINE_OPTIONS: Readonly<Record<keyof GivenMachines, string>> = {
  machine: '--machine',
  profile: '--profile',
  wiring: '--wiring',
  tdp: '--tdp',
  tdpMmu: '--tdp-mmu',
  mutant: '--mutant',
};
const OPTIONS = Object.keys(MACHINE_OPTIONS) as (keyof GivenMachines)[];

/** Pairs of machines that build other tables by design: only what the guest sees of them can be alike. */
const OTHER_TABLES: readonly (keyof GivenMachines)[] = ['machine', 'profile', 'tdp', 'tdpMmu'];

/** Whether both sides are built alike and differ in nothing but mutants: also what no row tells can be compared. */
export function builtAlike({ machine, profile, wiring, tdp, tdpMmu }: GivenMachines): boolean {
  return [machine, profile, wiring, tdp, tdpMmu].every(({ length }) => length < 2);
}

const HINT =
  'give --wiring, --profile, --tdp, --tdp-mmu, --machine or --mutant twice; --mutant once: without and with it';

function mutantNames(numbers: readonly number[]): string {
  const names = MUTANTS.filter(({ number }) => numbers.includes(number)).map(({ name }) => name);
  return names.length === 0 ? 'clean' : names.join(' and ');
}

/** A value as labels spell it. */
function valueText(option: keyof GivenMachines, value: GivenMachines[keyof GivenMachines][number]): string {
  if (option === 'tdp') return value === true ? 'TDP on' : 'TDP off';
  if (option === 'tdpMmu') return value === true ? 'TDP MMU on' : 'TDP MMU off';
  return Array.isArray(value) ? mutantNames(value) : String(value);
}

/**
 * The two machines. Both have an emulated KVM unless `--machine bare` says otherwise; to a bare one of the two only
 * applies what was given for it. Throws E_USAGE if they do not differ, or cannot be.
 */
export function sidesOf(given: GivenMachines): Sides {
  const all = withCleanMachine(given);
  for (const option of OPTIONS) {
    if (all[option].length > 2) {
      throw new Problem('E_USAGE', `${MACHINE_OPTIONS[option]} is given more than twice: two machines are compared`);
    }
  }
  const twice = OPTIONS.filter((option) => all[option].length === 2);
  if (twice.length === 0) throw new Problem('E_USAGE', 'both machines are the same', {}, HINT);
  const side = (which: 0 | 1): Side => {
    const bare = (all.machine[which] ?? all.machine[0]) === 'bare';
    const pick = <Value>(values: readonly Value[]): Value | undefined =>
      values.length === 2 ? values[which] : bare && all.machine.length === 2 ? undefined : values[0];
    const choice: MachineChoice = {
      machine: all.machine[which] ?? all.machine[0] ?? 'kvm',
      profile: pick(all.profile),
      wiring: pick(all.wiring),
      tdp: pick(all.tdp),
      tdpMmu: pick(all.tdpMmu),
      mutants: pick(all.mutant),
    };
    checkChoice(choice);
    return { label: twice.map((option) => valueText(option, all[option][which]!)).join(', '), choice };
  };
  const sides = [side(0), side(1)] as const;
  if (sides[0].label === sides[1].label) {
    throw new Problem('E_USAGE', `both machines are the same: ${sides[0].label}`, {}, HINT);
  }
  return sides;
}

/** A mutant given once, and nothing else twice: a clean machine against it. */
function withCleanMachine(given: GivenMachines): GivenMachines {
  const others = OPTIONS.some((option) => option !== 'mutant' && given[option].length > 1);
  return given.mutant.length !== 1 || others ? given : { ...given, mutant: [[], ...given.mutant] };
}

/** What is compared unless the user says: everything, but of machines whose tables differ by design what the guest sees. */
export function usualScope(given: GivenMachines): Scope {
  return OTHER_TABLES.some((option) => given[option].length > 1) ? 'guest' : 'all';
}
