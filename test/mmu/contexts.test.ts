/** vcpu.mmu and the contexts that it may point at; roles of the shadow of L1's own tables (facts/kvm-mmu.md §1, §2.4, §2.5). */

import { describe, expect, test } from 'vitest';
import { decodeRole } from '../../src/formats/decode/kvm-role.ts';
import { CR4_LA57, CR4_PAE, CR4_SMEP, EFER_LMA, EFER_LME, EFER_NXE } from '../../src/formats/registers.ts';
import { ShadowRig } from './shadow-rig.ts';

const LONG_MODE = { cr4: CR4_PAE, efer: EFER_LME | EFER_LMA | EFER_NXE };
const WRITE_BACK = 6;

function rig(change: object = {}): ShadowRig {
  return new ShadowRig({ config: { tdp: true, tdpMmu: false, ...change } });
}

/** As the kernel prints a page with that role, and the flags that it does not print. */
function text(role: number, profile: '6.1' | '7.3'): string {
  return decodeRole({ lo: role >>> 0, hi: 0 }, profile).short;
}

test('vcpu.mmu is rootMmu, which shadows what cpuWalk reads; guestMmu shadows what tdpWalk reads', () => {
  const { vcpu } = rig();
  expect([vcpu.mmu === vcpu.rootMmu, vcpu.rootMmu.walk === vcpu.cpuWalk, vcpu.guestMmu.walk === vcpu.tdpWalk]).toEqual([
    true,
    true,
    true,
  ]);
  expect([vcpu.gvaWalk === vcpu.cpuWalk, vcpu.cpuWalk.second, vcpu.nested]).toEqual([true, null, false]);
});

describe('the shadow of L1’s nested page tables', () => {
  test('has KVM’s own depth: recorded as `l5 … nxe ad` over a 4-level table (recordings c_nest_np1)', () => {
    const { vcpu } = rig({ tdpLevel: 5 });
    vcpu.initShadowNpt(LONG_MODE, false);
    expect(text(vcpu.guestMmu.rootRole, '6.1')).toBe('l5 8-byte q0 wux nxe ad guest-mode passthrough');
    expect([vcpu.tdpWalk.rootLevel, vcpu.guestMmu.direct]).toEqual([4, false]);
  });

  test('passes no level through where both have as many', () => {
    const { vcpu } = rig({ tdpLevel: 5 });
    vcpu.initShadowNpt({ ...LONG_MODE, cr4: CR4_PAE | CR4_LA57 }, false);
    expect(text(vcpu.guestMmu.rootRole, '6.1')).toBe('l5 8-byte q0 wux nxe ad guest-mode');
  });

  test('7.3 forces WP, and takes GMET for SMEP', () => {
    const { vcpu } = rig({ profile: '7.3', tdpLevel: 4 });
    vcpu.initShadowNpt({ ...LONG_MODE, cr4: CR4_PAE | CR4_SMEP }, false);
    expect(text(vcpu.guestMmu.rootRole, '7.3')).toBe('l4 8-byte q0 rwux nxe ad wp guest-mode');
    vcpu.initShadowNpt(LONG_MODE, true);
    expect(text(vcpu.guestMmu.rootRole, '7.3')).toBe('l4 8-byte q0 rwux nxe ad wp guest-mode smep');
  });
});

describe('the shadow of L1’s EPT', () => {
  test('is as deep as the EPTP says: recorded as `l4 … !nxe !ad` without A/D bits (recordings nest_ept)', () => {
    const { vcpu } = rig({ vendor: 'intel' });
    vcpu.initShadowEpt(WRITE_BACK | (3 << 3), true, false);
    expect(text(vcpu.guestMmu.rootRole, '6.1')).toBe('l4 8-byte q0 wux !nxe !ad guest-mode');
    expect(vcpu.tdpWalk.haveAd).toBe(false);
  });

  test('has A/D bits if the EPTP says so', () => {
    const { vcpu } = rig({ vendor: 'intel' });
    vcpu.initShadowEpt(WRITE_BACK | (4 << 3) | (1 << 6), true, false);
    expect(text(vcpu.guestMmu.rootRole, '6.1')).toBe('l5 8-byte q0 wux !nxe ad guest-mode');
    expect([vcpu.tdpWalk.haveAd, vcpu.tdpWalk.rootLevel]).toEqual([true, 5]);
  });
});
