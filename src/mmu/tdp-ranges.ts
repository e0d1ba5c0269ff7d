/**
 * What is done to a range of guest frames under one root of the TDP MMU: unmapping, aging, write protection, dirty
 * logging, splitting and merging of large pages (facts/kvm-6.1.md §1.6, facts/kvm-mmu.md §8.7). Which roots these visit
 * is `tdp-mmu.ts`'s to say. Ranges are [start, end) in guest frames; what a function returns is whether it changed
 * anything, and so, but for aging, whether TLBs must be flushed.
 */

import { adDisabled, guestMode } from '../paging/kvm-roles.ts';
import type { Slot } from './host.ts';
import { MAX_RMAP_LEVEL } from './rmap.ts';
import { indexOf, pagesOf, type ShadowPage } from './shadow-page.ts';
import { frameHi, frameLo, frameOf, SPTE_LARGE, SPTE_W } from './spte.ts';
import { forEachEntry, forEachLeaf, lastTable } from './tdp-iterate.ts';
import type { TdpTables } from './tdp-tables.ts';

/** Empties all present leaves; tables stay. */
export function zapLeaves(tables: TdpTables, root: ShadowPage, start: number, end: number): boolean {
  let any = false;
  forEachLeaf(tables.pages, root, start, end, 1, (sp, index) => {
    tables.clear(sp, index, false);
    any = true;
  });
  return any;
}

/** Empties all that is present of `level` and, as they go with it, all tables below. */
export function zapLevel(tables: TdpTables, root: ShadowPage, level: number, shared: boolean): void {
  const { pages } = tables;
  forEachEntry(pages, root, 0, Number.POSITIVE_INFINITY, level, (sp, index) => {
    if (sp.level <= level && pages.format.isPresent(pages.lo(sp.sptep(index)))) tables.clear(sp, index, shared);
  });
}

/** The host maps another frame under `gfn`: the SPTE goes or, if the frame is read-only, is replaced (6.1). */
export function setFrame(tables: TdpTables, root: ShadowPage, gfn: number, pfn: number, writable: boolean): boolean {
  const { format } = tables.pages;
  let any = false;
  forEachLeaf(tables.pages, root, gfn, gfn + 1, 1, (sp, index, _, lo, hi) => {
    if (sp.level > 1) return;
    tables.clear(sp, index, false);
    any = true;
    if (writable) return;
    format.withFrame(lo, hi, pfn);
    tables.change(sp, index, format.lo, format.hi, false);
  });
  return any;
}

export function age(tables: TdpTables, root: ShadowPage, start: number, end: number): boolean {
  const { format } = tables.pages;
  let any = false;
  forEachLeaf(tables.pages, root, start, end, 1, (sp, index, _, lo, hi) => {
    if (!format.isAccessed(lo, hi)) return;
    format.track(lo, hi);
    tables.change(sp, index, format.lo, format.hi, false);
    any = true;
  });
  return any;
}

export function isAccessed(tables: TdpTables, root: ShadowPage, start: number, end: number): boolean {
  const { format } = tables.pages;
  let any = false;
  forEachLeaf(tables.pages, root, start, end, 1, (_sp, _index, _gfn, lo, hi) => {
    any ||= format.isAccessed(lo, hi);
  });
  return any;
}

/**
 * The frame holds a table that is shadowed from now on: its leaf loses the right to be written and the mark that lets
 * the fast path give it back. `onlyWritable`: the mark stays where the right is gone already (a mutant).
 */
export function protectFrame(
  tables: TdpTables,
  root: ShadowPage,
  gfn: number,
  minLevel: number,
  onlyWritable: boolean,
): boolean {
  const { pages } = tables;
  const { format } = pages;
  const sp = lastTable(pages, root, gfn, minLevel);
  const index = indexOf(gfn, sp.level);
  const lo = pages.lo(sp.sptep(index));
  if (!format.isPresent(lo) || !format.isLeaf(lo, sp.level)) return false;
  if (onlyWritable && (lo & SPTE_W) === 0) return false;
  format.lo = lo;
  format.hi = pages.hi(sp.sptep(index));
  format.dropWrite();
  if (format.lo === lo && format.hi === pages.hi(sp.sptep(index))) return false;
  tables.change(sp, index, format.lo, format.hi, false);
  return true;
}

/** Dirty logging without page-modification logging: leaves lose W and stay MMU-writable. */
export function protectRange(
  tables: TdpTables,
  root: ShadowPage,
  start: number,
  end: number,
  minLevel: number,
): boolean {
  return clearBit(tables, root, start, end, minLevel, SPTE_W);
}

/** Dirty logging with page-modification logging: leaves lose D or, where that is not the hardware's, W. */
export function clearDirty(tables: TdpTables, root: ShadowPage, start: number, end: number): boolean {
  return clearBit(tables, root, start, end, 1, dirtyBit(tables, root));
}

function clearBit(
  tables: TdpTables,
  root: ShadowPage,
  start: number,
  end: number,
  minLevel: number,
  bit: number,
): boolean {
  let any = false;
  forEachLeaf(tables.pages, root, start, end, minLevel, (sp, index, _, lo, hi) => {
    if ((lo & bit) === 0) return;
    tables.change(sp, index, lo & ~bit, hi, true);
    any = true;
  });
  return any;
}

/**
 * The bit by which writes to the tables of a root are noticed. Its tables share its role but for the level, and so the
 * type of their SPTEs.
 */
function dirtyBit({ pages }: TdpTables, root: ShadowPage): number {
  const needsProtection =
    !pages.format.adEnabled || adDisabled(root.role) || (pages.config.pml && guestMode(root.role));
  return needsProtection ? SPTE_W : pages.format.dirty;
}

/** The same for those of 64 frames from `gfn` whose bit is set; 4 KiB leaves only. `protect`: W in any case. */
export function clearDirtyMasked(
  tables: TdpTables,
  root: ShadowPage,
  gfn: number,
  maskLo: number,
  maskHi: number,
  protect: boolean,
): void {
  const bit = protect ? SPTE_W : dirtyBit(tables, root);
  forEachLeaf(tables.pages, root, gfn, gfn + 64, 1, (sp, index, first, lo, hi) => {
    if (sp.level > 1 || (lo & bit) === 0) return;
    const at = first - gfn;
    const isAsked = at < 32 ? (maskLo >>> at) & 1 : (maskHi >>> (at - 32)) & 1;
    if (isAsked !== 0) tables.change(sp, index, lo & ~bit, hi, false);
  });
}

/** Splits every large leaf above `targetLevel`, level by level on the way down. */
export function splitRange(tables: TdpTables, root: ShadowPage, start: number, end: number, targetLevel: number): void {
  const { pages } = tables;
  forEachEntry(pages, root, start, end, targetLevel + 1, (sp, index) => {
    const lo = pages.lo(sp.sptep(index));
    if (pages.format.isPresent(lo) && pages.format.isLeaf(lo, sp.level)) tables.split(sp, index);
  });
}

/**
 * Dirty logging has ended: tables in whose place there could be a large page go. 6.1 leaves the next fault to map it,
 * 7.3 puts it there at once, with the rights of the first leaf that is found (after mainline patches, no recording).
 */
export function zapCollapsible(tables: TdpTables, root: ShadowPage, slot: Slot): void {
  const { pages } = tables;
  const { format, config } = pages;
  const start = slot.baseGfn;
  const end = start + slot.pages;
  let flush = false;
  forEachEntry(pages, root, start, end, 2, (sp, index, gfn) => {
    const { level } = sp;
    const lo = pages.lo(sp.sptep(index));
    if (level > MAX_RMAP_LEVEL || !format.isPresent(lo) || format.isLeaf(lo, level)) return;
    if (gfn < start || gfn >= end) return;
    if (pages.slotState.maxMappingLevel(slot, gfn, config.maxLevel) < level) return;
    if (config.profile === '6.1') {
      tables.zapInPlace(sp, index);
    } else if (makeMerged(tables, sp, index)) {
      tables.change(sp, index, format.lo, format.hi, true);
      flush = true;
    }
  });
  if (flush) pages.flushRemoteTlbs();
}

/** Builds the large leaf that stands for the table below an entry into `format`; false: the table maps nothing. */
function makeMerged({ pages }: TdpTables, sp: ShadowPage, index: number): boolean {
  const { format } = pages;
  const sptep = sp.sptep(index);
  const child = pages.childOf(pages.lo(sptep), pages.hi(sptep));
  let found = false;
  forEachLeaf(pages, child, child.gfn, child.gfn + pagesOf(sp.level), 1, (_sp, _index, _gfn, lo, hi) => {
    if (found) return;
    found = true;
    const frame = frameOf(lo, hi);
    const first = frame - (frame % pagesOf(sp.level));
    format.lo = (lo & 0xfff) | SPTE_LARGE | frameLo(first);
    format.hi = (hi & ~0xf_ffff) | frameHi(first);
    if (pages.config.nxHugePages) format.setExecutable(0);
  });
  return found;
}
