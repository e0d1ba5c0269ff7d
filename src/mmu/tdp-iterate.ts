/**
 * Ways through a tree of TDP tables: all entries of a range in pre-order, its leaves, or the one way down to a frame
 * (facts/kvm-6.1.md §1.3). Whoever visits an entry may change it: what is below is read after the visit.
 */

import type { ShadowPages } from './pages.ts';
import { ENTRIES, indexOf, pagesOf, type ShadowPage } from './shadow-page.ts';

/** `index`: of the entry in the table; `gfn`: first guest frame that it covers. */
export type VisitEntry = (sp: ShadowPage, index: number, gfn: number) => void;
/** A present leaf as it is. */
export type VisitLeaf = (sp: ShadowPage, index: number, gfn: number, lo: number, hi: number) => void;

/**
 * Visits every entry of `sp` and of the tables below, down to `minLevel`, that covers a guest frame of [start, end):
 * an entry before what it leads to, ascending.
 */
export function forEachEntry(
  pages: ShadowPages,
  sp: ShadowPage,
  start: number,
  end: number,
  minLevel: number,
  visit: VisitEntry,
): void {
  const { format } = pages;
  const { level } = sp;
  const span = pagesOf(level);
  const first = start <= sp.gfn ? 0 : Math.floor((start - sp.gfn) / span);
  for (let index = first; index < ENTRIES; index++) {
    const gfn = sp.gfn + index * span;
    if (gfn >= end) return;
    visit(sp, index, gfn);
    if (level <= minLevel) continue;
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    if (!format.isPresent(lo) || format.isLeaf(lo, level)) continue;
    forEachEntry(pages, pages.childOf(lo, pages.hi(sptep)), start, end, minLevel, visit);
  }
}

/** Visits every present leaf of `minLevel` or above that covers a frame of [start, end), ascending. */
export function forEachLeaf(
  pages: ShadowPages,
  root: ShadowPage,
  start: number,
  end: number,
  minLevel: number,
  visit: VisitLeaf,
): void {
  const { format } = pages;
  forEachEntry(pages, root, start, end, minLevel, (sp, index, gfn) => {
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    if (format.isPresent(lo) && format.isLeaf(lo, sp.level)) visit(sp, index, gfn, lo, pages.hi(sptep));
  });
}

/** The last table on the way down to a frame, of `minLevel` at the lowest: its entry is a leaf or leads nowhere. */
export function lastTable(pages: ShadowPages, root: ShadowPage, gfn: number, minLevel: number): ShadowPage {
  const { format } = pages;
  let sp = root;
  while (sp.level > minLevel) {
    const sptep = sp.sptep(indexOf(gfn, sp.level));
    const lo = pages.lo(sptep);
    if (!format.isPresent(lo) || format.isLeaf(lo, sp.level)) break;
    sp = pages.childOf(lo, pages.hi(sptep));
  }
  return sp;
}
