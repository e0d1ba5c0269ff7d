/**
 * Explains what a guest on KVM saw where it is not what the bare machine did: by the tables as they stand, by what the
 * architecture allows to be cached (`machine/lawful.ts`), by an entry of the closed list (`legal-differences.ts`), or
 * not at all. All of it is tried on a twin of the bare machine.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { Dim, OBS_KIND_MASK, Obs, observationDim } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import { ACCESS_SOFTWARE, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import type { History } from '../machine/history.ts';
import { OF_TABLE, PFEC_P, PFEC_RSVD } from '../paging/access.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import type { TraceHeader } from '../trace/header.ts';
import { EntryFlags } from './entry-flags.ts';
import { GuestOutcome } from './guest-outcome.ts';
import { GuestTwin, type SeenAccess } from './guest-twin.ts';
import { reportByKvm } from './kvm-exit-report.ts';
import { type GuestView, LEGAL_DIFFERENCES, type LegalDifference } from './legal-differences.ts';
import type { UnderKvm } from './under-kvm.ts';

/** Pages that one walk of L2's tables may log: its tables and what it leads to. */
const MAXIMUM_LOGGED = 6;
const GENERAL_PROTECTION = 13;
const PAGE_FAULT = 14;
const EXITINFO_FINAL = 1;
const EXITINFO_TABLE = 2;

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
  /** What of A and D the access may have set, or not. */
  readonly flags: EntryFlags;
  private readonly bare: BareMachine;
  private readonly config: KvmConfig;
  private readonly twin: GuestTwin;
  private readonly outcome = new GuestOutcome();
  private readonly kvm: UnderKvm;

  /** `history`: what the guest on KVM may still have cached. `kvm`: the machine that it runs on. */
  constructor(header: TraceHeader, config: KvmConfig, bare: BareMachine, history: History, kvm: UnderKvm) {
    this.kvm = kvm;
    this.bare = bare;
    this.config = config;
    this.twin = new GuestTwin(header, config, bare, history, kvm);
    this.flags = new EntryFlags(this.twin);
  }

  private readonly hasSlot = (frame: number): boolean => this.kvm.backing(frame) !== 'none';

  /** The bare machine is about to make a step. */
  begin(): void {
    this.twin.begin();
  }

  /**
   * `access`: how it ended for the guest on KVM; `expected`: how it just did on the bare machine, if that made it. Has no
   * effect on that.
   */
  explain(access: SeenAccess, expected?: GuestOutcome): GuestExplanation {
    const { twin } = this;
    twin.forget();
    return twin.asBefore(() => (access.seen.kind === Obs.NONE ? this.findNoEnd(access) : this.find(access, expected)));
  }

  /** The guest tries again for ever: it needs a flag set in a table that it cannot write to. */
  private findNoEnd(access: SeenAccess): GuestExplanation {
    const { config, twin, kvm } = this;
    if (!config.tdp || config.profile !== '6.1') return { kind: 'none' };
    const { log } = twin.machine;
    const readsReadOnlyTable = (): boolean => {
      for (let i = 0; i < log.count; i++) {
        if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT || observationDim(log.op(i)) !== Dim.GUEST) continue;
        const frame = frameOf(log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
        if (kvm.backing(frame) === 'read-only') return true;
      }
      return false;
    };
    const table = legalDifference('read-only-table');
    for (const more of [undefined, legalDifference('pdptes-on-demand')]) {
      const view = twin.view(access);
      if (more !== undefined && !more.change(view)) continue;
      twin.set(view);
      if (twin.isPossible(access, readsReadOnlyTable)) {
        return { kind: 'legal', by: more === undefined ? [table] : [more, table] };
      }
    }
    return { kind: 'none' };
  }

  /**
   * Whether the page fault that the access has ended in, as `seen`, drops what could translate the address. KVM takes it out
   * of its tables, and out of the TLB, only if the fault that it injects says "present" and not "reserved bit"
   * (facts/kvm-mmu.md §8.4): under shadow paging an unsync SPTE goes on translating after another one. The processor's own
   * faults drop what it has cached (SDM vol. 3A 4.10.4.1).
   */
  dropsTranslations(op: number, seen: GuestOutcome): boolean {
    if (seen.kind !== Obs.EXCEPTION || seen.number !== PAGE_FAULT) return false;
    if (this.config.tdp && (op & ACCESS_SOFTWARE) === 0) return true;
    return (seen.valueLo & (PFEC_P | PFEC_RSVD)) === PFEC_P;
  }

  /**
   * The same of a register write, of `value`, that loads PDPTEs on one of the two machines: `seen` and `expected` are NONE
   * where it was not refused. Where it ended otherwise, one machine has the new registers and the other has not.
   */
  explainWrite(op: number, value: number, seen: GuestOutcome, expected: GuestOutcome): GuestExplanation {
    const { bare, config } = this;
    const { tdpWalk } = bare;
    const refused = expected.kind === Obs.EXCEPTION && expected.number === GENERAL_PROTECTION;
    if (config.tdp && config.vendor === 'amd') {
      return refused && seen.kind === Obs.NONE
        ? { kind: 'legal', by: [legalDifference('pdptes-on-demand')] }
        : { kind: 'none' };
    }
    if (tdpWalk?.ept !== true) return { kind: 'none' };
    const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    const table = register === Reg.CR3 ? value : bare.register(Reg.CR3);
    return this.twin.asBefore(() => this.findWrite(table, seen));
  }

  private findWrite(table: number, seen: GuestOutcome): GuestExplanation {
    const { twin, outcome } = this;
    const isSeen = (): boolean => {
      outcome.ofLog(twin.machine.log);
      return outcome.equals(seen);
    };
    for (const by of [undefined, ...DIFFERENCES_OF_LOADING]) {
      // PDPTEs are read for nobody's access: a supervisor's read comes nearest.
      const view = twin.view({ op: 0, lo: 0, hi: 0, seen });
      if (by !== undefined && !by.change(view)) continue;
      twin.set(view);
      twin.machine.probePdptes(table, 0);
      if (isSeen()) return by === undefined ? { kind: 'fresh' } : { kind: 'legal', by: [by] };
      if (twin.lawful.allowsPdptes(table, 0, isSeen))
        return by === undefined ? { kind: 'stale' } : { kind: 'legal', by: [by] };
    }
    return { kind: 'none' };
  }

  private find(access: SeenAccess, expected?: GuestOutcome): GuestExplanation {
    const { twin } = this;
    const plain = twin.view(access);
    const first = this.under(plain, access);
    if (first.kind === 'fresh' || first.kind === 'stale') return first;
    const report = expected === undefined ? undefined : this.reportOf(access, expected);
    if (report !== undefined) return { kind: 'legal', by: [report] };
    const applying = LEGAL_DIFFERENCES.filter((entry) => entry.change(twin.view(access)));
    for (const entries of subsets(applying)) {
      const view = twin.view(access);
      for (const entry of entries) entry.change(view);
      if (this.isExplained(view, access)) return { kind: 'legal', by: entries };
    }
    return first;
  }

  /** The entry that lets KVM tell of what happened on the bare machine in its own way, if that is all that differs. */
  private reportOf(access: SeenAccess, expected: GuestOutcome): LegalDifference | undefined {
    const { outcome, bare, config, twin } = this;
    const { op, seen } = access;
    const entry = LEGAL_DIFFERENCES.find((each) => {
      const view = twin.view(access);
      return each.change(view) && view.reportedByKvm;
    });
    if (entry === undefined) return undefined;
    outcome.copy(expected);
    reportByKvm(outcome, bare, config.profile, (op & ACCESS_SOFTWARE) !== 0, seen, this.hasSlot);
    return outcome.equals(seen) ? entry : undefined;
  }

  /** Walks for the access with the tables as they stand; without effect, but for `forEachRead`. */
  walk(access: SeenAccess): void {
    const { twin } = this;
    twin.forget();
    twin.asBefore(() => this.under(twin.view(access), access));
  }

  /** Calls `each` for the entries, of all tables, that the walks read which the last explanation rests on. */
  forEachRead(each: (row: number, addressLo: number, addressHi: number) => void): void {
    this.twin.forEachRead(each);
  }

  private isExplained(view: GuestView, access: SeenAccess): boolean {
    const explains = (): boolean => {
      const { kind } = this.under(view, access);
      return kind === 'fresh' || kind === 'stale';
    };
    return view.eitherPse ? this.twin.withEitherPse(view, explains) : explains();
  }

  private under(view: GuestView, access: SeenAccess): GuestExplanation {
    const { outcome } = this;
    const { lo, hi, seen } = access;
    const { op } = view;
    const { machine: twin, lawful } = this.twin;
    this.twin.set(view);
    const leftOver = view.emulated && seen.kind === Obs.NPF && this.config.profile === '6.1';
    const asMet = leftOver && this.mayBeMet({ ...access, op: op & ~ACCESS_SOFTWARE });
    if (leftOver) this.twin.set(view);
    const isSeen = (): boolean => {
      outcome.ofLog(twin.log);
      if (asMet) outcome.takeExit(seen);
      if (view.reportedByKvm) {
        reportByKvm(outcome, twin, this.config.profile, (op & ACCESS_SOFTWARE) !== 0, seen, this.hasSlot);
      }
      if (view.untold) outcome.leaveUntold(this.config.profile === '6.1', seen);
      return outcome.equals(seen);
    };
    twin.probe(op, lo, hi);
    // What tables are read for stays as it is: only a fault of the page itself goes away.
    const byPage = twin.failedWalk() === twin.tdpWalk && ((twin.tdpWalk?.faultAccess ?? 0) & OF_TABLE) === 0;
    if (view.fetchesWithoutRead && byPage) twin.probe(op & ~ACCESS_SOFTWARE, lo, hi);
    if (isSeen() || (view.emulated && this.withMoreLogged(view, access, isSeen))) return { kind: 'fresh' };
    // Software that walks for the guest caches nothing.
    if ((op & ACCESS_SOFTWARE) !== 0) return { kind: 'none' };
    const verdict = lawful.judge(op, lo, hi, isSeen);
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

  /** The processor's walk, before the emulator's, may have had pages logged. */
  private withMoreLogged({ op, registers }: GuestView, { lo, hi }: SeenAccess, isSeen: () => boolean): boolean {
    const twin = this.twin.machine;
    if (twin.tdpWalk?.modificationLog == null) return false;
    const index = registers[2 * Reg.PML_INDEX]!;
    for (let more = 1; more <= MAXIMUM_LOGGED; more++) {
      twin.setRegister(Reg.PML_INDEX, (index - more) & 0xffff, 0);
      twin.configure();
      twin.probe(op, lo, hi);
      if (isSeen()) return true;
    }
    return false;
  }

  /**
   * Whether the processor may have met the nested page fault of which KVM's emulator then tells: 6.1 leaves EXITINFO2, and
   * the high half of EXITINFO1, as they were (facts/kvm-mmu.md §7.2).
   */
  private mayBeMet(access: SeenAccess): boolean {
    const { twin } = this;
    const { log } = twin.machine;
    const { seen } = access;
    twin.set(twin.view(access));
    return twin.isPossible(access, () => {
      const { rows, count } = log;
      for (let at = 0; at < count * ROW; at += ROW) {
        const row = rows[at]!;
        if ((row & OBS_KIND_MASK) !== Obs.NESTED_WALK) continue;
        const info = (row & OF_TABLE) !== 0 ? EXITINFO_TABLE : EXITINFO_FINAL;
        const sameAddress =
          rows[at + ROW_ADDRESS_LO]! >>> 0 === seen.lo && rows[at + ROW_ADDRESS_HI]! >>> 0 === seen.hi;
        if (sameAddress && info === seen.valueHi) return true;
      }
      return false;
    });
  }
}

function legalDifference(name: string): LegalDifference {
  const found = LEGAL_DIFFERENCES.find((each) => each.name === name);
  if (found === undefined) throw new Error(`no legal difference has the name ${name}`);
  return found;
}

/** Of the loading of PDPTEs. */
const DIFFERENCES_OF_LOADING = ['accessed-set-with-full-log', 'own-flags-untracked'].map(legalDifference);

/** All choices of one or more, fewest first: the simplest explanation counts. */
function subsets<T>(all: readonly T[]): T[][] {
  const chosen: T[][] = [];
  for (let mask = 1; mask < 1 << all.length; mask++) chosen.push(all.filter((_, i) => ((mask >>> i) & 1) !== 0));
  return chosen.sort((a, b) => a.length - b.length);
}
