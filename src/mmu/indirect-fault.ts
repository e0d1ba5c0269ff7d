/**
 * Faults on tables that shadow a guest's: the guest's tables are walked, and what they say is shadowed level by level
 * (facts/kvm-mmu.md §6.4, facts/kvm-6.1.md §4.3).
 */

import { IMPLICIT_ACCESS, type KvmPageWalk, PteFormat } from '../paging/kvm-page-walk.ts';
import { childRole, cr0Wp, cr4Smep } from '../paging/kvm-roles.ts';
import { ACC_EXEC, ACC_USER, ACC_WRITE } from '../paging/permissions.ts';
import { softwareWalk } from '../paging/software-walk.ts';
import { type Fault, PFERR_RSVD, RetPf } from './fault.ts';
import type { FaultSupport } from './fault-support.ts';
import { adjustHugePage, disallowedAdjust, isForWorkaround, requestedPfn } from './huge-page.ts';
import { setLeaf, writeProtected } from './leaf.ts';
import type { Mmu } from './mmu.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import { type EntryGroup, PREFETCH, prefetchShadow } from './prefetch.ts';
import { ENTRIES, roundGfn, type ShadowPage } from './shadow-page.ts';

/** Guest entries read again for prefetching; one set serves all, a fault is handled at a time. */
const group: EntryGroup = { lo: new Int32Array(PREFETCH), hi: new Int32Array(PREFETCH) };

/** Handles a fault; RETRY also when the guest got a #PF of its own. */
export function indirectFault(mmu: Mmu, fault: Fault, support: FaultSupport): number {
  const { walk, pages } = mmu;
  if (!softwareWalk(walk, fault.lo, fault.hi, (fault.errorCode & ~PFERR_RSVD & ~IMPLICIT_ACCESS) | fault.stage)) {
    support.injectWalkFault(walk);
    return RetPf.RETRY;
  }
  fault.gfn = walk.gfn;
  fault.slot = support.slotOf(walk.gfn);
  if (support.hitsWriteTrackedFrame(fault)) {
    mmu.clearWriteFlooding(fault.lo, fault.hi);
    return writeProtected(pages);
  }
  // 7.3 leaves that to the tables that are shadowed on the way: they forbid large pages (facts/kvm-mmu.md §6.4).
  fault.maxLevel = pages.config.profile === '6.1' && isSelfChanging(walk, fault) ? 1 : walk.level;
  const found = support.faultIn(fault, walk.pteAccess);
  if (found !== RetPf.CONTINUE) return found;
  const access = leafAccess(walk, fault, pages);
  if (!pages.makeAvailable()) throw new Error('no shadow page is left');
  if (support.isStale(fault)) return RetPf.RETRY;
  return fetch(mmu, fault, access, support);
}

/** Whether the frame holds one of the tables that map it, or lies in a large page with one. */
function isSelfChanging(walk: KvmPageWalk, fault: Fault): boolean {
  const writes = (walk.pteAccess & ACC_WRITE) !== 0 || (!cr0Wp(walk.base, walk.profile) && !fault.user);
  if (!writes) return false;
  let self = false;
  for (let level = walk.level; level <= walk.maxLevel; level++) {
    if (roundGfn(walk.gfn, walk.level) === roundGfn(walk.tableGfn[level]!, walk.level)) self = true;
    if (walk.gfn === walk.tableGfn[level]) fault.writeFaultToShadowPageTable = true;
  }
  return self;
}

/** With CR0.WP clear, a supervisor's write through a read-only entry makes the page a supervisor's own for now. */
function leafAccess(walk: KvmPageWalk, fault: Fault, pages: ShadowPages): number {
  const access = walk.pteAccess;
  const applies =
    fault.write &&
    (access & ACC_WRITE) === 0 &&
    !cr0Wp(walk.base, walk.profile) &&
    !fault.user &&
    fault.slot !== null &&
    !walk.ept;
  if (!applies) return access;
  const smep = cr4Smep(walk, walk.profile) && !pages.mutants.has(Mutant.WP0_KEEPS_EXECUTE);
  return (access | ACC_WRITE) & ~ACC_USER & ~(smep ? ACC_EXEC : 0);
}

/** The entry that the walk read at `level` is still what memory holds; for level 1 its group is kept for prefetching. */
function isUnchanged(walk: KvmPageWalk, level: number): boolean {
  const { memory } = walk;
  const at = memory.pageIndexOf(walk.tableRealGfn[level]!);
  if (at < 0) return false;
  const fourByte = walk.format === PteFormat.PAGING32;
  const size = fourByte ? 4 : 8;
  const offset = walk.entryOffset[level]!;
  const words = memory.words;
  if (level === 1) {
    const first = (at << 2) + (offset & ~(PREFETCH * size - 1));
    for (let i = 0; i < PREFETCH; i++) {
      const word = (first + i * size) >>> 2;
      group.lo[i] = words[word]!;
      group.hi[i] = fourByte ? 0 : words[word + 1]!;
    }
  }
  const word = at + (offset >>> 2);
  return words[word] === walk.entryLo[level] && (fourByte || words[word + 1] === walk.entryHi[level]);
}

/** Maps what the walk found, shadowing the tables on the way. */
function fetch(mmu: Mmu, fault: Fault, access: number, support: FaultSupport): number {
  const { walk, pages, shadowWalk, synchroniser } = mmu;
  const { profile } = pages.config;
  const topLevel = walk.rootLevel === 3 ? 2 : walk.rootLevel;
  if (!isUnchanged(walk, topLevel) || mmu.root === null) return RetPf.RETRY;
  let on = shadowWalk.begin(mmu.root, fault.lo, fault.hi);
  if (!on && mmu.toleratesInvisible) {
    // What the root was made without has come into a memslot since: another root (§6.4 step 5.1).
    support.freeObsoleteRoots();
    return RetPf.RETRY;
  }
  while (on && shadowWalk.level > walk.level) {
    const { sptep, level } = shadowWalk;
    const parent = shadowWalk.sp!;
    parent.writeFloodingCount = 0;
    const tableGfn = walk.tableGfn[level - 1]!;
    const rights = pages.mutants.has(Mutant.INHERITED_PERMISSIONS) ? walk.pteAccess : walk.ptAccess[level - 1]!;
    const role = childRole(profile, parent.role, { direct: false, access: rights, parentIndex: sptep % ENTRIES });
    let child: ShadowPage | null = null;
    if (!isLinked(pages, sptep, level, tableGfn, role)) {
      child = pages.get(tableGfn, role, synchroniser.syncPage);
      if (child.unsyncChildren > 0 && !pages.mutants.has(Mutant.SYNC_BEFORE_LINK)) {
        pages.syncChildren(child, synchroniser.syncPage);
      }
    }
    if (!isUnchanged(walk, level - 1)) return RetPf.RETRY;
    if (child !== null) pages.link(sptep, child);
    if (profile !== '6.1' && fault.write && tableGfn === fault.gfn) fault.writeFaultToShadowPageTable = true;
    on = shadowWalk.next();
  }
  // A PDPTE of PAE's NPT12 that another vCPU has made since the root was loaded has no table in it: KVM warns and gives
  // user space EFAULT; here the guest makes no progress.
  if (!on) return RetPf.RETRY;
  adjustHugePage(pages, fault);
  pages.trace.spteRequested(fault.goalLevel, fault.gfn, requestedPfn(fault));
  return mapBelow(mmu, fault, access);
}

/** From the guest's leaf down: the guest's large page may have to be mapped by smaller ones. */
function mapBelow(mmu: Mmu, fault: Fault, access: number): number {
  const { pages, shadowWalk, synchroniser } = mmu;
  const { profile } = pages.config;
  for (;;) {
    const { sptep, level } = shadowWalk;
    const sp = shadowWalk.sp!;
    sp.writeFloodingCount = 0;
    if (fault.nxHugePageWorkaround) disallowedAdjust(pages, fault, pages.lo(sptep), pages.hi(sptep), level);
    const baseGfn = roundGfn(fault.gfn, level);
    if (level === fault.goalLevel) {
      const { host } = pages;
      const done = setLeaf(pages, fault.slot, sptep, access, baseGfn, fault.pfn, host.generation, fault);
      if (done !== RetPf.SPURIOUS) prefetchShadow(pages, synchroniser, sp, sptep, group);
      return done;
    }
    const role = childRole(profile, sp.role, {
      direct: true,
      access,
      parentIndex: sptep % ENTRIES,
    });
    dropOtherAccess(pages, sptep, level, role);
    if (!isLinked(pages, sptep, level, baseGfn, role)) {
      const child = pages.get(baseGfn, role, synchroniser.syncPage);
      pages.link(sptep, child);
      if (isForWorkaround(pages, fault, level)) child.nxHugePageDisallowed = true;
    }
    if (!shadowWalk.next()) throw new Error('a table that was just linked is not there');
  }
}

/** The entry already leads to the right table: same frame and role (6.1.192; bugs 5 and 6 of facts/kvm-mmu.md §10). */
export function isLinked(pages: ShadowPages, sptep: number, level: number, gfn: number, role: number): boolean {
  const lo = pages.lo(sptep);
  if (!pages.format.isPresent(lo) || pages.format.isLeaf(lo, level)) return false;
  const child = pages.childOf(lo, pages.hi(sptep));
  if (child.gfn !== gfn && !pages.mutants.has(Mutant.CHILD_OF_OTHER_GFN)) return false;
  return child.role === role || pages.mutants.has(Mutant.CHILD_OF_OTHER_ROLE);
}

/** A direct child that was made for other rights is let go. */
function dropOtherAccess(pages: ShadowPages, sptep: number, level: number, role: number): void {
  const lo = pages.lo(sptep);
  if (!pages.format.isPresent(lo) || pages.format.isLeaf(lo, level)) return;
  const child = pages.childOf(lo, pages.hi(sptep));
  if (child.role === role || !child.direct) return;
  pages.unlinkChild(sptep, child);
  pages.flushRemoteTlbs();
}
