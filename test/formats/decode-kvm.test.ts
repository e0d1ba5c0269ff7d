import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { accessText, decodeCpuRole, decodeExtendedRole, decodeRole } from '../../src/formats/decode/kvm-role.ts';
import { decodeSpte, type SpteContext, spteKind } from '../../src/formats/decode/kvm-spte.ts';

describe('role words (facts/kvm-mmu.md §2.1)', () => {
  // Built by hand from the table: level 4, direct, every right, NX, WP.
  test('the same role in the two layouts', () => {
    const old = 0x4n | (1n << 7n) | (7n << 8n) | (1n << 12n) | (1n << 13n);
    expect(decodeRole(fromBigInt(old), '6.1').short).toBe('l4 8-byte q0 direct wux nxe ad wp');
    const today = 0x4n | (1n << 7n) | (15n << 8n) | (1n << 13n) | (1n << 14n);
    expect(decodeRole(fromBigInt(today), '7.3').short).toBe('l4 8-byte q0 direct rwux nxe ad wp');
  });

  test('bit 11 is invalid in 6.1 and a right in 7.3', () => {
    expect(decodeRole(fromBigInt(0x801n), '6.1').short).toBe('l1 8-byte q0 --- invalid !nxe ad');
    expect(decodeRole(fromBigInt(0x801n), '7.3').short).toBe('l1 8-byte q0 ---x !nxe ad');
  });

  test('bit 14 is smep_andnot_wp in 6.1 and cr0_wp in 7.3', () => {
    expect(decodeRole(fromBigInt(0x4001n), '6.1').short).toContain('smep-andnot-wp');
    expect(decodeRole(fromBigInt(0x4001n), '7.3').short).toContain(' wp');
  });

  test('a quarter of a 32-bit guest table, in SMM', () => {
    const word = 0x2n | (1n << 4n) | (3n << 5n) | (1n << 16n) | (1n << 24n);
    expect(decodeRole(fromBigInt(word), '6.1').short).toBe('l2 4-byte q3 --- !nxe !ad smm');
  });

  test('bits that a kernel does not have are told as reserved', () => {
    expect(decodeRole(fromBigInt(1n << 20n), '6.1').short).toContain('RSVD(23:19)');
    expect(decodeRole(fromBigInt(1n << 20n), '7.3').short).toContain('smep');
  });
});

describe('access letters (facts/kvm-mmu.md §9.1)', () => {
  test('6.1: wux over EXEC=1, WRITE=2, USER=4', () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7].map((a) => accessText(a, '6.1'))).toEqual(
      '--- --x w-- w-x -u- -ux wu- wux'.split(' '),
    );
  });

  test('7.3: rwux over READ=1, WRITE=2, USER=4, EXEC=8', () => {
    expect([0, 1, 3, 7, 15].map((a) => accessText(a, '7.3'))).toEqual('---- r--- rw-- rwu- rwux'.split(' '));
  });
});

describe('extended and CPU roles (facts/kvm-mmu.md §2.2)', () => {
  test('bit 5 is SMEP in 6.1 and LA57 in 7.3', () => {
    expect(decodeExtendedRole(fromBigInt(0x21n), '6.1').short).toBe('valid cr4_smep');
    expect(decodeExtendedRole(fromBigInt(0x21n), '7.3').short).toBe('valid cr4_la57');
    expect(decodeExtendedRole(fromBigInt(0x80n), '7.3').short).toBe('has_pferr_fetch');
  });

  test('a CPU role is both, the extended role above', () => {
    const decoded = decodeCpuRole(fromBigInt((0x41n << 32n) | 0xf04n), '7.3');
    expect(decoded.short).toBe('l4 8-byte q0 rwux !nxe ad; valid efer_lma');
    expect(decoded.fields.find((f) => f.name === 'efer-lma')?.low).toBe(38);
  });
});

const amd61: SpteContext = { profile: '6.1', ept: false, level: 1 };
const intel61: SpteContext = { profile: '6.1', ept: true, level: 1 };
const amd73: SpteContext = { profile: '7.3', ept: false, level: 1 };
const intel73: SpteContext = { profile: '7.3', ept: true, level: 1 };

describe('SPTEs of 6.1 (facts/kvm-6.1.md §0 and §6)', () => {
  const cases: [string, bigint, SpteContext, string][] = [
    ['a writable user leaf', 0x29e_de67n, amd61, 'leaf rwxu A D host-w mmu-w pfn 0x29ed'],
    ['prefetched: not accessed', 0x29e_de47n, amd61, 'leaf rwxu D host-w mmu-w pfn 0x29ed'],
    ['write-protected for dirty logging', 0x29e_de65n, amd61, 'leaf r-xu A D host-w mmu-w pfn 0x29ed'],
    ['write-protected for shadowing', 0x29e_da65n, amd61, 'leaf r-xu A D host-w pfn 0x29ed'],
    ['host read-only', 0x29e_d825n, amd61, 'leaf r-xu A pfn 0x29ed'],
    ['a kernel page under shadow paging', 0x29e_de63n, amd61, 'leaf rwx- A D host-w mmu-w pfn 0x29ed'],
    ['no execute', (1n << 63n) | 0x29e_da05n, amd61, 'leaf r--u host-w pfn 0x29ed'],
    ['a 2M leaf', 0x260_0ee7n, { ...amd61, level: 2 }, 'leaf rwxu A D 2M host-w mmu-w pfn 0x2600'],
    ['a table', 0x1035_0827n, { ...amd61, level: 2 }, 'table rwxu A pfn 0x10350'],
    ['MMIO, generation 8', 0x80000e0000047n, amd61, 'MMIO gfn 0xe0000 wu generation 8'],
    ['MMIO, generation 0x12', 0x80000e0000097n, amd61, 'MMIO gfn 0xe0000 wu generation 18'],
    ['an EPT leaf', 0x0600_0000_028f_6b77n, intel61, 'leaf rwx WB IPAT A D host-w mmu-w pfn 0x28f6'],
    [
      'an EPT leaf without A/D, access-tracked',
      0x0750_0000_0296_c870n,
      intel61,
      'leaf --- WB IPAT host-w mmu-w ad-disabled saved-R saved-X pfn 0x296c',
    ],
    [
      'an EPT leaf without A/D',
      0x0610_0000_0296_f877n,
      intel61,
      'leaf rwx WB IPAT host-w mmu-w ad-disabled pfn 0x296f',
    ],
    ['an EPT table', 0x1035_0907n, { ...intel61, level: 3 }, 'table rwx A pfn 0x10350'],
    ['EPT MMIO', 0xe000_0046n, intel61, 'MMIO gfn 0xe0000 generation 8'],
    ['frozen', 0x5a0n, amd61, 'frozen (being removed)'],
    ['empty', 0x0n, amd61, 'empty'],
  ];
  test.each(cases)('%s', (_name, word, context, expected) => {
    expect(decodeSpte(fromBigInt(word), context).short).toBe(expected);
  });
});

describe('SPTEs of 7.3 (facts/kvm-mmu.md §6.7 and §6.11)', () => {
  const host = (1n << 53n) | (1n << 55n);
  const cases: [string, bigint, SpteContext, string][] = [
    ['a writable user leaf', 0x29e_de67n, amd73, 'leaf rwxu A D host-w mmu-w pfn 0x29ed'],
    ['an EPT leaf, bits 53 and 55', host | 0x28f_6b77n, intel73, 'leaf rwx- WB IPAT A D host-w mmu-w pfn 0x28f6'],
    ['an EPT leaf for user fetches', host | 0x28f_6f77n, intel73, 'leaf rwxu WB IPAT A D host-w mmu-w pfn 0x28f6'],
    ['A/D type in bits 61:60', (1n << 60n) | 0x29e_de67n, amd73, 'leaf rwxu A D host-w mmu-w ad-disabled pfn 0x29ed'],
    ['frozen', (1n << 63n) | 0x1a0n, amd73, 'frozen (being removed)'],
    ['the initial value', 1n << 63n, intel73, 'empty'],
    [
      'MMIO, generation 0x81',
      (1n << 52n) | (1n << 51n) | 0xe000_0000n | 0xfn,
      amd73,
      'MMIO gfn 0xe0000 wu generation 129',
    ],
  ];
  test.each(cases)('%s', (_name, word, context, expected) => {
    expect(decodeSpte(fromBigInt(word), context).short).toBe(expected);
  });

  test('the removed value of one kernel is not that of the other', () => {
    expect(spteKind(fromBigInt(0x5a0n), amd73)).toBe('not-present');
    expect(spteKind(fromBigInt((1n << 63n) | 0x1a0n), amd61)).toBe('not-present');
  });
});
