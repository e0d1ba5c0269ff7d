/** A fault while it is handled (`struct kvm_page_fault`), and how handling ended (`RET_PF_*`; facts/kvm-mmu.md §6.2). */

import type { Slot } from './host.ts';

export const RetPf = {
  CONTINUE: 0,
  RETRY: 1,
  EMULATE: 2,
  /** The frame is write-tracked or shadowed: unprotect and retry, or emulate. 6.1 says EMULATE. */
  WRITE_PROTECTED: 3,
  INVALID: 4,
  FIXED: 5,
  SPURIOUS: 6,
} as const;

/** No memslot: what `pfn` is then. */
export const NO_SLOT_PFN = -1;

export const PFERR_P = 1 << 0;
export const PFERR_W = 1 << 1;
export const PFERR_U = 1 << 2;
export const PFERR_RSVD = 1 << 3;
export const PFERR_F = 1 << 4;
/** In the high half: the fault met one of the tables that the guest's processor reads (facts/kvm-mmu.md, PFEC bit 33). */
export const PFERR_HI_GUEST_PAGE = 1 << 1;

export class Fault {
  /** Guest-physical under TDP, else linear. */
  lo = 0;
  hi = 0;
  /** Low half of the error code. */
  errorCode = 0;
  /** GUEST_FINAL or GUEST_PAGE, if the processor told which of L2's addresses it was (7.3, guest_mmu); else 0. */
  stage = 0;
  write = false;
  exec = false;
  user = false;
  present = false;
  rsvd = false;
  isTdp = false;
  prefetch = false;
  nxHugePageWorkaround = false;
  hugePageDisallowed = false;
  maxLevel = 3;
  reqLevel = 1;
  goalLevel = 1;
  gfn = 0;
  slot: Slot | null = null;
  /** Host frame, or NO_SLOT_PFN. */
  pfn = NO_SLOT_PFN;
  mapWritable = false;
  /** Of the host, when the frame was looked up. */
  invalidations = 0;
  /** The guest writes to the very table that maps what it writes to. */
  writeFaultToShadowPageTable = false;

  begin(lo: number, hi: number, errorCode: number, isTdp: boolean): void {
    this.lo = lo | 0;
    this.hi = hi | 0;
    this.errorCode = errorCode;
    this.write = (errorCode & PFERR_W) !== 0;
    this.exec = (errorCode & PFERR_F) !== 0;
    this.user = (errorCode & PFERR_U) !== 0;
    this.present = (errorCode & PFERR_P) !== 0;
    this.rsvd = (errorCode & PFERR_RSVD) !== 0;
    this.isTdp = isTdp;
    this.prefetch = false;
    this.hugePageDisallowed = false;
    this.maxLevel = 3;
    this.reqLevel = 1;
    this.goalLevel = 1;
    this.gfn = (hi >>> 0) * 0x10_0000 + (lo >>> 12);
    this.slot = null;
    this.pfn = NO_SLOT_PFN;
    this.mapWritable = false;
    this.writeFaultToShadowPageTable = false;
  }
}
