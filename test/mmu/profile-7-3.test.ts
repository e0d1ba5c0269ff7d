/** What 7.3 does otherwise than 6.1, rule by rule: facts/kvm-mmu.md §6, §8.2, §8.4. */

import { describe, expect, test } from 'vitest';
import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { HostPage } from '../../src/formats/step.ts';
import { Fault, PFERR_HI_GUEST_PAGE, RetPf } from '../../src/mmu/fault.ts';
import { DUMMY_ROOT } from '../../src/mmu/root.ts';
import { SPTE_W, SpteFormat } from '../../src/mmu/spte.ts';
import { Request } from '../../src/mmu/vcpu.ts';
import { cr4SmepOfPage, tdpRootRole } from '../../src/paging/kvm-roles.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../../src/paging/permissions.ts';
import { A, ALL, addressOf, D, P, PS, type RigOptions, ShadowRig, SLOT_PAGES, TABLE, U, W } from './shadow-rig.ts';

const NEW = { profile: '7.3' } as const;
const DIRECT = { ...NEW, tdp: true, tdpMmu: false } as const;
const EPT_NO_AD = { ...DIRECT, vendor: 'intel', eptAd: false } as const;
const RWUX = ACC_READ | ACC_WRITE | ACC_USER | ACC_EXEC;
const MIB_2 = 0x20_0000;
const EMPTY = '8000000000000000';
const OUTSIDE = SLOT_PAGES + 0x10;

function newer(options: RigOptions = {}): ShadowRig {
  return new ShadowRig({ ...options, config: { ...NEW, ...options.config } });
}

function text(format: SpteFormat): string {
  return ((BigInt(format.hi >>> 0) << 32n) | BigInt(format.lo >>> 0)).toString(16);
}

function formatOf(change: Partial<KvmConfig>): SpteFormat {
  return new SpteFormat(defaultKvmConfig({ ...NEW, ...change }));
}

function flags(prefetch = false): Parameters<SpteFormat['makeLeaf']>[3] {
  return { adDisabled: false, writeProtectOnly: false, prefetch, hostWritable: true };
}

describe('entries (§6.11)', () => {
  test('an empty one has bit 63, in every table, also when it has become empty', () => {
    const rig = newer();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, 2);
    const table = rig.page(4, 1);
    expect([rig.spte(table, 0), rig.spte(table, 1)]).toEqual(['e67', EMPTY]);
    rig.vm.unmap(0, 0x100, 0x101);
    expect(rig.spte(table, 0)).toBe(EMPTY);
    rig.emulatedWrite(3, 0, 8);
    expect(rig.spte(rig.page(3, 2), 0)).toBe(EMPTY);
    expect(rig.broken()).toEqual([]);
    const older = new ShadowRig();
    older.fourLevels();
    older.fault(0, 2);
    expect(older.spte(older.page(1, 4), 1)).toBe('0');
  });

  test('EPT: tables and pages suppress #VE, and may be executed by users', () => {
    const format = formatOf({ vendor: 'intel' });
    format.makeTable(0x101, false);
    expect(text(format)).toBe('8000000000101d07');
    format.makeTable(0x101, true);
    expect(text(format)).toBe('9000000000101c07');
    const amd = formatOf({});
    amd.makeTable(0x101, false);
    expect(text(amd)).toBe('101827');
  });

  test('EPT without A/D bits: KVM keeps its own there, and puts rights aside in bits 52, 54 and 62', () => {
    const format = formatOf({ vendor: 'intel', eptAd: false });
    format.makeLeaf(1, RWUX & ~ACC_WRITE, 0x100, flags());
    expect(text(format)).toBe('9020000000100d75');
    expect(format.isAccessed(format.lo, format.hi)).toBe(true);
    format.track(format.lo, format.hi);
    expect(text(format)).toBe('d070000000100870');
    expect(format.isAccessTracked(format.lo, format.hi)).toBe(true);
    expect(format.isAccessed(format.lo, format.hi)).toBe(false);
    format.restore(format.lo, format.hi);
    expect(text(format)).toBe('9020000000100c75');
  });

  test('a large page that is split or merged changes who may execute it, tracked or not', () => {
    const format = formatOf({ vendor: 'intel', eptAd: false, nxHugePages: true });
    format.makeLeaf(2, RWUX, 0x200, flags());
    expect(text(format)).toBe('90a00000002009f3');
    const [lo, hi] = [format.lo, format.hi];
    format.splitPart(lo, hi, 2, 5, RWUX);
    expect(text(format)).toBe('90a0000000205d77');
    format.setExecutable(0);
    expect(text(format)).toBe('90a0000000205973');
    format.track(lo, hi);
    format.splitPart(format.lo, format.hi, 2, 5, RWUX);
    expect(text(format)).toBe('d0f0000000205870');
  });
});

describe('whether an access is allowed (§6.5)', () => {
  const fault = new Fault();
  /** Does a leaf with these rights let it through? `code`: W, U, F. */
  const allows = (change: Partial<KvmConfig>, access: number, code: number, role = 0): boolean => {
    const format = formatOf(change);
    format.makeLeaf(1, access, 0x100, flags());
    fault.begin(0, 0, code, true);
    return format.allows(format.lo, format.hi, fault, role);
  };

  test('by the bitmap, with user and supervisor told apart', () => {
    expect(allows({}, RWUX, 4)).toBe(true);
    expect(allows({}, RWUX & ~ACC_USER, 4)).toBe(false);
    expect(allows({}, RWUX & ~ACC_USER, 0)).toBe(true);
    // 6.1 looks at one bit.
    expect(allows({ profile: '6.1' }, RWUX & ~ACC_USER, 4)).toBe(true);
    expect(allows({}, RWUX & ~ACC_WRITE, 6)).toBe(false);
    expect(allows({}, RWUX & ~ACC_EXEC, 0x14)).toBe(false);
    expect(allows({ vendor: 'intel' }, ACC_EXEC, 0)).toBe(false);
    expect(allows({ vendor: 'intel' }, ACC_EXEC | ACC_READ, 0)).toBe(true);
  });

  test('MBEC and GMET: the root decides whether it matters who fetches', () => {
    const plain = tdpRootRole('7.3', 0, { level: 4, adDisabled: false });
    const mbec = tdpRootRole('7.3', 0, { level: 4, adDisabled: false, mbec: true });
    const gmet = tdpRootRole('7.3', 0, { level: 4, adDisabled: false, gmet: true });
    expect([plain, mbec, gmet].map((role) => cr4SmepOfPage(role, '7.3'))).toEqual([false, true, true]);
    const supervisorOnly = ACC_READ | ACC_EXEC;
    expect(allows({ vendor: 'intel' }, supervisorOnly, 0x14, plain)).toBe(true);
    expect(allows({ vendor: 'intel' }, supervisorOnly, 0x14, mbec)).toBe(false);
    expect(allows({ vendor: 'intel' }, supervisorOnly, 0x10, mbec)).toBe(true);
    // Under GMET a user may use what is not a user's, and a supervisor must not execute what is.
    expect(allows({}, supervisorOnly, 0x14, gmet)).toBe(true);
    expect(allows({}, RWUX, 0x10, gmet)).toBe(false);
    expect(allows({}, RWUX, 0x10, plain)).toBe(true);
  });

  test('the fast path gives back what ageing took, A included', () => {
    const rig = newer({ config: EPT_NO_AD });
    rig.host.hostPages(0x10_0000, 0, 8, HostPage.ABSENT, 1);
    rig.fault(0x10_0000, 2);
    rig.vm.age(0, 0x100, 0x101);
    rig.take();
    expect(rig.fault(0x10_0000, 0)).toBe('FIXED');
    expect(rig.take()).toEqual(['fast 100000 d0f0000000000a70 90a0000000000f75 fixed']);
    expect(rig.fault(0x10_0000, 3)).toBe('FIXED');
    expect(rig.broken()).toEqual([]);
  });
});

describe('NX huge pages (§6.10)', () => {
  const nx = (profile: KvmConfig['profile'], change: Partial<KvmConfig> = {}): Partial<KvmConfig> => ({
    profile,
    tdp: true,
    tdpMmu: false,
    nxHugePages: true,
    ...change,
  });

  test('only a table that is there for it stands in a large page’s way', () => {
    const requested = (profile: KvmConfig['profile'], code: number): string[] => {
      const rig = new ShadowRig({ config: nx(profile) });
      rig.fault(MIB_2, code);
      rig.host.hostPages(MIB_2, 0, 512, HostPage.WRITABLE, 2);
      rig.vm.unmap(0, 0x200, 0x201);
      rig.take();
      rig.fault(MIB_2, 2);
      expect(rig.broken()).toEqual([]);
      return rig.take().filter((line) => line.startsWith('set'));
    };
    expect(requested('7.3', 2)).toEqual(['set l2 200 8000000000000ee7']);
    expect(requested('6.1', 2)[0]).toBe('set l1 200 e67');
    expect(requested('7.3', 16)[0]).toBe('set l1 200 e67');
  });

  test('whatever a fetch makes is there for it, also where the host has small pages', () => {
    for (const [profile, isMarked] of [
      ['6.1', false],
      ['7.3', true],
    ] as const) {
      const direct = new ShadowRig({ config: nx(profile) });
      direct.fault(MIB_2, 16);
      expect(direct.page(0x200, 1, true).nxHugePageDisallowed).toBe(isMarked);
      const shadow = new ShadowRig({ config: nx(profile, { tdp: false }) });
      shadow.fourLevels();
      shadow.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
      shadow.fault(MIB_2, 16);
      expect(shadow.page(0x200, 1, true).nxHugePageDisallowed).toBe(isMarked);
    }
  });
});

describe('one address (§8.4)', () => {
  /** Table 4 unsync, with pages 0x100 to 0x103. */
  function unsync(options: RigOptions = {}): ShadowRig {
    const rig = newer(options);
    rig.fourLevels();
    for (let i = 0; i < 4; i++) rig.put(4, i, ShadowRig.entry(0x100 + i, ALL));
    rig.put(4, 5, ShadowRig.entry(4, ALL));
    rig.fault(0, 2);
    rig.fault(5 * 4096, 2);
    expect(rig.page(4, 1).unsync).toBe(true);
    rig.take();
    rig.takeTold();
    return rig;
  }
  const now = (rig: ShadowRig): string => rig.spte(rig.page(4, 1), 1);
  const invlpg = (rig: ShadowRig): string[] => {
    rig.vcpu.invlpg(0x1000, 0);
    expect(rig.take()).toEqual([]);
    return rig.takeTold();
  };

  test('unchanged: nothing', () => {
    const rig = unsync();
    const before = now(rig);
    expect(invlpg(rig)).toEqual(['address 1000']);
    expect(now(rig)).toBe(before);
    expect(rig.page(4, 1).unsync).toBe(true);
  });

  test('not present, or another frame: dropped and not mapped anew', () => {
    for (const entry of [0, ShadowRig.entry(0x102, ALL)]) {
      const rig = unsync();
      rig.put(4, 1, entry);
      expect(invlpg(rig)).toEqual(['address 1000', 'remote']);
      expect(now(rig)).toBe(EMPTY);
      expect(rig.broken()).toEqual([]);
    }
  });

  test('fewer rights: rewritten, with a flush if it could become writable before', () => {
    const rig = unsync();
    rig.put(4, 1, ShadowRig.entry(0x101, P | U | A | D));
    expect(invlpg(rig)).toEqual(['address 1000', 'remote']);
    expect(now(rig)).toBe('a25');
    rig.put(4, 1, ShadowRig.entry(0x101, P | A | D));
    // No right to write goes: whoever uses the old rights is the guest's business.
    expect(invlpg(rig)).toEqual(['address 1000']);
    expect(now(rig)).toBe('a21');
    expect(rig.broken()).toEqual([]);
  });

  test('more rights: as the guest says, W too unless the frame is shadowed', () => {
    const rig = unsync();
    rig.put(4, 1, ShadowRig.entry(0x101, P | A | D));
    invlpg(rig);
    rig.put(4, 1, ShadowRig.entry(0x101, ALL));
    expect(invlpg(rig)).toEqual(['address 1000']);
    expect(now(rig)).toBe('e67');
    rig.put(4, 1, ShadowRig.entry(0x101, P | U | A | D));
    invlpg(rig);
    rig.pages.slotState.track(0x101, 0);
    rig.put(4, 1, ShadowRig.entry(0x101, ALL));
    invlpg(rig);
    expect(now(rig)).toBe('a25');
    rig.pages.slotState.untrack(0x101, 0);
    expect(rig.broken()).toEqual([]);
  });

  test('the guest’s table cannot be read: the entry goes', () => {
    const rig = unsync();
    rig.host.slotTable.update({
      kind: 'memslot',
      what: 'delete',
      slot: 0,
      addressSpace: 0,
      address: { lo: 0, hi: 0 },
      size: { lo: 0, hi: 0 },
      userspace: { lo: 0, hi: 0 },
      readOnly: false,
      dirtyLog: false,
    });
    expect(invlpg(rig)).toEqual(['address 1000', 'remote']);
    expect(now(rig)).toBe(EMPTY);
  });

  test('a table in step is not read again', () => {
    const rig = newer();
    rig.fourLevels();
    rig.put(4, 1, ShadowRig.entry(0x101, ALL));
    rig.fault(0x1000, 2);
    rig.takeTold();
    rig.take();
    rig.put(4, 1, 0);
    expect(invlpg(rig)).toEqual(['address 1000']);
    expect(now(rig)).toBe('e67');
  });
});

describe('synchronising a table (§6.12)', () => {
  test('rights as before: the entry is not touched, so that what the dirty log took stays taken', () => {
    for (const [profile, expected] of [
      ['6.1', 'e47'],
      ['7.3', 'e65'],
    ] as const) {
      const rig = new ShadowRig({ config: { profile } });
      rig.fourLevels();
      rig.put(4, 0, ShadowRig.entry(0x100, ALL));
      rig.put(4, 5, ShadowRig.entry(4, ALL));
      rig.fault(0, 2);
      rig.fault(5 * 4096, 2);
      for (const sptep of rig.pages.rmap.of(0x100, 1, 0)) rig.pages.writeProtectSpte(sptep, false);
      expect(rig.spte(rig.page(4, 1), 0)).toBe('e65');
      rig.vcpu.request(Request.MMU_SYNC);
      rig.vcpu.serveRequests();
      expect(rig.page(4, 1).unsync).toBe(false);
      expect(rig.spte(rig.page(4, 1), 0)).toBe(expected);
    }
  });

  test('an entry that is rewritten counts as used', () => {
    const rig = newer();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.put(4, 5, ShadowRig.entry(4, ALL));
    rig.fault(0, 2);
    rig.fault(5 * 4096, 2);
    rig.put(4, 0, ShadowRig.entry(0x100, P | W | A | D));
    rig.vcpu.request(Request.MMU_SYNC);
    rig.vcpu.serveRequests();
    expect(rig.spte(rig.page(4, 1), 0)).toBe('e63');
    expect(rig.broken()).toEqual([]);
  });
});

describe('a guest’s root that no memslot has (§8.2, §6.4 step 5.1)', () => {
  test.each([
    'long',
    '32bit',
    'pae',
  ] as const)('%s: runs on tables that lead nowhere, and faults as the guest’s own', (mode) => {
    const rig = newer();
    rig.enter(mode, OUTSIDE);
    rig.vcpu.serveRequests();
    expect(rig.vcpu.tripleFault).toBe(false);
    expect(rig.mmu.root).toBe(DUMMY_ROOT);
    expect(rig.take()).toEqual([]);
    if (mode !== 'pae') {
      expect(rig.fault(0x1000, 2)).toBe('RETRY');
      expect(rig.take()).toEqual(['walker error 2', 'inject 14 2']);
    }
    expect(rig.broken()).toEqual([]);
  });

  test('a memslot comes: the next fault has the root replaced', () => {
    const rig = newer();
    rig.enter('long', OUTSIDE);
    rig.vcpu.serveRequests();
    rig.slot({ slot: 1, base: SLOT_PAGES, size: 0x100 });
    rig.host.hostPages((SLOT_PAGES * 4096) | 0, 0, 0x100, HostPage.WRITABLE, 1);
    rig.put(OUTSIDE, 0, ShadowRig.entry(2, TABLE));
    rig.put(2, 0, ShadowRig.entry(3, TABLE));
    rig.put(3, 0, ShadowRig.entry(4, TABLE));
    rig.put(4, 1, ShadowRig.entry(0x100, ALL));
    expect(rig.fault(0x1000, 2)).toBe('RETRY');
    expect(rig.vcpu.requests & Request.FREE_OBSOLETE_ROOTS).not.toBe(0);
    expect(rig.take()).toEqual([]);
    expect(rig.fault(0x1000, 2)).toBe('FIXED');
    expect(rig.mmu.root!.page!.gfn).toBe(OUTSIDE);
    expect(rig.broken()).toEqual([]);
  });

  test('it is not kept when CR3 changes', () => {
    const rig = newer();
    rig.enter('long', OUTSIDE);
    rig.vcpu.serveRequests();
    rig.vcpu.writeCr3(1 * 4096, 0);
    rig.vcpu.serveRequests();
    expect(rig.mmu.root!.page!.gfn).toBe(1);
    expect(rig.mmu.previous).toEqual([null, null, null]);
  });

  test('PAE: a page directory that no memslot has leaves its place empty', () => {
    const rig = newer({ mode: 'pae' });
    rig.put(1, 0, ShadowRig.entry(2, P));
    rig.put(1, 1, ShadowRig.entry(OUTSIDE, P));
    rig.vcpu.loadPdptes(0x1000, 0);
    rig.vcpu.serveRequests();
    expect(rig.mmu.root!.pae!.map((sp) => sp?.gfn)).toEqual([2, undefined, undefined, undefined]);
    expect(rig.vcpu.tripleFault).toBe(false);
    rig.take();
    expect(rig.fault(addressOf(1, 3), 2)).toBe('RETRY');
    expect(rig.take()).toEqual(['walker error 2', 'inject 14 2']);
    const older = new ShadowRig({ mode: 'pae' });
    older.put(1, 1, ShadowRig.entry(OUTSIDE, P));
    older.vcpu.loadPdptes(0x1000, 0);
    older.vcpu.serveRequests();
    expect(older.vcpu.tripleFault).toBe(true);
  });
});

describe('a write to what is shadowed (§6.6)', () => {
  /** Address 0x6000 maps table 3, which is shadowed. */
  function rigged(profile: KvmConfig['profile'] = '7.3'): ShadowRig {
    const rig = new ShadowRig({ config: { profile } });
    rig.fourLevels();
    rig.put(4, 6, ShadowRig.entry(3, ALL));
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, 2);
    rig.take();
    return rig;
  }
  const write = (rig: ShadowRig, address: number, duringEvent: boolean): (string | number)[] => {
    rig.vcpu.serveRequests();
    const done = rig.handler.handle(address, 0, 3, duringEvent);
    return [done, ...rig.take()];
  };

  test('is emulated', () => {
    expect(write(rigged(), 0x6000, false)).toEqual([RetPf.EMULATE]);
  });

  test('while an event is delivered the shadows go and the guest tries again, but not twice', () => {
    const rig = rigged();
    expect(write(rig, 0x6000, true)).toEqual([RetPf.RETRY, 'zap l2 3']);
    expect(rig.broken()).toEqual([]);
    // Shadowed anew before the write is through.
    rig.fault(0, 2);
    rig.take();
    expect(write(rig, 0x6000, true)).toEqual([RetPf.EMULATE]);
    // Another one in between, and it may again.
    expect(write(rig, 0x6008, false)).toEqual([RetPf.EMULATE]);
    expect(write(rig, 0x6000, true)).toEqual([RetPf.RETRY, 'zap l2 3']);
  });

  test('whereas 6.1 unprotects whatever a fault in an event is about, before it looks', () => {
    const read = (profile: KvmConfig['profile']): string | undefined => {
      const rig = rigged(profile);
      rig.handler.handle(0x6000, 0, 0, true);
      return rig.take().find((line) => line.startsWith('zap'));
    };
    expect(read('6.1')).toBe('zap l2 3');
    expect(read('7.3')).toBeUndefined();
  });

  test('under TDP: if the processor met it on its way through the guest’s own tables', () => {
    const rig = newer({ config: DIRECT });
    rig.fault(0x10_0000, 2);
    rig.pages.slotState.track(0x100, 0);
    rig.pages.indirect = 1;
    expect(rig.handler.handle(0x10_0000, 0, 3, false, 0)).toBe(RetPf.EMULATE);
    // Tracked by somebody else: no shadow goes, and it is emulated all the same.
    expect(rig.handler.handle(0x10_0000, 0, 3, false, PFERR_HI_GUEST_PAGE)).toBe(RetPf.EMULATE);
  });
});

test('flushes are for MMU-writable alone: what becomes read-only for the dirty log is not flushed (§6.11)', () => {
  const rig = newer();
  rig.fourLevels();
  rig.put(4, 0, ShadowRig.entry(0x100, ALL));
  rig.put(4, 5, ShadowRig.entry(4, ALL));
  rig.fault(0, 2);
  rig.fault(5 * 4096, 2);
  for (const sptep of rig.pages.rmap.of(0x100, 1, 0)) rig.pages.writeProtectSpte(sptep, false);
  rig.takeTold();
  rig.put(4, 0, ShadowRig.entry(0x100, P | U | A));
  rig.vcpu.invlpg(0, 0);
  // W had gone before, MMU-writable goes now.
  expect(rig.takeTold()).toEqual(['address 0', 'remote']);
  expect(rig.pages.lo(rig.page(4, 1).sptep(0)) & SPTE_W).toBe(0);
});

test('a fault that has the host copy a page is over before room is made (§6.8 step 9)', () => {
  for (const [profile, zaps] of [
    ['6.1', true],
    ['7.3', false],
  ] as const) {
    const rig = new ShadowRig({ config: { profile } });
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.put(4, 1, ShadowRig.entry(0x101, ALL));
    rig.host.hostPages(0x10_1000, 0, 1, HostPage.READ_ONLY, 1);
    rig.fault(0, 2);
    rig.take();
    rig.pages.maximum = rig.pages.used + 1;
    expect(rig.fault(0x1000, 2)).toBe('RETRY');
    expect(rig.take().some((line) => line.startsWith('zap'))).toBe(zaps);
  }
});

test('a large page that holds one of its own tables: the tables forbid it, by themselves (§6.4)', () => {
  const rig = newer({ hostLevel: 2 });
  rig.fourLevels();
  rig.put(3, 0, ShadowRig.entry(0, ALL | PS));
  rig.fault(0x10_0000, 2);
  expect(rig.take().slice(3, 5)).toEqual(['req l1 100', 'get l1 0 direct']);
  // Neither does 7.3 look for them where they are not: the same, with tables elsewhere.
  rig.put(3, 1, ShadowRig.entry(0x200, ALL | PS));
  rig.fault(MIB_2, 2);
  expect(rig.take()[0]).toBe('req l2 200');
  expect(rig.broken()).toEqual([]);
});

test('MMIO in place of a page: the page goes, and TLBs are flushed (§6.7)', () => {
  const rig = newer();
  rig.fourLevels();
  rig.put(4, 0, ShadowRig.entry(0x100, ALL));
  rig.fault(0, 2);
  rig.put(4, 0, ShadowRig.entry(OUTSIDE, ALL));
  rig.take();
  rig.takeTold();
  expect(rig.fault(0, 2)).toBe('EMULATE');
  expect(rig.take()).toEqual(['req l1 40010', 'mmio 40010 access 7 gen 2']);
  expect(rig.takeTold()).toEqual(['remote']);
  expect(rig.pages.rmap.of(0x100, 1, 0)).toEqual([]);
});
