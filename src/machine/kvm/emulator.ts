/**
 * What KVM's instruction emulator does with memory: one access, its walk, and whether it finds MMIO
 * (facts/kvm-6.1.md §7.2). Which instruction it was is not asked.
 */

import type { FaultHandler } from '../../mmu/fault-handler.ts';
import { frameHi, frameLo } from '../../mmu/spte.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import { FETCH, USER, WRITE } from '../../paging/access.ts';
import { IMPLICIT_ACCESS } from '../../paging/kvm-page-walk.ts';
import { permissionFault } from '../../paging/permission-fault.ts';
import { ACC_READ } from '../../paging/permissions.ts';
import { softwareWalk } from '../../paging/software-walk.ts';

const MMIO_READ_UNSATISFIED = 0;
const MMIO_READ = 1;
const MMIO_WRITE = 2;

/** How an access is made. */
export interface AccessManner {
  /** RFLAGS.AC. */
  readonly ac: boolean;
  /** A failure is dropped. */
  readonly quiet?: boolean;
  /** What is read will be written: a failure to read is one to write. */
  readonly rmw?: boolean;
}

export class Emulator {
  private readonly vcpu: Vcpu;
  private readonly handler: FaultHandler;
  /** The guest-physical address that the fault being emulated gave, under a direct MMU. */
  gpaAvailable = false;
  gpaLo = 0;
  gpaHi = 0;
  // Result of the last access.
  lo = 0;
  hi = 0;

  constructor(vcpu: Vcpu, handler: FaultHandler) {
    this.vcpu = vcpu;
    this.handler = handler;
  }

  /**
   * Walks for an access; `access`: W, U, F as in error codes, and IMPLICIT_ACCESS. False: it failed, and unless it is
   * `quiet` the guest has got its fault.
   */
  walk(lo: number, hi: number, access: number, how: AccessManner): boolean {
    const { cpuWalk } = this.vcpu;
    this.vcpu.prepareWalk(how.ac);
    if (!softwareWalk(cpuWalk, lo, hi, access)) {
      if (how.rmw === true) cpuWalk.fault.errorCode |= WRITE;
      if (how.quiet !== true) this.handler.injectWalkFault(cpuWalk);
      return false;
    }
    this.lo = frameLo(cpuWalk.gfn) | (lo & 0xfff);
    this.hi = frameHi(cpuWalk.gfn);
    return true;
  }

  /** An operand is read or written; what has no memory is MMIO. False: the guest has got a fault. */
  operand(lo: number, hi: number, access: number, how: AccessManner): boolean {
    const { vcpu } = this;
    const { mmioCache, pages } = vcpu;
    const write = (access & WRITE) !== 0;
    mmioCache.current = pages.host.generation;
    let mmio = false;
    if (this.gpaAvailable && (lo & 0xfff) === (this.gpaLo & 0xfff)) {
      this.lo = this.gpaLo;
      this.hi = this.gpaHi;
      mmio = this.matchesGpa(lo, hi, write);
    } else if (mmioCache.matchesGva(lo, hi) && this.cachedAccessAllows(access, how.ac)) {
      this.lo = frameLo(mmioCache.gfn) | (lo & 0xfff);
      this.hi = frameHi(mmioCache.gfn);
      pages.trace.matchMmio(lo, hi, this.lo, this.hi, write, false);
      mmio = true;
    } else {
      if (!this.walk(lo, hi, access, how)) return false;
      mmio = this.matchesGpa(lo, hi, write);
    }
    if (mmio || !this.isMemory(write)) this.pushMmio(write);
    return true;
  }

  /** User space answers: a read is asked for first, and done when the answer is there. */
  private pushMmio(write: boolean): void {
    const { trace } = this.vcpu.pages;
    if (write) {
      trace.mmio(MMIO_WRITE, this.lo, this.hi);
      return;
    }
    trace.mmio(MMIO_READ_UNSATISFIED, this.lo, this.hi);
    trace.mmio(MMIO_READ, this.lo, this.hi);
  }

  private matchesGpa(lo: number, hi: number, write: boolean): boolean {
    if (!this.vcpu.mmioCache.matchesGpa(this.lo, this.hi)) return false;
    this.vcpu.pages.trace.matchMmio(lo, hi, this.lo, this.hi, write, true);
    return true;
  }

  private cachedAccessAllows(access: number, ac: boolean): boolean {
    const { vcpu } = this;
    if (!vcpu.paging) return true;
    vcpu.prepareWalk(ac);
    return (
      permissionFault(
        vcpu.cpuWalk,
        vcpu.mmioCache.access | ACC_READ,
        0,
        access & (WRITE | USER | FETCH | IMPLICIT_ACCESS),
      ) === 0
    );
  }

  private isMemory(write: boolean): boolean {
    const gfn = (this.hi >>> 0) * 0x10_0000 + (this.lo >>> 12);
    const slot = this.vcpu.pages.host.slotOf(gfn, this.vcpu.addressSpace);
    return slot !== null && !slot.invalid && !(write && slot.readOnly);
  }
}
