/** Steps of a recording of KVM: what came to it, as it came. */

import { NESTED_NP_ENABLE, Reg, SECONDARY_EPT } from '../../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_SHIFT,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  FAULT_AC,
  FAULT_CPL3,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  SOFTWARE_RMW,
  StepKind,
} from '../../formats/step.ts';
import { PFERR_F, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W } from '../../mmu/fault.ts';
import type { FaultHandler } from '../../mmu/fault-handler.ts';
import { Inject } from '../../mmu/injection.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import { FETCH, USER, WRITE } from '../../paging/access.ts';
import { IMPLICIT_ACCESS } from '../../paging/kvm-page-walk.ts';
import type { Emulator } from './emulator.ts';
import { errorOfQualification, type QualificationRules } from './exit-code.ts';
import type { FaultExits } from './fault-exits.ts';
import { Outcome, type Processor } from './processor.ts';

/** Bits 2:0 of an EPT qualification: what was asked; bits 5:3: rights that the entries give. */
const EPT_ASKED = 7;
const EPT_RIGHTS_SHIFT = 3;
const EPT_RIGHTS = EPT_ASKED << EPT_RIGHTS_SHIFT;

// Exit reasons and codes (SDM vol. 3D appendix C, APM vol. 2 appendix C).
const VMX_EXCEPTION = 0;
const VMX_EPT_VIOLATION = 48;
const VMX_EPT_MISCONFIG = 49;
/** The entry failed after all: there was no exit. */
const VMX_FAILED_ENTRY = 0x8000_0000;
const SVM_PAGE_FAULT = 0x4e;
const SVM_NPF = 0x400;
/** VMEXIT_INVALID: VMRUN failed. */
const SVM_FAILED_ENTRY = 0xffff_ffff;
/**
 * Exits that KVM itself has for L1: external interrupt and INIT; INTR, NMI, SMI, INIT, a VMRUN that it refuses. The
 * processor's own interrupts are the host's.
 */
const VMX_EVENTS: readonly number[] = [1, 3];
const SVM_EVENTS: readonly number[] = [0x60, 0x61, 0x62, 0x63, SVM_FAILED_ENTRY];

export interface RecordedExitsParts {
  readonly vcpu: Vcpu;
  readonly emulator: Emulator;
  readonly processor: Processor;
  readonly faults: FaultExits;
  readonly handler: FaultHandler;
  readonly rules: QualificationRules;
}

export class RecordedExits {
  private readonly vcpu: Vcpu;
  private readonly emulator: Emulator;
  private readonly processor: Processor;
  private readonly faults: FaultExits;
  private readonly handler: FaultHandler;
  private readonly rules: QualificationRules;
  /** L1 has been given an exit by the MMU since L2 was entered: the NESTED_EXIT step that follows is that. */
  private reflected = false;

  constructor(parts: RecordedExitsParts) {
    this.vcpu = parts.vcpu;
    this.emulator = parts.emulator;
    this.processor = parts.processor;
    this.faults = parts.faults;
    this.handler = parts.handler;
    this.rules = parts.rules;
  }

  faultExit(op: number, lo: number, hi: number, errorLo: number, errorHi: number): void {
    const { vcpu, faults, emulator, handler } = this;
    const { trace } = vcpu.pages;
    const misconfig = (op & FAULT_MISCONFIG) !== 0;
    const error = misconfig ? 0 : this.predictedError(op, lo, hi, errorLo);
    if (vcpu.guestMode) this.traceExitOfL2(lo, hi, error, errorHi, misconfig);
    if (!misconfig) trace.pageFault(lo, hi, error, errorHi);
    handler.cpl3 = (op & FAULT_CPL3) !== 0;
    const state = { ac: (op & FAULT_AC) !== 0, duringEvent: (op & FAULT_DURING_EVENT) !== 0 };
    faults.handle(lo, hi, errorLo, errorHi, misconfig, state);
    this.noteReflected();
    emulator.gpaAvailable = vcpu.mmu.direct;
    emulator.gpaLo = lo;
    emulator.gpaHi = hi;
  }

  /** The kernel says of L2's exits what the processor said of them. */
  private traceExitOfL2(lo: number, hi: number, errorLo: number, errorHi: number, misconfig: boolean): void {
    const { config, trace } = this.vcpu.pages;
    if (config.vendor === 'amd') trace.nestedVmexit(config.tdp ? SVM_NPF : SVM_PAGE_FAULT, errorLo, errorHi, lo, hi);
    else if (!config.tdp) trace.nestedVmexit(VMX_EXCEPTION, lo, hi, 0, 0);
    else trace.nestedVmexit(misconfig ? VMX_EPT_MISCONFIG : VMX_EPT_VIOLATION, errorLo, errorHi, 0, 0);
  }

  /** After the MMU has had a fault, or a walk has failed. */
  noteReflected(): void {
    const { injected } = this.handler;
    if (injected !== null && injected.kind !== Inject.PAGE_FAULT) this.reflected = true;
  }

  /** The recording says otherwise. */
  takeReflected(reflected: boolean): void {
    this.reflected = reflected;
  }

  /** L1 enters L2, as registers say. */
  nestedEntry(): void {
    const { registers, pages } = this.vcpu;
    const { config, trace } = pages;
    const vmx = config.vendor === 'intel';
    const control = registers[2 * (vmx ? Reg.SECONDARY_CONTROLS : Reg.NESTED_CONTROL)]!;
    const tdp = (control & (vmx ? SECONDARY_EPT : NESTED_NP_ENABLE)) !== 0;
    const root = !tdp ? Reg.CR3 : vmx ? Reg.EPTP : Reg.NCR3;
    trace.nestedVmenter(tdp, registers[2 * root]!, registers[2 * root + 1]!);
    if (!vmx) trace.nestedIntercepts(registers[2 * Reg.EXCEPTION_BITMAP]!);
    this.reflected = false;
  }

  /** L1 gets an exit: of the MMU's doing, which has told of it, or another's. */
  nestedExit(reason: number, infoLo: number, infoHi: number): void {
    const { config, trace } = this.vcpu.pages;
    const vmx = config.vendor === 'intel';
    const failedEntry = vmx && (reason & VMX_FAILED_ENTRY) !== 0;
    if (!this.reflected && !failedEntry) {
      const ofProcessor = !(vmx ? VMX_EVENTS : SVM_EVENTS).includes(reason >>> 0);
      if (ofProcessor) trace.nestedVmexit(reason, infoLo, infoHi, 0, 0);
      trace.nestedVmexitInject(reason, infoLo, infoHi, 0, 0, 0, 0);
    }
    this.reflected = false;
  }

  /**
   * What the processor would report of the access with the tables as they are: from the recording come only the bits
   * that say what was asked (write, user, fetch; of an EPT qualification also those about the linear address). Tables that
   * let it through leave an older TLB entry as the only reason, and such a fault says "present".
   */
  private predictedError(op: number, lo: number, hi: number, error: number): number {
    const { processor, vcpu, rules } = this;
    const { tdp, vendor } = rules.config;
    if (vcpu.mmu.root === null) return error;
    if (tdp) {
      const access = vendor === 'intel' ? errorOfQualification(error, rules, false) : error;
      if (processor.probeGpa(access, lo, hi) !== Outcome.EXIT)
        return vendor === 'intel' ? error | ((error & EPT_ASKED) << EPT_RIGHTS_SHIFT) : (error | PFERR_P) & ~PFERR_RSVD;
      if (vendor === 'intel') return (error & ~EPT_RIGHTS) | (processor.exitLo & EPT_RIGHTS);
      return (error & ~(PFERR_P | PFERR_RSVD)) | (processor.exitLo & (PFERR_P | PFERR_RSVD));
    }
    const type =
      (error & PFERR_F) !== 0 ? AccessType.FETCH : (error & PFERR_W) !== 0 ? AccessType.WRITE : AccessType.READ;
    const user = (error & PFERR_U) !== 0 ? ACCESS_USER | (3 << ACCESS_CPL_SHIFT) : 0;
    const ac = (op & FAULT_AC) !== 0 ? ACCESS_AC : 0;
    const access = StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT) | user | ac;
    if (processor.probe(access, lo, hi) !== Outcome.EXIT) return (error | PFERR_P) & ~PFERR_RSVD;
    return (error & ~(PFERR_P | PFERR_RSVD)) | (processor.exitLo & (PFERR_P | PFERR_RSVD));
  }

  softwareWalk(op: number, lo: number, hi: number, access: number): void {
    const bits = (access & (WRITE | USER | FETCH)) | ((op & SOFTWARE_IMPLICIT) !== 0 ? IMPLICIT_ACCESS : 0);
    const ac = (op & SOFTWARE_AC) !== 0;
    const quiet = (op & SOFTWARE_QUIET) !== 0;
    this.handler.injected = null;
    if ((op & SOFTWARE_OPERAND) !== 0)
      this.emulator.operand(lo, hi, bits, { ac, quiet, rmw: (op & SOFTWARE_RMW) !== 0 });
    else this.emulator.walk(lo, hi, bits, { ac, quiet });
    this.noteReflected();
  }

  entry(): void {
    this.emulator.gpaAvailable = false;
    this.vcpu.exit.kind = 'none';
    this.vcpu.serveRequests();
  }
}
