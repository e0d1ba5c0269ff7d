/** Makes a failing program smaller: delta debugging over its units (Zeller and Hildebrandt, 2002). */

import { BareMachine } from '../machine/bare.ts';
import { compareOn, type Finding, type Variant } from './differential.ts';
import { applyStep, loadRegisters, type Program, type ProgramStep } from './program.ts';
import { accepts } from './rules.ts';

/** Runs that shrinking one program may take. */
const MAXIMUM_RUNS = 4000;

export interface Shrunk {
  readonly program: Program;
  readonly finding: Finding;
  readonly runs: number;
}

/** Whether every step is one that a processor accepts, also now that others are missing. */
export function isValid({ header, registers, units }: Program): boolean {
  const machine = new BareMachine(header);
  machine.memory.watcher = null;
  loadRegisters(machine, registers);
  const isAccepted = (each: ProgramStep, ordinal: number): boolean => {
    if (!accepts(machine.registers, each)) return false;
    applyStep(machine, ordinal, each);
    return true;
  };
  const valid = units.flat().every(isAccepted);
  machine.memory.release();
  return valid;
}

type Units = readonly (readonly ProgramStep[])[];

/**
 * The smallest program found that fails in the same way. `fails`: the finding of a program, if it has one;
 * by default that of `variant`.
 */
export function shrink(
  program: Program,
  variant: Variant,
  finding: Finding,
  fails: (program: Program) => Finding | undefined = (each) => compareOn(each, variant),
): Shrunk {
  let runs = 0;
  let best = { ...program, units: program.units.slice(0, finding.unit + 1) };
  let found = finding;
  const attempt = (units: Units): boolean => {
    if (runs >= MAXIMUM_RUNS) return false;
    runs++;
    const candidate = { ...best, units: [...best.units.slice(0, best.pinned), ...units] };
    if (!isValid(candidate)) return false;
    const now = fails(candidate);
    if (now === undefined || now.shape !== finding.shape) return false;
    best = { ...candidate, units: candidate.units.slice(0, now.unit + 1) };
    found = now;
    return true;
  };
  for (let size = Math.ceil((best.units.length - best.pinned) / 2); size >= 1; ) {
    let removed = false;
    for (let end = best.units.length - best.pinned; end > 0; end -= size) {
      const units = best.units.slice(best.pinned);
      const last = Math.min(end, units.length);
      const rest = [...units.slice(0, Math.max(0, last - size)), ...units.slice(last)];
      if (rest.length < units.length && attempt(rest)) removed = true;
    }
    if (size === 1 && !removed) break;
    if (!removed || size > 1) size = Math.max(1, Math.floor(size / 2));
  }
  return { program: best, finding: found, runs };
}
