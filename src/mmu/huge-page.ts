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

/** A large page must not replace a table that is there because small pages may be executed (iTLB multihit). */
export function disallowedAdjust(pages: ShadowPages, fault: Fault, lo: number, level: number): void {
  const { format } = pages;
  if (level === 1 || level !== fault.goalLevel || !format.isPresent(lo) || format.isLeaf(lo, level)) return;
  if (pages.mutants.has(Mutant.NX_HUGE_REPLACES_TABLE)) return;
  // The part of the guest frame's number between the two levels comes back into the host frame's.
  const upper = pagesOf(level);
  const lower = pagesOf(level - 1);
  fault.pfn += (fault.gfn % upper) - (fault.gfn % lower);
  fault.goalLevel--;
}

/** The host frame of the fault's own page, as `kvm_mmu_spte_requested` prints it; -1 without a slot. */
export function requestedPfn(fault: Fault): number {
  return fault.pfn === NO_SLOT_PFN ? NO_SLOT_PFN : fault.pfn + (fault.gfn % pagesOf(fault.goalLevel));
}
