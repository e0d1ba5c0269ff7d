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
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import type { TraceHeader } from '../trace/header.ts';
import { GuestOutcome } from './guest-outcome.ts';
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

  /** `seen`: how the ACCESS step with word `op` ended for the guest on KVM. Has no effect on the bare machine. */
  explain(op: number, lo: number, hi: number, seen: GuestOutcome): GuestExplanation {
    // The guest faults for ever: nothing explains that.
    if (seen.kind === Obs.NONE) return { kind: 'none' };
    const plain = this.view(op, seen);
    const first = this.under(plain, lo, hi, seen);
    if (first.kind === 'fresh' || first.kind === 'stale') return first;
    const changed = LEGAL_DIFFERENCES.filter((entry) => entry.change(this.view(op, seen)));
    const all = this.view(op, seen);
    for (const entry of changed) {
      const view = this.view(op, seen);
      entry.change(view);
      entry.change(all);
      if (this.isExplained(view, lo, hi, seen)) return { kind: 'legal', by: [entry] };
    }
    if (changed.length > 1 && this.isExplained(all, lo, hi, seen)) return { kind: 'legal', by: changed };
    return first;
  }

  /** Walks for the access with the tables as they stand; without effect, but for `forEachRead`. */
  walk(op: number, lo: number, hi: number, seen: GuestOutcome): void {
    this.under(this.view(op, seen), lo, hi, seen);
  }

  /** Calls `each` for the guest's entries that the walk reads which the last explanation rests on. */
  forEachRead(each: (addressLo: number, addressHi: number) => void): void {
    const { log } = this.twin;
    for (let i = 0; i < log.count; i++) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      each(log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }

  private view(op: number, seen: GuestOutcome): GuestView {
    return {
      op,
      registers: this.bare.registers.slice(),
      config: this.config,
      reportsFetches: false,
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
      return outcome.equals(seen);
    };
    twin.probe(op, lo, hi);
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
