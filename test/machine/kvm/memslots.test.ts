/** Memslots: updates in KVM's two steps, look-ups both ways, dirty logs. */

import { describe, expect, test } from 'vitest';
import { word64 } from '../../../src/bits/word64.ts';
import { HostMemory } from '../../../src/machine/kvm/host-memory.ts';
import { Memslots } from '../../../src/machine/kvm/memslots.ts';
import type { Memslot } from '../../../src/trace/stimulus.ts';

const BASE: Memslot = {
  kind: 'memslot',
  what: 'create',
  slot: 0,
  addressSpace: 0,
  address: word64(0x10_0000),
  size: word64(0x10_0000),
  readOnly: false,
  dirtyLog: false,
  userspace: word64(0x4000_0000, 0x7f00),
};
const HVA = 0x7f00_4000_0000;

describe('an update', () => {
  test.each([
    ['create', { slot: 1, address: word64(0x100_0000), userspace: word64(0x1000_0000) }, ['swap 4']],
    ['flags', { dirtyLog: true }, ['swap 4']],
    ['delete', {}, ['swap 4', 'invalid 0', 'swap 6']],
    ['move', { address: word64(0x200_0000) }, ['swap 4', 'invalid 0', 'swap 6']],
  ] as const)('of kind %s moves the generation on as KVM does', (what, change, expected) => {
    const slots = new Memslots();
    slots.update(BASE);
    const seen: string[] = [];
    slots.update(
      { ...BASE, ...change, what },
      {
        swapped: (generation) => seen.push(`swap ${generation}`),
        invalidated: (slot) => {
          expect(slot.invalid).toBe(true);
          expect(slots.of(0x100, 0)).toBe(slot);
          seen.push(`invalid ${slot.id}`);
        },
      },
    );
    expect(seen).toEqual(expected);
  });

  test('as the recorded machine made them: four created, flags on and off, one deleted and created: 0x12', () => {
    const slots = new Memslots();
    for (let slot = 0; slot < 4; slot++) {
      slots.update({ ...BASE, slot, address: word64(slot * 0x100_0000), userspace: word64(0, slot + 1) });
    }
    expect(slots.generation).toBe(8);
    const third = { ...BASE, slot: 3, address: word64(0x300_0000), userspace: word64(0, 4) };
    slots.update({ ...third, what: 'flags', dirtyLog: true });
    slots.update({ ...third, what: 'flags' });
    slots.update({ ...third, what: 'delete', size: word64(0) });
    slots.update(third);
    expect(slots.generation).toBe(0x12);
  });

  test.each([
    ['6.1', 0x7_ffff],
    ['7.3', 0x3_ffff],
  ] as const)('leaves of the generation what MMIO SPTEs of profile %s can hold', (profile, mask) => {
    const host = new HostMemory({ mode: 'recorded', profile, hostMaxphyaddr: 40 });
    host.slotTable.generation = mask - 1;
    host.slotTable.update(BASE);
    expect(host.generation).toBe(0);
  });

  test.each([
    ['an id that exists', { slot: 0, address: word64(0x900_0000) }],
    ['an overlap', { slot: 1, address: word64(0x1f_f000) }],
    ['half a page', { slot: 1, address: word64(0x900_0800) }],
    ['nothing', { slot: 1, address: word64(0x900_0000), size: word64(0) }],
    ['more than there is', { slot: 1, address: word64(0, 0xf_ffff), size: word64(0x1000, 1) }],
    ['a host-virtual address beyond all', { slot: 1, address: word64(0x900_0000), userspace: word64(0, 0xffff_0000) }],
    ['an address space of its own', { slot: 1, addressSpace: 2, address: word64(0x900_0000) }],
    ['the deletion of what is not there', { slot: 1, what: 'delete' }],
    ['read-only afterwards', { what: 'flags', readOnly: true }],
    ['a move with another size', { what: 'move', size: word64(0x1000) }],
  ] as const)('that KVM refuses (%s) changes nothing', (_, change) => {
    const slots = new Memslots();
    const slot = slots.update(BASE);
    expect(() => slots.update({ ...BASE, ...change })).toThrow(expect.objectContaining({ code: 'E_UNSOUND' }));
    expect([slots.generation, slots.totalPages, slots.list(0), slot.invalid]).toEqual([2, 0x100, [slot], false]);
  });
});

describe('a look-up', () => {
  test('finds slots by guest frame, in each address space, at their edges', () => {
    const slots = new Memslots();
    const a = slots.update(BASE);
    const b = slots.update({ ...BASE, slot: 1, address: word64(0x20_0000), userspace: word64(0, 1) });
    const smm = slots.update({ ...BASE, addressSpace: 1 });
    expect([0xff, 0x100, 0x1ff, 0x200, 0x2ff, 0x300].map((gfn) => slots.of(gfn, 0))).toEqual([null, a, a, b, b, null]);
    expect(slots.of(0x100, 1)).toBe(smm);
    expect(slots.of(0x200, 1)).toBeNull();
    expect(slots.totalPages).toBe(0x300);
  });

  test('forgets a slot that has gone', () => {
    const slots = new Memslots();
    slots.update(BASE);
    expect(slots.of(0x100, 0)).not.toBeNull();
    slots.update({ ...BASE, what: 'delete' });
    expect(slots.of(0x100, 0)).toBeNull();
    expect(slots.gfnOfHostPage(HVA / 0x1000)).toBe(-1);
  });

  test('finds guest frames by host-virtual memory, of a moved slot where it is now', () => {
    const slots = new Memslots();
    slots.update(BASE);
    expect(slots.gfnOfHostPage(HVA / 0x1000 + 0xff)).toBe(0x1ff);
    expect(slots.gfnOfHostPage(HVA / 0x1000 + 0x100)).toBe(-1);
    slots.update({ ...BASE, what: 'move', address: word64(0, 1) });
    expect(slots.gfnOfHostPage(HVA / 0x1000)).toBe(0x10_0000);
  });

  test('gives the overlaps with a range in the order of the notifier', () => {
    const slots = new Memslots();
    const high = slots.update({ ...BASE, userspace: word64(0x20_0000) });
    const low = slots.update({ ...BASE, slot: 1, address: word64(0x100_0000), userspace: word64(0x10_0000) });
    const smm = slots.update({ ...BASE, addressSpace: 1, userspace: word64(0x10_0000) });
    const seen = slots.overlaps(0x1f_f800, 0x20_0001).map(({ slot, first, end }) => [slot, first, end]);
    expect(seen).toEqual([
      [low, 0x10ff, 0x1100],
      [high, 0x100, 0x101],
      [smm, 0x1ff, 0x200],
    ]);
    expect(slots.overlaps(0x30_0000, 0x31_0000)).toEqual([]);
  });

  test('of slots whose host-virtual address is unknown keeps them apart', () => {
    const slots = new Memslots();
    slots.update({ ...BASE, userspace: word64(0) });
    const other = slots.update({ ...BASE, slot: 1, address: word64(0x100_0000), userspace: word64(0) });
    expect(slots.gfnOfHostPage(other.hostPageOf(0x1080))).toBe(0x1080);
    expect((other.userspace / 0x1000 - other.baseGfn) % 2 ** 18).toBe(0);
  });
});

describe('a dirty log', () => {
  test('is kept while it is on, and given away word by word', () => {
    const slots = new Memslots();
    const slot = slots.update(BASE);
    slot.markDirty(0x100);
    expect(slot.takeDirty()).toEqual([]);
    slots.update({ ...BASE, what: 'flags', dirtyLog: true });
    for (const gfn of [0x1c5, 0x100, 0x11f, 0x120, 0x13f]) slot.markDirty(gfn);
    expect([slot.isDirty(0x11f), slot.isDirty(0x121)]).toEqual([true, false]);
    expect(slot.takeDirty()).toEqual([
      { base: 0x100, lo: 0x8000_0001, hi: 0x8000_0001 },
      { base: 0x1c0, lo: 0x20, hi: 0 },
    ]);
    expect(slot.takeDirty()).toEqual([]);
    slot.markDirty(0x100);
    slots.update({ ...BASE, what: 'flags' });
    slots.update({ ...BASE, what: 'flags', dirtyLog: true });
    expect(slot.takeDirty()).toEqual([]);
  });
});
