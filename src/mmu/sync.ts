/**
 * Bringing a shadow page in step with the guest table that it shadows, entry by entry, and mapping what a guest entry
 * says without a fault (facts/kvm-6.1.md §2.5, §3; facts/kvm-mmu.md §6.12).
 */

import {
  gpteAccess,
  gpteFrame,
  isAccessedGpte,
  isPresentGpte,
  isReservedGpte,
  protectCleanGpte,
} from '../paging/guest-entry.ts';
import { type KvmPageWalk, PteFormat } from '../paging/kvm-page-walk.ts';
import { quadrant, roleAccess, roleSyncIgnored, smm } from '../paging/kvm-roles.ts';
import { ACC_WRITE } from '../paging/permissions.ts';
import { FaultIn } from './host.ts';
import { makeLeafSpte, markMmio, setLeaf, updateSpte } from './leaf.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import { frameOf } from './spte.ts';

/** Byte offset in its frame of the guest entry that entry `index` of a level-1 table shadows. */
export function guestEntryOffset(walk: KvmPageWalk, sp: ShadowPage, index: number): number {
  if (walk.format === PteFormat.PAGING32) return ((quadrant(sp.role) << 9) + index) * 4;
  return index * 8;
}

/** Present, accessed and not reserved, as KVM asks before it maps an entry nobody touched. */
function isUsable(walk: KvmPageWalk, lo: number, hi: number): boolean {
  return isPresentGpte(walk, lo) && isAccessedGpte(walk, lo) && !isReservedGpte(walk, 1, lo, hi);
}

export class Synchroniser {
  private readonly pages: ShadowPages;
  /** The walk whose tables are shadowed. */
  private readonly walk: KvmPageWalk;
  private entryLo = 0;
  private entryHi = 0;
  /** Role of the MMU's root. */
  rootRole = 0;

  constructor(pages: ShadowPages, walk: KvmPageWalk) {
    this.pages = pages;
    this.walk = walk;
  }

  /** Reads the guest entry at a byte offset of a frame; false if no memslot has it. */
  private read(gfn: number, offset: number): boolean {
    const { memory, format } = this.walk;
    const at = memory.pageIndexOf(gfn);
    if (at < 0) return false;
    this.entryLo = memory.words[at + (offset >>> 2)]!;
    this.entryHi = format === PteFormat.PAGING32 ? 0 : memory.words[at + (offset >>> 2) + 1]!;
    return true;
  }

  /** The page's role is that of the root, but for what differs by place. */
  private fits(sp: ShadowPage): boolean {
    return ((sp.role ^ this.rootRole) & ~roleSyncIgnored(this.pages.config.profile)) === 0 && !sp.direct;
  }

  /** sync_page: 1 flush, 0 done, -1 the page must be zapped. */
  readonly syncPage = (sp: ShadowPage): number => {
    if (!this.fits(sp)) return -1;
    let flush = false;
    for (let index = 0; index < ENTRIES; index++) {
      const done = this.syncEntry(sp, index);
      if (done < 0) return -1;
      flush = done > 0 || flush;
    }
    return flush ? 1 : 0;
  };

  /** sync_spte: one entry of a page, as `syncPage`. */
  syncEntry(sp: ShadowPage, index: number): number {
    const { pages, walk } = this;
    const { format } = pages;
    const sptep = sp.sptep(index);
    if (pages.isEmpty(sptep)) return 0;
    if (!this.read(sp.gfn, guestEntryOffset(walk, sp, index))) return -1;
    const { entryLo, entryHi } = this;
    const lo = pages.lo(sptep);
    const hi = pages.hi(sptep);
    if (!isUsable(walk, entryLo, entryHi)) {
      this.drop(sptep, lo);
      return 1;
    }
    const gfn = gpteFrame(walk, 1, entryLo, entryHi);
    const access = this.accessOf(sp, entryLo, entryHi);
    if (format.isMmio(lo, hi)) {
      if (gfn === format.mmioGfnOf(lo, hi)) markMmio(pages, sptep, sp, gfn, access, pages.host.generation);
      else pages.clear(sptep);
      return 0;
    }
    const isEmpty = format.isEmptyAccess(access) && !pages.mutants.has(Mutant.KEEPS_EMPTY_SPTE);
    if (isEmpty || gfn !== sp.gfnAt(index)) {
      pages.dropSpte(sptep);
      return 1;
    }
    // 7.3 leaves alone what would not change.
    if (pages.config.profile !== '6.1' && sp.accesses![index] === access) return 0;
    sp.accesses![index] = access;
    const slot = pages.host.slotOf(gfn, smm(sp.role));
    if (slot === null) {
      pages.dropSpte(sptep);
      return 1;
    }
    makeLeafSpte(pages, sp, slot, access, gfn, frameOf(lo, hi), lo, {
      prefetch: true,
      canUnsync: false,
      hostWritable: format.isHostWritable(lo, hi),
    });
    return updateSpte(pages, sptep, format.lo, format.hi) ? 1 : 0;
  }

  private drop(sptep: number, lo: number): void {
    if (this.pages.format.isPresent(lo)) this.pages.dropSpte(sptep);
    else this.pages.clear(sptep);
  }

  private accessOf(sp: ShadowPage, lo: number, hi: number): number {
    const access = roleAccess(sp.role, this.pages.config.profile) & gpteAccess(this.walk, lo, hi);
    return protectCleanGpte(this.walk, access, lo);
  }

  /** prefetch_gpte: maps what a guest entry of a level-1 table says; false if that cannot be done in passing. */
  prefetchEntry(sp: ShadowPage, sptep: number, lo: number, hi: number, noDirtyLog: boolean): boolean {
    const { pages, walk } = this;
    if (!isUsable(walk, lo, hi)) {
      this.drop(sptep, pages.lo(sptep));
      return false;
    }
    const gfn = gpteFrame(walk, 1, lo, hi);
    const access = this.accessOf(sp, lo, hi);
    // 6.1 makes an SPTE without rights where levels of EPT have none in common; 7.3 makes none (facts/kvm-mmu.md §6.11).
    if (pages.config.profile !== '6.1' && pages.format.isEmptyAccess(access)) return false;
    const slot = pages.host.slotOf(gfn, smm(sp.role));
    if (slot === null || slot.invalid) return false;
    if (noDirtyLog && (access & ACC_WRITE) !== 0 && slot.dirtyLog) return false;
    if (pages.host.lookUp(slot, gfn) !== FaultIn.OK) return false;
    setLeaf(pages, slot, sptep, access, gfn, pages.host.pfn, pages.host.generation, null);
    return true;
  }

  /** The same for the guest entry as memory has it now; false also if it cannot be read. */
  prefetchFromMemory(sp: ShadowPage, sptep: number): boolean {
    const index = sptep % ENTRIES;
    if (!this.read(sp.gfn, guestEntryOffset(this.walk, sp, index))) return false;
    return this.prefetchEntry(sp, sptep, this.entryLo, this.entryHi, false);
  }
}
