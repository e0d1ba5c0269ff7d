/** Shadow-stack accesses: what lets them through, and that whatever stops them says what they were. */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import { CR4_PAE, ENTRY, EPT_A, EPT_LEAF, LARGE, PD, PT, Rig } from './rig.ts';

const CR4_CET = 0x80_0000n;
const DATA = 0x10_0000n;
const PTE = PT + 0x800n;
const EPT_OF_DATA = EPT_A + 0x10008n;
const shadowStack = true;

/** Linear 0x100000 is a supervisor shadow-stack page: R/W clear, D set, R/W set above. */
function cet(flags = ENTRY & ~6n): Rig {
  const rig = new Rig();
  rig.set(Reg.CR4, CR4_PAE | CR4_CET);
  rig.hold(PTE, 0x20_0000n | flags);
  return rig;
}

describe('a shadow-stack access', () => {
  test('writes and reads a shadow-stack page', () => {
    const rig = cet();
    expect(rig.access('write', DATA, { shadowStack })).toBe('0x200000');
    expect(rig.access('read', DATA, { shadowStack })).toBe('0x200000');
  });

  test('is stopped by any other page', () => {
    const writable = cet(ENTRY & ~4n);
    expect(writable.access('write', DATA, { shadowStack })).toBe('#PF 43');
    expect(writable.access('read', DATA, { shadowStack })).toBe('#PF 41');
    const clean = cet(ENTRY & ~0x46n);
    expect(clean.access('write', DATA, { shadowStack })).toBe('#PF 43');
    const readOnlyAbove = cet();
    readOnlyAbove.hold(PD, PT | (ENTRY & ~2n));
    expect(readOnlyAbove.access('write', DATA, { shadowStack })).toBe('#PF 43');
  });

  test('is stopped by a shadow-stack page of another privilege', () => {
    expect(cet(ENTRY & ~2n).access('write', DATA, { shadowStack })).toBe('#PF 43');
    expect(cet(ENTRY & ~2n).access('write', DATA, { shadowStack, user: true })).toBe('0x200000');
    expect(cet().access('write', DATA, { shadowStack, user: true })).toBe('#PF 47');
  });

  test('is not served by what other accesses have left in the TLB, nor the other way round', () => {
    const rig = cet();
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.access('write', DATA, { shadowStack })).toBe('0x200000');
    expect(rig.access('write', DATA)).toBe('#PF 3');
  });

  // SDM vol. 3C table 28-7: bit 13, "set if the access causing the EPT violation was a shadow-stack access".
  test('that EPT stops sets bit 13 of the qualification, an ordinary one does not', () => {
    const rig = cet();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_OF_DATA, 0x20_0000n | (EPT_LEAF & ~2n) | LARGE);
    expect(rig.access('write', DATA, { shadowStack })).toBe('EPT violation 21aa');
    rig.hold(EPT_OF_DATA, 0n);
    expect(rig.access('read', DATA, { shadowStack })).toBe('EPT violation 2181');
    expect(rig.access('read', DATA)).toBe('EPT violation 181');
  });

  test('that EPT stops at a table of the guest does not set bit 13', () => {
    const rig = cet();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_A + 0x10000n, 0n);
    expect(rig.access('read', DATA, { shadowStack })).toBe('EPT violation 81');
  });
});
