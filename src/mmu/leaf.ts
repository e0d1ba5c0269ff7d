/** Leaf SPTEs: what a mapping may allow, and putting it into a table (facts/kvm-6.1.md §2.9 and §6). */

import { adDisabled, guestMode, smm } from '../paging/kvm-roles.ts';
import { type Fault, NO_SLOT_PFN, RetPf } from './fault.ts';
import type { Slot } from './host.ts';
import type { ShadowPages } from './pages.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import { frameOf, SPTE_W } from './spte.ts';

export interface LeafFlags {
  readonly prefetch: boolean;
  /** Tables of the frame may become unsync for it to be writable. */
  readonly canUnsync: boolean;
  readonly hostWritable: boolean;
}

/**
 * Builds a leaf SPTE into `pages.format`; `oldLo`, `oldHi`: what is there now. True if the frame had to stay write-
 * protected. May make tables of the frame unsync.
 */
export function makeLeafSpte(
  pages: ShadowPages,
  sp: ShadowPage,
  slot: Slot,
  access: number,
  gfn: number,
  pfn: number,
  oldLo: number,
  flags: LeafFlags,
): boolean {
  const { format } = pages;
  const { level } = sp;
  // In step with the guest's entry again, whose A is set, 7.3 takes it for used (facts/kvm-mmu.md §6.12).
  const isSynchronised = !flags.canUnsync && format.profile !== '6.1';
  const unused = flags.prefetch && !isSynchronised;
  format.makeLeaf(level, access, pfn, {
    adDisabled: adDisabled(sp.role),
    // L2's tables while page-modification logging is in use: D must not be the hardware's business there.
    writeProtectOnly: pages.config.pml && guestMode(sp.role),
    prefetch: unused,
    hostWritable: flags.hostWritable,
  });
  let wrprot = false;
  let { lo, hi } = format;
  if ((lo & SPTE_W) !== 0) {
    // What is writable already needs no second look; 6.1 forgets D on that way.
    const wasWritable = format.isPresent(oldLo) && format.isLeaf(oldLo, level) && (oldLo & SPTE_W) !== 0;
    if (!wasWritable && !pages.tryToUnsync(gfn, smm(sp.role), flags.canUnsync, flags.prefetch)) {
      wrprot = true;
      format.lo = lo;
      format.hi = hi;
      format.dropWrite();
    } else {
      format.lo = lo;
      format.hi = hi;
      if (!wasWritable || format.profile !== '6.1') format.addDirty();
    }
    lo = format.lo;
    hi = format.hi;
  }
  if (unused) format.track(lo, hi);
  if ((format.lo & SPTE_W) !== 0 && slot.dirtyLog) pages.host.markDirty(slot, gfn);
  return wrprot;
}

/** Changes an SPTE that stays present; whether somebody may still use what it allowed before. */
export function updateSpte(pages: ShadowPages, sptep: number, lo: number, hi: number): boolean {
  const { format } = pages;
  const oldLo = pages.lo(sptep);
  const oldHi = pages.hi(sptep);
  pages.set(sptep, lo, hi);
  if (!format.isPresent(oldLo)) return false;
  const wasMmuWritable = format.isMmuWritable(oldLo, oldHi);
  // Somebody may still write through what is only write-protected for the dirty log: so it may (facts/kvm-mmu.md §6.11).
  if (format.profile !== '6.1') return wasMmuWritable && !format.isMmuWritable(lo, hi);
  // 6.1 flushes for that, and for cleared A and D, too.
  if (wasMmuWritable && (lo & SPTE_W) === 0) return true;
  if (format.isAccessed(oldLo, oldHi) && !format.isAccessed(lo, hi)) return true;
  return format.isDirty(oldLo, oldHi) && !format.isDirty(lo, hi);
}

/** mmu_set_spte: maps a frame; `fault` is null for prefetching. Returns one of `RetPf`. */
export function setLeaf(
  pages: ShadowPages,
  slot: Slot | null,
  sptep: number,
  access: number,
  gfn: number,
  pfn: number,
  generation: number,
  fault: Fault | null,
): number {
  const { format } = pages;
  const sp = pages.pageOf(sptep);
  const { level } = sp;
  const oldLo = pages.lo(sptep);
  const oldHi = pages.hi(sptep);
  const prefetch = fault === null || fault.prefetch;
  let wasMapped = false;
  let flush = false;
  if (format.isPresent(oldLo)) {
    const isMapped = format.isLeaf(oldLo, level) && pfn === frameOf(oldLo, oldHi);
    if (prefetch && isMapped && format.profile !== '6.1') return RetPf.SPURIOUS;
    if (!format.isLeaf(oldLo, level)) {
      pages.unlinkChild(sptep, pages.childOf(oldLo, oldHi));
      flush = true;
    } else if (pfn !== frameOf(oldLo, oldHi)) {
      pages.dropSpte(sptep);
      flush = true;
    } else {
      wasMapped = true;
    }
  }
  if (pfn === NO_SLOT_PFN || slot === null) {
    markMmio(pages, sptep, sp, gfn, access, generation);
    if (flush) pages.flushRemoteTlbs();
    return RetPf.EMULATE;
  }
  const wrprot = makeLeafSpte(pages, sp, slot, access, gfn, pfn, pages.lo(sptep), {
    prefetch,
    canUnsync: true,
    hostWritable: fault === null || fault.mapWritable,
  });
  const { lo, hi } = format;
  let result: number = RetPf.FIXED;
  if (pages.lo(sptep) === lo && pages.hi(sptep) === hi) {
    result = RetPf.SPURIOUS;
  } else {
    flush = updateSpte(pages, sptep, lo, hi) || flush;
    pages.trace.setSpte(level, gfn, lo, hi, sp, sptep % ENTRIES);
  }
  if (wrprot && fault?.write === true) result = writeProtected(pages);
  if (flush) pages.flushRemoteTlbs();
  if (!wasMapped) pages.addRmap(sptep, sp, gfn, access);
  else if (sp.accesses !== null) sp.accesses[sptep % ENTRIES] = access;
  return result;
}

/** What a write to a shadowed frame comes to: 7.3 has a name of its own for it. */
export function writeProtected(pages: ShadowPages): number {
  return pages.config.profile === '6.1' ? RetPf.EMULATE : RetPf.WRITE_PROTECTED;
}

export function markMmio(
  pages: ShadowPages,
  sptep: number,
  sp: ShadowPage,
  gfn: number,
  access: number,
  generation: number,
): void {
  const { format } = pages;
  const stored = format.makeMmio(gfn, access, generation);
  pages.set(sptep, format.lo, format.hi);
  pages.trace.markMmioSpte(sp, sptep % ENTRIES, gfn, format.lo & 7, stored);
}
