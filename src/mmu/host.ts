/**
 * What an MMU sees of its host: memslots, and the host's memory management, which decides what is under a guest frame.
 * The machine implements it (`machine/kvm/`). Frame numbers are plain numbers (below 2^40); addresses are halves.
 */

import type { Memory } from './table-memory.ts';

/** One memslot. A slot that is being deleted or moved is invalid. */
export interface Slot {
  readonly id: number;
  readonly addressSpace: number;
  readonly baseGfn: number;
  readonly pages: number;
  readonly readOnly: boolean;
  readonly dirtyLog: boolean;
  readonly invalid: boolean;
  /** Host-virtual address of the first page; exact as a double. */
  readonly userspace: number;
}

/** Ids from here on are KVM's own slots: the APIC access page and the like. */
const FIRST_PRIVATE_ID = 32764;

/** KVM's own: no guest root can be there, and L2 does not see it. Of an id, bits 31:16 are the address space. */
export function isPrivate(slot: Slot): boolean {
  return (slot.id & 0xffff) >= FIRST_PRIVATE_ID;
}

/** How a guest frame was resolved. */
export const FaultIn = { OK: 0, READ_ONLY: 1, NO_SLOT: 2, NOT_RESIDENT: 3 } as const;

export interface Host {
  /** All host-physical memory: guest pages and the MMU's own tables, by host frame number. */
  readonly memory: Memory;
  /** The slot of a guest frame, or null. `addressSpace`: 1 in SMM. */
  slotOf(gfn: number, addressSpace: number): Slot | null;
  slots(addressSpace: number): readonly Slot[];
  /** Memslot generation, masked as MMIO SPTEs hold it; changes with every update of the slots. */
  readonly generation: number;

  // Result of the last `faultIn`.
  readonly pfn: number;
  /** The host maps the page writable. */
  readonly writable: boolean;
  /**
   * Resolves a guest frame as a fault does (facts/kvm-6.1.md §4.4): what is absent is brought in (a read: the zero page),
   * what is read-only and to be written is copied, which raises the notifier and changes `invalidations`. A write to a
   * read-only slot: READ_ONLY.
   */
  faultIn(slot: Slot, gfn: number, write: boolean): number;
  /** Whether the frame is resident and writable, without bringing it in (prefetch); sets `pfn`. NOT_RESIDENT, or OK. */
  lookUp(slot: Slot, gfn: number): number;
  /** Level of the host's own mapping of the frame: 1, 2, 3. */
  mappingLevel(slot: Slot, gfn: number): number;
  /** Counts notifier invalidations: a fault whose look-up saw another count than it sees under the lock is stale. */
  readonly invalidations: number;

  /** Host frame that holds a guest frame's contents, for reading or writing guest memory by software; -1 without a slot. */
  frameForRead(gfn: number, addressSpace: number): number;
  frameForWrite(gfn: number, addressSpace: number): number;
  /** Guest frame that a host frame backs, or -1. */
  gfnOf(pfn: number): number;
  markDirty(slot: Slot, gfn: number): void;
}
