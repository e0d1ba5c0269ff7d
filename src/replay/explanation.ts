/**
 * What `rewalk explain` finds out about one step, as plain data: types only. `replay/explain*.ts` makes it, `report/`
 * renders it as text, JSON and HTML. Words of 64 bits are hexadecimal texts (`0x0000000000001000`). Texts that come from a
 * trace (file, title, source, notes) are as they stand there: whoever renders them escapes them.
 */

/** Whose doing it was, in the field's names (design §1); `processor`: the hardware below KVM, or the bare one. */
export type ContextName =
  | 'processor'
  | 'tlb'
  | 'cpuWalk'
  | 'nestedCpuWalk'
  | 'tdpWalk'
  | 'rootMmu'
  | 'guestMmu'
  | 'kvm'
  | 'guest memory';

/**
 * `pass`, `fail`: what the rule says of these words. `not-asked`: it does not apply, and `detail` says why. What the machine
 * made of it is `WalkNode.stopped`; where the two contradict each other, `contradicted` says so.
 */
export type CheckOutcome = 'pass' | 'fail' | 'not-asked';

/** A rule that an entry, or the walk as a whole, was judged by. */
export interface ExplainedCheck {
  /** Stable: `present`, `reserved`, `user`, `write`, `execute`, `smep`, `smap`, `key`, `ept-read`, `accessed`, ... */
  readonly name: string;
  /** The rule in words: `a user access needs U/S = 1 in every entry`. */
  readonly rule: string;
  /** `SDM vol. 3A 4.6.1`, `facts/kvm-mmu.md §3.1`. */
  readonly citation: string;
  readonly outcome: CheckOutcome;
  /** What it came to here: `bits 51:48 are set`; may be empty. */
  readonly detail: string;
  /** The machine did otherwise: what, in words. Left out where it agrees. */
  readonly contradicted?: string;
}

/**
 * A node of a walk: `register`: where it begins, or a PDPTE register; `entry`: an entry read; `address`: a final address that
 * goes through the second stage, or comes out; `write`: an entry written back with A or D.
 */
export interface WalkNode {
  readonly kind: 'register' | 'entry' | 'address' | 'write';
  /** Whose tables: `cpuWalk` and the like are the guest's, `rootMmu` and `guestMmu` hold SPTEs. */
  readonly context: ContextName;
  /** `CR3`, `PML4E`, `EPT PDE`, `NPT PTE`, `SPTE level 2`, `final address`. */
  readonly name: string;
  /** 1 to 5; 0 where there is none. */
  readonly level: number;
  /** Where the entry was read, or the address itself: physical, of the host where SPTEs are. Empty for registers. */
  readonly address: string;
  /** The guest-physical address of an entry that a second stage translates; empty otherwise. */
  readonly gpa: string;
  /** Empty for an address. */
  readonly value: string;
  /** The value in words, in one line. */
  readonly decoded: string;
  /** Rights of all entries down to this one, as the format spells them: `rwux`, `RW-`; empty where it has none. */
  readonly rights: string;
  readonly checks: readonly ExplainedCheck[];
  /** The walk ended here because a check failed: its name and sentence; left out where it went on. */
  readonly stopped?: string;
  /** The second stage's translation of this entry's address (or of the final address): comes before the read. */
  readonly inner: readonly WalkNode[];
}

/** One walk from its root on. */
export interface ExplainedWalk {
  /** Who walked: the processor, or KVM's software for one of its contexts. */
  readonly by: ContextName;
  /** `walk of the processor`, `software walk for 0x..., as the emulator asked`. */
  readonly title: string;
  /** What was translated, and for what: `write by user`. */
  readonly address: string;
  readonly access: string;
  /** Paging mode, and the second stage if there is one: `4-level under EPT`. */
  readonly mode: string;
  readonly nodes: readonly WalkNode[];
  /** Checks of the walk as a whole, on the rights combined: U/S, W, NX, SMEP, SMAP, keys. */
  readonly checks: readonly ExplainedCheck[];
  /** `translated`: `result` is where to. `fault`: `result` says which. `served`: the TLB had it, nothing was walked. */
  readonly outcome: 'translated' | 'fault' | 'served';
  readonly result: string;
}

/** A TLB entry that took part. */
export interface ExplainedTlbEntry {
  readonly page: string;
  readonly to: string;
  /** log2 of the page size. */
  readonly pageShift: number;
  readonly rights: string;
  /** `served the access`, `does not allow a write: walked`, `none: walked`. */
  readonly part: string;
  /** Tables no longer say what the entry says. */
  readonly stale: boolean;
}

/** An SPTE on the way to the step's address. */
export interface ExplainedSpte {
  readonly level: number;
  /** Host-physical place. */
  readonly place: string;
  readonly value: string;
  /** Before the step, if the step changed it. */
  readonly before?: string;
  /** In words. */
  readonly decoded: string;
  /** The table that holds it: guest frame, role in words, `unsync`. */
  readonly table: string;
}

/** The SPTEs of one MMU on the way to an address, as they are after the step. */
export interface ExplainedTables {
  readonly context: 'rootMmu' | 'guestMmu';
  /** Which tables: `TDP tables (EPT)`, `shadow of L1's EPT`. */
  readonly kind: string;
  readonly address: string;
  readonly root: string;
  readonly inForce: boolean;
  readonly sptes: readonly ExplainedSpte[];
}

/** What a context is set up for, after the step. */
export interface ExplainedContext {
  readonly context: ContextName;
  /** Role, root, mode in words. */
  readonly state: string;
  /** Whether the step used it. */
  readonly used: boolean;
}

/** Something that was done in the step, in order: an event of KVM, a request served, a flush, a root taken, an injection. */
export interface ExplainedAction {
  readonly context: ContextName;
  /** `event`: a tracepoint; `observation`: another row; the others no tracepoint shows. */
  readonly kind:
    | 'event'
    | 'observation'
    | 'request'
    | 'flush'
    | 'root'
    | 'table'
    | 'setup'
    | 'fault'
    | 'injection'
    | 'cache';
  readonly text: string;
}

/** One place of two sides; an empty list: nothing there. */
export interface ExplainedPlace {
  readonly state: 'equal' | 'differs' | 'only-a' | 'only-b';
  readonly a: readonly string[];
  readonly b: readonly string[];
  /** Names of fields that differ, where events do. */
  readonly fields: readonly string[];
}

/** Two sides of the step that differ. */
export interface ExplainedDivergence {
  /** `recording`: recorded against replayed; `guest`: a bare processor against KVM; `machines`: two machines. */
  readonly between: 'recording' | 'guest' | 'machines';
  /** What the sides are called: `recorded` and `replayed`, `clean` and `m06-child-of-other-role`. */
  readonly labels: readonly [a: string, b: string];
  readonly places: readonly ExplainedPlace[];
  /** Index of the first place that differs. */
  readonly at: number;
  /** One sentence. */
  readonly cause: string;
}

/** Where two machines first did something different, which need not be where it shows. */
export interface ExplainedParting {
  readonly labels: readonly [a: string, b: string];
  readonly step: number;
  /** The step in one line. */
  readonly stepText: string;
  /** One sentence that names the mechanism. */
  readonly sentence: string;
  /** The two sequences of actions about the first difference. */
  readonly places: readonly ExplainedPlace[];
  /** Further state that differs after that step, a line each. */
  readonly state: readonly string[];
}

export interface ExplainedStep {
  /** Ordinal in its segment. */
  readonly ordinal: number;
  readonly segment: number;
  readonly line: number | undefined;
  readonly source: string | undefined;
  /** Kind as the text form spells it: `access`, `fault-exit`. */
  readonly kind: string;
  /** The step in one line. */
  readonly text: string;
  readonly vcpu: number;
  /** `4-level under EPT`. */
  readonly mode: string;
  /** Registers that paging depends on and that are not 0, in words. */
  readonly registers: readonly { readonly name: string; readonly value: string; readonly decoded: string }[];
}

export interface Explanation {
  readonly version: 1;
  readonly trace: { readonly file: string; readonly title: string; readonly recorder: string };
  /** In words: `kvm 6.1, NPT, TDP MMU, with m06-child-of-other-role`. */
  readonly machine: string;
  readonly step: ExplainedStep;
  /** What came of the step, in one sentence. */
  readonly outcome: string;
  /** In the order in which they were made. */
  readonly walks: readonly ExplainedWalk[];
  readonly tlb: readonly ExplainedTlbEntry[];
  readonly tables: readonly ExplainedTables[];
  readonly contexts: readonly ExplainedContext[];
  readonly actions: readonly ExplainedAction[];
  /** Left out where the step is as recorded. */
  readonly divergence?: ExplainedDivergence;
  /** With two machines: the same step on both; left out where it is equal. */
  readonly difference?: ExplainedDivergence;
  /** With two machines: left out where they never part up to the step. */
  readonly parting?: ExplainedParting;
  /** The cause in one sentence, naming the mechanism; left out where nothing diverged. */
  readonly cause?: string;
  /** What could not be shown and why, in sentences. */
  readonly notes: readonly string[];
}
