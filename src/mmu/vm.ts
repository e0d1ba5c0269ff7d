/**
 * What happens to a VM's tables from outside its vCPUs: memslots, dirty logging, the MMU notifier, zapping everything
 * (facts/kvm-mmu.md §8.7, facts/kvm-6.1.md §1.5, §1.6, §9).
 */

import type { Slot } from './host.ts';
import type { ShadowPages } from './pages.ts';
import { MAX_RMAP_LEVEL } from './rmap.ts';
import { ENTRIES } from './shadow-page.ts';
import { SPTE_W } from './spte.ts';
import type { TdpMmu } from './tdp-mmu.ts';

/** Shadow pages that a VM may have: 2 % of its pages, and never fewer than 64. */
const PAGES_PER_SHADOW_PAGE = 50;
const MINIMUM_PAGES = 64;

const ALL_LEVELS = [1, MAX_RMAP_LEVEL] as const;

export class VmMmu {
  private readonly pages: ShadowPages;
  private readonly tdpMmu: TdpMmu | null;
  private readonly freeObsoleteRoots: () => void;

  constructor(pages: ShadowPages, tdpMmu: TdpMmu | null, freeObsoleteRoots: () => void) {
    this.pages = pages;
    this.tdpMmu = tdpMmu;
    this.freeObsoleteRoots = freeObsoleteRoots;
    this.slotsChanged(0);
  }

  /** kvm_mmu_zap_all_fast. */
  zapAllFast(): void {
    const { pages, tdpMmu } = this;
    pages.trace.zapAllFast(pages.generation, pages.used);
    pages.generation = pages.generation === 0 ? 1 : 0;
    tdpMmu?.invalidateAllRoots();
    this.freeObsoleteRoots();
    pages.zapObsolete();
    tdpMmu?.zapInvalidatedRoots();
  }

  /** The VM is torn down. */
  zapAll(): void {
    this.pages.zapEverything();
    this.tdpMmu?.zapAll();
  }

  /** The memslots together have so many pages now. */
  slotsChanged(totalPages: number): void {
    this.pages.setMaximum(Math.max(MINIMUM_PAGES, Math.floor(totalPages / PAGES_PER_SHADOW_PAGE)));
  }

  /** Dirty logging begins: huge pages are split if KVM is eager, then everything becomes read-only, or clean. */
  startDirtyLog(slot: Slot): void {
    const { pages, tdpMmu } = this;
    if (tdpMmu !== null && pages.config.eagerPageSplit) {
      tdpMmu.splitHugePages(slot, slot.baseGfn, slot.baseGfn + slot.pages, 1);
    }
    if (pages.config.pml) {
      this.clearDirtyRmaps(slot.addressSpace, slot.baseGfn, slot.baseGfn + slot.pages);
      tdpMmu?.clearDirtySlot(slot);
    }
    const level = pages.config.pml ? 2 : 1;
    pages.rmap.forSlot(slot, [level, MAX_RMAP_LEVEL], (list) => {
      for (const sptep of list) pages.writeProtectSpte(sptep, false);
    });
    tdpMmu?.writeProtectSlot(slot, level);
    pages.flushRemoteTlbs();
  }

  /** Dirty logging ends: small pages that could be large ones go. */
  stopDirtyLog(slot: Slot): void {
    const { pages } = this;
    pages.rmap.forSlot(slot, [1, 1], (list) => {
      for (const sptep of list) {
        const sp = pages.pageOf(sptep);
        if (sp.direct && sp.level < pages.slotState.maxMappingLevel(slot, sp.gfn, pages.config.maxLevel)) {
          pages.dropSpte(sptep);
        }
      }
    });
    this.tdpMmu?.zapCollapsible(slot);
    pages.flushRemoteTlbs();
  }

  /**
   * Page-modification logging: what the hardware has made dirty since it was last cleaned is in its log, which KVM reads
   * at each exit (facts/kvm-mmu.md §8.7).
   */
  collectHardwareDirty(slot: Slot): void {
    const { pages } = this;
    if (!pages.config.pml) return;
    const { format, host } = pages;
    const end = slot.baseGfn + slot.pages;
    pages.rmap.forRange(slot.addressSpace, slot.baseGfn, end, [1, 1], (list) => {
      for (const sptep of list) {
        if (!format.isDirty(pages.lo(sptep), pages.hi(sptep))) continue;
        host.markDirty(slot, pages.pageOf(sptep).gfnAt(sptep % ENTRIES));
      }
    });
    this.tdpMmu?.forEachLeaf(slot, (gfn, lo, hi) => {
      if (format.isDirty(lo, hi)) host.markDirty(slot, gfn);
    });
  }

  /** KVM_GET_DIRTY_LOG has reported 64 frames from `base` under a mask: their next write must be seen again. */
  protectReported(slot: Slot, base: number, maskLo: number, maskHi: number): void {
    const { pages } = this;
    const { pml } = pages.config;
    this.tdpMmu?.clearDirtyMasked(slot, base - slot.baseGfn, maskLo, maskHi, !pml);
    for (let bit = 0; bit < 64; bit++) {
      if ((((bit < 32 ? maskLo : maskHi) >>> (bit & 31)) & 1) === 0) continue;
      const gfn = base + bit;
      if (pml) this.clearDirtyRmaps(slot.addressSpace, gfn, gfn + 1);
      else for (const sptep of pages.rmap.of(gfn, 1, slot.addressSpace)) pages.writeProtectSpte(sptep, false);
    }
  }

  private clearDirtyRmaps(addressSpace: number, start: number, end: number): void {
    const { pages } = this;
    const { format } = pages;
    pages.rmap.forRange(addressSpace, start, end, [1, 1], (list) => {
      for (const sptep of list) {
        const lo = pages.lo(sptep);
        const clean = format.adEnabledFor(pages.hi(sptep)) ? lo & ~format.dirty : lo & ~SPTE_W;
        pages.set(sptep, clean, pages.hi(sptep));
      }
    });
  }

  // The notifier, by guest frames of one slot.

  /** The host takes pages away. */
  unmap(addressSpace: number, start: number, end: number): void {
    const { pages } = this;
    let flush = false;
    pages.rmap.forRange(addressSpace, start, end, ALL_LEVELS, (list) => {
      for (const sptep of list) pages.dropSpte(sptep);
      flush = true;
    });
    if (this.tdpMmu !== null) flush = this.tdpMmu.unmapRange(addressSpace, start, end) || flush;
    if (flush) pages.flushRemoteTlbs();
  }

  /** The host has put another page there (6.1). */
  setPte(addressSpace: number, gfn: number, frame: number, writable: boolean): void {
    const { pages } = this;
    const { format } = pages;
    for (const sptep of [...pages.rmap.of(gfn, 1, addressSpace)]) {
      if (writable) {
        pages.dropSpte(sptep);
        continue;
      }
      format.withFrame(pages.lo(sptep), pages.hi(sptep), frame);
      pages.set(sptep, format.lo, format.hi);
    }
    this.tdpMmu?.setSpteGfn(addressSpace, gfn, frame, writable);
    pages.flushRemoteTlbs();
  }

  /** The host asks what has been used, and wants to be told anew. */
  age(addressSpace: number, start: number, end: number): void {
    const { pages } = this;
    const { format } = pages;
    pages.rmap.forRange(addressSpace, start, end, ALL_LEVELS, (list) => {
      for (const sptep of list) {
        const lo = pages.lo(sptep);
        const hi = pages.hi(sptep);
        if (!format.isAccessed(lo, hi)) continue;
        format.track(lo, hi);
        pages.set(sptep, format.lo, format.hi);
      }
    });
    this.tdpMmu?.ageRange(addressSpace, start, end);
  }
}
