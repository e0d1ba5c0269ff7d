/** Whether a program, or what is left of one, is such that a processor goes through every step. */

import { exitOf, NestedRules } from './nested-rules.ts';
import { loadRegisters, type Program, type ProgramStep } from './program.ts';
import { Specification } from './specification.ts';

/** Whether every step is one that a processor accepts, also now that others are missing. */
export function isValid({ header, registers, units }: Program): boolean {
  const machine = new Specification(header);
  machine.memory.watcher = null;
  loadRegisters(machine, registers);
  const rules = new NestedRules(machine);
  const isAccepted = (each: ProgramStep, ordinal: number): boolean => {
    if (!rules.accepts(each)) return false;
    machine.applyWalking(ordinal, each);
    rules.applied(each, exitOf(machine));
    return true;
  };
  const valid = units.flat().every(isAccepted) && rules.pending === null;
  machine.memory.release();
  return valid;
}
