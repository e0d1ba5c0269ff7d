/**
 * An MMU: builds tables of SPTEs for the hardware and keeps their roots (`struct kvm_mmu`). It shadows what a walk reads,
 * or, when direct, nothing (facts/kvm-mmu.md §1, §8.2; facts/kvm-6.1.md §2.4).
 */

import { Reg } from '../formats/registers.ts';
import { frameOf } from '../paging/guest-memory.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { guestMode, isDirect, roleLevel, withLevel, withQuadrant } from '../paging/kvm-roles.ts';
import { readPdpte } from '../paging/software-walk.ts';
import { isPrivate } from './host.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import { DUMMY_ROOT, PREVIOUS_ROOTS, type Root } from './root.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import { ShadowWalk } from './shadow-walk.ts';
import { Synchroniser } from './sync.ts';
import type { TdpMmu } from './tdp-mmu.ts';

/** Which tables an MMU builds. */
export type MmuKind = 'tdp' | 'nonpaging' | 'paging';

const PRESENT = 1;
const GFN_OF_1G = 0x4_0000;

export class Mmu {
  readonly pages: ShadowPages;
  /** The walk whose tables it shadows. */
  readonly walk: KvmPageWalk;
  readonly synchroniser: Synchroniser;
  private readonly tdpMmu: TdpMmu | null;
  /** A walk over its own tables, for whoever needs one. */
  readonly shadowWalk: ShadowWalk;
  kind: MmuKind = 'nonpaging';
  /** Role word of the root; 0 before the first initialisation and after CPUID has changed. */
  rootRole = 0;
  root: Root | null = null;
  readonly previous: (Root | null)[] = new Array<Root | null>(PREVIOUS_ROOTS).fill(null);

  constructor(pages: ShadowPages, walk: KvmPageWalk, tdpMmu: TdpMmu | null) {
    this.pages = pages;
    this.walk = walk;
    this.tdpMmu = tdpMmu;
    this.synchroniser = new Synchroniser(pages, walk);
    this.shadowWalk = new ShadowWalk(pages);
  }

  get direct(): boolean {
    return isDirect(this.rootRole);
  }

  hasRole(kind: MmuKind, rootRole: number): boolean {
    return this.rootRole === rootRole && this.kind === kind;
  }

  /** Takes over a root role; skipped (false) when it is the one in force. Frees no root. */
  init(kind: MmuKind, rootRole: number): boolean {
    if (this.hasRole(kind, rootRole)) return false;
    this.kind = kind;
    this.rootRole = rootRole;
    this.synchroniser.rootRole = rootRole;
    return true;
  }

  /** Guest CR3, or L1's EPTP or nCR3, as a number, without its bits 63:52. */
  guestPgd(): number {
    const { registers } = this.walk;
    const root = !this.walk.ngpa ? Reg.CR3 : this.walk.ept ? Reg.EPTP : Reg.NCR3;
    return registers[2 * root]! + (registers[2 * root + 1]! & 0xf_ffff) * 0x1_0000_0000;
  }

  // Loading and freeing roots.

  private isSpecial(root: Root): boolean {
    return root.page === null;
  }

  private hold(sp: ShadowPage): ShadowPage {
    sp.rootCount++;
    return sp;
  }

  private allocate(gfn: number, level: number, quadrant: number): ShadowPage {
    const role = withQuadrant(withLevel(this.rootRole, level), quadrant) >>> 0;
    return this.hold(this.pages.get(gfn, role, this.synchroniser.syncPage));
  }

  /** A guest root or page directory that is in no memslot is no reason to stop (7.3; facts/kvm-mmu.md §8.2). */
  get toleratesInvisible(): boolean {
    return this.pages.config.profile !== '6.1';
  }

  /** Gets a root for what the guest's registers say. False: the guest's root is in no memslot (6.1: triple fault). */
  load(): boolean {
    const { walk } = this;
    const level = roleLevel(this.rootRole);
    if (this.direct) {
      if (this.tdpMmu !== null && this.kind === 'tdp') {
        this.pages.makeAvailable();
        this.root = { pgd: 0, page: this.tdpMmu.getRoot(this.rootRole), pae: null };
        return true;
      }
      this.pages.makeAvailable();
      if (level >= 4) {
        this.root = { pgd: 0, page: this.allocate(0, level, 0), pae: null };
      } else {
        const pae = [0, 1, 2, 3].map((i) => this.allocate(i * GFN_OF_1G, 2, 0));
        this.root = { pgd: 0, page: null, pae };
      }
      return true;
    }
    const pgd = this.guestPgd();
    const rootGfn = Math.floor(pgd / 4096);
    if (!this.isVisible(rootGfn)) {
      if (this.toleratesInvisible) this.root = DUMMY_ROOT;
      return this.toleratesInvisible;
    }
    if (walk.rootLevel >= 4) {
      this.pages.makeAvailable();
      this.root = { pgd, page: this.allocate(rootGfn, level, 0), pae: null };
      return true;
    }
    let gfns = this.paeGfns(rootGfn);
    if (!this.pages.mutants.has(Mutant.PDPTES_UNCHECKED)) {
      const visible = gfns.map((gfn) => (gfn >= 0 && this.isVisible(gfn) ? gfn : -1));
      if (!this.toleratesInvisible && gfns.some((gfn, i) => gfn !== visible[i])) return false;
      gfns = visible;
    }
    this.pages.makeAvailable();
    const twoLevel = walk.rootLevel === 2;
    const pae = gfns.map((gfn, i) => (gfn < 0 ? null : this.allocate(gfn, 2, twoLevel ? i : 0)));
    this.root = { pgd, page: null, pae };
    return true;
  }

  /** The frames that four level-2 tables shadow; -1: a PDPTE that is not present. */
  private paeGfns(rootGfn: number): number[] {
    const { walk } = this;
    return [0, 1, 2, 3].map((i) => {
      if (walk.rootLevel === 2) return rootGfn;
      readPdpte(walk, i);
      const lo = walk.entryLo[3]!;
      return (lo & PRESENT) === 0 ? -1 : frameOf(lo, walk.entryHi[3]!);
    });
  }

  private isVisible(gfn: number): boolean {
    const slot = this.pages.host.slotOf(gfn, 0);
    return slot !== null && !isPrivate(slot);
  }

  private put(root: Root): void {
    if (root.page !== null) {
      if (root.page.tdp) this.tdpMmu!.putRoot(root.page);
      else this.pages.putRoot(root.page);
    } else {
      for (const sp of root.pae!) if (sp !== null) this.pages.putRoot(sp);
    }
  }

  /** Frees all roots, or those for which it holds: previous ones in their order, then the current. */
  free(which: (root: Root) => boolean = () => true): void {
    this.freePrevious(which);
    if (this.root !== null && which(this.root)) this.freeCurrent();
  }

  freeCurrent(): void {
    const { root } = this;
    this.root = null;
    if (root !== null) this.put(root);
  }

  /** Frees previous roots for which it holds, in their order. */
  freePrevious(which: (root: Root) => boolean): void {
    for (let i = 0; i < PREVIOUS_ROOTS; i++) {
      const root = this.previous[i]!;
      if (root === null || !which(root)) continue;
      this.previous[i] = null;
      this.put(root);
    }
  }

  unload(): void {
    this.free();
  }

  /** KVM_REQ_MMU_FREE_OBSOLETE_ROOTS. */
  freeObsolete(): void {
    this.free((root) => root.page === null || this.pages.isObsolete(root.page));
  }

  /** kvm_mmu_free_guest_mode_roots: previous roots that were made while L2 ran. */
  freeGuestModeRoots(): void {
    const ofL1 = this.pages.mutants.has(Mutant.INVVPID_FREES_L1_ROOTS);
    this.freePrevious((root) => (root.page === null || guestMode(root.page.role)) !== ofL1);
  }

  // The cache of roots (facts/kvm-mmu.md §8.2).

  private isUsable(root: Root | null, pgd: number): boolean {
    if (root === null || root.page === null) return false;
    return (this.direct || root.pgd === pgd) && root.page.role === this.rootRole;
  }

  /** kvm_mmu_new_pgd: whether a cached root serves; otherwise there is none now. */
  newPgd(pgd: number): boolean {
    if (this.root !== null && this.isSpecial(this.root)) this.freeCurrent();
    const hit = this.root === null ? this.takeFromCache(pgd) : this.rotate(pgd);
    if (!hit) return false;
    const { page } = this.root!;
    if (page !== null && !page.tdp) page.writeFloodingCount = 0;
    return true;
  }

  /** The old current root becomes the most recent of the previous ones; the least recent falls out. */
  private rotate(pgd: number): boolean {
    if (this.isUsable(this.root, pgd)) return true;
    for (let i = 0; i < PREVIOUS_ROOTS; i++) {
      const other = this.previous[i]!;
      this.previous[i] = this.root;
      this.root = other;
      if (this.isUsable(this.root, pgd)) return true;
    }
    this.freeCurrent();
    return false;
  }

  private takeFromCache(pgd: number): boolean {
    const at = this.previous.findIndex((root) => this.isUsable(root, pgd));
    if (at < 0) return false;
    this.root = this.previous[at]!;
    for (let i = at; i < PREVIOUS_ROOTS - 1; i++) this.previous[i] = this.previous[i + 1]!;
    this.previous[PREVIOUS_ROOTS - 1] = null;
    return true;
  }

  // Synchronising.

  isUnsync(root: Root): boolean {
    if (root === DUMMY_ROOT) return false;
    return root.page === null || root.page.unsync || root.page.unsyncChildren > 0;
  }

  /** kvm_mmu_sync_roots, but for the MMIO cache, which is the vCPU's. */
  syncRoots(): void {
    const { root, pages } = this;
    if (this.direct || root === null) return;
    const { syncPage } = this.synchroniser;
    if (root.page !== null) {
      if (this.isUnsync(root)) pages.syncChildren(root.page, syncPage);
      return;
    }
    for (const sp of root.pae!) if (sp !== null) pages.syncChildren(sp, syncPage);
  }

  /**
   * Takes an address out of the tables below a root: 6.1 drops what an unsync table says of it and, if the guest's entry
   * allows, maps that anew (facts/kvm-6.1.md §7.3); 7.3 brings the one entry in step (facts/kvm-mmu.md §8.4).
   */
  invalidateAddress(root: Root, lo: number, hi: number): void {
    const { pages, shadowWalk } = this;
    const { format } = pages;
    for (let on = shadowWalk.begin(root, lo, hi); on; on = shadowWalk.next()) {
      const { sp, sptep, level } = shadowWalk;
      const page = sp!;
      if (format.profile !== '6.1') {
        if (page.unsync) this.resync(page, sptep);
        if (page.unsyncChildren === 0) return;
        continue;
      }
      const old = pages.lo(sptep);
      if (format.isLeaf(old, level)) {
        if (!page.unsync) return;
        pages.zapSpte(sptep, null);
        if (format.isPresent(old)) pages.flushRemoteTlbs();
        this.synchroniser.prefetchFromMemory(page, sptep);
        // What is there now decides where the walk goes, and it is a leaf or nothing.
        if (page.unsyncChildren === 0) return;
        continue;
      }
      if (page.unsyncChildren === 0) return;
    }
  }

  private resync(page: ShadowPage, sptep: number): void {
    const done = this.synchroniser.syncEntry(page, sptep % ENTRIES);
    if (done < 0) this.pages.zapSpte(sptep, null);
    if (done !== 0) this.pages.flushRemoteTlbs();
  }

  /** Clears the counts of emulated writes on the way to an address. */
  clearWriteFlooding(lo: number, hi: number): void {
    if (this.root === null) return;
    for (let on = this.shadowWalk.begin(this.root, lo, hi); on; on = this.shadowWalk.next()) {
      this.shadowWalk.sp!.writeFloodingCount = 0;
    }
  }
}
