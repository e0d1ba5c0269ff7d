/**
 * What register writes, VM transitions and page faults do to cached translations (SDM vol. 3A 4.10.4, vol. 3C 29.4.3;
 * APM vol. 2 15.16): that the machine's own TLB forgets them, and that whoever still used them would be found out, or
 * not.
 */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import { REGISTER_WRITE_TASK_SWITCH } from '../../src/formats/step.ts';
import {
  backToPcid1,
  CR0_PAGING,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_SMEP,
  ENTRY,
  EPT_A,
  EPT_B,
  EPT_LEAF,
  eptp,
  expectAllowed,
  expectForgotten,
  GLOBAL,
  LARGE,
  makeStale,
  NO_FLUSH,
  PML4,
  Rig,
  withPcid1,
} from './rig.ts';

describe('MOV to CR3', () => {
  test('forgets everything but global translations', () => {
    const rig = new Rig();
    rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    expectForgotten(rig, page, rig.write(Reg.CR3, PML4));
    expectAllowed(rig, global);
    expect(rig.read(global.address)).toBe(global.old);
  });

  test('forgets a translation whose G bit means nothing, CR4.PGE being 0', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n, ENTRY | GLOBAL);
    expectForgotten(rig, page, rig.write(Reg.CR3, PML4));
  });

  test('with PCIDs forgets only the PCID that it loads', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    rig.write(Reg.CR3, PML4 | 2n);
    backToPcid1(rig);
    expectAllowed(rig, page);
    expect(rig.read(page.address)).toBe(page.old);
    expectForgotten(rig, page, rig.write(Reg.CR3, PML4 | 1n));
  });

  test('with bit 63 forgets nothing', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    backToPcid1(rig);
    expectAllowed(rig, page);
    expect(rig.read(page.address)).toBe(page.old);
  });

  test('by a task switch forgets, whatever bit 63 says', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    expectForgotten(rig, page, rig.write(Reg.CR3, PML4 | 1n | NO_FLUSH, REGISTER_WRITE_TASK_SWITCH));
  });

  // SDM vol. 3C 29.4.3.1: such operations are for the current VPID, "for combined mappings, all EP4TAs".
  test('in a guest forgets combined translations of every EPT', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    const page = makeStale(rig, 5n);
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_B));
    const step = rig.write(Reg.CR3, PML4);
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_A));
    expectForgotten(rig, page, step);
  });

  test('in a guest leaves other VPIDs alone', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n });
    const page = makeStale(rig, 5n);
    rig.enterVmx({ vpid: 2n });
    rig.write(Reg.CR3, PML4);
    rig.enterVmx({ vpid: 1n });
    expectAllowed(rig, page);
  });
});

describe('MOV to CR0, MOV to CR4, WRMSR to EFER', () => {
  test('turning paging off forgets everything', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    const step = rig.write(Reg.CR0, 0x11n);
    expect(rig.read(page.address)).toBe('0x5000');
    rig.write(Reg.CR0, CR0_PAGING);
    backToPcid1(rig);
    expectForgotten(rig, page, step);
    expectForgotten(rig, global, step);
  });

  test('CR0.WP forgets nothing', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n);
    rig.write(Reg.CR0, CR0_PAGING & ~0x1_0000n);
    expectAllowed(rig, page);
  });

  test('CR4.PGE forgets everything, whichever way it changes', () => {
    for (const pge of [0n, CR4_PGE]) {
      const rig = new Rig();
      rig.set(Reg.CR4, CR4_PAE | (CR4_PGE - pge));
      const page = makeStale(rig, 5n, ENTRY | GLOBAL);
      expectForgotten(rig, page, rig.write(Reg.CR4, CR4_PAE | pge));
    }
  });

  test('clearing CR4.PCIDE forgets everything of every PCID', () => {
    const rig = withPcid1();
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.set(Reg.CR3, PML4);
    expectForgotten(rig, global, rig.write(Reg.CR4, CR4_PAE | CR4_PGE));
  });

  test('setting CR4.PCIDE forgets nothing', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n);
    rig.write(Reg.CR4, CR4_PAE | CR4_PCIDE);
    expectAllowed(rig, page);
  });

  test('setting CR4.SMEP forgets everything of the current PCID, clearing it nothing', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    expectForgotten(rig, page, rig.write(Reg.CR4, CR4_PAE | CR4_PCIDE | CR4_PGE | CR4_SMEP));
    const other = makeStale(rig, 6n);
    rig.write(Reg.CR4, CR4_PAE | CR4_PCIDE | CR4_PGE);
    expectAllowed(rig, other);
  });

  // SDM vol. 3A 4.10.4.1: "for the current PCID if (1) it changes CR4.PAE; or (2) … CR4.SMEP from 0 to 1".
  test('setting CR4.SMEP leaves other PCIDs alone', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    rig.write(Reg.CR4, CR4_PAE | CR4_PCIDE | CR4_PGE | CR4_SMEP);
    backToPcid1(rig);
    expectAllowed(rig, page);
  });

  test('a bit of CR4 that paging does not depend on forgets nothing', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n);
    rig.write(Reg.CR4, CR4_PAE | 0x200n);
    expectAllowed(rig, page);
    expect(rig.read(page.address)).toBe(page.old);
  });

  test('after a write to EFER the machine walks anew, though the architecture does not demand it', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n);
    rig.write(Reg.EFER, 0x500n);
    expectAllowed(rig, page);
    expect(rig.read(page.address)).toBe(page.fresh);
  });
});

describe('VM entries and exits', () => {
  test('without VPIDs forget everything, global translations too', () => {
    for (const transition of ['vmEntry', 'vmExit'] as const) {
      const rig = new Rig();
      rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
      rig.enterVmx({});
      const page = makeStale(rig, 5n);
      const global = makeStale(rig, 6n, ENTRY | GLOBAL);
      const step = rig[transition]();
      expectForgotten(rig, page, step);
      expectForgotten(rig, global, step);
    }
  });

  test('with VPIDs forget nothing', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n });
    const page = makeStale(rig, 5n);
    rig.vmExit();
    rig.vmEntry();
    expectAllowed(rig, page);
    expect(rig.read(page.address)).toBe(page.old);
  });

  test('without VPIDs leave what EPT translates alone', () => {
    const rig = new Rig();
    rig.enterVmx({ ept: EPT_A });
    expect(rig.read(0x10_0000n)).toBe('0x200000');
    const changed = rig.store(EPT_A + 0x10008n, 0x60_0000n | EPT_LEAF | LARGE);
    rig.vmEntry();
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });
});

describe('VMRUN with TLB_CONTROL', () => {
  function guest(): Rig {
    const rig = new Rig();
    rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
    rig.enterSvm(3n);
    return rig;
  }

  test('0 forgets nothing', () => {
    const rig = guest();
    const page = makeStale(rig, 5n);
    rig.vmrun(0);
    expectAllowed(rig, page);
    expect(rig.read(page.address)).toBe(page.old);
  });

  test('1 forgets everything of every ASID, so that nobody can have kept anything', () => {
    const rig = guest();
    const page = makeStale(rig, 5n, ENTRY | GLOBAL);
    rig.enterSvm(4n);
    rig.vmrun(1);
    rig.enterSvm(3n);
    expect(rig.judge('read', page.address, page.old)).toEqual({ kind: 'none' });
    expect(rig.read(page.address)).toBe(page.fresh);
  });

  test('3 forgets everything of the ASID, and of no other', () => {
    const rig = guest();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.enterSvm(4n);
    rig.vmrun(3);
    rig.enterSvm(3n);
    expectAllowed(rig, page);
    const step = rig.vmrun(3);
    expectForgotten(rig, page, step);
    expectForgotten(rig, global, step);
  });

  test('7 forgets everything of the ASID but global translations', () => {
    const rig = guest();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    const step = rig.vmrun(7);
    expectForgotten(rig, page, step);
    expectAllowed(rig, global);
  });
});

// SDM vol. 3A 4.10.4.1: a page fault "will invalidate any TLB entries that are for a page number corresponding to that
// linear address", and the paging-structure caches for it.
describe('a page fault', () => {
  test('forgets the page that it is about', () => {
    const rig = new Rig();
    const readOnly = ENTRY & ~2n;
    const page = makeStale(rig, 5n, readOnly);
    expect(rig.access('write', page.address)).toBe('#PF 3');
    expectForgotten(rig, page, rig.next - 1);
  });

  test('forgets no other page', () => {
    const rig = new Rig();
    const readOnly = ENTRY & ~2n;
    const page = makeStale(rig, 5n, readOnly);
    const other = makeStale(rig, 6n, readOnly);
    rig.access('write', other.address);
    expectAllowed(rig, page);
  });
});
