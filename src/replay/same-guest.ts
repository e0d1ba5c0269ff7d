/**
 * The strongest check (design §4): a guest recorded on a bare processor must see the same on a machine with an emulated
 * KVM below it. Both machines get the same steps. The bare one replays and is compared with the recording as ever, it
 * is the specification; what the guest on KVM sees of each access must be what was recorded, else what the bare machine
 * did, or be explained (`guest-explanation.ts`).
 *
 * To the replay engine the two are one machine, the bare one.
 */

import { Problem } from '../bits/problem.ts';
import { hex64 } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { CR4_PGE, GuestMode, REGISTER_NAMES, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { History, type InvalidationScope } from '../machine/history.ts';
import type { Machine } from '../machine/machine.ts';
import { Memory } from '../machine/memory.ts';
import { PFEC_P, PFEC_RSVD } from '../paging/access.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_LO, type RowLog } from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { logRows } from './align.ts';
import { stepName } from './cause.ts';
import type { StepFilter } from './engine.ts';
import { GuestExplanations } from './guest-explanation.ts';
import { GuestOutcome } from './guest-outcome.ts';
import type { LegalDifference } from './legal-differences.ts';
import type { GuestComparison, GuestDifference } from './result.ts';

const PAGE_FAULT = 14;
/** Accessed and dirty, the same in guest entries of every format. */
const AD_BITS = (1 << 5) | (1 << 6);
const ENTRY_PS = 1 << 7;
const ENTRY_GLOBAL = 1 << 8;
/** In place of a step's word: a note, which does nothing. */
const NO_STEP = StepKind.RARE;
/** What a guest can read back of a register write, and KVM could get wrong. */
const GUESTS_REGISTERS = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER, Reg.PKRU, Reg.PKRS];
const PDPTES = [Reg.PDPTE0, Reg.PDPTE1, Reg.PDPTE2, Reg.PDPTE3];
/** Groups kept; further shapes are counted together. */
const MAXIMUM_GROUPS = 1000;

/** The bare machine's history; what does not come from an access is handed on. */
class SharedHistory extends History {
  /** An access is being made: what it drops, it drops in this machine only. */
  ofAccess = false;
  private readonly other: History;

  constructor(other: History) {
    super();
    this.other = other;
  }

  override wordChanges(addressLo: number, addressHi: number, oldLo: number, oldHi: number): void {
    super.wordChanges(addressLo, addressHi, oldLo, oldHi);
    this.other.wordChanges(addressLo, addressHi, oldLo, oldHi);
  }

  override rootChanges(lo: number, hi: number, pdptes: Uint32Array): void {
    super.rootChanges(lo, hi, pdptes);
    this.other.rootChanges(lo, hi, pdptes);
  }

  override invalidate(scope: InvalidationScope): void {
    super.invalidate(scope);
    if (!this.ofAccess) this.other.invalidate(scope);
  }
}

export interface SameGuestOptions {
  /** Differences kept in full. */
  readonly maxDiffs: number;
  /** Compare steps from this ordinal on, and before that one, for which the filter holds. All are applied. */
  readonly from: number;
  readonly to: number;
  readonly filter: StepFilter | null;
  /** Compare no more after the first unexplained difference. */
  readonly bail: boolean;
}

/** A row of that kind about the guest's own tables. */
function isGuestRow(op: number, kind: number): boolean {
  return (op & OBS_KIND_MASK) === kind && ((op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST;
}

export class SameGuest implements Machine {
  readonly kvm = null;
  readonly bare: BareMachine;
  /** The machine with the emulated KVM. */
  readonly guest: Machine;
  readonly log: RowLog;
  readonly registers: Uint32Array;
  readonly tlb: { readonly lo: number; readonly hi: number };
  private options: SameGuestOptions = {
    maxDiffs: 10,
    from: 0,
    to: Number.POSITIVE_INFINITY,
    filter: null,
    bail: false,
  };
  private readonly config: KvmConfig;
  /** What the guest on KVM may still have cached. */
  private readonly history = new History();
  private readonly shared: SharedHistory;
  private readonly explanations: GuestExplanations;
  private readonly tracksHistory: boolean;
  private columns: StepColumns | null = null;
  private readonly recorded = new GuestOutcome();
  private readonly expected = new GuestOutcome();
  private readonly seen = new GuestOutcome();
  /** Why the guest on KVM cannot go on, once it cannot. */
  private failure: string | undefined;
  private memoryCompared = false;
  /** Ordinal of the last step. */
  private last = 0;

  private accesses = 0;
  private equal = 0;
  private asBare = 0;
  private stale = 0;
  private undetermined = 0;
  private entries = 0;
  private staleEntries = 0;
  private questions = 0;
  private registersCompared = 0;
  private words = 0;
  private wordsInAd = 0;
  private unexplained = 0;
  readonly notModelled = new Map<string, number>();
  private readonly legal = new Map<LegalDifference, number>();
  private readonly groups = new Map<string, { count: number; first: number }>();
  readonly differences: GuestDifference[] = [];
  /** Entries, by number of their word, whose accessed and dirty bits a legal difference has left apart. */
  private readonly apart = new Set<number>();

  constructor(header: TraceHeader, guest: Machine, config: KvmConfig) {
    this.config = config;
    this.guest = guest;
    this.shared = new SharedHistory(this.history);
    this.bare = new BareMachine(header, new Memory(), this.shared);
    this.explanations = new GuestExplanations(header, config, this.bare, this.history);
    this.tracksHistory = !header.independent;
    this.bare.memory.watcher = this.tracksHistory ? this.shared : null;
    this.log = this.bare.log;
    this.registers = this.bare.registers;
    this.tlb = this.bare.tlb;
  }

  get staleHit(): boolean {
    return this.bare.staleHit;
  }

  get servedByTlb(): boolean {
    return this.bare.servedByTlb;
  }

  probe(op: number, addressLo: number, addressHi: number): void {
    this.bare.probe(op, addressLo, addressHi);
  }

  rewalk(op: number, addressLo: number, addressHi: number): void {
    this.bare.rewalk(op, addressLo, addressHi);
  }

  /** To be called before the first step. */
  restrict(options: SameGuestOptions): void {
    this.options = options;
  }

  /** Steps to come are these. */
  begin(columns: StepColumns): void {
    this.columns = columns;
  }

  /** Both have to be asked: never. */
  serves(): boolean {
    return false;
  }

  setRegister(register: number, lo: number, hi: number): void {
    this.bare.setRegister(register, lo, hi);
    this.guest.setRegister(register, lo, hi);
  }

  readEntry(row: number, addressLo: number, addressHi: number): readonly [lo: number, hi: number] {
    return this.bare.readEntry(row, addressLo, addressHi);
  }

  adoptEntry(row: number, addressLo: number, addressHi: number, lo: number, hi: number): void {
    this.bare.adoptEntry(row, addressLo, addressHi, lo, hi);
    this.guest.adoptEntry(row, addressLo, addressHi, lo, hi);
  }

  apply(
    ordinal: number,
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
    stimuli: readonly Stimulus[],
  ): void {
    const kind = op & STEP_KIND_MASK;
    this.last = ordinal;
    this.history.now = ordinal;
    this.shared.ofAccess = kind === StepKind.ACCESS;
    this.bare.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
    if (this.failure !== undefined) return;
    try {
      this.guest.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
    } catch (error) {
      if (error instanceof Problem) throw error;
      this.failure = (error as Error).message;
      this.differs(ordinal, op, addressLo, addressHi, `the emulated KVM cannot go on: ${this.failure}`, 'KVM fails');
      return;
    }
    this.seen.clear();
    if (kind === StepKind.ACCESS) this.compareAccess(ordinal, op, addressLo, addressHi);
    else if (kind === StepKind.REGISTER_WRITE) this.compareWrite(ordinal, op, addressLo, addressHi);
    else if (!this.isNested) this.compareOther(ordinal, op, addressLo, addressHi);
  }

  private isCompared(ordinal: number): boolean {
    const { from, to, filter, bail } = this.options;
    if (ordinal < from || ordinal >= to || (bail && this.unexplained > 0)) return false;
    const { columns } = this;
    return filter === null || columns === null || filter(columns, ordinal - columns.firstOrdinal);
  }

  private get isNested(): boolean {
    return this.registers[2 * Reg.GUEST_MODE] !== GuestMode.NONE;
  }

  // ---------------------------------------------------------------------------------------------------------- accesses

  private compareAccess(ordinal: number, op: number, lo: number, hi: number): void {
    const { seen, expected, recorded, columns } = this;
    seen.ofLog(this.guest.log);
    expected.ofLog(this.log);
    // What the machine that specifies does not model says nothing; the engine counts it.
    if (expected.kind === Obs.NOT_MODELLED) return;
    const compared = this.isCompared(ordinal);
    if (seen.kind === Obs.NOT_MODELLED) {
      if (compared) this.countNotModelled();
      this.takeWrites();
      return;
    }
    if (compared) {
      this.accesses++;
      if (columns === null) recorded.clear();
      else recorded.ofColumns(columns, ordinal - columns.firstOrdinal);
      if (this.isAsRecorded()) this.equal++;
      else if (seen.equals(expected)) this.asBare++;
      else this.explain(ordinal, op, lo, hi);
      if (this.bare.servedByTlb && !this.guest.servedByTlb) this.walkedOnKvmOnly(op, lo, hi);
      this.compareWrites(ordinal, op, lo, hi);
      this.answerQuestions(ordinal, op, lo, hi);
    }
    if (seen.kind === Obs.EXCEPTION && seen.number === PAGE_FAULT && this.dropsTranslations())
      this.forgetFaulting(lo, hi);
  }

  /** Whether the guest on KVM saw what was recorded; where that is open, what the bare machine did decides. */
  private isAsRecorded(): boolean {
    const { recorded, seen, expected } = this;
    switch (recorded.kind) {
      case Obs.NONE:
        return seen.equals(expected);
      case Obs.COMPLETED:
        return seen.kind === Obs.TRANSLATED && (expected.kind !== Obs.TRANSLATED || seen.equals(expected));
      case Obs.FAULTED:
        return seen.isFault && (!expected.isFault || seen.equals(expected));
      default:
        return seen.equals(recorded);
    }
  }

  private explain(ordinal: number, op: number, lo: number, hi: number): void {
    const { seen, expected, recorded } = this;
    const explanation = this.explanations.explain(op, lo, hi, seen);
    switch (explanation.kind) {
      case 'fresh':
      case 'stale':
        this.stale++;
        this.leaveApart();
        this.leaveBareWrites();
        return;
      case 'undetermined':
        this.undetermined++;
        return;
      case 'legal':
        for (const entry of explanation.by) this.count(entry);
        this.leaveApart();
        this.leaveBareWrites();
        return;
    }
    const outcome = recorded.kind === Obs.NONE ? expected : recorded;
    const gone =
      explanation.invalidatedAt === undefined
        ? ''
        : `; an earlier value of an entry would explain that, but it was invalidated at step ${explanation.invalidatedAt}`;
    const whose = recorded.kind === Obs.NONE ? 'the bare machine' : 'the recording';
    const cause = `the guest on KVM: ${seen.text}; ${whose}: ${outcome.text}${gone}`;
    this.differs(ordinal, op, lo, hi, cause, `${stepName(op)}: expected ${outcome.shape}, on KVM ${seen.shape}`);
  }

  /** The access ended otherwise than on the bare machine: of what was read for it A and D may be set otherwise, too. */
  private leaveApart(): void {
    this.explanations.forEachRead((lo, hi) => this.apart.add(wordNumber(lo, hi)));
  }

  /** What the bare machine wrote on its own way is none of the way that the access took on KVM. */
  private leaveBareWrites(): void {
    const { log } = this;
    for (let i = 0; i < log.count; i++) {
      if (!isGuestRow(log.op(i), Obs.ENTRY_WRITE)) continue;
      this.apart.add(wordNumber(log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!));
    }
  }

  /** The bare machine's TLB served the access, KVM walked for it: A and D of what is read now may be set there alone. */
  private walkedOnKvmOnly(op: number, lo: number, hi: number): void {
    this.explanations.walk(op, lo, hi, this.seen);
    this.leaveApart();
  }

  private count(entry: LegalDifference): void {
    this.legal.set(entry, (this.legal.get(entry) ?? 0) + 1);
  }

  /**
   * Under shadow paging KVM takes the address out of its tables only if the fault that it injects says "present" and not
   * "reserved bit" (facts/kvm-mmu.md §8.4): after another one an unsync SPTE goes on translating.
   */
  private dropsTranslations(): boolean {
    return this.config.tdp || (this.seen.valueLo & (PFEC_P | PFEC_RSVD)) === PFEC_P;
  }

  /** A page fault drops what could translate its address (SDM vol. 3A 4.10.4.1). */
  private forgetFaulting(lo: number, hi: number): void {
    if (!this.tracksHistory) return;
    const { asid, pcid } = this.bare.contexts;
    this.history.invalidate({ what: 'address', asid, pcid, lo, hi });
  }

  // ---------------------------------------------------------------------------------------------------- guest entries

  /** Where the bare machine has set accessed and dirty bits the guest on KVM must have them, too. */
  private compareWrites(ordinal: number, op: number, lo: number, hi: number): void {
    const { log } = this;
    for (let i = 0; i < log.count; i++) {
      const row = log.op(i);
      if (!isGuestRow(row, Obs.ENTRY_WRITE)) continue;
      const addressLo = log.rows[i * ROW + ROW_ADDRESS_LO]!;
      const addressHi = log.rows[i * ROW + ROW_ADDRESS_HI]!;
      const want = this.bare.readEntry(row, addressLo, addressHi);
      this.entries++;
      this.compareEntry(ordinal, op, lo, hi, { row, addressLo, addressHi, want, whose: 'on the bare machine' });
    }
  }

  private compareEntry(ordinal: number, op: number, lo: number, hi: number, entry: ComparedEntry): void {
    const { row, addressLo, addressHi, want, whose } = entry;
    const have = this.guest.readEntry(row, addressLo, addressHi);
    const word = wordNumber(addressLo, addressHi);
    const differing = (have[0] ^ want[0]) >>> 0;
    if (differing === 0 && have[1] === want[1]) {
      this.apart.delete(word);
      return;
    }
    if ((differing & ~AD_BITS) === 0 && have[1] === want[1]) {
      if (this.apart.has(word)) return;
      const lacks = (differing & have[0]) === 0;
      if (lacks && (this.mayBeCached(entry, differing, lo, hi) || this.isAboveGlobal(row))) {
        this.staleEntries++;
        this.apart.add(word);
        return;
      }
    }
    const [at, value, other] = [hexText(addressLo, addressHi), hexText(...have), hexText(...want)];
    const cause = `the guest's entry at ${at} is ${value} on KVM, ${other} ${whose}`;
    this.differs(ordinal, op, lo, hi, cause, `${stepName(op)}: guest entry differs`);
    this.apart.add(word);
  }

  /**
   * Whether the entry had these bits when a translation through it could be cached that nothing has invalidated: then
   * nobody walked, and nobody set them again (SDM vol. 3A 4.10.2.3, 4.10.4.3).
   */
  private mayBeCached({ row, addressLo, addressHi }: ComparedEntry, bits: number, lo: number, hi: number): boolean {
    const { history } = this;
    const { asid, pcid, ep4ta } = this.bare.contexts;
    const level = (row >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
    const fourBytes = (row & OBS_FOUR_BYTES) !== 0;
    const upper = fourBytes && (addressLo & 4) !== 0;
    const pge = (this.registers[2 * Reg.CR4]! & CR4_PGE) !== 0;
    return history.earlier(addressLo, addressHi).some((version) => {
      const value = upper ? version.hi : version.lo;
      if ((value & bits) !== bits) return false;
      const leaf = level === 1 || (value & ENTRY_PS) !== 0;
      const global = leaf && pge && (value & ENTRY_GLOBAL) !== 0;
      const pageShift = fourBytes && level === 2 ? 22 : 3 + 9 * level;
      const cached = { secondStage: false, leaf, global, asid, pcid, ep4ta, lo, hi, pageShift };
      return history.firstRemoval(version.replacedAt, cached) === undefined;
    });
  }

  /**
   * KVM's TLB served the access by a global translation: it may have been cached under another root, and no entry above
   * the leaf was read for it (SDM vol. 3A 4.10.2.4).
   */
  private isAboveGlobal(row: number): boolean {
    if (!this.guest.servedByTlb || (this.registers[2 * Reg.CR4]! & CR4_PGE) === 0) return false;
    const { log } = this;
    for (let i = log.count - 1; i >= 0; i--) {
      const op = log.op(i);
      if (!isGuestRow(op, Obs.ELEMENT)) continue;
      const leafLevel = (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
      const level = (row >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
      return level > leafLevel && (log.rows[i * ROW + ROW_VALUE_LO]! & ENTRY_GLOBAL) !== 0;
    }
    return false;
  }

  private compareOther(ordinal: number, op: number, lo: number, hi: number): void {
    this.seen.ofLog(this.guest.log);
    if (this.seen.kind !== Obs.NOT_MODELLED) {
      if ((op & STEP_KIND_MASK) === StepKind.PDPTE_LOAD && this.isCompared(ordinal)) {
        this.compareRegisters(ordinal, op, lo, hi, PDPTES);
      }
      this.answerQuestions(ordinal, op, lo, hi);
    } else if (this.log.count > 0 && this.isCompared(ordinal)) this.countNotModelled();
  }

  private countNotModelled(): void {
    const { notModelled } = this.seen;
    this.notModelled.set(notModelled, (this.notModelled.get(notModelled) ?? 0) + 1);
  }

  /** What is not modelled of an access has still happened to the guest's memory. */
  private takeWrites(): void {
    const { log } = this;
    for (let i = 0; i < log.count; i++) {
      const row = log.op(i);
      if ((row & OBS_KIND_MASK) !== Obs.ENTRY_WRITE) continue;
      const addressLo = log.rows[i * ROW + ROW_ADDRESS_LO]!;
      const addressHi = log.rows[i * ROW + ROW_ADDRESS_HI]!;
      const [lo, hi] = this.bare.readEntry(row, addressLo, addressHi);
      this.guest.adoptEntry(row, addressLo, addressHi, lo, hi);
    }
  }

  /** What the recording asks about the state after the step. */
  private answerQuestions(ordinal: number, op: number, lo: number, hi: number): void {
    const { columns } = this;
    if (columns === null) return;
    const index = ordinal - columns.firstOrdinal;
    const begin = index === 0 ? 0 : columns.observationEnd[index - 1]!;
    const end = columns.observationEnd[index]!;
    if (begin === end || !this.isCompared(ordinal)) return;
    for (let row = begin; row < end; row++) {
      const asked = columns.observationOp[row]!;
      const kind = asked & OBS_KIND_MASK;
      if (kind !== Obs.ENTRY_AFTER && kind !== Obs.REGISTER) continue;
      this.questions++;
      const want: readonly [number, number] = [
        columns.observationValue[2 * row]!,
        columns.observationValue[2 * row + 1]!,
      ];
      if (kind === Obs.REGISTER) {
        const register = (asked >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK;
        this.compareRegister(ordinal, op, lo, hi, register, want);
        continue;
      }
      const addressLo = columns.observationAddress[2 * row]!;
      const addressHi = columns.observationAddress[2 * row + 1]!;
      const bare = this.bare.readEntry(asked, addressLo, addressHi);
      const [kvmLo, kvmHi] = this.guest.readEntry(asked, addressLo, addressHi);
      if (bare[0] === kvmLo && bare[1] === kvmHi) continue;
      this.compareEntry(ordinal, op, lo, hi, { row: asked, addressLo, addressHi, want, whose: 'in the recording' });
    }
  }

  private compareRegister(
    ordinal: number,
    op: number,
    lo: number,
    hi: number,
    register: number,
    want: readonly [lo: number, hi: number],
  ): void {
    const held = (words: Uint32Array): [number, number] => [words[2 * register]!, words[2 * register + 1]!];
    const kvm = held(this.guest.registers);
    const isKvms = ([low, high]: readonly [number, number]): boolean => low === kvm[0] && high === kvm[1];
    if (isKvms(want) || isKvms(held(this.registers))) return;
    const name = REGISTER_NAMES[register] ?? '?';
    const cause = `after the step ${name} holds ${hexText(...kvm)} on KVM, expected ${hexText(...want)}`;
    this.differs(ordinal, op, lo, hi, cause, `${stepName(op)}: ${name} differs`);
  }

  // ------------------------------------------------------------------------------------------------- register writes

  private compareWrite(ordinal: number, op: number, lo: number, hi: number): void {
    if (this.isNested || !this.isCompared(ordinal)) return;
    const { seen, expected } = this;
    seen.ofLog(this.guest.log);
    expected.ofLog(this.log);
    this.registersCompared++;
    if (!seen.equals(expected)) {
      const cause = `the guest on KVM: ${seen.text}; the bare machine: ${expected.text}`;
      this.differs(ordinal, op, lo, hi, cause, `register write: expected ${expected.shape}, on KVM ${seen.shape}`);
      return;
    }
    this.compareRegisters(ordinal, op, lo, hi, GUESTS_REGISTERS);
    this.answerQuestions(ordinal, op, lo, hi);
  }

  private compareRegisters(ordinal: number, op: number, lo: number, hi: number, which: readonly number[]): void {
    const { registers } = this;
    for (const register of which) {
      const want = [registers[2 * register]!, registers[2 * register + 1]!] as const;
      this.compareRegister(ordinal, op, lo, hi, register, want);
    }
  }

  // ------------------------------------------------------------------------------------------------------------ result

  private differs(ordinal: number, op: number, lo: number, hi: number, cause: string, group: string): void {
    this.unexplained++;
    const key = this.groups.has(group) || this.groups.size < MAXIMUM_GROUPS ? group : 'others';
    const found = this.groups.get(key);
    if (found === undefined) this.groups.set(key, { count: 1, first: ordinal });
    else found.count++;
    if (this.differences.length >= this.options.maxDiffs) return;
    const index = ordinal - (this.columns?.firstOrdinal ?? 0);
    this.differences.push({
      step: ordinal,
      line: this.columns?.lineOf(index),
      op,
      addressLo: lo >>> 0,
      addressHi: hi >>> 0,
      operandLo: this.columns?.operand[2 * index] ?? 0,
      operandHi: this.columns?.operand[2 * index + 1] ?? 0,
      bare: logRows(this.log),
      kvm: logRows(this.guest.log),
      config: this.config,
      cause,
      group,
      registers: this.registers.slice(),
    });
  }

  /** Whether something differs that nothing explains. */
  get hasDiffered(): boolean {
    return this.unexplained > 0;
  }

  /** All counts. The first call compares what the two machines have in memory. */
  result(): GuestComparison {
    if (!this.memoryCompared) {
      this.memoryCompared = true;
      this.compareMemory();
    }
    return {
      accesses: this.accesses,
      equal: this.equal,
      asBare: this.asBare,
      legal: [...this.legal]
        .map(([{ number, name, citation, sentence }, count]) => ({ number, name, citation, sentence, count }))
        .sort((a, b) => a.number - b.number),
      stale: this.stale,
      undetermined: this.undetermined,
      entries: this.entries,
      staleEntries: this.staleEntries,
      questions: this.questions,
      registerWrites: this.registersCompared,
      words: this.words,
      wordsInAd: this.wordsInAd,
      unexplained: this.unexplained,
      groups: [...this.groups].map(([group, counts]) => ({ group, ...counts })).sort((a, b) => b.count - a.count),
    };
  }

  /** All that anybody ever wrote to the guest's memory, at the end. */
  private compareMemory(): void {
    const { from, to, filter, bail } = this.options;
    const everything = from === 0 && to === Number.POSITIVE_INFINITY && filter === null;
    if (!everything || this.failure !== undefined || (bail && this.unexplained > 0)) return;
    for (const frame of this.bare.memory.frames()) {
      const hi = Math.floor(frame / 0x10_0000);
      const base = (frame % 0x10_0000) << 12;
      for (let at = 0; at < 0x1000; at += 8) this.compareWord(base | at, hi);
    }
  }

  private compareWord(addressLo: number, addressHi: number): void {
    const [lo, hi] = this.bare.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
    const [kvmLo, kvmHi] = this.guest.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
    this.words++;
    if (lo === kvmLo && hi === kvmHi) return;
    const inAd = (((lo ^ kvmLo) | (hi ^ kvmHi)) & ~AD_BITS) === 0;
    if (inAd && this.apart.has(wordNumber(addressLo, addressHi))) {
      this.wordsInAd++;
      return;
    }
    const at = hexText(addressLo, addressHi);
    const cause = `at the end guest memory at ${at} is ${hexText(kvmLo, kvmHi)} on KVM, ${hexText(lo, hi)} on the bare machine`;
    this.differs(this.last, NO_STEP, addressLo, addressHi, cause, 'guest memory differs at the end');
  }
}

/** An entry that the guest on KVM should have as it is elsewhere. */
interface ComparedEntry {
  /** An observation word that gives the entry's size and level. */
  readonly row: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly want: readonly [lo: number, hi: number];
  /** `on the bare machine`. */
  readonly whose: string;
}

function hexText(lo: number, hi: number): string {
  return `0x${hex64(lo, hi)}`;
}

/** An 8-byte word's number, exact as a double. */
function wordNumber(lo: number, hi: number): number {
  return (hi >>> 0) * 0x2000_0000 + (lo >>> 3);
}
