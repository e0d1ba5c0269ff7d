/** MMIO of L1's that L2 touches (facts/kvm-mmu.md §6.7). */

import { expect, test } from 'vitest';
import { RetPf } from '../../src/mmu/fault.ts';
import { TABLE } from '../mmu/shadow-rig.ts';
import { NCR3_A, NestedRig } from './nested-rig.ts';

const RSVD = 8;
/** An L1 frame in no memslot. */
const DEVICE = 0xf_e000;

/** L2's nGPA 9000 is the device. */
function rigInL2(profile: '6.1' | '7.3'): NestedRig {
  const rig = new NestedRig({ config: { vendor: 'amd', profile } });
  rig.base.put(0x100, 0, 0x101_000 + TABLE);
  rig.base.put(0x101, 0, 0x102_000 + TABLE);
  rig.base.put(0x102, 0, 0x103_000 + TABLE);
  rig.base.put(0x103, 9, DEVICE * 4096 + TABLE + 0x40);
  rig.vmrun(NCR3_A);
  rig.serve();
  rig.take();
  return rig;
}

test.each([
  '6.1',
  '7.3',
] as const)('%s: leaves no linear page to be known by, and the next fault looks at the SPTE', (profile) => {
  const rig = rigInL2(profile);
  const { mmioCache } = rig.vcpu;
  expect(rig.handler.handle(0x9010, 0, 4, false)).toBe(2);
  expect(rig.take().at(-1)).toMatch(/^mmio fe000 /);
  expect([mmioCache.gfn, mmioCache.matchesGva(0x9010, 0)]).toEqual([DEVICE, false]);
  expect(rig.handler.handle(0x9010, 0, RSVD | 5, false)).toBe(2);
  expect(rig.take().map((text) => text.split(' ').slice(0, 2).join(' '))).toEqual(['check mmio', 'handle mmio']);
  expect(mmioCache.matchesGva(0x9010, 0)).toBe(false);
});

test('what L1 has cached by its physical address does not serve an nGPA that is the same number', () => {
  const rig = rigInL2('6.1');
  rig.leave();
  rig.serve();
  // L1's own frame 9 in no memslot would be cached like this.
  rig.vcpu.mmioCache.current = rig.base.host.generation;
  rig.vcpu.mmioCache.set(0x9000, 0, 9, 0);
  rig.vmrun(NCR3_A);
  rig.serve();
  rig.take();
  // Nothing is mapped for the nGPA: not MMIO, to be tried again.
  expect(rig.handler.handle(0x9010, 0, RSVD | 5, false)).toBe(1);
});

test.each([
  [1, RetPf.FIXED],
  [32764, RetPf.EMULATE],
])("what is in slot %i, of KVM's own ones nothing, is there for L2", (slot, done) => {
  const rig = rigInL2('6.1');
  rig.leave();
  rig.base.slot({ slot, base: DEVICE, size: 1 });
  rig.vmrun(NCR3_A);
  rig.serve();
  rig.take();
  expect(rig.handler.handle(0x9010, 0, 4, false)).toBe(done);
  expect(rig.take().some((text) => text.startsWith('mmio '))).toBe(done === RetPf.EMULATE);
});
