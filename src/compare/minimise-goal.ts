/**
 * What a smaller trace must still show: a divergence of one class, found by a replay, by one machine that replays what
 * another one did, or by holding two machines against each other.
 */

import type { Expectation } from '../replay/expectations.ts';
import type { MachineChoice } from '../replay/machines.ts';
import { type ReplayOptions, ReplaySession } from '../replay/session.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { MachineComparison } from './machines.ts';
import { Remake, remade } from './minimise-remake.ts';
import type { Scope } from './result.ts';
import type { Sides } from './sides.ts';

export interface Finding {
  /** Divergences of one class have the same group (`replay/cause.ts`, `compare/cause.ts`). */
  readonly group: string;
  /** Ordinal of the first step of that group. */
  readonly step: number;
  /** Ordinal of the last step that is needed: usually the same. */
  readonly until: number;
  /** One sentence; empty if the step is not the first that diverges. */
  readonly cause: string;
}

/** One run over a trace. */
export interface Trial {
  /** False: no more steps are needed. */
  run(columns: StepColumns): boolean;
  /** What was found, first class first. To be called once, at the end. */
  findings(): readonly Finding[];
}

export interface TrialOptions {
  /** Stop at the first divergence. */
  readonly bail: boolean;
  /** Only this step is judged. */
  readonly only?: number | undefined;
}

/**
 * `as recorded`: a replay of what was recorded. `remade`: the same, but all steps before the last have what the machine
 * does for expectations. `pair`: what side A does, replayed on side B. `machines`: A against B, row by row, which sees
 * also what no recorder does.
 */
export type GoalKind = 'as recorded' | 'remade' | 'pair' | 'machines';

export interface Goal {
  readonly kind: GoalKind;
  trial(header: TraceHeader, options: TrialOptions): Trial;
  /** The steps with the expectations that go with this goal. */
  finished(header: TraceHeader, columns: StepColumns): StepColumns;
}

/** A replay of what is recorded in the steps. */
class ReplayTrial implements Trial {
  private readonly session: ReplaySession;

  constructor(
    header: TraceHeader,
    machine: MachineChoice,
    { bail, only }: TrialOptions,
    expectations: readonly Expectation[] = [],
  ) {
    const range: ReplayOptions = only === undefined ? {} : { from: only, to: only + 1 };
    this.session = new ReplaySession('', header, { machine, bail, maxDiffs: 1, expectations, ...range });
  }

  run(columns: StepColumns): boolean {
    return this.session.run(columns);
  }

  findings(): Finding[] {
    const { receipt, divergences, guestDifferences = [] } = this.session.result(undefined, 'complete');
    const cause = new Map([...divergences, ...guestDifferences].map((each) => [each.group, each.cause]));
    const found = [
      ...receipt.groups.map(({ group, first }) => ({ group, step: first, until: first })),
      ...(receipt.sameGuest?.groups ?? []).map(({ group, first }) => ({ group, step: first, until: first })),
    ];
    this.session.release();
    return found.sort((a, b) => a.step - b.step).map((each) => ({ ...each, cause: cause.get(each.group) ?? '' }));
  }
}

/** Replay of a recording. `isRemade`: of the last step's observations only. */
export function replayGoal(machine: MachineChoice, expectations: readonly Expectation[], isRemade: boolean): Goal {
  const finished = (header: TraceHeader, columns: StepColumns): StepColumns =>
    isRemade ? remade(header, machine, columns, true) : columns;
  return {
    kind: isRemade ? 'remade' : 'as recorded',
    finished,
    trial: (header, options) => {
      const trial = new ReplayTrial(header, machine, options, expectations);
      return { run: (columns) => trial.run(finished(header, columns)), findings: () => trial.findings() };
    },
  };
}

/** Side B replays what side A does. Nothing is found where A is not as a bare processor. */
export function pairGoal([a, b]: Sides): Goal {
  return {
    kind: 'pair',
    finished: (header, columns) => remade(header, a.choice, columns),
    trial: (header, options) => {
      const remake = new Remake(header, a.choice);
      const trial = new ReplayTrial(header, b.choice, options);
      return {
        run: (columns) => trial.run(remake.run(columns)),
        findings: () => {
          const found = trial.findings();
          const isLawful = found.length > 0 && remake.firstMade >= 0 && remake.isLawful;
          remake.release();
          // Without any expectation the smaller trace would not match on A, but compare nothing.
          return isLawful ? found.map((each) => ({ ...each, until: Math.max(each.step, remake.firstMade) })) : [];
        },
      };
    },
  };
}

/** Differences between the machines kept: as many as may have to be looked through for one step. */
const MAXIMUM_DIFFERENCES = 10_000;

/** Two machines against each other. The expectations are what side A does. */
export function machinesGoal(sides: Sides, scope: Scope, allowUnmodelled: readonly string[] = []): Goal {
  return {
    kind: 'machines',
    finished: (header, columns) => remade(header, sides[0].choice, columns),
    trial: (header, { bail, only }) => {
      const maxDiffs = only === undefined ? 1 : MAXIMUM_DIFFERENCES;
      const options = { scope, maxDiffs, bail: bail && only === undefined, allowUnmodelled };
      const comparison = new MachineComparison('', header, sides, options);
      return {
        run: (columns) => comparison.run(columns),
        findings: () => {
          const { differences, receipt } = comparison.result(undefined, 'complete');
          if (only !== undefined) {
            return differences.filter(({ step }) => step === only).map((each) => ({ ...each, until: each.step }));
          }
          const causes = new Map(differences.map(({ group, cause }) => [group, cause]));
          return receipt.groups.map(({ group, first }) => ({
            group,
            step: first,
            until: first,
            cause: causes.get(group) ?? '',
          }));
        },
      };
    },
  };
}
