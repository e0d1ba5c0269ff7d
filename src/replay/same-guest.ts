/**
 * The strongest check (design §4): a guest recorded on a bare processor must see the same on a machine with an emulated
 * KVM below it. Both machines get the same steps. The bare one replays and is compared with the recording as ever, it
 * is the specification; what the guest on KVM sees of each access must be what was recorded, else what the bare machine
 * did, or be explained (`guest-explanation.ts`).
 *
 * To the replay engine the two are one machine, the bare one.
 */

import { Problem } from '../bits/problem.ts';
import { hexText } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { OBS_KIND_MASK, OBS_REGISTER_MASK, OBS_REGISTER_SHIFT, Obs } from '../formats/observation.ts';
import { REGISTER_NAMES, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { History } from '../machine/history.ts';
import type { Machine } from '../machine/machine.ts';
import { Memory } from '../machine/memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, type RowLog } from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { stepName } from './cause.ts';
import type { StepFilter } from './engine.ts';
import type { FlagBits } from './entry-flags.ts';
import { GuestDifferences } from './guest-differences.ts';
import { type ComparedEntry, GuestEntries } from './guest-entries.ts';
import { GuestExplanations } from './guest-explanation.ts';
import { GuestOutcome } from './guest-outcome.ts';
import { HiddenNesting } from './hidden-nesting.ts';
import type { LegalDifference } from './legal-differences.ts';
import { type GuestComparison, type GuestDifference, NESTED_TDP_WITHOUT_TDP } from './result.ts';
import { SharedHistory } from './shared-history.ts';
import { underKvm } from './under-kvm.ts';

/** In place of a step's word: a note, which does nothing. */
const NO_STEP = StepKind.RARE;
/** What a guest can read back of a register write, and KVM could get wrong. */
const GUESTS_REGISTERS = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER, Reg.PKRU, Reg.PKRS];
const PDPTES = [Reg.PDPTE0, Reg.PDPTE1, Reg.PDPTE2, Reg.PDPTE3];

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
  /** What the guest on KVM may still have cached. */
  private readonly history = new History();
  private readonly shared: SharedHistory;
  private readonly explanations: GuestExplanations;
  private readonly entries: GuestEntries;
  private readonly tracksHistory: boolean;
  private readonly seesLinear: boolean;
  private columns: StepColumns | null = null;
  private readonly recorded = new GuestOutcome();
  private readonly expected = new GuestOutcome();
  private readonly seen = new GuestOutcome();
  /** Why the guest on KVM cannot go on, once it cannot. */
  failure: string | undefined;
  private memoryCompared = false;
  /** PML_INDEX before the step. */
  private logIndex = 0;
  /** Ordinal of the last step. */
  private last = 0;

  private accesses = 0;
  private equal = 0;
  private asBare = 0;
  private stale = 0;
  private undetermined = 0;
  private questions = 0;
  private registersCompared = 0;
  readonly notModelled = new Map<string, number>();
  private readonly legal = new Map<LegalDifference, number>();
  private readonly unexplained: GuestDifferences;
  /** Under shadow paging: a KVM that offers no nested paging. */
  private readonly hidden: HiddenNesting | null;

  constructor(header: TraceHeader, guest: Machine, config: KvmConfig) {
    this.guest = guest;
    this.shared = new SharedHistory(this.history);
    this.bare = new BareMachine(header, new Memory(), this.shared);
    this.explanations = new GuestExplanations(header, config, this.bare, this.history, underKvm(guest));
    this.entries = new GuestEntries(this.bare, guest, this.history);
    this.tracksHistory = !header.independent;
    this.seesLinear = ((header.observable >>> Obs.EXIT_LINEAR) & 1) !== 0;
    this.bare.memory.watcher = this.tracksHistory ? this.shared : null;
    this.log = this.bare.log;
    this.registers = this.bare.registers;
    this.unexplained = new GuestDifferences(this.bare, guest, config);
    this.hidden = config.tdp ? null : new HiddenNesting(guest, this.bare.registers);
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

  /** The guest on KVM is not given the steps of the guest's guest that runs now. */
  get hides(): boolean {
    return this.hidden?.hides ?? false;
  }

  /** The guest on KVM was not given all steps: its log may be of an earlier one, and its registers, too. */
  get isBehind(): boolean {
    return this.hidden?.isBehind ?? false;
  }

  /** To be called before the first step. */
  restrict(options: SameGuestOptions): void {
    this.options = options;
    this.unexplained.maximum = options.maxDiffs;
  }

  /** Unexplained differences that are kept in full. */
  get differences(): GuestDifference[] {
    return this.unexplained.kept;
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
    if (this.hidden === null) this.guest.setRegister(register, lo, hi);
    else this.hidden.setRegister(this.last, register, lo, hi);
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
    try {
      if (this.failure === undefined) this.hidden?.before(op);
    } catch (error) {
      this.fails(error, ordinal, op, addressLo, addressHi);
    }
    this.explanations.begin();
    this.entries.begin();
    this.logIndex = this.registers[2 * Reg.PML_INDEX]!;
    this.bare.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
    if (this.failure !== undefined) return;
    let given = true;
    try {
      if (this.hidden === null) this.guest.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
      else given = this.hidden.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
    } catch (error) {
      this.fails(error, ordinal, op, addressLo, addressHi);
      return;
    }
    this.seen.clear();
    if (!given) this.skipHidden(ordinal);
    else if (kind === StepKind.ACCESS) this.compareAccess(ordinal, op, addressLo, addressHi);
    else if (kind === StepKind.REGISTER_WRITE) this.compareWrite(ordinal, op, addressLo, addressHi, operandLo);
    else this.compareOther(ordinal, op, addressLo, addressHi);
  }

  /** The machine has thrown: nothing is compared from here on. */
  private fails(error: unknown, ordinal: number, op: number, lo: number, hi: number): void {
    if (error instanceof Problem || this.failure !== undefined) throw error;
    this.failure = (error as Error).message;
    this.differs(ordinal, op, lo, hi, `the emulated KVM cannot go on: ${this.failure}`, 'KVM fails');
  }

  /** A step that the machine could not be given: what it did to memory happened all the same. */
  private skipHidden(ordinal: number): void {
    if (this.log.count > 0 && this.isCompared(ordinal)) this.countNotModelled(NESTED_TDP_WITHOUT_TDP);
    this.takeWrites();
  }

  private isCompared(ordinal: number): boolean {
    const { from, to, filter, bail } = this.options;
    if (ordinal < from || ordinal >= to || (bail && this.unexplained.count > 0)) return false;
    const { columns } = this;
    return filter === null || columns === null || filter(columns, ordinal - columns.firstOrdinal);
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
      if (compared) this.countNotModelled(seen.notModelled);
      this.takeWrites();
      return;
    }
    if (compared) {
      this.accesses++;
      if (columns === null) recorded.clear();
      else recorded.ofColumns(columns, ordinal - columns.firstOrdinal, this.seesLinear);
      if (this.isAsRecorded()) this.equal++;
      else if (seen.equals(expected)) this.asBare++;
      else this.explain(ordinal, op, lo, hi);
      if (this.bare.servedByTlb && !this.guest.servedByTlb) this.walkedOnKvmOnly(op, lo, hi);
      const { flags } = this.explanations;
      const access = { op, lo, hi, seen };
      const avoids = (entry: FlagBits): boolean => flags.avoids(access, entry);
      this.entries.compareWrites(lo, hi, avoids, ({ cause, group }) => {
        this.differs(ordinal, op, lo, hi, cause, `${stepName(op)}: ${group}`);
      });
      this.entries.noteKvmWrites(access, flags);
      this.compareLog(ordinal, op, lo, hi);
      this.answerQuestions(ordinal, op, lo, hi);
    }
    if (this.explanations.dropsTranslations(op, seen)) this.forgetFaulting(lo, hi);
  }

  private compareLog(ordinal: number, op: number, lo: number, hi: number): void {
    const cause = this.entries.followLog(this.logIndex);
    if (cause !== undefined) this.differs(ordinal, op, lo, hi, cause, `${stepName(op)}: page-modification log differs`);
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
    const explanation = this.explanations.explain({ op, lo, hi, seen }, expected);
    switch (explanation.kind) {
      case 'fresh':
      case 'stale':
        this.stale++;
        this.leaveApart();
        this.entries.leaveBareWrites();
        return;
      case 'undetermined':
        this.undetermined++;
        return;
      case 'legal':
        for (const entry of explanation.by) this.count(entry);
        this.leaveApart();
        this.entries.leaveBareWrites();
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
    this.explanations.forEachRead((row, lo, hi) => this.entries.leaveApart(row, lo, hi));
  }

  /** The bare machine's TLB served the access, KVM walked for it: A and D of what is read now may be set there alone. */
  private walkedOnKvmOnly(op: number, lo: number, hi: number): void {
    this.explanations.walk({ op, lo, hi, seen: this.seen });
    this.leaveApart();
  }

  private count(entry: LegalDifference): void {
    this.legal.set(entry, (this.legal.get(entry) ?? 0) + 1);
  }

  /** A page fault drops what could translate its address (SDM vol. 3A 4.10.4.1). */
  private forgetFaulting(lo: number, hi: number): void {
    if (!this.tracksHistory) return;
    const { asid, pcid } = this.bare.contexts;
    this.history.invalidate({ what: 'address', asid, pcid, lo, hi });
  }

  private compareEntry(ordinal: number, op: number, lo: number, hi: number, entry: ComparedEntry): void {
    const difference = this.entries.compare(entry, lo, hi);
    if (difference === undefined) return;
    this.differs(ordinal, op, lo, hi, difference.cause, `${stepName(op)}: ${difference.group}`);
  }

  // ------------------------------------------------------------------------------------------------------- other steps

  private compareOther(ordinal: number, op: number, lo: number, hi: number): void {
    this.seen.ofLog(this.guest.log);
    if (this.seen.kind !== Obs.NOT_MODELLED) {
      if ((op & STEP_KIND_MASK) === StepKind.PDPTE_LOAD && this.isCompared(ordinal)) {
        this.compareRegisters(ordinal, op, lo, hi, PDPTES);
      }
      this.answerQuestions(ordinal, op, lo, hi);
    } else if (this.log.count > 0 && this.isCompared(ordinal)) this.countNotModelled(this.seen.notModelled);
  }

  private countNotModelled(name: string): void {
    this.notModelled.set(name, (this.notModelled.get(name) ?? 0) + 1);
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
    // Of what was written into a page-modification log no row tells.
    this.entries.takeLogged(this.logIndex, this.registers[2 * Reg.PML_INDEX]!);
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

  private compareWrite(ordinal: number, op: number, lo: number, hi: number, value: number): void {
    if (!this.isCompared(ordinal)) return;
    const { seen, expected } = this;
    seen.ofLog(this.guest.log);
    expected.ofLog(this.log);
    if (seen.kind === Obs.NOT_MODELLED || expected.kind === Obs.NOT_MODELLED) {
      if (expected.kind !== Obs.NOT_MODELLED) this.countNotModelled(seen.notModelled);
      return;
    }
    this.registersCompared++;
    if (!seen.equals(expected)) {
      if (this.isExplainedWrite(op, value)) return;
      const cause = `the guest on KVM: ${seen.text}; the bare machine: ${expected.text}`;
      this.differs(ordinal, op, lo, hi, cause, `register write: expected ${expected.shape}, on KVM ${seen.shape}`);
      return;
    }
    this.compareRegisters(ordinal, op, lo, hi, GUESTS_REGISTERS);
    this.answerQuestions(ordinal, op, lo, hi);
  }

  /** Refused on one of the machines only, lawfully: from here on the guest on KVM has the registers of the other. */
  private isExplainedWrite(op: number, value: number): boolean {
    const { guest, bare } = this;
    const explanation = this.explanations.explainWrite(op, value, this.seen, this.expected);
    switch (explanation.kind) {
      case 'none':
        return false;
      case 'undetermined':
        this.undetermined++;
        break;
      case 'legal':
        for (const entry of explanation.by) this.count(entry);
        break;
      default:
        this.stale++;
    }
    for (const register of [...GUESTS_REGISTERS, ...PDPTES]) {
      const [lo, hi] = [bare.registers[2 * register]!, bare.registers[2 * register + 1]!];
      const differs = guest.registers[2 * register] !== lo || guest.registers[2 * register + 1] !== hi;
      if (differs) guest.setRegister(register, lo, hi);
    }
    return true;
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
    this.unexplained.add({ ordinal, op, lo, hi, columns: this.columns }, cause, group);
  }

  /** Whether something differs that nothing explains. */
  get hasDiffered(): boolean {
    return this.unexplained.count > 0;
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
      entries: this.entries.compared,
      staleEntries: this.entries.stale,
      questions: this.questions,
      registerWrites: this.registersCompared,
      words: this.entries.words,
      wordsInAd: this.entries.wordsInAd,
      unexplained: this.unexplained.count,
      groups: this.unexplained.groups(),
    };
  }

  /** All that anybody ever wrote to the guest's memory, at the end. */
  private compareMemory(): void {
    const { from, to, filter, bail } = this.options;
    const everything = from === 0 && to === Number.POSITIVE_INFINITY && filter === null;
    if (!everything || this.failure !== undefined || (bail && this.unexplained.count > 0)) return;
    this.entries.compareMemory((lo, hi, cause) => {
      this.differs(this.last, NO_STEP, lo, hi, cause, 'guest memory differs at the end');
    });
  }
}
