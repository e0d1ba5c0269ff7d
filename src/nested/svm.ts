/** VMRUN, #VMEXIT and nested page faults (facts/kvm-mmu.md §7.2, §7.4, §8.6; facts/kvm-6.1.md §8). */

import { NESTED_GMET, NESTED_NP_ENABLE, Reg } from '../formats/registers.ts';
import { type HardwareExit, Inject, type Injection } from '../mmu/injection.ts';
import { Mutant } from '../mmu/mutants.ts';
import { Request, type Vcpu } from '../mmu/vcpu.ts';
import { leave, loadCr3, type NestedVendor, translatesAnyway } from './transition.ts';

const PF_BIT = 1 << 14;
/** VMCB exit codes (APM vol. 2, appendix C). */
const EXIT_PAGE_FAULT = 0x4e;
const EXIT_NPF = 0x400;
/** EXITINFO1 bits 33:32, as a high half: whether a page of guest tables or the final address was translated. */
const STAGE_FINAL = 1 << 0;
const STAGE_PAGE = 1 << 1;
const STAGE = STAGE_FINAL | STAGE_PAGE;

export class NestedSvm implements NestedVendor {
  private readonly vcpu: Vcpu;

  constructor(vcpu: Vcpu) {
    this.vcpu = vcpu;
  }

  private low(register: number): number {
    return this.vcpu.registers[2 * register]!;
  }

  /** Made before guest_mmu comes into force, served when L2 is entered: in L2's context. */
  private flushOnTransition(): void {
    this.vcpu.request(Request.MMU_SYNC | Request.TLB_FLUSH_CURRENT);
  }

  enter(l1: Uint32Array): boolean {
    const { vcpu } = this;
    const control = this.low(Reg.NESTED_CONTROL);
    const nestedTdp = vcpu.pages.config.tdp && (control & NESTED_NP_ENABLE) !== 0;
    this.flushOnTransition();
    const tables = { cr4: l1[2 * Reg.CR4]!, efer: l1[2 * Reg.EFER]! };
    if (nestedTdp) {
      vcpu.useNestedTdp(true);
      vcpu.initShadowNpt(tables, (control & NESTED_GMET) !== 0);
      vcpu.newPgd();
    } else if (translatesAnyway(vcpu)) {
      vcpu.initShadowNpt(tables, false);
      vcpu.wiring.switched(true);
    }
    return loadCr3(vcpu, nestedTdp);
  }

  exit(): void {
    const { vcpu } = this;
    this.flushOnTransition();
    vcpu.useNestedTdp(false);
    leave(vcpu);
  }

  /** nested_svm_inject_npf_exit. */
  reflect(fromHardware: boolean, exit: HardwareExit, injection: Injection): void {
    const { walkFault, pages } = this.vcpu;
    injection.kind = Inject.NPF;
    injection.infoLo = walkFault.errorCode;
    injection.lo = walkFault.addressLo;
    injection.hi = walkFault.addressHi;
    if (pages.config.profile !== '6.1') {
      const stage = (fromHardware ? exit.infoHi : walkFault.errorCodeHi) & STAGE;
      const always = !fromHardware && pages.mutants.has(Mutant.NPF_ALWAYS_FINAL);
      const known = !always && (stage === STAGE_FINAL || stage === STAGE_PAGE);
      injection.infoHi = (walkFault.errorCodeHi & ~STAGE) | (known ? stage : STAGE_FINAL);
      return;
    }
    // 6.1 leaves what the processor reported, also when it is the emulator's walk that fails after the fault.
    const reported = exit.kind === 'npf';
    injection.infoHi = reported ? exit.infoHi : STAGE_FINAL;
    if (!reported) return;
    injection.lo = exit.lo;
    injection.hi = exit.hi;
  }

  interceptsPageFault(): boolean {
    return (this.low(Reg.EXCEPTION_BITMAP) & PF_BIT) !== 0;
  }

  traceInjection(injection: Injection): void {
    const { kind, lo, hi, infoLo, infoHi } = injection;
    const code = kind === Inject.NPF ? EXIT_NPF : EXIT_PAGE_FAULT;
    this.vcpu.pages.trace.nestedVmexitInject(code, infoLo, infoHi, lo, hi, 0, 0);
  }
}
