/** The TDP MMU's events: what facts/kvm-6.1.md §1 and recordings of the kernel say, and what 7.3 does otherwise. */

import { describe, expect, test } from 'vitest';
import { RetPf } from '../../src/mmu/fault.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { frameOf } from '../../src/mmu/spte.ts';
import { plainSlot, removal, SMM_CPU_ROLE, TdpRig } from './tdp-rig.ts';

const FIRST_FAULT = ['get l3 0', 'chg l4 0 0 827', 'get l2 0', 'chg l3 0 0 827', 'get l1 0', 'chg l2 0 0 827'];

describe('a fault builds tables from the top', () => {
  test('NPT with five levels, as recorded in a_npt1', () => {
    const rig = new TdpRig({ tdpLevel: 5 });
    rig.host.offset = 0x29d3 - 0x100;
    const root = rig.root();
    expect(rig.take()).toEqual(['get l5 0']);
    expect(rig.fault(root, 0x100)).toBe(RetPf.FIXED);
    expect(rig.take()).toEqual([
      'req l1 100 29d3',
      'get l4 0',
      'chg l5 0 0 827',
      ...FIRST_FAULT,
      'chg l1 100 0 e67',
      'set l1 100 e67',
    ]);
    rig.fault(root, 0x105);
    expect(rig.take()).toEqual(['req l1 105 29d8', 'chg l1 105 0 e67', 'set l1 105 e67']);
  });

  test.each([
    ['A/D bits, as recorded in ept1_g64', true, '907', '600000000000b77'],
    ['no A/D bits, as recorded in ept1_noad_g64', false, '10000000000807', '610000000000877'],
  ])('EPT, %s', (_, eptAd, table, leaf) => {
    const rig = new TdpRig({ vendor: 'intel', eptAd });
    const root = rig.root();
    rig.fault(root, 0x100);
    expect(rig.take()).toEqual([
      'get l4 0',
      'req l1 100 80100',
      'get l3 0',
      `chg l4 0 0 ${table}`,
      'get l2 0',
      `chg l3 0 0 ${table}`,
      'get l1 0',
      `chg l2 0 0 ${table}`,
      `chg l1 100 0 ${leaf}`,
      `set l1 100 ${leaf}`,
    ]);
  });

  test('a read-only host page, then a spurious fault on it', () => {
    const rig = new TdpRig();
    rig.host.writable = false;
    const root = rig.root();
    rig.fault(root, 0x200);
    rig.take();
    expect(rig.spte(root, 0x200)).toBe('l1 825');
    expect(rig.fault(root, 0x200)).toBe(RetPf.SPURIOUS);
    expect(rig.take()).toEqual(['req l1 200 80200', 'set l1 200 825']);
  });

  test('6.1 rebuilds a writable leaf and forgets D; 7.3 finds that it serves', () => {
    const rig = new TdpRig();
    const root = rig.root();
    rig.fault(root, 7, 'w');
    rig.take();
    expect(rig.fault(root, 7, 'w')).toBe(RetPf.FIXED);
    expect(rig.take()).toEqual(['req l1 7 80007', 'chg l1 7 e67 e27', 'set l1 7 e27']);

    const newer = new TdpRig({ profile: '7.3' });
    const other = newer.root();
    newer.fault(other, 7, 'w');
    newer.take();
    expect(newer.fault(other, 7, 'w')).toBe(RetPf.SPURIOUS);
    expect(newer.take()).toEqual(['req l1 7 80007']);
  });

  test('MMIO: marked, emulated; again with another generation', () => {
    const rig = new TdpRig();
    rig.host.slotList = [plainSlot(0, 0, 0x1000)];
    const root = rig.root();
    rig.fault(root, 0xfff);
    rig.take();
    expect(rig.fault(root, 0xe_0000)).toBe(RetPf.EMULATE);
    expect(rig.take().slice(-2)).toEqual(['chg l1 e0000 0 47', 'mmio e0000 access 7 gen 8']);
    rig.host.generation = 0x12;
    expect(rig.fault(root, 0xe_0000)).toBe(RetPf.EMULATE);
    expect(rig.take().slice(-2)).toEqual(['chg l1 e0000 47 97', 'mmio e0000 access 7 gen 18']);
    rig.fault(root, 0xe_0000);
    expect(rig.take().slice(1)).toEqual(['mmio e0000 access 7 gen 18']);

    const intel = new TdpRig({ vendor: 'intel' });
    intel.host.slotList = [];
    intel.fault(intel.root(), 0xe_0000);
    expect(intel.take().slice(-2)).toEqual(['chg l1 e0000 0 46', 'mmio e0000 access 6 gen 8']);
  });

  test('a write to a frame that is write-tracked is mapped read-only', () => {
    for (const [profile, result] of [
      ['6.1', RetPf.EMULATE],
      ['7.3', RetPf.WRITE_PROTECTED],
    ] as const) {
      const rig = new TdpRig({ profile });
      const root = rig.root();
      rig.pages.slotState.track(0x30, 0);
      expect(rig.fault(root, 0x30, 'w')).toBe(result);
      expect(rig.take().at(-1)).toBe('set l1 30 a25');
    }
  });
});

describe('large pages', () => {
  test('a 2 MiB page; the frame requested is that of the fault', () => {
    const rig = new TdpRig();
    rig.host.level = 2;
    const root = rig.root();
    rig.fault(root, 0x4005);
    const events = rig.take();
    expect(events[1]).toBe('req l2 4005 84005');
    expect(events.slice(-2)).toEqual(['chg l2 4000 0 ee7', 'set l2 4000 ee7']);
  });

  test('6.1 zaps a large page in place of which small ones are wanted, 7.3 splits it', () => {
    const rig = new TdpRig();
    rig.host.level = 2;
    const root = rig.root();
    rig.fault(root, 0x4005);
    rig.take();
    rig.host.level = 1;
    const flushes = rig.flushes;
    rig.fault(root, 0x4006, 'w');
    expect(rig.take()).toEqual([
      'req l1 4006 84006',
      'chg l2 4000 ee7 5a0',
      'get l1 4000',
      'chg l2 4000 0 827',
      'chg l1 4006 0 e67',
      'set l1 4006 e67',
    ]);
    expect(rig.flushes).toBe(flushes + 1);
    expect(rig.spte(root, 0x4005)).toBe('l1 0');

    const newer = new TdpRig({ profile: '7.3' });
    newer.host.level = 2;
    const other = newer.root();
    newer.fault(other, 0x4005);
    newer.take();
    newer.host.level = 1;
    expect(newer.fault(other, 0x4006, 'w')).toBe(RetPf.SPURIOUS);
    expect(newer.take()).toEqual(['req l1 4006 84006', 'get l1 4000', 'chg l2 4000 ee7 827', 'split l2 4000 ee7']);
    expect(newer.spte(other, 0x4005)).toBe('l1 e67');
  });

  test('a table that a large page replaces is removed entry by entry', () => {
    const rig = new TdpRig();
    const root = rig.root();
    rig.fault(root, 0x4003);
    rig.take();
    rig.host.level = 2;
    const flushes = rig.flushes;
    expect(rig.fault(root, 0x4100)).toBe(RetPf.FIXED);
    expect(rig.take()).toEqual([
      'req l2 4100 84100',
      'chg l2 4000 827 ee7',
      ...removal(1, 0x4000, '5a0', { 3: 'e67' }),
      'set l2 4000 ee7',
    ]);
    expect(rig.flushes).toBe(flushes + 1);
  });

  test('NX huge pages: a fetch gets a small page, and what is there for it stays', () => {
    const rig = new TdpRig({ nxHugePages: true });
    rig.host.level = 2;
    const root = rig.root();
    rig.fault(root, 0x4005, 'x');
    rig.take();
    rig.tdp.lastSpte(root, 0x4005);
    expect(rig.tdp.sp.nxHugePageDisallowed).toBe(true);
    rig.fault(root, 0x4006);
    expect(rig.take()).toEqual(['req l2 4006 84006', 'chg l1 4006 0 e67', 'set l1 4006 e67']);
    const sptep = rig.tdp.sp.sptep(6);
    expect(frameOf(rig.pages.lo(sptep), rig.pages.hi(sptep))).toBe(0x8_4006);
  });
});

describe('roots', () => {
  test('found silently by role, newest first in the list', () => {
    const rig = new TdpRig();
    const root = rig.root();
    expect(root.rootCount).toBe(2);
    expect(rig.root()).toBe(root);
    expect(root.rootCount).toBe(3);
    expect(rig.take()).toEqual(['get l4 0']);
    expect(rig.root(SMM_CPU_ROLE)).not.toBe(root);
    expect(rig.take()).toEqual(['get l4 0']);
  });

  test('zap-all in two passes, as recorded in a_npt1: 1 GiB, then the root', () => {
    const rig = new TdpRig({ tdpLevel: 5 });
    const root = rig.root();
    rig.fault(root, 7);
    rig.fault(root, 0xc_0000);
    rig.take();
    rig.tdp.invalidateAllRoots();
    rig.tdp.zapInvalidatedRoots();
    const second = removal(2, 0xc_0000, '5a0', { 0: '827' });
    const first = removal(2, 0, '5a0', { 0: '827' });
    const l4 = removal(4, 0, '5a0', { 0: '827' });
    expect(rig.take()).toEqual([
      'chg l3 0 827 0',
      ...first.slice(0, 2),
      ...removal(1, 0, '5a0', { 7: 'e67' }),
      ...first.slice(2),
      'chg l3 c0000 827 0',
      ...second.slice(0, 2),
      ...removal(1, 0xc_0000, '5a0', { 0: 'e67' }),
      ...second.slice(2),
      'chg l5 0 827 0',
      ...l4.slice(0, 2),
      ...removal(3, 0, '5a0'),
      ...l4.slice(2),
    ]);
    expect(rig.pages.all()).toEqual([root]);
    const other = rig.root();
    expect(other).not.toBe(root);
    rig.tdp.putRoot(root);
    expect(rig.pages.all()).toEqual([other]);
    expect(rig.take()).toEqual(['get l5 0']);
  });

  test("7.3's zap-all begins with the leaves", () => {
    const rig = new TdpRig({ profile: '7.3' });
    const root = rig.root();
    rig.fault(root, 7);
    rig.take();
    rig.tdp.invalidateAllRoots();
    rig.tdp.zapInvalidatedRoots();
    const [empty, frozen] = ['8000000000000000', '80000000000001a0'];
    expect(rig.take()).toEqual([
      `chg l1 7 e67 ${empty}`,
      `chg l2 0 827 ${empty}`,
      ...removal(1, 0, frozen, {}, empty),
      `chg l3 0 827 ${empty}`,
      ...removal(2, 0, frozen, {}, empty),
      `chg l4 0 827 ${empty}`,
      ...removal(3, 0, frozen, {}, empty),
    ]);
  });

  test('the end of the VM reports present entries only', () => {
    const rig = new TdpRig();
    rig.host.slotList = [plainSlot(0, 0, 0x100)];
    const root = rig.root();
    rig.fault(root, 7);
    rig.fault(root, 0x180);
    rig.take();
    rig.tdp.zapAll();
    expect(rig.take()).toEqual([
      'chg l3 0 827 0',
      'zap l2 0',
      'chg l2 0 827 5a0',
      'zap l1 0',
      'chg l1 7 e67 5a0',
      'chg l4 0 827 0',
      'zap l3 0',
    ]);
    expect(rig.pages.all()).toEqual([root]);
  });

  test('a valid root is never freed', () => {
    const rig = new TdpRig();
    const root = rig.root();
    rig.tdp.putRoot(root);
    expect(() => rig.tdp.putRoot(root)).toThrow();
  });
});

describe('ranges', () => {
  function mapped(rig: TdpRig, ...gfns: number[]): ReturnType<TdpRig['root']> {
    const root = rig.root();
    for (const gfn of gfns) rig.fault(root, gfn, 'w');
    rig.take();
    return root;
  }

  test('unmapping empties leaves, leaves tables, and reaches invalid roots', () => {
    const rig = new TdpRig();
    const root = mapped(rig, 0x1ff, 0x200, 0x201, 0x203);
    expect(rig.tdp.unmapRange(0, 0x200, 0x203)).toBe(true);
    expect(rig.take()).toEqual(['chg l1 200 e67 0', 'chg l1 201 e67 0']);
    expect(rig.tdp.unmapRange(0, 0x200, 0x203)).toBe(false);
    expect(rig.tdp.unmapRange(1, 0, 0x1000)).toBe(false);
    rig.tdp.invalidateAllRoots();
    expect(rig.tdp.unmapRange(0, 0x203, 0x204)).toBe(true);
    expect(rig.spte(root, 0x203)).toBe('l1 0');

    const newer = new TdpRig({ profile: '7.3' });
    mapped(newer, 5);
    newer.tdp.invalidateAllRoots();
    expect(newer.tdp.unmapRange(0, 5, 6)).toBe(false);
    expect(newer.take()).toEqual(['chg l1 5 e67 8000000000000000']);
  });

  test('a large page goes with any part of it', () => {
    const rig = new TdpRig();
    rig.host.level = 2;
    mapped(rig, 0x4000, 0x4200);
    rig.tdp.unmapRange(0, 0x4010, 0x4020);
    expect(rig.take()).toEqual(['chg l2 4000 ee7 0']);
  });

  test('two address spaces, and roots newest first', () => {
    const rig = new TdpRig();
    rig.host.slotList.push(plainSlot(1, 0, 0x1000));
    const root = mapped(rig, 5);
    const inSmm = rig.root(SMM_CPU_ROLE);
    rig.fault(inSmm, 5);
    const guest = rig.root(1 << 17);
    rig.fault(guest, 5, 'w');
    rig.fault(guest, 6, 'w');
    rig.take();
    rig.tdp.unmapRange(0, 5, 7);
    expect(rig.take()).toEqual(['chg l1 5 e67 0', 'chg l1 6 e67 0', 'chg l1 5 e67 0']);
    expect(rig.spte(root, 5)).toBe('l1 0');
    expect(rig.spte(inSmm, 5)).toBe('l1 e67');
  });

  test('another host frame: gone, or replaced when it is read-only', () => {
    const rig = new TdpRig();
    const root = mapped(rig, 5);
    expect(rig.tdp.setSpteGfn(0, 5, 0x1234, false)).toBe(true);
    expect(rig.take()).toEqual(['chg l1 5 e67 0', 'chg l1 5 0 845']);
    expect(rig.tdp.setSpteGfn(0, 5, 0x1234, true)).toBe(true);
    expect(rig.take()).toEqual(['chg l1 5 845 0']);
    expect(rig.tdp.setSpteGfn(0, 5, 0x1234, true)).toBe(false);
    expect(rig.spte(root, 5)).toBe('l1 0');
  });

  test('aging clears A, or, without A/D bits, puts the rights aside', () => {
    const rig = new TdpRig();
    mapped(rig, 5, 6);
    expect(rig.tdp.testAge(0, 5, 7)).toBe(true);
    expect(rig.tdp.ageRange(0, 5, 7)).toBe(true);
    expect(rig.take()).toEqual(['chg l1 5 e67 e47', 'chg l1 6 e67 e47']);
    expect(rig.tdp.testAge(0, 5, 7)).toBe(false);
    expect(rig.tdp.ageRange(0, 5, 7)).toBe(false);
    expect(rig.take()).toEqual([]);

    const intel = new TdpRig({ vendor: 'intel', eptAd: false });
    mapped(intel, 5);
    intel.tdp.ageRange(0, 5, 6);
    // R and X at bits 54 and 56.
    expect(intel.take()).toEqual(['chg l1 5 610000000000877 750000000000870']);

    const newer = new TdpRig({ profile: '7.3' });
    mapped(newer, 5);
    newer.tdp.invalidateAllRoots();
    expect(newer.tdp.ageRange(0, 5, 6)).toBe(false);
  });

  test('a frame that is shadowed loses W and MMU-writable', () => {
    const rig = new TdpRig();
    const root = mapped(rig, 5);
    expect(rig.pages.writeProtect(5, 0, 1)).toBe(true);
    expect(rig.take()).toEqual(['chg l1 5 e67 a65']);
    expect(rig.pages.writeProtect(5, 0, 1)).toBe(false);
    expect(rig.tdp.writeProtectGfn(6, 0, 1)).toBe(false);
    rig.host.level = 2;
    rig.fault(root, 0x4005, 'w');
    rig.take();
    expect(rig.tdp.writeProtectGfn(0x4123, 0, 1)).toBe(true);
    expect(rig.take()).toEqual(['chg l2 4000 ee7 ae5']);
    expect(rig.tdp.writeProtectGfn(5, 0, 2)).toBe(false);
  });

  test('mutants: MMU-writable stays on what is read-only, large pages stay', () => {
    const keeps = new TdpRig({}, [Mutant.KEEPS_MMU_WRITABLE]);
    mapped(keeps, 5);
    keeps.tdp.writeProtectSlot(keeps.host.slotList[0]!, 1);
    keeps.take();
    expect(keeps.tdp.writeProtectGfn(5, 0, 1)).toBe(false);
    const stays = new TdpRig({}, [Mutant.HUGE_PAGE_STAYS]);
    stays.host.level = 2;
    mapped(stays, 0x4005);
    expect(stays.tdp.writeProtectGfn(0x4005, 0, 1)).toBe(false);
  });

  test('dirty logging begins, as recorded: large pages are split, then all loses W', () => {
    for (const [change, huge, table, leaf, readOnly] of [
      [{}, 'ee7', '827', 'e67', 'e65'],
      [{ vendor: 'intel' }, '600000000000bf7', '907', '600000000000b77', '600000000000b75'],
      [{ vendor: 'intel', eptAd: false }, '6100000000008f7', '10000000000807', '610000000000877', '610000000000875'],
    ] as const) {
      const rig = new TdpRig(change);
      rig.host.level = 2;
      const root = mapped(rig, 0x4000, 0x4200);
      const slot = plainSlot(0, 0x4000, 0x400, { dirtyLog: true });
      rig.tdp.splitHugePages(slot, 0x4000, 0x4400, 1);
      expect(rig.take()).toEqual([
        'get l1 4000',
        `chg l2 4000 ${huge} ${table}`,
        `split l2 4000 ${huge}`,
        'get l1 4200',
        `chg l2 4200 ${huge} ${table}`,
        `split l2 4200 ${huge}`,
      ]);
      expect(rig.tdp.writeProtectSlot(slot, 1)).toBe(true);
      const events = rig.take();
      expect(events.length).toBe(0x400);
      expect(events[0x3ff]).toBe(`chg l1 43ff ${leaf} ${readOnly}`);
      expect(rig.tdp.writeProtectSlot(slot, 1)).toBe(false);
      rig.tdp.lastSpte(root, 0x43ff);
      const sptep = rig.tdp.sp.sptep(rig.tdp.index);
      expect(frameOf(rig.pages.lo(sptep), rig.pages.hi(sptep))).toBe(0x8_43ff);
    }
  });

  test('1 GiB is split by levels on the way down', () => {
    const rig = new TdpRig();
    rig.host.level = 3;
    rig.host.offset = 0x8_0000;
    const root = mapped(rig, 0x4_0000);
    rig.tdp.splitHugePages(rig.host.slotList[0]!, 0x4_0000, 0x4_0400, 1);
    expect(rig.take()).toEqual([
      'get l2 40000',
      'chg l3 40000 ee7 827',
      'split l3 40000 ee7',
      'get l1 40000',
      'chg l2 40000 ee7 827',
      'split l2 40000 ee7',
      'get l1 40200',
      'chg l2 40200 ee7 827',
      'split l2 40200 ee7',
    ]);
    expect(rig.spte(root, 0x4_0400)).toBe('l2 ee7');
    expect(rig.spte(root, 0x4_03ff)).toBe('l1 e67');
  });

  test('the dirty log of 64 frames, by mask', () => {
    const rig = new TdpRig();
    const slot = plainSlot(0, 0x2000, 0x100);
    mapped(rig, 0x2000, 0x2001, 0x2002, 0x2020, 0x203f, 0x2040);
    rig.tdp.clearDirtyMasked(slot, 0, 0xffff_fffd, 0x8000_0001, true);
    expect(rig.take()).toEqual([
      'chg l1 2000 e67 e65',
      'chg l1 2002 e67 e65',
      'chg l1 2020 e67 e65',
      'chg l1 203f e67 e65',
    ]);
    rig.tdp.clearDirtyMasked(slot, 0, 3, 0, false);
    expect(rig.take()).toEqual(['chg l1 2000 e65 e25', 'chg l1 2001 e67 e27']);
  });

  test('page-modification logging clears D, but W in tables of L2', () => {
    const rig = new TdpRig({ vendor: 'intel', pml: true });
    mapped(rig, 5);
    rig.fault(rig.root(1 << 17), 6, 'w');
    rig.take();
    expect(rig.tdp.clearDirtySlot(rig.host.slotList[0]!)).toBe(true);
    expect(rig.take()).toEqual([
      'chg l1 6 620000000000b77 620000000000b75',
      'chg l1 5 600000000000b77 600000000000977',
    ]);
    expect(rig.tdp.clearDirtySlot(rig.host.slotList[0]!)).toBe(false);
  });

  test('dirty logging ends: 6.1 zaps tables that a large page could replace', () => {
    const rig = new TdpRig();
    const root = mapped(rig, 0x4001, 0x4200);
    rig.host.level = 2;
    const slot = plainSlot(0, 0x4000, 0x300);
    rig.tdp.zapCollapsible(slot);
    expect(rig.take()).toEqual(['chg l2 4000 827 5a0', ...removal(1, 0x4000, '5a0', { 1: 'e67' })]);
    expect(rig.spte(root, 0x4001)).toBe('l2 0');
    expect(rig.spte(root, 0x4200)).toBe('l1 e67');
    expect(rig.flushes).toBe(1);
    rig.fault(root, 0x4001, 'w');
    expect(rig.spte(root, 0x4001)).toBe('l2 ee7');
  });

  test('7.3 puts the large page there at once', () => {
    const rig = new TdpRig({ profile: '7.3' });
    const root = mapped(rig, 0x4001);
    rig.host.level = 2;
    rig.tdp.zapCollapsible(plainSlot(0, 0x4000, 0x200));
    const [empty, frozen] = ['8000000000000000', '80000000000001a0'];
    expect(rig.take()).toEqual(['chg l2 4000 827 ee7', ...removal(1, 0x4000, frozen, { 1: 'e67' }, empty)]);
    rig.tdp.lastSpte(root, 0x4001);
    const sptep = rig.tdp.sp.sptep(rig.tdp.index);
    expect(frameOf(rig.pages.lo(sptep), rig.pages.hi(sptep))).toBe(0x8_4000);
  });
});
