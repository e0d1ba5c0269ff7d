/** The invariants hold after what a guest may do, and each of them is noticed when it does not hold. */

import { describe, expect, test } from 'vitest';
import { checkInvariants, InvariantChecker } from '../../src/mmu/invariants.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { A, ALL, D, P, PS, ShadowRig, TABLE, U, W } from './shadow-rig.ts';

/** Tables for the first 2 MiB, two pages of which are mapped; the second shadowed table is unsync. */
function busy(): ShadowRig {
  const rig = new ShadowRig();
  rig.fourLevels();
  rig.put(4, 0, ShadowRig.entry(0x100, ALL));
  rig.put(4, 9, ShadowRig.entry(0x101, P | U | A));
  rig.put(3, 1, ShadowRig.entry(5, TABLE));
  rig.put(5, 0, ShadowRig.entry(0x102, ALL));
  rig.put(5, 1, ShadowRig.entry(4, ALL));
  rig.fault(0x0000, 2);
  rig.fault(0x9000, 0);
  rig.fault(0x20_0000, 2);
  rig.fault(0x20_1000, 2);
  return rig;
}

test('hold while a guest writes to its tables', () => {
  const rig = busy();
  expect(rig.page(4, 1).unsync).toBe(true);
  expect(rig.broken()).toEqual([]);
  rig.put(4, 0, ShadowRig.entry(0x300, P | A));
  expect(rig.broken()).toEqual([]);
  rig.mmu.syncRoots();
  expect(rig.broken()).toEqual([]);
  rig.vm.unmap(0, 0x100, 0x103);
  expect(rig.broken()).toEqual([]);
  rig.vm.zapAllFast();
  expect(rig.broken()).toEqual([]);
  rig.vcpu.unload();
  expect(rig.broken()).toEqual([]);
  expect(rig.pages.used).toBe(0);
});

describe('are noticed', () => {
  const spoil: Readonly<Record<string, (rig: ShadowRig) => void>> = {
    'entries in the reverse map': (rig) => rig.pages.set(rig.page(4, 1).sptep(0), 0, 0),
    'is 0 times in its reverse map': (rig) => rig.pages.rmap.remove(0x100, 1, 0, rig.page(4, 1).sptep(0)),
    'is no leaf, and in': (rig) => rig.pages.rmap.add(0x100, 1, 0, rig.page(4, 1).sptep(77)),
    'maps gfn 100, and is in': (rig) => rig.pages.rmap.add(0x105, 1, 0, rig.page(4, 1).sptep(0)),
    'is 0 times among the parents': (rig) => void rig.page(4, 1).parents.pop(),
    'parent entry that does not lead to it': (rig) => void rig.page(4, 1).parents.push(rig.page(2, 3).sptep(8)),
    'unsync children and has': (rig) => void rig.page(3, 2).unsyncChildren++,
    'is not marked': (rig) => rig.page(2, 3).clearUnsyncBit(0),
    'can become writable': (rig) => {
      rig.page(4, 1).unsync = false;
    },
    'is writable, and not MMU-writable': (rig) => change(rig, 0, (lo) => lo & ~(1 << 10)),
    'is MMU-writable, and not host-writable': (rig) => change(rig, 0, (lo) => lo & ~(1 << 9)),
    'gives more than it was last mapped with': (rig) => change(rig, 9, (lo) => lo | 0x402),
    'under which the host has': (rig) => change(rig, 0, (lo) => lo ^ 0x1000),
    'leads to what is no table': (rig) => {
      const sptep = rig.page(2, 3).sptep(0);
      rig.pages.set(sptep, rig.pages.lo(sptep) ^ 0x100_0000, 0);
    },
    'counts 3 holders and has 1': (rig) => {
      rig.page(1, 4).rootCount += 2;
    },
    'pages count as used': (rig) => void rig.pages.used++,
    'the write-track count at 3 is 2, not 1': (rig) => rig.pages.slotState.track(3, 0),
    'count of reasons against pages of level 2': (rig) => rig.pages.slotState.allowLargePages(4, 0),
    'indirect pages are counted': (rig) => void rig.pages.indirect--,
    'cannot be found by its gfn': (rig) => void (rig.pages.hashed as Map<number, unknown>).delete(4),
    'list of active pages': (rig) => {
      rig.page(4, 1).listed = false;
    },
    'not the role': (rig) => {
      rig.mmu.rootRole++;
    },
    'leads to a table of role': (rig) => {
      rig.page(4, 1).role ^= 1 << 13;
    },
    'which is obsolete': (rig) => {
      rig.pages.generation = 1;
    },
    "the guest's to 6": (rig) => rig.put(2, 0, ShadowRig.entry(6, TABLE)),
    'with other rights': (rig) => rig.put(2, 0, ShadowRig.entry(3, P | U | A)),
    'the guest has nothing there': (rig) => rig.put(5, 0, 0),
    "gives more than the guest's entry": (rig) => rig.put(5, 0, ShadowRig.entry(0x102, P | U | A | D)),
    'a clean page': (rig) => rig.put(5, 0, ShadowRig.entry(0x102, P | W | U | A)),
    "the guest's entry for 103": (rig) => rig.put(5, 0, ShadowRig.entry(0x103, ALL)),
  };

  function change(rig: ShadowRig, index: number, how: (lo: number) => number): void {
    const sptep = rig.page(4, 1).sptep(index);
    rig.pages.set(sptep, how(rig.pages.lo(sptep)), rig.pages.hi(sptep));
  }

  test.each(Object.keys(spoil))('%s', (what) => {
    const rig = busy();
    expect(rig.broken()).toEqual([]);
    spoil[what]!(rig);
    const text = what === 'a clean page' ? "gives more than the guest's entry" : what;
    expect(rig.broken().filter((sentence) => sentence.includes(text))).not.toEqual([]);
  });

  test('a slot that has gone', () => {
    const rig = busy();
    rig.host.slotTable.update({
      kind: 'memslot',
      what: 'delete',
      slot: 0,
      addressSpace: 0,
      address: { lo: 0, hi: 0 },
      size: { lo: 0, hi: 0 },
      userspace: { lo: 0, hi: 0 },
      readOnly: false,
      dirtyLog: false,
    });
    expect(rig.broken().some((sentence) => sentence.includes('maps gfn 100, which has no slot'))).toBe(true);
  });

  test('but not where somebody changed the guest table behind KVM', () => {
    const rig = busy();
    rig.put(5, 0, 0);
    expect(rig.broken()).toHaveLength(1);
    const { pages, vcpu, tdpMmu, host } = rig;
    expect(checkInvariants({ pages, vcpu, tdpMmu, host, unnoticed: (gfn) => gfn === 5 })).toEqual([]);
  });
});

test('a checker that is used again sees what has changed, and only then', () => {
  const rig = busy();
  const { pages, vcpu, tdpMmu, host } = rig;
  const checker = new InvariantChecker({ pages, vcpu, tdpMmu, host });
  expect(checker.check()).toEqual([]);
  rig.put(5, 0, ShadowRig.entry(0x103, ALL));
  expect(checker.check()).toHaveLength(1);
  expect(checker.check()).toHaveLength(1);
  rig.put(5, 0, ShadowRig.entry(0x102, ALL));
  expect(checker.check()).toEqual([]);
  rig.put(5, 0, ShadowRig.entry(0x103, ALL));
  expect(checker.check()).toHaveLength(1);
});

describe('catch mutants', () => {
  test('inherited permissions: the table has other rights than its parents', () => {
    const rig = new ShadowRig({ mutants: [Mutant.INHERITED_PERMISSIONS] });
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, P | U | A));
    rig.fault(0, 0);
    expect(rig.broken().some((sentence) => sentence.includes('with other rights'))).toBe(true);
  });

  test('a large page stays writable over a table', () => {
    const rig = new ShadowRig({ mutants: [Mutant.HUGE_PAGE_STAYS], hostLevel: 2 });
    rig.fourLevels();
    rig.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
    rig.put(3, 2, ShadowRig.entry(0x201, TABLE));
    rig.put(0x201, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0x20_0000, 2);
    expect(rig.broken()).toEqual([]);
    rig.fault(0x40_0000, 2);
    expect(rig.broken().some((sentence) => sentence.includes('can become writable'))).toBe(true);
  });

  test('MMU-writable stays on what is shadowed', () => {
    const rig = new ShadowRig({ mutants: [Mutant.KEEPS_MMU_WRITABLE] });
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(5, ALL));
    rig.put(3, 1, ShadowRig.entry(5, TABLE));
    rig.put(5, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, 2);
    // As the dirty log leaves it: not writable now.
    rig.pages.writeProtectSpte(rig.page(4, 1).sptep(0), false);
    expect(rig.broken()).toEqual([]);
    rig.fault(0x20_0000, 2);
    expect(rig.broken().some((sentence) => sentence.includes('can become writable'))).toBe(true);
  });
});
