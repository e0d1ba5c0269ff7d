/** Requests to a vCPU: what has to be done before its guest runs again, and roots (facts/kvm-mmu.md §8.1, §8.2). */

import { Contexts } from './contexts.ts';
import { Tag } from './hardware.ts';
import { Mutant } from './mutants.ts';

/** In the order in which they are served. */
export const Request = {
  FREE_OBSOLETE_ROOTS: 1 << 0,
  MMU_SYNC: 1 << 1,
  LOAD_MMU_PGD: 1 << 2,
  TLB_FLUSH: 1 << 3,
  TLB_FLUSH_CURRENT: 1 << 4,
  TLB_FLUSH_GUEST: 1 << 5,
} as const;

export class Requests extends Contexts {
  requests = 0;
  /** The guest's root is in no memslot: the vCPU cannot run. */
  tripleFault = false;

  request(what: number): void {
    this.requests |= what;
  }

  private take(what: number): boolean {
    const asked = (this.requests & what) !== 0;
    this.requests &= ~what;
    return asked;
  }

  /** Serves the requests and sees to it that there is a root. */
  serveRequests(): void {
    this.tripleFault = false;
    if (this.take(Request.FREE_OBSOLETE_ROOTS)) {
      this.rootMmu.freeObsolete();
      this.guestMmu.freeObsolete();
      if (this.mmu.root === null) this.hardware.useRoot(null);
    }
    if (this.take(Request.MMU_SYNC)) this.syncRoots();
    if (this.take(Request.LOAD_MMU_PGD)) this.hardware.useRoot(this.mmu.root);
    if (this.take(Request.TLB_FLUSH)) {
      this.hardware.flushAll();
      this.take(Request.TLB_FLUSH_CURRENT);
    }
    this.serveLocalFlushes();
    if (this.mmu.root === null) this.load();
  }

  /**
   * Flushes that must be made in the context in which they were asked for, also just before L2 is entered or left
   * (kvm_service_local_tlb_flush_requests; VMX only).
   */
  serveLocalFlushes(): void {
    if (this.take(Request.TLB_FLUSH_CURRENT)) {
      // A root that was switched to and never run on: the hardware has not heard of it yet.
      if ((this.requests & Request.LOAD_MMU_PGD) !== 0) this.hardware.useRoot(this.mmu.root);
      this.hardware.flushCurrent();
    }
    if (this.take(Request.TLB_FLUSH_GUEST)) this.flushGuest();
  }

  private flushGuest(): void {
    if (!this.pages.config.tdp) {
      this.syncRoots();
      const { mmu } = this;
      mmu.freePrevious((root) => mmu.isUnsync(root));
    }
    const { tag } = this;
    const flushed = this.flushedTag();
    if (flushed !== tag) this.useTag(flushed);
    this.hardware.flushGuest();
    if (flushed !== tag) this.useTag(tag);
  }

  /** Whose linear mappings a guest flush is of: of whoever runs. */
  private flushedTag(): number {
    const { tag, guestMode } = this;
    const { mutants, config } = this.pages;
    if (mutants.has(Mutant.FLUSHES_VPID01_IN_L2) && guestMode) return Tag.L1;
    const hasTwo = config.vendor === 'intel' && guestMode;
    return mutants.has(Mutant.FLUSHES_VPID02_WITHOUT_VPID) && hasTwo ? Tag.L2 : tag;
  }

  /** kvm_mmu_sync_roots. */
  private syncRoots(): void {
    if (this.mmu.direct || this.mmu.root === null) return;
    this.mmioCache.clear();
    this.mmu.syncRoots();
  }

  /** kvm_mmu_load. */
  private load(): void {
    if (!this.mmu.load()) {
      this.tripleFault = true;
      return;
    }
    this.syncRoots();
    this.hardware.useRoot(this.mmu.root);
    this.hardware.flushCurrent();
  }

  /**
   * kvm_mmu_new_pgd; usual: the CR3, EPTP or nCR3 in force. The MMU in force is asked, also with a CR3 of an L2 whose
   * tables guest_mmu does not shadow: nothing is found then, and the root is got anew.
   */
  newPgd(pgd: number = this.mmu.guestPgd()): void {
    if (this.mmu.newPgd(this.mmu.direct ? 0 : pgd)) {
      this.request(Request.LOAD_MMU_PGD);
      this.mmioCache.clear();
    } else {
      this.hardware.useRoot(null);
    }
  }
}
