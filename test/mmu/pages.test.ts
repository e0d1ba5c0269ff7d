/** Life of shadow pages: events and their order (facts/kvm-6.1.md §2, §4.3; facts/kvm-mmu.md §6.12). */

import { describe, expect, test } from 'vitest';
import { Request } from '../../src/mmu/vcpu.ts';
import { A, ALL, addressOf, P, ShadowRig, TABLE, U } from './shadow-rig.ts';

const MIB_2 = addressOf(1, 2);
const GIB = addressOf(1, 3);

/** `count` level-1 tables from frame 0x10 on, below table 3; each maps page 0x100 + i at its entry 0. */
function manyTables(rig: ShadowRig, count: number): void {
  rig.fourLevels();
  for (let i = 0; i < count; i++) {
    rig.put(3, i, ShadowRig.entry(0x10 + i, TABLE));
    rig.put(0x10 + i, 0, ShadowRig.entry(0x100 + i, ALL));
  }
}

/** Makes all of these tables unsync, by mapping them writable through table 5, which entry 1 of table 2 leads to. */
function makeUnsync(rig: ShadowRig, count: number): void {
  rig.put(2, 1, ShadowRig.entry(6, TABLE));
  rig.put(6, 0, ShadowRig.entry(5, TABLE));
  for (let i = 0; i < count; i++) rig.put(5, i * 8, ShadowRig.entry(0x10 + i, ALL));
  for (let i = 0; i < count; i++) rig.fault(GIB + i * 8 * 4096, 2);
}

describe('getting a page', () => {
  test('from the top, then what is asked for, then the leaf', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    expect(rig.fault(0, 2)).toBe('FIXED');
    expect(rig.take()).toEqual(['get l4 1', 'get l3 2', 'get l2 3', 'get l1 4', 'req l1 100', 'set l1 100 e67']);
    rig.put(4, 100, ShadowRig.entry(0x101, ALL));
    rig.fault(100 * 4096, 0);
    expect(rig.take()).toEqual(['req l1 101', 'set l1 101 e67']);
    // 6.1 forgets D when it builds anew what is writable already.
    expect(rig.fault(100 * 4096, 0)).toBe('FIXED');
    expect(rig.take()).toEqual(['req l1 101', 'set l1 101 e27']);
    expect(rig.fault(100 * 4096, 0)).toBe('SPURIOUS');
    expect(rig.take()).toEqual(['req l1 101']);
  });

  test('what was unlinked is found again; other rights are another page', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, 2);
    rig.emulatedWrite(3, 0, 8);
    rig.take();
    rig.fault(0, 2);
    expect(rig.take()).toEqual(['get l1 4 existing', 'req l1 100', 'set l1 100 e27']);
    rig.put(3, 0, ShadowRig.entry(4, P | U | A));
    rig.emulatedWrite(3, 0, 8);
    rig.fault(0, 0);
    expect(rig.take()).toEqual(['get l1 4', 'req l1 100', 'set l1 100 a25']);
    expect(rig.broken()).toEqual([]);
  });

  test('a table that comes to be shadowed cannot be written to unnoticed any more', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(3, 1, ShadowRig.entry(5, TABLE));
    rig.put(4, 0, ShadowRig.entry(5, ALL));
    rig.put(4, 8, ShadowRig.entry(3, P | U | A));
    rig.put(5, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, 2);
    expect(rig.spte(rig.page(4, 1), 0)).toBe('e67');
    rig.takeTold();
    rig.fault(MIB_2, 2);
    expect(rig.spte(rig.page(4, 1), 0)).toBe('a65');
    expect(rig.takeTold()).toEqual(['remote']);
  });

  test('an unsync page gives way to a page of a higher level for the same frame', () => {
    const rig = new ShadowRig();
    manyTables(rig, 1);
    rig.fault(0, 2);
    makeUnsync(rig, 1);
    expect(rig.page(0x10, 1).unsync).toBe(true);
    rig.put(2, 2, ShadowRig.entry(0x10, TABLE));
    rig.put(0x10, 0, ShadowRig.entry(0x11, TABLE));
    rig.put(0x11, 0, ShadowRig.entry(0x200, ALL));
    rig.take();
    rig.fault(2 * GIB, 2);
    const zaps = ['zap l1 10 unsync', 'sync l1 10 unsync'];
    expect(rig.take()).toEqual([...zaps, 'get l2 10', 'get l1 11', 'req l1 200', 'set l1 200 e67']);
    expect(rig.broken()).toEqual([]);
  });
});

describe('unsync', () => {
  test('a write to a level-1 table: asked for, unsync, set', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(4, ALL));
    expect(rig.fault(0, 2)).toBe('FIXED');
    expect(rig.take().slice(4)).toEqual(['req l1 4', 'unsync l1 4', 'set l1 4 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('a write to a table above: emulated, by 6.1 and by 7.3', () => {
    for (const profile of ['6.1', '7.3'] as const) {
      const rig = new ShadowRig({ config: { profile } });
      rig.fourLevels();
      rig.put(4, 0, ShadowRig.entry(3, ALL));
      // Not present yet: mapped read-only.
      expect(rig.fault(0, 2)).toBe('EMULATE');
      expect(rig.spte(rig.page(4, 1), 0)).toBe('a25');
      rig.take();
      // Present: seen before anything is done.
      expect(rig.fault(0, 3)).toBe('EMULATE');
      expect(rig.take()).toEqual([]);
    }
  });

  test('a read of a table maps it read-only unless it is unsync', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(4, ALL));
    rig.fault(0, 0);
    // A read that could be a write makes the table unsync at once.
    expect(rig.take().slice(4)).toEqual(['req l1 4', 'unsync l1 4', 'set l1 4 e67']);
  });

  test('20 tables synchronise in order, 13 in the first batch: the ways to them count, too', () => {
    const rig = new ShadowRig();
    manyTables(rig, 20);
    for (let i = 0; i < 20; i++) rig.fault(i * MIB_2, 2);
    makeUnsync(rig, 20);
    expect(rig.broken()).toEqual([]);
    expect(rig.page(1, 4).unsyncChildren).toBe(1);
    expect(rig.page(3, 2).unsyncChildren).toBe(20);
    rig.take();
    rig.takeTold();
    rig.vcpu.request(Request.MMU_SYNC);
    rig.vcpu.serveRequests();
    expect(rig.take()).toEqual(Array.from({ length: 20 }, (_, i) => `sync l1 ${(0x10 + i).toString(16)} unsync`));
    // Each batch is write-protected together; and what is rewritten has lost A.
    expect(rig.takeTold().filter((told) => told === 'remote')).toHaveLength(3);
    expect(rig.page(1, 4).unsyncChildren).toBe(0);
    expect(rig.spte(rig.page(0x10, 1), 0)).toBe('e07');
    expect(rig.broken()).toEqual([]);
  });

  test('what the guest changed meanwhile takes effect, and nothing else', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    for (let i = 0; i < 6; i++) rig.put(4, i, ShadowRig.entry(0x100 + i, ALL));
    rig.put(4, 16, ShadowRig.entry(4, ALL));
    rig.fault(0, 2);
    rig.fault(16 * 4096, 2);
    rig.put(4, 0, ShadowRig.entry(0x100, P | U | A));
    rig.put(4, 1, ShadowRig.entry(0x109, ALL));
    rig.put(4, 2, 0);
    rig.put(4, 3, ShadowRig.entry(0x103, ALL & ~A));
    rig.put(4, 4, ShadowRig.entry(0x104, P | U | A), true);
    rig.take();
    rig.mmu.syncRoots();
    expect(rig.take()).toEqual(['sync l1 4 unsync']);
    const sp = rig.page(4, 1);
    const sptes = [0, 1, 2, 3, 4, 5, 16].map((index) => rig.spte(sp, index));
    expect(sptes).toEqual(['a05', '0', '0', '0', '8000000000000a05', 'e07', 'a05']);
    expect(rig.broken()).toEqual([]);
  });

  test('a page of another mode cannot be synchronised: it is zapped', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(4, ALL));
    rig.fault(0, 2);
    rig.take();
    rig.mmu.synchroniser.rootRole ^= 1 << 13;
    rig.mmu.syncRoots();
    expect(rig.take()).toEqual(['sync l1 4 unsync', 'zap l1 4']);
    expect(rig.broken()).toEqual([]);
  });
});

describe('zapping', () => {
  test('a table, the unsync tables below it, each followed by its sync; tables in step are only let go', () => {
    const rig = new ShadowRig();
    manyTables(rig, 4);
    for (let i = 0; i < 4; i++) rig.fault(i * MIB_2, 2);
    makeUnsync(rig, 3);
    rig.take();
    expect(rig.pages.unprotect(3)).toBe(true);
    const below = ['10', '11', '12'].flatMap((gfn) => [`zap l1 ${gfn} unsync`, `sync l1 ${gfn} unsync`]);
    expect(rig.take()).toEqual(['zap l2 3', ...below]);
    expect(rig.page(0x13, 1).parents).toEqual([]);
    expect(rig.broken()).toEqual([]);
    expect(rig.pages.unprotect(3)).toBe(false);
  });

  test('more unsync tables than a batch holds', () => {
    const rig = new ShadowRig();
    manyTables(rig, 20);
    for (let i = 0; i < 20; i++) rig.fault(i * MIB_2, 2);
    makeUnsync(rig, 20);
    rig.take();
    rig.pages.unprotect(3);
    const zapped = rig.take().filter((text) => text.startsWith('zap'));
    expect(zapped).toEqual([
      'zap l2 3',
      ...Array.from({ length: 20 }, (_, i) => `zap l1 ${(0x10 + i).toString(16)} unsync`),
    ]);
    expect(rig.broken()).toEqual([]);
  });

  test('all pages that shadow a frame, newest first', () => {
    const rig = new ShadowRig({ mode: '32bit' });
    rig.vcpu.serveRequests();
    rig.vcpu.unload();
    rig.take();
    rig.pages.unprotect(1);
    expect(rig.take()).toEqual(['zap l2 1 q3', 'zap l2 1 q2', 'zap l2 1 q1', 'zap l2 1']);
  });

  test('zap-all-fast begins with the oldest, the end of the VM with the newest', () => {
    const build = (): ShadowRig => {
      const rig = new ShadowRig();
      rig.fourLevels();
      rig.put(4, 0, ShadowRig.entry(0x100, ALL));
      rig.fault(0, 2);
      rig.take();
      return rig;
    };
    const fast = build();
    fast.vm.zapAllFast();
    expect(fast.take()).toEqual(['zap all 0 used 4', 'zap l4 1 root 1', 'zap l3 2', 'zap l2 3', 'zap l1 4']);
    expect(fast.pages.used).toBe(1);
    expect(fast.broken()).toEqual([]);
    const end = build();
    end.vm.zapAll();
    expect(end.take()).toEqual(['zap l1 4', 'zap l2 3', 'zap l3 2', 'zap l4 1 root 1']);
    expect(end.broken()).toEqual([]);
  });
});

describe('recycling', () => {
  /** As many pages in use as told, of 64. */
  function used(count: number): ShadowRig {
    const rig = new ShadowRig({ maximum: 64 });
    manyTables(rig, count);
    for (let i = 0; i < count - 3; i++) rig.fault(i * MIB_2, 2);
    expect(rig.pages.used).toBe(count);
    rig.take();
    return rig;
  }

  test('21 pages go when 4 are left, oldest first but for the root in force; then the path is built anew', () => {
    const rig = used(60);
    rig.fault(57 * MIB_2, 2);
    const events = rig.take();
    const zaps = events.filter((text) => text.startsWith('zap'));
    expect(zaps).toEqual([
      'zap l3 2',
      'zap l2 3',
      ...Array.from({ length: 19 }, (_, i) => `zap l1 ${(0x10 + i).toString(16)}`),
    ]);
    expect(events.slice(21)).toEqual(['get l3 2', 'get l2 3', 'get l1 49', 'req l1 139', 'set l1 139 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('22 when 3 are left, none when 5 are', () => {
    const three = used(59);
    three.put(2, 2, ShadowRig.entry(0x80, TABLE));
    three.put(0x80, 0, ShadowRig.entry(0x81, TABLE));
    three.put(0x81, 0, ShadowRig.entry(0x200, ALL));
    three.fault(2 * GIB, 2);
    expect(three.take()).toEqual(['get l2 80', 'get l1 81', 'req l1 200', 'set l1 200 e67']);
    three.fault(56 * MIB_2, 2);
    expect(three.take().filter((text) => text.startsWith('zap'))).toHaveLength(22);
    const five = used(59);
    five.fault(56 * MIB_2, 2);
    expect(five.take().filter((text) => text.startsWith('zap'))).toHaveLength(0);
  });

  test('unsync tables below one that goes count as zapped', () => {
    const rig = used(57);
    makeUnsync(rig, 10);
    expect(rig.pages.used).toBe(59);
    rig.fault(54 * MIB_2, 2);
    rig.take();
    rig.fault(55 * MIB_2, 2);
    const zaps = rig.take().filter((text) => text.startsWith('zap'));
    expect(zaps.filter((text) => text.endsWith('unsync'))).toHaveLength(10);
    expect(zaps.length).toBeGreaterThanOrEqual(21);
    expect(rig.broken()).toEqual([]);
  });

  test('the budget follows the slots', () => {
    const rig = new ShadowRig();
    expect(rig.pages.maximum).toBe(Math.floor(0x4_0000 / 50));
    rig.vm.slotsChanged(100);
    expect(rig.pages.maximum).toBe(64);
  });

  test('a frame that is mapped more than a thousand times loses all its SPTEs', () => {
    const rig = new ShadowRig();
    manyTables(rig, 2);
    for (let i = 0; i < 1024; i++) rig.put(0x10 + (i >>> 9), i & 511, ShadowRig.entry(0x100, ALL));
    for (let i = 0; i < 1000; i += 8) rig.fault(i < 512 ? i * 4096 : MIB_2 + (i - 512) * 4096, 2);
    expect(rig.pages.rmap.size).toBe(1000);
    // The second of the next eight is one too many; six more follow.
    rig.fault(MIB_2 + 488 * 4096, 2);
    expect(rig.pages.rmap.size).toBe(6);
    expect(rig.broken()).toEqual([]);
  });
});

describe('from outside', () => {
  test('the host takes pages away, ages them, puts others there', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    for (let i = 0; i < 4; i++) rig.put(4, i * 8, ShadowRig.entry(0x100 + i, ALL));
    for (let i = 0; i < 4; i++) rig.fault(i * 8 * 4096, 2);
    rig.take();
    const sp = rig.page(4, 1);
    rig.vm.age(0, 0x100, 0x101);
    expect(rig.spte(sp, 0)).toBe('e47');
    rig.vm.unmap(0, 0x101, 0x102);
    expect(rig.spte(sp, 8)).toBe('0');
    rig.vm.setPte(0, 0x102, 0x777, false);
    expect(rig.spte(sp, 16)).toBe('845');
    rig.vm.setPte(0, 0x103, 0x778, true);
    expect(rig.spte(sp, 24)).toBe('0');
    expect(rig.take()).toEqual([]);
  });

  test('a dirty log takes W and leaves MMU-writable; the next write is a fault like others', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.fault(0, 2);
    rig.slot({ what: 'flags', dirtyLog: true });
    rig.vm.startDirtyLog(rig.host.slots(0)[0]!);
    expect(rig.spte(rig.page(4, 1), 0)).toBe('e65');
    expect(rig.broken()).toEqual([]);
    rig.take();
    rig.fault(0, 3);
    expect(rig.take()).toEqual(['req l1 100', 'set l1 100 e67']);
    expect(rig.host.slotTable.byId(0, 0)!.isDirty(0x100)).toBe(true);
  });
});
