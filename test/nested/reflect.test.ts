/** Which exit L1 gets for a fault of L2's (facts/kvm-mmu.md §7.2, §7.3, §7.4). */

import { describe, expect, test } from 'vitest';
import { Reg, SECONDARY_EPT, SECONDARY_PML, SECONDARY_VPID } from '../../src/formats/registers.ts';
import type { HardwareExit } from '../../src/mmu/injection.ts';
import { softwareWalk } from '../../src/paging/software-walk.ts';
import { TABLE } from '../mmu/shadow-rig.ts';
import { EPTP_A, NCR3_A, NestedRig, type NestedRigOptions } from './nested-rig.ts';

const PROFILES = ['6.1', '7.3'] as const;

const W = 2;
const U = 4;
const RWX = 7;
const EPT_A = 0x100;
const EPT_D = 0x200;
const EPTP_AD = EPTP_A | 0x40;
/** Bits 33:32 of EXITINFO1, as a high half. */
const FINAL = 1;
const PAGE = 2;

/** L2 runs on L1's tables 100 -> 101 -> 102 -> 103; the last one maps nGPAs below 2 MiB. */
function svm(options: NestedRigOptions = {}): NestedRig {
  const rig = new NestedRig({ ...options, config: { vendor: 'amd', ...options.config } });
  rig.base.put(0x100, 0, 0x101_000 + TABLE);
  rig.base.put(0x101, 0, 0x102_000 + TABLE);
  rig.base.put(0x102, 0, 0x103_000 + TABLE);
  // L2's CR3 is nGPA 1000: its tables 1 -> 2 -> 3 -> 4 lie there in L1's memory.
  for (const gfn of [1, 2, 3, 4]) rig.base.put(0x103, gfn, gfn * 4096 + TABLE + 0x40);
  rig.base.fourLevels();
  rig.vmrun(NCR3_A);
  rig.serve();
  rig.take();
  return rig;
}

function vmx(options: NestedRigOptions = {}, eptp = EPTP_A, more = 0): NestedRig {
  const rig = new NestedRig({ ...options, config: { vendor: 'intel', ...options.config } });
  const all = RWX | EPT_A | EPT_D;
  rig.base.put(0x100, 0, 0x101_000 + all);
  rig.base.put(0x101, 0, 0x102_000 + all);
  rig.base.put(0x102, 0, 0x103_000 + all);
  for (const gfn of [1, 2, 3, 4]) rig.base.put(0x103, gfn, gfn * 4096 + all);
  rig.base.fourLevels();
  rig.vmEntry(eptp, 5, { [Reg.SECONDARY_CONTROLS]: SECONDARY_EPT | SECONDARY_VPID | more });
  rig.serve();
  rig.take();
  return rig;
}

/** A fault of L2's that the hardware reports. */
function hardwareFault(
  rig: NestedRig,
  kind: HardwareExit['kind'],
  gpa: number,
  code: number,
  infoLo: number,
  infoHi: number,
) {
  Object.assign(rig.vcpu.exit, { kind, lo: gpa, hi: 0, infoLo, infoHi });
  rig.vcpu.prepareWalk(false);
  rig.handler.handle(gpa, 0, code, false, infoHi);
}

/** A walk of L2's address that the emulator makes, and its fault. */
function emulated(rig: NestedRig, address: number, access: number): void {
  const { gvaWalk } = rig.vcpu;
  rig.vcpu.prepareWalk(false);
  expect(softwareWalk(gvaWalk, address, 0, access)).toBe(false);
  rig.handler.injectWalkFault(gvaWalk);
}

describe.each(PROFILES)('nested page faults, %s', (profile) => {
  const options = { config: { profile } };

  test('keep what the hardware says of the stage', () => {
    const rig = svm(options);
    hardwareFault(rig, 'npf', 0x9678, W | U, W | U, FINAL);
    expect(rig.injected()).toBe('npf 9678 info 100000006');
    expect(rig.take()).toEqual(['walker error 6', 'vmexit inject 400 100000006 9678 0 0']);
    hardwareFault(rig, 'npf', 0x9678, W | U, W | U, PAGE);
    expect(rig.injected()).toBe('npf 9678 info 200000006');
  });

  test('a write to what L1 has read-only says P', () => {
    const rig = svm(options);
    rig.base.put(0x103, 9, 0x9000 + 0x25);
    hardwareFault(rig, 'npf', 0x9678, W | U, W | U, FINAL);
    expect(rig.injected()).toBe('npf 9678 info 100000007');
  });

  test('a reserved bit says RSVD', () => {
    const rig = svm(options);
    rig.base.put(0x103, 9, 0x9000 + 0x27 + 2 ** 45);
    hardwareFault(rig, 'npf', 0x9678, U, U, FINAL);
    expect(rig.injected()).toBe('npf 9678 info 10000000d');
  });

  test('of the final address of an emulated access', () => {
    const rig = svm(options);
    rig.base.put(4, 5, 0x9000 + TABLE + 0x40);
    emulated(rig, 0x5678, U);
    expect(rig.injected()).toBe('npf 9000 info 100000004');
  });

  test('of a table of an emulated access: 6.1 says FINAL, too', () => {
    const rig = svm(options);
    rig.base.put(0x103, 4, 0);
    emulated(rig, 0x5678, U);
    expect(rig.injected()).toBe(profile === '6.1' ? 'npf 4000 info 100000006' : 'npf 4000 info 200000006');
  });

  test('of an access that is emulated because of a nested fault: 6.1 reports that fault’s address and stage', () => {
    const rig = svm(options);
    rig.base.put(0x103, 4, 0);
    Object.assign(rig.vcpu.exit, { kind: 'npf', lo: 0x7123, hi: 0, infoLo: 7, infoHi: PAGE });
    emulated(rig, 0x5678, U);
    expect(rig.injected()).toBe(profile === '6.1' ? 'npf 7123 info 200000006' : 'npf 4000 info 200000006');
  });
});

test('7.3 takes a stage that is none for FINAL', () => {
  const rig = svm({ config: { profile: '7.3' } });
  hardwareFault(rig, 'npf', 0x9678, U, U, 0);
  expect(rig.injected()).toBe('npf 9678 info 100000004');
  hardwareFault(rig, 'npf', 0x9678, U, U, FINAL | PAGE);
  expect(rig.injected()).toBe('npf 9678 info 100000004');
});

describe.each(PROFILES)('EPT faults, %s', (profile) => {
  const options = { config: { profile } };
  const old = profile === '6.1';

  test('a violation says what was asked and what all levels allow', () => {
    const rig = vmx(options);
    rig.base.put(0x103, 9, 0x9000 + 5);
    // Write of a linear address: bits 8, 7 and 1, entry not present.
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    expect(rig.injected()).toBe('ept violation 9678 info 1aa');
    expect(rig.take()).toEqual(['walker error 3', 'vmexit inject 30 1aa 0 0 0']);
  });

  test('bits 8:7 are the hardware’s', () => {
    const rig = vmx(options);
    hardwareFault(rig, 'ept-violation', 0x9678, old ? U : 0, 0x81, 0);
    expect(rig.injected()).toBe('ept violation 9678 info 81');
    hardwareFault(rig, 'ept-violation', 0x9678, old ? U : 0, 0x1, 0);
    expect(rig.injected()).toBe('ept violation 9678 info 1');
  });

  test('of emulated accesses 6.1 has the bits of the violation before', () => {
    const rig = vmx(options);
    hardwareFault(rig, 'ept-violation', 0x9678, old ? U : 0, 0x1, 0);
    rig.vcpu.exit.kind = 'none';
    rig.base.put(0x103, 4, 0);
    emulated(rig, 0x5678, U);
    // The walk of a table: read, and without bit 8; the walk asks for W without A/D bits of its own.
    expect(rig.injected()).toBe(`ept violation 4000 info ${old ? '3' : '83'}`);
  });

  test('a misconfiguration of L1’s is a violation of KVM’s tables', () => {
    const rig = vmx(options);
    rig.base.put(0x103, 9, 0x9000 + W);
    hardwareFault(rig, 'ept-violation', 0x9678, old ? U : 0, 0x181, 0);
    // The qualification is no account of it: 6.1 leaves the hardware's.
    expect(rig.injected()).toBe(`ept misconfig 9678 info ${old ? '181' : '0'}`);
    expect(rig.take()).toEqual([`walker error ${old ? 'd' : '9'}`, `vmexit inject 31 ${old ? '181' : '0'} 0 0 0`]);
  });

  test('other roots of the same tables are brought in step', () => {
    const rig = vmx(options, EPTP_AD);
    const all = RWX | EPT_A | EPT_D;
    rig.base.put(0x103, 9, 0x9000 + all);
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    const { guestMmu } = rig.vcpu;
    const first = guestMmu.root!;
    rig.leave();
    rig.serve();
    rig.vmEntry(EPTP_A, 5);
    rig.serve();
    expect(guestMmu.previous[0] === first).toBe(true);
    const table = rig.base.pages.hashed.get(0x103)!.find((sp) => sp.level === 1)!;
    expect(rig.base.pages.lo(table.sptep(9)) & RWX).toBe(RWX);
    // L1 takes the right to write away, without INVEPT.
    rig.base.guestWrites(0x103, 9, 0x9000 + (all & ~W));
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    expect(rig.injected()).toBe('ept violation 9678 info 1aa');
    expect(rig.base.pages.lo(table.sptep(9)) & RWX).not.toBe(RWX);
  });
});

test('7.3: bits 11:9 come from the hardware if L1 is told of them', () => {
  for (const eptAdvancedInfo of [false, true]) {
    const rig = vmx({ config: { profile: '7.3' }, features: { eptAdvancedInfo } });
    hardwareFault(rig, 'ept-violation', 0x9678, 0, 0xf81, 0);
    expect(rig.injected()).toBe(`ept violation 9678 info ${eptAdvancedInfo ? 'f81' : '181'}`);
  }
});

describe.each(PROFILES)('page-modification log, %s', (profile) => {
  const options = { config: { profile } };
  const clean = RWX | EPT_A;

  function logging(index: number): NestedRig {
    const rig = vmx(options, EPTP_AD, SECONDARY_PML);
    rig.base.put(0x103, 9, 0x9000 + clean);
    rig.set(Reg.PML_ADDRESS, 0x20_0000);
    rig.set(Reg.PML_INDEX, index);
    return rig;
  }

  test('takes the page of an nGPA whose D is set, and counts down', () => {
    const rig = logging(3);
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    expect(rig.injected()).toBe('nothing');
    const { memory, registers } = rig.vcpu;
    const entry = memory.words[memory.pageIndexOf(0x200) + 6];
    expect([entry, registers[2 * Reg.PML_INDEX]]).toEqual([0x9000, 2]);
    const leaf = memory.words[memory.pageIndexOf(0x103) + 18]!;
    expect(leaf & EPT_D).toBe(EPT_D);
  });

  test('index 0 counts to ffff, which is full', () => {
    const rig = logging(0);
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    expect([rig.injected(), rig.vcpu.registers[2 * Reg.PML_INDEX]]).toEqual(['nothing', 0xffff]);
    rig.base.put(0x103, 10, 0xa000 + clean);
    rig.take();
    hardwareFault(rig, 'ept-violation', 0xa678, W, 0x182, 0);
    expect(rig.injected()).toBe('pml full a678 info 0');
    expect(rig.take()).toEqual(['walker error 2', 'vmexit inject 3e 0 0 0 0']);
    // Told once.
    rig.set(Reg.PML_INDEX, 5);
    hardwareFault(rig, 'ept-violation', 0xa678, W, 0x182, 0);
    expect(rig.injected()).toBe('nothing');
  });

  test('once full it stays so until L1 is told, whatever L1 makes of the log', () => {
    const rig = logging(0xffff);
    const write = (): void => {
      rig.base.put(0x103, 9, 0x9000 + clean);
      hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    };
    // A walk of the emulator's, of whose failure nobody hears.
    expect(rig.vcpu.tdpWalk.writeLogDirty!(0x9678, 0)).toBe(false);
    rig.set(Reg.PML_INDEX, 5);
    expect(rig.vcpu.tdpWalk.writeLogDirty!(0x9678, 0)).toBe(false);
    write();
    expect([rig.injected(), rig.vcpu.registers[2 * Reg.PML_INDEX]]).toEqual(['pml full 9678 info 0', 5]);
    write();
    expect([rig.injected(), rig.vcpu.registers[2 * Reg.PML_INDEX]]).toEqual(['nothing', 4]);
  });

  test('it is told with the next exit because of EPT, if L1 has been in between, and has no log any more', () => {
    const rig = logging(0xffff);
    rig.vcpu.tdpWalk.writeLogDirty!(0x9678, 0);
    rig.leave();
    rig.vmEntry(EPTP_AD, 5, { [Reg.SECONDARY_CONTROLS]: SECONDARY_EPT | SECONDARY_VPID });
    rig.serve();
    rig.base.put(0x103, 10, 0);
    const read = profile === '6.1' ? U : 0;
    hardwareFault(rig, 'ept-violation', 0xa678, read, 0x181, 0);
    expect(rig.injected()).toBe('pml full a678 info 0');
    hardwareFault(rig, 'ept-violation', 0xa678, read, 0x181, 0);
    expect(rig.injected()).toBe('ept violation a678 info 181');
  });

  test('what cannot be written is not logged', () => {
    const rig = logging(3);
    rig.set(Reg.PML_ADDRESS, 0, 0x10);
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    expect([rig.injected(), rig.vcpu.registers[2 * Reg.PML_INDEX]]).toEqual(['nothing', 3]);
  });

  test('is L1’s to switch on', () => {
    const rig = vmx(options, EPTP_AD);
    rig.base.put(0x103, 9, 0x9000 + clean);
    rig.set(Reg.PML_INDEX, 0xffff);
    hardwareFault(rig, 'ept-violation', 0x9678, W, 0x182, 0);
    expect(rig.injected()).toBe('nothing');
  });
});

describe('#PF of L2', () => {
  const PF_BIT = 1 << 14;

  test.each([
    { bitmap: PF_BIT, mask: 0, match: 0, code: 7, exits: true },
    { bitmap: 0, mask: 0, match: 0, code: 7, exits: false },
    { bitmap: PF_BIT, mask: 1, match: 0, code: 7, exits: false },
    { bitmap: PF_BIT, mask: 1, match: 1, code: 7, exits: true },
    { bitmap: 0, mask: 1, match: 0, code: 7, exits: true },
    { bitmap: 0, mask: 0, match: 1, code: 0, exits: true },
    { bitmap: PF_BIT, mask: 0x1_0000, match: 0, code: 0x1_0007, exits: true },
    { bitmap: PF_BIT, mask: 0xffff_ffff, match: 0x8000_0000, code: 4, exits: false },
  ])('VMX: %o', ({ bitmap, mask, match, code, exits }) => {
    const rig = vmx();
    rig.set(Reg.EXCEPTION_BITMAP, bitmap);
    rig.set(Reg.PFEC_MASK_MATCH, mask, match);
    expect(rig.nested.interceptsPageFault(code)).toBe(exits);
  });

  test('SVM has one bit for it', () => {
    const rig = svm();
    rig.set(Reg.EXCEPTION_BITMAP, PF_BIT);
    expect(rig.nested.interceptsPageFault(4)).toBe(true);
    rig.set(Reg.EXCEPTION_BITMAP, ~PF_BIT);
    expect(rig.nested.interceptsPageFault(4)).toBe(false);
  });

  test.each([
    { vendor: 'amd', exit: 'vmexit inject 4e 4 6678 0 0' },
    { vendor: 'intel', exit: 'vmexit inject 0 6678 0 80000b0e 4' },
  ] as const)('goes to L1 if it is intercepted, $vendor', ({ vendor, exit }) => {
    const rig = vendor === 'amd' ? svm() : vmx();
    emulated(rig, 0x6678, U);
    expect([rig.injected(), rig.take()]).toEqual(['page fault 6678 info 4', ['walker error 4', 'inject 14 4']]);
    rig.set(Reg.EXCEPTION_BITMAP, PF_BIT);
    emulated(rig, 0x6678, U);
    expect([rig.injected(), rig.take()]).toEqual(['page fault exit 6678 info 4', ['walker error 4', exit]]);
  });

  test('VMX: the error code stays readable after other exits (recordings nest_ept0)', () => {
    const rig = vmx();
    rig.set(Reg.EXCEPTION_BITMAP, PF_BIT);
    emulated(rig, 0x6678, U);
    rig.take();
    rig.nested.traceExit(18, 0, 0, 0, 0, 0, 0);
    expect(rig.take()).toEqual(['vmexit inject 12 0 0 0 4']);
  });

  test('of L1 itself is nobody’s to intercept', () => {
    const rig = vmx();
    rig.set(Reg.EXCEPTION_BITMAP, PF_BIT);
    rig.leave();
    rig.set(Reg.EXCEPTION_BITMAP, PF_BIT);
    rig.vcpu.prepareWalk(false);
    emulated(rig, 0x6678, U);
    expect(rig.injected()).toBe('page fault 6678 info 4');
  });
});

describe('what forbids an access is taken out of the tables', () => {
  test('an address of L2’s with nested paging goes from the TLB; nothing shadows L2’s own tables', () => {
    const rig = svm();
    rig.base.put(4, 5, 0x9000 + 1);
    rig.takeTold();
    emulated(rig, 0x5678, U);
    expect(rig.injected()).toBe('page fault 5678 info 5');
    expect(rig.takeTold()).toEqual(['flush address 5678']);
  });

  test('an nGPA goes from the current root of guest_mmu, not from the TLB', () => {
    const rig = svm();
    const all = TABLE + 0x40;
    rig.base.put(0x103, 9, 0x9000 + all);
    hardwareFault(rig, 'npf', 0x9678, W | U, W | U, FINAL);
    const table = rig.base.pages.hashed.get(0x103)!.find((sp) => sp.level === 1)!;
    const sptep = table.sptep(9);
    expect(rig.base.pages.lo(sptep) & W).toBe(W);
    rig.base.guestWrites(0x103, 9, 0x9000 + (all & ~W));
    rig.takeTold();
    hardwareFault(rig, 'npf', 0x9678, W | U | 1, W | U | 1, FINAL);
    expect(rig.injected()).toBe('npf 9678 info 100000007');
    expect(rig.base.pages.lo(sptep) & W).toBe(0);
    expect(rig.takeTold().filter((text) => text.startsWith('flush address'))).toEqual([]);
  });
});
