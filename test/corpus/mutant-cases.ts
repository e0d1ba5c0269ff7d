/** The traces that historical bugs cannot pass (`mutant-table.ts`), with machines as the library knows them. */

import type { MachineChoice } from '../../src/replay/machines.ts';
import { MUTANT_ROWS, MUTANT_TRACES } from './mutant-table.ts';

export const HERE = MUTANT_TRACES;

/** A trace of traces/mutants and what its README says of it. */
export interface MutantCase {
  readonly name: string;
  readonly mutants: readonly number[];
  /** Nothing chosen: a recording of KVM's own, replayed as it is. */
  readonly machine: MachineChoice;
  readonly step: number;
}

/** `--tdp on --profile 7.3 --wiring gva-walk`, as the table has it. */
function machineOf(options: readonly string[]): MachineChoice {
  const value = (name: string): string | undefined =>
    options.includes(name) ? options[options.indexOf(name) + 1] : undefined;
  const tdp = value('--tdp');
  return {
    machine: 'kvm',
    tdp: tdp === undefined ? undefined : tdp === 'on',
    profile: value('--profile') as MachineChoice['profile'],
    wiring: value('--wiring') as MachineChoice['wiring'],
  };
}

export const MUTANT_CASES: readonly MutantCase[] = MUTANT_ROWS.map(({ name, options, step }) => ({
  name,
  mutants: [...name.matchAll(/m(\d\d)(b?)-/g)].map(([, row, b]) => Number(row) + (b === 'b' ? 100 : 0)),
  machine: options.length === 0 ? {} : machineOf(options),
  step,
}));
