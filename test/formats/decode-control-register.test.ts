import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { decodeCr0, decodeCr3, decodeCr4, decodeEfer, decodePkru } from '../../src/formats/decode/control-register.ts';

describe('control registers (SDM vol. 3A 2.5)', () => {
  test('CR0 of a 64-bit kernel', () => {
    expect(decodeCr0(fromBigInt(0x8005_0033n)).short).toBe('PE MP ET NE WP AM PG');
  });

  test('CR0 after reset, and a reserved bit', () => {
    expect(decodeCr0(fromBigInt(0x6000_0010n)).short).toBe('ET NW CD');
    expect(decodeCr0(fromBigInt(0x40n)).short).toBe('RSVD(15:6)');
  });

  test('CR4 with what paging depends on', () => {
    expect(decodeCr4(fromBigInt(0x10b0n)).short).toBe('PSE PAE PGE LA57');
    expect(decodeCr4(fromBigInt(0x172_0020n)).short).toBe('PAE PCIDE SMEP SMAP PKE PKS');
    expect(decodeCr4(fromBigInt(0x88_0000_0n)).short).toBe('CET LASS');
  });

  test('EFER', () => {
    expect(decodeEfer(fromBigInt(0xd01n)).short).toBe('SCE LME LMA NXE');
    expect(decodeEfer(fromBigInt(0x1000n)).short).toBe('SVME');
  });
});

describe('CR3 (SDM vol. 3A tables 4-7, 4-12 and 4-13)', () => {
  test('bits 11:0 are the PCID with CR4.PCIDE, else cache bits', () => {
    expect(decodeCr3(fromBigInt(0x20_0018n)).short).toBe('gfn 0x200 PWT PCD');
    expect(decodeCr3(fromBigInt(0x20_0018n), { pcide: true }).short).toBe('gfn 0x200 pcid 0x18');
  });

  test('bit 63 of the operand keeps translations', () => {
    expect(decodeCr3(fromBigInt((1n << 63n) | 0x20_0001n), { pcide: true }).short).toBe('gfn 0x200 pcid 0x1 no-flush');
  });

  test('PAE paging has 32-byte aligned tables', () => {
    expect(decodeCr3(fromBigInt(0x20_0020n), { pae: true }).short).toBe('PDPT 0x200020');
  });
});

describe('PKRU (SDM vol. 3A 4.6.2)', () => {
  test('each key with what it denies', () => {
    expect(decodePkru(fromBigInt(0x0n)).short).toBe('-');
    expect(decodePkru(fromBigInt(0b10_00_01_00n)).short).toBe('key 1 no access, key 3 no write');
    expect(decodePkru(fromBigInt(0xc000_0000n)).short).toBe('key 15 no access');
  });
});
