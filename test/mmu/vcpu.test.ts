/** Requests in their order, and what register writes and invalidations ask for (facts/kvm-mmu.md §8.1, §8.3, §8.4). */

import { describe, expect, test } from 'vitest';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
} from '../../src/formats/registers.ts';
import type { Root } from '../../src/mmu/root.ts';
import { Request } from '../../src/mmu/vcpu.ts';
import { ALL, type RigOptions, ShadowRig, TABLE } from './shadow-rig.ts';

const { MMU_SYNC, LOAD_MMU_PGD, TLB_FLUSH, TLB_FLUSH_CURRENT, TLB_FLUSH_GUEST, FREE_OBSOLETE_ROOTS } = Request;
const TDP: RigOptions = { config: { tdp: true, tdpMmu: false } };
const ON = CR0_PG | CR0_WP | CR0_PE;

/** With a root, and nothing left to do. */
function running(options: RigOptions = {}, setUp: (rig: ShadowRig) => void = () => {}): ShadowRig {
  const rig = new ShadowRig(options);
  setUp(rig);
  rig.vcpu.serveRequests();
  rig.vcpu.requests = 0;
  rig.take();
  rig.takeTold();
  return rig;
}

test('requests are served in their order, whatever the order they came in', () => {
  const rig = running();
  rig.put(1, 0, ShadowRig.entry(2, TABLE));
  rig.vcpu.request(TLB_FLUSH_GUEST | TLB_FLUSH_CURRENT | LOAD_MMU_PGD | MMU_SYNC);
  rig.vcpu.serveRequests();
  expect(rig.takeTold()).toEqual(['root 1', 'context', 'context']);
  expect(rig.vcpu.requests).toBe(0);
});

test('TLB_FLUSH makes TLB_FLUSH_CURRENT unnecessary, not TLB_FLUSH_GUEST', () => {
  const rig = running();
  rig.vcpu.request(TLB_FLUSH | TLB_FLUSH_CURRENT);
  rig.vcpu.serveRequests();
  expect(rig.takeTold()).toEqual(['all']);
  rig.vcpu.request(TLB_FLUSH | TLB_FLUSH_GUEST);
  rig.vcpu.serveRequests();
  expect(rig.takeTold()).toEqual(['all', 'context']);
});

test('obsolete roots go first, and the load comes last', () => {
  const rig = running();
  rig.vm.zapAllFast();
  rig.takeTold();
  rig.vcpu.request(MMU_SYNC | TLB_FLUSH_CURRENT);
  rig.vcpu.serveRequests();
  expect(rig.takeTold().filter((told) => told !== 'remote')).toEqual(['no root', 'context', 'root 1', 'context']);
  expect(rig.vcpu.requests & FREE_OBSOLETE_ROOTS).toBe(0);
});

test('TLB_FLUSH_GUEST synchronises under shadow paging, and frees previous roots that are not in step', () => {
  const rig = running();
  rig.fourLevels();
  rig.put(4, 1, ShadowRig.entry(5, ALL));
  rig.put(5, 0, ShadowRig.entry(0x100, ALL));
  rig.put(3, 1, ShadowRig.entry(5, TABLE));
  rig.fault(0x20_0000, 2);
  rig.fault(0x1000, 2);
  expect(rig.page(5, 1).unsync).toBe(true);
  rig.vcpu.writeCr3(0x30 * 4096, 0);
  rig.vcpu.serveRequests();
  rig.vcpu.writeCr3(0x31 * 4096, 0);
  rig.vcpu.serveRequests();
  expect(rig.mmu.previous.map((root) => root?.page?.gfn)).toEqual([0x30, 1, undefined]);
  rig.take();
  rig.vcpu.request(TLB_FLUSH_GUEST);
  rig.vcpu.serveRequests();
  expect(rig.mmu.previous.map((root) => root?.page?.gfn)).toEqual([0x30, undefined, undefined]);
  rig.vcpu.writeCr3(0x1 * 4096, 0);
  rig.vcpu.serveRequests();
  expect(rig.take()).toEqual(['get l4 1 existing', 'sync l1 5 unsync']);
});

type Case = [what: string, options: RigOptions, setUp: (rig: ShadowRig) => void, write: (rig: ShadowRig) => unknown];
interface Effect {
  /** Requests that are raised. */
  requests?: number;
  /** All roots are gone. */
  unloads?: boolean;
  root?: 'gone' | 'kept';
}

const none = (): void => {};
const cr0 = (value: number) => (rig: ShadowRig) => rig.vcpu.writeCr0(value);
const cr4 = (change: number) => (rig: ShadowRig) => rig.vcpu.writeCr4(rig.registers[2 * Reg.CR4]! ^ change);
const efer = (change: number) => (rig: ShadowRig) => rig.vcpu.writeEfer(rig.registers[2 * Reg.EFER]! ^ change);
const enter =
  (mode: 'long' | 'pae' | '32bit' | 'real', change: { cr0?: number; cr4?: number; efer?: number } = {}) =>
  (rig: ShadowRig) =>
    rig.enter(mode, 1, change);
const pae = enter('pae');

const CASES: [...Case, Effect][] = [
  ['CR0.WP without paging, 6.1', {}, enter('real'), cr0(CR0_WP), { unloads: true }],
  ['CR0.WP without paging, 7.3', { config: { profile: '7.3' } }, enter('real'), cr0(CR0_WP), { root: 'kept' }],
  ['CR0.WP without paging under TDP', TDP, enter('real'), cr0(CR0_WP), { root: 'kept' }],
  ['CR0.WP under shadow paging', {}, none, cr0(CR0_PG | CR0_PE), { unloads: true }],
  ['CR0.WP under TDP: roles only', TDP, none, cr0(CR0_PG | CR0_PE), { root: 'kept' }],
  ['CR0.PG and WP under TDP', TDP, none, cr0(CR0_PE), { unloads: true, requests: TLB_FLUSH_GUEST }],
  ['CR0.PG off', {}, none, cr0(CR0_WP | CR0_PE), { unloads: true, requests: TLB_FLUSH_GUEST }],
  ['CR0.PG on', {}, enter('real'), cr0(ON), { unloads: true }],
  ['CR0.CD outside PAE paging', {}, none, cr0(ON | (1 << 30)), { root: 'kept' }],
  ['CR0.CD with PAE: PDPTEs are loaded', {}, pae, cr0(ON | (1 << 30)), { requests: LOAD_MMU_PGD, root: 'kept' }],
  ['CR4.PSE', {}, none, cr4(CR4_PSE), { unloads: true }],
  ['CR4.SMEP on', {}, none, cr4(CR4_SMEP), { unloads: true, requests: TLB_FLUSH_CURRENT }],
  ['CR4.SMEP off', {}, enter('long', { cr4: CR4_SMEP }), cr4(CR4_SMEP), { unloads: true }],
  ['CR4.SMAP', {}, none, cr4(CR4_SMAP), { unloads: true }],
  ['CR4.PKE', {}, none, cr4(CR4_PKE), { unloads: true }],
  ['CR4.PKE under TDP', TDP, none, cr4(CR4_PKE), { unloads: true }],
  ['CR4.LA57 while it may change', {}, enter('real'), cr4(CR4_LA57), { unloads: true }],
  ['CR4.PAE', {}, enter('32bit'), cr4(CR4_PAE), { unloads: true, requests: TLB_FLUSH_CURRENT | LOAD_MMU_PGD }],
  ['CR4.PCIDE on under shadow paging', {}, none, cr4(CR4_PCIDE), { unloads: true }],
  ['CR4.PCIDE on under TDP', TDP, none, cr4(CR4_PCIDE), { root: 'kept' }],
  ['CR4.PCIDE off', {}, enter('long', { cr4: CR4_PCIDE }), cr4(CR4_PCIDE), { requests: TLB_FLUSH_GUEST, root: 'kept' }],
  ['CR4.PGE on', {}, none, cr4(CR4_PGE), { requests: TLB_FLUSH_GUEST, root: 'kept' }],
  [
    'CR4.PGE off under TDP',
    TDP,
    enter('long', { cr4: CR4_PGE }),
    cr4(CR4_PGE),
    { requests: TLB_FLUSH_GUEST, root: 'kept' },
  ],
  ['CR4.PGE with PAE paging', {}, pae, cr4(CR4_PGE), { requests: TLB_FLUSH_GUEST | LOAD_MMU_PGD, root: 'kept' }],
  [
    'CR4.PGE and SMEP: the guest flush is enough',
    {},
    none,
    cr4(CR4_PGE | CR4_SMEP),
    { unloads: true, requests: TLB_FLUSH_GUEST },
  ],
  ['EFER.NXE', {}, none, efer(EFER_NXE), { unloads: true }],
  ['EFER.NXE under TDP', TDP, none, efer(EFER_NXE), { unloads: true }],
  ['EFER.LME', {}, enter('real'), efer(EFER_LME), { unloads: true }],
  ['EFER.SCE', {}, none, efer(1), { root: 'kept' }],
  [
    'CR3, the same value',
    {},
    none,
    (rig) => rig.vcpu.writeCr3(0x1000, 0),
    { requests: MMU_SYNC | TLB_FLUSH_CURRENT, root: 'kept' },
  ],
  [
    'CR3, another',
    {},
    none,
    (rig) => rig.vcpu.writeCr3(0x2000, 0),
    { requests: MMU_SYNC | TLB_FLUSH_CURRENT, root: 'gone' },
  ],
  [
    'CR3 with PAE: PDPTEs are loaded even if it is the same',
    {},
    pae,
    (rig) => rig.vcpu.writeCr3(0x1000, 0),
    { requests: MMU_SYNC | TLB_FLUSH_CURRENT | LOAD_MMU_PGD, root: 'kept' },
  ],
  [
    'CR3 with bit 63 and PCIDs: nothing is flushed',
    {},
    enter('long', { cr4: CR4_PCIDE }),
    (rig) => rig.vcpu.writeCr3(0x1000, 0x8000_0000 | 0),
    { root: 'kept' },
  ],
  ['CR3 under TDP', TDP, none, (rig) => rig.vcpu.writeCr3(0x1000, 0), { requests: TLB_FLUSH_GUEST, root: 'kept' }],
];

describe('register writes', () => {
  test.each(CASES)('%s', (_, options, setUp, write, effect) => {
    const rig = running(options, setUp);
    const { root } = rig.mmu;
    expect(root).not.toBeNull();
    write(rig);
    expect(rig.vcpu.requests.toString(2)).toBe((effect.requests ?? 0).toString(2));
    if (effect.unloads === true) {
      expect(rig.mmu.root).toBeNull();
      expect(rig.mmu.previous).toEqual([null, null, null]);
    }
    if (effect.root === 'gone') expect(rig.mmu.root).toBeNull();
    if (effect.root === 'kept') expect(rig.mmu.root).toBe(root);
    expect(rig.broken()).toEqual([]);
  });

  test('LMA follows CR0.PG where LME is set', () => {
    const rig = running({}, enter('real', { efer: EFER_LME | EFER_NXE, cr4: CR4_PAE }));
    rig.vcpu.writeCr0(ON);
    expect(rig.registers[2 * Reg.EFER]! & EFER_LMA).toBe(EFER_LMA);
    rig.vcpu.writeCr0(CR0_PE);
    expect(rig.registers[2 * Reg.EFER]! & EFER_LMA).toBe(0);
    rig.vcpu.writeEfer(EFER_LME | EFER_LMA);
    expect(rig.registers[2 * Reg.EFER]! & EFER_LMA).toBe(0);
  });

  test('changed PDPTEs cost the root in force, under shadow paging only', () => {
    for (const [options, root] of [
      [{}, 'gone'],
      [TDP, 'kept'],
    ] as const) {
      const rig = running(options, pae);
      rig.put(1, 2, 0x5001);
      rig.vcpu.writeCr0(ON | (1 << 30));
      expect(rig.mmu.root === null).toBe(root === 'gone');
    }
  });

  test('a PDPTE with reserved bits: #GP, and nothing has changed', () => {
    const rig = running({}, pae);
    rig.put(1, 0, 0x5007);
    expect(rig.vcpu.writeCr3(0x1000, 0)).toBe(false);
    expect(rig.vcpu.writeCr4(rig.registers[2 * Reg.CR4]! | CR4_PGE)).toBe(false);
    expect(rig.registers[2 * Reg.CR4]! & CR4_PGE).toBe(0);
    expect(rig.vcpu.requests).toBe(0);
  });

  test('SET_CPUID: roles are taken over anew though no bit has changed', () => {
    const rig = running();
    const role = rig.mmu.rootRole;
    rig.vcpu.afterSetCpuid({ ...rig.vcpu.cpuWalk.features, maxphyaddr: 36 });
    expect(rig.mmu.root).toBeNull();
    expect(rig.mmu.rootRole).toBe(role);
    expect(rig.vcpu.cpuWalk.features.maxphyaddr).toBe(36);
  });
});

describe('invalidation', () => {
  /** Roots with PCIDs 1 (in force), 2, 1 and 3. */
  function withPcids(): ShadowRig {
    const rig = running({}, enter('long', { cr4: CR4_PCIDE }));
    for (const cr3 of [0x1_0003, 0x2_0001, 0x3_0002, 0x4_0001]) {
      rig.vcpu.writeCr3(cr3, 0x8000_0000 | 0);
      rig.vcpu.serveRequests();
    }
    rig.takeTold();
    rig.take();
    return rig;
  }
  const pgds = (rig: ShadowRig): (string | undefined)[] =>
    [rig.mmu.root, ...rig.mmu.previous].map((root: Root | null) => root?.pgd.toString(16));

  test('CR3 with another PCID frees what is kept of it', () => {
    const rig = withPcids();
    expect(pgds(rig)).toEqual(['40001', '30002', '20001', '10003']);
    rig.vcpu.writeCr3(0x5_0003, 0);
    expect(pgds(rig)).toEqual([undefined, '40001', '30002', '20001']);
    rig.vcpu.serveRequests();
    rig.vcpu.writeCr3(0x6_0001, 0);
    expect(pgds(rig)).toEqual([undefined, '50003', undefined, '30002']);
  });

  test('INVPCID: one address, one PCID, everything', () => {
    const rig = withPcids();
    expect(rig.vcpu.invpcid(1, 2, 0, 0)).toBe(true);
    expect(pgds(rig)).toEqual(['40001', undefined, '20001', '10003']);
    expect(rig.vcpu.requests).toBe(0);
    rig.vcpu.invpcid(1, 1, 0, 0);
    expect(pgds(rig)).toEqual(['40001', undefined, undefined, '10003']);
    expect(rig.vcpu.requests).toBe(MMU_SYNC | TLB_FLUSH_CURRENT);
    rig.vcpu.requests = 0;
    for (const type of [2, 3]) {
      rig.vcpu.invpcid(type, 0, 0, 0);
      expect(rig.vcpu.requests).toBe(TLB_FLUSH_GUEST);
      rig.vcpu.requests = 0;
    }
    expect(rig.vcpu.invpcid(0, 1, 0x5000, 0)).toBe(true);
    expect(rig.takeTold()).toEqual(['address 5000']);
  });

  test('INVPCID refuses what the architecture refuses', () => {
    const rig = withPcids();
    expect(rig.vcpu.invpcid(4, 0, 0, 0)).toBe(false);
    expect(rig.vcpu.invpcid(0, 0x1000, 0, 0)).toBe(false);
    expect(rig.vcpu.invpcid(0, 1, 0, 0x8000)).toBe(false);
    const without = running();
    expect(without.vcpu.invpcid(0, 1, 0, 0)).toBe(false);
    expect(without.vcpu.invpcid(1, 1, 0, 0)).toBe(false);
    expect(without.vcpu.invpcid(1, 0, 0, 0)).toBe(true);
  });

  test('INVLPG of an address that is not canonical does nothing', () => {
    const rig = running();
    rig.vcpu.invlpg(0, 0x8000);
    expect(rig.takeTold()).toEqual([]);
    rig.vcpu.invlpg(0x1000, 0xffff_8000 | 0);
    expect(rig.takeTold()).toEqual(['address 1000']);
  });

  test('INVLPG maps anew what an unsync table has, in every root', () => {
    const rig = running();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.put(4, 1, ShadowRig.entry(4, ALL));
    rig.fault(0, 2);
    rig.fault(0x1000, 2);
    expect(rig.take()).toContain('unsync l1 4');
    rig.put(4, 0, ShadowRig.entry(0x105, ALL));
    rig.vcpu.invlpg(0, 0);
    expect(rig.take()).toEqual(['set l1 105 e47']);
    expect(rig.broken()).toEqual([]);
    // A table that is in step is left alone.
    rig.mmu.syncRoots();
    rig.take();
    rig.vcpu.invlpg(0, 0);
    expect(rig.take()).toEqual([]);
    expect(rig.takeTold()).toContain('address 0');
  });
});
