/** Guest-physical addresses that are translated outside a linear walk. */

import { describe, expect, test } from 'vitest';
import { Dim, elementRow, OBS_KIND_MASK, OBS_NESTED_NO_LINEAR, Obs } from '../../src/formats/observation.ts';
import { Reg } from '../../src/formats/registers.ts';
import { ACCESS_OF_TABLE, ACCESS_TYPE_SHIFT, AccessType, StepKind } from '../../src/formats/step.ts';
import type { Row } from '../../src/replay/result.ts';
import { EPT_A, EPT_LEAF, eptp, LARGE, outcomeOf, Rig } from './rig.ts';

/** The EPT entry of guest-physical 2 MB to 4 MB. */
const ENTRY_2M = EPT_A + 0x10008n;

function translate(rig: Rig, address: bigint, type: number = AccessType.READ, flags = 0): Row[] {
  return rig.apply(StepKind.GPA_ACCESS | (type << ACCESS_TYPE_SHIFT) | flags, address);
}

function guest(accessedDirty = false): Rig {
  const rig = new Rig();
  rig.enterVmx({ vpid: 1n, ept: EPT_A });
  rig.set(Reg.EPTP, eptp(EPT_A, accessedDirty));
  return rig;
}

describe('a guest-physical address', () => {
  test('without a second stage is the physical one', () => {
    expect(outcomeOf(translate(new Rig(), 0x12_3456n))).toBe('0x123456');
  });

  test('is translated by EPT alone, whatever the tables of the guest say', () => {
    const rig = guest();
    rig.hold(ENTRY_2M, 0x60_0000n | EPT_LEAF | LARGE);
    const rows = translate(rig, 0x20_1234n);
    expect(outcomeOf(rows)).toBe('0x601234');
    expect(rows[0]!.op & OBS_NESTED_NO_LINEAR).not.toBe(0);
    const elements = rows.filter((row) => (row.op & OBS_KIND_MASK) === Obs.ELEMENT);
    expect(elements.map((row) => row.op)).toEqual([4, 3, 2].map((level) => elementRow(Dim.EPT, level, false)));
  });

  test('that EPT forbids exits with no linear address and without bits 8 and 7 of the qualification', () => {
    const rig = guest();
    rig.hold(ENTRY_2M, 0x20_0000n | (EPT_LEAF & ~2n) | LARGE);
    const rows = translate(rig, 0x20_1234n, AccessType.WRITE);
    expect(rows.at(-1)).toMatchObject({ op: Obs.EPT_VIOLATION, addressLo: 0x20_1234, valueLo: 0x2a });
    expect(outcomeOf(translate(rig, 0x20_1234n))).toBe('0x201234');
  });

  test('that is misconfigured exits with no linear address', () => {
    const rig = guest();
    rig.hold(ENTRY_2M, 2n);
    expect(translate(rig, 0x20_1234n).at(-1)).toMatchObject({ op: Obs.EPT_MISCONFIG, addressLo: 0x20_1234 });
  });

  test("of a paging structure counts as written when EPT's accessed and dirty flags are on, and only then", () => {
    for (const accessedDirty of [false, true]) {
      const rig = guest(accessedDirty);
      rig.hold(ENTRY_2M, 0x20_0000n | (EPT_LEAF & ~0x200n) | LARGE);
      translate(rig, 0x20_1234n, AccessType.READ, ACCESS_OF_TABLE);
      expect(rig.load(ENTRY_2M) & 0x200n).toBe(accessedDirty ? 0x200n : 0n);
    }
  });
});
