import { describe, expect, it } from 'vitest';
import { Reg } from '../../../src/formats/registers.ts';
import { KnownMemory } from '../../../src/import/known-memory.ts';
import { RegisterFile } from '../../../src/import/kvm-guest/register-file.ts';

describe('registers', () => {
  it('follow long mode through CR0.PG, and EFER.LMA cannot be written', () => {
    const registers = new RegisterFile(new KnownMemory());
    registers.write(Reg.CR4, 0x20n);
    registers.write(Reg.EFER, 0x500n);
    expect(registers.get(Reg.EFER)).toBe(0x100n);
    registers.write(Reg.CR0, 0x8000_0011n);
    expect(registers.get(Reg.EFER)).toBe(0x500n);
    registers.write(Reg.CR0, 0x11n);
    expect(registers.get(Reg.EFER)).toBe(0x100n);
  });

  it('load PDPTEs with CR3 and with paging, and lose them with it', () => {
    const memory = new KnownMemory();
    const registers = new RegisterFile(memory);
    memory.write(0x20_0008n, 8, 0x20_6001n);
    registers.write(Reg.CR4, 0x20n);
    registers.write(Reg.CR3, 0x20_0000n);
    expect(registers.get(Reg.PDPTE1)).toBe(0n);
    registers.write(Reg.CR0, 0x8000_0011n);
    expect(registers.get(Reg.PDPTE1)).toBe(0x20_6001n);
    memory.write(0x20_0008n, 8, 0x20_7001n);
    expect(registers.get(Reg.PDPTE1)).toBe(0x20_6001n);
    registers.write(Reg.CR3, 0x20_0000n);
    expect(registers.get(Reg.PDPTE1)).toBe(0x20_7001n);
    registers.write(Reg.CR0, 0x11n);
    expect(registers.get(Reg.PDPTE1)).toBe(0n);
  });

  it('drop the no-flush bit of CR3 only while PCIDs are on', () => {
    const registers = new RegisterFile(new KnownMemory());
    registers.write(Reg.CR3, (1n << 63n) | 0x20_0001n);
    expect(registers.get(Reg.CR3)).toBe((1n << 63n) | 0x20_0001n);
    registers.write(Reg.CR4, 1n << 17n);
    registers.write(Reg.CR3, (1n << 63n) | 0x20_0001n);
    expect(registers.get(Reg.CR3)).toBe(0x20_0001n);
    const halves = registers.snapshot();
    expect([halves[2 * Reg.CR3], halves[2 * Reg.CR3 + 1]]).toEqual([0x20_0001, 0]);
  });
});
