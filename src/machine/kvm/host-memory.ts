/**
 * The host as an MMU sees it: memslots over host-virtual memory over host frames, all contents in one `Memory`.
 *
 * A guest page's state, frame and contents belong to its host-virtual page: slots that share one share all of that, and
 * what a deleted slot was backed by is still there when another comes. What is known of a guest's memory is stored by
 * guest-physical address and touches no state: pages have contents before anybody faults them in.
 */

import type { KvmProfile } from '../../formats/decode/kvm-role.ts';
import { HostPage } from '../../formats/step.ts';
import { FaultIn, type Host } from '../../mmu/host.ts';
import { frameHi, frameLo, frameOf as frameOfAddress, type GuestMemory } from '../../paging/guest-memory.ts';
import type { Notifier } from '../../trace/stimulus.ts';
import { Memory, type MemoryWatcher } from '../memory.ts';
import { HostPages } from './host-pages.ts';
import { type MemorySlot, Memslots } from './memslots.ts';

const PAGE = 0x1000;
/** Guest frames have 40 bits. */
const END_OF_FRAMES = 2 ** 40;
/** Generation bits that MMIO SPTEs hold (facts/kvm-6.1.md §0, kvm-mmu.md §6.7). */
const GENERATION_MASK: Readonly<Record<KvmProfile, number>> = { '6.1': 0x7_ffff, '7.3': 0x3_ffff };

export interface HostMemoryOptions {
  /**
   * `recorded`: memslots and residency come from the trace. `free`: the trace knows neither, one slot covers all guest
   * frames and every page is there and writable.
   */
  readonly mode: 'recorded' | 'free';
  readonly profile: KvmProfile;
  /** Bits, 36 or more. */
  readonly hostMaxphyaddr: number;
  /** `free`: level of the host's mappings, 1 unless told. */
  readonly freeLevel?: 1 | 2 | 3;
}

/** Hears of what the MMU notifier tells: host-virtual addresses, `end` exclusive. */
export type NotifierListener = (what: 'unmap' | 'set-pte', start: number, end: number) => void;

export class HostMemory implements Host {
  readonly memory = new Memory();
  readonly slotTable = new Memslots();
  /** At `unmap` the page still has its old frame, at `set-pte` the new one. */
  onNotifier: NotifierListener | null = null;
  /** Memory that `store` and `setPage` mean: 1 in SMM. */
  addressSpace: 0 | 1 = 0;
  /** Stores that met no slot. */
  dropped = 0;
  invalidations = 0;
  // Result of the last `faultIn` or `lookUp`.
  pfn = -1;
  writable = false;
  private readonly pages: HostPages;
  private readonly generationMask: number;
  private readonly watchers: MemoryWatcher[] = [];

  /** Throws E_UNSOUND for a host that cannot be. */
  constructor(options: HostMemoryOptions) {
    const free = options.mode === 'free';
    this.pages = new HostPages(this.memory, options.hostMaxphyaddr, free ? (options.freeLevel ?? 1) : 0);
    this.generationMask = GENERATION_MASK[options.profile];
    if (free) this.slotTable.coverEverything();
  }

  /** One more that is told of every change of host memory: each vCPU's processor must know that tables have changed. */
  watch(watcher: MemoryWatcher): void {
    const { watchers } = this;
    watchers.push(watcher);
    this.memory.watcher = watchers.length === 1 ? watcher : new Watchers(watchers);
  }

  // ------------------------------------------------------------------------------------------------ slots and frames

  slotOf(gfn: number, addressSpace: number): MemorySlot | null {
    return this.slotTable.of(gfn, addressSpace);
  }

  slots(addressSpace: number): readonly MemorySlot[] {
    return this.slotTable.list(addressSpace);
  }

  get generation(): number {
    return this.slotTable.generation & this.generationMask;
  }

  gfnOf(pfn: number): number {
    const page = this.pages.pageOf(pfn);
    return page < 0 ? -1 : this.slotTable.gfnOfHostPage(page);
  }

  /** The frame that holds a guest frame's contents, in whatever state it is; -1 without a slot. No effect. */
  frameOf(gfn: number, addressSpace: number): number {
    const slot = this.slotTable.of(gfn, addressSpace);
    return slot === null ? -1 : this.pages.frameOf(slot.hostPageOf(gfn));
  }

  markDirty(slot: MemorySlot, gfn: number): void {
    slot.markDirty(gfn);
  }

  // ---------------------------------------------------------------------------------------------------- faulting in

  /** facts/kvm-6.1.md §4.4. The slot's being invalid is the caller's business. Throws E_LIMIT, as all below may. */
  faultIn(slot: MemorySlot, gfn: number, write: boolean): number {
    if (write && slot.readOnly) return FaultIn.READ_ONLY;
    const page = slot.hostPageOf(gfn);
    this.resolve(page, write);
    this.pfn = this.pages.frameOf(page);
    this.writable = !slot.readOnly && this.pages.stateOf(page) === HostPage.WRITABLE;
    return FaultIn.OK;
  }

  lookUp(slot: MemorySlot, gfn: number): number {
    const page = slot.hostPageOf(gfn);
    if (slot.readOnly || this.pages.stateOf(page) !== HostPage.WRITABLE) return FaultIn.NOT_RESIDENT;
    this.pfn = this.pages.frameOf(page);
    this.writable = true;
    return FaultIn.OK;
  }

  mappingLevel(slot: MemorySlot, gfn: number): number {
    return this.pages.levelOf(slot.hostPageOf(gfn));
  }

  frameForRead(gfn: number, addressSpace: number): number {
    return this.frameForSoftware(gfn, addressSpace, false);
  }

  frameForWrite(gfn: number, addressSpace: number): number {
    return this.frameForSoftware(gfn, addressSpace, true);
  }

  /** KVM reads and writes guest memory through user space's mapping, which faults as user space's accesses do. */
  private frameForSoftware(gfn: number, addressSpace: number, write: boolean): number {
    const slot = this.slotTable.of(gfn, addressSpace);
    if (slot === null || slot.invalid || (write && slot.readOnly)) return -1;
    const page = slot.hostPageOf(gfn);
    this.resolve(page, write);
    return this.pages.frameOf(page);
  }

  private resolve(page: number, write: boolean): void {
    const { pages } = this;
    switch (pages.stateOf(page)) {
      case HostPage.WRITABLE:
        return;
      case HostPage.ABSENT:
        pages.bring(page, write ? HostPage.WRITABLE : HostPage.READ_ONLY);
        return;
      default:
        if (write) this.copyOnWrite(page);
    }
  }

  private copyOnWrite(page: number): void {
    const { first, count } = this.pages.mappingOf(page);
    const level = count === 1 ? 1 : 2;
    const start = first * PAGE;
    const end = start + count * PAGE;
    this.onNotifier?.('unmap', start, end);
    this.pages.renew(first, count, HostPage.WRITABLE, level);
    this.invalidations++;
    this.onNotifier?.('set-pte', start, end);
  }

  // ------------------------------------------------------------------------------------------------------ the host's

  /** A HOST_PAGES step: `count` frames from an address on, as far as slots back them. `state`: one of `HostPage`. */
  hostPages(gpaLo: number, gpaHi: number, count: number, state: number, level: number): void {
    const first = frameOfAddress(gpaLo, gpaHi);
    const end = Math.min(first + count, END_OF_FRAMES);
    for (const slot of this.slotTable.list(this.addressSpace)) {
      const from = Math.max(first, slot.baseGfn);
      const to = Math.min(end, slot.baseGfn + slot.pages);
      if (from < to) this.pages.set(slot.hostPageOf(from), to - from, state, level === 0 ? 1 : level);
    }
  }

  /**
   * The host unmaps a range of its own addresses, or maps a page anew, outside a fault. What is unmapped is absent
   * afterwards and will come back in another frame with the same contents. Ageing concerns the MMU alone.
   */
  notify(what: Notifier['what'], start: number, end: number): void {
    const first = Math.floor(start / PAGE);
    const count = Math.ceil(end / PAGE) - first;
    if (what === 'unmap') {
      this.onNotifier?.('unmap', start, end);
      this.pages.splitMappings(first, count);
      this.pages.renew(first, count, HostPage.ABSENT, 1);
      this.invalidations++;
    } else if (what === 'set-pte') {
      this.pages.setState(first, count, HostPage.WRITABLE);
      this.onNotifier?.('set-pte', start, end);
    }
  }

  // -------------------------------------------------------------------------------------------------------- contents

  /** Index in `memory.words` of a guest frame's page, for looking; -1 without a slot. No effect. */
  pageIndexOf(gfn: number, addressSpace: number): number {
    const frame = this.frameOf(gfn, addressSpace);
    return frame < 0 ? -1 : this.memory.pageIndex(frameLo(frame), frameHi(frame));
  }

  /** Guest memory of one address space as KVM's software walks read and write it. */
  guestMemory(addressSpace: number): GuestMemory {
    return new SoftwareView(this, addressSpace);
  }

  /** Stores `size` (1, 2, 4, 8) bytes at any guest-physical address; what has no slot is dropped and counted. */
  store(gpaLo: number, gpaHi: number, valueLo: number, valueHi: number, size: number): void {
    if ((gpaLo & (PAGE - 1)) + size > PAGE) {
      this.storeAcrossPages(gpaLo, gpaHi, valueLo, valueHi, size);
      return;
    }
    const frame = this.frameOf(frameOfAddress(gpaLo, gpaHi), this.addressSpace);
    if (frame < 0) this.dropped++;
    else this.memory.store(frameLo(frame) | (gpaLo & (PAGE - 1)), frameHi(frame), valueLo, valueHi, size);
  }

  private storeAcrossPages(gpaLo: number, gpaHi: number, valueLo: number, valueHi: number, size: number): void {
    for (let i = 0; i < size; i++) {
      const lo = (gpaLo >>> 0) + i;
      const hi = lo > 0xffff_ffff ? gpaHi + 1 : gpaHi;
      this.store(lo | 0, hi, i < 4 ? valueLo >>> (8 * i) : valueHi >>> (8 * (i - 4)), 0, 1);
    }
  }

  /** Replaces a page; `contents`: 1024 elements, or null for zeros. */
  setPage(gpaLo: number, gpaHi: number, contents: Uint32Array | null): void {
    const frame = this.frameOf(frameOfAddress(gpaLo, gpaHi), this.addressSpace);
    if (frame < 0) this.dropped++;
    else this.memory.setPage(frameLo(frame), frameHi(frame), contents);
  }
}

class Watchers implements MemoryWatcher {
  private readonly all: readonly MemoryWatcher[];

  constructor(all: readonly MemoryWatcher[]) {
    this.all = all;
  }

  wordChanges(addressLo: number, addressHi: number, oldLo: number, oldHi: number): void {
    for (const each of this.all) each.wordChanges(addressLo, addressHi, oldLo, oldHi);
  }
}

class SoftwareView implements GuestMemory {
  private readonly host: HostMemory;
  private readonly addressSpace: number;

  constructor(host: HostMemory, addressSpace: number) {
    this.host = host;
    this.addressSpace = addressSpace;
  }

  get words(): Int32Array {
    return this.host.memory.words;
  }

  pageIndexOf(gfn: number): number {
    const frame = this.host.frameForRead(gfn, this.addressSpace);
    return frame < 0 ? -1 : this.host.memory.pageIndex(frameLo(frame), frameHi(frame));
  }

  isWritable(gfn: number): boolean {
    return this.host.slotOf(gfn, this.addressSpace)?.readOnly === false;
  }

  writeEntry(gfn: number, offset: number, lo: number, hi: number, size: number): void {
    const frame = this.host.frameForWrite(gfn, this.addressSpace);
    if (frame >= 0) this.host.memory.store(frameLo(frame) | offset, frameHi(frame), lo, hi, size);
  }

  markDirty(gfn: number): void {
    this.host.slotOf(gfn, this.addressSpace)?.markDirty(gfn);
  }
}
