/** Host-virtual addresses under names that mean the same in two recordings: the memslot and the offset in it. */

import type { Word64 } from '../bits/word64.ts';
import type { Row } from '../replay/result.ts';
import type { Memslot } from '../trace/stimulus.ts';

interface Backing {
  readonly slot: number;
  /** Host-virtual, of user space: below 2^57, as the kernel lays it out with 5-level paging at most. */
  readonly start: number;
  readonly size: number;
}

function numberOf({ lo, hi }: Word64): number {
  return hi * 2 ** 32 + lo;
}

/** The memslots at one point of a trace; never changed, `after` makes the next. */
export class HostAddresses {
  static readonly NONE = new HostAddresses([]);
  private readonly slots: readonly Backing[];

  private constructor(slots: readonly Backing[]) {
    this.slots = slots;
  }

  after({ what, addressSpace, slot, size, userspace }: Memslot): HostAddresses {
    const key = addressSpace * 2 ** 16 + slot;
    const others = this.slots.filter((each) => each.slot !== key);
    if (what === 'delete') return new HostAddresses(others);
    const known = this.slots.find((each) => each.slot === key);
    // A change of flags or of the guest address leaves the backing where it is; some recorders do not repeat it.
    const start = numberOf(userspace) || (known?.start ?? 0);
    return new HostAddresses([...others, { slot: key, start, size: numberOf(size) || (known?.size ?? 0) }]);
  }

  /**
   * A range as slot, bytes from the slot's beginning (negative: it begins before) and length; of addresses behind no
   * memslot that is known only the length, for nothing else of them lasts from one run to the next.
   */
  private range(start: Word64, end: Word64): readonly [slot: number, offset: number, length: number] {
    const [from, to] = [numberOf(start), numberOf(end)];
    const slot = this.slots.find((each) => from < each.start + each.size && to > each.start);
    return [slot?.slot ?? -1, slot === undefined ? 0 : from - slot.start, to - from];
  }

  rangeName(start: Word64, end: Word64): string {
    return this.range(start, end).join(' ');
  }

  /** The row of a host event with the slot and offset in place of its first address, and the length in place of its end. */
  named(row: Row): Row {
    const start = { lo: row.addressLo, hi: row.addressHi };
    const [slot, offset, length] = this.range(start, { lo: row.valueLo, hi: row.valueHi });
    const upper = Math.floor(offset / 2 ** 32);
    return {
      op: row.op,
      addressLo: offset >>> 0,
      addressHi: ((slot << 16) ^ upper) >>> 0,
      valueLo: length >>> 0,
      valueHi: Math.floor(length / 2 ** 32) >>> 0,
    };
  }
}
