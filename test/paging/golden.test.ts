/**
 * The tables of facts/kvm-mmu.md §3.1 (permission bitmaps), §3.2 (protection keys) and §4 (reserved bits), written out
 * by hand: nothing here is computed from the rules under test.
 */

import { describe, expect, test } from 'vitest';
import { fromBigInt, toBigInt } from '../../src/bits/word64.ts';
import { type PermissionRules, permissionBitmap, protectionKeyMask } from '../../src/paging/permissions.ts';
import {
  badCombinationTable,
  badEptCombinations,
  type ReservedMasks,
  reserved32,
  reservedEpt,
  reservedIndex,
  reservedLongMode,
  reservedPae,
} from '../../src/paging/reserved-bits.ts';

function hexWords(words: ArrayLike<number>): string {
  return Array.from(words, (word) => word.toString(16).padStart(4, '0')).join(' ');
}

describe('permission bitmaps', () => {
  const none: PermissionRules = { tdp: false, ept: false, smep: false, smap: false, wp: false, nx: false };
  const npt: PermissionRules = { ...none, tdp: true, wp: true, nx: true };
  const ept: PermissionRules = { ...none, tdp: true, ept: true, wp: true, nx: true };

  // The element is the access: bit 0 W, 1 U, 2 SMAP does not apply, 3 F. The bit is the entry's rights: R 1, W 2, U 4,
  // X 8. Set means fault.
  test.each<[string, PermissionRules, string]>([
    [
      'paging, WP=1 NX=1',
      { ...none, wp: true, nx: true },
      '5555 3333 5f5f 3f3f 5555 3333 5f5f 3f3f 00ff 33ff 0fff 3fff 00ff 33ff 0fff 3fff',
    ],
    [
      'paging, WP=1 NX=1 SMEP=1 SMAP=1',
      { ...none, wp: true, nx: true, smep: true, smap: true },
      'f5f5 f3f3 5f5f 3f3f 5555 3333 5f5f 3f3f f0ff f3ff 0fff 3fff f0ff f3ff 0fff 3fff',
    ],
    [
      'paging, WP=1 NX=1 SMEP=1',
      { ...none, wp: true, nx: true, smep: true },
      '5555 3333 5f5f 3f3f 5555 3333 5f5f 3f3f f0ff f3ff 0fff 3fff f0ff f3ff 0fff 3fff',
    ],
    [
      'paging, NX=1',
      { ...none, nx: true },
      '5555 0000 5f5f 3f3f 5555 0000 5f5f 3f3f 00ff 00ff 0fff 3fff 00ff 00ff 0fff 3fff',
    ],
    ['paging, nothing', none, '5555 0000 5f5f 3f3f 5555 0000 5f5f 3f3f 0000 0000 0f0f 3f3f 0000 0000 0f0f 3f3f'],
    [
      'paging, NX=1 SMEP=1 SMAP=1',
      { ...none, nx: true, smep: true, smap: true },
      'f5f5 f0f0 5f5f 3f3f 5555 0000 5f5f 3f3f f0ff f0ff 0fff 3fff f0ff f0ff 0fff 3fff',
    ],
    ['NPT, NX=1', npt, '5555 3333 5f5f 3f3f 5555 3333 5f5f 3f3f 00ff 33ff 0fff 3fff 00ff 33ff 0fff 3fff'],
    [
      'NPT, NX=1 GMET=1',
      { ...npt, smep: true },
      '5555 3333 5555 3333 5555 3333 5555 3333 f0ff f3ff 00ff 33ff f0ff f3ff 00ff 33ff',
    ],
    ['EPT', ept, '5555 3333 5555 3333 5555 3333 5555 3333 00ff 33ff 00ff 33ff 00ff 33ff 00ff 33ff'],
    [
      'EPT, MBEC=1',
      { ...ept, smep: true },
      '5555 3333 5555 3333 5555 3333 5555 3333 00ff 33ff 0f0f 3f3f 00ff 33ff 0f0f 3f3f',
    ],
  ])('%s', (_, rules, golden) => {
    expect(hexWords(permissionBitmap(rules))).toBe(golden);
  });

  test('WP, SMAP and NX are no input of EPT', () => {
    const golden = hexWords(permissionBitmap(ept));
    expect(hexWords(permissionBitmap({ ...ept, wp: false, nx: false, smap: true }))).toBe(golden);
  });
});

describe('protection-key masks', () => {
  test.each([
    ['user pages, WP=1', true, true, 0xdd00],
    ['user pages, WP=0: a supervisor may write in spite of WD', false, true, 0xd500],
    ['supervisor pages, WP=1', true, false, 0xdd],
    ['supervisor pages, WP=0: nobody heeds WD', false, false, 0x55],
  ])('%s', (_, wp, userPages, golden) => {
    expect(protectionKeyMask(wp, userPages).toString(16)).toBe(golden.toString(16));
  });
});

/** The mask for entries of `level` with bit 7 clear or set, as 16 digits. */
function mask(masks: ReservedMasks, level: number, bit7: 0 | 1): string {
  const index = reservedIndex(level, bit7 << 7);
  return toBigInt(masks.lo[index]!, masks.hi[index]!).toString(16).padStart(16, '0');
}

function isReserved(masks: ReservedMasks, level: number, entry: bigint): boolean {
  const { lo, hi } = fromBigInt(entry);
  const index = reservedIndex(level, lo);
  return ((lo & masks.lo[index]!) | (hi & masks.hi[index]!)) !== 0;
}

describe('reserved bits of 4- and 5-level paging', () => {
  const intel = { page1g: true, amd: false };

  //   MAXPHYADDR, NX:  PTE, PDE, PDPTE;  2M leaf;  1G leaf;  PML4E Intel;  AMD
  test.each<[number, boolean, string, string, string, string, string]>([
    [36, true, '000ffff000000000', '000ffff0001fe000', '000ffff03fffe000', '000ffff000000080', '000ffff000000180'],
    [48, true, '000f000000000000', '000f0000001fe000', '000f00003fffe000', '000f000000000080', '000f000000000180'],
    [48, false, '800f000000000000', '800f0000001fe000', '800f00003fffe000', '800f000000000080', '800f000000000180'],
    [52, true, '0000000000000000', '00000000001fe000', '000000003fffe000', '0000000000000080', '0000000000000180'],
  ])('MAXPHYADDR %i, NX %s', (maxphyaddr, nx, table, leaf2m, leaf1g, top, topAmd) => {
    const masks = reservedLongMode({ ...intel, maxphyaddr, nx });
    expect(mask(masks, 1, 0)).toBe(table);
    expect(mask(masks, 1, 1)).toBe(table);
    expect(mask(masks, 2, 0)).toBe(table);
    expect(mask(masks, 3, 0)).toBe(table);
    expect(mask(masks, 2, 1)).toBe(leaf2m);
    expect(mask(masks, 3, 1)).toBe(leaf1g);
    const amd = reservedLongMode({ maxphyaddr, nx, page1g: true, amd: true });
    for (const level of [4, 5]) {
      for (const bit7 of [0, 1] as const) {
        expect(mask(masks, level, bit7)).toBe(top);
        expect(mask(amd, level, bit7)).toBe(topAmd);
      }
    }
    for (const level of [1, 2, 3]) {
      for (const bit7 of [0, 1] as const) expect(mask(amd, level, bit7)).toBe(mask(masks, level, bit7));
    }
  });

  test('without 1 GB pages bit 7 of a PDPTE is reserved, and of a PDE it is not', () => {
    const without = reservedLongMode({ maxphyaddr: 48, nx: true, page1g: false, amd: false });
    expect(isReserved(without, 3, 0x4000_0083n)).toBe(true);
    expect(isReserved(without, 3, 0x4000_0003n)).toBe(false);
    expect(isReserved(without, 2, 0x4000_0083n)).toBe(false);
    expect(isReserved(reservedLongMode({ ...intel, maxphyaddr: 48, nx: true }), 3, 0x4000_0083n)).toBe(false);
  });

  test('PAT of a large page, bit 12, is not reserved', () => {
    const masks = reservedLongMode({ ...intel, maxphyaddr: 48, nx: true });
    expect(isReserved(masks, 2, 0x1083n)).toBe(false);
    expect(isReserved(masks, 3, 0x1083n)).toBe(false);
    expect(isReserved(masks, 2, 0x2083n)).toBe(true);
  });
});

describe('reserved bits of PAE paging', () => {
  //   MAXPHYADDR, NX:  PDE and PTE;  2M leaf;  PDPTE
  test.each<[number, boolean, string, string, string]>([
    [36, true, '7ffffff000000000', '7ffffff0001fe000', 'fffffff0000001e6'],
    [48, true, '7fff000000000000', '7fff0000001fe000', 'ffff0000000001e6'],
    [48, false, 'ffff000000000000', 'ffff0000001fe000', 'ffff0000000001e6'],
    [52, true, '7ff0000000000000', '7ff00000001fe000', 'fff00000000001e6'],
  ])('MAXPHYADDR %i, NX %s', (maxphyaddr, nx, table, leaf2m, pdpte) => {
    const masks = reservedPae({ maxphyaddr, nx, page1g: true, amd: false });
    expect(mask(masks, 1, 0)).toBe(table);
    expect(mask(masks, 1, 1)).toBe(table);
    expect(mask(masks, 2, 0)).toBe(table);
    expect(mask(masks, 2, 1)).toBe(leaf2m);
    expect(mask(masks, 3, 0)).toBe(pdpte);
    expect(mask(masks, 3, 1)).toBe(pdpte);
  });
});

describe('reserved bits of 32-bit paging', () => {
  // Only a PDE that maps a page has any. M is min(40, MAXPHYADDR) with PSE-36; facts/kvm-mmu.md §4 gives what KVM's
  // software assumes, which is M = 36.
  test.each<[string, number, boolean, boolean, string]>([
    ['PSE-36, MAXPHYADDR 36: bits 21:17', 36, true, true, '00000000003e0000'],
    ['PSE-36, MAXPHYADDR 39: bits 21:20', 39, true, true, '0000000000300000'],
    ['PSE-36, MAXPHYADDR 40: bit 21', 40, true, true, '0000000000200000'],
    ['PSE-36, MAXPHYADDR 52: bit 21', 52, true, true, '0000000000200000'],
    ['no PSE-36: bits 21:13', 40, true, false, '00000000003fe000'],
    ['CR4.PSE clear: none, bit 7 is ignored', 40, false, true, '0000000000000000'],
  ])('%s', (_, maxphyaddr, pse, pse36, golden) => {
    const masks = reserved32(maxphyaddr, pse, pse36);
    expect(mask(masks, 2, 1)).toBe(golden);
    expect(mask(masks, 2, 0)).toBe('0000000000000000');
    expect(mask(masks, 1, 0)).toBe('0000000000000000');
    expect(mask(masks, 1, 1)).toBe('0000000000000000');
  });
});

describe('EPT', () => {
  test('reserved bits at MAXPHYADDR 48', () => {
    const masks = reservedEpt(48, true, true);
    for (const level of [4, 5]) {
      expect(mask(masks, level, 0)).toBe('000f0000000000f8');
      expect(mask(masks, level, 1)).toBe('000f0000000000f8');
    }
    expect(mask(masks, 3, 0)).toBe('000f000000000078');
    expect(mask(masks, 2, 0)).toBe('000f000000000078');
    expect(mask(masks, 3, 1)).toBe('000f00003ffff000');
    expect(mask(masks, 2, 1)).toBe('000f0000001ff000');
    expect(mask(masks, 1, 0)).toBe('000f000000000000');
    expect(mask(masks, 1, 1)).toBe('000f000000000000');
  });

  test('an entry that maps a page of a size that is not supported is reserved', () => {
    const without = reservedEpt(48, false, false);
    expect(isReserved(without, 3, 0x4000_0087n)).toBe(true);
    expect(isReserved(without, 2, 0x4000_0087n)).toBe(true);
    expect(isReserved(without, 1, 0x4000_0087n)).toBe(false);
    expect(isReserved(without, 3, 0x4000_0007n)).toBe(false);
    expect(isReserved(without, 2, 0x4000_0007n)).toBe(false);
  });

  test('suppress-#VE, bit 63, and bits 11:8 and 62:52 are not reserved', () => {
    const masks = reservedEpt(48, true, true);
    for (const level of [1, 2, 3, 4, 5]) expect(isReserved(masks, level, 0xfff0_0000_0000_0f07n)).toBe(false);
  });

  test('combinations of memory type and rights that are a misconfiguration', () => {
    const golden = (executeOnly: boolean): string => {
      const [lo, hi] = badEptCombinations(executeOnly);
      return toBigInt(lo, hi).toString(16);
    };
    expect(golden(true)).toBe('ff444444ffff4444');
    expect(golden(false)).toBe('ff545454ffff5454');
  });

  test('with mode-based execute control bit 10 counts as a right to execute, without it as nothing', () => {
    const bit10 = 64;
    const isBad = (index: number, executeOnly: boolean, mbec: boolean): boolean =>
      badCombinationTable(executeOnly, mbec)[index] === 1;
    // User execute alone: fine only where execute-only is.
    expect(isBad(bit10, false, true)).toBe(true);
    expect(isBad(bit10, true, true)).toBe(false);
    expect(isBad(bit10, false, false)).toBe(false);
    // Readable and user-executable; writable and user-executable but not readable.
    expect(isBad(bit10 | 1, false, true)).toBe(false);
    expect(isBad(bit10 | 2, true, true)).toBe(true);
    expect(isBad(bit10 | 2, true, false)).toBe(true);
  });
});
