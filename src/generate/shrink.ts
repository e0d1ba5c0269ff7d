/** Makes a failing program smaller: delta debugging over its units (`compare/minimise-list.ts`). */

import { leaveOut, type Shrinking } from '../compare/minimise-list.ts';
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

type Unit = readonly ProgramStep[];

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
  const list: Shrinking<Unit> = {
    get best() {
      return best.units.slice(best.pinned);
    },
    isOver: () => runs >= MAXIMUM_RUNS,
    attempt: (units) => {
      runs++;
      const candidate = { ...best, units: [...best.units.slice(0, best.pinned), ...units] };
      if (!isValid(candidate)) return false;
      const now = fails(candidate);
      if (now === undefined || now.shape !== finding.shape) return false;
      best = { ...candidate, units: candidate.units.slice(0, now.unit + 1) };
      found = now;
      return true;
    },
  };
  for (const _ of leaveOut(list));
  return { program: best, finding: found, runs };
}
