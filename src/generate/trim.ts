/** A program without the REGISTER_SETs that set what is there: traces say only what changes. */

import { STEP_KIND_MASK, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import { loadRegisters, type Program, type ProgramStep } from './program.ts';
import { Specification } from './specification.ts';

export function withoutIdleSets(program: Program): Program {
  const machine = new Specification(program.header);
  machine.memory.watcher = null;
  loadRegisters(machine, program.registers);
  let ordinal = 0;
  const changes = (each: ProgramStep): boolean => {
    const register = (each.op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    const { registers } = machine;
    const idle =
      (each.op & STEP_KIND_MASK) === StepKind.REGISTER_SET &&
      registers[2 * register] === each.operandLo &&
      registers[2 * register + 1] === each.operandHi;
    if (!idle) machine.applyWalking(ordinal++, each);
    return !idle;
  };
  const units = program.units.map((unit) => unit.filter(changes));
  machine.memory.release();
  return { ...program, units };
}
