/** Emulated writes to tables that are shadowed (facts/kvm-6.1.md §4.9, facts/kvm-mmu.md §6.13). */

import { describe, expect, test } from 'vitest';
import { ALL, addressOf, ShadowRig, TABLE } from './shadow-rig.ts';

/** Table 4 shadowed, with 16 pages from 0x100 on. */
function rigged(): ShadowRig {
  const rig = new ShadowRig();
  rig.fourLevels();
  for (let i = 0; i < 16; i++) rig.put(4, i, ShadowRig.entry(0x100 + i, ALL));
  rig.fault(0, 2);
  rig.fault(8 * 4096, 2);
  rig.take();
  rig.takeTold();
  return rig;
}

function present(rig: ShadowRig, gfn: number, level: number, quadrant = 0): number[] {
  const sp = rig.pages.hashed.get(gfn)!.find((page) => page.level === level && ((page.role >>> 5) & 3) === quadrant)!;
  return Array.from({ length: 512 }, (_, index) => index).filter((index) =>
    rig.pages.format.isPresent(rig.pages.lo(sp.sptep(index))),
  );
}

const SIXTEEN = Array.from({ length: 16 }, (_, index) => index);

describe('of an entry', () => {
  test('drops its SPTE, silently, and flushes', () => {
    const rig = rigged();
    rig.emulatedWrite(4, 3 * 8, 8);
    expect(present(rig, 4, 1)).toEqual(SIXTEEN.filter((index) => index !== 3));
    expect(rig.take()).toEqual([]);
    expect(rig.takeTold()).toEqual(['remote']);
    expect(rig.broken()).toEqual([]);
    rig.emulatedWrite(4, 3 * 8, 8);
    expect(rig.takeTold()).toEqual([]);
  });

  test('of half of it, in either half: with PAE it is widened to the whole', () => {
    const rig = rigged();
    rig.emulatedWrite(4, 3 * 8, 4);
    rig.emulatedWrite(4, 5 * 8 + 4, 4);
    expect(present(rig, 4, 1)).toEqual(SIXTEEN.filter((index) => index !== 3 && index !== 5));
    expect(rig.take()).toEqual([]);
  });

  test('of a table that nobody shadows', () => {
    const rig = rigged();
    rig.emulatedWrite(9, 0, 8);
    expect(rig.takeTold()).toEqual([]);
  });

  test('of a level-1 table as often as you like', () => {
    const rig = rigged();
    for (let i = 0; i < 10; i++) rig.emulatedWrite(4, 0, 8);
    expect(rig.take()).toEqual([]);
  });
});

describe('misaligned', () => {
  test.each([
    ['two bytes', 0, 2, true],
    ['two bytes at the end', 6, 2, true],
    ['an aligned byte', 24, 1, false],
    ['another byte', 25, 1, true],
    ['eight bytes across entries', 28, 8, true],
    ['four bytes across entries: widened, and aligned', 30, 4, false],
    ['sixteen bytes', 16, 16, true],
    ['three bytes', 0, 3, true],
    ['five bytes inside', 1, 5, false],
  ])('%s', (_, offset, bytes, zaps) => {
    const rig = rigged();
    rig.emulatedWrite(4, offset, bytes);
    expect(rig.take()).toEqual(zaps ? ['zap l1 4'] : []);
    expect(rig.broken()).toEqual([]);
  });
});

describe('flooding', () => {
  test('the third write to a table above level 1 zaps it', () => {
    const rig = rigged();
    rig.emulatedWrite(2, 8, 8);
    rig.emulatedWrite(2, 16, 8);
    expect(rig.take()).toEqual([]);
    rig.emulatedWrite(2, 24, 8);
    expect(rig.take()).toEqual(['zap l3 2']);
    expect(rig.broken()).toEqual([]);
  });

  test('a fault through the table starts the count again', () => {
    const rig = rigged();
    rig.emulatedWrite(2, 8, 8);
    rig.emulatedWrite(2, 16, 8);
    rig.put(4, 100, ShadowRig.entry(0x200, ALL));
    rig.fault(100 * 4096, 2);
    rig.take();
    rig.emulatedWrite(2, 24, 8);
    rig.emulatedWrite(2, 32, 8);
    expect(rig.take()).toEqual([]);
    rig.emulatedWrite(2, 40, 8);
    expect(rig.take()).toEqual(['zap l3 2']);
  });

  test('so does a fault on a write-tracked frame, for the way to its address', () => {
    const rig = rigged();
    rig.put(4, 100, ShadowRig.entry(3, ALL));
    rig.fault(100 * 4096, 2);
    for (let i = 0; i < 5; i++) {
      expect(rig.fault(100 * 4096, 3)).toBe('EMULATE');
      rig.emulatedWrite(3, 80 * 8, 8);
    }
    expect(rig.take().filter((text) => text.startsWith('zap'))).toEqual([]);
  });

  test('cached roots that nobody uses are flooded, the one in force is not', () => {
    const rig = rigged();
    // A second page for the frame of the root: other rights.
    const old = rig.page(1, 4);
    for (let i = 0; i < 2; i++) rig.emulatedWrite(1, 0x800, 8);
    expect(old.writeFloodingCount).toBe(2);
    rig.put(4, 200, ShadowRig.entry(0x200, ALL));
    rig.fault(200 * 4096, 2);
    expect(old.writeFloodingCount).toBe(0);
  });
});

describe('entries of 4 bytes', () => {
  /** A two-level guest: table 2 for the first 4 MiB, all of whose pages from 0x100 on are mapped as they are used. */
  function small(): ShadowRig {
    const rig = new ShadowRig({ mode: '32bit' });
    rig.put(1, 0, ShadowRig.entry(2, TABLE));
    rig.put(1, 300, ShadowRig.entry(3, TABLE));
    for (const index of [0, 88, 600]) rig.put(2, index, ShadowRig.entry(0x100 + index, ALL));
    rig.put(3, 0, ShadowRig.entry(0x90, ALL));
    rig.put(3, 512, ShadowRig.entry(0x91, ALL));
    for (const index of [0, 88, 600]) rig.fault(index * 4096, 2);
    rig.fault(300 * addressOf(2, 2), 2);
    rig.fault(300 * addressOf(2, 2) + 512 * 4096, 2);
    rig.take();
    return rig;
  }

  test('a page table is two halves', () => {
    const rig = small();
    expect(present(rig, 2, 1, 0)).toEqual([0, 88]);
    expect(present(rig, 2, 1, 1)).toEqual([88]);
    rig.emulatedWrite(2, 600 * 4, 4);
    expect(present(rig, 2, 1, 0)).toEqual([0, 88]);
    expect(present(rig, 2, 1, 1)).toEqual([]);
    rig.emulatedWrite(2, 88 * 4, 4);
    expect(present(rig, 2, 1, 0)).toEqual([0]);
    expect(rig.take()).toEqual([]);
    expect(rig.broken()).toEqual([]);
  });

  test('a page directory is four quarters, and an entry of it two SPTEs', () => {
    const rig = small();
    expect(present(rig, 1, 2, 0)).toEqual([0, 1]);
    expect(present(rig, 1, 2, 1)).toEqual([88, 89]);
    rig.emulatedWrite(1, 300 * 4, 4);
    expect(present(rig, 1, 2, 0)).toEqual([0, 1]);
    expect(present(rig, 1, 2, 1)).toEqual([]);
    expect(rig.broken()).toEqual([]);
  });

  test('eight bytes cross entries', () => {
    const rig = small();
    rig.emulatedWrite(2, 88 * 4, 8);
    expect(rig.take().sort()).toEqual(['zap l1 2', 'zap l1 2 q1']);
  });
});

test('nothing to do while no table is shadowed', () => {
  const rig = new ShadowRig({ mode: 'real' });
  rig.fault(0, 2);
  rig.take();
  rig.takeTold();
  rig.emulatedWrite(0, 0, 8);
  expect(rig.takeTold()).toEqual([]);
});
