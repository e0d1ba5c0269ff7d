/**
 * Memslots: which guest frames the hypervisor backs with which host-virtual memory, in two address spaces (1: SMM).
 * An update goes the way of KVM's: the slot array is swapped once, or twice where the old slot has to be unusable
 * before it goes, and each swap moves the generation on (facts/kvm-6.1.md §9).
 */

import { Problem } from '../../bits/problem.ts';
import type { Word64 } from '../../bits/word64.ts';
import type { Slot } from '../../mmu/host.ts';
import type { Memslot } from '../../trace/stimulus.ts';

/** Each swap counts once per address space. */
const GENERATIONS_PER_SWAP = 2;
const ADDRESS_SPACES = 2;
const PAGE = 0x1000;
/** Guest frames have 40 bits. */
const END_OF_FRAMES = 2 ** 40;
/**
 * A slot whose host-virtual address is not known (0, where no process has memory) gets one beyond what processes can
 * have: this plus its guest-physical address.
 */
const UNKNOWN_USERSPACE = 2 ** 52;

/** 64 pages of a dirty log. */
export interface DirtyWord {
  /** Guest frame of bit 0. */
  readonly base: number;
  /** Bits 31:0 and 63:32, unsigned. */
  readonly lo: number;
  readonly hi: number;
}

export class MemorySlot implements Slot {
  readonly id: number;
  readonly addressSpace: number;
  baseGfn: number;
  pages: number;
  readOnly: boolean;
  dirtyLog: boolean;
  invalid = false;
  userspace: number;
  /** Dirty pages: 32 bits by page index / 32. */
  private dirty = new Map<number, number>();

  constructor(
    id: number,
    addressSpace: number,
    shape: { baseGfn: number; pages: number; readOnly: boolean; dirtyLog: boolean; userspace: number },
  ) {
    this.id = id;
    this.addressSpace = addressSpace;
    this.baseGfn = shape.baseGfn;
    this.pages = shape.pages;
    this.readOnly = shape.readOnly;
    this.dirtyLog = shape.dirtyLog;
    this.userspace = shape.userspace;
  }

  has(gfn: number): boolean {
    return gfn >= this.baseGfn && gfn < this.baseGfn + this.pages;
  }

  /** Page number of the host-virtual address that backs a guest frame. */
  hostPageOf(gfn: number): number {
    return this.userspace / PAGE + (gfn - this.baseGfn);
  }

  /** Without a dirty log, does nothing. */
  markDirty(gfn: number): void {
    if (!this.dirtyLog) return;
    const index = gfn - this.baseGfn;
    const word = Math.floor(index / 32);
    this.dirty.set(word, (this.dirty.get(word) ?? 0) | (1 << (index % 32)));
  }

  isDirty(gfn: number): boolean {
    const index = gfn - this.baseGfn;
    return (((this.dirty.get(Math.floor(index / 32)) ?? 0) >>> (index % 32)) & 1) !== 0;
  }

  /** Takes the dirty pages out of the log: words that are not zero, ascending. */
  takeDirty(): DirtyWord[] {
    const { dirty } = this;
    const words = [...new Set([...dirty.keys()].map((word) => Math.floor(word / 2)))].sort((a, b) => a - b);
    const taken = words.map((word) => ({
      base: this.baseGfn + 64 * word,
      lo: (dirty.get(2 * word) ?? 0) >>> 0,
      hi: (dirty.get(2 * word + 1) ?? 0) >>> 0,
    }));
    this.forgetDirty();
    return taken;
  }

  forgetDirty(): void {
    this.dirty = new Map();
  }
}

/** What an update lets its owner do on the way. */
export interface UpdatePhases {
  /** The slot array has been swapped; `generation` is the new one. */
  swapped?(generation: number): void;
  /** DELETE and MOVE: the slot can no longer be used, and has not gone yet. */
  invalidated?(slot: MemorySlot): void;
}

/** Guest frames of a slot that an overlap with host-virtual memory consists of. */
export interface Overlap {
  readonly slot: MemorySlot;
  readonly first: number;
  /** Exclusive. */
  readonly end: number;
}

export class Memslots {
  /** Grows by 2 with every swap. */
  generation = 0;
  /** Pages of all slots. */
  totalPages = 0;
  /** By address space, ascending. */
  private readonly slots: MemorySlot[][] = Array.from({ length: ADDRESS_SPACES }, () => []);
  /** The slot found last, by address space. */
  private readonly last: (MemorySlot | null)[] = [null, null];

  /** The slot that a guest frame is in, which may be invalid, or null. */
  of(gfn: number, addressSpace: number): MemorySlot | null {
    const last = this.last[addressSpace] ?? null;
    if (last?.has(gfn)) return last;
    const slots = this.slots[addressSpace]!;
    let low = 0;
    let high = slots.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (slots[middle]!.baseGfn <= gfn) low = middle + 1;
      else high = middle;
    }
    const slot = slots[low - 1];
    if (!slot?.has(gfn)) return null;
    this.last[addressSpace] = slot;
    return slot;
  }

  /** Ascending by guest frame. */
  list(addressSpace: number): readonly MemorySlot[] {
    return this.slots[addressSpace]!;
  }

  byId(id: number, addressSpace: number): MemorySlot | undefined {
    return this.slots[addressSpace]!.find((slot) => slot.id === id);
  }

  /** Guest frame that a host-virtual page backs, in address space 0 if there, or -1. */
  gfnOfHostPage(page: number): number {
    const last = this.last[0] ?? null;
    const near = last === null ? -1 : gfnIn(last, page);
    if (near >= 0) return near;
    for (const slots of this.slots) {
      for (const slot of slots) {
        const gfn = gfnIn(slot, page);
        if (gfn >= 0) return gfn;
      }
    }
    return -1;
  }

  /** Slots backed by a range of host-virtual addresses: of address space 0 by host-virtual address, then of 1. */
  overlaps(start: number, end: number): Overlap[] {
    const firstPage = Math.floor(start / PAGE);
    const endPage = Math.ceil(end / PAGE);
    return this.slots.flatMap((slots) =>
      slots
        .filter((slot) => slot.userspace / PAGE < endPage && slot.userspace / PAGE + slot.pages > firstPage)
        .sort((a, b) => a.userspace - b.userspace)
        .map((slot) => ({
          slot,
          first: slot.baseGfn + Math.max(0, firstPage - slot.userspace / PAGE),
          end: slot.baseGfn + Math.min(slot.pages, endPage - slot.userspace / PAGE),
        })),
    );
  }

  /**
   * KVM_SET_USER_MEMORY_REGION. Returns the slot that came, changed or went. Throws E_UNSOUND for what KVM refuses, in
   * which case nothing has changed.
   */
  update(change: Memslot, phases: UpdatePhases = {}): MemorySlot {
    const { slot: id, addressSpace } = change;
    if (addressSpace !== 0 && addressSpace !== 1) throw refused(change, `there is no address space ${addressSpace}`);
    const old = this.byId(id, addressSpace);
    if (change.what === 'create') {
      if (old !== undefined) throw refused(change, 'it exists');
      const slot = new MemorySlot(id, addressSpace, this.shapeOf(change, undefined));
      this.insert(slot);
      this.swap(phases);
      return slot;
    }
    if (old === undefined) throw refused(change, 'it does not exist');
    if (change.what === 'flags') {
      if (old.readOnly !== change.readOnly) throw refused(change, 'read-only cannot be changed');
      old.dirtyLog = change.dirtyLog;
      if (!old.dirtyLog) old.forgetDirty();
      this.swap(phases);
      return old;
    }
    const shape = change.what === 'move' ? this.shapeOf(change, old) : undefined;
    old.invalid = true;
    this.swap(phases);
    phases.invalidated?.(old);
    this.remove(old);
    if (shape === undefined) {
      this.swap(phases);
      return old;
    }
    const moved = new MemorySlot(id, addressSpace, shape);
    this.insert(moved);
    this.swap(phases);
    return moved;
  }

  /** One slot for all guest frames, in both address spaces, at host-virtual addresses equal to guest-physical ones. */
  coverEverything(): void {
    for (let addressSpace = 0; addressSpace < ADDRESS_SPACES; addressSpace++) {
      this.insert(
        new MemorySlot(0, addressSpace, {
          baseGfn: 0,
          pages: END_OF_FRAMES,
          readOnly: false,
          dirtyLog: false,
          userspace: 0,
        }),
      );
    }
  }

  private shapeOf(change: Memslot, old: MemorySlot | undefined): ConstructorParameters<typeof MemorySlot>[2] {
    const { address, size, userspace } = change;
    const baseGfn = pageNumber(address);
    const pages = pageNumber(size);
    if (((address.lo | size.lo | userspace.lo) & (PAGE - 1)) !== 0)
      throw refused(change, 'it is no run of whole pages');
    if (pages === 0 || baseGfn + pages > END_OF_FRAMES)
      throw refused(change, 'guest-physical addresses do not reach it');
    for (const other of this.slots[change.addressSpace]!) {
      if (other !== old && other.baseGfn < baseGfn + pages && baseGfn < other.baseGfn + other.pages) {
        throw refused(change, `it overlaps slot ${other.id}`);
      }
    }
    if (old !== undefined && old.pages !== pages) throw refused(change, 'a slot that moves keeps its size');
    const known = pageNumber(userspace);
    if (known >= END_OF_FRAMES) throw refused(change, 'no process has such a host-virtual address');
    const host = known !== 0 ? known * PAGE : (old?.userspace ?? UNKNOWN_USERSPACE + baseGfn * PAGE);
    const { readOnly, dirtyLog } = change;
    return { baseGfn, pages, readOnly, dirtyLog, userspace: host };
  }

  private insert(slot: MemorySlot): void {
    const slots = this.slots[slot.addressSpace]!;
    slots.push(slot);
    slots.sort((a, b) => a.baseGfn - b.baseGfn);
    this.totalPages += slot.pages;
  }

  private remove(slot: MemorySlot): void {
    const slots = this.slots[slot.addressSpace]!;
    slots.splice(slots.indexOf(slot), 1);
    this.totalPages -= slot.pages;
    this.last[slot.addressSpace] = null;
  }

  private swap(phases: UpdatePhases): void {
    this.generation += GENERATIONS_PER_SWAP;
    phases.swapped?.(this.generation);
  }
}

function gfnIn(slot: MemorySlot, page: number): number {
  const index = page - slot.userspace / PAGE;
  return index >= 0 && index < slot.pages ? slot.baseGfn + index : -1;
}

function pageNumber(address: Word64): number {
  return address.hi * 0x10_0000 + (address.lo >>> 12);
}

function refused(change: Memslot, why: string): Problem {
  return new Problem('E_UNSOUND', `memslot ${change.slot} of address space ${change.addressSpace}: ${why}`);
}
