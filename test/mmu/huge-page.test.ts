/** How large a page is mapped: facts/kvm-mmu.md §6.10, facts/kvm-6.1.md §4.3, §4.6. */

import { describe, expect, test } from 'vitest';
import { HostPage } from '../../src/formats/step.ts';
import { ALL, addressOf, PS, ShadowRig } from './shadow-rig.ts';

const DIRECT = { tdp: true, tdpMmu: false } as const;
const MIB_2 = 0x20_0000;
const FETCH = 16;

function isNoGet(text: string): boolean {
  return !text.startsWith('get');
}

function firstSet(rig: ShadowRig): string {
  return rig
    .take()
    .filter((text) => text.startsWith('set'))
    .at(0)!;
}

describe('direct', () => {
  test('as large as the host maps it', () => {
    const small = new ShadowRig({ config: DIRECT });
    small.fault(MIB_2 + 0x5000, 2);
    expect(firstSet(small)).toBe('set l1 205 e67');
    const large = new ShadowRig({ config: DIRECT, hostLevel: 2 });
    large.fault(MIB_2 + 0x5000, 2);
    expect(large.take().filter(isNoGet)).toEqual(['req l2 205', 'set l2 200 ee7']);
    expect(large.broken()).toEqual([]);
    const huge = new ShadowRig({ config: DIRECT, hostLevel: 3 });
    huge.fault(MIB_2 + 0x5000, 2);
    expect(huge.take().filter(isNoGet)).toEqual(['req l3 205', 'set l3 0 ee7']);
    expect(huge.broken()).toEqual([]);
  });

  test('no larger than the hardware has it, nor than the slot, nor than its place allows', () => {
    const hardware = new ShadowRig({ config: { ...DIRECT, maxLevel: 2 }, hostLevel: 3 });
    hardware.fault(MIB_2, 2);
    expect(firstSet(hardware)).toBe('set l2 200 ee7');
    const slot = new ShadowRig({ config: DIRECT });
    slot.slot({ slot: 1, base: 0x10_0200, size: 0x300 });
    slot.host.hostPages((0x10_0200 * 4096) | 0, 1, 0x300, HostPage.WRITABLE, 2);
    slot.fault(0x10_0200 * 4096, 2);
    expect(firstSet(slot)).toBe('set l2 100200 ee7');
    slot.fault(0x10_0400 * 4096, 2);
    expect(firstSet(slot)).toBe('set l1 100400 e67');
  });

  test('small ones in a slot whose writes are logged', () => {
    const rig = new ShadowRig({ config: DIRECT, hostLevel: 2 });
    rig.slot({ what: 'flags', dirtyLog: true });
    rig.fault(MIB_2, 2);
    expect(rig.take().filter(isNoGet)).toEqual(['req l1 200', 'set l1 200 e67']);
  });

  test('2 MiB at most while the guest does not page', () => {
    const rig = new ShadowRig({ mode: 'real', hostLevel: 3 });
    rig.fault(MIB_2, 2);
    expect(rig.take().slice(-2)).toEqual(['req l2 200', 'set l2 200 ee7']);
    expect(rig.broken()).toEqual([]);
  });

  test('small ones around a table that is shadowed', () => {
    const rig = new ShadowRig({ config: DIRECT, hostLevel: 2 });
    rig.pages.slotState.disallowLargePages(0x3ff, 0);
    rig.fault(MIB_2, 2);
    expect(firstSet(rig)).toBe('set l1 200 e67');
    rig.fault(2 * MIB_2, 2);
    expect(firstSet(rig)).toBe('set l2 400 ee7');
  });
});

describe('under shadow paging', () => {
  test('no larger than the guest maps it', () => {
    const rig = new ShadowRig({ hostLevel: 2 });
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x200, ALL));
    rig.fault(0, 2);
    expect(rig.take().slice(-2)).toEqual(['req l1 200', 'set l1 200 e67']);
  });

  test("the guest's large page over the host's", () => {
    const rig = new ShadowRig({ hostLevel: 2 });
    rig.fourLevels();
    rig.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
    rig.fault(MIB_2 + 0x7000, 2);
    expect(rig.take().slice(-2)).toEqual(['req l2 207', 'set l2 200 ee7']);
    expect(rig.broken()).toEqual([]);
  });

  test("the guest's large page over small ones of the host: a direct table of its rights", () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
    rig.fault(MIB_2 + 0x7000, 2);
    expect(rig.take().slice(3, 6)).toEqual(['req l1 207', 'get l1 200 direct', 'set l1 207 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('1 GiB: two direct levels', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(2, 1, ShadowRig.entry(0, ALL | PS));
    rig.fault(addressOf(1, 3) + MIB_2, 2);
    expect(rig.take().slice(2, 6)).toEqual(['req l1 200', 'get l2 0 direct', 'get l1 200 direct', 'set l1 200 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('4 MiB with PSE: each half a table of its own', () => {
    const rig = new ShadowRig({ mode: '32bit' });
    rig.put(1, 1, ShadowRig.entry(0x400, ALL | PS));
    rig.fault(2 * MIB_2 + 0x3000, 2);
    rig.fault(3 * MIB_2 + 0x3000, 2);
    const gets = rig.take().filter((text) => text.startsWith('get l1'));
    expect(gets).toEqual(['get l1 400 direct', 'get l1 600 direct q1']);
    expect(rig.broken()).toEqual([]);
  });

  test('a large page that holds one of the tables that map it is mapped by small ones', () => {
    const rig = new ShadowRig({ hostLevel: 2 });
    rig.fourLevels();
    rig.put(3, 0, ShadowRig.entry(0, ALL | PS));
    rig.fault(0x10_0000, 2);
    expect(rig.take().slice(3, 5)).toEqual(['req l1 100', 'get l1 0 direct']);
    expect(rig.broken()).toEqual([]);
  });

  test('a direct table that was made for other rights is let go', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(3, 1, ShadowRig.entry(0x200, (ALL & ~0x40) | PS));
    rig.fault(MIB_2, 0);
    expect(rig.take().slice(3, 6)).toEqual(['req l1 200', 'get l1 200 direct', 'set l1 200 a25']);
    // The write makes the page dirty, and the rights others.
    rig.fault(MIB_2, 3);
    expect(rig.take().slice(0, 3)).toEqual(['req l1 200', 'get l1 200 direct', 'set l1 200 e67']);
    expect(rig.broken()).toEqual([]);
  });
});

describe('NX huge pages', () => {
  test('what is fetched from is mapped by small pages, its table is marked', () => {
    const rig = new ShadowRig({ config: { ...DIRECT, nxHugePages: true }, hostLevel: 2 });
    rig.fault(MIB_2, 0);
    expect(firstSet(rig)).toBe('set l2 200 8000000000000ee7');
    rig.fault(MIB_2 + 0x3000, FETCH);
    expect(rig.take().slice(0, 3)).toEqual(['req l1 203', 'get l1 200 direct', 'set l1 203 e67']);
    expect(rig.page(0x200, 1, true).nxHugePageDisallowed).toBe(true);
    expect(rig.broken()).toEqual([]);
  });

  test('and stays so: a large page does not replace such a table', () => {
    const rig = new ShadowRig({ config: { ...DIRECT, nxHugePages: true }, hostLevel: 2 });
    rig.fault(MIB_2 + 0x3000, FETCH);
    rig.take();
    rig.vm.unmap(0, 0x205, 0x206);
    rig.fault(MIB_2 + 0x5000, 2);
    expect(rig.take().slice(0, 2)).toEqual(['req l2 205', 'set l1 205 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('nothing of it where the workaround is off', () => {
    const rig = new ShadowRig({ config: DIRECT, hostLevel: 2 });
    rig.fault(MIB_2, FETCH);
    expect(firstSet(rig)).toBe('set l2 200 ee7');
  });
});

test('tables that a large page replaces are unlinked, not zapped', () => {
  const rig = new ShadowRig({ config: DIRECT });
  rig.fault(MIB_2, 2);
  rig.take();
  rig.host.hostPages(MIB_2, 0, 512, HostPage.WRITABLE, 2);
  rig.vm.unmap(0, 0x200, 0x201);
  rig.fault(MIB_2, 2);
  expect(rig.take()).toEqual(['req l2 200', 'set l2 200 ee7']);
  expect(rig.page(0x200, 1, true).parents).toEqual([]);
  expect(rig.broken()).toEqual([]);
});
