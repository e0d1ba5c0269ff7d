/**
 * The TDP MMU: builds the tables that translate guest-physical addresses, of which there is one tree per root role, and
 * reports every change of an entry (facts/kvm-6.1.md §1, facts/kvm-mmu.md §6.3 and §8.7). It knows no reverse map and no
 * shadowed tables; what it shares with the legacy MMU is memory, SPTE format and trace.
 *
 * `tdp-tables.ts` has the changes of entries, `tdp-iterate.ts` the ways through a tree, `tdp-ranges.ts` what is done to
 * a range under one root. Here are the roots, the page fault, and which roots each operation visits: newest first.
 * With one processor no compare-exchange is lost and no frozen entry is ever met.
 */

import { isInvalid, roleAccess, smm, withInvalid } from '../paging/kvm-roles.ts';
import { type Fault, RetPf } from './fault.ts';
import type { Slot } from './host.ts';
import { adjustHugePage, disallowedAdjust, isForWorkaround, requestedPfn } from './huge-page.ts';
import { makeLeafSpte, writeProtected } from './leaf.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages, WriteProtector } from './pages.ts';
import { indexOf, type ShadowPage } from './shadow-page.ts';
import { forEachLeaf, lastTable } from './tdp-iterate.ts';
import {
  age,
  clearDirty,
  clearDirtyMasked,
  isAccessed,
  protectFrame,
  protectRange,
  setFrame,
  splitRange,
  zapCollapsible,
  zapLeaves,
  zapLevel,
} from './tdp-ranges.ts';
import { TdpTables } from './tdp-tables.ts';

/** What is done to one root; whether it matters to the caller. */
type RootAction = (root: ShadowPage) => boolean;

export class TdpMmu implements WriteProtector {
  private readonly pages: ShadowPages;
  private readonly tables: TdpTables;
  /** 6.1's ways, which differ from 7.3's in which roots are visited, among others. */
  private readonly old: boolean;
  /** Newest first. `rootCount` counts the holders, of which the MMU is one until the root is invalidated and zapped. */
  private readonly roots: ShadowPage[] = [];
  /** Invalidated, still to be zapped. */
  private readonly scheduled = new Set<ShadowPage>();

  // Result of the last `lastSpte`.
  sp!: ShadowPage;
  index = 0;

  /** Makes itself the write protector of `pages`. */
  constructor(pages: ShadowPages) {
    this.pages = pages;
    this.tables = new TdpTables(pages);
    this.old = pages.config.profile === '6.1';
    pages.writeProtector = this;
  }

  // Roots.

  /** For the invariants: all that there are, newest first. */
  get allRoots(): readonly ShadowPage[] {
    return this.roots;
  }

  /** The MMU itself holds a root until it has been invalidated and zapped. */
  holds(root: ShadowPage): boolean {
    return !this.isInvalid(root) || this.scheduled.has(root);
  }

  /** The root of a role, with one reference for the caller: one that is there, silently, or a new one. */
  getRoot(role: number): ShadowPage {
    for (const root of this.roots) {
      if (root.role !== role) continue;
      root.rootCount++;
      return root;
    }
    const root = this.tables.create(0, role);
    root.rootCount = 2;
    this.roots.unshift(root);
    return root;
  }

  /** Gives a reference back. An invalid root goes with its last one. */
  putRoot(root: ShadowPage): void {
    if (--root.rootCount > 0) return;
    if (!this.isInvalid(root)) throw new Error('a valid TDP root has lost its last holder');
    this.roots.splice(this.roots.indexOf(root), 1);
    this.pages.release(root);
  }

  private isInvalid(root: ShadowPage): boolean {
    return isInvalid(root.role, this.pages.config.profile);
  }

  /** No root there is may be used any more; `zapInvalidatedRoots` is to follow. */
  invalidateAllRoots(): void {
    const { profile } = this.pages.config;
    for (const root of this.roots) {
      if (this.isInvalid(root)) continue;
      root.role = withInvalid(root.role, profile);
      this.scheduled.add(root);
    }
  }

  /** Second half of zap-all-fast (facts/kvm-6.1.md §1.5). */
  zapInvalidatedRoots(): void {
    for (const root of [...this.roots]) {
      if (!this.scheduled.delete(root)) continue;
      this.zapRoot(root, true);
      this.putRoot(root);
    }
  }

  /** The VM goes: empties every root, exclusively. */
  zapAll(): void {
    for (const root of this.roots) this.zapRoot(root, false);
  }

  /** In passes from small to large, so that none takes long: 6.1 from 1 GiB, 7.3 (as mainline's source has it) from 4 KiB on. */
  private zapRoot(root: ShadowPage, shared: boolean): void {
    for (let level = this.old ? 3 : 1; level <= 3; level++) zapLevel(this.tables, root, level, shared);
    zapLevel(this.tables, root, root.level, shared);
  }

  /** Roots of an address space, newest first; whether `action` said so of any. */
  private forRoots(addressSpace: number, validOnly: boolean, action: RootAction): boolean {
    let any = false;
    for (const root of this.roots) {
      if (smm(root.role) !== addressSpace || (validOnly && this.isInvalid(root))) continue;
      any = action(root) || any;
    }
    return any;
  }

  // The page fault.

  /**
   * Maps what a fault asks for below a root. Returns one of `RetPf`: FIXED, SPURIOUS, or EMULATE (7.3: or
   * WRITE_PROTECTED).
   */
  map(fault: Fault, root: ShadowPage): number {
    const { pages } = this;
    adjustHugePage(pages, fault);
    pages.trace.spteRequested(fault.goalLevel, fault.gfn, requestedPfn(fault));
    let sp = root;
    for (;;) {
      const index = indexOf(fault.gfn, sp.level);
      if (fault.nxHugePageWorkaround) {
        const sptep = sp.sptep(index);
        disallowedAdjust(pages, fault, pages.lo(sptep), pages.hi(sptep), sp.level);
      }
      if (sp.level === fault.goalLevel) return this.mapLeaf(fault, sp, index);
      sp = this.stepDown(fault, sp, index);
    }
  }

  /** The table that an entry above the goal leads to, made if need be. */
  private stepDown(fault: Fault, sp: ShadowPage, index: number): ShadowPage {
    const { pages, tables } = this;
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    const isPresent = pages.format.isPresent(lo);
    const isLarge = isPresent && pages.format.isLeaf(lo, sp.level);
    if (isPresent && !isLarge) return pages.childOf(lo, pages.hi(sptep));
    let child: ShadowPage;
    if (isLarge && !this.old) {
      child = tables.split(sp, index);
    } else {
      if (isLarge) tables.zapInPlace(sp, index);
      child = tables.createChild(sp, index);
      tables.link(sp, index, child);
    }
    child.nxHugePageDisallowed = isForWorkaround(pages, fault, sp.level);
    return child;
  }

  private mapLeaf(fault: Fault, sp: ShadowPage, index: number): number {
    const { pages, tables } = this;
    const { format } = pages;
    const { slot } = fault;
    const sptep = sp.sptep(index);
    const oldLo = pages.lo(sptep);
    const oldHi = pages.hi(sptep);
    const wasPresent = format.isPresent(oldLo);
    const wasTable = wasPresent && !format.isLeaf(oldLo, sp.level);
    if (!this.old && wasPresent && !wasTable && !pages.mutants.has(Mutant.TDP_FAULT_REBUILDS)) {
      if (fault.prefetch || format.allows(oldLo, oldHi, fault, sp.role)) return RetPf.SPURIOUS;
    }

    const gfn = sp.gfnAt(index);
    const access = roleAccess(sp.role, pages.config.profile);
    let isProtected = false;
    let generation = 0;
    if (slot === null) {
      generation = format.makeMmio(gfn, access, pages.host.generation);
    } else {
      const flags = { prefetch: fault.prefetch, canUnsync: true, hostWritable: fault.mapWritable };
      isProtected = makeLeafSpte(pages, sp, slot, access, gfn, fault.pfn, oldLo, flags);
    }
    const { lo, hi } = format;
    const isChanged = lo !== oldLo || hi !== oldHi;
    tables.change(sp, index, lo, hi, true);
    if (wasTable) pages.flushRemoteTlbs();
    if (slot === null) {
      pages.trace.markMmioSpte(sp, index, gfn, lo & 7, generation);
      return RetPf.EMULATE;
    }
    pages.trace.setSpte(sp.level, gfn, lo, hi, sp, index);
    if (isProtected && fault.write) return writeProtected(pages);
    return isChanged ? RetPf.FIXED : RetPf.SPURIOUS;
  }

  /** The last entry on the way to a frame, present or not: in `sp` and `index`. */
  lastSpte(root: ShadowPage, gfn: number): void {
    this.sp = lastTable(this.pages, root, gfn, 1);
    this.index = indexOf(gfn, this.sp.level);
  }

  // The notifier: roots that are invalid and not yet zapped map host pages, too.

  /** Empties the leaves of [startGfn, endGfn); whether TLBs must be flushed. */
  unmapRange(addressSpace: number, startGfn: number, endGfn: number): boolean {
    return this.forRoots(addressSpace, false, (root) => {
      const any = zapLeaves(this.tables, root, startGfn, endGfn);
      if (this.pages.mutants.has(Mutant.UNMAP_WITHOUT_FLUSH)) return false;
      return any && (this.old || !this.isInvalid(root));
    });
  }

  /** The host has another frame under `gfn`; a notifier that 7.3 has not. */
  setSpteGfn(addressSpace: number, gfn: number, pfn: number, writable: boolean): boolean {
    return this.forRoots(addressSpace, false, (root) => setFrame(this.tables, root, gfn, pfn, writable));
  }

  /** Whether anything in the range had been accessed; from now on it has not. */
  ageRange(addressSpace: number, startGfn: number, endGfn: number): boolean {
    return this.forRoots(addressSpace, !this.old, (root) => age(this.tables, root, startGfn, endGfn));
  }

  testAge(addressSpace: number, startGfn: number, endGfn: number): boolean {
    return this.forRoots(addressSpace, !this.old, (root) => isAccessed(this.tables, root, startGfn, endGfn));
  }

  // Write protection and dirty logging. All but `clearDirtyMasked` and `splitHugePages` tell whether anything changed.

  writeProtectGfn(gfn: number, addressSpace: number, minLevel: number): boolean {
    const { mutants } = this.pages;
    const keeps = mutants.has(Mutant.KEEPS_MMU_WRITABLE);
    const smallOnly = mutants.has(Mutant.HUGE_PAGE_STAYS);
    return this.forRoots(addressSpace, !this.old, (root) => {
      if (smallOnly && lastTable(this.pages, root, gfn, 1).level > 1) return false;
      return protectFrame(this.tables, root, gfn, minLevel, keeps);
    });
  }

  writeProtectSlot(slot: Slot, minLevel: number): boolean {
    const end = slot.baseGfn + slot.pages;
    return this.forRoots(slot.addressSpace, true, (root) =>
      protectRange(this.tables, root, slot.baseGfn, end, minLevel),
    );
  }

  clearDirtySlot(slot: Slot): boolean {
    const end = slot.baseGfn + slot.pages;
    return this.forRoots(slot.addressSpace, true, (root) => clearDirty(this.tables, root, slot.baseGfn, end));
  }

  /** Of the 64 frames from `baseGfnOffset` in the slot those whose bit is set. `writeProtect`: W even where D would do. */
  clearDirtyMasked(slot: Slot, baseGfnOffset: number, maskLo: number, maskHi: number, writeProtect: boolean): void {
    const gfn = slot.baseGfn + baseGfnOffset;
    this.forRoots(slot.addressSpace, !this.old, (root) => {
      clearDirtyMasked(this.tables, root, gfn, maskLo, maskHi, writeProtect);
      return true;
    });
  }

  splitHugePages(slot: Slot, startGfn: number, endGfn: number, targetLevel: number): void {
    this.forRoots(slot.addressSpace, true, (root) => {
      splitRange(this.tables, root, startGfn, endGfn, targetLevel);
      return true;
    });
  }

  zapCollapsible(slot: Slot): void {
    this.forRoots(slot.addressSpace, true, (root) => {
      zapCollapsible(this.tables, root, slot);
      return true;
    });
  }

  /** Visits the 4 KiB leaves of a slot under all roots. */
  forEachLeaf(slot: Slot, visit: (gfn: number, lo: number, hi: number) => void): void {
    const end = slot.baseGfn + slot.pages;
    this.forRoots(slot.addressSpace, true, (root) => {
      forEachLeaf(this.pages, root, slot.baseGfn, end, 1, (sp, _index, gfn, lo, hi) => {
        if (sp.level === 1) visit(gfn, lo, hi);
      });
      return false;
    });
  }
}
