/** An exit that the processor makes because of a fault, handed to the MMU as KVM's exit handlers do (facts/kvm-mmu.md §6.1). */

import type { FaultHandler } from '../../mmu/fault-handler.ts';
import type { HardwareExit } from '../../mmu/injection.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import { ErrorCode, type QualificationRules } from './exit-code.ts';
import type { Processor } from './processor.ts';
import { rootUseOf } from './root-state.ts';

/** How the guest stood when it faulted. */
export interface FaultState {
  /** RFLAGS.AC. */
  readonly ac: boolean;
  /** An event was being delivered. */
  readonly duringEvent: boolean;
}

export class FaultExits {
  private readonly vcpu: Vcpu;
  private readonly handler: FaultHandler;
  private readonly errorCode: ErrorCode;

  constructor(vcpu: Vcpu, handler: FaultHandler, rules: QualificationRules) {
    this.vcpu = vcpu;
    this.handler = handler;
    this.errorCode = new ErrorCode(rules);
  }

  private kindOf(misconfig: boolean): HardwareExit['kind'] {
    const { tdp, vendor } = this.vcpu.pages.config;
    if (!tdp) return 'page-fault';
    if (vendor === 'amd') return 'npf';
    return misconfig ? 'ept-misconfig' : 'ept-violation';
  }

  /**
   * The processor reports a fault at guest-physical address or CR2 `lo`:`hi`; `infoLo`, `infoHi`: error code, EXITINFO1 or
   * exit qualification. Returns `RetPf`.
   */
  handle(lo: number, hi: number, infoLo: number, infoHi: number, misconfig: boolean, state: FaultState): number {
    const { vcpu, errorCode } = this;
    const { exit } = vcpu;
    exit.kind = this.kindOf(misconfig);
    exit.lo = lo;
    exit.hi = hi;
    exit.infoLo = infoLo;
    exit.infoHi = infoHi;
    vcpu.prepareWalk(state.ac);
    errorCode.take(infoLo, infoHi, misconfig, rootUseOf(vcpu).splitsExecute);
    return this.handler.handle(lo, hi, errorCode.lo, state.duringEvent, errorCode.hi);
  }

  /** The same with what the processor has just met. */
  handleOf({ faultLo, faultHi, exitLo, exitHi, misconfig }: Processor, ac: boolean): number {
    return this.handle(faultLo, faultHi, exitLo, exitHi, misconfig, { ac, duringEvent: false });
  }
}
