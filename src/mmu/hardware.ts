/** The processor, as far as KVM tells it what to forget, which tables to use and under which tag (facts/kvm-mmu.md §8.1). */

import type { Root } from './root.ts';

/** What a guest's translations are tagged with: its VPID, or the VM's ASID. */
export const Tag = {
  /** vpid01; on SVM the one ASID, which L1 and L2 share. */
  L1: 1,
  /** vpid02: L2 whose L1 gave it a VPID. */
  L2: 2,
} as const;

export interface Hardware {
  /** Everything, of every tag and every root. */
  flushAll(): void;
  /**
   * What belongs to the context in force: with TDP on VMX what was translated through the current root (INVEPT of its
   * EPTP), on SVM and under shadow paging everything of the current tag. Nothing while there is no root.
   */
  flushCurrent(): void;
  /** Linear mappings of the current tag. */
  flushGuest(): void;
  /** One linear address of the current tag. */
  flushAddress(lo: number, hi: number): void;
  /** The root in force has changed. */
  useRoot(root: Root | null): void;
  /** One of `Tag`: with which the guest is entered from now on. */
  useTag(tag: number): void;
}
