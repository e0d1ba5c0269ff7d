/**
 * What the MMU remembers of guest frames, slot by slot: which regions must not be mapped by large pages, and which
 * frames are write-tracked because they hold tables that are shadowed (facts/kvm-mmu.md §6.10, §6.12).
 */

import type { Host, Slot } from './host.ts';
import { pagesOf } from './shadow-page.ts';

/** Key of a guest frame in one address space; frames are below 2^40. */
export function frameKey(gfn: number, addressSpace: number): number {
  return addressSpace * 2 ** 40 + gfn;
}

export class SlotState {
  private readonly host: Host;
  /** Per level 2 and 3: region key to how many reasons forbid a large page there. */
  private readonly disallowed = [new Map<number, number>(), new Map<number, number>()];
  private readonly tracked = new Map<number, number>();

  constructor(host: Host) {
    this.host = host;
  }

  /** A slot goes, and with it what was remembered of its frames. */
  forget(slot: Slot): void {
    for (const [at, counts] of this.disallowed.entries()) {
      const pages = pagesOf(at + 2);
      forgetRange(
        counts,
        slot.addressSpace,
        Math.floor(slot.baseGfn / pages),
        Math.ceil((slot.baseGfn + slot.pages) / pages),
      );
    }
    forgetRange(this.tracked, slot.addressSpace, slot.baseGfn, slot.baseGfn + slot.pages);
  }

  /** +1 or -1 on the regions of levels 2 and 3 around a frame. */
  private count(gfn: number, addressSpace: number, change: number): void {
    for (const [at, counts] of this.disallowed.entries()) {
      bump(counts, frameKey(Math.floor(gfn / pagesOf(at + 2)), addressSpace), change);
    }
  }

  disallowLargePages(gfn: number, addressSpace: number): void {
    this.count(gfn, addressSpace, 1);
  }

  allowLargePages(gfn: number, addressSpace: number): void {
    this.count(gfn, addressSpace, -1);
  }

  /** Whether a page of `level` must not be mapped over the frame. */
  largePageDisallowed(slot: Slot, gfn: number, level: number): boolean {
    const pages = pagesOf(level);
    const region = Math.floor(gfn / pages);
    const first = region * pages;
    if (first < slot.baseGfn || first + pages > slot.baseGfn + slot.pages) return true;
    // Guest and host addresses must agree modulo the page, or no host page can be under it.
    if ((Math.floor(slot.userspace / 4096) - slot.baseGfn) % pages !== 0) return true;
    return (this.disallowed[level - 2]!.get(frameKey(region, slot.addressSpace)) ?? 0) > 0;
  }

  /** Largest level that may map the frame, at most `maximum` (facts/kvm-6.1.md §4.6). */
  maxMappingLevel(slot: Slot, gfn: number, maximum: number): number {
    let level = maximum;
    while (level > 1 && this.largePageDisallowed(slot, gfn, level)) level--;
    return level === 1 ? 1 : Math.min(level, this.host.mappingLevel(slot, gfn));
  }

  track(gfn: number, addressSpace: number): void {
    bump(this.tracked, frameKey(gfn, addressSpace), 1);
    this.count(gfn, addressSpace, 1);
  }

  untrack(gfn: number, addressSpace: number): void {
    bump(this.tracked, frameKey(gfn, addressSpace), -1);
    this.count(gfn, addressSpace, -1);
  }

  isWriteTracked(gfn: number, addressSpace: number): boolean {
    return (this.tracked.get(frameKey(gfn, addressSpace)) ?? 0) > 0;
  }

  /** For the invariants: write-track counts by `frameKey` (`level` 1), or reasons against large pages by region key. */
  counts(level: 1 | 2 | 3): ReadonlyMap<number, number> {
    return level === 1 ? this.tracked : this.disallowed[level - 2]!;
  }
}

function bump(counts: Map<number, number>, key: number, change: number): void {
  const value = (counts.get(key) ?? 0) + change;
  if (value > 0) counts.set(key, value);
  else counts.delete(key);
}

function forgetRange(counts: Map<number, number>, addressSpace: number, first: number, end: number): void {
  for (const key of counts.keys()) {
    if (key >= frameKey(first, addressSpace) && key < frameKey(end, addressSpace)) counts.delete(key);
  }
}
