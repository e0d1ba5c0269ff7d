/** Register writes of whoever runs, L1 or L2: what the processor does itself, and what comes to KVM (facts/kvm-mmu.md §8.3). */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import { OBS_VECTOR_SHIFT, Obs } from '../../formats/observation.ts';
import { CR0_WP, Reg } from '../../formats/registers.ts';
import { REGISTER_WRITE_TASK_SWITCH, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT } from '../../formats/step.ts';
import type { FaultHandler } from '../../mmu/fault-handler.ts';
import { Request, type Vcpu } from '../../mmu/vcpu.ts';
import type { RowLog } from '../../paging/row-log.ts';
import type { FaultExits } from './fault-exits.ts';
import { pushInjected } from './injected.ts';
import { Outcome, type Processor } from './processor.ts';

/** Registers that decide about roles and roots. */
const MMU_REGISTERS = new Set<number>([Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER, Reg.SMM, Reg.GUEST_MODE]);
/** Exits that one instruction may cause. */
const MAXIMUM_EXITS = 64;

export class GuestRegisters {
  /** Registers have been set, not written, since the MMU last looked. */
  given = true;
  private readonly registers: Uint32Array;
  private readonly config: KvmConfig;
  private readonly log: RowLog;
  private readonly vcpu: Vcpu;
  private readonly handler: FaultHandler;
  private readonly processor: Processor;
  private readonly exits: FaultExits;
  /** The trace says itself what came to KVM. */
  private readonly recorded: boolean;
  /** Registers that are set were concluded from what was seen, not given by somebody. */
  private readonly partial: boolean;

  constructor(
    vcpu: Vcpu,
    handler: FaultHandler,
    processor: Processor,
    exits: FaultExits,
    options: { readonly recorded: boolean; readonly partial: boolean },
  ) {
    this.exits = exits;
    this.registers = vcpu.registers;
    this.config = vcpu.pages.config;
    this.log = vcpu.pages.trace.log;
    this.vcpu = vcpu;
    this.handler = handler;
    this.processor = processor;
    this.recorded = options.recorded;
    this.partial = options.partial;
  }

  private low(register: number): number {
    return this.registers[2 * register]!;
  }

  set(register: number, lo: number, hi: number): void {
    if (this.registers[2 * register] === lo >>> 0 && this.registers[2 * register + 1] === hi >>> 0) return;
    this.processor.setRegister(register, lo, hi);
    const pdpte = register >= Reg.PDPTE0 && register <= Reg.PDPTE3;
    if (MMU_REGISTERS.has(register) || pdpte) this.given = true;
  }

  /** Registers were given, as by KVM_SET_SREGS: everything anew (facts/kvm-mmu.md §8.3). */
  take(): void {
    this.given = false;
    const pdptes = this.registers.subarray(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8);
    const { gvaWalk } = this.vcpu;
    const samePdptes = gvaWalk.pdptes.every((word, i) => word >>> 0 === pdptes[i]);
    gvaWalk.pdptes.set(pdptes);
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

  write(op: number, lo: number, hi: number): void {
    const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    // Task switches always exit, and KVM makes them; those of L2 are L1's.
    const taskSwitch = (op & REGISTER_WRITE_TASK_SWITCH) !== 0 && register === Reg.CR3;
    const emulated = taskSwitch && !this.vcpu.guestMode;
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
    if (!this.throughExits(() => processor.writeRegister(op, lo, hi))) return;
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
    processor.registersChanged();
  }

  /** The PDPTE registers are loaded, by an instruction of which the trace has no more than that. */
  loadPdptes(op: number, lo: number, hi: number): void {
    const { vcpu, processor } = this;
    let loaded: boolean;
    if (this.config.tdp && this.config.vendor === 'intel') {
      if (!this.throughExits(() => processor.loadPdptes(op, lo, hi))) return;
      ({ loaded } = processor);
    } else {
      loaded = vcpu.loadPdptes(lo, hi);
      processor.registersChanged();
    }
    this.log.push(Obs.PDPTE_LOADED, 0, 0, loaded ? 1 : 0, 0);
  }

  /**
   * The processor does something of which KVM may have to serve faults. False: the guest, or its hypervisor, gets an
   * exception or an exit instead, which is in the log.
   */
  private throughExits(tries: () => number): boolean {
    const { vcpu, processor } = this;
    // A table of PDPTEs that can never be reached cannot be loaded.
    for (let exits = 0; exits < MAXIMUM_EXITS; exits++) {
      if (!this.recorded) vcpu.serveRequests();
      const outcome = tries();
      if (outcome === Outcome.OK) return true;
      if (outcome !== Outcome.EXIT) break;
      this.exits.handleOf(processor, false);
      if (this.handler.injected === null) continue;
      pushInjected(this.log, this.handler.injected, null);
      return false;
    }
    this.generalProtection();
    return false;
  }
}
