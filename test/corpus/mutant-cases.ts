/** The traces that historical bugs cannot pass, as traces/mutants/README.md lists them. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MachineChoice } from '../../src/replay/machines.ts';

export const HERE = fileURLToPath(new URL('../../traces/mutants/', import.meta.url));

/** A trace of traces/mutants and what its README says of it. */
export interface MutantCase {
  readonly name: string;
  readonly mutants: readonly number[];
  /** Undefined: a recording of KVM's own, replayed as it is. */
  readonly machine: MachineChoice;
  readonly step: number;
}

/** `--tdp on --profile 7.3 --wiring gva-walk`, as the table has it. */
function machineOf(options: string): MachineChoice {
  const value = (name: string): string | undefined => new RegExp(`--${name} (\\S+)`).exec(options)?.[1];
  const tdp = value('tdp');
  return {
    machine: 'kvm',
    tdp: tdp === undefined ? undefined : tdp === 'on',
    profile: value('profile') as MachineChoice['profile'],
    wiring: value('wiring') as MachineChoice['wiring'],
  };
}

export const MUTANT_CASES: readonly MutantCase[] = readFileSync(join(HERE, 'README.md'), 'utf8')
  .split('\n')
  .map((line) => /^\| `(m[^`]+)` \| (?:`(--[^`]+)`)? *\| (\d+) \|/.exec(line))
  .filter((found) => found !== null)
  .map(([, name = '', options, step]) => ({
    name,
    mutants: [...name.matchAll(/m(\d\d)(b?)-/g)].map(([, row, b]) => Number(row) + (b === 'b' ? 100 : 0)),
    machine: options === undefined ? {} : machineOf(options),
    step: Number(step),
  }));
