/** INVEPT, INVVPID, INVLPGA and VMFUNC: what is checked, and what they do (facts/kvm-mmu.md §8.4, §8.5, §7.3). */

import { describe, expect, test } from 'vitest';
import { Reg, SECONDARY_EPT, SECONDARY_VMFUNC, SECONDARY_VPID } from '../../src/formats/registers.ts';
import { isValidEptp } from '../../src/nested/eptp.ts';
import { ALL_CAPS, EPTP_A, EPTP_B, NestedRig, type NestedRigOptions, WB4 } from './nested-rig.ts';

function vmx(options: NestedRigOptions = {}): NestedRig {
  const rig = new NestedRig({ ...options, config: { vendor: 'intel', ...options.config } });
  rig.serve();
  return rig;
}

/** Has had roots for two EPTPs, the last of which is the current one of guest_mmu. */
function twoRoots(options: NestedRigOptions = {}): NestedRig {
  const rig = vmx(options);
  for (const eptp of [EPTP_A, EPTP_B]) {
    rig.vmEntry(eptp, 5);
    rig.serve();
    rig.leave();
    rig.serve();
  }
  rig.take();
  rig.takeTold();
  return rig;
}

function roots(rig: NestedRig): (number | null)[] {
  const { guestMmu } = rig.vcpu;
  return [guestMmu.root, ...guestMmu.previous].map((root) => root?.page?.gfn ?? null);
}

describe('EPT pointers', () => {
  test.each([
    { what: 'write-back, 4 levels', lo: WB4, hi: 0, valid: true },
    { what: '5 levels', lo: 6 | (4 << 3), hi: 0, valid: true },
    { what: 'uncacheable', lo: 3 << 3, hi: 0, valid: true },
    { what: 'another memory type', lo: 4 | (3 << 3), hi: 0, valid: false },
    { what: '3 levels', lo: 6 | (2 << 3), hi: 0, valid: false },
    { what: 'A/D', lo: WB4 | 0x40, hi: 0, valid: true },
    { what: 'bit 7', lo: WB4 | 0x80, hi: 0, valid: false },
    { what: 'bit 11', lo: WB4 | 0x800, hi: 0, valid: false },
    { what: 'last bit below MAXPHYADDR', lo: WB4, hi: 0x80, valid: true },
    { what: 'MAXPHYADDR', lo: WB4, hi: 0x100, valid: false },
    { what: 'bit 63', lo: WB4, hi: 0x8000_0000 | 0, valid: false },
  ])('$what: $valid', ({ lo, hi, valid }) => {
    expect(isValidEptp(lo, hi, ALL_CAPS, 40)).toBe(valid);
  });

  test.each([
    { what: '4 levels', bit: 6, lo: WB4 },
    { what: '5 levels', bit: 7, lo: 6 | (4 << 3) },
    { what: 'uncacheable', bit: 8, lo: 3 << 3 },
    { what: 'write-back', bit: 14, lo: WB4 },
    { what: 'A/D', bit: 21, lo: WB4 | 0x40 },
  ])('$what needs bit $bit of the capabilities', ({ bit, lo }) => {
    expect(isValidEptp(lo, 0, { ...ALL_CAPS, lo: ALL_CAPS.lo & ~(1 << bit) }, 40)).toBe(false);
  });
});

describe('INVEPT', () => {
  test('of one EPTP frees its roots, whatever its lower bits', () => {
    const rig = twoRoots();
    expect(roots(rig)).toEqual([0x200, 0x100, null, null]);
    expect(rig.nested.invept(1, EPTP_A | 0x40, 0)).toBe(true);
    expect(roots(rig)).toEqual([0x200, null, null, null]);
    expect(rig.nested.invept(1, EPTP_B, 0)).toBe(true);
    expect(roots(rig)).toEqual([null, null, null, null]);
    expect(rig.takeTold()).toEqual([]);
  });

  test('of all frees all of guest_mmu, none of root_mmu', () => {
    const rig = twoRoots();
    const { root } = rig.vcpu.rootMmu;
    expect(rig.nested.invept(2, 0, 0)).toBe(true);
    expect(roots(rig)).toEqual([null, null, null, null]);
    expect(rig.vcpu.rootMmu.root === root && root !== null).toBe(true);
  });

  test('takes effect when L2 is entered: a root is got, and flushed', () => {
    const rig = twoRoots();
    rig.nested.invept(2, 0, 0);
    rig.vmEntry(EPTP_B, 5);
    rig.serve();
    expect(rig.take()).toEqual(['get l4 200 existing']);
    expect(rig.takeTold().slice(-2)).toEqual(['root 200', 'flush current']);
  });

  test.each([
    { what: 'type 0', type: 0, eptp: EPTP_A, caps: ALL_CAPS },
    { what: 'type 3', type: 3, eptp: EPTP_A, caps: ALL_CAPS },
    { what: 'a type that is none modulo 32', type: 33, eptp: EPTP_A, caps: ALL_CAPS },
    { what: 'an invalid EPTP', type: 1, eptp: EPTP_A | 0x80, caps: ALL_CAPS },
    {
      what: 'a type that L1 was not offered',
      type: 2,
      eptp: EPTP_A,
      caps: { ...ALL_CAPS, lo: ALL_CAPS.lo & ~(1 << 26) },
    },
    { what: 'no INVEPT', type: 2, eptp: EPTP_A, caps: { ...ALL_CAPS, lo: ALL_CAPS.lo & ~(1 << 20) } },
  ])('fails for $what', ({ type, eptp, caps }) => {
    const rig = twoRoots({ caps });
    expect(rig.nested.invept(type, eptp, 0)).toBe(false);
    expect(roots(rig)).toEqual([0x200, 0x100, null, null]);
  });

  test('of all EPTPs asks nothing of the operand', () => {
    expect(twoRoots().nested.invept(2, 0x80, 0)).toBe(true);
  });
});

describe('INVVPID', () => {
  test.each([
    { what: 'an address', type: 0, vpid: 5, told: ['tag 2', 'flush address 1234000', 'tag 1'] },
    { what: 'a VPID', type: 1, vpid: 5, told: ['tag 2', 'flush guest', 'tag 1'] },
    { what: 'a VPID that L2 has not', type: 1, vpid: 9, told: ['tag 2', 'flush guest', 'tag 1'] },
    { what: 'all', type: 2, vpid: 0, told: ['tag 2', 'flush guest', 'tag 1'] },
    { what: 'a VPID but for globals', type: 3, vpid: 5, told: ['tag 2', 'flush guest', 'tag 1'] },
  ])('$what: what is tagged with vpid02', ({ type, vpid, told }) => {
    const rig = twoRoots();
    expect(rig.nested.invvpid(type, vpid, 0x123_4000, 0)).toBe(true);
    expect(rig.takeTold()).toEqual(told);
    expect(roots(rig)).toEqual([0x200, 0x100, null, null]);
  });

  test.each([
    { what: 'VPID 0, type 0', type: 0, vpid: 0, hi: 0, caps: ALL_CAPS },
    { what: 'VPID 0, type 1', type: 1, vpid: 0, hi: 0, caps: ALL_CAPS },
    { what: 'VPID 0, type 3', type: 3, vpid: 0, hi: 0, caps: ALL_CAPS },
    { what: 'more than 16 bits', type: 2, vpid: 0x1_0000, hi: 0, caps: ALL_CAPS },
    { what: 'an address that is not canonical', type: 0, vpid: 5, hi: 0x8000, caps: ALL_CAPS },
    { what: 'type 4', type: 4, vpid: 5, hi: 0, caps: ALL_CAPS },
    { what: 'a type that L1 was not offered', type: 3, vpid: 5, hi: 0, caps: { ...ALL_CAPS, hi: 0x701 } },
    { what: 'no INVVPID', type: 2, vpid: 5, hi: 0, caps: { ...ALL_CAPS, hi: 0xf00 } },
  ])('fails for $what', ({ type, vpid, hi, caps }) => {
    const rig = twoRoots({ caps });
    expect(rig.nested.invvpid(type, vpid, 0, hi)).toBe(false);
    expect(rig.takeTold()).toEqual([]);
  });

  test('asks nothing of the address where there is none', () => {
    expect(twoRoots().nested.invvpid(1, 5, 0, 0x8000)).toBe(true);
  });

  test('without TDP the roots that L2 had go, L1’s stay', () => {
    const rig = vmx({ config: { tdp: false } });
    const own = rig.vcpu.rootMmu.root;
    rig.vmEntry(0, 5, { [Reg.CR3]: 0x5000 });
    rig.serve();
    rig.leave();
    rig.serve();
    const { rootMmu } = rig.vcpu;
    expect([rootMmu.root === own, rootMmu.previous[0]?.page?.gfn]).toEqual([true, 5]);
    rig.nested.invvpid(1, 5, 0, 0);
    expect([rootMmu.root === own, rootMmu.previous[0]]).toEqual([true, null]);
  });
});

describe('VMFUNC', () => {
  function inL2(vpid: number): NestedRig {
    const rig = vmx();
    rig.base.put(0x40, 0, EPTP_A);
    rig.base.put(0x40, 1, EPTP_B | 0x40);
    rig.base.put(0x40, 2, EPTP_B | 0x80);
    rig.base.put(0x40, 511, EPTP_B);
    const secondary = SECONDARY_EPT | SECONDARY_VMFUNC | (vpid !== 0 ? SECONDARY_VPID : 0);
    rig.vmEntry(EPTP_A, vpid, {
      [Reg.SECONDARY_CONTROLS]: secondary,
      [Reg.EPTP_LIST]: 0x4_0000,
      [Reg.VM_FUNCTION_CONTROLS]: 1,
    });
    rig.serve();
    rig.take();
    rig.takeTold();
    return rig;
  }

  test('switches to another EPTP, and to its A/D mode', () => {
    const rig = inL2(5);
    expect(rig.vcpu.tdpWalk.haveAd).toBe(false);
    expect(rig.nested.vmfunc(1)).toBe(true);
    expect([rig.vcpu.registers[2 * Reg.EPTP], rig.vcpu.tdpWalk.haveAd]).toEqual([EPTP_B | 0x40, true]);
    expect(rig.requests()).toEqual([]);
    rig.serve();
    expect(rig.take()).toEqual(['get l4 200']);
    expect(rig.nested.vmfunc(0)).toBe(true);
    expect(rig.requests()).toEqual(['LOAD_MMU_PGD']);
    expect(rig.vcpu.tdpWalk.haveAd).toBe(false);
  });

  test('without a VPID linear translations go', () => {
    const rig = inL2(0);
    rig.nested.vmfunc(511);
    expect(rig.requests()).toEqual(['TLB_FLUSH_GUEST']);
  });

  test('the EPTP in force is no change', () => {
    const rig = inL2(0);
    expect(rig.nested.vmfunc(0)).toBe(true);
    expect([rig.requests(), rig.takeTold()]).toEqual([[], []]);
  });

  test.each([
    { what: 'an invalid EPTP', index: 2, change: {} },
    { what: 'an index behind the list', index: 512, change: {} },
    { what: 'a negative index', index: -1, change: {} },
    { what: 'a list in no memslot', index: 1, change: { [Reg.EPTP_LIST]: 0xffff_f000 } },
    { what: 'a function that is off', index: 1, change: { [Reg.VM_FUNCTION_CONTROLS]: 2 } },
  ])('exits for $what', ({ index, change }) => {
    const rig = inL2(5);
    for (const [register, value] of Object.entries(change)) rig.set(Number(register), value);
    expect(rig.nested.vmfunc(index)).toBe(false);
    expect(rig.vcpu.registers[2 * Reg.EPTP]).toBe(EPTP_A);
  });
});

test('INVLPGA is an INVLPG, with an event of its own', () => {
  const rig = new NestedRig({ config: { vendor: 'amd' } });
  rig.nested.invlpga(0x1234_5000, 0x7f, 3);
  expect([rig.take(), rig.takeTold()]).toEqual([['event 31'], ['flush address 12345000']]);
});
