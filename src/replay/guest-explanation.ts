/**
 * Explains what a guest on KVM saw where it is not what the bare machine did: by the tables as they stand, by what the
 * architecture allows to be cached (`machine/lawful.ts`), by an entry of the closed list (`legal-differences.ts`), or
 * not at all.
 *
 * All of it is tried on a twin of the bare machine: the same memory, registers of its own, and a history of its own, in
 * which translations go only when the guest on KVM gave a reason for it.
 */

import type { Word64 } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  Obs,
  observationDim,
  observationLevel,
  obsMask,
} from '../formats/observation.ts';
import { CR4_PSE, REGISTER_COUNT, Reg } from '../formats/registers.ts';
import {
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  AccessType,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
} from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import type { History } from '../machine/history.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import { LawfulOutcomes } from '../machine/lawful.ts';
import type { Machine } from '../machine/machine.ts';
import { OF_TABLE, PFEC_P, PFEC_RSVD } from '../paging/access.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { TraceHeader } from '../trace/header.ts';
import { GuestOutcome } from './guest-outcome.ts';
import { reportByKvm } from './kvm-exit-report.ts';
import { type GuestView, LEGAL_DIFFERENCES, type LegalDifference } from './legal-differences.ts';

const ENTRY_PS = 1 << 7;
/** In the guest's entries and in those of NPT. */
const X86_D = 1 << 6;
const EPT_D = 1 << 9;
/** Pages that one walk of L2's tables may log: its tables and what it leads to. */
const MAXIMUM_LOGGED = 6;
const GENERAL_PROTECTION = 13;
const PAGE_FAULT = 14;
const EXITINFO_FINAL = 1;
const EXITINFO_TABLE = 2;
const WRITES: ReadonlySet<number> = new Set([AccessType.WRITE, AccessType.RMW]);
const EXITS = obsMask(Obs.EPT_VIOLATION, Obs.EPT_MISCONFIG, Obs.NPF, Obs.PML_FULL);

/** What a frame of the guest's memory has behind it: a slot that can be written to, one that cannot, or none. */
export type Backing = 'writable' | 'read-only' | 'none';

/** What is asked of the machine with KVM. */
export interface UnderKvm {
  readonly backing: (frame: number) => Backing;
  /** The PDPTEs that KVM has loaded last, two halves each. */
  readonly pdptes: () => Int32Array;
}

export function underKvm(guest: Machine): UnderKvm {
  if (!(guest instanceof KvmMachine)) return { backing: () => 'writable', pdptes: () => new Int32Array(8) };
  return {
    backing: (frame) => {
      const slot = guest.host.slotOf(frame, 0);
      return slot === null ? 'none' : slot.readOnly ? 'read-only' : 'writable';
    },
    pdptes: () => guest.vcpu.gvaWalk.pdptes,
  };
}

export type GuestExplanation =
  /** What the tables say. */
  | { readonly kind: 'fresh' }
  /** What they said before a change that the guest has not made known yet. */
  | { readonly kind: 'stale' }
  | { readonly kind: 'legal'; readonly by: readonly LegalDifference[] }
  | { readonly kind: 'undetermined'; readonly why: string }
  /** Unexplained; `invalidatedAt`: what would have explained it was invalidated at that step. */
  | { readonly kind: 'none'; readonly invalidatedAt?: number };

/** Accessed and dirty bits of an entry, at a physical address, that an access did not set. */
export interface UnsetBits {
  readonly addressLo: number;
  readonly addressHi: number;
  readonly bits: number;
}

export class GuestExplanations {
  private readonly bare: BareMachine;
  private readonly config: KvmConfig;
  private readonly twin: BareMachine;
  private readonly lawful: LawfulOutcomes;
  private readonly outcome = new GuestOutcome();
  private readonly kvm: UnderKvm;
  /** Frames of EPT12 and NPT12. */
  private readonly secondStageTables = new Set<number>();
  /** PML_INDEX before the step. */
  private logIndex = 0;
  /** Entries that the processor's own walk has read, where KVM's emulator made the access after it. */
  private readonly readBefore: { readonly row: number; readonly addressLo: number; readonly addressHi: number }[] = [];
  /** Address of the access. */
  private lo = 0;
  private hi = 0;

  /**
   * `history`: what the guest on KVM may still have cached. `kvm`: the machine that it runs on.
   * Becomes the watcher of the bare machine's memory.
   */
  constructor(header: TraceHeader, config: KvmConfig, bare: BareMachine, history: History, kvm: UnderKvm) {
    this.kvm = kvm;
    this.bare = bare;
    this.config = config;
    this.twin = new BareMachine(header, bare.memory, history);
    this.lawful = new LawfulOutcomes(this.twin);
  }

  private readonly hasSlot = (frame: number): boolean => this.kvm.backing(frame) !== 'none';

  /** The bare machine is about to make the step. */
  begin(): void {
    this.logIndex = this.bare.register(Reg.PML_INDEX);
    if (this.bare.tdpWalk !== null) this.noteTables();
  }

  /** The last step's log has rows of tables that KVM has to shadow. */
  private noteTables(): void {
    const { log } = this.bare;
    for (let at = 0; at < log.count * ROW; at += ROW) {
      const row = log.rows[at]!;
      if ((row & OBS_KIND_MASK) !== Obs.ELEMENT || ((row >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST) continue;
      this.secondStageTables.add(frameOf(log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!));
    }
  }

  /**
   * `seen`: how the ACCESS step with word `op` ended for the guest on KVM, `expected`: how it just did on the bare
   * machine, if that made it. Has no effect on that.
   */
  explain(op: number, lo: number, hi: number, seen: GuestOutcome, expected?: GuestOutcome): GuestExplanation {
    if (seen.kind === Obs.NONE) return this.explainNoEnd();
    this.lo = lo;
    this.hi = hi;
    this.readBefore.length = 0;
    return this.asBefore(() => this.find(op, lo, hi, seen, expected));
  }

  /** The guest tries again for ever. */
  private explainNoEnd(): GuestExplanation {
    const { config, bare } = this;
    if (!config.tdp || config.profile !== '6.1') return { kind: 'none' };
    const { log } = bare;
    for (let i = 0; i < log.count; i++) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT || observationDim(log.op(i)) !== Dim.GUEST) continue;
      const frame = frameOf(log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
      if (this.kvm.backing(frame) === 'read-only') return { kind: 'legal', by: [legalDifference('read-only-table')] };
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
    return this.asBefore(() => this.findWrite(table, seen));
  }

  private findWrite(table: number, seen: GuestOutcome): GuestExplanation {
    const { twin, outcome } = this;
    const isSeen = (): boolean => {
      outcome.ofLog(twin.log);
      return outcome.equals(seen);
    };
    for (const by of [undefined, ...DIFFERENCES_OF_LOADING]) {
      // PDPTEs are read for nobody's access: a supervisor's read comes nearest.
      const view = this.view(0, seen);
      if (by !== undefined && !by.change(view)) continue;
      this.set(view);
      twin.probePdptes(table, 0);
      if (isSeen()) return by === undefined ? { kind: 'fresh' } : { kind: 'legal', by: [by] };
      if (this.lawful.allowsPdptes(table, 0, isSeen))
        return by === undefined ? { kind: 'stale' } : { kind: 'legal', by: [by] };
    }
    return { kind: 'none' };
  }

  /**
   * Whether the access may have ended like that, as it did on the bare machine, and yet not have set `bits` in the entry
   * at an address: by a translation that was made when the entry had them, or when other tables were in use.
   */
  avoids(op: number, lo: number, hi: number, seen: GuestOutcome, entry: UnsetBits): boolean {
    const { twin, outcome } = this;
    if ((op & ACCESS_SOFTWARE) !== 0) return false;
    return this.asBefore(() => {
      this.set(this.view(op, seen));
      const avoided = (): boolean => {
        outcome.ofLog(twin.log);
        return outcome.equals(seen) && !this.sets(op, entry);
      };
      return this.lawful.judge(op, lo, hi, avoided).kind === 'allowed';
    });
  }

  /** Whether, with the tables as they stand or with what may be cached of them, the access may set `bits` in the entry. */
  maySet(op: number, lo: number, hi: number, seen: GuestOutcome, entry: UnsetBits): boolean {
    return this.asBefore(() => {
      this.set(this.view(op, seen));
      return this.isPossible(op, lo, hi, () => this.sets(op, entry));
    });
  }

  /** Whether something holds of the twin's walk, with the tables as they stand or with what may be cached of them. */
  private isPossible(op: number, lo: number, hi: number, holds: () => boolean): boolean {
    this.twin.probe(op, lo, hi);
    const possible = holds() || this.lawful.judge(op, lo, hi, holds).kind === 'allowed';
    if (possible)
      this.forEachReadNow((row, addressLo, addressHi) => this.readBefore.push({ row, addressLo, addressHi }));
    return possible;
  }

  /**
   * Whether the twin's last walk, for an access with word `op`, would have set the bits: dirty ones only in the entry that
   * maps what is written, in EPT and NPT on the way to it.
   */
  private sets(op: number, { addressLo, addressHi, bits }: UnsetBits): boolean {
    const { rows, count } = this.twin.log;
    const writes = WRITES.has((op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK);
    let set = bits;
    for (let at = 0; at < count * ROW; at += ROW) {
      const row = rows[at]!;
      const kind = row & OBS_KIND_MASK;
      if (kind === Obs.NESTED_WALK) set = writesTo(row) ? bits : bits & ~dirtyOf(row);
      if (kind !== Obs.ELEMENT) continue;
      if (rows[at + ROW_ADDRESS_LO] !== addressLo || rows[at + ROW_ADDRESS_HI] !== addressHi) continue;
      const value = rows[at + ROW_VALUE_LO]!;
      const leaf = observationLevel(row) === 1 || (value & ENTRY_PS) !== 0;
      const ofGuest = observationDim(row) === Dim.GUEST;
      const wanted = !ofGuest ? set : writes && leaf ? bits : bits & ~X86_D;
      if ((value & wanted) !== wanted) return true;
    }
    return false;
  }

  /** With the entries that the bare machine's step has set A or D in as they were before it. */
  private asBefore<T>(find: () => T): T {
    const { log, memory } = this.bare;
    const undone: [lo: number, hi: number, word: Word64][] = [];
    for (let i = log.count - 1; i >= 0; i--) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      const at = i * ROW;
      const [lo, hi] = [log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!];
      const [isLo, isHi] = this.bare.readEntry(Obs.ENTRY_AFTER, lo & ~7, hi);
      const [oldLo, oldHi] = [log.rows[at + ROW_VALUE_LO]!, log.rows[at + ROW_VALUE_HI]!];
      const fourBytes = (log.op(i) & OBS_FOUR_BYTES) !== 0;
      const upper = fourBytes && (lo & 4) !== 0;
      const wordLo = upper ? isLo : oldLo >>> 0;
      const wordHi = upper ? oldLo >>> 0 : fourBytes ? isHi : oldHi >>> 0;
      if (wordLo === isLo && wordHi === isHi) continue;
      undone.push([lo & ~7, hi, memory.exchange(lo, hi, wordLo, wordHi)]);
    }
    const result = find();
    for (const [lo, hi, word] of undone.reverse()) memory.exchange(lo, hi, word.lo, word.hi);
    return result;
  }

  private find(op: number, lo: number, hi: number, seen: GuestOutcome, expected?: GuestOutcome): GuestExplanation {
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
    reportByKvm(outcome, bare, config.profile, (op & ACCESS_SOFTWARE) !== 0, seen, this.hasSlot);
    return outcome.equals(seen) ? entry : undefined;
  }

  /** Walks for the access with the tables as they stand; without effect, but for `forEachRead`. */
  walk(op: number, lo: number, hi: number, seen: GuestOutcome): void {
    this.readBefore.length = 0;
    this.asBefore(() => this.under(this.view(op, seen), lo, hi, seen));
  }

  /** Calls `each` for the entries, of all tables, that the walks read which the last explanation rests on. */
  forEachRead(each: (row: number, addressLo: number, addressHi: number) => void): void {
    for (const { row, addressLo, addressHi } of this.readBefore) each(row, addressLo, addressHi);
    this.forEachReadNow(each);
  }

  private forEachReadNow(each: (row: number, addressLo: number, addressHi: number) => void): void {
    const { log } = this.twin;
    for (let i = 0; i < log.count; i++) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      each(log.op(i), log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }

  private view(op: number, seen: GuestOutcome): GuestView {
    const registers = this.bare.registers.slice();
    registers[2 * Reg.PML_INDEX] = this.logIndex;
    return {
      op,
      registers,
      config: this.config,
      reportsFetches: false,
      reportedByKvm: false,
      emulated: false,
      untold: false,
      logsDirtyOnly: false,
      eitherPse: false,
      fetchesWithoutRead: false,
      untrackedFlags: false,
      pdptesInRegisters: false,
      exited: ((EXITS >>> seen.kind) & 1) !== 0,
      translated: seen.kind === Obs.TRANSLATED,
      reachesDevice: () => this.reachesDevice(op, seen),
      read: (lo, hi) => this.bare.readEntry(Obs.ENTRY_AFTER, lo, hi),
      pdptesOfKvm: this.kvm.pdptes,
    };
  }

  /** The processor's walk, before the emulator's, may have had pages logged. */
  private withMoreLogged({ op, registers }: GuestView, lo: number, hi: number, isSeen: () => boolean): boolean {
    const { twin } = this;
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

  /** With the tables as they stand, or with what may be cached of them. */
  private reachesDevice(op: number, seen: GuestOutcome): boolean {
    this.set(this.view(op, seen));
    return this.isPossible(op, this.lo, this.hi, () => this.walkReachesDevice());
  }

  /**
   * Whether the processor may have met the nested page fault of which KVM's emulator then tells: 6.1 leaves EXITINFO2, and
   * the high half of EXITINFO1, as they were (facts/kvm-mmu.md §7.2).
   */
  private mayBeMet(op: number, seen: GuestOutcome): boolean {
    const { log } = this.twin;
    this.set(this.view(op, seen));
    return this.isPossible(op, this.lo, this.hi, () => {
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

  /**
   * Whether the twin's last walk has read a table outside of slots, or one that is a table of the second stage as well and
   * therefore shadowed, or met a second stage that leads out of slots.
   */
  private walkReachesDevice(): boolean {
    const { log } = this.twin;
    const { rows } = log;
    let gpaLo = 0;
    for (let at = 0; at < log.count * ROW; at += ROW) {
      const row = rows[at]!;
      const kind = row & OBS_KIND_MASK;
      if (kind === Obs.NESTED_WALK) gpaLo = rows[at + ROW_ADDRESS_LO]!;
      if (kind !== Obs.ELEMENT) continue;
      const stands = frameOf(rows[at + ROW_ADDRESS_LO]!, rows[at + ROW_ADDRESS_HI]!);
      if (((row >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST) {
        if (this.secondStageTables.has(stands) || this.kvm.backing(stands) !== 'writable') return true;
        continue;
      }
      const level = (row >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
      const [entryLo, entryHi] = [rows[at + ROW_VALUE_LO]!, rows[at + ROW_VALUE_HI]!];
      if (level > 1 && (entryLo & ENTRY_PS) === 0) continue;
      const fourBytes = (row & OBS_FOUR_BYTES) !== 0;
      const within = (1 << (fourBytes ? 2 + 10 * level : 3 + 9 * level)) - 1;
      const frame = frameOf((entryLo & ~within) | (gpaLo & within), fourBytes ? 0 : entryHi & 0xf_ffff);
      if (this.kvm.backing(frame) !== 'writable') return true;
    }
    return false;
  }

  private isExplained(view: GuestView, lo: number, hi: number, seen: GuestOutcome): boolean {
    const explains = (): boolean => {
      const { kind } = this.under(view, lo, hi, seen);
      return kind === 'fresh' || kind === 'stale';
    };
    return view.eitherPse ? this.withEitherPse(view, explains) : explains();
  }

  /**
   * Whether it explains when some of the walk's translations by NPT are those of the other CR4.PSE. An exit comes from
   * KVM's own walk for the last translation, which knows the present one.
   */
  private withEitherPse(view: GuestView, explains: () => boolean): boolean {
    const { op, registers, exited } = view;
    // What KVM's emulator translates it walks for.
    if ((op & ACCESS_SOFTWARE) !== 0) return explains();
    const { twin } = this;
    this.set(view);
    const { nptWalk } = twin;
    const { format } = nptWalk;
    const own = registers[2 * Reg.HOST_CR4]!;
    const reserved = [own, own ^ CR4_PSE].map((cr4) => {
      twin.setRegister(Reg.HOST_CR4, cr4 >>> 0, 0);
      twin.configure();
      return format.reserved;
    });
    const pse = (own & CR4_PSE) !== 0;
    const translations = twin.cpuWalk.rootLevel + 1;
    let others = 0;
    let count = 0;
    nptWalk.beforeTranslation = () => {
      // A walk's first translation stands first in its log.
      count = twin.log.count === 0 ? 0 : count + 1;
      const other = (others >>> count) & 1;
      nptWalk.pse = pse !== (other !== 0);
      format.reserved = reserved[other]!;
    };
    try {
      for (others = 1; others < 1 << translations; others++) {
        if (explains() && !(exited && ((others >>> count) & 1) !== 0)) return true;
      }
    } finally {
      nptWalk.beforeTranslation = null;
    }
    return false;
  }

  /** Puts the twin into the view's state. */
  private set(view: GuestView): void {
    const { twin } = this;
    const { registers, reportsFetches, logsDirtyOnly, emulated, exited, untrackedFlags } = view;
    for (let register = 0; register < REGISTER_COUNT; register++) {
      twin.setRegister(register, registers[2 * register]!, registers[2 * register + 1]!);
    }
    twin.configure();
    if (reportsFetches) (exited ? twin.nptWalk : twin.cpuWalk).fetchInErrorCode = true;
    twin.eptWalk.logsDirtyOnly = logsDirtyOnly;
    twin.reportsFailedFetches = emulated;
    this.lawful.untrackedFlags = untrackedFlags;
    if (view.pdptesInRegisters) twin.cpuWalk.pdptesInMemory = false;
  }

  private under(view: GuestView, lo: number, hi: number, seen: GuestOutcome): GuestExplanation {
    const { twin, outcome } = this;
    const { op } = view;
    this.set(view);
    const leftOver = view.emulated && seen.kind === Obs.NPF && this.config.profile === '6.1';
    const asMet = leftOver && this.mayBeMet(op & ~ACCESS_SOFTWARE, seen);
    if (leftOver) this.set(view);
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
    if (isSeen() || (view.emulated && this.withMoreLogged(view, lo, hi, isSeen))) return { kind: 'fresh' };
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

function legalDifference(name: string): LegalDifference {
  const found = LEGAL_DIFFERENCES.find((each) => each.name === name);
  if (found === undefined) throw new Error(`no legal difference has the name ${name}`);
  return found;
}

/** Of the loading of PDPTEs. */
const DIFFERENCES_OF_LOADING = ['accessed-set-with-full-log', 'own-flags-untracked'].map(legalDifference);

/** The dirty bit of the format that a walk's row belongs to. */
function dirtyOf(row: number): number {
  return observationDim(row) === Dim.EPT ? EPT_D : X86_D;
}

/** Whether a second-stage walk is one for writing, as those of page tables are (APM vol. 2 15.25.5, SDM vol. 3C 29.3.5). */
function writesTo(row: number): boolean {
  const type = (row >>> OBS_NESTED_ACCESS_SHIFT) & OBS_NESTED_ACCESS_MASK;
  return (row & OF_TABLE) !== 0 || type === AccessType.WRITE || type === AccessType.RMW;
}

/** All choices of one or more, fewest first: the simplest explanation counts. */
function subsets<T>(all: readonly T[]): T[][] {
  const chosen: T[][] = [];
  for (let mask = 1; mask < 1 << all.length; mask++) chosen.push(all.filter((_, i) => ((mask >>> i) & 1) !== 0));
  return chosen.sort((a, b) => a.length - b.length);
}
