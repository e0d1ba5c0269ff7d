import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { decodeEptEntry, decodeEptp, type EptContext, eptMisconfiguration } from '../../src/formats/decode/ept.ts';

function short(word: bigint, level: number, context: EptContext = {}): string {
  return decodeEptEntry(fromBigInt(word), level, context).short;
}

function misconfiguration(word: bigint, level: number, context: EptContext = {}): string | undefined {
  return eptMisconfiguration(fromBigInt(word), level, context);
}

describe('EPT entries (SDM vol. 3C tables 28-1 to 28-6)', () => {
  const cases: [string, number, bigint, string][] = [
    ['a PML4E with every right', 4, 0x10_0007n, 'RWX gfn 0x100'],
    ['a PML4E, accessed', 4, 0x10_0107n, 'RWX A gfn 0x100'],
    ['a PTE, write-back', 1, 0x20_9037n, 'RWX WB gfn 0x209'],
    ['a PTE, accessed and dirty, guest PAT ignored', 1, 0x20_9377n, 'RWX A D WB IPAT gfn 0x209'],
    ['a read-only PTE, uncacheable', 1, 0x20_9001n, 'R-- UC gfn 0x209'],
    ['an execute-only PTE', 1, 0x20_9034n, '--X WB gfn 0x209'],
    ['a PDE that maps a 2-MByte page', 2, 0x60_00b7n, 'RWX 2M WB gfn 0x600'],
    ['a PDPTE that maps a 1-GByte page', 3, 0x4000_00b7n, 'RWX 1G WB gfn 0x40000'],
    ['a PDE that points at a page table', 2, 0x10_3007n, 'RWX gfn 0x103'],
    ['bit 7 of a PTE is ignored', 1, 0x20_90b7n, 'RWX WB gfn 0x209'],
    ['a PTE that suppresses #VE', 1, (1n << 63n) | 0x20_9037n, 'RWX WB SVE gfn 0x209'],
  ];
  test.each(cases)('%s', (_name, level, word, expected) => {
    expect(short(word, level)).toBe(expected);
  });

  test('an entry with bits 2:0 clear is not present', () => {
    expect(short(0x20_9ff8n, 1)).toBe('not present');
  });

  test('bit 10 makes an entry present only with mode-based execute control', () => {
    expect(short(0x20_9430n, 1, { mbec: true })).toBe('---U WB gfn 0x209');
    expect(short(0x20_9430n, 1, { mbec: false })).toBe('not present');
    expect(short(0x20_9430n, 1)).toBe('not present');
  });

  test('with mode-based execute control the rights have a fourth place', () => {
    expect(short(0x20_9033n, 1, { mbec: true })).toBe('RW-- WB gfn 0x209');
    expect(short(0x20_9433n, 1, { mbec: true })).toBe('RW-U WB gfn 0x209');
  });

  test('without A/D flags bits 8 and 9 are ignored', () => {
    expect(short(0x20_9337n, 1, { accessedDirty: false })).toBe('RWX WB gfn 0x209');
  });
});

describe('EPT misconfigurations (SDM vol. 3C 28.3.3.1)', () => {
  test('write without read', () => {
    expect(misconfiguration(0x20_9032n, 1)).toBe('write without read');
    expect(misconfiguration(0x20_9036n, 1)).toBe('write without read');
    expect(short(0x20_9036n, 1)).toBe('-WX WB gfn 0x209 MISCONFIGURED (write without read)');
  });

  test('execute without read, only if execute-only is not supported', () => {
    expect(misconfiguration(0x20_9034n, 1, { executeOnly: false })).toBe('execute without read');
    expect(misconfiguration(0x20_9034n, 1, { executeOnly: true })).toBeUndefined();
    expect(misconfiguration(0x20_9430n, 1, { executeOnly: false, mbec: true })).toBe('execute without read');
  });

  test.each([2n, 3n, 7n])('memory type %d of a page is reserved', (type) => {
    expect(misconfiguration(0x20_9007n | (type << 3n), 1)).toBe('reserved memory type');
  });

  test.each([0n, 1n, 4n, 5n, 6n])('memory type %d of a page is allowed', (type) => {
    expect(misconfiguration(0x20_9007n | (type << 3n), 1)).toBeUndefined();
  });

  test('reserved bits: 7:3 of a PML4E, 6:3 of a table, below a large page, above MAXPHYADDR', () => {
    expect(misconfiguration(0x10_0087n, 4)).toBe('reserved bit set');
    expect(misconfiguration(0x10_000fn, 3)).toBe('reserved bit set');
    expect(misconfiguration(0x60_10b7n, 2)).toBe('reserved bit set');
    expect(misconfiguration((1n << 40n) | 0x20_9037n, 1, { maxphyaddr: 40 })).toBe('reserved bit set');
    expect(misconfiguration((1n << 39n) | 0x20_9037n, 1, { maxphyaddr: 40 })).toBeUndefined();
  });

  test('an entry that is not present is never misconfigured', () => {
    expect(misconfiguration(0x60_10b0n, 2)).toBeUndefined();
  });
});

describe('EPTP (SDM vol. 3C table 24-9)', () => {
  test('memory type, walk length, A/D, address', () => {
    expect(decodeEptp(fromBigInt(0x60_005en)).short).toBe('WB 4-level A/D gfn 0x600');
    expect(decodeEptp(fromBigInt(0x60_0020n)).short).toBe('UC 5-level gfn 0x600');
  });

  test('bits 11:8 are reserved', () => {
    expect(decodeEptp(fromBigInt(0x60_095en)).short).toBe('WB 4-level A/D RSVD(11:8) gfn 0x600');
  });
});
