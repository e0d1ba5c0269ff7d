/** Makes a failing program smaller: delta debugging over its units (Zeller and Hildebrandt, 2002). */

import { compareOn, type Finding, type Host } from './differential.ts';
import type { Program, ProgramStep } from './program.ts';
import { isValid } from './valid.ts';

/** Runs that shrinking one program may take. */
const MAXIMUM_RUNS = 4000;

export interface Shrunk {
  readonly program: Program;
  readonly finding: Finding;
  readonly runs: number;
}

type Units = readonly (readonly ProgramStep[])[];

/**
 * The smallest program found that fails in the same way. `fails`: the finding of a program, if it has one;
 * by default that on `host`.
 */
export function shrink(
  program: Program,
  host: Host,
  finding: Finding,
  fails: (program: Program) => Finding | undefined = (each) => compareOn(each, host),
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
