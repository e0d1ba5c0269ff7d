/**
 * Explains what a guest on KVM saw where it is not what the bare machine did: by the tables as they stand, by what the
 * architecture allows to be cached (`machine/lawful.ts`), by an entry of the closed list (`legal-differences.ts`), or
 * not at all.
 *
 * All of it is tried on a twin of the bare machine: the same memory, registers of its own, and a history of its own, in
 * which translations go only when the guest on KVM gave a reason for it.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import { ACCESS_SOFTWARE } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import type { History } from '../machine/history.ts';
import { LawfulOutcomes } from '../machine/lawful.ts';
import { OF_TABLE } from '../paging/access.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import type { TraceHeader } from '../trace/header.ts';
import { GuestOutcome } from './guest-outcome.ts';
import { reportByKvm } from './kvm-exit-report.ts';
import { type GuestView, LEGAL_DIFFERENCES, type LegalDifference } from './legal-differences.ts';

export type GuestExplanation =
  /** What the tables say. */
  | { readonly kind: 'fresh' }
  /** What they said before a change that the guest has not made known yet. */
  | { readonly kind: 'stale' }
  | { readonly kind: 'legal'; readonly by: readonly LegalDifference[] }
  | { readonly kind: 'undetermined'; readonly why: string }
  /** Unexplained; `invalidatedAt`: what would have explained it was invalidated at that step. */
  | { readonly kind: 'none'; readonly invalidatedAt?: number };

export class GuestExplanations {
  private readonly bare: BareMachine;
  private readonly config: KvmConfig;
  private readonly twin: BareMachine;
  private readonly lawful: LawfulOutcomes;
  private readonly outcome = new GuestOutcome();

  /** `history`: what the guest on KVM may still have cached. Becomes the watcher of the bare machine's memory. */
  constructor(header: TraceHeader, config: KvmConfig, bare: BareMachine, history: History) {
    this.bare = bare;
    this.config = config;
    this.twin = new BareMachine(header, bare.memory, history);
    this.lawful = new LawfulOutcomes(this.twin);
  }

  /**
   * `seen`: how the ACCESS step with word `op` ended for the guest on KVM, `expected`: how it just did on the bare
   * machine, if that made it. Has no effect on that.
   */
  explain(op: number, lo: number, hi: number, seen: GuestOutcome, expected?: GuestOutcome): GuestExplanation {
    // The guest faults for ever: nothing explains that.
    if (seen.kind === Obs.NONE) return { kind: 'none' };
    const plain = this.view(op, seen);
    const first = this.under(plain, lo, hi, seen);
    if (first.kind === 'fresh' || first.kind === 'stale') return first;
    const report = expected === undefined ? undefined : this.reportOf(op, seen, expected);
    if (report !== undefined) return { kind: 'legal', by: [report] };
    const applying = LEGAL_DIFFERENCES.filter((entry) => entry.change(this.view(op, seen)));
    for (const entries of subsets(applying)) {
      const view = this.view(op, seen);
      for (const entry of entries) entry.change(view);
      if (this.isExplained(view, lo, hi, seen)) return { kind: 'legal', by: entries };
    }
    return first;
  }

  /** The entry that lets KVM tell of what happened on the bare machine in its own way, if that is all that differs. */
  private reportOf(op: number, seen: GuestOutcome, expected: GuestOutcome): LegalDifference | undefined {
    const { outcome, bare, config } = this;
    const entry = LEGAL_DIFFERENCES.find((each) => {
      const view = this.view(op, seen);
      return each.change(view) && view.reportedByKvm;
    });
    if (entry === undefined) return undefined;
    outcome.copy(expected);
    reportByKvm(outcome, bare, config.profile, (op & ACCESS_SOFTWARE) !== 0, seen);
    return outcome.equals(seen) ? entry : undefined;
  }

  /** Walks for the access with the tables as they stand; without effect, but for `forEachRead`. */
  walk(op: number, lo: number, hi: number, seen: GuestOutcome): void {
    this.under(this.view(op, seen), lo, hi, seen);
  }

  /** Calls `each` for the entries, of all tables, that the walk reads which the last explanation rests on. */
  forEachRead(each: (row: number, addressLo: number, addressHi: number) => void): void {
    const { log } = this.twin;
    for (let i = 0; i < log.count; i++) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      each(log.op(i), log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }

  private view(op: number, seen: GuestOutcome): GuestView {
    return {
      op,
      registers: this.bare.registers.slice(),
      config: this.config,
      reportsFetches: false,
      reportedByKvm: false,
      fetchesWithoutRead: false,
      exited: seen.kind === Obs.EPT_VIOLATION || seen.kind === Obs.NPF,
      translated: seen.kind === Obs.TRANSLATED,
      read: (lo, hi) => this.bare.readEntry(Obs.ENTRY_AFTER, lo, hi),
    };
  }

  private isExplained(view: GuestView, lo: number, hi: number, seen: GuestOutcome): boolean {
    const { kind } = this.under(view, lo, hi, seen);
    return kind === 'fresh' || kind === 'stale';
  }

  private under(view: GuestView, lo: number, hi: number, seen: GuestOutcome): GuestExplanation {
    const { twin, outcome } = this;
    const { op, registers } = view;
    for (let register = 0; register < REGISTER_COUNT; register++) {
      twin.setRegister(register, registers[2 * register]!, registers[2 * register + 1]!);
    }
    twin.configure();
    if (view.reportsFetches) twin.cpuWalk.fetchInErrorCode = true;
    const isSeen = (): boolean => {
      outcome.ofLog(twin.log);
      if (view.reportedByKvm) {
        reportByKvm(outcome, twin, this.config.profile, (op & ACCESS_SOFTWARE) !== 0, seen);
      }
      return outcome.equals(seen);
    };
    twin.probe(op, lo, hi);
    // What tables are read for stays as it is: only a fault of the page itself goes away.
    const byPage = twin.failedWalk() === twin.tdpWalk && ((twin.tdpWalk?.faultAccess ?? 0) & OF_TABLE) === 0;
    if (view.fetchesWithoutRead && byPage) twin.probe(op & ~ACCESS_SOFTWARE, lo, hi);
    if (isSeen()) return { kind: 'fresh' };
    // Software that walks for the guest caches nothing.
    if ((op & ACCESS_SOFTWARE) !== 0) return { kind: 'none' };
    const verdict = this.lawful.judge(op, lo, hi, isSeen);
    switch (verdict.kind) {
      case 'allowed':
        return { kind: 'stale' };
      case 'undetermined':
        return verdict;
      case 'invalidated':
        return { kind: 'none', invalidatedAt: verdict.invalidatedAt };
      case 'none':
        return { kind: 'none' };
    }
  }
}

/** All choices of one or more, fewest first: the simplest explanation counts. */
function subsets<T>(all: readonly T[]): T[][] {
  const chosen: T[][] = [];
  for (let mask = 1; mask < 1 << all.length; mask++) chosen.push(all.filter((_, i) => ((mask >>> i) & 1) !== 0));
  return chosen.sort((a, b) => a.length - b.length);
}
