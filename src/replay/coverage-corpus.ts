/** Coverage of several traces: their union, what nobody reached, and a smallest set of traces that reaches as much. */

import { COVERAGE_CELLS, COVERAGE_CONTEXTS, type CoverageContext } from './coverage-cells.ts';
import { CoverageSet } from './coverage-set.ts';

export interface TraceCoverage {
  readonly trace: string;
  readonly set: CoverageSet;
}

export interface ContextCoverage {
  readonly context: CoverageContext;
  readonly reached: number;
  /** Cells that a trace can reach. */
  readonly known: number;
  /** Cells that none can. */
  readonly unreachable: number;
}

/** A trace of the minimum corpus. */
export interface ChosenTrace {
  readonly trace: string;
  /** Cells that those chosen before it do not reach. */
  readonly adds: number;
  /** Names of the first of them, in the order of numbers. */
  readonly first: readonly string[];
  /** Cells reached by all traces up to this one. */
  readonly total: number;
}

/** Names that `ChosenTrace.first` holds. */
const FIRST = 3;

export function unionOf(traces: readonly TraceCoverage[]): CoverageSet {
  const union = new CoverageSet();
  for (const { set } of traces) union.add(set);
  return union;
}

/** By context, in the order of the list; a cell that was reached counts as known whatever the list says. */
export function byContext(set: CoverageSet): ContextCoverage[] {
  return COVERAGE_CONTEXTS.map((context) => {
    const cells = COVERAGE_CELLS.filter((cell) => cell.context === context);
    const reached = cells.filter(({ number }) => set.has(number)).length;
    const unreachable = cells.filter(({ number, unreachable: why }) => why !== undefined && !set.has(number)).length;
    return { context, reached, known: cells.length - unreachable, unreachable };
  });
}

function countNew(set: CoverageSet, covered: CoverageSet): number {
  let count = 0;
  set.bits.forEach((byte, i) => {
    for (let rest = byte & ~covered.bits[i]!; rest !== 0; rest &= rest - 1) count++;
  });
  return count;
}

/**
 * Traces that together reach what all do: greedily the one that adds most, the earliest of equals; then those that others
 * made superfluous are left out. The same traces in the same order give the same answer.
 */
export function minimumCorpus(traces: readonly TraceCoverage[]): ChosenTrace[] {
  const picked = withoutSuperfluous(greedy(traces));
  // Once more in the order of what each adds, now that some are gone.
  const chosen: ChosenTrace[] = [];
  const covered = new CoverageSet();
  for (const { trace, set } of greedy(picked)) {
    const added = COVERAGE_CELLS.filter(({ number }) => set.has(number) && !covered.has(number));
    covered.add(set);
    const first = added.slice(0, FIRST).map(({ name }) => name);
    chosen.push({ trace, adds: added.length, first, total: covered.count });
  }
  return chosen;
}

function greedy(traces: readonly TraceCoverage[]): TraceCoverage[] {
  const covered = new CoverageSet();
  const rest = new Set(traces);
  const chosen: TraceCoverage[] = [];
  for (;;) {
    let best: TraceCoverage | undefined;
    let most = 0;
    for (const each of rest) {
      const adds = countNew(each.set, covered);
      if (adds > most) {
        best = each;
        most = adds;
      }
    }
    if (best === undefined) return chosen;
    rest.delete(best);
    covered.add(best.set);
    chosen.push(best);
  }
}

/** Leaves out, the last chosen first, whatever the others reach without it. */
function withoutSuperfluous(chosen: readonly TraceCoverage[]): TraceCoverage[] {
  let kept = [...chosen];
  for (const each of [...chosen].reverse()) {
    const others = kept.filter((other) => other !== each);
    if (countNew(each.set, unionOf(others)) === 0) kept = others;
  }
  return kept;
}
