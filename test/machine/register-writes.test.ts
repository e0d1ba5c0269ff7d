/** What writing a register does to other registers: EFER.LMA, CR0.ET, the PDPTE registers of PAE paging. */

import { describe, expect, test } from 'vitest';
import { toBigInt } from '../../src/bits/word64.ts';
import { Dim, elementRow, OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { GuestMode, NESTED_NP_ENABLE, Reg } from '../../src/formats/registers.ts';
import { STEP_REGISTER_SHIFT, StepKind } from '../../src/formats/step.ts';
import type { Row } from '../../src/replay/result.ts';
import {
  CR0_PAGING,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  EFER_LONG,
  EPT_A,
  EPT_LEAF,
  eptp,
  LARGE,
  NO_FLUSH,
  PD,
  PML4,
  Rig,
} from './rig.ts';

const EFER_LME = 0x100n;
const EFER_LMA = 0x400n;
const CR0_UNPAGED = 0x11n;

/** The four PDPTEs stand at an address that is a multiple of 32 only. */
const PDPTES = 0x60a0n;
const PRESENT = PD | 1n;

function pdptes(rig: Rig): bigint[] {
  return [0, 1, 2, 3].map((i) => rig.register(Reg.PDPTE0 + i));
}

/** Paging off, CR4.PAE set, no long mode; PDPTEs 0 and 2 present. */
function unpaged(): Rig {
  const rig = new Rig();
  rig.set(Reg.CR0, CR0_UNPAGED);
  rig.set(Reg.EFER, 0n);
  rig.set(Reg.CR3, PDPTES | 0x18n);
  holdPdptes(rig, [PRESENT, 0n, PRESENT, 0n]);
  return rig;
}

function holdPdptes(rig: Rig, values: readonly bigint[]): void {
  values.forEach((value, i) => {
    rig.hold(PDPTES + 8n * BigInt(i), value);
  });
}

function pae(): Rig {
  const rig = unpaged();
  rig.write(Reg.CR0, CR0_PAGING);
  return rig;
}

describe('CR0', () => {
  test('ET is always 1, and bits 63:32 always 0', () => {
    const rig = new Rig();
    rig.set(Reg.CR4, 0n);
    rig.write(Reg.CR0, 0xffff_ffff_0000_0001n);
    expect(rig.register(Reg.CR0)).toBe(0x11n);
  });

  test('setting PG with EFER.LME makes EFER.LMA 1, clearing it makes it 0', () => {
    const rig = unpaged();
    rig.write(Reg.EFER, EFER_LME);
    rig.write(Reg.CR0, CR0_PAGING);
    expect(rig.register(Reg.EFER)).toBe(EFER_LME | EFER_LMA);
    rig.write(Reg.CR0, CR0_UNPAGED);
    expect(rig.register(Reg.EFER)).toBe(EFER_LME);
  });

  test('setting PG without EFER.LME leaves EFER alone', () => {
    const rig = pae();
    expect(rig.register(Reg.EFER)).toBe(0n);
  });

  test('with PG clear every address is the physical one', () => {
    const rig = new Rig();
    expect(rig.read(0x5000n)).toBe('0x105000');
    rig.write(Reg.CR0, CR0_UNPAGED);
    expect(rig.read(0x5000n)).toBe('0x5000');
  });
});

describe('EFER', () => {
  test('LMA cannot be written, either way', () => {
    const rig = new Rig();
    rig.write(Reg.EFER, EFER_LME);
    expect(rig.register(Reg.EFER)).toBe(EFER_LME | EFER_LMA);
    const other = unpaged();
    other.write(Reg.EFER, EFER_LONG);
    expect(other.register(Reg.EFER)).toBe(EFER_LONG & ~EFER_LMA);
  });

  test('NXE counts from the next access on', () => {
    const rig = new Rig();
    rig.hold(0x4028n, 0x8000_0000_0010_5067n);
    expect(rig.read(0x5000n)).toBe('0x105000');
    rig.write(Reg.EFER, 0x500n);
    expect(rig.read(0x5000n)).toBe('#PF 9');
  });
});

describe('CR3', () => {
  test('bit 63 of the operand is no part of the register where it is the no-flush bit', () => {
    const rig = new Rig();
    rig.set(Reg.CR4, CR4_PAE | CR4_PCIDE);
    rig.write(Reg.CR3, PML4 | 5n | NO_FLUSH);
    expect(rig.register(Reg.CR3)).toBe(PML4 | 5n);
  });

  test('in 4-level paging loads no PDPTE registers', () => {
    const rig = new Rig();
    rig.write(Reg.CR3, PML4);
    expect(pdptes(rig)).toEqual([0n, 0n, 0n, 0n]);
  });
});

describe('other registers', () => {
  test('hold what is written to them', () => {
    const rig = new Rig();
    for (const register of [Reg.PKRU, Reg.PKRS, Reg.PAT]) {
      rig.write(register, 0x1234_5678_9abc_def0n);
      expect(rig.register(register)).toBe(0x1234_5678_9abc_def0n);
    }
  });
});

describe('the PDPTE registers are loaded', () => {
  test('when CR0.PG is set', () => {
    expect(pdptes(pae())).toEqual([PRESENT, 0n, PRESENT, 0n]);
  });

  test('by MOV to CR3, and not before: a change in memory is not seen', () => {
    const rig = pae();
    rig.store(PDPTES + 8n, PRESENT);
    expect(pdptes(rig)[1]).toBe(0n);
    expect(rig.read(0x4000_5000n)).toBe('#PF 0');
    rig.write(Reg.CR3, PDPTES);
    expect(pdptes(rig)[1]).toBe(PRESENT);
    expect(rig.read(0x4000_5000n)).toBe('0x105000');
  });

  test.each([
    ['CR0.CD', Reg.CR0, CR0_PAGING | 0x4000_0000n],
    ['CR0.NW', Reg.CR0, CR0_PAGING | 0x2000_0000n],
    ['CR4.PGE', Reg.CR4, CR4_PAE | CR4_PGE],
    ['CR4.PSE', Reg.CR4, CR4_PAE | 0x10n],
    ['CR4.SMEP', Reg.CR4, CR4_PAE | 0x10_0000n],
  ])('when %s changes', (_, register, value) => {
    const rig = pae();
    rig.store(PDPTES + 8n, PRESENT);
    rig.write(register, value);
    expect(pdptes(rig)[1]).toBe(PRESENT);
  });

  test.each([
    ['CR0.WP', Reg.CR0, CR0_PAGING & ~0x1_0000n],
    ['CR0.TS', Reg.CR0, CR0_PAGING | 8n],
    ['CR4.SMAP', Reg.CR4, CR4_PAE | 0x20_0000n],
    ['CR4.PCE', Reg.CR4, CR4_PAE | 0x100n],
  ])('but not when %s changes', (_, register, value) => {
    const rig = pae();
    rig.store(PDPTES + 8n, PRESENT);
    rig.write(register, value);
    expect(pdptes(rig)[1]).toBe(0n);
  });

  test('when CR4.PAE is set, and cleared when it is cleared', () => {
    const rig = pae();
    rig.write(Reg.CR4, 0n);
    expect(pdptes(rig)).toEqual([0n, 0n, 0n, 0n]);
    rig.write(Reg.CR4, CR4_PAE);
    expect(pdptes(rig)).toEqual([PRESENT, 0n, PRESENT, 0n]);
  });

  test('and cleared when paging is turned off, or long mode entered', () => {
    const rig = pae();
    rig.write(Reg.CR0, CR0_UNPAGED);
    expect(pdptes(rig)).toEqual([0n, 0n, 0n, 0n]);
    const other = unpaged();
    other.set(Reg.PDPTE0, PRESENT);
    other.write(Reg.EFER, EFER_LME);
    other.write(Reg.CR0, CR0_PAGING);
    expect(pdptes(other)).toEqual([0n, 0n, 0n, 0n]);
  });

  test('without leaving observations: the register write is one event', () => {
    const rig = pae();
    expect(rig.apply(StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT), 0n, PDPTES)).toEqual([]);
  });
});

// SDM vol. 3A 4.4.1: the instruction "causes a general-protection exception (#GP(0)) and the PDPTEs are not loaded";
// one that faults does not write its register either.
describe('a present PDPTE with a reserved bit', () => {
  const RESERVED = PRESENT | 2n;

  test.each([
    ['CR3', Reg.CR3, PDPTES],
    ['CR0', Reg.CR0, CR0_PAGING | 0x4000_0000n],
    ['CR4', Reg.CR4, CR4_PAE | CR4_PGE],
  ])('leaves the PDPTE registers alone when %s is written', (_, register, value) => {
    const rig = pae();
    rig.store(PDPTES, PRESENT | 0x18n);
    rig.store(PDPTES + 16n, RESERVED);
    rig.write(register, value);
    expect(pdptes(rig)).toEqual([PRESENT, 0n, PRESENT, 0n]);
  });

  test.each([
    ['CR3', Reg.CR3, PDPTES],
    ['CR0', Reg.CR0, CR0_PAGING | 0x4000_0000n],
    ['CR4', Reg.CR4, CR4_PAE | CR4_PGE],
  ])('leaves %s as it was', (_, register, value) => {
    const rig = pae();
    rig.store(PDPTES + 16n, RESERVED);
    const before = rig.register(register);
    rig.write(register, value);
    expect(rig.register(register)).toBe(before);
  });

  test.each([1n, 2n, 5n, 6n, 7n, 8n, 40n, 51n, 52n, 62n, 63n])('is refused for bit %i', (position) => {
    const rig = pae();
    rig.store(PDPTES + 8n, PRESENT | (1n << position));
    rig.write(Reg.CR3, PDPTES);
    expect(pdptes(rig)[1]).toBe(0n);
  });

  test.each([3n, 4n, 9n, 10n, 11n, 39n])('is not refused for bit %i', (position) => {
    const rig = pae();
    rig.store(PDPTES + 8n, PRESENT | (1n << position));
    rig.write(Reg.CR3, PDPTES);
    expect(pdptes(rig)[1]).toBe(PRESENT | (1n << position));
  });

  // APM vol. 2 15.25.10: with nested paging PDPTEs are read, through the nested tables, in the course of each walk.
  test('is nothing to a guest with NPT, which loads none', () => {
    const rig = pae();
    rig.set(Reg.GUEST_MODE, BigInt(GuestMode.SVM));
    rig.set(Reg.ASID, 1n);
    rig.set(Reg.NESTED_CONTROL, BigInt(NESTED_NP_ENABLE));
    rig.set(Reg.NCR3, 0x3_0000n);
    rig.set(Reg.HOST_CR0, CR0_PAGING);
    rig.set(Reg.HOST_CR4, CR4_PAE);
    rig.set(Reg.HOST_EFER, EFER_LONG);
    // Of no concern to the guest: its table is not at this physical address.
    rig.store(PDPTES, RESERVED);
    expect(rig.apply(StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT), 0n, PDPTES)).toEqual([]);
    expect(rig.register(Reg.CR3)).toBe(PDPTES);
    rig.write(Reg.CR4, CR4_PAE | CR4_PGE);
    expect(rig.register(Reg.CR4)).toBe(CR4_PAE | CR4_PGE);
    rig.write(Reg.CR0, CR0_PAGING | 0x4000_0000n);
    expect(rig.register(Reg.CR0)).toBe(CR0_PAGING | 0x4000_0000n);
  });

  test('that is not present after all is loaded, whatever else it holds', () => {
    const rig = pae();
    rig.store(PDPTES + 8n, RESERVED & ~1n);
    rig.write(Reg.CR3, PDPTES);
    expect(pdptes(rig)[1]).toBe(RESERVED & ~1n);
  });
});

describe('loading PDPTEs as a step', () => {
  function load(rig: Rig): Row[] {
    return rig.apply(StepKind.PDPTE_LOAD, PDPTES);
  }

  function loaded(rows: readonly Row[]): number | undefined {
    return rows.find((row) => (row.op & OBS_KIND_MASK) === Obs.PDPTE_LOADED)?.valueLo;
  }

  test('is four reads and a success', () => {
    const rows = load(pae());
    expect(rows.map((row) => row.op)).toEqual([...Array(4).fill(elementRow(Dim.GUEST, 3, false)), Obs.PDPTE_LOADED]);
    expect(rows.slice(0, 4).map((row) => toBigInt(row.valueLo, row.valueHi))).toEqual([PRESENT, 0n, PRESENT, 0n]);
    expect(rows.slice(0, 4).map((row) => row.addressLo)).toEqual([0x60a0, 0x60a8, 0x60b0, 0x60b8]);
    expect(loaded(rows)).toBe(1);
  });

  test('ends at the first entry that is refused', () => {
    const rig = pae();
    rig.store(PDPTES + 8n, PRESENT | 2n);
    const rows = load(rig);
    expect(rows).toHaveLength(3);
    expect(loaded(rows)).toBe(0);
    expect(pdptes(rig)).toEqual([PRESENT, 0n, PRESENT, 0n]);
  });

  test('in a guest reads where EPT says', () => {
    const rig = pae();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    // Guest-physical 0 to 2 MB is physical 16 MB and up.
    rig.hold(EPT_A + 0x10000n, 0x100_0000n | EPT_LEAF | LARGE);
    rig.hold(0x100_60a0n, PRESENT | 8n);
    const rows = load(rig);
    expect(loaded(rows)).toBe(1);
    expect(rows.find((row) => row.op === elementRow(Dim.GUEST, 3, false))?.addressLo).toBe(0x100_60a0);
    expect(pdptes(rig)).toEqual([PRESENT | 8n, 0n, 0n, 0n]);
  });

  test('in a guest that EPT does not let read it exits, without a linear address', () => {
    const rig = pae();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_A + 0x10000n, 0n);
    const rows = load(rig);
    expect(rows.at(-1)).toMatchObject({ op: Obs.EPT_VIOLATION, addressLo: 0x60a0, valueLo: 1 });
    expect(pdptes(rig)).toEqual([PRESENT, 0n, PRESENT, 0n]);
  });

  test('in a guest with a misconfigured EPT exits as such', () => {
    const rig = pae();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_A + 0x10000n, 2n);
    expect(load(rig).at(-1)).toMatchObject({ op: Obs.EPT_MISCONFIG, addressLo: 0x60a0 });
  });

  // SDM vol. 3C 29.3.5: "Those loads of guest PDPTEs are treated as reads and do not cause the processor to set the
  // dirty flag in any EPT paging-structure entry."
  test("is a read even if EPT's accessed and dirty flags are on", () => {
    const rig = pae();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.set(Reg.EPTP, eptp(EPT_A, true));
    rig.hold(EPT_A + 0x10000n, (EPT_LEAF & ~0x202n) | LARGE);
    expect(loaded(load(rig))).toBe(1);
    expect(rig.load(EPT_A + 0x10000n) & 0x200n).toBe(0n);
  });
});
