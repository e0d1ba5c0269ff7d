/**
 * The machine with an emulated KVM below the guest (design §4): the processor runs on the tables that KVM's MMU builds,
 * and what it cannot do there comes to KVM.
 *
 * It replays two kinds of trace. A recording of a KVM says at each step what came to KVM (`FAULT_EXIT`, `VM_ENTRY`, …),
 * and KVM's tracepoints are the observations. A recording of a bare processor has the guest's own steps only: here the
 * machine goes through exit and entry itself until the access is through, and what the guest sees is compared.
 */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import {
  NotModelled,
  OBS_FOUR_BYTES,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../formats/observation.ts';
import { GuestMode, Reg } from '../../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_SOFTWARE,
  HOST_LEVEL_MASK,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_MASK,
  HOST_PAGE_SHIFT,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import { RetPf } from '../../mmu/fault.ts';
import { FaultHandler } from '../../mmu/fault-handler.ts';
import { InvariantChecker } from '../../mmu/invariants.ts';
import { Mutants } from '../../mmu/mutants.ts';
import { ShadowPages } from '../../mmu/pages.ts';
import { DUMMY_ROOT, type Root } from '../../mmu/root.ts';
import { frameHi, frameLo, frameOf, SpteFormat } from '../../mmu/spte.ts';
import { ZERO_FRAME } from '../../mmu/table-memory.ts';
import type { TableUse } from '../../mmu/tables.ts';
import { TdpMmu } from '../../mmu/tdp-mmu.ts';
import { MmuTrace } from '../../mmu/trace.ts';
import { Request, Vcpu } from '../../mmu/vcpu.ts';
import { VmMmu } from '../../mmu/vm.ts';
import { roleLevel } from '../../paging/kvm-roles.ts';
import { RowLog } from '../../paging/row-log.ts';
import type { TraceHeader } from '../../trace/header.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import { pagingFeatures } from '../features.ts';
import type { KvmView, Machine } from '../machine.ts';
import { Emulator } from './emulator.ts';
import { errorCodeOf, errorHiOf } from './exit-code.ts';
import { GuestRegisters } from './guest-registers.ts';
import { GuestStores } from './guest-stores.ts';
import { HostEvents } from './host-events.ts';
import { HostMemory } from './host-memory.ts';
import { Outcome, Processor, type RootState } from './processor.ts';
import { RecordedExits } from './recorded-exits.ts';

/** Exits that one access may cause; a guest that needs more makes no progress. */
const MAXIMUM_EXITS = 64;
const PF_VECTOR = 14;
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
  private readonly stores: GuestStores;
  private readonly guestRegisters: GuestRegisters;
  private readonly exits: RecordedExits;
  private readonly hostEvents: HostEvents;
  readonly registers: Uint32Array;
  /** The trace says what comes to KVM; otherwise the machine finds out. */
  private readonly recorded: boolean;
  private readonly independent: boolean;
  readonly predictsFaults = true;
  readonly tlb = { lo: 0, hi: 0 };
  staleHit = false;
  servedByTlb = false;
  /** With `checkInvariants`: each sentence once, in order of steps. Any of them is a bug of rewalk's, or a mutant. */
  readonly invariantFindings: InvariantFinding[] = [];
  private readonly checker: InvariantChecker | null;
  private readonly sentences = new Set<string>();

  constructor(header: TraceHeader, config: KvmConfig, options: KvmMachineOptions = {}) {
    this.config = config;
    this.recorded = header.hypervisor?.mmu !== undefined && ((header.observable >>> Obs.KVM_EVENT) & 1) !== 0;
    this.independent = header.independent && !this.recorded;
    const partial = (header.unknown ?? []).includes('registers');
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
    const watched = options.checkInvariants === true;
    const { pages, vcpu, tdpMmu, host, handler, processor, recorded } = this;
    this.stores = new GuestStores(host, vcpu, { recorded, watched });
    this.emulator = new Emulator(vcpu, handler, (lo, hi, size) => this.stores.tellWrite(lo, hi, size));
    this.guestRegisters = new GuestRegisters(vcpu, handler, processor, { recorded, partial });
    this.exits = new RecordedExits(vcpu, handler, this.emulator, processor);
    this.hostEvents = new HostEvents(host, vcpu, this.vm);
    const { unnoticed } = this.stores;
    this.checker = watched
      ? new InvariantChecker({ pages, vcpu, tdpMmu, host, unnoticed: (gfn) => unnoticed.has(gfn) })
      : null;
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
    const level = roleLevel(this.vcpu.mmu.rootRole);
    if (root === DUMMY_ROOT && level >= 4) return { level: level === 5 ? 5 : 4, frame: ZERO_FRAME, pdptes };
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
    const { guestRegisters } = this;
    if (guestRegisters.given && kind !== StepKind.RARE && kind !== StepKind.STORE) guestRegisters.take();
    switch (kind) {
      case StepKind.ACCESS:
        this.access(op, addressLo, addressHi);
        break;
      case StepKind.STORE:
        this.stores.store(op, addressLo, addressHi & 0xf_ffff, operandLo, operandHi);
        break;
      case StepKind.CLEAR_PAGE:
        this.stores.clearPage(addressLo, addressHi & 0xf_ffff);
        break;
      case StepKind.REGISTER_WRITE:
        guestRegisters.write(op, operandLo, operandHi);
        break;
      case StepKind.PDPTE_LOAD:
        guestRegisters.loadPdptes(addressLo, addressHi);
        break;
      case StepKind.INVALIDATE:
        guestRegisters.invalidate(op, addressLo, addressHi, operandLo, operandHi);
        break;
      case StepKind.FAULT_EXIT:
        this.exits.faultExit(op, addressLo, addressHi, operandLo, operandHi);
        break;
      case StepKind.VM_ENTRY:
        this.exits.entry();
        break;
      case StepKind.SOFTWARE_WALK:
        this.exits.softwareWalk(op, addressLo, addressHi, operandLo);
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

  private checkInvariants(step: number, checker: InvariantChecker): void {
    const { sentences, invariantFindings, pages } = this;
    const { unnoticed } = this.stores;
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
    this.guestRegisters.set(register, lo, hi);
  }

  private low(register: number): number {
    return this.registers[2 * register]!;
  }

  // Accesses.

  serves(op: number, lo: number, hi: number): boolean {
    if (this.vcpu.requests !== 0 || this.guestRegisters.given || (op & ACCESS_SOFTWARE) !== 0) return false;
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
      this.emulator.access(op, lo, hi);
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
      const { faultLo, faultHi, exitLo, exitHi, misconfig } = processor;
      vcpu.prepareWalk((op & ACCESS_AC) !== 0);
      const code = errorCodeOf(exitLo, misconfig, this.config);
      const codeHi = errorHiOf(exitLo, exitHi, misconfig, this.config);
      const done = this.handler.handle(faultLo, faultHi, code, false, codeHi);
      if (this.handler.injected !== null) {
        const { errorCode, lo: cr2Lo, hi: cr2Hi } = this.handler.injected;
        this.log.push(Obs.EXCEPTION | (PF_VECTOR << OBS_VECTOR_SHIFT), cr2Lo, cr2Hi, errorCode, 0);
        return;
      }
      if (done === RetPf.EMULATE) {
        this.emulator.access(op, lo, hi);
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

  readEntry(row: number, addressLo: number, addressHi: number): readonly [lo: number, hi: number] {
    const at = this.host.pageIndexOf(frameOf(addressLo, addressHi & 0xf_ffff), this.vcpu.addressSpace);
    if (at < 0) return [0, 0];
    const { words } = this.host.memory;
    const word = at + ((addressLo & 0xffc) >>> 2);
    return [words[word]! >>> 0, (row & OBS_FOUR_BYTES) !== 0 ? 0 : words[word + 1]! >>> 0];
  }

  adoptEntry(row: number, addressLo: number, addressHi: number, lo: number, hi: number): void {
    this.host.store(addressLo, addressHi & 0xf_ffff, lo, hi, (row & OBS_FOUR_BYTES) !== 0 ? 4 : 8);
    this.stores.storedUnnoticed(frameOf(addressLo, addressHi & 0xf_ffff));
  }

  // Rare stimuli, and the host.

  private rareStimulus(stimulus: Stimulus): void {
    switch (stimulus.kind) {
      case 'page-image':
      case 'entry-fill':
        this.stores.apply(stimulus);
        break;
      case 'note':
        break;
      case 'memslot':
        this.hostEvents.memslot(stimulus);
        break;
      case 'dirty-log':
        this.hostEvents.dirtyLog(stimulus.slot);
        break;
      case 'notifier':
        this.hostEvents.notifier(stimulus);
        break;
      case 'hypervisor':
        this.hostEvents.hypervisorCall(stimulus.what);
    }
  }
}
