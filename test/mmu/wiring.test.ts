/** Three ways of wiring MMUs and walks: what differs, and that outcomes do not (facts/kvm-mmu.md §1.4). */

import { describe, expect, test } from 'vitest';
import { CR0_PE, CR0_PG, CR4_PAE, CR4_PSE, EFER_NXE, Reg } from '../../src/formats/registers.ts';
import { defaultWiring, WIRING_NAMES, type WiringName } from '../../src/mmu/wiring.ts';
import { softwareWalk } from '../../src/paging/software-walk.ts';
import { EPTP_A, EPTP_B, NCR3_A, NCR3_B, NestedRig } from '../nested/nested-rig.ts';
import { TABLE } from './shadow-rig.ts';

const PROFILES = ['6.1', '7.3'] as const;
const VENDORS = ['amd', 'intel'] as const;
const W = 2;
const U = 4;

function rigOf(wiring: WiringName, profile: '6.1' | '7.3' = '7.3', vendor: 'amd' | 'intel' = 'amd'): NestedRig {
  const rig = new NestedRig({ wiring, config: { profile, vendor } });
  rig.serve();
  return rig;
}

test('each kernel has its own', () => {
  expect([defaultWiring('6.1'), defaultWiring('7.3')]).toEqual(['walk-mmu', 'gva-walk']);
  expect(new NestedRig().vcpu.wiring.name).toBe('walk-mmu');
});

describe.each(WIRING_NAMES)('%s', (wiring) => {
  const own = wiring !== 'gva-walk';

  test('L2 with nested paging has a walk of its own, or L1’s', () => {
    const { vcpu } = rigOf(wiring);
    expect([vcpu.gvaWalk === vcpu.cpuWalk, vcpu.gvaWalk.second]).toEqual([true, null]);
    expect(vcpu.wiring.cpuWalks.length).toBe(own ? 2 : 1);
  });

  test('the second stage is that of the walk in use', () => {
    const rig = rigOf(wiring);
    const { vcpu } = rig;
    rig.vmrun(NCR3_A);
    expect([vcpu.gvaWalk === vcpu.cpuWalk, vcpu.gvaWalk.second === vcpu.tdpWalk]).toEqual([!own, true]);
    // Whose walk it is decides about the kind of a fault.
    expect(vcpu.walkFault.gvaWalk === vcpu.gvaWalk).toBe(true);
    rig.leave();
    expect([vcpu.gvaWalk === vcpu.cpuWalk, vcpu.gvaWalk.second]).toEqual([true, null]);
  });

  test('L1’s walk keeps its role while L2 runs, or has to be set up anew', () => {
    const rig = rigOf(wiring);
    const { cpuWalk } = rig.vcpu;
    rig.vmrun(NCR3_A, { [Reg.CR4]: CR4_PAE, [Reg.EFER]: EFER_NXE });
    expect([cpuWalk.rootLevel, rig.vcpu.gvaWalk.rootLevel]).toEqual([own ? 4 : 3, 3]);
    rig.leave();
    expect(cpuWalk.rootLevel).toBe(4);
  });

  test('L2’s own tables are shadowed by nobody', () => {
    const rig = rigOf(wiring);
    const { vcpu } = rig;
    expect(vcpu.wiring.shadowOf(vcpu.gvaWalk) === vcpu.rootMmu).toBe(true);
    rig.vmrun(NCR3_A);
    const shadow = vcpu.wiring.shadowOf(vcpu.gvaWalk);
    // With one walk root_mmu is found, which is direct: it shadows nothing either.
    expect(shadow === null || shadow.direct).toBe(true);
    expect(vcpu.wiring.shadowOf(vcpu.tdpWalk) === vcpu.guestMmu).toBe(true);
  });
});

/** What happens in a program that visits every kind of transition, fault and invalidation. */
function history(wiring: WiringName, profile: '6.1' | '7.3', vendor: 'amd' | 'intel'): string[] {
  const rig = rigOf(wiring, profile, vendor);
  const { base, vcpu } = rig;
  const lines: string[] = [];
  const note = (what: string): void => {
    lines.push(`${what}: ${rig.requests().join()} | ${rig.take(true).join('; ')} | ${rig.takeTold().join('; ')}`);
    const { gvaWalk, tdpWalk, rootMmu, guestMmu } = vcpu;
    lines.push([gvaWalk.base, gvaWalk.ext, tdpWalk.base, rootMmu.rootRole, guestMmu.rootRole].join(' '));
  };
  const ept = vendor === 'intel';
  const table = ept ? 0x307 : TABLE;
  const leaf = ept ? 0x307 : TABLE + 0x40;
  for (const root of [0x100, 0x200]) {
    base.put(root, 0, (root + 1) * 4096 + table);
    base.put(root + 1, 0, (root + 2) * 4096 + table);
    base.put(root + 2, 0, (root + 3) * 4096 + table);
    for (const gfn of [1, 2, 3, 4, 9]) base.put(root + 3, gfn, gfn * 4096 + leaf);
  }
  base.fourLevels();
  base.put(4, 5, 0x9000 + TABLE);
  base.put(4, 6, 0xa000 + TABLE);
  base.put(4, 7, 0x9000 + 1);
  const walk = (address: number, access: number): void => {
    vcpu.prepareWalk(false);
    rig.handler.injected = null;
    const { gvaWalk } = vcpu;
    if (softwareWalk(gvaWalk, address, 0, access)) lines.push(`walk ${gvaWalk.gfn} ${gvaWalk.pteAccess}`);
    else rig.handler.injectWalkFault(gvaWalk);
    note(`walk ${rig.injected()}`);
  };
  const fault = (gpa: number, access: number): void => {
    const info = ept ? ((access & W) !== 0 ? 0x182 : 0x181) : access;
    Object.assign(vcpu.exit, { kind: ept ? 'ept-violation' : 'npf', lo: gpa, hi: 0, infoLo: info, infoHi: 1 });
    vcpu.prepareWalk(false);
    note(`fault ${rig.handler.handle(gpa, 0, access, false, 1)} ${rig.injected()}`);
    vcpu.exit.kind = 'none';
  };
  const enter = (second: boolean, change: Readonly<Record<number, number>> = {}): void => {
    if (ept) rig.vmEntry(second ? EPTP_B : EPTP_A, second ? 0 : 5, change);
    else rig.vmrun(second ? NCR3_B : NCR3_A, change);
    note('entered');
    rig.serve();
    note('served');
  };
  const leave = (): void => {
    rig.leave();
    note('left');
    walk(0x5678, U);
    rig.serve();
    note('served');
  };
  for (const change of [
    {},
    { [Reg.CR0]: CR0_PG | CR0_PE, [Reg.CR4]: CR4_PSE, [Reg.EFER]: 0 },
    { [Reg.CR0]: 0, [Reg.CR4]: 0, [Reg.EFER]: 0 },
    { [Reg.CR4]: CR4_PAE, [Reg.EFER]: EFER_NXE },
  ]) {
    for (const second of [false, true]) {
      enter(second, change);
      for (const address of [0x5678, 0x6678, 0x7678]) for (const access of [U, U | W]) walk(address, access);
      fault(0x9678, W | U);
      fault(0xa678, U);
      vcpu.invlpg(0x5678, 0);
      vcpu.writeCr0((vcpu.registers[0]! ^ 0x1_0000) >>> 0);
      note('L2 wrote CR0');
      rig.serve();
      note('served');
      leave();
      vcpu.writeCr4(vcpu.registers[2 * Reg.CR4]! ^ 0x10_0000);
      note('L1 wrote CR4');
      rig.serve();
      note('served');
      if (ept) rig.nested.invept(2, 0, 0);
    }
  }
  // Without nested paging.
  const none = { [Reg.CR3]: 0x1000 };
  if (ept) rig.vmEntry(0, 5, none);
  else rig.vmrun(0, none);
  rig.serve();
  for (const address of [0x5678, 0x7678]) walk(address, U | W);
  leave();
  vcpu.afterSetCpuid({ ...vcpu.features, maxphyaddr: 36 });
  base.put(4, 6, 0xa000 + TABLE + 2 ** 38);
  enter(false);
  walk(0x6678, U);
  leave();
  return lines;
}

describe.each(PROFILES)('outcomes, %s', (profile) => {
  test.each(VENDORS)('are those of any other wiring: %s', (vendor) => {
    const [first, ...others] = WIRING_NAMES.map((wiring) => history(wiring, profile, vendor));
    expect(first!.length).toBeGreaterThan(200);
    for (const other of others) expect(other).toEqual(first);
  });
});
