/** What a results file holds, as plain data: the run, its traces, and their steps that were not a plain match. */

import type { Divergence, GuestDifference, Judgement, MachineFacts, Receipt, Verdict } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';

/** The format that this version writes and reads. */
export const RESULTS_VERSION = 1;

export interface RunFacts {
  readonly formatVersion: number;
  /** Tool and version. */
  readonly writer: string;
  /** Milliseconds since 1970-01-01 UTC; takes part in no comparison. */
  readonly when: number;
  readonly allowedUnmodelled: readonly string[];
  /** `expectations.json` beside the traces was used. */
  readonly expectations: boolean;
  /** What limited the comparison, as the options read; empty if nothing did. */
  readonly scope: readonly string[];
}

/** How a step was judged; `guest-differs`: the guest on the emulated KVM sees something else than on the bare machine. */
export type StoredJudgement = Judgement | { readonly kind: 'guest-differs' };

export type JudgementKind = StoredJudgement['kind'];

/** Steps of one judgement and shape. */
export interface VerdictGroup {
  readonly judgement: JudgementKind;
  readonly group: string;
  readonly count: number;
  /** Ordinal of the first. */
  readonly first: number;
  /** How many runs of diverging steps it begins. */
  readonly leads: number;
  /** Steps of them in which something else differs, too: no expectation covers these. */
  readonly mixed: number;
}

/** A step that was not a plain match. */
export interface StoredStep {
  readonly step: number;
  /** Line in the source file, if known. */
  readonly line: number | undefined;
  readonly source: string | undefined;
  readonly judgement: StoredJudgement;
  readonly group: string;
  readonly cause: string;
  /** 16 hexadecimal digits: equal where both sides did the same, host frames left out (`fingerprint.ts`). */
  readonly fingerprint: string;
  /** The stimulus and both sides, if they were kept. */
  readonly detail: StepDetail | undefined;
}

export type StepDetail =
  | { readonly kind: 'replay'; readonly divergence: Divergence }
  | { readonly kind: 'guest'; readonly difference: GuestDifference };

/** Which cells of the model a trace reached: bit n of byte n/8 is cell n; numbers are stable (`replay/coverage.ts`). */
export interface StoredCoverage {
  readonly cells: number;
  readonly bits: Uint8Array;
}

/** One segment of a trace file and what its replay came to. */
export interface StoredTrace {
  /** As it was given. */
  readonly file: string;
  /** Number in the file, from 0. */
  readonly segment: number;
  readonly header: TraceHeader;
  readonly verdict: Verdict;
  readonly machine: MachineFacts;
  readonly receipt: Receipt;
  /** All invariants that did not hold; the receipt has the first ones. */
  readonly brokenInvariants: number;
  readonly groups: readonly VerdictGroup[];
  /** Steps that were not a plain match, kept or not. */
  readonly stepCount: number;
  /** How many of them are kept: in the order of steps, guests' differences behind them. */
  readonly keptSteps: number;
  /** Every step below this ordinal is kept, beyond it only the first of each group; infinite if all are. */
  readonly keptBelow: number;
  readonly coverage: StoredCoverage | undefined;
}

export interface EndFacts {
  readonly traces: number;
  readonly observationsPredicted: number;
  /** 64 hexadecimal digits; equal for runs over the same traces, in whatever order. */
  readonly corpusDigest: string;
  readonly exitStatus: number;
}

/** How much of a results file's own claims is believed, and how much a writer puts in. */
export interface ResultsLimits {
  /** Bytes of one record. */
  readonly maxRecordBytes: number;
  /** Traces of a file. */
  readonly maxTraces: number;
  /** Steps kept of one trace. */
  readonly maxSteps: number;
  /** Steps of one trace kept with both sides, beside the first of each group. */
  readonly maxDetails: number;
  /** Groups of one trace; further shapes are counted as `others`. */
  readonly maxGroups: number;
  /** Broken invariants kept of one trace. */
  readonly maxInvariants: number;
}

export const RESULTS_LIMITS: ResultsLimits = {
  maxRecordBytes: 4 * 1024 * 1024,
  maxTraces: 0x1_0000,
  maxSteps: 20_000,
  maxDetails: 100,
  maxGroups: 1000,
  maxInvariants: 1000,
};

/** Shapes beyond the limit of groups. */
export const OTHER_GROUPS = 'others';

/** `trace.rwt`, `trace.rwt segment 2`. */
export function traceName({ file, segment }: Pick<StoredTrace, 'file' | 'segment'>): string {
  return segment === 0 ? file : `${file} segment ${segment}`;
}
