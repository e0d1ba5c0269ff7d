/**
 * The machine with an emulated KVM below the guest (design §4): the processor runs on the tables that KVM's MMU builds,
 * and what it cannot do there comes to KVM.
 *
 * It replays two kinds of trace. A recording of a KVM says at each step what came to KVM (`FAULT_EXIT`, `VM_ENTRY`, …),
 * and KVM's tracepoints are the observations. A recording of a bare processor has the guest's own steps only: here the
 * machine goes through exit and entry itself until the access is through, and what the guest sees is compared.
 */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import { KvmEvent } from '../../formats/kvm-event.ts';
import {
  NotModelled,
  OBS_FOUR_BYTES,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../formats/observation.ts';
import { CR0_WP, CR4_PAE, GuestMode, Reg } from '../../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_SOFTWARE,
  ACCESS_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  FAULT_AC,
  FAULT_CPL3,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  HOST_LEVEL_MASK,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_MASK,
  HOST_PAGE_SHIFT,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  REGISTER_WRITE_TASK_SWITCH,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  SOFTWARE_RMW,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_EMULATED,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import { emulatedWrite } from '../../mmu/emulated-write.ts';
import { PFERR_F, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W, RetPf } from '../../mmu/fault.ts';
import { FaultHandler } from '../../mmu/fault-handler.ts';
import { InvariantChecker } from '../../mmu/invariants.ts';
import { Mutants } from '../../mmu/mutants.ts';
import { ShadowPages, type TableUse } from '../../mmu/pages.ts';
import type { Root } from '../../mmu/root.ts';
import { frameHi, frameLo, frameOf, SpteFormat } from '../../mmu/spte.ts';
import { TdpMmu } from '../../mmu/tdp-mmu.ts';
import { MmuTrace } from '../../mmu/trace.ts';
import { Request, Vcpu } from '../../mmu/vcpu.ts';
import { VmMmu } from '../../mmu/vm.ts';
import { FETCH, USER, WRITE } from '../../paging/access.ts';
import { IMPLICIT_ACCESS } from '../../paging/kvm-page-walk.ts';
import { RowLog } from '../../paging/row-log.ts';
import type { TraceHeader } from '../../trace/header.ts';
import type { Memslot, Notifier, Stimulus } from '../../trace/stimulus.ts';
import { pagingFeatures } from '../features.ts';
import type { KvmView, Machine } from '../machine.ts';
import { Emulator } from './emulator.ts';
import { HostMemory } from './host-memory.ts';
import { Outcome, Processor, type RootState } from './processor.ts';
import { RareStores } from './rare-stores.ts';

/** Registers that decide about roles and roots. */
const MMU_REGISTERS = new Set<number>([Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER, Reg.SMM, Reg.GUEST_MODE]);
/** Exits that one access may cause; a guest that needs more makes no progress. */
const MAXIMUM_EXITS = 64;
const PF_VECTOR = 14;
/** Bits 5:3 of an EPT qualification: rights that the entries give. */
const EPT_RIGHTS = 7 << 3;
const UD_VECTOR = 6;
const SS_VECTOR = 12;
const GP_VECTOR = 13;
/** Findings that are kept; what goes wrong once tends to go on. */
const MAXIMUM_FINDINGS = 1000;

export interface KvmMachineOptions {
  readonly mutants?: Iterable<number>;
  /** After every step the invariants of the built tables are checked (`mmu/invariants.ts`): slow, for debugging. */
  readonly checkInvariants?: boolean;
}

/** An invariant that did not hold after a step. */
export interface InvariantFinding {
  /** Ordinal of the first step after which it did not. */
  readonly step: number;
  readonly sentence: string;
}

export class KvmMachine implements Machine, KvmView {
  readonly log = new RowLog();
  readonly config: KvmConfig;
  readonly host: HostMemory;
  readonly processor: Processor;
  readonly pages: ShadowPages;
  readonly tdpMmu: TdpMmu | null;
  readonly vcpu: Vcpu;
  readonly handler: FaultHandler;
  readonly vm: VmMmu;
  private readonly emulator: Emulator;
  private readonly rare: RareStores;
  readonly registers: Uint32Array;
  /** The trace says what comes to KVM; otherwise the machine finds out. */
  private readonly recorded: boolean;
  private readonly independent: boolean;
  /** Registers that are set were concluded from what was seen, not given by somebody. */
  private readonly partial: boolean;
  readonly predictsFaults = true;
  readonly tlb = { lo: 0, hi: 0 };
  staleHit = false;
  servedByTlb = false;
  /** Registers have been set, not written, since the MMU last looked. */
  private registersSet = true;
  /** With `checkInvariants`: each sentence once, in order of steps. Any of them is a bug of rewalk's, or a mutant. */
  readonly invariantFindings: InvariantFinding[] = [];
  private readonly checker: InvariantChecker | null;
  private readonly sentences = new Set<string>();
  /** Guest frames that were written by others than guest and KVM: tables there may differ from their shadows. */
  private readonly unnoticed = new Set<number>();

  constructor(header: TraceHeader, config: KvmConfig, options: KvmMachineOptions = {}) {
    this.config = config;
    this.recorded = header.hypervisor?.mmu !== undefined && ((header.observable >>> Obs.KVM_EVENT) & 1) !== 0;
    this.independent = header.independent && !this.recorded;
    this.partial = (header.unknown ?? []).includes('registers');
    const { profile, hostMaxphyaddr } = config;
    // A trace that describes the MMU tells of memslots and residency, also where it has none of KVM's events.
    const mode = header.hypervisor?.mmu === undefined ? 'free' : 'recorded';
    this.host = new HostMemory({ mode, profile, hostMaxphyaddr });
    this.processor = new Processor(header, config, this.host);
    this.registers = this.processor.registers;
    const format = new SpteFormat(config);
    const trace = new MmuTrace(this.log, format);
    this.pages = new ShadowPages({
      config,
      host: this.host,
      format,
      trace,
      mutants: new Mutants(options.mutants),
      flushTarget: {
        flushRemoteTlbs: () => this.processor.flushAll(),
        freeObsoleteRoots: () => this.vcpu.request(Request.FREE_OBSOLETE_ROOTS),
      },
    });
    this.tdpMmu = config.tdp && config.tdpMmu ? new TdpMmu(this.pages) : null;
    this.vcpu = new Vcpu({
      pages: this.pages,
      tdpMmu: this.tdpMmu,
      registers: this.registers,
      memory: this.host.guestMemory(0),
      features: pagingFeatures(header),
      hardware: {
        flushAll: () => this.processor.flushAll(),
        flushContext: () => this.processor.flushContext(),
        flushAddress: (lo, hi) => this.processor.flushAddress(lo, hi),
        useRoot: (root) => this.processor.setRoot(root === null ? null : this.rootState(root)),
      },
    });
    this.handler = new FaultHandler(this.vcpu, this.tdpMmu);
    this.vm = new VmMmu(this.pages, this.tdpMmu, () => this.vcpu.request(Request.FREE_OBSOLETE_ROOTS));
    this.emulator = new Emulator(this.vcpu, this.handler);
    this.rare = new RareStores(this.host);
    const { pages, vcpu, tdpMmu, host, unnoticed } = this;
    this.checker =
      options.checkInvariants === true
        ? new InvariantChecker({ pages, vcpu, tdpMmu, host, unnoticed: (gfn) => unnoticed.has(gfn) })
        : null;
    this.host.onNotifier = (what, start, end) => this.notified(what, start, end);
  }

  get kvm(): KvmView {
    return this;
  }

  get tableUses(): readonly TableUse[] {
    return this.pages.tableUses;
  }

  private rootState(root: Root): RootState {
    const pdptes = new Int32Array(8);
    if (root.page !== null) {
      return { level: root.page.level === 5 ? 5 : 4, frame: root.page.frame, pdptes };
    }
    root.pae!.forEach((sp, i) => {
      if (sp === null) return;
      pdptes[2 * i] = frameLo(sp.frame) | 1;
      pdptes[2 * i + 1] = frameHi(sp.frame);
    });
    return { level: 3, frame: 0, pdptes };
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
    this.applyStep(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
    if (this.checker !== null) this.checkInvariants(ordinal, this.checker);
  }

  private applyStep(
    ordinal: number,
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
    stimuli: readonly Stimulus[],
  ): void {
    this.log.count = 0;
    this.pages.tableUses.length = 0;
    this.staleHit = false;
    this.servedByTlb = false;
    this.processor.now = ordinal;
    const kind = op & STEP_KIND_MASK;
    if (kind === StepKind.REGISTER_SET) {
      this.setRegister((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK, operandLo, operandHi);
      return;
    }
    if (this.registersSet && kind !== StepKind.RARE && kind !== StepKind.STORE) this.takeRegisters();
    switch (kind) {
      case StepKind.ACCESS:
        this.access(op, addressLo, addressHi);
        break;
      case StepKind.STORE:
        this.store(op, addressLo, addressHi & 0xf_ffff, operandLo, operandHi);
        break;
      case StepKind.CLEAR_PAGE:
        this.beforePageStore(addressLo, addressHi & 0xf_ffff);
        this.host.setPage(addressLo, addressHi & 0xf_ffff, null);
        break;
      case StepKind.REGISTER_WRITE:
        this.writeRegister(op, operandLo, operandHi);
        break;
      case StepKind.PDPTE_LOAD:
        this.loadPdptes(addressLo, addressHi);
        break;
      case StepKind.INVALIDATE:
        this.invalidate(op, addressLo, addressHi, operandLo, operandHi);
        break;
      case StepKind.FAULT_EXIT:
        this.faultExit(op, addressLo, addressHi, operandLo, operandHi);
        break;
      case StepKind.VM_ENTRY:
        this.emulator.gpaAvailable = false;
        this.vcpu.serveRequests();
        break;
      case StepKind.SOFTWARE_WALK:
        this.softwareWalk(op, addressLo, addressHi, operandLo);
        break;
      case StepKind.HOST_PAGES:
        this.host.hostPages(
          addressLo,
          addressHi,
          operandLo >>> 0,
          (op >>> HOST_PAGE_SHIFT) & HOST_PAGE_MASK,
          (op >>> HOST_LEVEL_SHIFT) & HOST_LEVEL_MASK,
        );
        break;
      case StepKind.RARE:
        this.rareStimulus(stimuli[operandLo]!);
        break;
      default:
        this.notModelled(NotModelled.NESTED);
    }
  }

  /** Where no table is shadowed, or it is unsync, KVM will read the table before it relies on it. */
  private storedUnnoticed(gfn: number): void {
    if (this.checker !== null && this.pages.shadowing(gfn).some((sp) => !sp.unsync)) this.unnoticed.add(gfn);
  }

  private checkInvariants(step: number, checker: InvariantChecker): void {
    const { sentences, invariantFindings, unnoticed, pages } = this;
    for (const gfn of unnoticed) if (!pages.hashed.has(gfn)) unnoticed.delete(gfn);
    for (const sentence of checker.check()) {
      if (sentences.has(sentence) || sentences.size === MAXIMUM_FINDINGS) continue;
      sentences.add(sentence);
      invariantFindings.push({ step, sentence });
    }
  }

  private notModelled(what: number): void {
    this.log.push(Obs.NOT_MODELLED | (what << OBS_NOT_MODELLED_SHIFT), 0, 0, 0, 0);
  }

  // Registers.

  setRegister(register: number, lo: number, hi: number): void {
    if (this.registers[2 * register] === lo >>> 0 && this.registers[2 * register + 1] === hi >>> 0) return;
    this.processor.setRegister(register, lo, hi);
    const pdpte = register >= Reg.PDPTE0 && register <= Reg.PDPTE3;
    if (MMU_REGISTERS.has(register) || pdpte) this.registersSet = true;
  }

  /** Registers were given, as by KVM_SET_SREGS: everything anew (facts/kvm-mmu.md §8.3). */
  private takeRegisters(): void {
    this.registersSet = false;
    const pdptes = this.registers.subarray(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8);
    const samePdptes = this.vcpu.cpuWalk.pdptes.every((word, i) => word >>> 0 === pdptes[i]);
    this.vcpu.cpuWalk.pdptes.set(pdptes);
    // What is concluded late was so before: tables that do not depend on it stay.
    if (this.partial) {
      const { rootMmu } = this.vcpu;
      const { rootRole, direct } = rootMmu;
      this.vcpu.initMmu();
      const sameRoots = samePdptes && rootMmu.rootRole === rootRole && rootMmu.direct === direct;
      if (this.config.tdp || sameRoots) return;
    }
    this.vcpu.resetContext();
    this.vcpu.request(Request.TLB_FLUSH_GUEST);
  }

  private low(register: number): number {
    return this.registers[2 * register]!;
  }

  private writeRegister(op: number, lo: number, hi: number): void {
    const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    // Task switches always exit, and KVM makes them.
    const emulated = (op & REGISTER_WRITE_TASK_SWITCH) !== 0 && register === Reg.CR3;
    if (this.config.tdp && !emulated) this.writeUnderTdp(op, register, lo, hi);
    else this.writeByKvm(op, register, lo, hi);
  }

  private generalProtection(): void {
    this.log.push(Obs.EXCEPTION | (13 << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
  }

  /** The processor does it; of what decides about roles KVM learns. */
  private writeUnderTdp(op: number, register: number, lo: number, hi: number): void {
    const { vcpu, processor } = this;
    const old = this.low(register);
    const oldEfer = this.low(Reg.EFER);
    for (;;) {
      if (!this.recorded) vcpu.serveRequests();
      const outcome = processor.writeRegister(op, lo, hi);
      if (outcome === Outcome.OK) break;
      if (outcome !== Outcome.EXIT) {
        this.generalProtection();
        return;
      }
      const code = this.config.vendor === 'intel' ? this.errorOfQualification(processor.exitLo) : processor.exitLo;
      this.handler.handle(processor.faultLo, processor.faultHi, code, false);
    }
    const now = this.low(register);
    if (register === Reg.CR0 && !this.isGuestOwned(old ^ now)) vcpu.cr0Written(old, now);
    else if (register === Reg.CR4) vcpu.cr4Written(old, now);
    else if (register === Reg.EFER) vcpu.eferWritten(oldEfer, this.low(Reg.EFER));
  }

  /** VMX lets the guest toggle CR0.WP by itself (6.1.192, 7.3); SVM intercepts that, too. */
  private isGuestOwned(changed: number): boolean {
    return this.config.vendor === 'intel' && changed === CR0_WP;
  }

  private writeByKvm(op: number, register: number, lo: number, hi: number): void {
    const { vcpu, processor } = this;
    let done = true;
    switch (register) {
      case Reg.CR0:
        done = vcpu.writeCr0(lo >>> 0);
        break;
      case Reg.CR3:
        done = vcpu.writeCr3(lo, hi);
        break;
      case Reg.CR4:
        done = vcpu.writeCr4(lo);
        break;
      case Reg.EFER:
        vcpu.writeEfer(lo);
        break;
      default:
        processor.writeRegister(op, lo, hi);
        processor.setRegister(register, lo, hi);
    }
    if (!done) this.generalProtection();
    // The array is the processor's, too: it must look at it again.
    processor.setRegister(Reg.CR0, this.low(Reg.CR0), 0);
  }

  /** The PDPTE registers are loaded, by an instruction of which the trace has no more than that. */
  private loadPdptes(lo: number, hi: number): void {
    if (this.low(Reg.GUEST_MODE) !== GuestMode.NONE) {
      this.notModelled(NotModelled.NESTED);
      return;
    }
    const loaded = this.vcpu.loadPdptes(lo, hi);
    for (let register = Reg.PDPTE0; register <= Reg.PDPTE3; register++) {
      this.processor.setRegister(register, this.low(register), this.registers[2 * register + 1]!);
    }
    this.log.push(Obs.PDPTE_LOADED, 0, 0, loaded ? 1 : 0, 0);
  }

  private invalidate(op: number, lo: number, hi: number, tagLo: number, tagHi: number): void {
    const what = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
    const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
    if (this.config.tdp) {
      this.processor.invalidate(op, lo, hi, tagLo, tagHi);
      return;
    }
    if (what === Invalidation.INVLPG) this.vcpu.invlpg(lo, hi);
    else if (what === Invalidation.INVPCID) this.vcpu.invpcid(type, tagLo & 0xfff, lo, hi);
  }

  // Accesses.

  serves(op: number, lo: number, hi: number): boolean {
    if (this.vcpu.requests !== 0 || this.registersSet || (op & ACCESS_SOFTWARE) !== 0) return false;
    if (!this.processor.serves(op, lo, hi)) return false;
    this.tlb.lo = this.processor.gpaLo;
    this.tlb.hi = this.processor.gpaHi;
    return true;
  }

  private access(op: number, lo: number, hi: number): void {
    if (this.low(Reg.GUEST_MODE) !== GuestMode.NONE) {
      this.notModelled(NotModelled.NESTED);
      return;
    }
    if ((op & ACCESS_SOFTWARE) !== 0) {
      this.serveUnlessRecorded();
      this.emulateAccess(op, lo, hi);
      return;
    }
    const { processor, vcpu } = this;
    if (this.independent) this.forgetEverything();
    for (let exits = 0; exits < MAXIMUM_EXITS; exits++) {
      this.serveUnlessRecorded();
      if (vcpu.mmu.root === null) {
        this.notModelled(NotModelled.PAGING_MODE);
        return;
      }
      const outcome = processor.translate(op, lo, hi);
      this.conclude(lo, hi, outcome);
      // A recording tells of its exits: one that it does not tell of is a difference, not a reason to go on.
      if (outcome !== Outcome.EXIT || this.recorded) return;
      const { faultLo, faultHi, exitLo, misconfig } = processor;
      vcpu.prepareWalk((op & ACCESS_AC) !== 0);
      const done = this.handler.handle(faultLo, faultHi, this.errorCode(exitLo, misconfig), false);
      if (this.handler.injected !== null) {
        const { errorCode, lo: cr2Lo, hi: cr2Hi } = this.handler.injected;
        this.log.push(Obs.EXCEPTION | (PF_VECTOR << OBS_VECTOR_SHIFT), cr2Lo, cr2Hi, errorCode, 0);
        return;
      }
      if (done === RetPf.EMULATE || done === RetPf.WRITE_PROTECTED) {
        this.emulateAccess(op, lo, hi);
        return;
      }
    }
    // It would fault for ever: an access without an outcome, which differs from any that is expected.
  }

  /** Logs how the processor's access ended. */
  private conclude(lo: number, hi: number, outcome: number): void {
    const { processor } = this;
    switch (outcome) {
      case Outcome.OK: {
        this.staleHit = processor.staleHit;
        this.servedByTlb = processor.servedByTlb;
        const row = Obs.TRANSLATED | (processor.pageShift << OBS_PAGE_SHIFT_SHIFT);
        this.log.push(row, processor.gpaLo, processor.gpaHi, processor.gpaLo, processor.gpaHi);
        break;
      }
      case Outcome.NOT_MODELLED:
        this.notModelled(processor.unmodelled);
        break;
      case Outcome.GUEST_FAULT: {
        const { vector, errorCode } = processor;
        const isPageFault = vector === PF_VECTOR;
        const row = Obs.EXCEPTION | (vector << OBS_VECTOR_SHIFT);
        this.log.push(row, isPageFault ? lo : 0, isPageFault ? hi : 0, errorCode, 0);
        break;
      }
      default:
        this.pages.trace.pageFault(processor.faultLo, processor.faultHi, processor.exitLo, processor.exitHi);
    }
  }

  /** The accesses of the trace have no common history: KVM's tables are built for each of them alone. */
  private forgetEverything(): void {
    this.vcpu.unload();
    this.vm.zapAll();
    this.processor.flushAll();
  }

  probe(op: number, lo: number, hi: number): void {
    this.log.count = 0;
    this.conclude(lo, hi, this.processor.probe(op, lo, hi));
  }

  rewalk(op: number, lo: number, hi: number): void {
    this.log.count = 0;
    this.processor.flushAddress(lo, hi);
    this.access(op, lo, hi);
  }

  takeBackAd(): void {
    this.processor.takeBackAd();
  }

  private serveUnlessRecorded(): void {
    if (!this.recorded && (this.vcpu.requests !== 0 || this.vcpu.mmu.root === null)) this.vcpu.serveRequests();
  }

  /** The error code that KVM makes of what the hardware reports (facts/kvm-mmu.md §6.1). */
  private errorCode(lo: number, misconfig: boolean): number {
    if (misconfig) return PFERR_RSVD;
    return this.config.tdp && this.config.vendor === 'intel' ? this.errorOfQualification(lo) : lo;
  }

  private errorOfQualification(qualification: number): number {
    const read = this.config.profile === '6.1' && (qualification & 1) !== 0 ? PFERR_U : 0;
    const write = (qualification & 2) !== 0 ? PFERR_W : 0;
    const fetch = (qualification & 4) !== 0 ? PFERR_F : 0;
    return read | write | fetch | ((qualification & 0x38) !== 0 ? PFERR_P : 0);
  }

  /** The instruction emulator makes an access of the guest's. */
  private emulateAccess(op: number, lo: number, hi: number): void {
    if (!this.vcpu.isCanonical(hi)) {
      // Found before the walk, where the segment is applied.
      const vector = (op & ACCESS_STACK) !== 0 ? SS_VECTOR : GP_VECTOR;
      this.log.push(Obs.EXCEPTION | (vector << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
      return;
    }
    const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
    const ac = (op & ACCESS_AC) !== 0;
    const user = (op & ACCESS_USER) !== 0;
    const implicit = !user && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3;
    const base = (user ? USER : 0) | (implicit ? IMPLICIT_ACCESS : 0);
    const { emulator } = this;
    const reads = type === AccessType.READ || type === AccessType.RMW;
    const writes = type === AccessType.WRITE || type === AccessType.RMW;
    let done = true;
    if (type === AccessType.FETCH) done = emulator.walk(lo, hi, base | FETCH, { ac });
    if (reads) done = emulator.walk(lo, hi, base, { ac });
    if (done && writes) done = emulator.walk(lo, hi, base | WRITE, { ac });
    if (done) {
      if (writes) this.tellWrite(emulator.lo & ~7, emulator.hi, 8);
      this.log.push(Obs.TRANSLATED | (12 << OBS_PAGE_SHIFT_SHIFT), emulator.lo, emulator.hi, emulator.lo, emulator.hi);
    } else if (type === AccessType.FETCH && (op & ACCESS_SOFTWARE) !== 0) {
      // An instruction that cannot be fetched under the forced emulation prefix ends in #UD.
      this.log.push(Obs.EXCEPTION | (UD_VECTOR << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
    } else {
      const { errorCode, lo: cr2Lo, hi: cr2Hi } = this.handler.injected!;
      const written = type === AccessType.RMW ? errorCode | PFERR_W : errorCode;
      this.log.push(Obs.EXCEPTION | (PF_VECTOR << OBS_VECTOR_SHIFT), cr2Lo, cr2Hi, written, 0);
    }
  }

  // Steps of a recording of KVM.

  private faultExit(op: number, lo: number, hi: number, errorLo: number, errorHi: number): void {
    const misconfig = (op & FAULT_MISCONFIG) !== 0;
    if (!misconfig) this.pages.trace.pageFault(lo, hi, this.predictedError(op, lo, hi, errorLo), errorHi);
    const during = (op & FAULT_DURING_EVENT) !== 0;
    this.handler.cpl3 = (op & FAULT_CPL3) !== 0;
    this.vcpu.prepareWalk((op & FAULT_AC) !== 0);
    this.handler.handle(lo, hi, this.errorCode(errorLo, misconfig), during);
    this.emulator.gpaAvailable = this.vcpu.mmu.direct;
    this.emulator.gpaLo = lo;
    this.emulator.gpaHi = hi;
  }

  /**
   * What the processor would report of the access with the tables as they are: from the recording come only the bits
   * that say what was asked (write, user, fetch; of an EPT qualification also those about the linear address).
   */
  private predictedError(op: number, lo: number, hi: number, error: number): number {
    const { processor, config } = this;
    const { tdp, vendor } = config;
    if (this.vcpu.mmu.root === null) return error;
    if (tdp) {
      const access = vendor === 'intel' ? this.errorOfQualification(error) : error;
      if (processor.probeGpa(access, lo, hi) !== Outcome.EXIT)
        return error & ~(vendor === 'intel' ? EPT_RIGHTS : PFERR_P);
      if (vendor === 'intel') return (error & ~EPT_RIGHTS) | (processor.exitLo & EPT_RIGHTS);
      return (error & ~(PFERR_P | PFERR_RSVD)) | (processor.exitLo & (PFERR_P | PFERR_RSVD));
    }
    const type =
      (error & PFERR_F) !== 0 ? AccessType.FETCH : (error & PFERR_W) !== 0 ? AccessType.WRITE : AccessType.READ;
    const user = (error & PFERR_U) !== 0 ? ACCESS_USER | (3 << ACCESS_CPL_SHIFT) : 0;
    const ac = (op & FAULT_AC) !== 0 ? ACCESS_AC : 0;
    const access = StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT) | user | ac;
    if (processor.probe(access, lo, hi) !== Outcome.EXIT) return error & ~PFERR_P;
    return (error & ~(PFERR_P | PFERR_RSVD)) | (processor.exitLo & (PFERR_P | PFERR_RSVD));
  }

  private softwareWalk(op: number, lo: number, hi: number, access: number): void {
    const bits = (access & (WRITE | USER | FETCH)) | ((op & SOFTWARE_IMPLICIT) !== 0 ? IMPLICIT_ACCESS : 0);
    const ac = (op & SOFTWARE_AC) !== 0;
    const quiet = (op & SOFTWARE_QUIET) !== 0;
    if ((op & SOFTWARE_OPERAND) !== 0)
      this.emulator.operand(lo, hi, bits, { ac, quiet, rmw: (op & SOFTWARE_RMW) !== 0 });
    else this.emulator.walk(lo, hi, bits, { ac, quiet });
  }

  // Stores.

  private store(op: number, lo: number, hi: number, valueLo: number, valueHi: number): void {
    const size = (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
    if ((lo & 0xfff) + size > 0x1000) {
      this.storeAcrossPages(op, lo, hi, valueLo, valueHi);
      return;
    }
    const emulated = (op & STORE_EMULATED) !== 0;
    if (!this.recorded) this.guestStores(lo, hi, size, valueLo, valueHi);
    else {
      this.host.store(lo, hi, valueLo, valueHi, size);
      if (emulated) this.tellWrite(lo, hi, size);
      else this.storedUnnoticed(frameOf(lo, hi));
    }
  }

  /** Each page's tables hear of their own part. */
  private storeAcrossPages(op: number, lo: number, hi: number, valueLo: number, valueHi: number): void {
    const size = (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
    const byteStore = (op & ~(STORE_SIZE_MASK << STORE_SIZE_SHIFT)) | (1 << STORE_SIZE_SHIFT);
    for (let i = 0; i < size; i++) {
      const address = (lo >>> 0) + i;
      const byte = (i < 4 ? valueLo >>> (8 * i) : valueHi >>> (8 * (i - 4))) & 0xff;
      this.store(byteStore, address | 0, (address > 0xffff_ffff ? hi + 1 : hi) & 0xf_ffff, byte, 0);
    }
  }

  /** KVM's dirty log and its tables hear of a write that it made itself. */
  private tellWrite(lo: number, hi: number, size: number): void {
    const pae = (this.low(Reg.CR4) & CR4_PAE) !== 0;
    const slot = this.host.slotOf(frameOf(lo, hi), this.vcpu.addressSpace);
    if (slot !== null && !slot.readOnly) this.host.markDirty(slot, frameOf(lo, hi));
    emulatedWrite(this.pages, frameOf(lo, hi), lo & 0xfff, size, pae);
  }

  /**
   * A store that the trace of a bare processor has: whoever made it, no table that shadows the place may go on as if
   * nothing had happened. Level-1 tables become unsync as by a guest's write, others hear of it as of an emulated one.
   */
  private guestStores(lo: number, hi: number, size: number, valueLo: number, valueHi: number): void {
    const gfn = frameOf(lo, hi);
    const free = this.pages.tryToUnsync(gfn, this.vcpu.addressSpace, true, false);
    this.host.store(lo, hi, valueLo, valueHi, size);
    if (!free) this.tellWrite(lo, hi, size);
  }

  private beforePageStore(lo: number, hi: number): void {
    const gfn = frameOf(lo, hi);
    if (this.recorded) {
      this.storedUnnoticed(gfn);
      return;
    }
    if (!this.pages.tryToUnsync(gfn, this.vcpu.addressSpace, true, false)) this.pages.unprotect(gfn);
  }

  readEntry(row: number, addressLo: number, addressHi: number): readonly [lo: number, hi: number] {
    const at = this.host.pageIndexOf(frameOf(addressLo, addressHi & 0xf_ffff), this.vcpu.addressSpace);
    if (at < 0) return [0, 0];
    const { words } = this.host.memory;
    const word = at + ((addressLo & 0xffc) >>> 2);
    return [words[word]! >>> 0, (row & OBS_FOUR_BYTES) !== 0 ? 0 : words[word + 1]! >>> 0];
  }

  adoptEntry(row: number, addressLo: number, addressHi: number, lo: number, hi: number): void {
    this.host.store(addressLo, addressHi & 0xf_ffff, lo, hi, (row & OBS_FOUR_BYTES) !== 0 ? 4 : 8);
    this.storedUnnoticed(frameOf(addressLo, addressHi & 0xf_ffff));
  }

  // Rare stimuli, and the host.

  private rareStimulus(stimulus: Stimulus): void {
    switch (stimulus.kind) {
      case 'page-image':
      case 'entry-fill':
        this.rare.apply(stimulus, (lo, hi) => this.beforePageStore(lo, hi));
        break;
      case 'note':
        break;
      case 'memslot':
        this.memslot(stimulus);
        break;
      case 'dirty-log':
        this.dirtyLog(stimulus.slot);
        break;
      case 'notifier':
        this.notifier(stimulus);
        break;
      case 'hypervisor':
        this.hypervisorCall(stimulus.what);
    }
  }

  private memslot(change: Memslot): void {
    const { slotTable } = this.host;
    const wasLogged = slotTable.byId(change.slot, change.addressSpace)?.dirtyLog === true;
    const slot = slotTable.update(change, {
      invalidated: () => this.vm.zapAllFast(),
      swapped: () => {
        if (this.host.generation === 0) this.vm.zapAllFast();
      },
    });
    if (change.what === 'delete') this.pages.slotState.forget(slot);
    if (change.what === 'create' || change.what === 'delete') this.vm.slotsChanged(slotTable.totalPages);
    if (change.what !== 'flags' || slot.dirtyLog === wasLogged) return;
    if (slot.dirtyLog) this.vm.startDirtyLog(slot);
    else this.vm.stopDirtyLog(slot);
  }

  private dirtyLog(id: number): void {
    const slot = this.host.slotTable.byId(id, 0);
    if (slot === undefined) return;
    this.vm.collectHardwareDirty(slot);
    for (const { base, lo, hi } of slot.takeDirty()) this.vm.protectReported(slot, base, lo, hi);
    this.pages.flushRemoteTlbs();
  }

  private notifier({ what, start, end }: Notifier): void {
    const from = start.hi * 0x1_0000_0000 + start.lo;
    const to = end.hi * 0x1_0000_0000 + end.lo;
    this.host.notify(what, from, to);
    if (what !== 'age') {
      if (what === 'test-age') this.pages.trace.notifier(KvmEvent.TEST_AGE_HVA, from, to);
      return;
    }
    this.pages.trace.notifier(KvmEvent.AGE_HVA, from, to);
    for (const { slot, first, end: last } of this.host.slotTable.overlaps(from, to)) {
      this.vm.age(slot.addressSpace, first, last);
    }
  }

  /** The host's memory management takes away, or replaces, what is under guest frames. */
  private notified(what: 'unmap' | 'set-pte', start: number, end: number): void {
    const unmap = what === 'unmap';
    if (unmap) this.pages.trace.notifier(KvmEvent.UNMAP_HVA_RANGE, start, end);
    else this.pages.trace.notifier(KvmEvent.SET_SPTE_HVA, start, end);
    for (const { slot, first, end: last } of this.host.slotTable.overlaps(start, end)) {
      if (unmap) this.vm.unmap(slot.addressSpace, first, last);
      else if (this.host.lookUp(slot, first) === 0) this.vm.setPte(slot.addressSpace, first, this.host.pfn, true);
    }
  }

  private hypervisorCall(what: 'zap-all' | 'destroy' | 'set-cpuid' | 'set-sregs'): void {
    switch (what) {
      case 'zap-all':
        this.vm.zapAllFast();
        break;
      case 'destroy':
        this.vm.zapAll();
        this.vcpu.unload();
        break;
      case 'set-cpuid':
        this.vcpu.afterSetCpuid(this.vcpu.cpuWalk.features);
        break;
      case 'set-sregs':
        this.vcpu.resetContext();
        this.vcpu.request(Request.TLB_FLUSH_GUEST);
    }
  }
}
