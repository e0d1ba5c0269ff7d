/** What a replay leaves behind: a receipt of what was compared, and the divergences. */

import type { KindCount } from './counters.ts';

/** An observation row taken out of the columns, for reports. */
export interface Row {
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly valueLo: number;
  readonly valueHi: number;
}

/** How a step that did not simply match is judged (design §4, TLB truth). */
export type Judgement =
  | { readonly kind: 'diverged' }
  /** Equal to an outcome that the architecture allows with translations cached before a change. */
  | { readonly kind: 'stale-allowed' }
  /** Would need a translation that was invalidated at that step. */
  | { readonly kind: 'stale-after-invalidation'; readonly invalidatedAt: number }
  | { readonly kind: 'undetermined'; readonly why: string }
  /** A known fault of the recorder, named by an expectation. */
  | { readonly kind: 'expected'; readonly name: string };

/** Group of divergences that are about the state which a chunk begins with, before its first step. */
export const CHUNK_STATE = 'chunk state';

export interface Divergence {
  /** Ordinal of the step in its segment. */
  readonly step: number;
  /** Line in the source file, if known. */
  readonly line: number | undefined;
  readonly source: string | undefined;
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  readonly recorded: readonly Row[];
  readonly replayed: readonly Row[];
  /** Everything that the machine did in the step, also what the recorder could not see. */
  readonly walk: readonly Row[];
  /** Index of the first row that differs, in both lists. */
  readonly firstDifference: number;
  readonly judgement: Judgement;
  /** One sentence: which check, which level, which bit. */
  readonly cause: string;
  /** Divergences of one group have the same shape. */
  readonly group: string;
  /** Registers when the step was applied, 2 elements each. */
  readonly registers: Uint32Array;
}

export interface DivergenceGroup {
  readonly group: string;
  readonly count: number;
  readonly first: number;
}

export type Verdict = 'match' | 'diverged' | 'not-modelled' | 'nothing-compared';

export type Ending = 'complete' | 'cut short' | 'not read';

export interface Receipt {
  readonly file: string;
  readonly title: string;
  readonly recorder: string;
  readonly policy: string;
  readonly machine: string;
  /** Lower-case hex SHA-256 from the end of the trace, or undefined if that was not read. */
  readonly digest: string | undefined;
  /** Whether the trace has its index chunk: nothing is missing at its end. `not read`: stopped before. */
  readonly ending: Ending;
  readonly steps: number;
  readonly stepsByKind: Readonly<Record<string, number>>;
  readonly counts: readonly KindCount[];
  readonly observationsPredicted: number;
  /** Steps whose observations were not compared, by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly notModelled: Readonly<Record<string, number>>;
  readonly staleAllowed: number;
  readonly undetermined: number;
  readonly expected: Readonly<Record<string, number>>;
  readonly diverged: number;
  readonly groups: readonly DivergenceGroup[];
  /** Expectations that no longer apply, in sentences. */
  readonly brokenExpectations: readonly string[];
}

export interface ReplayResult {
  readonly receipt: Receipt;
  /** The first ones, at most as many as asked for. */
  readonly divergences: readonly Divergence[];
  readonly verdict: Verdict;
}
