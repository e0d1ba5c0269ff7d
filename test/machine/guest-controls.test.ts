/** What a hypervisor sets up for its guest: page-modification log, intercepted exceptions, EPTP list. */

import { describe, expect, test } from 'vitest';
import { Obs } from '../../src/formats/observation.ts';
import {
  GuestMode,
  NESTED_GMET,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
  SECONDARY_PML,
  SECONDARY_VMFUNC,
  SECONDARY_VPID,
} from '../../src/formats/registers.ts';
import { ACCESS_SOFTWARE, ACCESS_TYPE_SHIFT, ACCESS_WALKED, AccessType, StepKind } from '../../src/formats/step.ts';
import { isValidEptp } from '../../src/machine/eptp-list.ts';
import { interceptsException } from '../../src/machine/intercepted.ts';
import { EFER_LONG, ENTRY, EPT_A, EPT_B, EPT_LEAF, eptp, LARGE, PT, Rig } from './rig.ts';

const LOG = 0x70_0000n;
const EPT_D = 0x200n;
const EPT_A_FLAG = 0x100n;

/** A VMX guest with A/D in an EPT whose 2 MB leaf at `clean` MB is not dirty, logging from `index` on. */
function pmlRig(index: bigint, clear = EPT_D): Rig {
  const rig = new Rig();
  rig.enterVmx({ vpid: 1n, ept: EPT_A });
  rig.set(Reg.EPTP, eptp(EPT_A, true));
  rig.set(Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | SECONDARY_VPID | SECONDARY_PML));
  rig.set(Reg.PML_ADDRESS, LOG);
  rig.set(Reg.PML_INDEX, index);
  // Guest-physical 4 MB to 6 MB, where linear 2 MB leads to.
  rig.hold(EPT_A + 0x1_0010n, 0x40_0000n | (EPT_LEAF & ~clear) | LARGE);
  return rig;
}

describe('page-modification logging (SDM vol. 3C 29.3.6)', () => {
  test('logs the page that becomes dirty, and counts down', () => {
    const rig = pmlRig(511n);
    expect(rig.access('write', 0x20_1234n)).toBe('0x401234');
    expect(rig.load(LOG + 8n * 511n)).toBe(0x40_1000n);
    expect(rig.register(Reg.PML_INDEX)).toBe(510n);
    expect(rig.load(EPT_A + 0x1_0010n) & EPT_D).toBe(EPT_D);
  });

  test('logs nothing for a read, nor for a page that is dirty already', () => {
    const rig = pmlRig(511n);
    rig.read(0x20_1234n);
    expect(rig.register(Reg.PML_INDEX)).toBe(511n);
    rig.access('write', 0x20_1234n);
    rig.access('write', 0x20_5234n, { walked: true });
    expect(rig.register(Reg.PML_INDEX)).toBe(510n);
  });

  test('a write after a read is logged though the translation is cached', () => {
    const rig = pmlRig(3n);
    rig.read(0x20_1234n);
    rig.access('write', 0x20_1234n);
    expect(rig.load(LOG + 24n)).toBe(0x40_1000n);
  });

  test('logs guest page tables, which are read as if written', () => {
    const rig = pmlRig(511n);
    // The EPT leaf of guest-physical 0 to 2 MB, where the guest's tables are.
    rig.hold(EPT_A + 0x1_0000n, (EPT_LEAF & ~EPT_D) | LARGE);
    rig.read(0x5000n);
    expect(rig.load(LOG + 8n * 511n)).toBe(0x1000n);
    expect(rig.register(Reg.PML_INDEX)).toBe(510n);
  });

  test('counts from 0 to FFFFH, and then the log is full: no flag is set, the access does not happen', () => {
    const rig = pmlRig(0n);
    rig.access('write', 0x20_1234n);
    expect(rig.register(Reg.PML_INDEX)).toBe(0xffffn);
    rig.hold(EPT_A + 0x1_0010n, 0x40_0000n | (EPT_LEAF & ~EPT_D) | LARGE);
    const rows = rig.apply(StepKind.ACCESS | ACCESS_WALKED | (AccessType.WRITE << ACCESS_TYPE_SHIFT), 0x20_2234n);
    expect(rows.at(-1)).toMatchObject({ op: Obs.PML_FULL, addressLo: 0x40_2234, valueLo: 0 });
    expect(rig.load(EPT_A + 0x1_0010n) & EPT_D).toBe(0n);
    expect(rig.register(Reg.PML_INDEX)).toBe(0xffffn);
  });

  test('a full log ends an access also for an accessed flag, but not where no flag is to be set', () => {
    const rig = pmlRig(512n, EPT_D | EPT_A_FLAG);
    expect(rig.apply(StepKind.ACCESS, 0x20_0000n).at(-1)?.op).toBe(Obs.PML_FULL);
    const done = pmlRig(512n, 0n);
    expect(done.access('write', 0x20_0000n)).toBe('0x400000');
  });

  test('a full log ends accesses of a guest-physical address and of software, and loading PDPTEs', () => {
    const rig = pmlRig(512n);
    const write = AccessType.WRITE << ACCESS_TYPE_SHIFT;
    expect(rig.apply(StepKind.GPA_ACCESS | write, 0x40_0000n).at(-1)?.op).toBe(Obs.PML_FULL);
    const rows = rig.apply(StepKind.ACCESS | ACCESS_SOFTWARE | write, 0x20_1234n);
    expect(rows.at(-1)).toMatchObject({ op: Obs.PML_FULL, addressLo: 0x40_1000 });
    const other = pmlRig(512n, EPT_D | EPT_A_FLAG);
    expect(other.apply(StepKind.PDPTE_LOAD, 0x40_0000n).at(-1)).toMatchObject({ op: Obs.PML_FULL });
  });

  test('is off without A/D in EPT, without the control, and where the log is not told', () => {
    for (const [register, value] of [
      [Reg.EPTP, eptp(EPT_A)],
      [Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | SECONDARY_VPID)],
      [Reg.PML_ADDRESS, 0n],
    ] as const) {
      const rig = pmlRig(512n);
      rig.set(register, value);
      expect(rig.access('write', 0x20_1234n)).toBe('0x401234');
    }
  });

  test('a log above 4 GB, in a page that nobody wrote, while memory grows', () => {
    const rig = pmlRig(511n);
    rig.set(Reg.PML_ADDRESS, 0x12_3456_7000n);
    for (let i = 0n; i < 700n; i++) rig.store(0x1_0000_0000n + (i << 12n), 1n);
    rig.hold(EPT_A + 0x1_0000n, (EPT_LEAF & ~EPT_D) | LARGE);
    expect(rig.access('write', 0x20_1234n)).toBe('0x401234');
    expect(rig.load(0x12_3456_7000n + 8n * 511n)).toBe(0x1000n);
    expect(rig.load(0x12_3456_7000n + 8n * 510n)).toBe(0x40_1000n);
  });
});

describe('exceptions that are VM exits', () => {
  const exits = (mode: number, bitmap: number, mask: number, match: number, vector: number, code: number): boolean => {
    const registers = new Rig().machine.registers.slice();
    registers[2 * Reg.GUEST_MODE] = mode;
    registers[2 * Reg.EXCEPTION_BITMAP] = bitmap;
    registers[2 * Reg.PFEC_MASK_MATCH] = mask;
    registers[2 * Reg.PFEC_MASK_MATCH + 1] = match;
    return interceptsException(registers, vector, code);
  };
  const PF = 1 << 14;

  test.each([
    // bitmap, mask, match, error code: SDM vol. 3C 25.2
    [0, 0, 0, 2, false],
    [PF, 0, 0, 2, true],
    [PF, 1, 1, 3, true],
    [PF, 1, 1, 2, false],
    [0, 1, 1, 3, false],
    [0, 1, 1, 2, true],
    [PF, 0, 0xffff_ffff, 7, false],
    [0, 0, 0xffff_ffff, 7, true],
    [PF, 0xffff_ffff, 0x8000_0000, 7, false],
  ])('VMX: bitmap %s mask %s match %s, #PF %s: %s', (bitmap, mask, match, code, expected) => {
    expect(exits(GuestMode.VMX, bitmap, mask, match, 14, code)).toBe(expected);
  });

  test('SVM looks at the bitmap only, and a processor without a guest at nothing', () => {
    expect(exits(GuestMode.SVM, PF, 1, 1, 14, 2)).toBe(true);
    expect(exits(GuestMode.SVM, 0, 1, 1, 14, 2)).toBe(false);
    expect(exits(GuestMode.NONE, PF, 0, 0, 14, 2)).toBe(false);
  });

  test('other exceptions by their bit, whatever mask and match say', () => {
    expect(exits(GuestMode.VMX, 1 << 13, 1, 1, 13, 0)).toBe(true);
    expect(exits(GuestMode.VMX, PF, 1, 1, 13, 0)).toBe(false);
  });

  test('are told on the row', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n });
    rig.hold(PT, 0n);
    rig.set(Reg.EXCEPTION_BITMAP, BigInt(PF));
    expect(rig.apply(StepKind.ACCESS, 0x10n).at(-1)?.op).toBe(Obs.EXCEPTION | (14 << 11) | (1 << 19));
    rig.set(Reg.EXCEPTION_BITMAP, 0n);
    expect(rig.apply(StepKind.ACCESS, 0x10n).at(-1)?.op).toBe(Obs.EXCEPTION | (14 << 11));
    rig.set(Reg.EXCEPTION_BITMAP, 1n << 13n);
    expect(rig.apply(StepKind.ACCESS, 1n << 50n).at(-1)?.op).toBe(Obs.EXCEPTION | (13 << 11) | (1 << 19));
  });
});

describe('VMFUNC leaf 0 (SDM vol. 3C 26.5.6.3)', () => {
  const LIST = 0x71_0000n;

  function listRig(): Rig {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.set(Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | SECONDARY_VPID | SECONDARY_VMFUNC));
    rig.set(Reg.VM_FUNCTION_CONTROLS, 1n);
    rig.set(Reg.EPTP_LIST, LIST);
    rig.hold(LIST + 8n * 511n, eptp(EPT_B));
    return rig;
  }

  test('switches to the entry', () => {
    const rig = listRig();
    rig.invalidate('EPTP_SWITCH', 0, 511n);
    expect(rig.register(Reg.EPTP)).toBe(eptp(EPT_B));
  });

  test('switches to the EPTP that the recorder has seen, if it tells one', () => {
    const rig = listRig();
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_B));
    expect(rig.register(Reg.EPTP)).toBe(eptp(EPT_B));
  });

  test.each<[string, (rig: Rig) => void, bigint]>([
    ['an index beyond the list', () => {}, 512n],
    ['an entry that is no EPTP', () => {}, 0n],
    ['VM functions off', (rig) => rig.set(Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT)), 511n],
    ['EPTP switching off', (rig) => rig.set(Reg.VM_FUNCTION_CONTROLS, 0n), 511n],
    ['no guest', (rig) => rig.set(Reg.GUEST_MODE, 0n), 511n],
  ])('%s changes nothing', (_, prepare, index) => {
    const rig = listRig();
    prepare(rig);
    rig.invalidate('EPTP_SWITCH', 0, index);
    expect(rig.register(Reg.EPTP)).toBe(eptp(EPT_A));
  });

  test.each([
    // EPTP, IA32_VMX_EPT_VPID_CAP (0: not known)
    [0x1000_001e, 0, true],
    [0x1000_0018, 0, true],
    [0x1000_001c, 0, false],
    [0x1000_0016, 0, false],
    [0x1000_0026, 0, true],
    [0x1000_005e, 0, true],
    [0x1000_009e, 0, false],
    [0x1000_081e, 0, false],
    [0x1000_001e, 0x4040, true],
    [0x1000_0018, 0x4040, false],
    [0x1000_0026, 0x4040, false],
    [0x1000_005e, 0x4040, false],
    [0x1000_005e, 0x20_4040, true],
  ])('EPTP %i is judged as VM entry does, capabilities %i', (low, capabilities, valid) => {
    expect(isValidEptp(low, 0, 40, capabilities)).toBe(valid);
  });

  test('an EPTP beyond MAXPHYADDR is none', () => {
    expect(isValidEptp(0x1e, 0xff, 40, 0)).toBe(true);
    expect(isValidEptp(0x1e, 0x100, 40, 0)).toBe(false);
    expect(isValidEptp(0x1e, 0xf_ffff, 52, 0)).toBe(true);
    expect(isValidEptp(0x1e, 0x10_0000, 52, 0)).toBe(false);
  });
});

describe('mode-based execute control (SDM vol. 3C 29.3.3.2, table 28-7)', () => {
  const XU = 0x400n;
  /** The final page's EPT rights; linear page 2 MB is a user page or not. */
  function mbecRig(rights: bigint, userPage: boolean, mbec = true): Rig {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.set(Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | SECONDARY_VPID | (mbec ? SECONDARY_MBEC : 0)));
    for (const at of [EPT_A, EPT_A + 0x1000n]) rig.hold(at, rig.load(at) | XU);
    rig.hold(EPT_A + 0x1_0000n, 0x7n | XU | 0x330n | LARGE);
    rig.hold(EPT_A + 0x1_0010n, 0x40_0000n | 0x30n | rights | LARGE);
    rig.hold(0x3008n, 0x40_0000n | (userPage ? ENTRY : ENTRY & ~4n) | LARGE);
    return rig;
  }
  const fetch = (rig: Rig, user: boolean): string => rig.access('fetch', 0x20_0000n, { user });

  test('the page, not who fetches, says which bit counts', () => {
    expect(fetch(mbecRig(0x5n, true), false)).toBe('EPT violation 7ac');
    expect(fetch(mbecRig(0x5n, true), true)).toBe('EPT violation 7ac');
    expect(fetch(mbecRig(0x5n, false), false)).toBe('0x400000');
    expect(fetch(mbecRig(0x1n | XU, true), true)).toBe('0x400000');
    expect(fetch(mbecRig(0x1n | XU, true), false)).toBe('0x400000');
    expect(fetch(mbecRig(0x1n | XU, false), false)).toBe('EPT violation 5cc');
  });

  test('without it bit 10 means nothing, and bit 6 of the qualification is 0', () => {
    expect(fetch(mbecRig(0x5n, true, false), true)).toBe('0x400000');
    expect(fetch(mbecRig(0x1n | XU, true, false), true)).toBe('EPT violation 78c');
  });

  test('an entry with nothing but bit 10 is there with it, and is not without', () => {
    expect(mbecRig(XU, true).read(0x20_0000n)).toBe('EPT violation 7c1');
    expect(mbecRig(XU, true, false).read(0x20_0000n)).toBe('EPT violation 781');
  });

  test('bit 10 without read is an execute-only entry', () => {
    expect(fetch(mbecRig(XU, true), true)).toBe('0x400000');
    const rig = mbecRig(XU | 2n, true);
    expect(rig.read(0x20_0000n)).toBe('EPT misconfiguration');
  });

  test('without paging every page is a user page', () => {
    const rig = mbecRig(0x5n, true);
    rig.set(Reg.CR0, 0x11n);
    rig.set(Reg.EFER, 0x900n);
    expect(rig.access('fetch', 0x40_0000n)).toBe('EPT violation 7ac');
  });
});

describe('guest mode execute trap (APM vol. 2 15.25.14)', () => {
  /** A guest whose final page has these flags in NPT; the NPT tables are user pages. */
  function gmetRig(flags: bigint, gmet = true): Rig {
    const rig = new Rig({ processor: AMD });
    const root = 0x9_0000n;
    rig.hold(root, (root + 0x1000n) | ENTRY);
    rig.hold(root + 0x1000n, (root + 0x2000n) | ENTRY);
    rig.hold(root + 0x2000n, ENTRY | LARGE);
    rig.hold(root + 0x2010n, 0x40_0000n | flags | LARGE);
    rig.enterSvm(1n);
    rig.set(Reg.NESTED_CONTROL, BigInt(NESTED_NP_ENABLE | (gmet ? NESTED_GMET : 0)));
    rig.set(Reg.NCR3, root);
    rig.set(Reg.HOST_CR0, 0x8001_0011n);
    rig.set(Reg.HOST_CR4, 0x20n);
    rig.set(Reg.HOST_EFER, EFER_LONG);
    return rig;
  }
  const AMD = {
    vendor: 'amd' as const,
    model: '',
    maxphyaddr: 40,
    features: ['pdpe1gb'],
    eptVpidCap: { lo: 0, hi: 0 },
    secondaryControlsAllowed: 0,
  };
  const SUPERVISOR = ENTRY & ~4n;

  test('a supervisor does not execute user pages, a user does', () => {
    expect(gmetRig(ENTRY).access('fetch', 0x20_0000n)).toBe('NPF 100000011');
    expect(gmetRig(ENTRY).access('fetch', 0x20_0000n, { user: true })).toBe('0x400000');
  });

  test('supervisor pages are open to all, who fetches or not', () => {
    for (const user of [false, true]) {
      for (const kind of ['read', 'write', 'fetch'] as const) {
        expect(gmetRig(SUPERVISOR).access(kind, 0x20_0000n, { user })).toBe('0x400000');
      }
    }
  });

  test('data accesses do not care, and rights other than U/S count as ever', () => {
    expect(gmetRig(ENTRY).access('write', 0x20_0000n)).toBe('0x400000');
    expect(gmetRig(ENTRY & ~2n).access('write', 0x20_0000n)).toBe('NPF 100000003');
    expect(gmetRig(ENTRY & ~2n).access('write', 0x20_0000n, { user: true })).toBe('NPF 100000007');
  });

  test('without it every access is a user access, and supervisor pages are closed', () => {
    expect(gmetRig(ENTRY, false).access('fetch', 0x20_0000n)).toBe('0x400000');
    expect(gmetRig(SUPERVISOR, false).access('fetch', 0x20_0000n)).toBe('NPF 100000015');
    expect(gmetRig(SUPERVISOR, false).read(0x20_0000n)).toBe('NPF 100000005');
  });
});
