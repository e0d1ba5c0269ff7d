/**
 * What a comparison of two sides leaves behind: counts of what was compared, and what differs, step by step. Today the
 * sides are two machines on the same steps; nothing here depends on that.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import type { Ending, Row } from '../replay/result.ts';

/**
 * `all`: every row of a step, KVM's events among them, also those that no recorder sees. `guest`: what a guest can
 * notice: outcomes of its accesses, exceptions and exits that reach it.
 */
export type Scope = 'all' | 'guest';

export const SCOPES = ['all', 'guest'] as const satisfies readonly Scope[];

/** How both sides compare at one place. `differs`: one thing in another form. */
export type PlaceState = 'equal' | 'differs' | 'only-a' | 'only-b';

/** What stands side by side: rows of one event, or one row of another kind; nothing where one side has nothing. */
export interface Place {
  readonly state: PlaceState;
  readonly a: readonly Row[];
  readonly b: readonly Row[];
  /** Of two events of one kind that differ: names of the fields. */
  readonly fields: readonly string[];
}

/** A step in which the sides differ. */
export interface Difference {
  readonly step: number;
  /** Line in the source file, if known. */
  readonly line: number | undefined;
  readonly source: string | undefined;
  /** False: the difference is not the step's, but of what is left at the end of the trace. */
  readonly ofStep: boolean;
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  /** `all`: both sides' rows aligned. `guest`: empty, tables and events are not alike anyway. */
  readonly places: readonly Place[];
  /** Index of the first place that differs. */
  readonly at: number;
  /** What each side did, in order; of very long steps the part about the first difference. */
  readonly a: readonly Row[];
  readonly b: readonly Row[];
  /** Configuration of either side's emulated KVM, which its SPTEs and roles are read by; undefined for a bare processor. */
  readonly configs: readonly [a: KvmConfig | undefined, b: KvmConfig | undefined];
  /** One sentence, with the sides' labels. */
  readonly cause: string;
  /** Differences of one class have the same shape. */
  readonly group: string;
  /** Each side by itself is as a bare processor may be: equal, or explained (`referee.ts`). */
  readonly explained: boolean;
  /** Registers of the first side after the step, 2 elements each. */
  readonly registers: Uint32Array;
}

export interface DifferenceGroup {
  readonly group: string;
  readonly count: number;
  readonly first: number;
}

/** How often a documented difference was met (`documented.ts`). */
export interface DocumentedCount {
  readonly name: string;
  readonly citation: string;
  readonly sentence: string;
  readonly count: number;
}

/**
 * `not-modelled`: a side does not model what a step needs. `skipped`: the two sides cannot differ on this trace, or cannot
 * both take it; nothing was run.
 */
export type ComparisonVerdict = 'unchanged' | 'changed' | 'not-modelled' | 'nothing-compared' | 'skipped';

export interface ComparisonReceipt {
  readonly file: string;
  readonly title: string;
  /** Either side in words; from a label alone nobody knows what machine it was. */
  readonly sides: readonly [a: string, b: string];
  /** What is compared, in words. */
  readonly policy: string;
  /** What the comparison cannot see, in sentences. */
  readonly limits: readonly string[];
  readonly digest: string | undefined;
  readonly ending: Ending;
  /** Steps read and applied. */
  readonly steps: number;
  readonly stepsCompared: number;
  /** Rows held against each other: the larger number of the two sides' of each step; `guest`: what the guest sees. */
  readonly rows: number;
  /** Of them events of KVM. */
  readonly events: number;
  /** Steps after which all registers were compared. */
  readonly registerSets: number;
  /** Guest entries that the recording names, read from both sides after the step. */
  readonly entries: number;
  /** 8-byte words of guest memory compared at the end. */
  readonly words: number;
  /** Steps that differ in a documented way only. */
  readonly documented: readonly DocumentedCount[];
  /** Steps of which only registers and entries were compared, by reason. */
  readonly notCompared: Readonly<Record<string, number>>;
  /** Steps that a side does not model, by name. */
  readonly notModelled: Readonly<Record<string, number>>;
  /** Differences: steps, and what is left at the end. */
  readonly changed: number;
  readonly groups: readonly DifferenceGroup[];
}

export interface ComparisonResult {
  readonly labels: readonly [a: string, b: string];
  readonly verdict: ComparisonVerdict;
  readonly receipt: ComparisonReceipt;
  /** The first ones, at most as many as asked for. */
  readonly differences: readonly Difference[];
}
