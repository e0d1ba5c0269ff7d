/** Entering and leaving L2: which MMU, walk, root and tag, and what is asked for (facts/kvm-mmu.md §1.3, §8.5, §8.6). */

import { describe, expect, test } from 'vitest';
import { CR4_PAE, EFER_NXE, Reg } from '../../src/formats/registers.ts';
import { Request } from '../../src/mmu/vcpu.ts';
import { guestMode, roleLevel } from '../../src/paging/kvm-roles.ts';
import { EPTP_A, EPTP_B, NCR3_A, NCR3_B, NestedRig } from './nested-rig.ts';

const PROFILES = ['6.1', '7.3'] as const;

function svm(config: object = {}): NestedRig {
  const rig = new NestedRig({ config: { vendor: 'amd', ...config } });
  rig.serve();
  rig.take();
  rig.takeTold();
  return rig;
}

function vmx(config: object = {}): NestedRig {
  const rig = new NestedRig({ config: { vendor: 'intel', ...config } });
  rig.serve();
  rig.take();
  rig.takeTold();
  return rig;
}

describe.each(PROFILES)('SVM with nested paging, %s', (profile) => {
  test('VMRUN puts guest_mmu in force, without a root, and asks for a sync and a flush', () => {
    const rig = svm({ profile });
    expect(rig.vmrun(NCR3_A)).toBe(true);
    const { vcpu } = rig;
    expect([vcpu.nested, vcpu.mmu === vcpu.guestMmu, rig.nested.active]).toEqual([true, true, true]);
    expect(vcpu.gvaWalk.second === vcpu.tdpWalk).toBe(true);
    expect([guestMode(vcpu.guestMmu.rootRole), guestMode(vcpu.rootMmu.rootRole)]).toEqual([true, false]);
    expect(rig.requests()).toEqual(['MMU_SYNC', 'TLB_FLUSH_CURRENT']);
    expect(rig.take()).toEqual([]);
    expect(rig.takeTold()).toEqual(['no root', 'no root']);
  });

  test('requests are served in L2’s context, where the root is got', () => {
    const rig = svm({ profile });
    rig.vmrun(NCR3_A);
    rig.takeTold();
    rig.serve();
    expect(rig.take()).toEqual(['get l4 100']);
    expect(rig.takeTold()).toEqual(['flush current', 'root 100', 'flush current']);
  });

  test('#VMEXIT finds L1’s root where it was', () => {
    const rig = svm({ profile });
    const root = rig.vcpu.rootMmu.root;
    rig.vmrun(NCR3_A);
    rig.serve();
    rig.take();
    rig.takeTold();
    rig.leave();
    const { vcpu } = rig;
    expect([vcpu.nested, vcpu.mmu.root === root, vcpu.gvaWalk.second, rig.nested.active]).toEqual([
      false,
      true,
      null,
      false,
    ]);
    expect(rig.requests()).toEqual(['MMU_SYNC', 'LOAD_MMU_PGD', 'TLB_FLUSH_CURRENT']);
    rig.serve();
    expect(rig.take()).toEqual([]);
    expect(rig.takeTold()).toEqual(['root 0', 'root 0', 'flush current']);
  });

  test('another VMRUN takes the root of its nCR3 from the cache', () => {
    const rig = svm({ profile });
    for (const ncr3 of [NCR3_A, NCR3_B, NCR3_A]) {
      rig.vmrun(ncr3);
      rig.serve();
      rig.leave();
      rig.serve();
    }
    expect(rig.take()).toEqual(['get l4 100', 'get l4 200']);
    rig.vmrun(NCR3_B);
    expect(rig.requests()).toContain('LOAD_MMU_PGD');
    rig.serve();
    expect(rig.take()).toEqual([]);
  });

  test('NPT12 has the format of L1’s CR4 and EFER, L2’s own tables that of L2’s', () => {
    const rig = svm({ profile });
    rig.vmrun(NCR3_A, { [Reg.CR4]: CR4_PAE, [Reg.EFER]: EFER_NXE });
    expect([rig.vcpu.tdpWalk.rootLevel, rig.vcpu.gvaWalk.rootLevel]).toEqual([4, 3]);
    rig.leave();
    expect(rig.vcpu.gvaWalk.rootLevel).toBe(4);
  });

  test('L2 without nested paging runs on roots of root_mmu that are its own', () => {
    const rig = svm({ profile });
    rig.vmrun(0);
    const { vcpu } = rig;
    expect([vcpu.nested, vcpu.gvaWalk.second, guestMode(vcpu.rootMmu.rootRole)]).toEqual([false, null, true]);
    rig.serve();
    expect(rig.take()).toEqual(['get l4 0 direct']);
    rig.leave();
    rig.serve();
    // L1's was kept.
    expect(rig.take()).toEqual([]);
  });
});

describe('SVM: a PAE L1’s nested page tables', () => {
  test('are shadowed by four tables below KVM’s own levels, PDPTEs read from memory', () => {
    const rig = new NestedRig({ config: { vendor: 'amd', tdpLevel: 5 } });
    rig.base.enter('pae');
    rig.vcpu.resetContext();
    for (const [index, gfn] of [
      [0, 0x300],
      [2, 0x302],
    ] as const) {
      rig.base.put(0x100, 4 + index, gfn * 4096 + 1);
    }
    rig.vmrun(NCR3_A + 0x20);
    rig.serve();
    expect(rig.take()).toEqual(['get l2 300', 'get l2 302']);
    expect(roleLevel(rig.vcpu.guestMmu.rootRole)).toBe(5);
    expect(rig.takeTold().slice(-2)).toEqual(['root 300,-,302,-', 'flush current']);
    expect(rig.vcpu.tdpWalk.rootLevel).toBe(3);
  });
});

describe.each(PROFILES)('VMX with EPT, %s', (profile) => {
  test('VM entry without a VPID flushes what it shares with L1', () => {
    const rig = vmx({ profile });
    rig.vmEntry(EPTP_A, 0);
    expect(rig.requests()).toEqual(['TLB_FLUSH_GUEST']);
    expect(rig.takeTold()).toEqual(['tag 1', 'no root', 'no root']);
    rig.serve();
    expect(rig.take()).toEqual(['get l4 100']);
    expect(rig.takeTold()).toEqual(['flush guest', 'root 100', 'flush current']);
    rig.leave();
    expect(rig.requests()).toEqual(['LOAD_MMU_PGD', 'TLB_FLUSH_GUEST']);
  });

  test('a VPID is flushed when it is another than the last', () => {
    const rig = vmx({ profile });
    const asked: string[][] = [];
    for (const vpid of [5, 5, 6, 5]) {
      rig.vmEntry(EPTP_A, vpid);
      asked.push(rig.requests().filter((name) => name.startsWith('TLB')));
      rig.serve();
      rig.leave();
      asked.push(rig.requests().filter((name) => name.startsWith('TLB')));
      rig.serve();
    }
    expect(asked).toEqual([['TLB_FLUSH_GUEST'], [], [], [], ['TLB_FLUSH_GUEST'], [], ['TLB_FLUSH_GUEST'], []]);
  });

  test('a flush that waits is made for whom it was asked', () => {
    const rig = vmx({ profile });
    rig.vcpu.request(Request.TLB_FLUSH_GUEST | Request.TLB_FLUSH_CURRENT);
    rig.vmEntry(EPTP_A, 5);
    expect(rig.takeTold()).toEqual(['flush current', 'flush guest', 'tag 2', 'no root', 'no root']);
    rig.serve();
    rig.takeTold();
    rig.vcpu.request(Request.TLB_FLUSH_GUEST);
    rig.leave();
    expect(rig.takeTold()).toEqual(['flush guest', 'tag 1', 'root 0']);
    expect(rig.requests()).toEqual(['LOAD_MMU_PGD']);
  });

  test('a flush of a root that L2 never ran on is made with it', () => {
    const rig = vmx({ profile });
    rig.vmEntry(EPTP_A, 5);
    rig.serve();
    rig.leave();
    rig.serve();
    rig.vmEntry(EPTP_B, 5);
    rig.serve();
    rig.leave();
    rig.serve();
    rig.vmEntry(EPTP_A, 5);
    rig.vcpu.request(Request.TLB_FLUSH_CURRENT);
    rig.takeTold();
    rig.leave();
    expect(rig.takeTold().slice(0, 2)).toEqual(['root 100', 'flush current']);
  });

  test('guest_mmu gets no sync', () => {
    const rig = vmx({ profile });
    rig.vmEntry(EPTP_A, 5);
    expect(rig.requests()).not.toContain('MMU_SYNC');
  });
});

describe.each(PROFILES)('without TDP, %s', (profile) => {
  const shadow = { tdp: false, profile };

  test('nested paging is not offered: L2 has roots of root_mmu', () => {
    const rig = svm(shadow);
    rig.vmrun(NCR3_A, { [Reg.CR3]: 0x5000 });
    expect([rig.vcpu.nested, guestMode(rig.vcpu.rootMmu.rootRole)]).toEqual([false, true]);
    rig.serve();
    expect(rig.take()).toEqual(['get l4 5']);
    rig.leave();
    expect(rig.requests()).toEqual(['MMU_SYNC', 'LOAD_MMU_PGD', 'TLB_FLUSH_CURRENT']);
    rig.serve();
    expect(rig.take()).toEqual([]);
  });

  test('L1’s and L2’s roots with one CR3 are two', () => {
    const rig = vmx(shadow);
    rig.vmEntry(0, 5);
    rig.serve();
    expect(rig.take()).toEqual(['get l4 1']);
  });
});

describe('L2 in PAE mode without nested paging', () => {
  test('has its PDPTEs loaded at VM entry', () => {
    const rig = vmx();
    rig.base.put(0x30, 0, 0x31_001);
    rig.vmEntry(0, 0, { [Reg.CR4]: CR4_PAE, [Reg.EFER]: EFER_NXE, [Reg.CR3]: 0x3_0000 });
    expect(rig.base.registers[2 * Reg.PDPTE0]).toBe(0x31_001);
  });

  test('a PDPTE with a reserved bit fails the entry', () => {
    const rig = vmx();
    rig.base.put(0x30, 0, 0x31_007);
    expect(rig.vmEntry(0, 0, { [Reg.CR4]: CR4_PAE, [Reg.EFER]: EFER_NXE, [Reg.CR3]: 0x3_0000 })).toBe(false);
    rig.leave();
    expect(rig.vcpu.gvaWalk.rootLevel).toBe(4);
  });

  test('a failed entry leaves what it asked for to L1', () => {
    const rig = vmx();
    rig.base.put(0x30, 0, 0x31_007);
    rig.serve();
    rig.takeTold();
    // A VPID that was not seen before: its translations are to go.
    const pae = { [Reg.CR4]: CR4_PAE, [Reg.EFER]: EFER_NXE, [Reg.CR3]: 0x3_0000 };
    expect(rig.vmEntry(0, 7, pae)).toBe(false);
    rig.leave();
    expect(rig.requests()).toContain('TLB_FLUSH_GUEST');
    rig.serve();
    expect(rig.takeTold().filter((text) => /flush guest|tag/.test(text))).toEqual(['tag 2', 'tag 1', 'flush guest']);
  });
});
