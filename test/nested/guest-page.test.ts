/** L1's own processor sets a bit in a table that L1 uses as a nested page table, too (facts/kvm-6.1.md §4.1, facts/kvm-mmu.md §6.6). */

import { expect, test } from 'vitest';
import { TABLE } from '../mmu/shadow-rig.ts';
import { NCR3_A, NestedRig } from './nested-rig.ts';

/** EXITINFO1 bit 33, as a high half. */
const GUEST_PAGE = 2;

test.each(['6.1', '7.3'] as const)('%s: its shadow goes and L1 tries again, others are emulated', (profile) => {
  const rig = new NestedRig({ config: { vendor: 'amd', profile } });
  rig.base.put(0x100, 0, 0x101_000 + TABLE);
  rig.base.put(0x101, 0, 0x102_000 + TABLE);
  rig.base.put(0x102, 0, 0x103_000 + TABLE);
  rig.base.put(0x103, 9, 0x9000 + TABLE + 0x40);
  rig.vmrun(NCR3_A);
  rig.serve();
  rig.handler.handle(0x9010, 0, 6, false);
  rig.leave();
  rig.serve();
  rig.take();
  expect(rig.handler.handle(0x10_2008, 0, 7, false)).toBe(2);
  expect(rig.take()).toEqual([]);
  expect(rig.handler.handle(0x10_1008, 0, 7, false, GUEST_PAGE)).toBe(1);
  expect(rig.take()[0]).toBe('zap l3 101');
});
