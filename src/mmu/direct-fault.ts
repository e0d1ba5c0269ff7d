/**
 * Faults on direct tables: guest-physical addresses under TDP, or linear ones of a guest without paging
 * (facts/kvm-mmu.md §6.3, facts/kvm-6.1.md §4.2). This file maps them without the TDP MMU.
 */

import { childRole, roleAccess } from '../paging/kvm-roles.ts';
import { type Fault, RetPf } from './fault.ts';
import { adjustHugePage, disallowedAdjust, isForWorkaround, requestedPfn } from './huge-page.ts';
import { isLinked } from './indirect-fault.ts';
import { setLeaf } from './leaf.ts';
import type { Mmu } from './mmu.ts';
import { mayPrefetchDirect, prefetchDirect } from './prefetch.ts';
import { ENTRIES, roundGfn } from './shadow-page.ts';

/** Maps a fault's frame, building tables on the way. */
export function directMap(mmu: Mmu, fault: Fault): number {
  const { pages, shadowWalk, synchroniser } = mmu;
  const { profile } = pages.config;
  // All rights, but for the user's in GMET's form.
  const access = roleAccess(mmu.rootRole, profile);
  adjustHugePage(pages, fault);
  pages.trace.spteRequested(fault.goalLevel, fault.gfn, requestedPfn(fault));
  if (mmu.root === null || !shadowWalk.begin(mmu.root, fault.lo, fault.hi)) return RetPf.RETRY;
  for (;;) {
    const { sptep, level } = shadowWalk;
    const sp = shadowWalk.sp!;
    if (fault.nxHugePageWorkaround) disallowedAdjust(pages, fault, pages.lo(sptep), pages.hi(sptep), level);
    const baseGfn = roundGfn(fault.gfn, level);
    if (level === fault.goalLevel) {
      const { host } = pages;
      const done = setLeaf(pages, fault.slot, sptep, access, baseGfn, fault.pfn, host.generation, fault);
      if (done !== RetPf.SPURIOUS && mayPrefetchDirect(sp)) prefetchDirect(pages, sp, sptep);
      return done;
    }
    const role = childRole(profile, sp.role, { direct: true, access, parentIndex: sptep % ENTRIES });
    if (!isLinked(pages, sptep, level, baseGfn, role)) {
      const child = pages.get(baseGfn, role, synchroniser.syncPage);
      pages.link(sptep, child);
      const mayCount = fault.isTdp || profile !== '6.1';
      if (mayCount && isForWorkaround(pages, fault, level)) child.nxHugePageDisallowed = true;
    }
    if (!shadowWalk.next()) throw new Error('a table that was just linked is not there');
  }
}
