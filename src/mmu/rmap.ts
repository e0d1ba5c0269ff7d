/**
 * The reverse map: which leaf SPTEs map a guest frame, by page size (facts/kvm-6.1.md §2.7). The order within a list is
 * not observable, since nothing that visits one prints anything.
 */

import type { Slot } from './host.ts';
import { pagesOf } from './shadow-page.ts';
import { frameKey } from './slot-state.ts';

export const MAX_RMAP_LEVEL = 3;

export class ReverseMap {
  /** Per level 1-3: region key to sptep list. */
  private readonly lists = [new Map<number, number[]>(), new Map<number, number[]>(), new Map<number, number[]>()];

  /** Entries in all lists. */
  size = 0;
  /** Grows with every change. */
  changes = 0;

  private key(gfn: number, level: number, addressSpace: number): number {
    return frameKey(level === 1 ? gfn : Math.floor(gfn / pagesOf(level)), addressSpace);
  }

  /** Adds; returns how many SPTEs the frame now has at that level. */
  add(gfn: number, level: number, addressSpace: number, sptep: number): number {
    const lists = this.lists[level - 1]!;
    const key = this.key(gfn, level, addressSpace);
    const list = lists.get(key);
    this.size++;
    this.changes++;
    if (list === undefined) {
      lists.set(key, [sptep]);
      return 1;
    }
    return list.push(sptep);
  }

  remove(gfn: number, level: number, addressSpace: number, sptep: number): void {
    const lists = this.lists[level - 1]!;
    const key = this.key(gfn, level, addressSpace);
    const list = lists.get(key);
    const at = list === undefined ? -1 : list.indexOf(sptep);
    if (list === undefined || at < 0) throw new Error(`SPTE ${sptep} of gfn ${gfn.toString(16)} is in no reverse map`);
    this.size--;
    this.changes++;
    list[at] = list[list.length - 1]!;
    list.pop();
    if (list.length === 0) lists.delete(key);
  }

  /** SPTEs of the frame's region at `level`; a live list. */
  of(gfn: number, level: number, addressSpace: number): readonly number[] {
    return this.lists[level - 1]!.get(this.key(gfn, level, addressSpace)) ?? NONE;
  }

  /** Visits every non-empty list that intersects a range of frames, level by level, ascending; lists are copies. */
  forRange(
    addressSpace: number,
    start: number,
    end: number,
    levels: readonly [from: number, to: number],
    visit: (list: readonly number[], level: number) => void,
  ): void {
    for (let level = levels[0]; level <= levels[1]; level++) {
      const lists = this.lists[level - 1]!;
      const pages = pagesOf(level);
      const first = frameKey(Math.floor(start / pages), addressSpace);
      const last = frameKey(Math.floor((end - 1) / pages), addressSpace);
      if (last - first < lists.size) {
        for (let key = first; key <= last; key++) {
          const list = lists.get(key);
          if (list !== undefined) visit([...list], level);
        }
        continue;
      }
      const keys = [...lists.keys()].filter((key) => key >= first && key <= last).sort((a, b) => a - b);
      for (const key of keys) {
        const list = lists.get(key);
        if (list !== undefined) visit([...list], level);
      }
    }
  }

  forSlot(
    slot: Slot,
    levels: readonly [from: number, to: number],
    visit: (list: readonly number[], level: number) => void,
  ): void {
    this.forRange(slot.addressSpace, slot.baseGfn, slot.baseGfn + slot.pages, levels, visit);
  }

  /** Every list with its level, for the invariants: `gfn` is the first of the region. */
  *entries(): Generator<{ level: number; addressSpace: number; gfn: number; list: readonly number[] }> {
    for (const [at, lists] of this.lists.entries()) {
      for (const [key, list] of lists) {
        const addressSpace = Math.floor(key / 2 ** 40);
        yield { level: at + 1, addressSpace, gfn: (key % 2 ** 40) * pagesOf(at + 1), list };
      }
    }
  }
}

const NONE: readonly number[] = [];
