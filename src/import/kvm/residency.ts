/**
 * A running model of what the host has under the guest's pages, to tell what a replay can know by itself from what it
 * must be told: the host's memory management is an input (facts/kvm-6.1.md §4.4). Reading what is absent brings the
 * zero page, writing brings a page of the guest's own.
 */

import {
  HOST_LEVEL_SHIFT,
  HOST_PAGE_SHIFT,
  HostPage,
  PROVENANCE_SHIFT,
  Provenance,
  StepKind,
} from '../../formats/step.ts';
import { type Draft, draft } from './draft.ts';
import type { EventReceipt } from './event-receipt.ts';
import type { BackedSlot } from './slots.ts';

type State = (typeof HostPage)[keyof typeof HostPage];

/** What one fault, or other step, showed of the host. */
export interface Shown {
  readonly write: boolean;
  /** `kvm_mmu_spte_requested`. */
  requested: { readonly gfn: bigint; readonly level: number } | undefined;
  /** Leaf entries set: by which the host's right to write shows. */
  readonly sets: { readonly gfn: bigint; readonly hostWritable: boolean; readonly level: number }[];
  /** The notifier took pages away while the fault was handled: they were copied. */
  readonly copied: { readonly start: bigint; readonly end: bigint }[];
}

export function nothingShown(write: boolean): Shown {
  return { write, requested: undefined, sets: [], copied: [] };
}

/** Pages that may be asked about at a time: more than any of these guests has. */
const MAXIMUM_PAGES = 1n << 22n;

export class Residency {
  private readonly receipt: EventReceipt;
  /** By guest frame; absent: HostPage.ABSENT. */
  private readonly states = new Map<bigint, State>();
  /** Level of the host's mapping by frame >> 9. */
  private readonly levels = new Map<bigint, number>();
  slots: readonly BackedSlot[] = [];

  constructor(receipt: EventReceipt) {
    this.receipt = receipt;
  }

  private slotOf(gfn: bigint): BackedSlot | undefined {
    const address = gfn << 12n;
    return this.slots.find((slot) => address >= slot.gpa && address < slot.gpa + slot.size);
  }

  /** The frame is in a slot. */
  isBacked(gfn: bigint): boolean {
    return this.slotOf(gfn) !== undefined;
  }

  /** Guest frames behind a range of host-virtual addresses. */
  private framesOf(start: bigint, end: bigint): bigint[] {
    const frames: bigint[] = [];
    for (const { gpa, size, hva } of this.slots) {
      const from = start > hva ? start : hva;
      const to = end < hva + size ? end : hva + size;
      if (to - from > MAXIMUM_PAGES << 12n) continue;
      for (let at = from & ~0xfffn; at < to; at += 0x1000n) frames.push((at - hva + gpa) >> 12n);
    }
    return frames;
  }

  private state(gfn: bigint): State {
    return this.states.get(gfn) ?? HostPage.ABSENT;
  }

  private step(gfn: bigint, count: bigint, state: State, level: number, position: number): Draft {
    const op =
      StepKind.HOST_PAGES |
      (Provenance.INFERRED << PROVENANCE_SHIFT) |
      (state << HOST_PAGE_SHIFT) |
      (level << HOST_LEVEL_SHIFT);
    return draft(op, gfn << 12n, count, position);
  }

  /** States the pages of `frames`, ascending, as runs; `frames` not in a slot are left out. */
  declare(frames: readonly bigint[], state: State, position: number): Draft[] {
    const result: Draft[] = [];
    let start: bigint | undefined;
    let next = 0n;
    const end = (): void => {
      if (start !== undefined) result.push(this.step(start, next - start, state, 1, position));
      start = undefined;
    };
    for (const gfn of frames) {
      if (this.slotOf(gfn) === undefined) continue;
      if (start === undefined || gfn !== next) {
        end();
        start = gfn;
      }
      this.states.set(gfn, state);
      next = gfn + 1n;
    }
    end();
    return result;
  }

  /** All pages that were absent have been read by the VMM, e.g. for a dump: they are the zero page now. */
  everythingRead(position: number): Draft[] {
    const frames: bigint[] = [];
    for (const { gpa, size } of this.slots) {
      if (size > MAXIMUM_PAGES << 12n) continue;
      for (let gfn = gpa >> 12n; gfn < (gpa + size) >> 12n; gfn++) {
        if (this.state(gfn) === HostPage.ABSENT) frames.push(gfn);
      }
    }
    return this.declare(frames, HostPage.READ_ONLY, position);
  }

  /** The VMM or KVM itself has touched a page of the guest, outside a fault; states what that changed. */
  touched(gfn: bigint, write: boolean, position: number): Draft[] {
    // A page that may only be read is copied for writing, and the notifier tells that.
    const slot = this.slotOf(gfn);
    if (slot === undefined || (slot.readOnly && write) || this.state(gfn) !== HostPage.ABSENT) return [];
    return this.declare([gfn], write ? HostPage.WRITABLE : HostPage.READ_ONLY, position);
  }

  /** The notifier outside a fault. A page that is set again right away was copied for writing. */
  notified(start: bigint, end: bigint, set: boolean, position: number): Draft[] {
    return this.declare(this.framesOf(start, end), set ? HostPage.WRITABLE : HostPage.ABSENT, position);
  }

  /** Compares what a step showed with the model; what the model did not know has to be stated ahead of the step. */
  judge(shown: Shown, position: number): Draft[] {
    const learned: Draft[] = [];
    const learn = (gfn: bigint, state: State, what: string): void => {
      this.receipt.note(`host page learned: ${what}`);
      learned.push(...this.declare([gfn], state, position));
    };
    for (const { start, end } of shown.copied) {
      for (const gfn of this.framesOf(start, end)) {
        if (this.state(gfn) !== HostPage.READ_ONLY) learn(gfn, HostPage.READ_ONLY, 'copied, was read-only');
        this.states.set(gfn, HostPage.WRITABLE);
      }
    }
    const { requested } = shown;
    if (requested !== undefined && requested.level > 1) this.judgeLevel(requested, learned, position);
    for (const { gfn, hostWritable, level } of shown.sets) {
      const slot = this.slotOf(gfn);
      if (slot === undefined) continue;
      const main =
        requested !== undefined && gfn >> BigInt(9 * (level - 1)) === requested.gfn >> BigInt(9 * (level - 1));
      if (main) this.judgeMain(gfn, hostWritable, shown.write, slot, learn);
      else if (this.state(gfn) !== HostPage.WRITABLE) learn(gfn, HostPage.WRITABLE, 'prefetched, so resident');
    }
    return learned;
  }

  private judgeMain(
    gfn: bigint,
    hostWritable: boolean,
    write: boolean,
    slot: BackedSlot,
    learn: (gfn: bigint, state: State, what: string) => void,
  ): void {
    const before = this.state(gfn);
    if (slot.readOnly) {
      if (before === HostPage.ABSENT) this.states.set(gfn, HostPage.READ_ONLY);
      return;
    }
    if (hostWritable) {
      const known = before === HostPage.WRITABLE || (write && before === HostPage.ABSENT);
      if (!known) learn(gfn, HostPage.WRITABLE, 'writable on a fault');
      this.states.set(gfn, HostPage.WRITABLE);
    } else {
      if (before === HostPage.WRITABLE) learn(gfn, HostPage.READ_ONLY, 'read-only on a fault');
      this.states.set(gfn, HostPage.READ_ONLY);
    }
  }

  private judgeLevel(
    requested: { readonly gfn: bigint; readonly level: number },
    learned: Draft[],
    position: number,
  ): void {
    const shift = BigInt(9 * (requested.level - 1));
    const first = (requested.gfn >> shift) << shift;
    const count = 1n << shift;
    if ((this.levels.get(first >> 9n) ?? 1) >= requested.level) return;
    this.receipt.note('host page learned: large');
    for (let run = first >> 9n; run < (first + count) >> 9n; run++) this.levels.set(run, requested.level);
    for (let gfn = first; gfn < first + count; gfn++) this.states.set(gfn, HostPage.WRITABLE);
    learned.push(this.step(first, count, HostPage.WRITABLE, requested.level, position));
  }
}
