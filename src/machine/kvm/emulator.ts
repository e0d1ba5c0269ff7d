/**
 * What KVM's instruction emulator does with memory: one access, its walk, and whether it finds MMIO
 * (facts/kvm-6.1.md §7.2). Which instruction it was is not asked.
 */

import { OBS_PAGE_SHIFT_SHIFT, OBS_VECTOR_SHIFT, Obs } from '../../formats/observation.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_SOFTWARE,
  ACCESS_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
} from '../../formats/step.ts';
import type { FaultHandler } from '../../mmu/fault-handler.ts';
import { frameHi, frameLo, frameOf } from '../../mmu/spte.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import { FETCH, USER, WRITE } from '../../paging/access.ts';
import { gpteFrame } from '../../paging/guest-entry.ts';
import { IMPLICIT_ACCESS, PteFormat } from '../../paging/kvm-page-walk.ts';
import { permissionFault } from '../../paging/permission-fault.ts';
import { ACC_READ } from '../../paging/permissions.ts';
import { softwareWalk } from '../../paging/software-walk.ts';
import { pushInjected } from './injected.ts';

/** The local APIC's registers: MMIO whatever is known of the page. */
const APIC_PAGE = 0xfee0_0000 | 0;

const MMIO_READ_UNSATISFIED = 0;
const MMIO_READ = 1;
const MMIO_WRITE = 2;

const UD_VECTOR = 6;
const SS_VECTOR = 12;
const GP_VECTOR = 13;

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
  private readonly onWrite: (lo: number, hi: number, size: number) => void;
  /** The guest-physical address that the fault being emulated gave, under a direct MMU. */
  gpaAvailable = false;
  gpaLo = 0;
  gpaHi = 0;
  // Result of the last access.
  lo = 0;
  hi = 0;

  /** `onWrite`: memory is written, at an address and so many bytes. */
  constructor(vcpu: Vcpu, handler: FaultHandler, onWrite: (lo: number, hi: number, size: number) => void) {
    this.vcpu = vcpu;
    this.handler = handler;
    this.onWrite = onWrite;
  }

  /**
   * Walks for an access; `access`: W, U, F as in error codes, and IMPLICIT_ACCESS. False: it failed, and unless it is
   * `quiet` the guest has got its fault.
   */
  walk(lo: number, hi: number, access: number, how: AccessManner): boolean {
    const { gvaWalk } = this.vcpu;
    this.vcpu.prepareWalk(how.ac);
    if (!softwareWalk(gvaWalk, lo, hi, access)) {
      if (how.rmw === true) gvaWalk.fault.errorCode |= WRITE;
      if (how.quiet !== true) this.handler.injectWalkFault(gvaWalk);
      return false;
    }
    this.lo = frameLo(gvaWalk.gfn) | (lo & 0xfff);
    this.hi = frameHi(gvaWalk.gfn);
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

  /** User space answers: a read is asked for first, and done when the answer is there. The local APIC is KVM's own. */
  private pushMmio(write: boolean): void {
    const { trace } = this.vcpu.pages;
    if (!write && this.isApicPage) {
      trace.mmio(MMIO_READ, this.lo, this.hi);
      return;
    }
    if (write) {
      trace.mmio(MMIO_WRITE, this.lo, this.hi);
      return;
    }
    trace.mmio(MMIO_READ_UNSATISFIED, this.lo, this.hi);
    trace.mmio(MMIO_READ, this.lo, this.hi);
  }

  private get isApicPage(): boolean {
    return (this.lo & ~0xfff) === APIC_PAGE && this.hi === 0;
  }

  private matchesGpa(lo: number, hi: number, write: boolean): boolean {
    if (this.isApicPage) return true;
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
        vcpu.gvaWalk,
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

  /** The frame that the last walk found in the guest's own tables: L2's, if the second stage had yet to translate it. */
  private guestFrame(lo: number, hi: number): number {
    const { nested, gvaWalk } = this.vcpu;
    if (!nested) return gvaWalk.gfn;
    const { level } = gvaWalk;
    if (level === 0) return frameOf(lo, hi & 0xf_ffff);
    const shift = gvaWalk.format === PteFormat.PAGING32 ? 2 + 10 * level : 3 + 9 * level;
    const within = (lo & ((1 << shift) - 1)) >>> 12;
    return gpteFrame(gvaWalk, level, gvaWalk.entryLo[level]!, gvaWalk.entryHi[level]!) + within;
  }

  /** The instruction emulator makes an access of the guest's. */
  access(op: number, lo: number, hi: number): void {
    const { log } = this.vcpu.pages.trace;
    if (!this.vcpu.isCanonical(hi)) {
      // Found before the walk, where the segment is applied.
      const vector = (op & ACCESS_STACK) !== 0 ? SS_VECTOR : GP_VECTOR;
      log.push(Obs.EXCEPTION | (vector << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
      return;
    }
    const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
    const ac = (op & ACCESS_AC) !== 0;
    const user = (op & ACCESS_USER) !== 0;
    const implicit = !user && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3;
    const base = (user ? USER : 0) | (implicit ? IMPLICIT_ACCESS : 0);
    const reads = type === AccessType.READ || type === AccessType.RMW;
    const writes = type === AccessType.WRITE || type === AccessType.RMW;
    // An instruction that cannot be fetched under the forced emulation prefix ends in #UD.
    const undefinedOpcode = type === AccessType.FETCH && (op & ACCESS_SOFTWARE) !== 0;
    let done = true;
    if (type === AccessType.FETCH) done = this.walk(lo, hi, base | FETCH, { ac, quiet: undefinedOpcode });
    if (reads) done = this.walk(lo, hi, base, { ac, rmw: writes });
    if (done && writes) done = this.walk(lo, hi, base | WRITE, { ac });
    if (done) {
      if (writes) this.onWrite(this.lo & ~7, this.hi, 8);
      const gfn = this.guestFrame(lo, hi);
      const row = Obs.TRANSLATED | (12 << OBS_PAGE_SHIFT_SHIFT);
      log.push(row, this.lo, this.hi, frameLo(gfn) | (lo & 0xfff), frameHi(gfn));
    } else if (undefinedOpcode) {
      log.push(Obs.EXCEPTION | (UD_VECTOR << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
    } else {
      pushInjected(log, this.handler.injected!, null);
    }
  }
}
