/** How large a page a fault may map (facts/kvm-mmu.md §6.10, facts/kvm-6.1.md §4.6). */

import { type Fault, NO_SLOT_PFN } from './fault.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import { pagesOf } from './shadow-page.ts';

/** Sets `reqLevel` and `goalLevel`, and rounds the host frame down to the goal's first. */
export function adjustHugePage(pages: ShadowPages, fault: Fault): void {
  fault.hugePageDisallowed = fault.exec && fault.nxHugePageWorkaround;
  const { slot } = fault;
  if (fault.maxLevel === 1 || fault.pfn === NO_SLOT_PFN || slot === null || slot.dirtyLog) return;
  const maximum = Math.min(fault.maxLevel, pages.config.maxLevel);
  fault.reqLevel = pages.slotState.maxMappingLevel(slot, fault.gfn, maximum);
  if (fault.reqLevel === 1 || fault.hugePageDisallowed) return;
  fault.goalLevel = fault.reqLevel;
  fault.pfn -= fault.pfn % pagesOf(fault.goalLevel);
}

/**
 * A large page must not replace a table that is there because small pages may be executed (iTLB multihit). 6.1 spares
 * every table, 7.3 only those that are there for it. `lo`, `hi`: the entry in the large page's place.
 */
export function disallowedAdjust(pages: ShadowPages, fault: Fault, lo: number, hi: number, level: number): void {
  const { format } = pages;
  if (level === 1 || level !== fault.goalLevel || !format.isPresent(lo) || format.isLeaf(lo, level)) return;
  if (format.profile !== '6.1' && !pages.childOf(lo, hi).nxHugePageDisallowed) return;
  if (pages.mutants.has(Mutant.NX_HUGE_REPLACES_TABLE)) return;
  // The part of the guest frame's number between the two levels comes back into the host frame's.
  const upper = pagesOf(level);
  const lower = pagesOf(level - 1);
  fault.pfn += (fault.gfn % upper) - (fault.gfn % lower);
  fault.goalLevel--;
}

/**
 * Whether a table that was linked for a fault is there for the workaround: in 7.3 whatever a fetch makes is, in 6.1 only
 * what could have been a large page (facts/kvm-mmu.md §6.10). `level`: of the entry that leads to it.
 */
export function isForWorkaround(pages: ShadowPages, fault: Fault, level: number): boolean {
  return fault.hugePageDisallowed && (pages.config.profile !== '6.1' || fault.reqLevel >= level);
}

/** The host frame of the fault's own page, as `kvm_mmu_spte_requested` prints it; -1 without a slot. */
export function requestedPfn(fault: Fault): number {
  return fault.pfn === NO_SLOT_PFN ? NO_SLOT_PFN : fault.pfn + (fault.gfn % pagesOf(fault.goalLevel));
}
