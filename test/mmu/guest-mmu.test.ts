/**
 * guest_mmu shadows L1's NPT and EPT: SPTEs as recordings of nested guests have them, tables, write protection by the
 * TDP MMU, unsync and sync, MMIO (facts/kvm-6.1.md §2, §6; facts/kvm-mmu.md §6.4, §6.11, §6.12).
 */

import { describe, expect, test } from 'vitest';
import type { KvmConfig } from '../../src/formats/kvm-config.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { softwareWalk } from '../../src/paging/software-walk.ts';
import { EPT_ALL, EPT_PS, EPT_TABLE, ER, EW, EX, EXU, eptGuest, GuestRig, leaf, nptGuest } from './guest-rig.ts';
import { A, ALL, addressOf, D, P, PS, ShadowRig, TABLE, U } from './shadow-rig.ts';

const MIB_2 = addressOf(1, 2);
const GIB = addressOf(1, 3);
// Error codes.
const READ = 4;
const WRITE = 6;
const WRITE_PRESENT = 7;
const FETCH = 16;

/** SPTEs that a fault on an EPT entry with these rights makes, its own and that of its neighbour, which is alike. */
function eptSptes(config: Partial<KvmConfig>, rights: number, entry: { ad?: boolean; mbec?: boolean }): string[] {
  const rig = new GuestRig({ stage: 'ept', config });
  rig.fourLevelEpt(EPT_TABLE | EXU);
  rig.put(4, 0, ShadowRig.entry(0x100, leaf(rights)));
  rig.put(4, 1, ShadowRig.entry(0x101, leaf(rights)));
  rig.enterL2(1, entry);
  // 6.1 takes a read for a user's.
  const read = config.profile === '7.3' ? 0 : READ;
  expect(rig.fault(0, (rights & ER) !== 0 ? read : FETCH)).toBe('FIXED');
  expect(rig.broken()).toEqual([]);
  return rig
    .take()
    .filter((text) => text.startsWith('set'))
    .map((text) => text.split(' ').at(-1)!);
}

describe('SPTEs for L1’s EPT', () => {
  // As nest_ept has them.
  test.each([
    ['rwx', ER | EW | EX, ['600000000000b77', '600000000000a77']],
    ['r-x', ER | EX, ['200000000000975', '200000000000875']],
    ['r--', ER, ['200000000000971', '200000000000871']],
    ['--x', EX, ['200000000000974', '200000000000874']],
    ['rw-', ER | EW, ['600000000000b73', '600000000000a73']],
  ])('6.1, EPTP with A/D: %s', (_, rights, expected) => {
    expect(eptSptes({}, rights, { ad: true })).toEqual(expected);
  });

  // As nest_ept and nest_ept_noad have them: those nobody used yet have their rights put aside.
  test.each([
    ['rwx', ER | EW | EX, ['610000000000877', '750000000000870']],
    ['r-x', ER | EX, ['210000000000875', '350000000000870']],
    ['r--', ER, ['210000000000871', '250000000000870']],
    ['--x', EX, ['210000000000874', '310000000000870']],
    ['rw-', ER | EW, ['610000000000873', '650000000000870']],
  ])('6.1, EPTP without A/D: %s', (_, rights, expected) => {
    expect(eptSptes({}, rights, { ad: false })).toEqual(expected);
    expect(eptSptes({ eptAd: false }, rights, { ad: false })).toEqual(expected);
  });

  test('6.1, PML: L2’s are to be known by write protection, L1’s by the log', () => {
    expect(eptSptes({ pml: true }, ER | EW | EX, {})).toEqual(['620000000000b77', '620000000000a77']);
    const rig = eptGuest({ config: { pml: true } });
    expect([rig.tdpSpte(1), rig.broken()]).toEqual(['200000000000b75', []]);
  });

  // R is its own right, XU another (facts/kvm-mmu.md §3.1); bit 63 suppresses #VE.
  test.each([
    ['rwx', ER | EW | EX, ['80a0000000000b77', '80a0000000000a77']],
    ['--x', EX, ['8020000000000974', '8020000000000874']],
    ['r-- and user execute', ER | EXU, ['8020000000000d71', '8020000000000c71']],
    ['r-x and user execute', ER | EX | EXU, ['8020000000000d75', '8020000000000c75']],
  ])('7.3, EPTP with A/D, MBEC: %s', (_, rights, expected) => {
    expect(eptSptes({ profile: '7.3' }, rights, { mbec: true })).toEqual(expected);
  });

  test('7.3, EPTP without A/D, and with PML', () => {
    expect(eptSptes({ profile: '7.3' }, ER | EX, { ad: false })).toEqual(['9020000000000975', '9070000000000870']);
    expect(eptSptes({ profile: '7.3', pml: true }, ER, {})).toEqual(['a020000000000971', 'a020000000000871']);
  });

  test('rights of all levels count, and a clean page is not writable', () => {
    const rig = new GuestRig({ stage: 'ept' });
    rig.fourLevelEpt();
    rig.put(3, 0, ShadowRig.entry(4, ER | EX | (EPT_TABLE & ~7)));
    rig.put(4, 0, ShadowRig.entry(0x100, EPT_ALL));
    rig.put(3, 1, ShadowRig.entry(5, EPT_TABLE));
    rig.put(5, 0, ShadowRig.entry(0x100, EPT_ALL & ~0x200));
    rig.enterL2();
    rig.fault(0, READ);
    rig.fault(MIB_2, READ);
    expect([rig.spte(rig.page(4, 1), 0), rig.spte(rig.page(5, 1), 0)]).toEqual(['200000000000975', '200000000000975']);
    rig.fault(MIB_2, 2);
    expect(rig.spte(rig.page(5, 1), 0)).toBe('600000000000b77');
    expect(rig.broken()).toEqual([]);
  });
});

describe('SPTEs for L1’s NPT', () => {
  test.each([
    ['a user’s, writable', ALL, 'e67', WRITE],
    ['read-only', P | U | A | D, 'a25', READ],
  ])('%s', (_, flags, expected, code) => {
    const rig = nptGuest();
    rig.put(4, 0, ShadowRig.entry(0x100, flags));
    rig.fault(0, code);
    expect([rig.spte(rig.page(4, 1), 0), rig.broken()]).toEqual([expected, []]);
  });

  test('NX', () => {
    const rig = nptGuest();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL), true);
    rig.fault(0, WRITE);
    expect([rig.spte(rig.page(4, 1), 0), rig.broken()]).toEqual(['8000000000000e67', []]);
  });

  test('7.3, GMET: supervisors may execute what is no user’s', () => {
    const rig = new GuestRig({ stage: 'npt', config: { profile: '7.3' } });
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL & ~U));
    rig.enterL2(1, { gmet: true });
    expect(rig.fault(0, FETCH)).toBe('FIXED');
    expect([rig.spte(rig.page(4, 1), 0), rig.broken()]).toEqual(['e63', []]);
  });
});

describe('tables', () => {
  test('each is write-protected by the TDP MMU before it is there; one level passes through (recording c_nest_np1)', () => {
    const rig = nptGuest();
    // Nobody can write to the root's own frame unnoticed as soon as the level below it has it.
    expect(rig.take()).toEqual(['get l5 1']);
    expect(rig.fault(0, WRITE)).toBe('FIXED');
    expect(rig.take()).toEqual([
      ...['chg l1 1 e67 a65', 'get l4 1', 'chg l1 2 e67 a65', 'get l3 2', 'chg l1 3 e67 a65', 'get l2 3'],
      ...['chg l1 4 e67 a65', 'get l1 4', 'req l1 100', 'set l1 100 e67'],
    ]);
    expect(rig.broken()).toEqual([]);
  });

  test('EPT has no level to pass through (recording nest_ept)', () => {
    const rig = eptGuest();
    expect(rig.take()).toEqual(['chg l1 1 600000000000b77 200000000000b75', 'get l4 1']);
    rig.fault(0, 2);
    expect(rig.take().filter((text) => text.startsWith('get'))).toEqual(['get l3 2', 'get l2 3', 'get l1 4']);
  });

  test('EPT12 of five levels over KVM’s four', () => {
    const rig = new GuestRig({ stage: 'ept' });
    rig.put(6, 0, ShadowRig.entry(1, EPT_TABLE));
    rig.fourLevelEpt();
    rig.put(4, 0, ShadowRig.entry(0x100, EPT_ALL));
    rig.enterL2(6, { levels: 5 });
    rig.fault(0, 2);
    expect(rig.take().slice(0, 2)).toEqual(['get l5 6', 'get l4 1']);
    expect(rig.broken()).toEqual([]);
  });

  test('PAE: a table for each PDPTE that is present, below roots that are no tables', () => {
    const rig = new GuestRig({ stage: 'npt', mode: 'pae' });
    rig.put(1, 0, ShadowRig.entry(2, P));
    rig.put(1, 2, ShadowRig.entry(3, P));
    rig.put(3, 0, ShadowRig.entry(4, TABLE));
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.enterL2();
    expect(rig.take()).toEqual(['get l2 2', 'get l2 3']);
    expect(rig.mmu.root!.page).toBeNull();
    expect(rig.fault(2 * GIB, WRITE)).toBe('FIXED');
    expect(rig.take()).toEqual(['get l1 4', 'req l1 100', 'set l1 100 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('32-bit: four quarters of the page directory, two halves of a page table', () => {
    const rig = new GuestRig({ stage: 'npt', mode: '32bit' });
    rig.put(1, 0, ShadowRig.entry(2, TABLE));
    rig.put(2, 0x200, ShadowRig.entry(0x101, ALL));
    rig.put(1, 0x100, ShadowRig.entry(0x400, ALL | PS));
    rig.enterL2();
    expect(rig.take()).toEqual(['get l2 1', 'get l2 1 q1', 'get l2 1 q2', 'get l2 1 q3']);
    rig.fault(0x20_0000, WRITE);
    expect(rig.take()).toEqual(['get l1 2 q1', 'req l1 101', 'set l1 101 e67']);
    rig.fault(GIB, WRITE);
    expect(rig.take().slice(0, 3)).toEqual(['req l1 400', 'get l1 400 direct', 'set l1 400 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('what nothing leads to any more goes, with all below; an emulated write leaves it', () => {
    const rig = nptGuest();
    rig.fault(0, WRITE);
    rig.put(3, 0, ShadowRig.entry(5, TABLE));
    rig.put(5, 0, ShadowRig.entry(0x101, ALL));
    rig.take();
    rig.fault(0, WRITE);
    expect(rig.take()).toEqual(['get l1 5', 'zap l1 4', 'req l1 101', 'set l1 101 e67']);
    rig.pages.unprotect(2);
    expect(rig.take()).toEqual(['zap l3 2', 'zap l2 3', 'zap l1 5']);
    rig.fault(0, WRITE);
    rig.emulatedWrite(2, 0, 8);
    expect(rig.page(3, 2).parents).toEqual([]);
    expect(rig.broken()).toEqual([]);
  });

  test('L1’s own shadow tables stay when nothing leads to them', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, WRITE);
    rig.take();
    rig.pages.unprotect(2);
    expect(rig.take()).toEqual(['zap l3 2']);
    expect(rig.page(3, 2).parents).toEqual([]);
  });

  test('a table whose child goes with ten below counts two when room is made', () => {
    const rig = nptGuest();
    for (let i = 0; i < 10; i++) {
      rig.put(3, i, ShadowRig.entry(0x10 + i, TABLE));
      rig.put(0x10 + i, 0, ShadowRig.entry(0x100 + i, ALL));
      rig.fault(i * MIB_2, WRITE);
    }
    const zapped: never[] = [];
    expect(rig.pages.prepareZap(rig.page(2, 3), zapped)).toBe(2);
    expect(zapped).toHaveLength(12);
    rig.pages.commitZap(zapped);
    expect(rig.broken()).toEqual([]);
  });
});

describe('large pages', () => {
  test('as large as L1’s and the host’s; smaller ones are split off direct tables', () => {
    const rig = nptGuest({ hostLevel: 2 });
    rig.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
    rig.put(3, 2, ShadowRig.entry(0x400, P | U | A | PS));
    rig.fault(MIB_2, WRITE);
    rig.fault(2 * MIB_2, READ);
    const l2 = rig.page(3, 2);
    expect([rig.spte(l2, 1), rig.spte(l2, 2)]).toEqual(['ee7', 'aa5']);
    const small = nptGuest();
    small.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
    small.take();
    small.fault(MIB_2, WRITE);
    expect(small.take().slice(-10, -7)).toEqual(['req l1 200', 'get l1 200 direct', 'set l1 200 e67']);
    expect([rig.broken(), small.broken()]).toEqual([[], []]);
  });

  test('EPT’s', () => {
    const rig = eptGuest({ hostLevel: 2 });
    rig.put(3, 1, ShadowRig.entry(0x200, EPT_ALL | EPT_PS));
    rig.fault(MIB_2, 2);
    expect([rig.spte(rig.page(3, 2), 1), rig.broken()]).toEqual(['600000000000bf7', []]);
  });

  test('but small ones where the page holds one of the tables that map it', () => {
    for (const profile of ['6.1', '7.3'] as const) {
      const rig = nptGuest({ hostLevel: 2, config: { profile } });
      rig.put(3, 1, ShadowRig.entry(0, ALL | PS));
      rig.take();
      rig.fault(MIB_2 + 0x10_0000, WRITE);
      expect(rig.take().filter((text) => text.startsWith('req'))).toEqual(['req l1 100']);
      expect(rig.broken()).toEqual([]);
    }
  });

  test('the TDP MMU’s large page over a table of L1’s is read-only at once, and small when L1 writes', () => {
    const rig = nptGuest({ hostLevel: 2 });
    rig.fault(0, WRITE);
    expect(rig.tdpSpte(4)).toBe('aa5');
    rig.exitL2();
    rig.take();
    rig.fault(0x4000, WRITE_PRESENT);
    expect(rig.take().slice(-3)).toEqual(['unsync l1 4', 'chg l1 4 0 e67', 'set l1 4 e67']);
    expect(rig.broken()).toEqual([]);
  });
});

describe('L1 edits its tables', () => {
  test('of level 1: they become unsync, and are synchronised when L2 is entered', () => {
    const rig = nptGuest();
    rig.fault(0, WRITE);
    rig.exitL2();
    rig.take();
    expect(rig.fault(0x4000, WRITE_PRESENT)).toBe('FIXED');
    const changed = ['req l1 4', 'unsync l1 4', 'chg l1 4 a65 e67', 'set l1 4 e67'];
    expect(rig.take()).toEqual(['fast 4000 a65 a65 no', ...changed]);
    rig.put(4, 0, ShadowRig.entry(0x100, P | U | A | D));
    expect(rig.broken()).toEqual([]);
    rig.enterL2();
    expect(rig.take()).toEqual(['chg l1 4 e67 a65', 'sync l1 4 unsync']);
    expect([rig.spte(rig.page(4, 1), 0), rig.broken()]).toEqual(['a05', []]);
  });

  test('of a level above: emulated, without a look at the SPTE', () => {
    const rig = nptGuest();
    rig.fault(0, WRITE);
    rig.exitL2();
    rig.take();
    expect([rig.fault(0x3000, WRITE_PRESENT), rig.take()]).toEqual(['EMULATE', []]);
  });

  test('prefetching maps an unprotected table of L2’s reach read-only', () => {
    const rig = nptGuest();
    rig.fault(0, WRITE);
    rig.put(4, 8, ShadowRig.entry(0x108, ALL));
    rig.put(4, 9, ShadowRig.entry(4, ALL));
    rig.put(4, 10, ShadowRig.entry(3, ALL));
    rig.take();
    rig.fault(0x8000, WRITE);
    expect(rig.take().slice(1)).toEqual(['set l1 108 e67', 'set l1 4 a05', 'set l1 3 a05']);
    expect(rig.broken()).toEqual([]);
  });

  test('a synchronised entry never becomes writable where a table of its frame is in step', () => {
    const rig = nptGuest();
    rig.put(3, 1, ShadowRig.entry(5, TABLE));
    rig.put(5, 0, ShadowRig.entry(4, P | U | A));
    rig.put(5, 1, ShadowRig.entry(5, ALL));
    rig.fault(0, WRITE);
    rig.fault(MIB_2, READ);
    rig.fault(MIB_2 + 0x1000, WRITE);
    expect(rig.page(5, 1).unsync).toBe(true);
    rig.put(5, 0, ShadowRig.entry(4, ALL));
    rig.mmu.syncRoots();
    expect(rig.spte(rig.page(5, 1), 0)).toBe('a05');
    expect(rig.broken()).toEqual([]);
  });

  test.each(['6.1', '7.3'] as const)('an EPT entry that loses all rights loses its SPTE (%s)', (profile) => {
    const rig = executeOnlyThenNothing(profile, []);
    expect([rig.spte(rig.page(4, 1), 0), rig.broken()]).toEqual([profile === '6.1' ? '0' : '8000000000000000', []]);
    const spoilt = executeOnlyThenNothing(profile, [Mutant.KEEPS_EMPTY_SPTE]);
    expect(spoilt.spte(spoilt.page(4, 1), 0)).toBe(profile === '6.1' ? '200000000000870' : '8020000000000970');
    // What 6.1 prefetches may be like that, too.
    expect(spoilt.broken().some((sentence) => sentence.includes('has no rights'))).toBe(profile === '7.3');
  });

  /** Below tables that only let execute, an entry that can be executed comes to be one that can only be read. */
  function executeOnlyThenNothing(profile: '6.1' | '7.3', mutants: number[]): GuestRig {
    const rig = new GuestRig({ stage: 'ept', config: { profile }, mutants });
    rig.fourLevelEpt();
    rig.put(3, 0, ShadowRig.entry(4, EX | 0x100));
    rig.put(4, 0, ShadowRig.entry(0x100, leaf(EX)));
    rig.put(3, 1, ShadowRig.entry(5, EPT_TABLE));
    rig.put(5, 0, ShadowRig.entry(4, EPT_ALL));
    rig.enterL2();
    rig.fault(0, FETCH);
    rig.fault(MIB_2, 2);
    expect(rig.page(4, 1).unsync).toBe(true);
    rig.put(4, 0, ShadowRig.entry(0x100, leaf(ER)));
    rig.mmu.syncRoots();
    return rig;
  }
});

describe('what L1 has no memory for', () => {
  // c_nest_np1 and nest_ept: `mark_mmio_spte … gfn e0000 access 5`, and `access 6`.
  test('NPT: an MMIO SPTE with the rights of L1’s entry', () => {
    const rig = nptGuest();
    rig.put(4, 0, ShadowRig.entry(0xe_0000, P | U | A));
    rig.put(4, 8, ShadowRig.entry(0xe_0000, ALL));
    rig.take();
    expect([rig.fault(0, READ), rig.take().at(-1)]).toEqual(['EMULATE', 'mmio e0000 access 5 gen 2']);
    expect([rig.fault(0x8000, WRITE), rig.take().at(-1)]).toEqual(['EMULATE', 'mmio e0000 access 7 gen 2']);
    expect(rig.broken()).toEqual([]);
  });

  test('EPT: one that says nothing of rights', () => {
    const rig = eptGuest();
    rig.put(4, 0, ShadowRig.entry(0xe_0000, leaf(ER)));
    rig.take();
    expect([rig.fault(0, READ), rig.take().at(-1)]).toEqual(['EMULATE', 'mmio e0000 access 6 gen 2']);
    expect(rig.spte(rig.page(4, 1), 0)).toBe('16');
    expect(rig.broken()).toEqual([]);
  });

  test('in a large page of L1’s: 4 KiB of it', () => {
    const rig = nptGuest({ hostLevel: 2 });
    rig.put(3, 1, ShadowRig.entry(0xe_0000, ALL | PS));
    rig.take();
    expect(rig.fault(MIB_2 + 0x5000, WRITE)).toBe('EMULATE');
    expect(rig.take().slice(-3)).toEqual(['req l1 e0005', 'get l1 e0000 direct', 'mmio e0005 access 7 gen 2']);
    expect(rig.broken()).toEqual([]);
  });

  test('a sync follows L1’s entry: refreshed, or gone with another frame', () => {
    const rig = nptGuest();
    rig.put(4, 0, ShadowRig.entry(0xe_0000, ALL));
    rig.put(4, 1, ShadowRig.entry(0xe_0001, ALL));
    rig.put(3, 1, ShadowRig.entry(5, TABLE));
    rig.put(5, 0, ShadowRig.entry(4, ALL));
    rig.fault(0, WRITE);
    rig.fault(0x1000, WRITE);
    rig.fault(MIB_2, WRITE);
    rig.put(4, 0, ShadowRig.entry(0xe_0000, P | U | A));
    rig.put(4, 1, ShadowRig.entry(0xe_0002, ALL));
    expect(rig.broken()).toEqual([]);
    rig.take();
    rig.mmu.syncRoots();
    expect(rig.take()).toEqual(['sync l1 4 unsync', 'mmio e0000 access 5 gen 2']);
    expect(rig.spte(rig.page(4, 1), 1)).toBe('0');
    expect(rig.broken()).toEqual([]);
  });
});

describe('mutants', () => {
  test.each([
    ['with MBEC', true, [], 'translated'],
    ['with MBEC', true, [Mutant.XU_PRESENCE], 'not present'],
    ['without', false, [], 'not present'],
    ['without', false, [Mutant.XU_PRESENCE], 'no right'],
  ])('an entry with bit 10 alone, %s, mutants %#: %s', (_, mbec, mutants, expected) => {
    const rig = new GuestRig({ stage: 'ept', config: { profile: '7.3' }, mutants });
    rig.fourLevelEpt(EPT_TABLE | EXU);
    rig.put(4, 0, ShadowRig.entry(0x100, leaf(EXU)));
    rig.enterL2(1, { mbec });
    const { tdpWalk } = rig.vcpu;
    const found = softwareWalk(tdpWalk, 0, 0, FETCH | READ);
    const failed = (tdpWalk.fault.errorCode & 1) === 0 ? 'not present' : 'no right';
    expect(found ? 'translated' : failed).toBe(expected);
  });

  test('what may be executed may be read (row 23)', () => {
    const rig = eptGuest({ mutants: [Mutant.EPT_READ_IMPLIED] });
    rig.put(4, 0, ShadowRig.entry(0x100, leaf(EX)));
    expect(rig.fault(0, READ)).toBe('FIXED');
    expect(rig.spte(rig.page(4, 1), 0)).toBe('200000000000975');
    expect(rig.broken().some((sentence) => sentence.includes("gives more than the guest's entry"))).toBe(true);
  });

  test('a fault that the SPTE would let through builds it anew (row 48)', () => {
    const late = (mutants: number[]): string[] => {
      const rig = nptGuest({ config: { profile: '7.3' }, mutants });
      rig.exitL2();
      rig.fault(0x5000, WRITE);
      rig.fault(0x5000, READ);
      return rig.take().filter((text) => !text.startsWith('get'));
    };
    const first = ['req l1 5', 'chg l1 5 8000000000000000 e67', 'set l1 5 e67'];
    expect(late([])).toEqual([...first, 'req l1 5']);
    expect(late([Mutant.TDP_FAULT_REBUILDS])).toEqual([...first, 'req l1 5', 'set l1 5 e67']);
  });
});
