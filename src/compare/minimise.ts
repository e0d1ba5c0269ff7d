/**
 * The smallest trace found that still shows a divergence of the same class: sliced by what its step depends on, then
 * delta-debugged, steps first and then what they hold; every smaller trace is tried out.
 */

import { Problem } from '../bits/problem.ts';
import { type MachineChoice, machineFor } from '../replay/machines.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { type Finding, type Goal, type GoalKind, replayGoal } from './minimise-goal.ts';
import { minimisedHeader } from './minimise-header.ts';
import { leaveOut, leaveOutPairs, type Shrinking } from './minimise-list.ts';
import { type Located, loadSteps, locate, type Wanted } from './minimise-locate.ts';
import { reduceMemory } from './minimise-memory.ts';
import { joinStores, pagePrepared } from './minimise-pages.ts';
import {
  clearRegisters,
  foldAllRegisters,
  foldRegisters,
  postponeFirstValues,
  renumberVcpu,
} from './minimise-registers.ts';
import { impossibleStates } from './minimise-state.ts';
import { columnsOf, type ListedStep, listedBefore, type Reducible, type StepList } from './minimise-steps.ts';
import { joinTables } from './minimise-tables.ts';
import { SLICE_WIDTHS, slice, touchedPlaces } from './slice.ts';

/** Lists up to this long are tried without any two of their steps. */
const MAXIMUM_FOR_PAIRS = 64;
/** Steps that a reader takes in at once. What makes a trace harder to read is done to longer ones only. */
const SHORT = 20;
/** Rounds over all ways to make a list smaller; nearly always a few are enough. */
const MAXIMUM_ROUNDS = 16;

export interface MinimiseOptions extends Wanted {
  /** Whether the time is up: what is there then is the result. */
  isOver(): boolean;
}

export interface MinimiseProgress {
  readonly phase: 'looking for the divergence' | 'loading' | 'slicing' | 'minimising';
  /** Steps read, or steps of the smallest trace so far. */
  readonly steps: number;
  readonly trials: number;
}

export interface Minimised {
  /** With a note of origin. */
  readonly header: TraceHeader;
  readonly columns: StepColumns;
  readonly segment: number;
  readonly kind: GoalKind;
  /** In the original, and in the smaller trace. */
  readonly original: Finding;
  readonly finding: Finding;
  /** Steps of the original up to the divergence; after slicing; in the end. */
  readonly steps: { readonly before: number; readonly sliced: number; readonly after: number };
  readonly trials: number;
  /** False: the time was up; more could perhaps be left out. */
  readonly finished: boolean;
}

/** The smallest list so far, and the trials that made it so. */
class Minimiser implements Reducible {
  best: StepList;
  finding: Finding;
  trials = 0;
  readonly goal: Goal;
  readonly isOver: () => boolean;
  private readonly header: TraceHeader;
  private readonly isFirst: boolean;
  /** Impossible states that the whole list gets into. */
  private readonly impossible: number;

  constructor(goal: Goal, { header, finding, isFirst }: Located, list: StepList, isOver: () => boolean) {
    this.goal = goal;
    this.header = header;
    this.finding = finding;
    this.isFirst = isFirst;
    this.best = list;
    this.impossible = impossibleStates(list);
    this.isOver = isOver;
  }

  attemptList(list: StepList): boolean {
    const isPossible = list.steps.length > 0 && (impossibleStates(list) & ~this.impossible) === 0;
    const found = isPossible ? this.tried(list) : undefined;
    if (found === undefined) return false;
    this.best = { ...list, steps: list.steps.slice(0, listedBefore(list, found.until)) };
    this.finding = found;
    return true;
  }

  /** The steps of the list, for delta debugging. */
  get steps(): Shrinking<ListedStep> {
    const whole = this;
    return {
      get best() {
        return whole.best.steps;
      },
      attempt: (steps) => whole.attemptList({ ...whole.best, steps }),
      isOver: whole.isOver,
    };
  }

  /** What the list shows of the class that is wanted. */
  private tried(list: StepList): Finding | undefined {
    this.trials++;
    try {
      const trial = this.goal.trial(this.header, { bail: this.isFirst });
      const columns = columnsOf(list);
      trial.run(columns);
      const findings = trial.findings();
      const found = findings.find(({ group }) => group === this.finding.group);
      if (found === undefined || (this.isFirst && findings[0]!.step < found.step)) return undefined;
      // Only the last step's observations are the recorded ones.
      return this.goal.kind !== 'remade' || found.step === columns.stepCount - 1 ? found : undefined;
    } catch {
      // No machine can go through what is left: that shows nothing.
      return undefined;
    }
  }
}

/** A minimiser whose goal the whole list serves. Throws E_NO_DIVERGENCE if there is none. */
function minimiserFor(path: string, located: Located, list: StepList, options: MinimiseOptions): Minimiser {
  const { sides, machine } = options;
  const goals = sides === undefined ? [replayGoal(machine, [], true), located.goal] : [located.goal];
  for (const goal of goals) {
    const minimiser = new Minimiser(goal, located, list, options.isOver);
    if (minimiser.attemptList(list)) return minimiser;
  }
  throw new Problem(
    'E_NO_DIVERGENCE',
    `the divergence at step ${located.finding.step} does not show again when the steps up to it are run by themselves`,
    { file: path },
    'give another one by --step',
  );
}

/**
 * Minimises the trace in a file; yields progress after every trial. Throws E_NO_DIVERGENCE if there is nothing to
 * minimise, E_LIMIT if the trace is too long, and what reading throws.
 */
export function* minimise(path: string, options: MinimiseOptions): Generator<MinimiseProgress, Minimised, void> {
  const located = yield* reported('looking for the divergence', locate(path, options));
  const machine = options.sides?.[0].choice ?? options.machine;
  const list = yield* reported('loading', loadSteps(path, located, machine));
  const before = list.steps.length;
  const minimiser = minimiserFor(path, located, list, options);
  const goal = minimiser.goal;
  const progress = (phase: MinimiseProgress['phase']): MinimiseProgress => {
    return { phase, steps: minimiser.best.steps.length, trials: minimiser.trials };
  };
  yield progress('slicing');
  sliceFirst(minimiser, machine);
  const sliced = minimiser.best.steps.length;
  for (const _ of reductions(minimiser)) yield progress('minimising');
  const { best, finding, trials } = minimiser;
  const columns = goal.finished(located.header, columnsOf(best));
  const counts = { before, sliced, after: columns.stepCount };
  return {
    header: minimisedHeader(located.header, path, { kind: goal.kind, left: before - best.steps.length, options }),
    columns,
    segment: located.segment,
    kind: goal.kind,
    original: located.finding,
    finding,
    steps: counts,
    trials,
    finished: !options.isOver(),
  };
}

/** What a generator of step counts yields as progress. */
function* reported<Result>(
  phase: MinimiseProgress['phase'],
  work: Generator<number, Result, void>,
): Generator<MinimiseProgress, Result, void> {
  for (;;) {
    const next = work.next();
    if (next.done === true) return next.value;
    yield { phase, steps: next.value, trials: 0 };
  }
}

/** The narrowest slice that serves. */
function sliceFirst(minimiser: Minimiser, machine: MachineChoice): void {
  const list = minimiser.best;
  const touched = touchedPlaces(list, machineFor(list.header, machine).machine);
  for (const width of SLICE_WIDTHS) {
    const narrower = slice(list, touched, width);
    if (narrower.steps.length < list.steps.length && minimiser.attemptList(narrower)) return;
  }
}

/** Whether all expectations are made: what was recorded is of the addresses recorded. */
function isFree({ kind }: Goal): boolean {
  return kind === 'pair' || kind === 'machines';
}

/** Two stores may undo each other; a table's and anything else are needed each for itself. */
function mayGoTogether(first: ListedStep, second: ListedStep): boolean {
  return pagePrepared(first) === pagePrepared(second);
}

/** All ways to make the list smaller, over and over until none does: those that take many trials on short lists. */
function* reductions(minimiser: Minimiser): Generator<void, void, void> {
  // Observations of steps that are not in question only stand in the way.
  const { steps } = minimiser.best;
  const last = steps.length - 1;
  minimiser.attemptList({
    ...minimiser.best,
    steps: steps.map((step, i) => (i === last ? step : { ...step, rows: null, begin: 0, end: 0 })),
  });
  for (let round = 0; round < MAXIMUM_ROUNDS && !minimiser.isOver(); round++) {
    const { best } = minimiser;
    yield* foldAllRegisters(minimiser);
    yield* leaveOut(minimiser.steps);
    yield* foldRegisters(minimiser);
    yield* postponeFirstValues(minimiser);
    renumberVcpu(minimiser);
    yield* reduceMemory(minimiser);
    yield* clearRegisters(minimiser);
    if (minimiser.best !== best) continue;
    yield* joinStores(minimiser);
    if (minimiser.best !== best) continue;
    if (best.steps.length <= MAXIMUM_FOR_PAIRS) yield* leaveOutPairs(minimiser.steps, mayGoTogether);
    if (minimiser.best !== best) continue;
    if (minimiser.best.steps.length > SHORT && isFree(minimiser.goal)) yield* joinTables(minimiser);
    if (minimiser.best === best) return;
  }
}
