/**
 * Life of the shadow pages of one VM: found or made by (gfn, role), linked, marked unsync, zapped, freed, recycled
 * (facts/kvm-mmu.md §6.12, facts/kvm-6.1.md §2). Tables of the TDP MMU share the memory and the events, not this life.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { adDisabled, guestMode, isInvalid, passthrough, roleLevel, smm, withInvalid } from '../paging/kvm-roles.ts';
import { ActivePages } from './active-pages.ts';
import type { Host } from './host.ts';
import { Mutant, type Mutants } from './mutants.ts';

import { ReverseMap } from './rmap.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import { SlotState } from './slot-state.ts';
import { SPTE_W, type SpteFormat } from './spte.ts';
import { Tables } from './tables.ts';
import type { MmuTrace } from './trace.ts';
import { clearParents, collectUnsync } from './unsync-walk.ts';

/** Shadow pages that must be left, and how many are made available when they are not. */
const MINIMUM_FREE = 5;
const REFILL = 25;
/** SPTEs that may map one frame before all are dropped. */
const RMAP_RECYCLE = 1000;

/** Synchronises an unsync page with the guest table: 1 flush, 0 done, -1 it cannot be. */
export type SyncPage = (sp: ShadowPage) => number;

/** What the processors must be told. */
export interface FlushTarget {
  flushRemoteTlbs(): void;
  freeObsoleteRoots(): void;
}

/** What write-protects, besides the reverse map: the TDP MMU. */
export interface WriteProtector {
  writeProtectGfn(gfn: number, addressSpace: number, minLevel: number): boolean;
}

export class ShadowPages extends Tables {
  readonly config: KvmConfig;
  readonly format: SpteFormat;
  readonly mutants: Mutants;
  readonly rmap = new ReverseMap();
  readonly slotState: SlotState;
  private readonly flushTarget: FlushTarget;
  /** The TDP MMU, where there is one. */
  writeProtector: WriteProtector | null = null;

  /** Pages by guest frame, newest first. */
  private readonly byGfn = new Map<number, ShadowPage[]>();
  private readonly list = new ActivePages();
  /** Legacy pages in use and allowed. */
  used = 0;
  maximum = Number.POSITIVE_INFINITY;
  /** Pages that shadow guest tables. */
  indirect = 0;

  constructor(parts: {
    config: KvmConfig;
    host: Host;
    format: SpteFormat;
    trace: MmuTrace;
    mutants: Mutants;
    flushTarget: FlushTarget;
  }) {
    super(parts.host, parts.trace, parts.format.emptyHi);
    this.config = parts.config;
    this.format = parts.format;
    this.mutants = parts.mutants;
    this.flushTarget = parts.flushTarget;
    this.slotState = new SlotState(parts.host);
  }

  /** The list of active pages, newest first, for the invariants. */
  active(): Iterable<ShadowPage> {
    return this.list.all();
  }

  /** The last of that list. */
  get oldestActive(): ShadowPage | null {
    return this.list.oldest;
  }

  /** The lists that pages are found through, for the invariants. */
  get hashed(): ReadonlyMap<number, readonly ShadowPage[]> {
    return this.byGfn;
  }

  flushRemoteTlbs(): void {
    this.flushTarget.flushRemoteTlbs();
  }

  // Finding and making.

  isObsolete(sp: ShadowPage): boolean {
    return isInvalid(sp.role, this.config.profile) || (!sp.tdp && sp.generation !== this.generation);
  }

  /** The page shadows a guest table. */
  hasGptes(sp: ShadowPage): boolean {
    return !sp.direct && !passthrough(sp.role);
  }

  /** Valid pages that shadow the guest table in a frame, newest first; a copy. */
  shadowing(gfn: number): ShadowPage[] {
    const found = this.byGfn.get(gfn);
    return found === undefined ? [] : found.filter((sp) => !this.isObsolete(sp) && this.hasGptes(sp));
  }

  /** kvm_mmu_get_page: the page for (gfn, role), found or made (facts/kvm-6.1.md §2.2). */
  get(gfn: number, role: number, syncPage: SyncPage): ShadowPage {
    const found = this.find(gfn, role, syncPage);
    const sp = found ?? this.make(gfn, role);
    this.trace.getPage(sp, found === null);
    return sp;
  }

  private find(gfn: number, role: number, syncPage: SyncPage): ShadowPage | null {
    const zapped: ShadowPage[] = [];
    let result: ShadowPage | null = null;
    for (const sp of [...(this.byGfn.get(gfn) ?? [])]) {
      if (this.isObsolete(sp)) continue;
      if (sp.role !== role) {
        if (roleLevel(role) > 1 && sp.unsync) this.prepareZap(sp, zapped);
        continue;
      }
      if (!sp.direct) {
        if (sp.unsync && !this.mutants.has(Mutant.SYNC_BEFORE_LINK)) {
          const done = syncPage(sp);
          if (done < 0) {
            this.prepareZap(sp, zapped);
            break;
          }
          if (done > 0) this.flushRemoteTlbs();
        }
        sp.writeFloodingCount = 0;
      }
      result = sp;
      break;
    }
    this.commitZap(zapped);
    return result;
  }

  private make(gfn: number, role: number): ShadowPage {
    const sp = this.take(gfn, role, false);
    this.list.add(sp);
    this.used++;
    const others = this.byGfn.get(gfn);
    if (others === undefined) this.byGfn.set(gfn, [sp]);
    else others.unshift(sp);
    if (this.hasGptes(sp)) this.account(sp);
    return sp;
  }

  /** The guest table in the frame is shadowed now: nobody may write to it unnoticed. */
  private account(sp: ShadowPage): void {
    this.indirect++;
    const space = smm(sp.role);
    // Page tracking protects the frame at all levels, too.
    if (sp.level > 1) this.slotState.track(sp.gfn, space);
    else this.slotState.disallowLargePages(sp.gfn, space);
    const isProtected = this.writeProtect(sp.gfn, space, 1);
    if (isProtected && !this.mutants.has(Mutant.PROTECT_WITHOUT_FLUSH)) this.flushRemoteTlbs();
  }

  private unaccount(sp: ShadowPage): void {
    this.indirect--;
    if (sp.level > 1) this.slotState.untrack(sp.gfn, smm(sp.role));
    else this.slotState.allowLargePages(sp.gfn, smm(sp.role));
  }

  /** Takes the right to write from all SPTEs of a frame at `minLevel` and above; whether any had it. */
  writeProtect(gfn: number, addressSpace: number, minLevel: number): boolean {
    let any = false;
    for (let level = minLevel; level <= 3; level++) {
      if (level > 1 && this.mutants.has(Mutant.HUGE_PAGE_STAYS)) break;
      for (const sptep of this.rmap.of(gfn, level, addressSpace)) any = this.writeProtectSpte(sptep, true) || any;
    }
    if (this.writeProtector !== null) any = this.writeProtector.writeProtectGfn(gfn, addressSpace, minLevel) || any;
    return any;
  }

  /** W goes; with `forShadow` MMU-writable goes, too. Whether anything changed. */
  writeProtectSpte(sptep: number, forShadow: boolean): boolean {
    const { format } = this;
    const lo = this.lo(sptep);
    const hi = this.hi(sptep);
    const keepsMmuWritable = this.mutants.has(Mutant.KEEPS_MMU_WRITABLE);
    if ((lo & SPTE_W) === 0 && !(forShadow && format.isMmuWritable(lo, hi) && !keepsMmuWritable)) return false;
    format.lo = lo & ~SPTE_W;
    format.hi = hi;
    if (forShadow) format.dropWrite();
    this.set(sptep, format.lo, format.hi);
    return true;
  }

  // Linking.

  /** Makes an entry point at a child table (facts/kvm-6.1.md §2.8). */
  link(sptep: number, child: ShadowPage): void {
    if (this.format.isPresent(this.lo(sptep))) {
      const zapped: ShadowPage[] = [];
      this.zapSpte(sptep, zapped);
      if (zapped.length > 0) this.commitZap(zapped);
      else this.flushRemoteTlbs();
    }
    this.format.makeTable(child.frame, adDisabled(child.role));
    this.set(sptep, this.format.lo, this.format.hi);
    child.parents.push(sptep);
    if (child.unsyncChildren > 0 || child.unsync) this.markUnsync(sptep);
  }

  /** A present non-leaf entry lets go of its child. */
  unlinkChild(sptep: number, child: ShadowPage): void {
    const at = child.parents.indexOf(sptep);
    if (at < 0) throw new Error(`table of gfn ${child.gfn.toString(16)} does not know its parent`);
    child.parents[at] = child.parents[child.parents.length - 1]!;
    child.parents.pop();
    this.clear(sptep);
  }

  // Leaves.

  addRmap(sptep: number, sp: ShadowPage, gfn: number, access: number): void {
    if (sp.gfns !== null) {
      sp.gfns[sptep % ENTRIES] = gfn;
      sp.accesses![sptep % ENTRIES] = access;
    }
    const space = smm(sp.role);
    const count = this.rmap.add(gfn, sp.level, space, sptep);
    if (count > RMAP_RECYCLE + 1) {
      for (const other of [...this.rmap.of(gfn, sp.level, space)]) this.dropSpte(other);
      this.flushRemoteTlbs();
    }
  }

  /** Removes a present leaf. */
  dropSpte(sptep: number): void {
    const sp = this.pageOf(sptep);
    if (this.format.isPresent(this.lo(sptep))) {
      this.rmap.remove(sp.gfnAt(sptep % ENTRIES), sp.level, smm(sp.role), sptep);
    }
    this.clear(sptep);
  }

  /** Empties an entry, whatever it is; what becomes parentless of nested tables is zapped, too (facts §2.6). */
  zapSpte(sptep: number, zapped: ShadowPage[] | null): number {
    const sp = this.pageOf(sptep);
    const lo = this.lo(sptep);
    const hi = this.hi(sptep);
    if (this.format.isPresent(lo)) {
      if (this.format.isLeaf(lo, sp.level)) {
        this.dropSpte(sptep);
      } else {
        const child = this.childOf(lo, hi);
        this.unlinkChild(sptep, child);
        const orphan = this.config.tdp && guestMode(child.role) && child.parents.length === 0;
        // However many tables go with the child, it counts as one.
        if (orphan && zapped !== null && child.rootCount === 0) return this.prepareZap(child, zapped) > 0 ? 1 : 0;
      }
    } else if (this.format.isMmio(lo, hi)) {
      this.clear(sptep);
    }
    return 0;
  }

  // Unsync.

  /** Whether a frame may be written, and if so, all its tables become unsync (facts/kvm-6.1.md §6). */
  tryToUnsync(gfn: number, addressSpace: number, canUnsync: boolean, prefetch: boolean): boolean {
    if (this.slotState.isWriteTracked(gfn, addressSpace)) return false;
    const found = this.byGfn.get(gfn);
    if (found === undefined) return true;
    for (const sp of found) {
      if (this.isObsolete(sp) || !this.hasGptes(sp)) continue;
      if (!canUnsync) return false;
      if (sp.unsync) continue;
      if (prefetch) return false;
      this.trace.unsyncPage(sp);
      sp.unsync = true;
      this.markParentsUnsync(sp);
    }
    return true;
  }

  private markParentsUnsync(sp: ShadowPage): void {
    for (const sptep of sp.parents) this.markUnsync(sptep);
  }

  private markUnsync(sptep: number): void {
    const sp = this.pageOf(sptep);
    if (sp.testAndSetUnsyncBit(sptep % ENTRIES)) return;
    if (sp.unsyncChildren++ > 0) return;
    this.markParentsUnsync(sp);
  }

  /** The page is about to be in step with the guest again. */
  private unlinkUnsync(sp: ShadowPage): void {
    this.trace.syncPage(sp);
    sp.unsync = false;
  }

  /** mmu_sync_children: brings everything below a page in step with the guest's tables. */
  syncChildren(parent: ShadowPage, syncPage: SyncPage): void {
    const zapped: ShadowPage[] = [];
    let flush = false;
    for (;;) {
      const { pages } = collectUnsync(this, parent);
      if (pages.length === 0) break;
      let isProtected = false;
      for (const { sp } of pages) isProtected = this.writeProtect(sp.gfn, smm(sp.role), 1) || isProtected;
      if (isProtected) {
        this.flushOrCommit(zapped, true);
        flush = false;
      }
      for (const { sp, way } of pages) {
        this.unlinkUnsync(sp);
        const done = syncPage(sp);
        if (done < 0) this.prepareZap(sp, zapped);
        flush = done > 0 || flush;
        clearParents(way);
      }
    }
    this.flushOrCommit(zapped, flush);
  }

  private flushOrCommit(zapped: ShadowPage[], flush: boolean): void {
    if (zapped.length > 0) this.commitZap(zapped);
    else if (flush) this.flushRemoteTlbs();
  }

  // Zapping.

  /** kvm_mmu_prepare_zap_page: how many pages went to `zapped` (facts/kvm-6.1.md §2.6). */
  prepareZap(sp: ShadowPage, zapped: ShadowPage[]): number {
    this.trace.prepareZapPage(sp);
    let count = this.zapUnsyncChildren(sp, zapped);
    for (let index = 0; index < ENTRIES; index++) count += this.zapSpte(sp.sptep(index), zapped);
    for (const parent of [...sp.parents]) this.unlinkChild(parent, sp);
    this.lastUnstable = count > 0;
    const { profile } = this.config;
    const wasInvalid = isInvalid(sp.role, profile);
    if (!wasInvalid && this.hasGptes(sp)) this.unaccount(sp);
    if (sp.unsync) this.unlinkUnsync(sp);
    let zappedRoot = false;
    this.list.remove(sp);
    if (sp.rootCount === 0) {
      count++;
      zapped.push(sp);
      this.used--;
    } else {
      zappedRoot = !this.isObsolete(sp);
    }
    sp.role = withInvalid(sp.role, profile);
    if (zappedRoot) this.flushTarget.freeObsoleteRoots();
    return count;
  }

  /** Whether the last `prepareZap` zapped others, too: the list that somebody walks is no longer the same. */
  private lastUnstable = false;

  private zapUnsyncChildren(parent: ShadowPage, zapped: ShadowPage[]): number {
    if (parent.level === 1) return 0;
    let count = 0;
    for (;;) {
      const { pages } = collectUnsync(this, parent);
      if (pages.length === 0) return count;
      for (const { sp, way } of pages) {
        this.prepareZap(sp, zapped);
        clearParents(way);
        count++;
      }
    }
  }

  commitZap(zapped: ShadowPage[]): void {
    if (zapped.length === 0) return;
    this.flushRemoteTlbs();
    for (const sp of zapped) {
      const others = this.byGfn.get(sp.gfn)!;
      others.splice(others.indexOf(sp), 1);
      if (others.length === 0) this.byGfn.delete(sp.gfn);
      this.release(sp);
    }
    zapped.length = 0;
  }

  /** Zaps all tables that shadow a frame, so that it can be written; whether there were any. */
  unprotect(gfn: number): boolean {
    const zapped: ShadowPage[] = [];
    const pages = this.shadowing(gfn);
    for (const sp of pages) if (!this.isObsolete(sp)) this.prepareZap(sp, zapped);
    this.commitZap(zapped);
    return pages.length > 0;
  }

  /** Room for another fault's pages: zaps the oldest if fewer than 5 are left. False: there is none. */
  makeAvailable(): boolean {
    const available = Math.max(0, this.maximum - this.used);
    if (available >= MINIMUM_FREE) return true;
    this.zapOldest(REFILL - available);
    return this.maximum > this.used;
  }

  private zapOldest(wanted: number): void {
    const zapped: ShadowPage[] = [];
    let total = 0;
    let sp = this.list.oldest;
    while (sp !== null) {
      const next: ShadowPage | null = sp.newer;
      if (sp.rootCount > 0) {
        sp = next;
        continue;
      }
      total += this.prepareZap(sp, zapped);
      if (total >= wanted) break;
      sp = this.lastUnstable ? this.list.oldest : next;
    }
    this.commitZap(zapped);
  }

  /** The budget follows the sizes of the slots. */
  setMaximum(pages: number): void {
    let goal = pages;
    if (this.used > goal) {
      this.zapOldest(this.used - goal);
      goal = Math.max(goal, this.used);
    }
    this.maximum = goal;
  }

  /** Everything of the other generation goes, oldest first. */
  zapObsolete(): void {
    const zapped: ShadowPage[] = [];
    let sp = this.list.oldest;
    while (sp !== null && this.isObsolete(sp)) {
      const next: ShadowPage | null = sp.newer;
      this.prepareZap(sp, zapped);
      sp = this.lastUnstable ? this.list.oldest : next;
    }
    this.commitZap(zapped);
  }

  /** The VM goes: everything, newest first. */
  zapEverything(): void {
    const zapped: ShadowPage[] = [];
    let sp = this.list.newest;
    while (sp !== null) {
      const next: ShadowPage | null = sp.older;
      if (isInvalid(sp.role, this.config.profile)) {
        sp = next;
        continue;
      }
      this.prepareZap(sp, zapped);
      sp = this.lastUnstable ? this.list.newest : next;
    }
    this.commitZap(zapped);
  }

  /** A root loses a holder; an invalid one that loses its last is zapped for good. */
  putRoot(sp: ShadowPage): void {
    sp.rootCount--;
    if (sp.rootCount === 0 && isInvalid(sp.role, this.config.profile)) {
      const zapped: ShadowPage[] = [];
      this.prepareZap(sp, zapped);
      this.commitZap(zapped);
    }
  }
}
