/** MMIO: SPTEs, their generation, and the vCPU's cache (facts/kvm-mmu.md §6.7, facts/kvm-6.1.md §4.1, §4.5). */

import { describe, expect, test } from 'vitest';
import { ALL, ShadowRig } from './shadow-rig.ts';

const RSVD = 8;
const DEVICE = 0xe0000;

function direct(): ShadowRig {
  const rig = new ShadowRig({ config: { tdp: true, tdpMmu: false } });
  rig.host.slotTable.generation = 8;
  return rig;
}

function shadow(): ShadowRig {
  const rig = new ShadowRig();
  rig.host.slotTable.generation = 8;
  rig.fourLevels();
  rig.put(4, 0, ShadowRig.entry(DEVICE, ALL));
  rig.put(4, 1, ShadowRig.entry(DEVICE, ALL & ~4));
  return rig;
}

describe('a frame without a slot', () => {
  test('direct: marked, and emulated; the next fault comes with RSVD and is known', () => {
    const rig = direct();
    expect(rig.fault(DEVICE * 4096, 2)).toBe('EMULATE');
    expect(rig.take().filter((text) => !text.startsWith('get'))).toEqual(['req l1 e0000', 'mmio e0000 access 7 gen 8']);
    // The cache has the frame.
    expect(rig.fault(DEVICE * 4096 + 0x10, RSVD | 3)).toBe('EMULATE');
    expect(rig.take()).toEqual([]);
    rig.fault((DEVICE + 1) * 4096, 2);
    rig.take();
    // Now it has another: the SPTE is asked.
    expect(rig.fault(DEVICE * 4096 + 0x10, RSVD | 3)).toBe('EMULATE');
    expect(rig.take()).toEqual(['check mmio 8 8', 'handle mmio 0 e0000 access 6']);
    expect(rig.broken()).toEqual([]);
  });

  test('under shadow paging the linear page is what is cached, and rights are the guest entry', () => {
    const rig = shadow();
    rig.fault(0x10, 2);
    expect(rig.take().slice(-1)).toEqual(['mmio e0000 access 7 gen 8']);
    rig.fault(0x1010, 2);
    expect(rig.take().slice(-1)).toEqual(['mmio e0000 access 3 gen 8']);
    expect(rig.fault(0x1020, RSVD | 3)).toBe('EMULATE');
    expect(rig.take()).toEqual([]);
    expect(rig.fault(0x20, RSVD | 3)).toBe('EMULATE');
    expect(rig.take()).toEqual(['check mmio 8 8', 'handle mmio 20 e0000 access 6']);
    // INVLPG clears the cache for its page.
    rig.vcpu.invlpg(0, 0);
    rig.fault(0x20, RSVD | 3);
    expect(rig.take()).toEqual(['check mmio 8 8', 'handle mmio 20 e0000 access 6']);
    expect(rig.broken()).toEqual([]);
  });

  test('with RSVD, and no MMIO SPTE there: try again', () => {
    const rig = direct();
    rig.fault(0x10_0000, 2);
    rig.take();
    expect(rig.fault(0x10_0000, RSVD | 3)).toBe('RETRY');
    expect(rig.take()).toEqual([]);
  });
});

describe('the generation', () => {
  test('a slot that changes makes SPTE and cache stale: the fault is handled as a new one', () => {
    const rig = direct();
    rig.fault(DEVICE * 4096, 2);
    rig.take();
    rig.slot({ slot: 1, base: 0x5_0000, size: 16 });
    expect(rig.host.generation).toBe(10);
    expect(rig.fault(DEVICE * 4096, RSVD | 3)).toBe('EMULATE');
    expect(rig.take()).toEqual(['check mmio a 8', 'req l1 e0000', 'mmio e0000 access 7 gen a']);
  });

  test('where there is a slot now, memory is mapped in the place of MMIO', () => {
    const rig = direct();
    rig.fault(DEVICE * 4096, 2);
    rig.take();
    rig.slot({ slot: 1, base: DEVICE, size: 16 });
    expect(rig.fault(DEVICE * 4096, RSVD | 3)).toBe('FIXED');
    expect(rig.take().slice(0, 3)).toEqual(['check mmio a 8', 'req l1 e0000', 'set l1 e0000 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('SPTEs hold 19 bits of it', () => {
    const rig = direct();
    rig.host.slotTable.generation = 2 ** 19 + 6;
    rig.fault(DEVICE * 4096, 2);
    expect(rig.take().slice(-1)).toEqual(['mmio e0000 access 7 gen 6']);
  });
});

test('a read-only slot that is written to: emulated, with nothing mapped or marked', () => {
  const rig = direct();
  rig.slot({ slot: 1, base: DEVICE, size: 16, readOnly: true });
  expect(rig.fault(DEVICE * 4096, 2)).toBe('EMULATE');
  expect(rig.take()).toEqual(['get l4 0 direct']);
  expect(rig.fault(DEVICE * 4096, 0)).toBe('FIXED');
  expect(rig.take().slice(-1)).toEqual(['set l1 e0000 825']);
  expect(rig.broken()).toEqual([]);
});

test('MMIO entries of an unsync table are looked at again when it is synchronised', () => {
  const rig = shadow();
  rig.put(4, 8, ShadowRig.entry(4, ALL));
  rig.fault(0x10, 2);
  rig.fault(0x1010, 2);
  rig.fault(8 * 4096, 2);
  expect(rig.page(4, 1).unsync).toBe(true);
  rig.put(4, 1, ShadowRig.entry(DEVICE + 1, ALL));
  rig.take();
  rig.mmu.syncRoots();
  // The same frame: marked anew; another: emptied.
  expect(rig.take()).toEqual(['sync l1 4 unsync', 'mmio e0000 access 7 gen 8']);
  expect(rig.spte(rig.page(4, 1), 1)).toBe('0');
});
