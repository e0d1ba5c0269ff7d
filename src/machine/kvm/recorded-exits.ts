/** Steps of a recording of KVM: what came to it, as it came. */

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
import type { Vcpu } from '../../mmu/vcpu.ts';
import { FETCH, USER, WRITE } from '../../paging/access.ts';
import { IMPLICIT_ACCESS } from '../../paging/kvm-page-walk.ts';
import type { Emulator } from './emulator.ts';
import { errorCodeOf, errorHiOf, errorOfQualification } from './exit-code.ts';
import { Outcome, type Processor } from './processor.ts';

/** Bits 2:0 of an EPT qualification: what was asked; bits 5:3: rights that the entries give. */
const EPT_ASKED = 7;
const EPT_RIGHTS_SHIFT = 3;
const EPT_RIGHTS = EPT_ASKED << EPT_RIGHTS_SHIFT;

export class RecordedExits {
  private readonly vcpu: Vcpu;
  private readonly handler: FaultHandler;
  private readonly emulator: Emulator;
  private readonly processor: Processor;

  constructor(vcpu: Vcpu, handler: FaultHandler, emulator: Emulator, processor: Processor) {
    this.vcpu = vcpu;
    this.handler = handler;
    this.emulator = emulator;
    this.processor = processor;
  }

  faultExit(op: number, lo: number, hi: number, errorLo: number, errorHi: number): void {
    const misconfig = (op & FAULT_MISCONFIG) !== 0;
    if (!misconfig) this.vcpu.pages.trace.pageFault(lo, hi, this.predictedError(op, lo, hi, errorLo), errorHi);
    const during = (op & FAULT_DURING_EVENT) !== 0;
    this.handler.cpl3 = (op & FAULT_CPL3) !== 0;
    this.vcpu.prepareWalk((op & FAULT_AC) !== 0);
    const { config } = this.vcpu.pages;
    const code = errorCodeOf(errorLo, misconfig, config);
    this.handler.handle(lo, hi, code, during, errorHiOf(errorLo, errorHi, misconfig, config));
    this.emulator.gpaAvailable = this.vcpu.mmu.direct;
    this.emulator.gpaLo = lo;
    this.emulator.gpaHi = hi;
  }

  /**
   * What the processor would report of the access with the tables as they are: from the recording come only the bits
   * that say what was asked (write, user, fetch; of an EPT qualification also those about the linear address). Tables that
   * let it through leave an older TLB entry as the only reason, and such a fault says "present".
   */
  private predictedError(op: number, lo: number, hi: number, error: number): number {
    const { processor, vcpu } = this;
    const { config } = vcpu.pages;
    const { tdp, vendor } = config;
    if (vcpu.mmu.root === null) return error;
    if (tdp) {
      const access = vendor === 'intel' ? errorOfQualification(error, config) : error;
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
    if ((op & SOFTWARE_OPERAND) !== 0)
      this.emulator.operand(lo, hi, bits, { ac, quiet, rmw: (op & SOFTWARE_RMW) !== 0 });
    else this.emulator.walk(lo, hi, bits, { ac, quiet });
  }

  entry(): void {
    this.emulator.gpaAvailable = false;
    this.vcpu.serveRequests();
  }
}
