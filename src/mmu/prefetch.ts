/** Mapping the neighbours of what a fault mapped (facts/kvm-6.1.md §3). */

import { adDisabled, roleAccess, smm } from '../paging/kvm-roles.ts';
import { ACC_WRITE } from '../paging/permissions.ts';
import { FaultIn } from './host.ts';
import { setLeaf } from './leaf.ts';
import type { ShadowPages } from './pages.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import type { Synchroniser } from './sync.ts';

/** Entries of a group, which is aligned to its size. */
export const PREFETCH = 8;

/** Guest entries around the one that a fault walked, as they were read again under the lock. */
export interface EntryGroup {
  readonly lo: Int32Array;
  readonly hi: Int32Array;
}

/** Neighbours in a direct table: runs of entries that are not there, as far as the host has their pages. */
export function prefetchDirect(pages: ShadowPages, sp: ShadowPage, sptep: number): void {
  if (sp.level > 1) return;
  const first = (sptep % ENTRIES) & ~(PREFETCH - 1);
  let start = -1;
  for (let i = 0; i <= PREFETCH; i++) {
    const at = sp.sptep(first + i);
    const open = i < PREFETCH && at !== sptep && !pages.format.isPresent(pages.lo(at));
    if (open) {
      if (start < 0) start = first + i;
    } else if (start >= 0) {
      if (!prefetchRun(pages, sp, start, first + i)) return;
      start = -1;
    }
  }
}

/** Entries `start` to `end` (exclusive); false: not even the first could be had, which ends prefetching. */
function prefetchRun(pages: ShadowPages, sp: ShadowPage, start: number, end: number): boolean {
  const { host, config } = pages;
  const access = roleAccess(sp.role, config.profile);
  const gfn = sp.gfnAt(start);
  const slot = host.slotOf(gfn, smm(sp.role));
  if (slot === null || slot.invalid || ((access & ACC_WRITE) !== 0 && slot.dirtyLog)) return false;
  const last = Math.min(end, start + slot.baseGfn + slot.pages - gfn);
  const frames: number[] = [];
  for (let index = start; index < last; index++) {
    if (host.lookUp(slot, sp.gfnAt(index)) !== FaultIn.OK) break;
    frames.push(host.pfn);
  }
  if (frames.length === 0) return false;
  frames.forEach((pfn, i) => {
    setLeaf(pages, slot, sp.sptep(start + i), access, sp.gfnAt(start + i), pfn, host.generation, null);
  });
  return true;
}

/** Direct tables below a TDP root without A/D bits: a prefetched SPTE could not be told from one that was used. */
export function mayPrefetchDirect(sp: ShadowPage): boolean {
  return !adDisabled(sp.role);
}

/** Neighbours in a table that shadows a guest table, until the first that cannot be mapped. */
export function prefetchShadow(
  pages: ShadowPages,
  synchroniser: Synchroniser,
  sp: ShadowPage,
  sptep: number,
  group: EntryGroup,
): void {
  if (sp.level > 1) return;
  if (sp.direct) {
    prefetchDirect(pages, sp, sptep);
    return;
  }
  const first = (sptep % ENTRIES) & ~(PREFETCH - 1);
  for (let i = 0; i < PREFETCH; i++) {
    const at = sp.sptep(first + i);
    if (at === sptep || pages.format.isPresent(pages.lo(at))) continue;
    if (!synchroniser.prefetchEntry(sp, at, group.lo[i]!, group.hi[i]!, true)) return;
  }
}
