/**
 * Which of KVM's walks are parts of another: under nested paging the walk of a linear address has the second stage
 * translate every table's frame before its entry is read, and the page last. The same events tell of both; only their
 * order tells them apart (recordings/README.md, "Nesting of walks").
 */

import type { TraceEvent } from '../ftrace/event.ts';
import { isLeaf, leafAddress, type TableFormat, tableBelow } from './second-stage.ts';

const FRAME = 0xf_ffff_ffff_f000n;
const PRESENT = 1n;

export class WalkShape {
  private readonly address: bigint;
  private readonly entrySize: 4 | 8;
  private readonly second: TableFormat;
  /** What the second stage is to translate next. */
  private wanted: bigint | undefined;
  /** The second stage is at work. */
  private innerBusy = false;

  /** `root`: frame of the first table that is read, `undefined` if registers hold its entries. */
  constructor(address: bigint, root: bigint | undefined, entrySize: 4 | 8, second: TableFormat) {
    this.address = address;
    this.wanted = root === undefined ? undefined : root & FRAME;
    this.entrySize = entrySize;
    this.second = second;
  }

  /** Whether a walk of `address` that begins now is the second stage's. */
  takesWalk(address: bigint): boolean {
    if (this.wanted === undefined || this.innerBusy || address !== this.wanted) return false;
    this.wanted = undefined;
    this.innerBusy = true;
    return true;
  }

  /** Takes an entry that was read; whether it is the second stage's. */
  isInner(level: number, pte: bigint): boolean {
    if (this.innerBusy) {
      if ((pte & this.second.present) === 0n || isLeaf(pte, level)) this.innerBusy = false;
      return true;
    }
    if ((pte & PRESENT) === 0n) this.wanted = undefined;
    else if (isLeaf(pte, level)) this.wanted = leafAddress(pte, level, this.entrySize, this.address) & FRAME;
    else this.wanted = tableBelow(pte, this.entrySize);
    return false;
  }
}

/** The events that belong to a walk and what comes of it: up to the next walk that is not a part of it. */
export function* untilNextWalk(following: Iterable<TraceEvent>, shape: WalkShape | undefined): Generator<TraceEvent> {
  for (const event of following) {
    if (event.name === 'kvm_mmu_pagetable_walk' && shape?.takesWalk(event.addr) !== true) return;
    if (event.name === 'kvm_mmu_paging_element') shape?.isInner(event.level, event.pte);
    yield event;
  }
}
