/** The cache of roots: facts/kvm-mmu.md §8.2, facts/kvm-6.1.md §2.4. */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import type { Root } from '../../src/mmu/root.ts';
import { ShadowRig, TABLE } from './shadow-rig.ts';

/** Loads CR3 with a frame; what the events say. */
function load(rig: ShadowRig, frame: number): string[] {
  rig.vcpu.writeCr3(frame * 4096, 0);
  rig.vcpu.serveRequests();
  return rig.take();
}

function frames(rig: ShadowRig): (number | null)[] {
  const frame = (root: Root | null): number | null => (root === null ? null : Math.floor(root.pgd / 4096));
  return [frame(rig.mmu.root), ...rig.mmu.previous.map(frame)];
}

describe('a root of four levels', () => {
  test('the one in force becomes the first of the previous ones, the fourth falls out', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['get l4 1']);
    expect(load(rig, 2)).toEqual(['get l4 2']);
    expect(frames(rig)).toEqual([2, 1, null, null]);
    expect(load(rig, 3)).toEqual(['get l4 3']);
    expect(load(rig, 4)).toEqual(['get l4 4']);
    expect(frames(rig)).toEqual([4, 3, 2, 1]);
    expect(load(rig, 5)).toEqual(['get l4 5']);
    expect(frames(rig)).toEqual([5, 4, 3, 2]);
    // 1 is nobody's root now, but its table is still there.
    expect(rig.page(1, 4).rootCount).toBe(0);
    expect(load(rig, 1)).toEqual(['get l4 1 existing']);
    expect(frames(rig)).toEqual([1, 5, 4, 3]);
    expect(rig.broken()).toEqual([]);
  });

  test('a hit moves the root forward and keeps the order of those between; it costs no event', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    for (const frame of [2, 3, 4]) load(rig, frame);
    expect(load(rig, 2)).toEqual([]);
    expect(frames(rig)).toEqual([2, 4, 3, 1]);
    expect(load(rig, 2)).toEqual([]);
    expect(frames(rig)).toEqual([2, 4, 3, 1]);
    expect(load(rig, 1)).toEqual([]);
    expect(frames(rig)).toEqual([1, 2, 4, 3]);
    expect(rig.broken()).toEqual([]);
  });

  test('without a root in force a hit leaves a gap at the end', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    for (const frame of [2, 3, 4]) load(rig, frame);
    rig.mmu.freeCurrent();
    expect(rig.mmu.newPgd(2 * 4096)).toBe(true);
    expect(frames(rig)).toEqual([2, 3, 1, null]);
    rig.mmu.freeCurrent();
    expect(rig.mmu.newPgd(9 * 4096)).toBe(false);
    expect(frames(rig)).toEqual([null, 3, 1, null]);
  });

  test('another role makes a root useless', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    load(rig, 2);
    rig.mmu.rootRole ^= 1 << 13;
    expect(rig.mmu.newPgd(1 * 4096)).toBe(false);
  });

  test('a hit: the MMIO cache is cleared, LOAD_MMU_PGD asked for, and the count of emulated writes reset', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    load(rig, 2);
    rig.page(1, 4).writeFloodingCount = 2;
    rig.vcpu.mmioCache.current = 8;
    rig.vcpu.mmioCache.set(0x1000, 0, 0xe0000, 0);
    expect(rig.vcpu.mmioCache.matchesGva(0x1000, 0)).toBe(true);
    rig.takeTold();
    rig.set(Reg.CR3, 1 * 4096);
    rig.vcpu.newPgd();
    expect(rig.page(1, 4).writeFloodingCount).toBe(0);
    expect(rig.vcpu.mmioCache.matchesGva(0x1000, 0)).toBe(false);
    expect(rig.takeTold()).toEqual([]);
    rig.vcpu.serveRequests();
    expect(rig.takeTold()).toEqual(['root 1']);
  });

  test('loading synchronises, tells the hardware, and flushes', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    expect(rig.takeTold()).toEqual(['root 1', 'context']);
    rig.vcpu.writeCr3(2 * 4096, 0);
    expect(rig.takeTold()).toEqual(['no root']);
    rig.vcpu.serveRequests();
    expect(rig.takeTold()).toEqual(['context', 'root 2', 'context']);
  });

  test('a root in no memslot', () => {
    const rig = new ShadowRig();
    load(rig, 0x5_0000);
    expect(rig.mmu.root).toBeNull();
    expect(rig.vcpu.tripleFault).toBe(true);
    load(rig, 3);
    expect(rig.vcpu.tripleFault).toBe(false);
  });
});

describe('roots of other modes', () => {
  test('five levels', () => {
    const rig = new ShadowRig({ mode: 'la57' });
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['get l5 1']);
  });

  test('no paging: four direct tables of 1 GiB each, which are never cached', () => {
    const rig = new ShadowRig({ mode: 'real' });
    rig.vcpu.serveRequests();
    const gets = ['get l2 0 direct', 'get l2 40000 direct', 'get l2 80000 direct', 'get l2 c0000 direct'];
    expect(rig.take()).toEqual(gets);
    expect(rig.mmu.newPgd(0)).toBe(false);
    expect(rig.mmu.previous).toEqual([null, null, null]);
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(gets.map((text) => `${text} existing`));
  });

  test('PAE: a table for each PDPTE that is present', () => {
    const rig = new ShadowRig({ mode: 'pae' });
    rig.vcpu.cpuWalk.pdptes.set([0x5001, 0, 0, 0, 0x6001, 0, 0x7001, 0]);
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['get l2 5', 'get l2 6', 'get l2 7']);
    expect(rig.takeTold()).toEqual(['root 5,-,6,7', 'context']);
    expect(rig.broken()).toEqual([]);
  });

  test('two levels: four quarters of one table', () => {
    const rig = new ShadowRig({ mode: '32bit' });
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['get l2 1', 'get l2 1 q1', 'get l2 1 q2', 'get l2 1 q3']);
    expect(rig.broken()).toEqual([]);
  });

  test('legacy direct tables under TDP: the root does not depend on CR3', () => {
    const rig = new ShadowRig({ config: { tdp: true, tdpLevel: 5 } });
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['get l5 0 direct']);
    expect(rig.mmu.newPgd(0)).toBe(true);
  });
});

describe('obsolete roots', () => {
  test('zap-all-fast: a root that is held is zapped twice, previous ones before the one in force', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    load(rig, 2);
    rig.vm.zapAllFast();
    expect(rig.take()).toEqual(['zap all 0 used 2', 'zap l4 1 root 1', 'zap l4 2 root 1']);
    expect(rig.broken()).toEqual([]);
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['zap l4 1 invalid', 'zap l4 2 invalid', 'get l4 2']);
    expect(rig.page(2, 4).generation).toBe(1);
    expect(rig.broken()).toEqual([]);
  });

  test('a root that is held twice counts twice', () => {
    const rig = new ShadowRig();
    rig.vcpu.serveRequests();
    load(rig, 2);
    // PCIDs give the same table two roots.
    load(rig, 1);
    expect(rig.page(1, 4).rootCount).toBe(1);
    rig.mmu.previous[1] = { pgd: 0x1001, page: rig.page(1, 4), pae: null };
    rig.page(1, 4).rootCount++;
    rig.vm.zapAllFast();
    expect(rig.take()).toContain('zap l4 1 root 2');
    rig.vcpu.serveRequests();
    expect(rig.take().filter((text) => text.startsWith('zap l4 1'))).toEqual(['zap l4 1 invalid']);
  });

  test('unloading frees the roots and leaves the tables', () => {
    const rig = new ShadowRig();
    rig.put(1, 0, ShadowRig.entry(2, TABLE));
    rig.vcpu.serveRequests();
    rig.vcpu.unload();
    expect(rig.page(1, 4).rootCount).toBe(0);
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(['get l4 1', 'get l4 1 existing']);
  });
});
