/**
 * A run of rewalk as the report formats see it, whatever it compared: a case for each trace, with what differs in it.
 * Plain data: types only. Texts that come from a trace or are a file's name are as they stand there: every format escapes
 * them for its medium.
 */

import type { ExplainedWalk, Explanation } from '../replay/explanation.ts';
import type { Timeline } from './timeline.ts';

/** `error`: it could not be found out, since the trace is unreadable or needs what is not modelled. */
export type CaseOutcome = 'pass' | 'fail' | 'error' | 'skip';

/** A word that stands in a line of text, bit by bit. */
export interface LineWord {
  /** As it stands in the line. */
  readonly text: string;
  /** Its long form, a line each. */
  readonly lines: readonly string[];
}

export interface ReportLine {
  readonly text: string;
  readonly words: readonly LineWord[];
}

/** One place of two sides. An empty side: nothing there. */
export interface ReportPlace {
  readonly state: 'equal' | 'differs' | 'only-a' | 'only-b';
  readonly a: readonly ReportLine[];
  readonly b: readonly ReportLine[];
}

export interface ReportRegister {
  readonly name: string;
  readonly value: string;
  /** In words, and bit by bit. */
  readonly short: string;
  readonly lines: readonly string[];
}

/** A step in which the sides differ. */
export interface ReportDifference {
  /** Ordinal of the step; undefined where the difference is of no step. */
  readonly step: number | undefined;
  /** `walk.log line 12`, empty if not known. */
  readonly where: string;
  /** How it is judged: `diverged`, `undetermined (...)`. */
  readonly judgement: string;
  /** The step in one line, and how its accesses are translated; empty if there is none. */
  readonly stimulus: string;
  readonly mode: string;
  /** One sentence. */
  readonly cause: string;
  readonly group: string;
  /** What the sides are called: `recorded` and `replayed`. */
  readonly labels: readonly [a: string, b: string];
  readonly places: readonly ReportPlace[];
  readonly registers: readonly ReportRegister[];
  /** Walks of the step, by side. */
  readonly walks: readonly { readonly label: string; readonly walk: ExplainedWalk }[];
  /** The same as the format `text` has it. */
  readonly text: readonly string[];
  /** What `rewalk explain` has to say of the step. */
  readonly explanation?: Explanation;
}

export interface ReportGroup {
  readonly group: string;
  readonly count: number;
  /** Ordinal of the first step. */
  readonly first: number;
}

export interface ReportCase {
  /** The trace, or what else was compared. */
  readonly file: string;
  readonly title: string;
  readonly outcome: CaseOutcome;
  /** The verdict as JSON has it: `diverged`, `unchanged`; of an error its code. */
  readonly verdict: string;
  /** One line. */
  readonly summary: string;
  /** Why it is no pass, in a sentence; empty for a pass. */
  readonly reason: string;
  /** Steps read, and how much of them was compared. */
  readonly steps: number;
  readonly compared: number;
  readonly seconds: number;
  /** The receipt as `text` has it. */
  readonly receipt: readonly string[];
  /** Everything that differs, and the first of it in full. */
  readonly differing: number;
  readonly differences: readonly ReportDifference[];
  /** What is said of those that are not in full, where more of them cannot be asked for; empty: nothing. */
  readonly rest?: string;
  readonly groups: readonly ReportGroup[];
  /** Left out where nobody asked for it. */
  readonly timeline?: Timeline;
}

/** What is known of a run when all is over. */
export interface ReportRun {
  /** `rewalk replay`. */
  readonly command: string;
  readonly version: string;
  /** What `compared` counts: `observations predicted`. */
  readonly unit: string;
  readonly startedAt: Date;
  readonly seconds: number;
  readonly cases: readonly ReportCase[];
  /** The totals as `text` has them. */
  readonly totals: readonly string[];
  /** Why the run fails though its cases may pass: nothing was compared; in sentences. */
  readonly faults: readonly string[];
  readonly exitStatus: number;
}
