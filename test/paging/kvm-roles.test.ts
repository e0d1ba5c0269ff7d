/**
 * Role words: those that KVM 6.1 itself printed (`role` of kvm_mmu_get_page in the recordings named below,
 * raw from their binary traces), and by facts/kvm-mmu.md §2 for 7.3.
 */

import { describe, expect, test } from 'vitest';
import { decodeRole, type KvmProfile } from '../../src/formats/decode/kvm-role.ts';
import {
  CR4_LA57,
  CR4_PAE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
} from '../../src/formats/registers.ts';
import {
  ACC_ALL,
  accessNumber,
  adDisabled,
  type CpuRole,
  childRole,
  cpuRole,
  cr0Wp,
  cr4Smep,
  eferNx,
  eptCpuRole,
  guestMode,
  has4ByteGpte,
  hasPferrFetch,
  isDirect,
  isInvalid,
  nptCpuRole,
  passthrough,
  quadrant,
  type RoleInputs,
  roleAccess,
  roleLevel,
  roleSyncIgnored,
  shadowEptRootRole,
  shadowNptRootRole,
  shadowRootRole,
  smm,
  tdpRootRole,
  withCr0Wp,
  withInvalid,
  withLevel,
  withQuadrant,
} from '../../src/paging/kvm-roles.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../../src/paging/permissions.ts';

const PG_WP = 0x8001_0011;
const PG = 0x8000_0011;
const LONG = EFER_LME | EFER_LMA | EFER_NXE;
const PROFILES: readonly KvmProfile[] = ['6.1', '7.3'];

const LONG_MODE: RoleInputs = { cr0: PG_WP, cr4: CR4_PAE, efer: LONG, smm: false, guestMode: false };

function long(change: Partial<RoleInputs> = {}): RoleInputs {
  return { ...LONG_MODE, ...change };
}

function hex(word: number): string {
  return word.toString(16).padStart(8, '0');
}

function role61(change: Partial<RoleInputs> = {}): CpuRole {
  return cpuRole('6.1', long(change));
}

describe('words that KVM 6.1 printed', () => {
  test('shadow paging of a 64-bit guest: a_npt0', () => {
    const root = shadowRootRole('6.1', role61().base);
    expect(hex(root)).toBe('00003704');
    const l3 = childRole('6.1', root, { direct: false, access: ACC_ALL, parentIndex: 3 });
    expect(hex(l3)).toBe('00003703');
    expect(hex(childRole('6.1', root, { direct: false, access: ACC_ALL & ~ACC_USER, parentIndex: 0 }))).toBe(
      '00003303',
    );
    const l2 = childRole('6.1', l3, { direct: false, access: ACC_ALL, parentIndex: 5 });
    const accesses: [number, string][] = [
      [ACC_ALL, '00003701'],
      [ACC_ALL & ~ACC_WRITE, '00003501'],
      [ACC_ALL & ~ACC_USER, '00003301'],
      [ACC_ALL & ~ACC_EXEC, '00003601'],
    ];
    for (const [access, word] of accesses) {
      expect(hex(childRole('6.1', l2, { direct: false, access, parentIndex: 1 }))).toBe(word);
    }
    expect(hex(childRole('6.1', l2, { direct: true, access: ACC_ALL, parentIndex: 1 }))).toBe('00003781');
    expect(hex(childRole('6.1', l2, { direct: true, access: ACC_ALL & ~ACC_WRITE, parentIndex: 1 }))).toBe('00003581');
    // SMAP without CR0.WP; the level-1 pages of CR0.PG = 0.
    expect(hex(withLevel(shadowRootRole('6.1', role61({ cr0: PG, cr4: CR4_PAE | CR4_SMAP }).base), 1))).toBe(
      '00009701',
    );
    const unpaged = shadowRootRole('6.1', role61({ cr0: 0x11, efer: EFER_LME }).base);
    expect(hex(withLevel(unpaged, 2))).toBe('00001782');
  });

  test('shadow paging of 32-bit guests: b_pae_npt0, b_pse_npt0', () => {
    const pae = shadowRootRole('6.1', role61({ efer: 0 }).base);
    expect(roleLevel(pae)).toBe(3);
    expect(hex(childRole('6.1', pae, { direct: false, access: ACC_ALL, parentIndex: 2 }))).toBe('00003702');

    const two = shadowRootRole('6.1', role61({ efer: 0, cr4: CR4_PSE }).base);
    const roots = [0, 1, 2, 3].map((quarter) => withQuadrant(withLevel(two, 2), quarter));
    expect(roots.map(hex)).toEqual(['00003712', '00003732', '00003752', '00003772']);
    expect(hex(childRole('6.1', roots[3]!, { direct: false, access: ACC_ALL, parentIndex: 6 }))).toBe('00003711');
    expect(hex(childRole('6.1', roots[2]!, { direct: false, access: ACC_ALL, parentIndex: 7 }))).toBe('00003731');
    const readOnly = { direct: true, access: ACC_ALL & ~ACC_WRITE, parentIndex: 0 };
    expect(hex(childRole('6.1', roots[0]!, readOnly))).toBe('00003591');
  });

  test('TDP: a_npt1, ept1_noad_g64, and nested guests', () => {
    const { base } = role61();
    expect(hex(tdpRootRole('6.1', base, { level: 5, adDisabled: false }))).toBe('00003785');
    expect(hex(tdpRootRole('6.1', base, { level: 4, adDisabled: true }))).toBe('00013784');
    const l2 = role61({ guestMode: true }).base;
    expect(hex(tdpRootRole('6.1', l2, { level: 5, adDisabled: false }))).toBe('00023785');
    // Shadow paging of an L2: c_nest_np0_npt0.
    expect(hex(shadowRootRole('6.1', l2))).toBe('00023704');
  });

  test('shadow of NPT12: c_nest_np1_off', () => {
    const l1 = { cr4: CR4_PAE | CR4_PKE, efer: LONG, smm: false };
    const npt = (cr4: number, efer = LONG): number =>
      shadowNptRootRole(nptCpuRole('6.1', { ...l1, cr4, efer }, false).base, 5);
    const root = npt(l1.cr4);
    expect(hex(root)).toBe('00061705');
    const l4 = childRole('6.1', root, { direct: false, access: ACC_ALL, parentIndex: 0 });
    expect(hex(l4)).toBe('00021704');
    const supervisor = { direct: false, access: ACC_ALL & ~ACC_USER, parentIndex: 0 };
    expect(hex(childRole('6.1', childRole('6.1', childRole('6.1', l4, supervisor), supervisor), supervisor))).toBe(
      '00021301',
    );
    expect(hex(withLevel(npt(CR4_PAE | CR4_SMEP), 1) & ~0x4_0000)).toBe('00025701');
    expect(hex(withLevel(npt(CR4_PAE | CR4_SMAP), 1) & ~0x4_0000)).toBe('00029701');
    expect(hex(withLevel(npt(CR4_PAE, EFER_LME | EFER_LMA), 1) & ~0x4_0000)).toBe('00020701');
    expect(hex(shadowNptRootRole(nptCpuRole('6.1', l1, false).base, 4))).toBe('00021704');
  });

  test('shadow of EPT12: nest_ept', () => {
    expect(hex(shadowEptRootRole(eptCpuRole('6.1', 0x1e, true, false).base))).toBe('00030704');
    expect(hex(shadowEptRootRole(eptCpuRole('6.1', 0x5e, true, false).base))).toBe('00020704');
    const l3 = withLevel(eptCpuRole('6.1', 0x1e, true, false).base, 3);
    // Not readable shows as not USER.
    expect(hex(childRole('6.1', l3, { direct: false, access: ACC_READ | ACC_EXEC, parentIndex: 9 }))).toBe('00030102');
  });
});

describe('7.3', () => {
  test('cpu roles', () => {
    expect(hex(cpuRole('7.3', long()).base)).toBe('00006f04');
    expect(hex(cpuRole('7.3', long()).ext)).toBe('000000c1');
    const all = cpuRole('7.3', {
      cr0: PG,
      cr4: CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE,
      efer: LONG,
      smm: true,
      guestMode: true,
    });
    expect(hex(all.base)).toBe('0112af05');
    expect(hex(all.ext)).toBe('000000fd');
    const unpaged = cpuRole('7.3', long({ cr0: 0x11 }));
    expect([hex(unpaged.base), hex(unpaged.ext)]).toEqual(['00000f80', '00000001']);
  });

  test('L1 second stages', () => {
    const l1 = { cr4: CR4_PAE | CR4_SMEP | CR4_SMAP | CR4_PKE, efer: EFER_LME | EFER_LMA, smm: false };
    expect(hex(nptCpuRole('7.3', l1, false).base)).toBe('00024f04');
    expect(hex(nptCpuRole('7.3', l1, true).base)).toBe('00124f04');
    // F in error codes comes from the real CR4.SMEP, whatever GMET says.
    expect(hasPferrFetch(nptCpuRole('7.3', l1, false), '7.3')).toBe(true);
    expect(hasPferrFetch(nptCpuRole('7.3', { ...l1, cr4: CR4_PAE }, true), '7.3')).toBe(false);
    const ept = eptCpuRole('7.3', 0x66, true, true);
    expect([hex(ept.base), hex(ept.ext)]).toEqual(['00120f05', '00000003']);
  });

  test('root roles', () => {
    const { base } = cpuRole('7.3', long());
    expect(hex(tdpRootRole('7.3', base, { level: 4, adDisabled: false }))).toBe('00006f84');
    expect(hex(tdpRootRole('7.3', base, { level: 4, adDisabled: true, mbec: true }))).toBe('00116f84');
    expect(hex(tdpRootRole('7.3', base, { level: 5, adDisabled: false, gmet: true }))).toBe('00106b85');
    expect(hex(shadowRootRole('7.3', cpuRole('7.3', long({ efer: 0 })).base))).toBe('00006f03');
  });
});

describe('6.1, extended words', () => {
  test('bits', () => {
    expect(role61().ext).toBe(0x81);
    const cr4 = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE;
    expect(role61({ cr4 }).ext).toBe(0xfd);
    expect(role61({ cr4, efer: 0 }).ext).toBe(0x35);
    expect(eptCpuRole('6.1', 0x1e, true, false).ext).toBe(3);
  });

  test('F in error codes: NX or SMEP', () => {
    expect(hasPferrFetch(role61(), '6.1')).toBe(true);
    expect(hasPferrFetch(role61({ efer: EFER_LME | EFER_LMA }), '6.1')).toBe(false);
    expect(hasPferrFetch(role61({ efer: 0, cr4: CR4_SMEP }), '6.1')).toBe(true);
    expect(cr4Smep(role61({ cr4: CR4_SMEP }), '6.1')).toBe(true);
  });
});

describe.each(PROFILES)('accessors, %s', (profile) => {
  const word = shadowRootRole(profile, cpuRole(profile, long({ guestMode: true, smm: true })).base);

  test('read what was put in', () => {
    expect(roleLevel(word)).toBe(4);
    expect(roleAccess(word, profile)).toBe(ACC_ALL);
    expect([isDirect(word), has4ByteGpte(word), passthrough(word), adDisabled(word)]).toEqual(Array(4).fill(false));
    expect([guestMode(word), eferNx(word, profile), cr0Wp(word, profile)]).toEqual([true, true, true]);
    expect(smm(word)).toBe(1);
    expect(isInvalid(word, profile)).toBe(false);
    expect(isInvalid(withInvalid(word, profile), profile)).toBe(true);
    expect(isDirect(childRole(profile, word, { direct: true, access: ACC_ALL, parentIndex: 0 }))).toBe(true);
    expect(cr0Wp(withCr0Wp(word, false, profile), profile)).toBe(false);
    expect(withCr0Wp(withCr0Wp(word, false, profile), true, profile)).toBe(word);
    expect(quadrant(withQuadrant(withQuadrant(word, 3), 2))).toBe(2);
  });

  test('rights survive a child role, READ implied under 6.1', () => {
    for (let access = 0; access < 16; access++) {
      const child = childRole(profile, word, { direct: false, access, parentIndex: 0 });
      expect(roleAccess(child, profile)).toBe(profile === '6.1' ? access | ACC_READ : access);
      expect(roleLevel(child)).toBe(3);
    }
    expect(accessNumber(ACC_EXEC, profile)).toBe(profile === '6.1' ? 1 : 8);
  });

  test('the decoder reads the same fields', () => {
    const fields = new Map(
      decodeRole({ lo: withInvalid(word, profile), hi: 0 }, profile).fields.map((f) => [f.name, f]),
    );
    for (const name of ['invalid', 'efer-nx', 'cr0-wp', 'guest-mode', 'smm']) {
      expect(fields.get(name)?.value, name).toBe(1);
    }
  });

  test('what a sync may ignore', () => {
    const ignored = roleSyncIgnored(profile);
    const child = childRole(profile, word, { direct: false, access: ACC_READ, parentIndex: 0 });
    expect((child ^ word) & ~ignored).toBe(0);
    const direct = childRole(profile, word, { direct: true, access: ACC_READ, parentIndex: 0 });
    expect((direct ^ word) & ~ignored).not.toBe(0);
    expect((withInvalid(child, profile) ^ word) & ~ignored).not.toBe(0);
  });
});
