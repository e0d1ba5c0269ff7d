/**
 * What must hold of an MMU's tables between any two steps, whatever the guest, the host and the hypervisor did
 * (facts/kvm-mmu.md §6.11, §6.12, §8.2; facts/kvm-6.1.md §2). Looked at only under a debug switch; nothing is changed.
 *
 * What pages know of each other is read anew each time. Entries are read again only where a table, the guest's table
 * that it shadows, or the host has changed since they were found in order: a comparison of memory says so, not those
 * whom the check is to supervise.
 */

import { guestMode, isInvalid, smm } from '../paging/kvm-roles.ts';
import type { Host } from './host.ts';
import { type GuestTables, rightsBeyond } from './invariants-of-guest.ts';
import type { Mmu } from './mmu.ts';
import type { ShadowPages } from './pages.ts';
import type { Root } from './root.ts';
import { ENTRIES, pagesOf, type ShadowPage } from './shadow-page.ts';
import { frameKey } from './slot-state.ts';
import { frameOf, SPTE_W } from './spte.ts';
import type { TdpMmu } from './tdp-mmu.ts';
import { Request, type Vcpu } from './vcpu.ts';

/** A host that can be looked at without bringing anything in. */
export interface InspectedHost extends Host, GuestTables {
  /** The host frame under a guest frame now, whatever its state; -1 without a slot. */
  frameOf(gfn: number, addressSpace: number): number;
}

/** 4 KiB frames of a large leaf that are compared with the host's: its first and its last. */
const LARGE_SAMPLES = [0, 1] as const;

/** All that is looked at. */
export interface Inspected {
  readonly pages: ShadowPages;
  readonly vcpu: Vcpu;
  readonly tdpMmu: TdpMmu | null;
  readonly host: InspectedHost;
  /**
   * The guest's table in a frame was changed by somebody of whom KVM does not hear (a device, the hypervisor): shadow and
   * table may differ.
   */
  readonly unnoticed?: (gfn: number) => boolean;
}

/** Every invariant that does not hold, as a sentence; empty: all hold. */
export function checkInvariants(inspected: Inspected): string[] {
  return new InvariantChecker(inspected).check();
}

/** A table as it was when its entries were found in order. */
interface Snapshot {
  readonly words: Buffer;
  /** The guest's table and rights as last mapped; null for direct tables. */
  readonly guest: Buffer | null;
  readonly accesses: Buffer | null;
  readonly excused: boolean;
  readonly generation: number;
  readonly invalidations: number;
  readonly leaves: number;
  readonly links: number;
}

const PAGE_BYTES = 4096;

/** Checks the same tables again and again. */
export class InvariantChecker {
  private readonly pages: ShadowPages;
  private readonly vcpu: Vcpu;
  private readonly tdpMmu: TdpMmu | null;
  private readonly host: InspectedHost;
  private readonly unnoticed: (gfn: number) => boolean;
  private readonly snapshots = new Map<ShadowPage, Snapshot>();
  /** All of memory as bytes; `words` may have been replaced since. */
  private bytes: Buffer = Buffer.alloc(0);
  private found: string[] = [];
  private all: readonly ShadowPage[] = [];
  /** Present leaves of tables of the legacy MMU, and present entries that lead to tables. */
  private leaves = 0;
  private links = 0;
  /** `changes` of the reverse map when it was found in order. */
  private rmapChanges = -1;

  constructor(inspected: Inspected) {
    this.pages = inspected.pages;
    this.vcpu = inspected.vcpu;
    this.tdpMmu = inspected.tdpMmu;
    this.host = inspected.host;
    this.unnoticed = inspected.unnoticed ?? (() => false);
  }

  /** Every invariant that does not hold now, as a sentence. */
  check(): string[] {
    const { vcpu, tdpMmu } = this;
    this.found = [];
    this.all = this.pages.all();
    this.leaves = 0;
    this.links = 0;
    this.lists();
    this.roots([vcpu.rootMmu, vcpu.guestMmu], tdpMmu, (vcpu.requests & Request.FREE_OBSOLETE_ROOTS) !== 0);
    this.entries();
    this.reverseMap();
    this.parents();
    this.unsync();
    this.writeProtection(tdpMmu);
    this.counters();
    return this.found;
  }

  private isInvalid(sp: ShadowPage): boolean {
    return isInvalid(sp.role, this.pages.config.profile);
  }

  private add(sp: ShadowPage, index: number, what: string): void {
    const sptep = sp.sptep(index);
    const { words } = this.host.memory;
    const spte = hex64(words[2 * sptep]!, words[2 * sptep + 1]!);
    this.found.push(`entry ${index} (${spte}) of ${nameOf(sp)} ${what}`);
  }

  // Which pages there are.

  private lists(): void {
    const { pages, found } = this;
    const legacy = this.all.filter((sp) => !sp.tdp);
    if (pages.used !== legacy.length) found.push(`${pages.used} pages count as used, there are ${legacy.length}`);
    const active = new Set<ShadowPage>();
    let last: ShadowPage | null = null;
    for (const sp of pages.active()) {
      if (active.has(sp)) {
        found.push(`the list of active pages comes back to ${nameOf(sp)}`);
        break;
      }
      active.add(sp);
      if (sp.newer !== last) found.push(`${nameOf(sp)} does not know its neighbour in the list of active pages`);
      last = sp;
    }
    if (pages.oldestActive !== last) found.push('the list of active pages does not end with the oldest');
    let hashed = 0;
    for (const [gfn, list] of pages.hashed) {
      hashed += list.length;
      for (const sp of list) {
        if (sp.gfn !== gfn || sp.tdp) found.push(`${nameOf(sp)} is found under gfn ${gfn.toString(16)}`);
      }
      if (new Set(list).size !== list.length) found.push(`a page of gfn ${gfn.toString(16)} is found twice`);
    }
    if (hashed !== legacy.length) found.push(`${hashed} pages can be found by gfn, there are ${legacy.length}`);
    for (const sp of legacy) {
      if (pages.hashed.get(sp.gfn)?.includes(sp) !== true) found.push(`${nameOf(sp)} cannot be found by its gfn`);
      const isActive = !this.isInvalid(sp);
      if (active.has(sp) !== isActive || sp.listed !== isActive) {
        found.push(`${nameOf(sp)} is ${isActive ? 'not' : 'still'} in the list of active pages`);
      }
      if (isActive && sp.generation !== pages.generation) found.push(`${nameOf(sp)} is of an older generation`);
      if (!isActive && sp.rootCount === 0)
        found.push(`${nameOf(sp)} is invalid, nobody holds it, and it is still there`);
    }
  }

  // Roots.

  private roots(mmus: readonly Mmu[], tdpMmu: TdpMmu | null, obsoleteWillGo: boolean): void {
    const { pages, found } = this;
    const holders = new Map<ShadowPage, number>();
    const hold = (sp: ShadowPage): void => void holders.set(sp, (holders.get(sp) ?? 0) + 1);
    for (const mmu of mmus) {
      for (const root of [mmu.root, ...mmu.previous]) {
        if (root === null) continue;
        for (const sp of tablesOf(root)) {
          hold(sp);
          if (pages.isObsolete(sp) && !obsoleteWillGo) found.push(`${nameOf(sp)} is obsolete, and still a root`);
        }
        if (root.page !== null && !mmu.direct && root.page.gfn !== Math.floor(root.pgd / 4096)) {
          found.push(`the root for ${root.pgd.toString(16)} is ${nameOf(root.page)}`);
        }
      }
      const page = mmu.root?.page;
      if (page && !this.isInvalid(page) && page.role !== mmu.rootRole) {
        found.push(`the root in force, ${nameOf(page)}, has not the role ${mmu.rootRole.toString(16)} of its MMU`);
      }
    }
    for (const sp of tdpMmu?.allRoots ?? []) if (tdpMmu!.holds(sp)) hold(sp);
    for (const sp of this.all) {
      const count = holders.get(sp) ?? 0;
      if (sp.rootCount !== count) found.push(`${nameOf(sp)} counts ${sp.rootCount} holders and has ${count}`);
      holders.delete(sp);
    }
    for (const sp of holders.keys()) found.push(`${nameOf(sp)} is a root, and freed`);
  }

  // Entries, one by one.

  private entries(): void {
    const { words } = this.host.memory;
    if (this.bytes.buffer !== words.buffer) this.bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength);
    const present = new Set(this.all);
    for (const sp of this.snapshots.keys()) if (!present.has(sp)) this.snapshots.delete(sp);
    for (const sp of this.all) {
      const { leaves, links } = this.stillInOrder(sp) ?? this.entriesOf(sp);
      this.leaves += sp.tdp ? 0 : leaves;
      this.links += links;
    }
  }

  /** Byte offset of the guest's table that a page shadows; -1: it shadows none, or none that can be read. */
  private guestTable(sp: ShadowPage): number {
    return this.pages.hasGptes(sp) ? this.host.pageIndexOf(sp.gfn, smm(sp.role)) * 4 : -1;
  }

  private isExcused(sp: ShadowPage): boolean {
    return sp.unsync || this.unnoticed(sp.gfn);
  }

  private stillInOrder(sp: ShadowPage): Snapshot | null {
    const then = this.snapshots.get(sp);
    const { host } = this;
    if (then === undefined || then.generation !== host.generation || then.invalidations !== host.invalidations)
      return null;
    if (then.excused !== this.isExcused(sp) || !this.isSame(then.words, sp.page * PAGE_BYTES)) return null;
    if (then.accesses !== null && then.accesses.compare(sp.accesses!) !== 0) return null;
    const guest = this.guestTable(sp);
    if (then.guest === null ? guest >= 0 : guest < 0 || !this.isSame(then.guest, guest)) return null;
    return then;
  }

  private isSame(then: Buffer, at: number): boolean {
    return this.bytes.compare(then, 0, PAGE_BYTES, at, at + PAGE_BYTES) === 0;
  }

  private copy(at: number): Buffer {
    return Buffer.from(this.bytes.subarray(at, at + PAGE_BYTES));
  }

  private entriesOf(sp: ShadowPage): { readonly leaves: number; readonly links: number } {
    const { pages, host, found } = this;
    const { format } = pages;
    const { words } = host.memory;
    const before = found.length;
    const first = sp.page << 10;
    let leaves = 0;
    let links = 0;
    for (let index = 0; index < ENTRIES; index++) {
      const lo = words[first + 2 * index]!;
      const hi = words[first + 2 * index + 1]!;
      if (lo === 0 && hi === format.emptyHi) continue;
      if (!format.isPresent(lo)) {
        if (format.isMmio(lo, hi)) this.mmio(sp, index, lo, hi);
        else this.add(sp, index, 'is neither present nor empty');
      } else if (format.isLeaf(lo, sp.level)) {
        leaves++;
        this.leaf(sp, index, lo, hi);
      } else {
        links++;
        this.link(sp, index, lo, hi);
      }
    }
    if (found.length > before) {
      this.snapshots.delete(sp);
      return { leaves, links };
    }
    const guest = this.guestTable(sp);
    const snapshot: Snapshot = {
      words: this.copy(sp.page * PAGE_BYTES),
      guest: guest < 0 ? null : this.copy(guest),
      accesses: sp.accesses === null ? null : Buffer.from(sp.accesses),
      excused: this.isExcused(sp),
      generation: host.generation,
      invalidations: host.invalidations,
      leaves,
      links,
    };
    this.snapshots.set(sp, snapshot);
    return snapshot;
  }

  private mmio(sp: ShadowPage, index: number, lo: number, hi: number): void {
    const { pages, host } = this;
    const { format } = pages;
    if (format.mmioGenerationOf(lo, hi) !== format.mmioGenerationMask(host.generation)) return;
    const gfn = format.mmioGfnOf(lo, hi);
    if (host.slotOf(gfn, smm(sp.role)) !== null) this.add(sp, index, `is MMIO, and gfn ${gfn.toString(16)} has a slot`);
  }

  private leaf(sp: ShadowPage, index: number, lo: number, hi: number): void {
    const { format } = this.pages;
    const writable = (lo & SPTE_W) !== 0;
    const mmuWritable = format.isMmuWritable(lo, hi);
    const hostWritable = format.isHostWritable(lo, hi);
    if (writable && !mmuWritable) this.add(sp, index, 'is writable, and not MMU-writable');
    if (mmuWritable && !hostWritable) this.add(sp, index, 'is MMU-writable, and not host-writable');
    if (!sp.tdp) this.listed(sp, index);
    this.frame(sp, index, frameOf(lo, hi), hostWritable);
    this.rights(sp, index, lo, hi);
  }

  private listed(sp: ShadowPage, index: number): void {
    const list = this.pages.rmap.of(sp.gfnAt(index), sp.level, smm(sp.role));
    let count = 0;
    for (const sptep of list) if (sptep === sp.sptep(index)) count++;
    if (count !== 1) this.add(sp, index, `is ${count} times in its reverse map`);
  }

  /** The leaf maps what the host has there. */
  private frame(sp: ShadowPage, index: number, pfn: number, hostWritable: boolean): void {
    const { host } = this;
    const gfn = sp.gfnAt(index);
    const space = smm(sp.role);
    const slot = host.slotOf(gfn, space);
    if (slot === null || slot.invalid) {
      this.add(sp, index, `maps gfn ${gfn.toString(16)}, which has no slot`);
      return;
    }
    if (hostWritable && slot.readOnly) this.add(sp, index, 'is host-writable, and its slot is read-only');
    const span = pagesOf(sp.level);
    for (const end of LARGE_SAMPLES) {
      const offset = end * (span - 1);
      const now = host.frameOf(gfn + offset, space);
      if (now !== pfn + offset) {
        this.add(sp, index, `maps gfn ${(gfn + offset).toString(16)}, under which the host has ${now.toString(16)}`);
        return;
      }
      if (span === 1) return;
    }
  }

  private rights(sp: ShadowPage, index: number, lo: number, hi: number): void {
    const beyond = rightsBeyond(this.pages, this.host, sp, index, lo, hi, this.unnoticed);
    if (beyond !== null) this.add(sp, index, beyond);
  }

  private link(sp: ShadowPage, index: number, lo: number, hi: number): void {
    const { pages } = this;
    const child = this.pageAt(frameOf(lo, hi));
    if (child === null) {
      this.add(sp, index, 'leads to what is no table');
      return;
    }
    if (child.level !== sp.level - 1) this.add(sp, index, `leads to ${nameOf(child)}`);
    if (child.tdp !== sp.tdp || smm(child.role) !== smm(sp.role) || guestMode(child.role) !== guestMode(sp.role)) {
      this.add(sp, index, `leads to ${nameOf(child)}, which is of another kind`);
    }
    if (pages.isObsolete(child)) this.add(sp, index, `leads to ${nameOf(child)}, which is obsolete`);
    const count = child.parents.filter((sptep) => sptep === sp.sptep(index)).length;
    if (count !== 1) this.add(sp, index, `is ${count} times among the parents of ${nameOf(child)}`);
    this.rights(sp, index, lo, hi);
  }

  private pageAt(frame: number): ShadowPage | null {
    try {
      return this.pages.pageAtFrame(frame);
    } catch {
      return null;
    }
  }

  private tableOf(sptep: number): ShadowPage | null {
    try {
      return this.pages.pageOf(sptep);
    } catch {
      return null;
    }
  }

  // Both ways.

  private reverseMap(): void {
    const { pages, found } = this;
    const { format } = pages;
    const { rmap } = pages;
    // What is listed are leaves, each in the one list that is its own: equally many means the same.
    if (rmap.size !== this.leaves) found.push(`${this.leaves} leaves, and ${rmap.size} entries in the reverse map`);
    if (rmap.changes === this.rmapChanges) return;
    const before = found.length;
    for (const { level, addressSpace, gfn, list } of pages.rmap.entries()) {
      const name = (): string => `the reverse map of gfn ${gfn.toString(16)}, level ${level}`;
      if (list.length === 0) found.push(`${name()} is an empty list`);
      for (const sptep of list) {
        const sp = this.tableOf(sptep);
        if (sp === null || sp.tdp) {
          found.push(`${name()} has an entry of no table`);
          continue;
        }
        const index = sptep % ENTRIES;
        const lo = pages.lo(sptep);
        if (!format.isPresent(lo) || !format.isLeaf(lo, sp.level)) this.add(sp, index, `is no leaf, and in ${name()}`);
        if (sp.level !== level || sp.gfnAt(index) !== gfn || smm(sp.role) !== addressSpace) {
          this.add(sp, index, `maps gfn ${sp.gfnAt(index).toString(16)}, and is in ${name()}`);
        }
      }
    }
    if (found.length === before) this.rmapChanges = rmap.changes;
  }

  private parents(): void {
    const { pages, found } = this;
    const { format } = pages;
    let count = 0;
    for (const sp of this.all) {
      count += sp.parents.length;
      if (sp.parents.length > 0 && pages.isObsolete(sp)) found.push(`${nameOf(sp)} is obsolete, and has parents`);
      for (const sptep of sp.parents) {
        const parent = this.tableOf(sptep);
        const lo = parent === null ? 0 : pages.lo(sptep);
        const leads = parent !== null && format.isPresent(lo) && !format.isLeaf(lo, parent.level);
        if (!leads || frameOf(lo, pages.hi(sptep)) !== sp.frame) {
          found.push(`${nameOf(sp)} has a parent entry that does not lead to it`);
        }
      }
      if (sp.tdp && sp.parents.length + (sp.rootCount > 0 ? 1 : 0) !== 1) {
        found.push(`${nameOf(sp)} of the TDP MMU has ${sp.parents.length} parents and ${sp.rootCount} holders`);
      }
    }
    if (count !== this.links) found.push(`${this.links} entries lead to tables, which have ${count} parents`);
  }

  private unsync(): void {
    const { pages, found } = this;
    for (const sp of this.all) {
      if (sp.unsync && (sp.level !== 1 || !pages.hasGptes(sp))) found.push(`${nameOf(sp)} is unsync`);
      let set = 0;
      for (const word of sp.unsyncBits) for (let bits = word; bits !== 0; bits &= bits - 1) set++;
      if (set !== sp.unsyncChildren) {
        found.push(`${nameOf(sp)} counts ${sp.unsyncChildren} unsync children and has ${set} marked`);
      }
      if (!sp.unsync && sp.unsyncChildren === 0) continue;
      for (const sptep of sp.parents) {
        const parent = this.tableOf(sptep);
        if (parent !== null && !parent.hasUnsyncBit(sptep % ENTRIES)) {
          this.add(parent, sptep % ENTRIES, `is not marked, and ${nameOf(sp)} is unsync or has unsync children`);
        }
      }
    }
  }

  /** Nobody can write unnoticed to a guest table of which there is a shadow in step. */
  private writeProtection(tdpMmu: TdpMmu | null): void {
    const { pages } = this;
    const { format } = pages;
    const refuse = (sp: ShadowPage, index: number, table: ShadowPage): void => {
      const sptep = sp.sptep(index);
      const lo = pages.lo(sptep);
      if (!format.isPresent(lo) || !format.isLeaf(lo, sp.level)) return;
      if ((lo & SPTE_W) !== 0 || format.isMmuWritable(lo, pages.hi(sptep))) {
        this.add(sp, index, `can become writable, and ${nameOf(table)} shadows what it maps`);
      }
    };
    for (const table of this.all) {
      if (table.unsync || !pages.hasGptes(table) || pages.isObsolete(table)) continue;
      const space = smm(table.role);
      for (let level = 1; level <= 3; level++) {
        for (const sptep of pages.rmap.of(table.gfn, level, space)) {
          const sp = this.tableOf(sptep);
          if (sp !== null) refuse(sp, sptep % ENTRIES, table);
        }
      }
      for (const root of tdpMmu?.allRoots ?? []) {
        if (smm(root.role) !== space) continue;
        let sp = root;
        for (;;) {
          const index = Math.floor(table.gfn / pagesOf(sp.level)) % ENTRIES;
          refuse(sp, index, table);
          const lo = pages.lo(sp.sptep(index));
          if (!format.isPresent(lo) || format.isLeaf(lo, sp.level)) break;
          const child = this.pageAt(frameOf(lo, pages.hi(sp.sptep(index))));
          if (child === null) break;
          sp = child;
        }
      }
    }
  }

  /** Write-track counts, reasons against large pages, and the number of indirect pages are those of the pages there are. */
  private counters(): void {
    const { pages, found } = this;
    const expected = [new Map<number, number>(), new Map<number, number>(), new Map<number, number>()];
    let indirect = 0;
    for (const sp of this.all) {
      if (!pages.hasGptes(sp) || this.isInvalid(sp)) continue;
      indirect++;
      const space = smm(sp.role);
      if (this.host.slotOf(sp.gfn, space) === null) found.push(`${nameOf(sp)} shadows a table that has no slot`);
      if (sp.level > 1) increment(expected[0]!, frameKey(sp.gfn, space));
      for (const level of [2, 3]) increment(expected[level - 1]!, frameKey(Math.floor(sp.gfn / pagesOf(level)), space));
    }
    if (indirect !== pages.indirect) found.push(`${pages.indirect} indirect pages are counted, there are ${indirect}`);
    for (const level of [1, 2, 3] as const) {
      const is = pages.slotState.counts(level);
      const should = expected[level - 1]!;
      const what = level === 1 ? 'write-track count' : `count of reasons against pages of level ${level}`;
      for (const key of new Set([...is.keys(), ...should.keys()])) {
        if (is.get(key) === should.get(key)) continue;
        found.push(`the ${what} at ${key.toString(16)} is ${is.get(key) ?? 0}, not ${should.get(key) ?? 0}`);
      }
    }
  }
}

function increment(counts: Map<number, number>, key: number): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function tablesOf(root: Root): ShadowPage[] {
  return root.page === null ? root.pae!.filter((sp) => sp !== null) : [root.page];
}

function nameOf(sp: ShadowPage): string {
  return `the level-${sp.level} table for gfn ${sp.gfn.toString(16)}, role ${(sp.role >>> 0).toString(16)}`;
}

function hex64(lo: number, hi: number): string {
  return hi === 0 ? (lo >>> 0).toString(16) : `${(hi >>> 0).toString(16)}${(lo >>> 0).toString(16).padStart(8, '0')}`;
}
