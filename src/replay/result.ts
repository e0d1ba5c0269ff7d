/** What a replay leaves behind: a receipt of what was compared, and the divergences. */

import type { KvmConfig } from '../formats/kvm-config.ts';
import type { KindCount } from './counters.ts';
import type { EventCount } from './event-counters.ts';

/** An observation row taken out of the columns, for reports. */
export interface Row {
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly valueLo: number;
  readonly valueHi: number;
}

/**
 * How two sides of a step with events of KVM compare at one place. `wrong-frame`: equal but for a host frame that stands
 * for another one. `host`: the host's doing, recorded where the replay had no part in it, which is no difference.
 */
export type PairState = 'equal' | 'differs' | 'wrong-frame' | 'missing' | 'extra' | 'host';

/** A host frame that does not have the name which the recording gives it. */
export interface WrongFrame {
  readonly field: string;
  readonly isTable: boolean;
  /** Frame numbers; `expected`: what the machine's frame was called so far, -1 if another frame has the recorded name. */
  readonly recorded: number;
  readonly replayed: number;
  readonly expected: number;
}

/** What stands side by side: rows of one event, or one row of another kind; nothing where one side has nothing. */
export interface SidePair {
  readonly state: PairState;
  readonly recorded: readonly Row[];
  readonly replayed: readonly Row[];
  /** Of two events of one kind that differ: names of the fields. */
  readonly fields: readonly string[];
  /** The first field of them that holds another host frame. */
  readonly wrongFrame: WrongFrame | undefined;
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
  /** Index of the first row that differs, in both lists. With `pairs`: index of the first pair that does. */
  readonly firstDifference: number;
  /** Steps with events of KVM: both sides aligned, so that one event too many is one difference. */
  readonly pairs: readonly SidePair[] | undefined;
  readonly judgement: Judgement;
  /** One sentence: which check, which level, which bit. */
  readonly cause: string;
  /** Divergences of one group have the same shape. */
  readonly group: string;
  /** More than this differs in the step, so that no expectation of the group covers it. Left out where nothing does. */
  readonly mixed?: true;
  /** Registers when the step was applied, 2 elements each. */
  readonly registers: Uint32Array;
}

export interface DivergenceGroup {
  readonly group: string;
  readonly count: number;
  readonly first: number;
  /** How many runs of diverging steps, with nothing equal in between, it begins: its own, not consequences. */
  readonly leads: number;
}

/** A step at which a guest on an emulated KVM unexplainedly differs from the same guest on a bare processor. */
export interface GuestDifference {
  readonly step: number;
  readonly line: number | undefined;
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  /** What each machine did; KVM's events are among the second one's. */
  readonly bare: readonly Row[];
  readonly kvm: readonly Row[];
  readonly config: KvmConfig;
  /** One sentence. */
  readonly cause: string;
  readonly group: string;
  /** Registers after the step, 2 elements each. */
  readonly registers: Uint32Array;
}

/** How often a legal difference was met (`legal-differences.ts`). */
export interface LegalCount {
  readonly number: number;
  readonly name: string;
  readonly citation: string;
  readonly sentence: string;
  readonly count: number;
}

/** A guest on an emulated KVM compared with the same guest on a bare processor. */
export interface GuestComparison {
  /** Accesses compared. */
  readonly accesses: number;
  /** As recorded, or as the bare machine where nothing was recorded. */
  readonly equal: number;
  /** As the bare machine, where that is not as recorded. */
  readonly asBare: number;
  readonly legal: readonly LegalCount[];
  /** What tables say now, or said when a translation could still be cached: the other side is that out of date. */
  readonly stale: number;
  readonly undetermined: number;
  /** Guest entries that the bare machine set A or D in. */
  readonly entries: number;
  /** Of them those that KVM did not set A or D in: a translation with these bits could still be cached. */
  readonly staleEntries: number;
  /** REGISTER and ENTRY_AFTER rows of the recording, answered by the guest on KVM. */
  readonly questions: number;
  readonly registerWrites: number;
  /** 8-byte words of guest memory compared at the end, and those that differ in A and D. */
  readonly words: number;
  readonly wordsInAd: number;
  readonly unexplained: number;
  readonly groups: readonly { readonly group: string; readonly count: number; readonly first: number }[];
}

/**
 * `undetermined`: nothing diverged, but of some steps the replay could not find out whether they are lawful, and the trace
 * leaves nothing open that would excuse that. In a partial trace (header `unknown`) such steps are expected and only
 * counted.
 */
export type Verdict = 'match' | 'diverged' | 'undetermined' | 'not-modelled' | 'nothing-compared';

/** Among the names of what may be not modelled: lets steps pass of which it is undetermined whether they are lawful. */
export const UNDETERMINED = 'undetermined';

/**
 * Among the names of what is not modelled: a guest's guest on EPT or NPT above a KVM with shadow paging, which offers no
 * such thing (`hidden-nesting.ts`).
 */
export const NESTED_TDP_WITHOUT_TDP = 'nested-tdp-without-tdp';

export type Ending = 'complete' | 'cut short' | 'not read';

/** Which machine replayed, as data: what conditions of expectations and comparisons of results ask. */
export interface MachineFacts {
  readonly name: 'bare' | 'kvm';
  /** The emulated KVM's; undefined for a bare processor. */
  readonly config: KvmConfig | undefined;
  /** How its page walks are wired; undefined for a bare processor. */
  readonly wiring: string | undefined;
  /** Historical bugs that were put in, by name. */
  readonly mutants: readonly string[];
}

/** What became of one expectation. */
export interface ExpectationOutcome {
  readonly fault: string;
  readonly group: string;
  /** Steps in which it is expected, and steps in which it was met. */
  readonly expected: number;
  readonly met: number;
}

/** How far a partial trace could be judged. */
export interface PartialReceipt {
  /** State that the trace does not tell. */
  readonly unknown: readonly string[];
  /** Steps that are undetermined, by the state that decides. */
  readonly undetermined: Readonly<Record<string, number>>;
}

export interface Receipt {
  readonly file: string;
  readonly title: string;
  readonly recorder: string;
  readonly policy: string;
  /** `bare`; `kvm 6.1, NPT, TDP MMU`, with what options changed of the recorded configuration. */
  readonly machine: string;
  /** Invariants of KVM's tables that did not hold, if they were checked: each sentence at the step that broke it. */
  readonly brokenInvariants: readonly { readonly step: number; readonly sentence: string }[];
  /** What the replay cannot see of the recording, in sentences. */
  readonly limits: readonly string[];
  /** Lower-case hex SHA-256 from the end of the trace, or undefined if that was not read. */
  readonly digest: string | undefined;
  /** Whether the trace has its index chunk: nothing is missing at its end. `not read`: stopped before. */
  readonly ending: Ending;
  readonly steps: number;
  readonly stepsByKind: Readonly<Record<string, number>>;
  readonly counts: readonly KindCount[];
  /** KVM's events, those that were met. */
  readonly events: readonly EventCount[];
  readonly observationsPredicted: number;
  /** Steps whose observations were not compared, by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly notModelled: Readonly<Record<string, number>>;
  readonly staleAllowed: number;
  readonly undetermined: number;
  /** Of a partial trace; left out for others. */
  readonly partial?: PartialReceipt;
  readonly expected: Readonly<Record<string, number>>;
  readonly diverged: number;
  readonly groups: readonly DivergenceGroup[];
  /** Expectations that no longer apply, in sentences. */
  readonly brokenExpectations: readonly string[];
  /** The same for programs; left out where there is none. */
  readonly expectationOutcomes?: readonly ExpectationOutcome[];
  /** What became of the guest on an emulated KVM; undefined if it was not there. */
  readonly sameGuest?: GuestComparison | undefined;
}

export interface ReplayResult {
  readonly receipt: Receipt;
  /** The first ones, at most as many as asked for. */
  readonly divergences: readonly Divergence[];
  /** The same for the guest on an emulated KVM. */
  readonly guestDifferences?: readonly GuestDifference[];
  readonly verdict: Verdict;
}
