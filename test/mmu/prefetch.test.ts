/** Which neighbours of a fault are mapped with it: facts/kvm-6.1.md §3. */

import { describe, expect, test } from 'vitest';
import { HostPage } from '../../src/formats/step.ts';
import { A, ALL, D, P, PS, ShadowRig, U } from './shadow-rig.ts';

const DIRECT = { tdp: true, tdpMmu: false } as const;

/** Of pages 0x100 to 0x107 only these are there. */
function resident(rig: ShadowRig, pages: readonly number[], state: number = HostPage.WRITABLE): void {
  rig.host.hostPages(0x10_0000, 0, 8, HostPage.ABSENT, 1);
  for (const page of pages) rig.host.hostPages(page * 4096, 0, 1, state, 1);
}

function sets(rig: ShadowRig): string[] {
  return rig.take().filter((text) => text.startsWith('set') || text.startsWith('mmio'));
}

describe('direct tables', () => {
  test('the aligned eight, A clear, after what was asked for', () => {
    const rig = new ShadowRig({ config: DIRECT });
    rig.fault(0x10_3000, 2);
    const neighbours = [0x100, 0x101, 0x102, 0x104, 0x105, 0x106, 0x107];
    expect(sets(rig)).toEqual(['set l1 103 e67', ...neighbours.map((gfn) => `set l1 ${gfn.toString(16)} e47`)]);
    expect(rig.broken()).toEqual([]);
  });

  test('a run ends where the host has nothing; the next begins behind what was asked for', () => {
    const rig = new ShadowRig({ config: DIRECT });
    resident(rig, [0x100, 0x101, 0x102, 0x103, 0x104, 0x106, 0x107]);
    rig.fault(0x10_0000, 2);
    expect(sets(rig)).toEqual(['100 e67', '101 e47', '102 e47', '103 e47', '104 e47'].map((text) => `set l1 ${text}`));
    // The run 105 yields nothing, which ends it all: 107 is not tried.
    rig.fault(0x10_6000, 2);
    expect(sets(rig)).toEqual(['set l1 106 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('a run that yields some goes on to the next', () => {
    const rig = new ShadowRig({ config: DIRECT });
    resident(rig, [0x100, 0x103, 0x104, 0x105]);
    rig.fault(0x10_3000, 2);
    expect(sets(rig)).toEqual(['set l1 103 e67', 'set l1 100 e47', 'set l1 104 e47', 'set l1 105 e47']);
  });

  test('what is read-only on the host is not prefetched', () => {
    const rig = new ShadowRig({ config: DIRECT });
    resident(rig, [0x101, 0x102], HostPage.READ_ONLY);
    rig.fault(0x10_0000, 2);
    expect(sets(rig)).toEqual(['set l1 100 e67']);
  });

  test('MMIO counts as not present, and has no slot: that ends it', () => {
    const rig = new ShadowRig({ config: DIRECT });
    rig.slot({ slot: 1, base: 0x5_0001, size: 7 });
    rig.host.hostPages(0x5000_1000, 0, 7, HostPage.WRITABLE, 1);
    rig.fault(0x5000_0000, 2);
    expect(sets(rig)).toEqual([
      'mmio 50000 access 7 gen 4',
      ...[1, 2, 3, 4, 5, 6, 7].map((i) => `set l1 5000${i} e47`),
    ]);
    rig.vm.unmap(0, 0x5_0003, 0x5_0006);
    rig.fault(0x5000_4000, 2);
    expect(sets(rig)).toEqual(['set l1 50004 e67']);
  });

  test('no further than the slot', () => {
    const rig = new ShadowRig({ config: DIRECT });
    rig.slot({ slot: 1, base: 0x5_0000, size: 3 });
    rig.host.hostPages(0x5000_0000, 0, 3, HostPage.WRITABLE, 1);
    rig.fault(0x5000_0000, 2);
    expect(sets(rig)).toEqual(['set l1 50000 e67', 'set l1 50001 e47', 'set l1 50002 e47']);
  });

  test('not while the slot logs writes, not after a spurious fault, not without A/D bits', () => {
    const logged = new ShadowRig({ config: DIRECT });
    logged.slot({ what: 'flags', dirtyLog: true });
    logged.fault(0x10_0000, 2);
    expect(sets(logged)).toHaveLength(1);
    const rig = new ShadowRig({ config: DIRECT });
    rig.fault(0x10_0000, 2);
    rig.vm.unmap(0, 0x104, 0x105);
    rig.take();
    rig.fault(0x10_0000, 0);
    rig.vm.unmap(0, 0x104, 0x105);
    rig.take();
    expect(rig.fault(0x10_0000, 0)).toBe('SPURIOUS');
    expect(sets(rig)).toEqual([]);
    const noAd = new ShadowRig({ config: { ...DIRECT, vendor: 'intel', eptAd: false } });
    noAd.fault(0x10_0000, 2);
    expect(sets(noAd)).toHaveLength(1);
  });

  test('a frame that holds a table is prefetched read-only', () => {
    const rig = new ShadowRig({ config: DIRECT });
    rig.pages.slotState.track(0x101, 0);
    rig.fault(0x10_0000, 2);
    expect(sets(rig)[1]).toBe('set l1 101 a05');
  });

  test('large pages have no neighbours', () => {
    const rig = new ShadowRig({ config: DIRECT, hostLevel: 2 });
    rig.fault(0x20_0000, 2);
    expect(sets(rig)).toEqual(['set l2 200 ee7']);
  });
});

describe('tables of the guest', () => {
  function guest(entries: Readonly<Record<number, number>>, noExecute: readonly number[] = []): ShadowRig {
    const rig = new ShadowRig();
    rig.fourLevels();
    for (const [index, entry] of Object.entries(entries)) rig.put(4, +index, entry, noExecute.includes(+index));
    return rig;
  }
  const page = (gfn: number, flags = ALL): number => ShadowRig.entry(gfn, flags);

  test("by the guest's entries, with their rights", () => {
    const rig = guest(
      {
        0: page(0x100),
        1: page(0x201, P | U | A | D),
        2: page(0x302, ALL & ~D),
        3: page(0x403, ALL & ~U),
        4: page(0x504, P | A),
        5: page(0x605),
      },
      [5],
    );
    rig.fault(0, 2);
    expect(sets(rig)).toEqual([
      'set l1 100 e67',
      'set l1 201 a05',
      'set l1 302 a05',
      'set l1 403 e43',
      'set l1 504 a01',
      'set l1 605 8000000000000e47',
    ]);
    expect(rig.broken()).toEqual([]);
  });

  test.each([
    ['that is not present', 0],
    ['that nobody used yet', page(0x102, ALL & ~A)],
    ['with reserved bits', page(0x102 + 2 ** 28)],
    ['without a slot', page(0x50_0000)],
  ])('the first %s ends it', (_, entry) => {
    const rig = guest({ 0: page(0x100), 1: page(0x101), 2: entry, 3: page(0x103) });
    rig.fault(0, 2);
    expect(sets(rig)).toEqual(['set l1 100 e67', 'set l1 101 e47']);
  });

  test('so does a page that the host has not, or not for writing', () => {
    for (const state of [HostPage.ABSENT, HostPage.READ_ONLY]) {
      const rig = guest({ 0: page(0x100), 1: page(0x101), 2: page(0x102, P | U | A), 3: page(0x103) });
      rig.host.hostPages(0x10_2000, 0, 1, state, 1);
      rig.fault(0, 2);
      expect(sets(rig)).toEqual(['set l1 100 e67', 'set l1 101 e47']);
    }
  });

  test('and one that could be written to unlogged; read-only ones do not', () => {
    const rig = guest({ 0: page(0x100), 1: page(0x101, P | U | A), 2: page(0x102), 3: page(0x103, P | U | A) });
    rig.slot({ what: 'flags', dirtyLog: true });
    rig.fault(0, 2);
    expect(sets(rig)).toEqual(['set l1 100 e67', 'set l1 101 a05']);
  });

  test('what is there already is passed over', () => {
    const rig = guest({ 0: page(0x100), 7: page(0x107) });
    rig.fault(0x7000, 2);
    sets(rig);
    for (let i = 1; i < 7; i++) rig.put(4, i, page(0x100 + i));
    rig.emulatedWrite(4, 0, 8);
    rig.fault(0, 2);
    expect(sets(rig)[0]).toBe('set l1 100 e67');
    rig.emulatedWrite(4, 8, 8);
    rig.emulatedWrite(4, 40, 8);
    rig.fault(0x1000, 2);
    expect(sets(rig)).toEqual(['set l1 101 e67', 'set l1 105 e47']);
  });

  test('a table of the guest is read-only unless it is unsync', () => {
    const rig = guest({ 0: page(0x100), 1: page(4), 2: page(3) });
    rig.fault(0, 2);
    expect(sets(rig)).toEqual(['set l1 100 e67', 'set l1 4 a05', 'set l1 3 a05']);
    expect(rig.broken()).toEqual([]);
  });

  test("in a direct table below the guest's large page it is by frames, with the table's rights", () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(3, 1, page(0x200, P | U | A | PS));
    rig.fault(0x20_0000 + 0x6000, 0);
    const neighbours = [0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x207];
    expect(sets(rig)).toEqual(['set l1 206 a25', ...neighbours.map((gfn) => `set l1 ${gfn.toString(16)} a05`)]);
  });
});
