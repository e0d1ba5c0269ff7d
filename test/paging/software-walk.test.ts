/**
 * KVM's software walk case by case: what it reads, writes and traces, and how it fails (facts/kvm-mmu.md §3-§5;
 * kvm-6.1.md §7.1). Events are spelt as `KvmRig.events` does.
 */

import { beforeEach, describe, expect, test } from 'vitest';
import type { KvmProfile } from '../../src/formats/decode/kvm-role.ts';
import {
  CR0_WP,
  CR4_PAE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
} from '../../src/formats/registers.ts';
import { FETCH, USER, WRITE } from '../../src/paging/access.ts';
import { isPresentGpte, isReservedGpte } from '../../src/paging/guest-entry.ts';
import {
  GUEST_FINAL,
  GUEST_PAGE,
  IMPLICIT_ACCESS,
  type KvmPageWalk,
  PdpteSource,
} from '../../src/paging/kvm-page-walk.ts';
import { cpuRole, eptCpuRole, nptCpuRole, type RoleInputs } from '../../src/paging/kvm-roles.ts';
import { permissionFault } from '../../src/paging/permission-fault.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../../src/paging/permissions.ts';
import { loadPdptes, softwareWalk } from '../../src/paging/software-walk.ts';
import { FEATURES, KvmRig } from './kvm-world.ts';

const PROFILES: readonly [KvmProfile][] = [['6.1'], ['7.3']];
const LONG = EFER_LME | EFER_LMA | EFER_NXE;
const RWX = ACC_READ | ACC_WRITE | ACC_USER | ACC_EXEC;

let rig: KvmRig;

beforeEach(() => {
  rig = new KvmRig();
});

/** A walk of CR3's tables at 0x1000, level n at n × 0x1000 from the root down; entries at index 0. */
function longModeWalk(profile: KvmProfile, change: Partial<RoleInputs> = {}): KvmPageWalk {
  const inputs = { cr0: 0x8001_0011, cr4: CR4_PAE, efer: LONG, smm: false, guestMode: false, ...change };
  rig.set(Reg.CR0, BigInt(inputs.cr0));
  rig.set(Reg.CR3, 0x1018n);
  const walk = rig.walk({ profile });
  walk.init(cpuRole(profile, inputs));
  return walk;
}

/** PML4 1000, PDPT 2000, PD 3000, PT 4000; `leaf` in the PT. */
function fourLevels(leaf: bigint): void {
  rig.memory.store(0x1000, 0x2027n, 8);
  rig.memory.store(0x2000, 0x3027n, 8);
  rig.memory.store(0x3000, 0x4027n, 8);
  rig.memory.store(0x4000, leaf, 8);
}

describe.each(PROFILES)('one stage, %s', (profile) => {
  test('a read: every level, rights above each, no writes when A is set', () => {
    const walk = longModeWalk(profile);
    fourLevels(0x5067n);
    rig.memory.store(0x2000, 0x8000_0000_0000_3025n, 8);
    expect(softwareWalk(walk, 0x123, 0, USER)).toBe(true);
    const text = ['walk 123 4', 'element 4 2027', 'element 3 8000000000003025', 'element 2 4027', 'element 1 5067'];
    expect(rig.events()).toEqual(text);
    expect([walk.level, walk.maxLevel, walk.gfn]).toEqual([1, 4, 5]);
    expect([...walk.tableGfn.subarray(1, 5)]).toEqual([4, 3, 2, 1]);
    expect([...walk.ptAccess.subarray(1, 5)]).toEqual([ACC_READ | ACC_USER, ACC_READ | ACC_USER, RWX, RWX]);
    expect(walk.pteAccess).toBe(ACC_READ | ACC_USER);
    expect(rig.memory.writes).toEqual([]);
  });

  test('A and D are set top-down at the end; a read drops WRITE through a clean leaf', () => {
    const walk = longModeWalk(profile);
    fourLevels(0x5007n);
    rig.memory.store(0x3000, 0x4007n, 8);
    expect(softwareWalk(walk, 0, 0, 0)).toBe(true);
    expect(walk.pteAccess).toBe(RWX & ~ACC_WRITE);
    expect(rig.events().slice(5)).toEqual(['accessed 3000', 'accessed 4000']);
    expect(walk.entryLo[1]).toBe(0x5027);
    rig.memory.writes = [];
    expect(softwareWalk(walk, 0, 0, WRITE)).toBe(true);
    expect(walk.pteAccess).toBe(RWX);
    expect(rig.events().slice(5)).toEqual(['dirty 4000']);
    expect(rig.memory.writes).toEqual([{ address: 0x4000n, value: 0x5067n, size: 8 }]);
    expect(rig.memory.dirty).toEqual([3, 4, 4]);
  });

  test('a table in a read-only memslot: traced, not written', () => {
    const walk = longModeWalk(profile);
    fourLevels(0x5007n);
    rig.memory.readOnly.add(4);
    expect(softwareWalk(walk, 0, 0, WRITE)).toBe(true);
    expect(rig.events().slice(5)).toEqual(['accessed 4000', 'dirty 4000']);
    expect(rig.memory.writes).toEqual([]);
    expect(walk.entryLo[1]).toBe(0x5007);
  });

  test('no memslot: not present, without an element', () => {
    const walk = longModeWalk(profile);
    fourLevels(0x5007n);
    rig.memory.absent.add(3);
    expect(softwareWalk(walk, 0, 0, WRITE | USER)).toBe(false);
    expect(rig.events()).toEqual(['walk 0 6', 'element 4 2027', 'element 3 3027', 'error 6']);
    expect([rig.fault.errorCode, rig.fault.nested]).toEqual([6, false]);
  });

  test('no A bit by a walk that faults; reserved before rights', () => {
    const walk = longModeWalk(profile);
    fourLevels(0x5001n);
    rig.memory.store(0x3000, 0x4007n, 8);
    expect(softwareWalk(walk, 0x777, 0, WRITE)).toBe(false);
    expect(rig.events().at(-1)).toBe('error 3');
    rig.memory.store(0x4000, 0x1_0000_0000_5001n | (1n << 50n), 8);
    expect(softwareWalk(walk, 0x777, 0, WRITE)).toBe(false);
    expect(rig.events().at(-1)).toBe('error b');
    expect(rig.fault.addressLo).toBe(0x777);
    expect(rig.memory.writes).toEqual([]);
  });

  test('a table that is its own child: the lost exchange starts the walk again, without a second walk event', () => {
    const walk = longModeWalk(profile);
    // Index 0 of the PML4 leads to itself; the leaf is the same word at level 1.
    rig.memory.store(0x1000, 0x1007n, 8);
    expect(softwareWalk(walk, 0, 0, 0)).toBe(true);
    expect(rig.events()).toEqual([
      'walk 0 0',
      ...[4, 3, 2, 1].map((level) => `element ${level} 1007`),
      'accessed 1000',
      'accessed 1000',
      ...[4, 3, 2, 1].map((level) => `element ${level} 1027`),
    ]);
    expect(rig.memory.writes.length).toBe(1);
  });

  test('F in the error code by NX or SMEP; P of a hardware error code is printed, not reported', () => {
    const codes = [
      [LONG, CR4_PAE],
      [EFER_LME | EFER_LMA, CR4_PAE | CR4_SMEP],
      [EFER_LME | EFER_LMA, CR4_PAE],
    ].map(([efer, cr4]) => {
      const walk = longModeWalk(profile, { efer: efer!, cr4: cr4! });
      softwareWalk(walk, 0, 0, FETCH | USER | 1);
      return rig.fault.errorCode;
    });
    expect(codes).toEqual([0x14, 0x14, 4]);
    expect(rig.events()[0]).toBe('walk 0 15');
  });

  test('large pages: the address selects the frame', () => {
    const walk = longModeWalk(profile);
    fourLevels(0n);
    rig.memory.store(0x3000, 0x1_2340_00e7n, 8);
    softwareWalk(walk, 0x12_3456, 0, 0);
    expect([walk.level, walk.gfn]).toEqual([2, 0x12_3523]);
    rig.memory.store(0x2000, 0xf_4000_00e7n, 8);
    softwareWalk(walk, 0x3fff_f456, 0, 0);
    expect([walk.level, walk.gfn]).toEqual([3, 0xf7_ffff]);
  });

  test('32-bit: 4 MB pages with PSE-36, bit 7 ignored without PSE, entries of 4 bytes', () => {
    const mode = { efer: 0, cr4: CR4_PSE };
    let walk = longModeWalk(profile, mode);
    rig.memory.store(0x1004, 0x40_0000n | 0x1_e000n | 0x83n, 4);
    rig.memory.store(0x1000, 0xdead_beefn, 4);
    expect(softwareWalk(walk, 0x6f_f123, 0, WRITE)).toBe(true);
    expect([walk.level, walk.maxLevel, walk.gfn]).toEqual([2, 2, 0xf0_06ff]);
    expect(rig.events()).toEqual(['walk 6ff123 2', 'element 2 41e083', 'accessed 1004', 'dirty 1004']);
    expect(rig.memory.writes).toEqual([{ address: 0x1004n, value: 0x41_e0e3n, size: 4 }]);
    expect(rig.memory.words[rig.memory.pageIndexOf(1)]).toBe(0xdead_beef | 0);

    walk = longModeWalk(profile, { ...mode, cr4: 0 });
    rig.memory.store(0x1004, 0x40a7n, 4);
    rig.memory.store(0x4ffc, 0x9_9027n, 4);
    expect(softwareWalk(walk, 0x7f_f123, 0, 0)).toBe(true);
    expect([walk.level, walk.gfn]).toEqual([1, 0x99]);
    expect(walk.ptAccess[1]).toBe(RWX);
  });

  test('PAE: the PDPTE is traced, judged by P only, and takes no part in A and D', () => {
    const walk = longModeWalk(profile, { efer: EFER_NXE });
    walk.pdptes.set([0, 0, 0x2000 | 0x1e7, 0], 0);
    expect(softwareWalk(walk, 0x123, 0, 0)).toBe(false);
    expect(rig.events()).toEqual(['walk 123 0', 'element 3 0', 'error 0']);
    rig.memory.store(0x2000, 0x3007n, 8);
    rig.memory.store(0x3000, 0x4007n, 8);
    expect(softwareWalk(walk, 0x4000_0123, 0, 0)).toBe(true);
    expect(walk.maxLevel).toBe(2);
    const text = ['element 3 21e7', 'element 2 3007', 'element 1 4007', 'accessed 2000', 'accessed 3000'];
    expect(rig.events().slice(1)).toEqual(text);
  });

  test('PDPTEs are loaded all or none; lazily once per exit', () => {
    const walk = longModeWalk(profile, { efer: EFER_NXE });
    rig.set(Reg.CR3, 0x1020n);
    rig.memory.store(0x1020, 0x2001n, 8);
    rig.memory.store(0x1030, 0x9000n | 0x6n, 8);
    expect([loadPdptes(walk), walk.pdptesChanged]).toEqual([true, true]);
    expect([loadPdptes(walk), walk.pdptesChanged]).toEqual([true, false]);
    expect([...walk.pdptes]).toEqual([0x2001, 0, 0, 0, 0x9006, 0, 0, 0]);
    rig.memory.store(0x1030, 0x9007n, 8);
    expect(loadPdptes(walk)).toBe(false);
    rig.memory.store(0x1030, 0x1_0000_0000_9001n, 8);
    expect(loadPdptes(walk)).toBe(false);
    expect(walk.pdptes[0]).toBe(0x2001);

    walk.pdpteSource = PdpteSource.LAZY;
    rig.memory.store(0x1030, 0n, 8);
    rig.memory.store(0x1020, 0x7001n, 8);
    walk.pdptesStale = true;
    softwareWalk(walk, 0, 0, 0);
    rig.memory.store(0x1020, 0x8001n, 8);
    softwareWalk(walk, 0, 0, 0);
    expect(rig.events().filter((text) => text.startsWith('element 3'))).toEqual(['element 3 7001', 'element 3 7001']);
  });

  test('paging off: every right, no events', () => {
    const walk = longModeWalk(profile, { cr0: 0x11 });
    expect(softwareWalk(walk, 0xfee0_0123 | 0, 0, WRITE)).toBe(true);
    expect([walk.gfn, walk.pteAccess, walk.level]).toEqual([0xf_ee00, RWX, 0]);
    expect(rig.events()).toEqual([]);
  });
});

describe.each(PROFILES)('permissions, %s', (profile) => {
  const READ_ONLY = ACC_READ | ACC_USER | ACC_EXEC;

  test('golden bitmaps where READ is set, x86 formats', () => {
    const golden: [Partial<RoleInputs>, string][] = [
      [{}, '5555 3333 5f5f 3f3f 5555 3333 5f5f 3f3f 00ff 33ff 0fff 3fff 00ff 33ff 0fff 3fff'],
      [
        { cr4: CR4_PAE | CR4_SMEP | CR4_SMAP },
        'f5f5 f3f3 5f5f 3f3f 5555 3333 5f5f 3f3f f0ff f3ff 0fff 3fff f0ff f3ff 0fff 3fff',
      ],
      [{ cr0: 0x8000_0011 }, '5555 0000 5f5f 3f3f 5555 0000 5f5f 3f3f 00ff 00ff 0fff 3fff 00ff 00ff 0fff 3fff'],
      [
        { cr0: 0x8000_0011, efer: EFER_LME | EFER_LMA },
        '5555 0000 5f5f 3f3f 5555 0000 5f5f 3f3f 0000 0000 0f0f 3f3f 0000 0000 0f0f 3f3f',
      ],
    ];
    for (const [change, text] of golden) {
      const walk = longModeWalk(profile, change);
      expect(Array.from(walk.permissions, (set) => set.toString(16).padStart(4, '0')).join(' ')).toBe(text);
    }
  });

  test("6.1's 3-bit rules give the same where READ is set", () => {
    const flags = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    for (const flag of flags) {
      const [wp, nx, smep, smap] = [flag & 1, flag & 2, flag & 4, flag & 8].map((bit) => bit !== 0);
      const walk = longModeWalk(profile, {
        cr0: wp ? 0x8001_0011 : 0x8000_0011,
        efer: nx ? LONG : EFER_LME | EFER_LMA,
        cr4: CR4_PAE | (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0),
      });
      for (let index = 0; index < 16; index++) {
        const [w, u, notSmap, f] = [index & 1, index & 2, index & 4, index & 8].map((bit) => bit !== 0);
        for (let rights = 1; rights < 16; rights += 2) {
          const [canW, isU, canX] = [rights & ACC_WRITE, rights & ACC_USER, rights & ACC_EXEC].map((bit) => bit !== 0);
          const fault =
            (w && !canW && (wp || u)) ||
            (u && !isU) ||
            (f && nx && !canX) ||
            (f && smep && !u && isU) ||
            (!f && !notSmap && smap && !u && isU);
          expect((walk.permissions[index]! >>> rights) & 1).toBe(fault ? 1 : 0);
        }
      }
    }
  });

  test('CR0.WP is taken over with TDP only, and not by the second stage', () => {
    const walk = longModeWalk(profile);
    expect(permissionFault(walk, READ_ONLY, 0, WRITE)).toBe(1);
    const { base } = walk;
    rig.set(Reg.CR0, 0x8000_0011n);
    expect(permissionFault(walk, READ_ONLY, 0, WRITE)).toBe(0);
    expect(walk.base).not.toBe(base);
    rig.set(Reg.CR0, 0x8000_0011n | BigInt(CR0_WP));
    expect(permissionFault(walk, READ_ONLY, 0, WRITE)).toBe(1);
    expect(walk.base).toBe(base);

    for (const options of [{ tdp: false }, { ngpa: true }]) {
      const other = rig.walk({ profile, ...options });
      const inputs = { cr0: 0x8001_0011, cr4: CR4_PAE, efer: LONG, smm: false, guestMode: false };
      other.init(cpuRole(profile, inputs));
      rig.set(Reg.CR0, 0x8000_0011n);
      expect(permissionFault(other, READ_ONLY, 0, WRITE), JSON.stringify(options)).toBe(1);
    }
  });

  test('SMAP: AC excuses explicit accesses', () => {
    const walk = longModeWalk(profile, { cr4: CR4_PAE | CR4_SMAP });
    expect(permissionFault(walk, RWX, 0, 0)).toBe(1);
    walk.ac = true;
    expect(permissionFault(walk, RWX, 0, 0)).toBe(0);
    expect(permissionFault(walk, RWX, 0, IMPLICIT_ACCESS)).toBe(1);
  });

  test('protection keys: the mask is made anew, PK beside other faults', () => {
    const walk = longModeWalk(profile, { cr4: CR4_PAE | CR4_PKE });
    rig.set(Reg.PKRU, 0b10_01_00n);
    expect(walk.keyMask).toBe(0xdd00);
    expect(permissionFault(walk, RWX, 1, USER)).toBe(0x21);
    expect(permissionFault(walk, RWX, 2, USER)).toBe(0);
    expect(permissionFault(walk, RWX, 2, WRITE)).toBe(0x21);
    expect(permissionFault(walk, READ_ONLY, 2, USER | WRITE)).toBe(0x21);
    expect(permissionFault(walk, RWX & ~ACC_USER, 1, 0)).toBe(0);
    expect(permissionFault(walk, RWX, 1, USER | FETCH)).toBe(0);
    const mode = { cr0: 0x8001_0011, efer: LONG, smm: false, guestMode: false };
    walk.init(cpuRole(profile, { ...mode, cr0: 0x8000_0011, cr4: CR4_PAE | CR4_PKE }));
    expect(walk.keyMask).toBe(0xd500);
    walk.init(cpuRole(profile, { ...mode, cr4: CR4_PAE }));
    expect(walk.keyMask).toBe(0);
  });

  test('init is skipped for the same role, until it is invalidated', () => {
    const walk = longModeWalk(profile);
    const role = { base: walk.base, ext: walk.ext };
    const wide = () => isReservedGpte(walk, 1, 0x67, 1 << 8);
    expect(walk.init(role)).toBe(false);
    walk.features = { ...FEATURES, maxphyaddr: 40 };
    expect([walk.init(role), wide()]).toEqual([false, false]);
    walk.invalidate();
    expect([walk.init(role), wide()]).toEqual([true, true]);
  });
});

describe('EPT12', () => {
  /** EPT at 10000, 11000, 12000, 13000; entry 5 of the last maps nGPA 5000. */
  function eptWalk(profile: KvmProfile, leaf: bigint, options: { ad?: boolean; mbec?: boolean } = {}): KvmPageWalk {
    rig.memory.store(0x10000, 0x11007n, 8);
    rig.memory.store(0x11000, 0x12007n, 8);
    rig.memory.store(0x12000, 0x13007n, 8);
    rig.memory.store(0x13028, leaf, 8);
    const eptp = 0x1_001e | (options.ad ? 0x40 : 0);
    rig.set(Reg.EPTP, BigInt(eptp));
    const walk = rig.walk({ profile, ngpa: true, ept: true });
    walk.init(eptCpuRole(profile, eptp, true, options.mbec ?? false));
    return walk;
  }

  test('golden bitmaps', () => {
    const text = (walk: KvmPageWalk): string => Array.from(walk.permissions, (set) => set.toString(16)).join(' ');
    expect(text(eptWalk('7.3', 0n))).toBe('5555 3333 5555 3333 5555 3333 5555 3333 ff 33ff ff 33ff ff 33ff ff 33ff');
    expect(text(eptWalk('7.3', 0n, { mbec: true }))).toBe(
      '5555 3333 5555 3333 5555 3333 5555 3333 ff 33ff f0f 3f3f ff 33ff f0f 3f3f',
    );
    // Every access with U needs readable, whose place USER has.
    expect(text(eptWalk('6.1', 0n))).toBe('0 3333 f0f 3f3f 0 3333 f0f 3f3f ff 33ff fff 3fff ff 33ff fff 3fff');
  });

  test('6.1 knows reads by U, so what is execute-only cannot even be executed', () => {
    const walk = eptWalk('6.1', 0x5034n);
    expect(softwareWalk(walk, 0x5000, 0, USER | FETCH)).toBe(false);
    expect(rig.events().at(-1)).toBe('error 5');
    const newer = eptWalk('7.3', 0x5034n);
    expect(softwareWalk(newer, 0x5000, 0, FETCH | GUEST_FINAL)).toBe(true);
    expect(newer.pteAccess).toBe(ACC_EXEC);
    expect(softwareWalk(newer, 0x5000, 0, GUEST_FINAL)).toBe(false);
  });

  test('rights: R is USER and READ implied in 6.1, XU is USER in 7.3', () => {
    const old = eptWalk('6.1', 0x5033n);
    softwareWalk(old, 0x5000, 0, USER);
    expect(old.pteAccess).toBe(ACC_READ | ACC_USER | ACC_WRITE);
    const newer = eptWalk('7.3', 0x5433n, { mbec: true });
    softwareWalk(newer, 0x5000, 0, 0);
    expect(newer.pteAccess).toBe(ACC_READ | ACC_WRITE);
    expect(newer.ptAccess[4]).toBe(RWX);
  });

  test('presence: bit 10 counts with mode-based execute control', () => {
    expect(isPresentGpte(eptWalk('7.3', 0n), 0x400)).toBe(false);
    expect(isPresentGpte(eptWalk('7.3', 0n, { mbec: true }), 0x400)).toBe(true);
  });

  test('A and D only if EPTP says so; the log may be full', () => {
    softwareWalk(eptWalk('6.1', 0x5037n), 0x5000, 0, USER | WRITE);
    expect(rig.memory.writes).toEqual([]);
    const walk = eptWalk('6.1', 0x5037n, { ad: true });
    const logged: number[] = [];
    walk.writeLogDirty = (lo) => logged.push(lo) > 0;
    rig.events();
    expect(softwareWalk(walk, 0x5123, 0, USER | WRITE)).toBe(true);
    expect(rig.events().slice(5)).toEqual([
      'accessed 10000',
      'accessed 11000',
      'accessed 12000',
      'accessed 13028',
      'dirty 13028',
    ]);
    expect(logged).toEqual([0x5123]);
    expect(rig.memory.writes.at(-1)).toEqual({ address: 0x13028n, value: 0x5337n, size: 8 });

    rig.memory.store(0x13028, 0x5137n, 8);
    walk.writeLogDirty = () => false;
    expect(softwareWalk(walk, 0x5123, 0, USER | WRITE)).toBe(false);
    expect(rig.events().slice(5)).toEqual(['dirty 13028', 'error 6']);
  });

  test('qualifications: 7.3 makes them anew', () => {
    const walk = eptWalk('7.3', 0x5031n);
    rig.fault.qualification = 0xfff;
    const of = (lo: number, access: number): number => {
      expect(softwareWalk(walk, lo, 0, access)).toBe(false);
      return rig.fault.qualification;
    };
    expect(of(0x5000, WRITE | GUEST_FINAL)).toBe(0x18a);
    expect(of(0x5000, WRITE | GUEST_PAGE)).toBe(0x8b);
    expect(of(0x5000, FETCH | GUEST_FINAL)).toBe(0x18c);
    expect(of(0x6000, GUEST_FINAL)).toBe(0x181);
    rig.memory.absent.add(0x10);
    expect(of(0x6000, GUEST_FINAL)).toBe(0x1b9);
    expect(rig.fault.errorCode).toBe(0);
  });

  test('qualifications: 6.1 keeps bits 8:7, and all of it for a misconfiguration', () => {
    const walk = eptWalk('6.1', 0x5031n);
    rig.fault.qualification = 0xfff;
    softwareWalk(walk, 0x5000, 0, USER | WRITE);
    expect(rig.fault.qualification).toBe(0x18b);
    rig.fault.qualification = 0x081;
    softwareWalk(walk, 0x6000, 0, USER | FETCH);
    expect(rig.fault.qualification).toBe(0x085);
    rig.memory.store(0x13028, 0x5012n, 8);
    softwareWalk(walk, 0x5000, 0, USER);
    expect([rig.fault.qualification, rig.fault.errorCode]).toEqual([0x085, 0xd]);
  });
});

describe('two stages', () => {
  /** L2's four levels at nGPA 1000-4000, NPT12 at 20000 with one 2 MB page over them; `offset`: nGPA to GPA. */
  function nested(profile: KvmProfile, gmet = false): KvmPageWalk {
    const outer = longModeWalk(profile, { guestMode: true });
    rig.set(Reg.NCR3, 0x2_0000n);
    rig.memory.store(0x2_0000, 0x2_1027n, 8);
    rig.memory.store(0x2_1000, 0x2_2027n, 8);
    rig.memory.store(0x2_2000, 0x40_00e7n, 8);
    for (const [at, value] of [
      [0x40_1000, 0x2007n],
      [0x40_2000, 0x3007n],
      [0x40_3000, 0x4007n],
      [0x40_4000, 0x5007n],
    ] as const) {
      rig.memory.store(at, value, 8);
    }
    const second = rig.walk({ profile, ngpa: true });
    second.init(nptCpuRole(profile, { cr4: CR4_PAE, efer: LONG, smm: false }, gmet));
    outer.second = second;
    return outer;
  }

  const INNER = ['element 4 21027', 'element 3 22027', 'element 2 4000e7'];

  test.each(PROFILES)('order of events, %s', (profile) => {
    const walk = nested(profile);
    expect(softwareWalk(walk, 0x123, 0, 0)).toBe(true);
    expect(rig.events()).toEqual([
      'walk 123 0',
      ...['walk 1000 6', ...INNER, 'element 4 2007'],
      ...['walk 2000 6', ...INNER, 'element 3 3007'],
      ...['walk 3000 6', ...INNER, 'element 2 4007'],
      ...['walk 4000 6', ...INNER, 'element 1 5007'],
      ...['walk 5000 4', ...INNER],
      'accessed 1000',
      'accessed 2000',
      'accessed 3000',
      'accessed 4000',
    ]);
    expect([walk.gfn, walk.tableGfn[1], walk.tableRealGfn[1]]).toEqual([0x405, 4, 0x404]);
    expect(rig.memory.writes.map(({ address }) => address)).toEqual([0x40_1000n, 0x40_2000n, 0x40_3000n, 0x40_4000n]);
    // The dirty log is told the frame before the second stage.
    expect(rig.memory.dirty).toEqual([1, 2, 3, 4]);
  });

  test('an inner fault stays as it is; one error event; no A bits', () => {
    const walk = nested('7.3');
    rig.memory.store(0x40_4000, 0x20_0007n, 8);
    expect(softwareWalk(walk, 0x123, 0, WRITE)).toBe(false);
    expect(rig.events().slice(-4)).toEqual(['walk 200000 6', ...INNER.slice(0, 2), 'element 2 0', 'error 6'].slice(-4));
    const { fault } = rig;
    expect([fault.errorCode, fault.errorCodeHi, fault.addressLo, fault.nested]).toEqual([6, 1, 0x20_0000, true]);
    expect(rig.memory.writes).toEqual([]);
    rig.memory.store(0x2_2000, 0x40_00e5n, 8);
    expect(softwareWalk(walk, 0x123, 0, 0)).toBe(false);
    expect([fault.errorCode, fault.errorCodeHi, fault.addressLo]).toEqual([7, 2, 0x1000]);

    const old = nested('6.1');
    rig.memory.store(0x40_4000, 0x20_0007n, 8);
    softwareWalk(old, 0x123, 0, 0);
    expect([fault.errorCode, fault.errorCodeHi]).toEqual([4, 0]);
  });

  test('GMET keeps supervisor accesses supervisor', () => {
    const walk = nested('7.3', true);
    softwareWalk(walk, 0x123, 0, 0);
    const walks = rig.events().filter((text) => text.startsWith('walk'));
    expect(walks).toEqual(['walk 123 0', 'walk 1000 6', 'walk 2000 6', 'walk 3000 6', 'walk 4000 6', 'walk 5000 0']);
  });

  test('paging off in L2: one inner walk of the address itself', () => {
    const walk = nested('6.1');
    walk.init(cpuRole('6.1', { cr0: 0x11, cr4: 0, efer: 0, smm: false, guestMode: true }));
    expect(softwareWalk(walk, 0x5123, 0, FETCH)).toBe(true);
    expect(rig.events()).toEqual(['walk 5123 14', ...INNER]);
    expect(walk.gfn).toBe(0x405);
  });

  test('NPT12 in PAE format: PDPTEs from memory, not judged for reserved bits; no memslot: not present', () => {
    const walk = nested('6.1');
    const second = walk.second!;
    second.init(nptCpuRole('6.1', { cr4: CR4_PAE, efer: EFER_NXE, smm: false }, false));
    rig.set(Reg.NCR3, 0x2_0fe0n);
    rig.memory.store(0x2_0fe0, 0x2_21ffn, 8);
    rig.memory.store(0x2_2000, 0x40_00e7n, 8);
    expect(softwareWalk(second, 0x1000, 0, USER)).toBe(true);
    expect(rig.events()).toEqual(['walk 1000 4', 'element 3 221ff', 'element 2 4000e7']);
    rig.memory.absent.add(0x20);
    expect(softwareWalk(second, 0x1000, 0, USER)).toBe(false);
    expect(rig.events()).toEqual(['walk 1000 4', 'element 3 0', 'error 4']);
  });
});
