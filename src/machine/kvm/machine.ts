/**
 * The machine with an emulated KVM below the guest (design §4): the processor runs on the tables that KVM's MMU builds,
 * and what it cannot do there comes to KVM. What belongs to one vCPU is in `cpu.ts`; here is what the VM has once.
 *
 * It replays two kinds of trace. A recording of a KVM says at each step what came to KVM (`FAULT_EXIT`, `VM_ENTRY`, …),
 * and KVM's tracepoints are the observations. A recording of a bare processor has the guest's own steps only: here the
 * machine goes through exit and entry itself until the access is through, and what the guest sees is compared.
 */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import { OBS_FOUR_BYTES } from '../../formats/observation.ts';
import {
  HOST_LEVEL_MASK,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_MASK,
  HOST_PAGE_SHIFT,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  StepKind,
} from '../../formats/step.ts';
import type { FaultHandler } from '../../mmu/fault-handler.ts';
import { InvariantChecker } from '../../mmu/invariants.ts';
import { Mutants } from '../../mmu/mutants.ts';
import { ShadowPages } from '../../mmu/pages.ts';
import { frameOf, SpteFormat } from '../../mmu/spte.ts';
import type { TableUse } from '../../mmu/tables.ts';
import { TdpMmu } from '../../mmu/tdp-mmu.ts';
import { MmuTrace } from '../../mmu/trace.ts';
import { Request, type Vcpu } from '../../mmu/vcpu.ts';
import { VmMmu } from '../../mmu/vm.ts';
import type { WiringName } from '../../mmu/wiring.ts';
import { RowLog } from '../../paging/row-log.ts';
import { isKvmRecording, type TraceHeader } from '../../trace/header.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import type { KvmView, Machine } from '../machine.ts';
import { KvmCpu, type VmParts } from './cpu.ts';
import { GuestStores } from './guest-stores.ts';
import { HostEvents } from './host-events.ts';
import { HostMemory } from './host-memory.ts';
import type { Processor } from './processor.ts';

/** Findings that are kept; what goes wrong once tends to go on. */
const MAXIMUM_FINDINGS = 1000;

export interface KvmMachineOptions {
  readonly mutants?: Iterable<number>;
  /** After every step the invariants of the built tables are checked (`mmu/invariants.ts`): slow, for debugging. */
  readonly checkInvariants?: boolean;
  /** How MMUs and walks are wired; usual: as in the profile's own kernel. */
  readonly wiring?: WiringName | undefined;
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
  readonly pages: ShadowPages;
  readonly tdpMmu: TdpMmu | null;
  readonly vm: VmMmu;
  /** By number; those that have made a step. */
  private readonly cpus: (KvmCpu | undefined)[] = [];
  /** The one whose steps come. */
  private cpu: KvmCpu;
  private readonly vmParts: VmParts;
  private readonly stores: GuestStores;
  private readonly hostEvents: HostEvents;
  readonly predictsFaults = true;
  readonly tlb = { lo: 0, hi: 0 };
  /** With `checkInvariants`: each sentence once, in order of steps. Any of them is a bug of rewalk's, or a mutant. */
  readonly invariantFindings: InvariantFinding[] = [];
  private readonly checker: InvariantChecker | null;
  private readonly sentences = new Set<string>();

  constructor(header: TraceHeader, config: KvmConfig, options: KvmMachineOptions = {}) {
    this.config = config;
    const recorded = isKvmRecording(header);
    const { profile, hostMaxphyaddr } = config;
    // A trace that describes the MMU tells of memslots and residency, also where it has none of KVM's events.
    const mode = header.hypervisor?.mmu === undefined ? 'free' : 'recorded';
    this.host = new HostMemory({ mode, profile, hostMaxphyaddr });
    const format = new SpteFormat(config);
    this.pages = new ShadowPages({
      config,
      host: this.host,
      format,
      trace: new MmuTrace(this.log, format),
      mutants: new Mutants(options.mutants),
      flushTarget: {
        flushRemoteTlbs: () => this.everyCpu(({ processor }) => processor.flushAll()),
        freeObsoleteRoots: () => this.everyCpu(({ vcpu }) => vcpu.request(Request.FREE_OBSOLETE_ROOTS)),
      },
    });
    this.tdpMmu = config.tdp && config.tdpMmu ? new TdpMmu(this.pages) : null;
    const { host, pages, tdpMmu } = this;
    const requestFreeing = (): void => this.everyCpu(({ vcpu }) => vcpu.request(Request.FREE_OBSOLETE_ROOTS));
    this.vm = new VmMmu(pages, tdpMmu, requestFreeing);
    this.vmParts = {
      header,
      config,
      host,
      pages,
      tdpMmu,
      wiring: options.wiring,
      recorded,
      independent: header.independent && !recorded,
      written: (lo, hi, size) => this.stores.tellWrite(lo, hi, size),
      zapAll: () => this.vm.zapAll(),
    };
    this.cpu = this.newCpu(0);
    const watched = options.checkInvariants === true;
    const { vcpu } = this.cpu;
    this.stores = new GuestStores(host, vcpu, { recorded, watched });
    const vcpus = (): readonly Vcpu[] => this.cpus.flatMap((each) => each?.vcpu ?? []);
    this.hostEvents = new HostEvents(host, pages, this.vm, { current: () => this.vcpu, all: vcpus });
    const { unnoticed } = this.stores;
    this.checker = watched
      ? new InvariantChecker({ pages, vcpu, vcpus, tdpMmu, host, unnoticed: (gfn) => unnoticed.has(gfn) })
      : null;
  }

  // vCPUs.

  private newCpu(number: number): KvmCpu {
    const cpu = new KvmCpu(this.vmParts, number);
    this.cpus[number] = cpu;
    return cpu;
  }

  /** A VCPU step. */
  private useCpu(number: number): void {
    this.cpu = this.cpus[number] ?? this.newCpu(number);
    this.stores.vcpu = this.cpu.vcpu;
  }

  private everyCpu(action: (cpu: KvmCpu) => void): void {
    for (const cpu of this.cpus) if (cpu !== undefined) action(cpu);
  }

  /** Of the vCPU whose steps come, as all that follows. */
  get registers(): Uint32Array {
    return this.cpu.processor.registers;
  }

  get processor(): Processor {
    return this.cpu.processor;
  }

  get vcpu(): Vcpu {
    return this.cpu.vcpu;
  }

  get handler(): FaultHandler {
    return this.cpu.handler;
  }

  get staleHit(): boolean {
    return this.cpu.accesses.staleHit;
  }

  get servedByTlb(): boolean {
    return this.cpu.accesses.servedByTlb;
  }

  get kvm(): KvmView {
    return this;
  }

  get tableUses(): readonly TableUse[] {
    return this.pages.tableUses;
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
    const { cpu } = this;
    this.log.count = 0;
    this.pages.tableUses.length = 0;
    cpu.accesses.staleHit = false;
    cpu.accesses.servedByTlb = false;
    cpu.processor.now = ordinal;
    switch (op & STEP_KIND_MASK) {
      case StepKind.REGISTER_SET:
        cpu.setRegister((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK, operandLo, operandHi);
        break;
      case StepKind.STORE:
        cpu.memoryChanges((op & STORE_KNOWLEDGE) === 0);
        this.stores.store(op, addressLo, addressHi & 0xf_ffff, operandLo, operandHi);
        break;
      case StepKind.RARE:
        cpu.memoryChanges(stimuli[operandLo]!.kind === 'entry-fill');
        this.rareStimulus(stimuli[operandLo]!);
        break;
      case StepKind.CLEAR_PAGE:
        cpu.memoryChanges(true);
        this.stores.clearPage(addressLo, addressHi & 0xf_ffff);
        break;
      case StepKind.HOST_PAGES:
        cpu.memoryChanges();
        this.host.hostPages(
          addressLo,
          addressHi,
          operandLo >>> 0,
          (op >>> HOST_PAGE_SHIFT) & HOST_PAGE_MASK,
          (op >>> HOST_LEVEL_SHIFT) & HOST_LEVEL_MASK,
        );
        break;
      case StepKind.VCPU:
        // What others store from here on comes after what this one has been set to run.
        cpu.memoryChanges(true);
        this.useCpu(operandLo >>> 0);
        break;
      default:
        if (!cpu.apply(op, addressLo, addressHi, operandLo, operandHi)) {
          throw new Error(`step ${ordinal}: kind ${op & STEP_KIND_MASK} passed the reader unchecked`);
        }
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

  /** Not a step: whoever replays knows what the register holds. */
  setRegister(register: number, lo: number, hi: number): void {
    this.cpu.setRegister(register, lo, hi);
    this.cpu.memoryChanges();
  }

  // Accesses.

  serves(op: number, lo: number, hi: number): boolean {
    const { cpu, tlb } = this;
    if (!cpu.serves(op, lo, hi)) return false;
    tlb.lo = cpu.processor.gpaLo;
    tlb.hi = cpu.processor.gpaHi;
    return true;
  }

  probe(op: number, lo: number, hi: number): void {
    this.log.count = 0;
    this.cpu.accesses.conclude(lo, hi, this.processor.probe(op, lo, hi));
  }

  rewalk(op: number, lo: number, hi: number): void {
    this.log.count = 0;
    this.processor.flushAddress(lo, hi);
    this.cpu.accesses.access(op, lo, hi);
  }

  takeBackAd(): void {
    this.processor.takeBackAd();
  }

  takeReflected(reflected: boolean): void {
    this.cpu.takeReflected(reflected);
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
