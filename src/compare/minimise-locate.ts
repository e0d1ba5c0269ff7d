/** Finds the divergence that a trace is to be minimised for, and loads the steps up to it. */

import { Problem } from '../bits/problem.ts';
import { expectationsFor } from '../replay/expectations.ts';
import { type MachineChoice, machineFor } from '../replay/machines.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { HeaderItem, TraceItem } from '../trace/reader.ts';
import { openTrace } from '../trace/text/either-form.ts';
import { type Finding, type Goal, machinesGoal, pairGoal, replayGoal, type Trial } from './minimise-goal.ts';
import { type StepList, StepListBuilder } from './minimise-steps.ts';
import type { Scope } from './result.ts';
import type { Sides } from './sides.ts';

/** What must stay in the smaller trace. */
export interface Wanted {
  /** The two machines that differ; undefined: what a replay on `machine` finds. */
  readonly sides: Sides | undefined;
  readonly machine: MachineChoice;
  /** What two machines are compared by; undefined: what a replay of either would tell, or else everything. */
  readonly scope: Scope | undefined;
  /** The divergence at this step; undefined: the first. */
  readonly step: number | undefined;
}

export interface Located {
  readonly goal: Goal;
  readonly segment: number;
  readonly header: TraceHeader;
  readonly finding: Finding;
  /** Nothing of another class comes before it. */
  readonly isFirst: boolean;
}

/** The goals in the order in which they are tried, by segment: each has expectations of its own. */
function goalsFor({ sides, machine, scope }: Wanted): ((path: string, segment: number) => Goal)[] {
  if (sides === undefined) {
    return [(path, segment) => replayGoal(machine, expectationsFor(path, segment), false)];
  }
  if (scope !== undefined) return [() => machinesGoal(sides, scope)];
  return [() => pairGoal(sides), () => machinesGoal(sides, 'all')];
}

/** A segment that is being looked through. */
interface Begun {
  readonly goal: Goal;
  readonly trial: Trial;
  readonly header: TraceHeader;
  readonly segment: number;
}

function begin(goal: Goal, { header, segment }: HeaderItem, { step }: Wanted): Begun {
  return { goal, trial: goal.trial(header, { bail: step === undefined, only: step }), header, segment };
}

/** All items of a file, which is closed afterwards. Throws what reading throws, and the problem of a segment cut short. */
export function* itemsOf(path: string): Generator<TraceItem, void, void> {
  const trace = openTrace(path);
  try {
    for (const item of trace) {
      yield item;
      if (item.kind === 'end' && item.problem !== undefined) throw item.problem;
    }
  } finally {
    trace.close();
  }
}

/**
 * The divergence asked for, in the first segment that has one; yields how many steps of a segment are read. Throws
 * E_NO_DIVERGENCE, and what reading throws.
 */
export function* locate(path: string, wanted: Wanted): Generator<number, Located, void> {
  for (const goalOf of goalsFor(wanted)) {
    let begun: Begun | undefined;
    for (const item of itemsOf(path)) {
      if (item.kind === 'header') begun = begin(goalOf(path, item.segment), item, wanted);
      const goesOn = item.kind !== 'steps' || begun!.trial.run(item.columns);
      if (item.kind === 'steps') yield item.columns.firstOrdinal + item.columns.stepCount;
      if (goesOn && item.kind !== 'end') continue;
      const { trial, goal, header, segment } = begun!;
      const [finding] = trial.findings();
      if (finding !== undefined) return { goal, header, segment, finding, isFirst: wanted.step === undefined };
    }
  }
  const { sides, step } = wanted;
  const what =
    sides === undefined ? 'the replay does not diverge' : `${sides[0].label} and ${sides[1].label} do the same`;
  const where = step === undefined ? 'on this trace' : `at step ${step}`;
  const remedy = step === undefined ? '--mutant, --machine and the like choose other machines' : 'leave out --step';
  throw new Problem('E_NO_DIVERGENCE', `${what} ${where}: there is nothing to minimise`, { file: path }, remedy);
}

/** The steps of the segment up to the one found. */
export function* loadSteps(
  path: string,
  { segment, header, finding }: Located,
  machine: MachineChoice,
): Generator<number, StepList, void> {
  const builder = new StepListBuilder(header, machineFor(header, machine).machine);
  let current = -1;
  for (const item of itemsOf(path)) {
    if (item.kind === 'header') current = item.segment;
    if (current !== segment || item.kind !== 'steps') continue;
    builder.add(item.columns, finding.until + 1);
    const read = item.columns.firstOrdinal + item.columns.stepCount;
    yield read;
    if (read > finding.until) break;
  }
  return builder.take();
}
