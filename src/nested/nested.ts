/**
 * KVM below a guest that is a hypervisor itself, as far as the MMU is concerned: what it does when L1 enters L2 and when
 * L2 leaves, which of L2's faults L1 gets, and L1's invalidations (facts/kvm-mmu.md §7, §8.4 to §8.6). A register file
 * holds the state of whoever runs; controls in it are those that L1 gave its L2.
 */

import type { Hardware } from '../mmu/hardware.ts';
import type { HardwareExit, Injection, NestedHypervisor } from '../mmu/injection.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import type { EptVpidCap } from './eptp.ts';
import { NestedSvm } from './svm.ts';
import type { NestedVendor } from './transition.ts';
import { NestedVmx } from './vmx.ts';

export interface NestedParts {
  readonly vcpu: Vcpu;
  readonly hardware: Hardware;
  /** IA32_VMX_EPT_VPID_CAP as L1 reads it; of no account on SVM. */
  readonly eptVpidCap: EptVpidCap;
}

export class Nested implements NestedHypervisor {
  private readonly vcpu: Vcpu;
  private readonly vmx: NestedVmx | null;
  private readonly vendor: NestedVendor;
  /** L2 runs. */
  active = false;

  constructor(parts: NestedParts) {
    const { vcpu, hardware, eptVpidCap } = parts;
    this.vcpu = vcpu;
    this.vmx = vcpu.pages.config.vendor === 'intel' ? new NestedVmx(vcpu, hardware, eptVpidCap) : null;
    this.vendor = this.vmx ?? new NestedSvm(vcpu);
  }

  /**
   * L1 enters L2: VMRUN, VMLAUNCH or VMRESUME is emulated. Registers hold L2's state and controls; `l1`: the registers as
   * L1 had them. Roots come when requests are served. False: a PDPTE of L2's has a reserved bit, the entry fails, and
   * `exit` is to follow.
   */
  enter(l1: Uint32Array): boolean {
    this.active = true;
    return this.vendor.enter(l1);
  }

  /** L1 gets an exit of L2's: registers hold L1's state again. */
  exit(): void {
    this.active = false;
    this.vendor.exit();
  }

  reflect(fromHardware: boolean, exit: HardwareExit, injection: Injection): void {
    this.vendor.reflect(fromHardware, exit, injection);
  }

  interceptsPageFault(errorCode: number): boolean {
    return this.vendor.interceptsPageFault(errorCode);
  }

  traceInjection(injection: Injection): void {
    this.vendor.traceInjection(injection);
  }

  /**
   * The event of an exit to L1 that something else than the MMU raised: exit reason or code, qualification or EXITINFO1,
   * EXITINFO2 (SVM), interruption information and its error code (VMX).
   */
  traceExit(
    code: number,
    info1Lo: number,
    info1Hi: number,
    info2Lo: number,
    info2Hi: number,
    intInfo: number,
    intErr: number,
  ): void {
    if (this.vmx !== null) this.vmx.traceExit(code, info1Lo, info1Hi, intInfo, intErr);
    else this.vcpu.pages.trace.nestedVmexitInject(code, info1Lo, info1Hi, info2Lo, info2Hi, intInfo, intErr);
  }

  /** INVEPT by L1. False: VMfail, nothing happens. */
  invept(type: number, eptpLo: number, eptpHi: number): boolean {
    return this.vmx?.invept(type, eptpLo, eptpHi) ?? false;
  }

  /** INVVPID by L1; `lo`, `hi`: linear address. False: VMfail, nothing happens. */
  invvpid(type: number, vpid: number, lo: number, hi: number): boolean {
    return this.vmx?.invvpid(type, vpid, lo, hi) ?? false;
  }

  /** INVLPGA by L1, in which KVM sees an INVLPG. */
  invlpga(lo: number, hi: number, asid: number): void {
    const { vcpu } = this;
    const high = vcpu.longMode ? hi : 0;
    vcpu.pages.trace.invlpga(lo, high, asid);
    vcpu.invlpg(lo, high);
  }

  /** VMFUNC leaf 0 by L2. False: L1 gets an exit. */
  vmfunc(index: number): boolean {
    return this.vmx?.vmfunc(index) ?? false;
  }

  /** The same, of which only the EPTP is known that the list has. */
  switchEptp(lo: number, hi: number): boolean {
    return this.vmx?.switchEptp(lo, hi) ?? false;
  }
}
