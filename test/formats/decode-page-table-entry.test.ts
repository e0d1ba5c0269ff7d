import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { decodePageTableEntry, type EntryContext } from '../../src/formats/decode/page-table-entry.ts';

function short(word: bigint, level: number, context: EntryContext = {}): string {
  return decodePageTableEntry(fromBigInt(word), level, context).short;
}

describe('4-level and 5-level entries (SDM vol. 3A tables 4-14 to 4-20)', () => {
  const cases: [string, number, bigint, string][] = [
    ['a PML4E that points at a PDPT', 4, 0x40d027n, 'P W U A gfn 0x40d'],
    ['a PML5E, supervisor, never accessed', 5, 0x1003n, 'P W gfn 0x1'],
    ['a PDPTE that points at a page directory', 3, 0x40e027n, 'P W U A gfn 0x40e'],
    ['a PDPTE that maps a 1-GByte page', 3, 0x4000_0000n | 0xe7n, 'P W U A D 1G gfn 0x40000'],
    ['a PDE that points at a page table', 2, 0x20_8067n, 'P W U A gfn 0x208'],
    ['a PDE that maps a 2-MByte page, global', 2, 0x60_0000n | 0x1e3n, 'P W A D G 2M gfn 0x600'],
    ['a PDE of a 2-MByte page with PAT in bit 12', 2, 0x60_1083n, 'P W 2M PAT gfn 0x600'],
    ['a PTE, user, dirty', 1, 0x20_9067n, 'P W U A D gfn 0x209'],
    ['a PTE with PAT in bit 7, PWT and PCD', 1, 0x20_909fn, 'P W U PWT PCD PAT gfn 0x209'],
    ['a PTE with XD and protection key 5', 1, (1n << 63n) | (5n << 59n) | 0x20_9005n, 'P U NX key 5 gfn 0x209'],
    ['a read-only supervisor PTE', 1, 0x1n, 'P gfn 0x0'],
  ];
  test.each(cases)('%s', (_name, level, word, expected) => {
    expect(short(word, level)).toBe(expected);
  });

  test('an entry with P clear is not present, whatever else it holds', () => {
    expect(short(0xffff_ffff_ffff_fffen, 1)).toBe('not present');
    expect(short(0n, 4)).toBe('not present');
  });

  test('bit 7 of a PML4E is reserved', () => {
    expect(short(0x40d0a7n, 4)).toBe('P W U A RSVD(7) gfn 0x40d');
  });

  test('bit 8 of a PML4E is reserved on AMD and ignored on Intel', () => {
    expect(short(0x40d127n, 4, { vendor: 'amd' })).toBe('P W U A RSVD(8:7) gfn 0x40d');
    expect(short(0x40d127n, 4, { vendor: 'intel' })).toBe('P W U A gfn 0x40d');
  });

  test('bits between a large page and its PAT bit are reserved', () => {
    expect(short(0x60_2083n, 2)).toBe('P W 2M RSVD(20:13) gfn 0x600');
    expect(short(0x4020_0083n, 3)).toBe('P W 1G RSVD(29:13) gfn 0x40000');
  });

  test('address bits at and above MAXPHYADDR are reserved', () => {
    const bit36 = 1n << 36n;
    expect(short(bit36 | 0x1003n, 1, { maxphyaddr: 36 })).toBe('P W RSVD(51:36) gfn 0x1');
    expect(short(bit36 | 0x1003n, 1, { maxphyaddr: 37 })).toBe('P W gfn 0x1000001');
  });
});

describe('PAE entries (SDM vol. 3A tables 4-8 to 4-11)', () => {
  const pae: EntryContext = { paging: 'pae', maxphyaddr: 36 };

  test('a PDPTE has neither W nor U, and reserves their bits', () => {
    expect(short(0x1001n, 3, pae)).toBe('P gfn 0x1');
    expect(short(0x1007n, 3, pae)).toBe('P RSVD(2:1) gfn 0x1');
    expect(short(0x1021n, 3, pae)).toBe('P RSVD(8:5) gfn 0x1');
    expect(short((1n << 63n) | 0x1001n, 3, pae)).toBe('P RSVD(63:36) gfn 0x1');
  });

  test('a PTE has XD, no protection key, and reserves all between XD and the address', () => {
    expect(short((1n << 63n) | 0x1007n, 1, pae)).toBe('P W U NX gfn 0x1');
    expect(short((1n << 59n) | 0x1007n, 1, pae)).toBe('P W U RSVD(62:36) gfn 0x1');
  });
});

describe('32-bit entries (SDM vol. 3A tables 4-4 to 4-6)', () => {
  const two: EntryContext = { paging: '32-bit' };

  test('a PDE points at a page table', () => {
    expect(short(0x40_5027n, 2, two)).toBe('P W U A gfn 0x405');
  });

  test('a PDE maps a 4-MByte page only with CR4.PSE', () => {
    expect(short(0x40_00e7n, 2, two)).toBe('P W U A D 4M gfn 0x400');
    expect(short(0x40_00e7n, 2, { ...two, pse: false })).toBe('P W U A gfn 0x400');
  });

  test('bits 20:13 of a 4-MByte page are address bits 39:32 (PSE-36), bit 21 is reserved', () => {
    expect(short(0x40_6083n, 2, two)).toBe('P W 4M gfn 0x300400');
    expect(short(0x60_0083n, 2, two)).toBe('P W 4M RSVD(21) gfn 0x400');
  });

  test('of these only as many as MAXPHYADDR has are address bits', () => {
    expect(short(0x42_0083n, 2, { ...two, maxphyaddr: 36 })).toBe('P W 4M RSVD(21:17) gfn 0x400');
    expect(short(0x42_0083n, 2, { ...two, maxphyaddr: 40 })).toBe('P W 4M gfn 0x1000400');
  });

  test('a PTE has PAT in bit 7', () => {
    expect(short(0x40_50e7n, 1, two)).toBe('P W U A D PAT gfn 0x405');
  });
});

test('the long form names each field with what its value means', () => {
  const decoded = decodePageTableEntry(fromBigInt(0x40d027n), 4);
  expect(decoded.title).toBe('PML4E');
  expect(decoded.fields.map((f) => [f.name, f.value])).toEqual([
    ['p', 1],
    ['w', 1],
    ['u', 1],
    ['pwt', 0],
    ['pcd', 0],
    ['a', 1],
    ['frame', 0x40d],
    ['xd', 0],
  ]);
  expect(decoded.fields.find((f) => f.name === 'frame')?.words).toBe('physical address 0x40d000');
});
