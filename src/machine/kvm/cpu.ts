/** One vCPU of the machine with an emulated KVM: its processor, what KVM keeps for it, and the steps that are its own. */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import { NotModelled } from '../../formats/observation.ts';
import {
  ACCESS_SOFTWARE,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import { FaultHandler } from '../../mmu/fault-handler.ts';
import type { ShadowPages } from '../../mmu/pages.ts';
import type { TdpMmu } from '../../mmu/tdp-mmu.ts';
import { Vcpu } from '../../mmu/vcpu.ts';
import type { WiringName } from '../../mmu/wiring.ts';
import { Nested } from '../../nested/nested.ts';
import { roleLevel } from '../../paging/kvm-roles.ts';
import type { TraceHeader } from '../../trace/header.ts';
import { pagingFeatures } from '../features.ts';
import { Emulator } from './emulator.ts';
import { FaultExits } from './fault-exits.ts';
import { GuestAccesses } from './guest-accesses.ts';
import { GuestRegisters } from './guest-registers.ts';
import type { HostMemory } from './host-memory.ts';
import { Invalidations } from './invalidations.ts';
import { eptVpidCapOf } from './nested-capabilities.ts';
import { Processor } from './processor.ts';
import { RecordedExits } from './recorded-exits.ts';
import { RootStates, rootUseOf } from './root-state.ts';
import { Transitions } from './transitions.ts';

/** What the vCPUs of a VM share, and what they do to each other. */
export interface VmParts {
  readonly header: TraceHeader;
  readonly config: KvmConfig;
  readonly host: HostMemory;
  readonly pages: ShadowPages;
  readonly tdpMmu: TdpMmu | null;
  /** Undefined: the profile's own. */
  readonly wiring: WiringName | undefined;
  /** The trace says what comes to KVM; otherwise the machine finds out. */
  readonly recorded: boolean;
  /** The accesses of the trace have no common history. */
  readonly independent: boolean;
  /** KVM's emulator has written to guest memory: an address and so many bytes. */
  readonly written: (lo: number, hi: number, size: number) => void;
  /** Every table of the VM's goes. */
  readonly zapAll: () => void;
}

export class KvmCpu {
  private readonly recorded: boolean;
  readonly processor: Processor;
  readonly vcpu: Vcpu;
  readonly nested: Nested;
  readonly handler: FaultHandler;
  readonly accesses: GuestAccesses;
  private readonly guestRegisters: GuestRegisters;
  private readonly transitions: Transitions;
  private readonly invalidations: Invalidations;
  private readonly exits: RecordedExits;

  /** `number`: 0 to 63. */
  constructor(vm: VmParts, number: number) {
    const { header, config, host, pages, tdpMmu, recorded } = vm;
    const features = pagingFeatures(header);
    const processor = new Processor(header, config, host);
    const { registers } = processor;
    const roots = [new RootStates(host.memory, number, 0), new RootStates(host.memory, number, 1)] as const;
    const hardware = {
      flushAll: () => processor.flushAll(),
      flushCurrent: () => processor.flushCurrent(),
      flushGuest: () => processor.flushGuest(),
      flushAddress: (lo: number, hi: number) => processor.flushAddress(lo, hi),
      useTag: (tag: number) => processor.useTag(config.vendor === 'amd' ? 1 : tag),
      useRoot: (root: Vcpu['mmu']['root']) => {
        if (root === null) processor.setRoot(null);
        else {
          const states = roots[vcpu.nested ? 1 : 0];
          processor.setRoot(states.of(root, roleLevel(vcpu.mmu.rootRole), rootUseOf(vcpu)));
        }
      },
    };
    const memory = host.guestMemory(0);
    const wiring = vm.wiring === undefined ? {} : { wiring: vm.wiring };
    const vcpu = new Vcpu({ pages, tdpMmu, registers, memory, features, hardware, ...wiring });
    const nested = new Nested({ vcpu, hardware, eptVpidCap: eptVpidCapOf(header, recorded) });
    const handler = new FaultHandler(vcpu, tdpMmu, nested);
    const rules = { config, advancedInfo: features.eptAdvancedInfo };
    const faults = new FaultExits(vcpu, handler, rules);
    const emulator = new Emulator(vcpu, handler, vm.written);
    const partial = (header.unknown ?? []).includes('registers');
    this.recorded = recorded;
    this.processor = processor;
    this.vcpu = vcpu;
    this.nested = nested;
    this.handler = handler;
    this.guestRegisters = new GuestRegisters(vcpu, handler, processor, faults, { recorded, partial });
    this.transitions = new Transitions(nested, this.guestRegisters, processor, () => this.run());
    this.invalidations = new Invalidations(vcpu, nested, processor);
    this.exits = new RecordedExits({ vcpu, emulator, processor, faults, handler, rules });
    const forget = (): void => {
      vcpu.unload();
      vm.zapAll();
      processor.flushAll();
    };
    this.accesses = new GuestAccesses({
      vcpu,
      processor,
      handler,
      emulator,
      faults,
      exits: this.exits,
      recorded,
      run: () => this.run(),
      forget: vm.independent ? forget : null,
    });
  }

  /** A REGISTER_SET step. */
  setRegister(register: number, lo: number, hi: number): void {
    this.transitions.set(register, lo, hi);
  }

  /** Memory changes, or more becomes known of it, between steps that set registers. */
  memoryChanges(stores = false): void {
    this.transitions.interrupt(stores);
  }

  /** What was set before takes effect. */
  settle(): void {
    this.transitions.settle();
    if (this.guestRegisters.given) this.guestRegisters.take();
  }

  /** The guest makes an instruction: KVM has entered it. A recording tells of that itself. */
  private run(): void {
    const { vcpu } = this;
    if (!this.recorded && (vcpu.requests !== 0 || vcpu.mmu.root === null)) vcpu.serveRequests();
  }

  /** Applies a step of a vCPU's own. False: it is none. */
  apply(op: number, addressLo: number, addressHi: number, operandLo: number, operandHi: number): boolean {
    const { guestRegisters, exits, accesses, transitions } = this;
    if ((op & STEP_KIND_MASK) !== StepKind.NESTED_ENTRY) this.settle();
    if (transitions.refused && this.applyRefused(op, addressLo, addressHi, operandLo, operandHi)) return true;
    switch (op & STEP_KIND_MASK) {
      case StepKind.ACCESS:
        accesses.access(op, addressLo, addressHi);
        return true;
      case StepKind.GPA_ACCESS:
        accesses.gpaAccess(op, addressLo, addressHi);
        return true;
      case StepKind.REGISTER_WRITE:
        this.run();
        guestRegisters.write(op, operandLo, operandHi);
        return true;
      case StepKind.PDPTE_LOAD:
        this.run();
        guestRegisters.loadPdptes(op, addressLo, addressHi);
        return true;
      case StepKind.INVALIDATE:
        this.run();
        this.invalidations.apply(op, addressLo, addressHi, operandLo, operandHi);
        return true;
      case StepKind.NESTED_ENTRY:
        exits.nestedEntry();
        transitions.enter();
        return true;
      case StepKind.NESTED_EXIT:
        // L2 has run, unless the entry failed (VMX: bit 31 of the reason).
        if (this.nested.active && operandLo >>> 31 === 0) this.run();
        exits.nestedExit(operandLo, addressLo, addressHi);
        transitions.leave();
        return true;
      case StepKind.FAULT_EXIT:
        if (!accesses.isBeyondModel()) exits.faultExit(op, addressLo, addressHi, operandLo, operandHi);
        return true;
      case StepKind.VM_ENTRY:
        exits.entry();
        return true;
      case StepKind.SOFTWARE_WALK:
        if (!accesses.isBeyondModel()) exits.softwareWalk(op, addressLo, addressHi, operandLo);
        return true;
      default:
        return false;
    }
  }

  /** A step of an L2 that was never entered: only its exit says whether the trace knows that. False: an entry. */
  private applyRefused(
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
  ): boolean {
    const { transitions, accesses, exits } = this;
    const kind = op & STEP_KIND_MASK;
    if (kind === StepKind.NESTED_ENTRY) return false;
    if (kind === StepKind.REGISTER_WRITE) {
      this.processor.setRegister((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK, operandLo, operandHi);
    }
    const exit = kind === StepKind.NESTED_EXIT;
    if (exit) transitions.leave();
    if (exit && operandLo >>> 31 !== 0) exits.nestedExit(operandLo, addressLo, addressHi);
    else accesses.notModelled(NotModelled.REFUSED_ENTRY);
    return true;
  }

  takeReflected(reflected: boolean): void {
    this.exits.takeReflected(reflected);
  }

  serves(op: number, lo: number, hi: number): boolean {
    const { transitions } = this;
    if (this.vcpu.requests !== 0 || this.guestRegisters.given || (op & ACCESS_SOFTWARE) !== 0) return false;
    return !transitions.pending && !transitions.refused && this.processor.serves(op, lo, hi);
  }
}
