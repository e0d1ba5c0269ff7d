import { describe, expect, it } from 'vitest';
import { KnownMemory } from '../../../src/import/known-memory.ts';
import {
  addressBelow,
  EPT,
  entryAddress,
  LONG_MODE,
  PAE,
  TWO_LEVEL,
  translateThrough,
} from '../../../src/import/kvm-guest/guest-tables.ts';

function memoryOf(entries: Readonly<Record<number, bigint>>, size: 4 | 8 = 8): KnownMemory {
  const memory = new KnownMemory();
  for (const [address, value] of Object.entries(entries)) memory.write(BigInt(address), size, value);
  return memory;
}

describe('tables of a guest', () => {
  it('lead to the entry of a level, or nowhere through an absent or unknown one', () => {
    const memory = memoryOf({ 4096: 0x2007n, 8200: 0x3007n, 12288: 0x4006n });
    expect(entryAddress(memory, LONG_MODE, 0x1000n, 0x4000_1040n, 3)).toBe(0x2008n);
    expect(entryAddress(memory, LONG_MODE, 0x1000n, 0x4000_1040n, 2)).toBe(0x3000n);
    expect(entryAddress(memory, LONG_MODE, 0x1000n, 0x4000_1040n, 1)).toBeUndefined();
    expect(entryAddress(memory, LONG_MODE, 0x1000n, 0x8000_0000n, 2)).toBeUndefined();
    // What EPT calls present need not have bit 0.
    expect(entryAddress(memory, EPT, 0x1000n, 0x4000_1040n, 1)).toBe(0x4008n);
  });

  it('of PAE begin at 32-byte alignment, two-level ones have 4-byte entries', () => {
    expect(entryAddress(memoryOf({ 4136: 0x2001n }), PAE, 0x1020n, 0x4000_1000n, 2)).toBe(0x2000n);
    expect(entryAddress(memoryOf({ 5120: 0x2007n }, 4), TWO_LEVEL, 0x1000n, 0x4000_1000n, 1)).toBe(0x2004n);
  });

  it('translate through large pages too', () => {
    const memory = memoryOf({ 4096: 0x2007n, 8192: 0x3007n, 8200: 0x4000_00b7n, 12288: 0x20_00b7n });
    expect(translateThrough(memory, EPT, 0x1000n, 0x1_2345n)).toBe(0x21_2345n);
    expect(translateThrough(memory, EPT, 0x1000n, 0x4123_4567n)).toBe(0x4123_4567n);
    expect(translateThrough(memory, EPT, 0x1000n, 0x8000_0000n)).toBeUndefined();
  });

  it('tell which linear address an entry is for, sign-extended', () => {
    const memory = memoryOf({ 8184: 0x2007n, 8200: 0x3007n, 12304: 0x4007n });
    expect(addressBelow(memory, LONG_MODE, 0x1000n, 0x4000n, 3)).toBe(0xffff_ff80_4040_3000n);
    expect(addressBelow(memory, LONG_MODE, 0x1000n, 0x5000n, 3)).toBeUndefined();
  });
});
