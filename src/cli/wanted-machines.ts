/** Which machines `minimise` and `bisect` are to look at: one that replays, or two that are held against each other. */

import { Problem } from '../bits/problem.ts';
import type { Scope } from '../compare/result.ts';
import { type GivenMachines, type Sides, sidesOf, usualScope } from '../compare/sides.ts';
import { checkChoice, type MachineChoice } from '../replay/machines.ts';

export interface WantedMachines {
  /** Undefined: a replay on `machine`. */
  readonly sides: Sides | undefined;
  readonly machine: MachineChoice;
  readonly scope: Scope | undefined;
}

/** Throws E_USAGE for machines that cannot be. */
export function wantedMachines(given: GivenMachines, scope: Scope | undefined): WantedMachines {
  const isPair = given.mutant.length > 0 || Object.values(given).some((values) => values.length > 1);
  if (isPair) {
    const usual = usualScope(given);
    return { sides: sidesOf(given), machine: {}, scope: scope ?? (usual === 'guest' ? usual : undefined) };
  }
  if (scope !== undefined)
    throw new Problem('E_USAGE', '--scope is for two machines', {}, 'give --mutant, or an option twice');
  const machine: MachineChoice = {
    machine: given.machine[0],
    profile: given.profile[0],
    wiring: given.wiring[0],
    tdp: given.tdp[0],
    tdpMmu: given.tdpMmu[0],
  };
  checkChoice(machine);
  return { sides: undefined, machine, scope: undefined };
}
