/**
 * Tables of the TDP MMU and the changes of their entries, each of which is an event (facts/kvm-6.1.md §1.2, §1.4). A
 * table has one parent entry; when that lets go of it, the table and all below are gone.
 *
 * `shared`: the change is made under the lock that page faults take, too. With one processor that is visible only in the
 * removal of a table: shared, every entry of it is frozen; exclusively, only the present ones are.
 */

import { childRole, roleAccess } from '../paging/kvm-roles.ts';
import type { ShadowPages } from './pages.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';

export class TdpTables {
  readonly pages: ShadowPages;

  constructor(pages: ShadowPages) {
    this.pages = pages;
  }

  /** An empty table; `gfn`: the first frame that it covers. */
  create(gfn: number, role: number): ShadowPage {
    const { pages } = this;
    const sp = pages.take(gfn, role, true);
    pages.trace.getPage(sp, true);
    return sp;
  }

  /** An empty table for below an entry, not linked yet. */
  createChild(parent: ShadowPage, parentIndex: number): ShadowPage {
    const { profile } = this.pages.config;
    const access = roleAccess(parent.role, profile);
    const role = childRole(profile, parent.role, { direct: true, access, parentIndex });
    return this.create(parent.gfnAt(parentIndex), role);
  }

  /** Gives an entry another value. A table that it led to and does not lead to any more is removed. */
  change(sp: ShadowPage, index: number, newLo: number, newHi: number, shared: boolean): void {
    const { pages } = this;
    const { format } = pages;
    const { level } = sp;
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    const hi = pages.hi(sptep);
    if (lo === newLo && hi === newHi) return;
    pages.set(sptep, newLo, newHi);
    pages.trace.tdpSpteChanged(sp, sp.gfnAt(index), level, lo, hi, newLo, newHi);
    if (!format.isPresent(lo) || format.isLeaf(lo, level)) return;
    if (!format.isPresent(newLo) || format.isLeaf(newLo, level)) this.remove(pages.childOf(lo, hi), shared);
  }

  clear(sp: ShadowPage, index: number, shared: boolean): void {
    this.change(sp, index, 0, this.pages.format.emptyHi, shared);
  }

  /** Empties an entry for good before anybody may fill it again: frozen, flushed, and only then empty, without an event. */
  zapInPlace(sp: ShadowPage, index: number): void {
    const { pages } = this;
    this.change(sp, index, pages.format.frozenLo, pages.format.frozenHi, true);
    pages.flushRemoteTlbs();
    pages.clear(sp.sptep(index));
  }

  /** Makes an entry, empty or a large leaf, lead to a new table. */
  link(sp: ShadowPage, index: number, child: ShadowPage): void {
    const { format } = this.pages;
    format.makeTable(child.frame, !format.adEnabled);
    this.change(sp, index, format.lo, format.hi, true);
    child.parents.push(sp.sptep(index));
  }

  /** Replaces a large leaf by a table of the 512 smaller ones that make it up; returns the table. */
  split(sp: ShadowPage, index: number): ShadowPage {
    const { pages } = this;
    const { format } = pages;
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    const hi = pages.hi(sptep);
    const child = this.createChild(sp, index);
    const access = roleAccess(child.role, pages.config.profile);
    for (let part = 0; part < ENTRIES; part++) {
      format.splitPart(lo, hi, sp.level, part, access);
      pages.set(child.sptep(part), format.lo, format.hi);
    }
    this.link(sp, index, child);
    pages.trace.splitHugePage(sp.gfnAt(index), lo, hi, sp.level, 0);
    return child;
  }

  /**
   * A table is no longer reachable: it goes, its entries frozen in turn, what they led to before the next. The frozen
   * values are not stored, since the table is freed at once.
   */
  private remove(sp: ShadowPage, shared: boolean): void {
    const { pages } = this;
    const { format, trace } = pages;
    const { frozenLo, frozenHi } = format;
    const { level } = sp;
    trace.prepareZapPage(sp);
    for (let index = 0; index < ENTRIES; index++) {
      const sptep = sp.sptep(index);
      const lo = pages.lo(sptep);
      const isPresent = format.isPresent(lo);
      if (!isPresent && !shared) continue;
      const hi = pages.hi(sptep);
      trace.tdpSpteChanged(sp, sp.gfnAt(index), level, lo, hi, frozenLo, frozenHi);
      if (isPresent && !format.isLeaf(lo, level)) this.remove(pages.childOf(lo, hi), shared);
    }
    sp.parents.length = 0;
    pages.release(sp);
  }
}
