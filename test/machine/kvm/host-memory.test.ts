/** The host under an emulated KVM: residency by rules, frames by epoch, contents that go with their page. */

import { describe, expect, test } from 'vitest';
import { word64 } from '../../../src/bits/word64.ts';
import { HostPage } from '../../../src/formats/step.ts';
import { HostMemory } from '../../../src/machine/kvm/host-memory.ts';
import type { MemorySlot } from '../../../src/machine/kvm/memslots.ts';
import { FaultIn } from '../../../src/mmu/host.ts';
import { TABLE_FRAMES } from '../../../src/mmu/table-memory.ts';
import type { Memslot } from '../../../src/trace/stimulus.ts';

const HVA = 0x7f00_0000_0000;
const SLOT: Memslot = {
  kind: 'memslot',
  what: 'create',
  slot: 0,
  addressSpace: 0,
  address: word64(0),
  size: word64(0x80_0000),
  readOnly: false,
  dirtyLog: false,
  userspace: word64(HVA % 2 ** 32, Math.floor(HVA / 2 ** 32)),
};

class Bench {
  readonly host = new HostMemory({ mode: 'recorded', profile: '6.1', hostMaxphyaddr: 40 });
  readonly events: string[] = [];
  readonly slot: MemorySlot;

  constructor(change: Partial<Memslot> = {}) {
    this.slot = this.host.slotTable.update({ ...SLOT, ...change });
    this.host.onNotifier = (what, start, end) => {
      this.events.push(`${what} ${(start - HVA).toString(16)}-${(end - HVA).toString(16)} ${this.frame(0x10)}`);
    };
  }

  /** Renames frames in the order of their coming up. */
  private readonly names = new Map<number, string>();

  frame(gfn: number): string {
    const frame = this.host.frameOf(gfn, 0);
    const name = this.names.get(frame) ?? `frame ${this.names.size}`;
    this.names.set(frame, name);
    return name;
  }

  load(gfn: number): number {
    return this.host.memory.words[this.host.pageIndexOf(gfn, 0)]!;
  }
}

const { OK, READ_ONLY, NOT_RESIDENT } = FaultIn;

describe('faulting a page in', () => {
  test.each([
    // state, read-only slot, write: result, writable, notifier
    [HostPage.ABSENT, false, false, OK, false, []],
    [HostPage.ABSENT, false, true, OK, true, []],
    [HostPage.READ_ONLY, false, false, OK, false, []],
    [HostPage.READ_ONLY, false, true, OK, true, ['unmap 10000-11000 frame 0', 'set-pte 10000-11000 frame 1']],
    [HostPage.WRITABLE, false, false, OK, true, []],
    [HostPage.WRITABLE, false, true, OK, true, []],
    [HostPage.ABSENT, true, false, OK, false, []],
    [HostPage.READ_ONLY, true, false, OK, false, []],
    [HostPage.WRITABLE, true, false, OK, false, []],
    [HostPage.WRITABLE, true, true, READ_ONLY, undefined, []],
    [HostPage.READ_ONLY, true, true, READ_ONLY, undefined, []],
  ])('in state %i, read-only slot %s, written %s', (state, readOnly, write, result, writable, events) => {
    const bench = new Bench({ readOnly });
    const { host, slot } = bench;
    host.hostPages(0x10000, 0, 1, state, 1);
    expect(host.faultIn(slot, 0x10, write)).toBe(result);
    expect(bench.events).toEqual(events);
    expect(host.invalidations).toBe(events.length / 2);
    if (writable === undefined) return;
    expect(host.writable).toBe(writable);
    expect(host.pfn).toBe(host.frameOf(0x10, 0));
    expect(host.gfnOf(host.pfn)).toBe(0x10);
  });

  test('by a read and then by a write: the zero page, which is copied', () => {
    const { host, slot, events } = new Bench();
    host.faultIn(slot, 0x10, false);
    const zero = host.pfn;
    host.faultIn(slot, 0x10, true);
    expect(events).toHaveLength(2);
    expect(host.pfn).not.toBe(zero);
    expect(host.gfnOf(zero)).toBe(-1);
    const own = host.pfn;
    host.faultIn(slot, 0x10, false);
    expect([host.pfn, host.writable]).toEqual([own, true]);
  });

  test('brings the contents along', () => {
    const bench = new Bench();
    const { host, slot } = bench;
    host.faultIn(slot, 0x10, false);
    host.store(0x10000, 0, 0x1234, 0, 8);
    host.faultIn(slot, 0x10, true);
    expect(bench.load(0x10)).toBe(0x1234);
  });

  test('brings a large page as a whole', () => {
    const { host, slot } = new Bench();
    host.hostPages(0x20_0000, 0, 512, HostPage.ABSENT, 2);
    expect(host.mappingLevel(slot, 0x210)).toBe(1);
    host.faultIn(slot, 0x210, true);
    expect(host.mappingLevel(slot, 0x3ff)).toBe(2);
    expect(host.lookUp(slot, 0x200)).toBe(OK);
    expect(host.pfn % 512).toBe(0);
    expect(host.lookUp(slot, 0x400)).toBe(NOT_RESIDENT);
    expect(host.lookUp(slot, 0x1ff)).toBe(NOT_RESIDENT);
  });
});

describe('looking a page up', () => {
  test.each([
    [HostPage.ABSENT, false, NOT_RESIDENT],
    [HostPage.READ_ONLY, false, NOT_RESIDENT],
    [HostPage.WRITABLE, false, OK],
    [HostPage.WRITABLE, true, NOT_RESIDENT],
  ])('finds it in state %i, read-only slot %s: %i', (state, readOnly, result) => {
    const { host, slot } = new Bench({ readOnly });
    host.hostPages(0x10000, 0, 1, state, 1);
    expect(host.lookUp(slot, 0x10)).toBe(result);
    if (state === HostPage.ABSENT) expect(host.lookUp(slot, 0x10)).toBe(NOT_RESIDENT);
  });
});

describe('guest memory used by software', () => {
  test('is brought in by a read and copied by a write', () => {
    const { host, slot, events } = new Bench();
    const zero = host.frameForRead(0x10, 0);
    expect(host.lookUp(slot, 0x10)).toBe(NOT_RESIDENT);
    expect(events).toEqual([]);
    const own = host.frameForWrite(0x10, 0);
    expect(own).not.toBe(zero);
    expect(events).toHaveLength(2);
    expect(host.lookUp(slot, 0x10)).toBe(OK);
    expect(host.frameForWrite(0x10, 0)).toBe(own);
  });

  test('is not there without a slot, in the other address space, or to be written where it is read-only', () => {
    const { host } = new Bench({ readOnly: true });
    expect(host.frameForRead(0x800, 0)).toBe(-1);
    expect(host.frameForRead(0x10, 1)).toBe(-1);
    expect(host.frameForRead(0x10, 0)).toBeGreaterThan(0);
    expect(host.frameForWrite(0x10, 0)).toBe(-1);
  });

  test('is not there while its slot is invalid', () => {
    const { host, slot } = new Bench();
    let during: number | undefined;
    const invalidated = (): void => {
      expect(host.slotOf(0x10, 0)).toBe(slot);
      during = host.frameForRead(0x10, 0);
    };
    host.slotTable.update({ ...SLOT, what: 'delete' }, { invalidated });
    expect(during).toBe(-1);
  });

  test('is what a software walk reads, and writes back', () => {
    const bench = new Bench();
    const view = bench.host.guestMemory(0);
    expect(view.pageIndexOf(0x900)).toBe(-1);
    view.writeEntry(0x10, 8, 0x67, 0x1, 8);
    const page = view.pageIndexOf(0x10);
    expect([...view.words.subarray(page, page + 4)]).toEqual([0, 0, 0x67, 1]);
    expect(view.isWritable(0x10)).toBe(true);
    expect(new Bench({ readOnly: true }).host.guestMemory(0).isWritable(0x10)).toBe(false);
  });
});

describe('the notifier outside a fault', () => {
  test('unmaps: what was there is absent, comes back in another frame, and has kept its contents', () => {
    const bench = new Bench();
    const { host, slot, events } = bench;
    host.hostPages(0x10000, 0, 2, HostPage.WRITABLE, 1);
    host.store(0x10000, 0, 7, 0, 8);
    const old = [host.frameOf(0x10, 0), host.frameOf(0x11, 0), host.frameOf(0x12, 0)];
    host.notify('unmap', HVA + 0x10000, HVA + 0x12000);
    expect(events).toHaveLength(1);
    expect(host.invalidations).toBe(1);
    expect(host.lookUp(slot, 0x10)).toBe(NOT_RESIDENT);
    expect(host.frameOf(0x10, 0)).not.toBe(old[0]);
    expect(host.frameOf(0x11, 0)).not.toBe(old[1]);
    expect(host.frameOf(0x12, 0)).toBe(old[2]);
    expect(bench.load(0x10)).toBe(7);
    host.notify('set-pte', HVA + 0x10000, HVA + 0x11000);
    expect(host.lookUp(slot, 0x10)).toBe(OK);
    expect(host.lookUp(slot, 0x11)).toBe(NOT_RESIDENT);
  });

  test('ends the large mapping that it reaches into', () => {
    const { host, slot } = new Bench();
    host.hostPages(0x20_0000, 0, 512, HostPage.WRITABLE, 2);
    host.notify('unmap', HVA + 0x21_0000, HVA + 0x21_1000);
    expect(host.mappingLevel(slot, 0x200)).toBe(1);
    expect(host.lookUp(slot, 0x200)).toBe(OK);
    expect(host.lookUp(slot, 0x210)).toBe(NOT_RESIDENT);
  });

  test('bears ranges of any size', () => {
    const { host, slot } = new Bench();
    host.hostPages(0, 0, 0x800, HostPage.WRITABLE, 1);
    host.notify('unmap', 0, 2 ** 64);
    host.notify('age', 0, 2 ** 64);
    expect(host.lookUp(slot, 0x7ff)).toBe(NOT_RESIDENT);
  });
});

describe('what HOST_PAGES says', () => {
  test('of a page that was there: gone, and its contents with it', () => {
    const bench = new Bench();
    const { host } = bench;
    host.hostPages(0x10000, 0, 1, HostPage.WRITABLE, 1);
    host.store(0x10000, 0, 7, 0, 8);
    host.hostPages(0x10000, 0, 1, HostPage.ABSENT, 1);
    expect(bench.load(0x10)).toBe(0);
  });

  test('of a page that nobody has touched: absent, and what is known of it stays', () => {
    const bench = new Bench();
    bench.host.store(0x10000, 0, 7, 0, 8);
    bench.host.hostPages(0x10000, 0, 1, HostPage.ABSENT, 1);
    expect(bench.load(0x10)).toBe(7);
  });

  test('concerns slots only', () => {
    const { host, slot } = new Bench();
    host.hostPages(0, 0, 2 ** 52, HostPage.WRITABLE, 1);
    expect(host.lookUp(slot, 0)).toBe(OK);
    expect(host.lookUp(slot, 0x7ff)).toBe(OK);
  });

  test('makes neighbours of frames that were not, where the mapping is large', () => {
    const bench = new Bench();
    const { host, slot } = bench;
    host.faultIn(slot, 0x210, false);
    host.faultIn(slot, 0x210, true);
    host.store(0x21_0000, 0, 7, 0, 8);
    expect(host.frameOf(0x210, 0)).not.toBe(host.frameOf(0x200, 0) + 0x10);
    host.hostPages(0x20_0000, 0, 512, HostPage.WRITABLE, 2);
    expect(host.mappingLevel(slot, 0x210)).toBe(2);
    expect(host.frameOf(0x200, 0) % 512).toBe(0);
    expect(host.frameOf(0x210, 0)).toBe(host.frameOf(0x200, 0) + 0x10);
    expect(bench.load(0x210)).toBe(7);
  });

  test('gives 1 GiB mappings while every frame is where the region has it', () => {
    const { host, slot } = new Bench({ size: word64(0x8000_0000) });
    host.hostPages(0, 0, 2 ** 19, HostPage.WRITABLE, 3);
    expect([host.mappingLevel(slot, 5), host.frameOf(5, 0) % 2 ** 18]).toEqual([3, 5]);
    expect(host.mappingLevel(slot, 2 ** 18)).toBe(3);
    host.notify('unmap', HVA, HVA + 0x1000);
    host.hostPages(0, 0, 2 ** 18, HostPage.WRITABLE, 3);
    expect(host.mappingLevel(slot, 5)).toBe(2);
    expect(host.mappingLevel(slot, 2 ** 18)).toBe(3);
  });
});

describe('contents', () => {
  test('are stored across pages, and dropped and counted where there is no slot', () => {
    const bench = new Bench();
    const { host } = bench;
    host.store(0x10ffe, 0, 0x4433_2211, 0, 4);
    expect(host.memory.words[host.pageIndexOf(0x10, 0) + 1023]! >>> 0).toBe(0x2211_0000);
    expect(bench.load(0x11)).toBe(0x4433);
    expect(host.dropped).toBe(0);
    host.store(0x90_0000, 0, 1, 0, 8);
    host.setPage(0x90_0000, 0, null);
    host.store(0x7f_fffe, 0, 1, 0, 4);
    expect(host.dropped).toBe(4);
  });

  test('belong to host-virtual memory: another slot at the same place has them, a deleted slot leaves them', () => {
    const bench = new Bench();
    const { host, slot } = bench;
    host.faultIn(slot, 0x10, true);
    host.store(0x10000, 0, 7, 0, 8);
    const frame = host.pfn;
    host.slotTable.update({ ...SLOT, slot: 3, addressSpace: 1, address: word64(0x1000_0000) });
    expect(host.frameOf(0x10010, 1)).toBe(frame);
    expect(host.gfnOf(frame)).toBe(0x10);
    host.slotTable.update({ ...SLOT, what: 'delete' });
    expect(host.gfnOf(frame)).toBe(0x10010);
    host.slotTable.update({ ...SLOT, address: word64(0x100_0000) });
    expect(host.gfnOf(frame)).toBe(0x1010);
    expect(bench.load(0x1010)).toBe(7);
  });
});

describe('a host of which nothing is recorded', () => {
  const free = (freeLevel?: 1 | 2 | 3): HostMemory =>
    new HostMemory({
      mode: 'free',
      profile: '6.1',
      hostMaxphyaddr: 40,
      ...(freeLevel === undefined ? {} : { freeLevel }),
    });

  test('has all of guest-physical memory, writable', () => {
    const host = free();
    const gfn = 2 ** 40 - 1;
    const slot = host.slotOf(gfn, 0)!;
    expect(host.faultIn(slot, gfn, true)).toBe(OK);
    expect(host.writable).toBe(true);
    expect(host.gfnOf(host.pfn)).toBe(gfn);
    host.store(-8, 0xf_ffff, 7, 8, 8);
    expect(host.memory.words[host.pageIndexOf(gfn, 0) + 1022]).toBe(7);
    expect([host.mappingLevel(slot, gfn), host.generation, host.dropped]).toEqual([1, 0, 0]);
  });

  test('gives every guest frame a frame of its own outside the tables, within the width of its addresses', () => {
    const host = free();
    const seen = new Set<number>();
    for (let i = 0; i < 20_000; i++) {
      const gfn = (i * 7_919_773) % 2 ** 40;
      const frame = host.frameOf(gfn, 0);
      expect(host.gfnOf(frame)).toBe(gfn);
      if (frame >= TABLE_FRAMES && frame < TABLE_FRAMES + 2 ** 20) throw new Error('a frame of the tables');
      if (frame < 0x1000 || frame >= 2 ** 28) throw new Error('no such frame');
      seen.add(frame);
    }
    expect(seen.size).toBe(20_000);
  });

  test.each([1, 2, 3] as const)('has mappings of level %i where frames allow it', (level) => {
    const host = free(level);
    const slot = host.slotOf(0, 0)!;
    expect(host.mappingLevel(slot, 0x12345)).toBe(level);
    const span = 512 ** (level - 1);
    expect((host.frameOf(0x12345, 0) - 0x12345) % span).toBe(0);
    for (let gib = 1; gib <= 20; gib++) host.frameOf(gib * 2 ** 18, 0);
    expect(host.mappingLevel(slot, 20 * 2 ** 18)).toBe(Math.min(level, 2));
  });

  test('says so when the host has no more addresses', () => {
    const host = new HostMemory({ mode: 'free', profile: '6.1', hostMaxphyaddr: 36 });
    const touch = (): void => {
      for (let i = 0; i < 40_000; i++) host.frameOf(i * 2 ** 18, 0);
    };
    expect(touch).toThrow(expect.objectContaining({ code: 'E_LIMIT' }));
    expect(() => new HostMemory({ mode: 'free', profile: '6.1', hostMaxphyaddr: 32 })).toThrow(
      expect.objectContaining({ code: 'E_UNSOUND' }),
    );
  });
});
