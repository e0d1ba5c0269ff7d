/** Several vCPUs of one VM: memory and KVM's tables are common, registers, TLBs and roots are each one's own. */

import { describe, expect, test } from 'vitest';
import { GuestMode, Reg, SECONDARY_EPT, SECONDARY_PML, SECONDARY_VPID } from '../../../src/formats/registers.ts';
import { Invalidation, StepKind } from '../../../src/formats/step.ts';
import { NestedBench } from './nested-bench.ts';

const PAGE = 0x1000;
const READ = StepKind.ACCESS;

/** Both vCPUs run L1 on the same tables. */
function twoCpus(tdp: boolean): NestedBench {
  const b = new NestedBench({ tdp, tdpMmu: tdp });
  const registers = b.kvm.registers.slice();
  b.apply(StepKind.VCPU, 0, 0, 1, 0);
  for (const register of [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER]) b.set(register, registers[2 * register]!);
  return b;
}

const use = (b: NestedBench, vcpu: number): void => b.apply(StepKind.VCPU, 0, 0, vcpu, 0);

describe.each([
  ['TDP', true],
  ['shadow paging', false],
] as const)('under %s', (_, tdp) => {
  test('registers are those of the vCPU whose steps come', () => {
    const b = twoCpus(tdp);
    b.set(Reg.CR3, 0x9000);
    use(b, 0);
    expect(b.kvm.registers[2 * Reg.CR3]).toBe(0x1000);
    use(b, 1);
    expect(b.kvm.registers[2 * Reg.CR3]).toBe(0x9000);
    use(b, 2);
    expect(b.kvm.registers.every((word) => word === 0)).toBe(true);
  });

  test('tables are built once', () => {
    const b = twoCpus(tdp);
    b.access(5 * PAGE);
    const { used } = b.kvm.pages;
    use(b, 0);
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    expect(b.kvm.pages.used).toBe(used);
  });

  test('an invalidation is the executing vCPU’s alone', () => {
    const b = twoCpus(tdp);
    use(b, 0);
    b.access(5 * PAGE);
    use(b, 1);
    b.access(5 * PAGE);
    b.invalidate(Invalidation.INVLPG, 0, 5 * PAGE, 0);
    expect(b.kvm.serves(READ, 5 * PAGE, 0)).toBe(false);
    use(b, 0);
    expect(b.kvm.serves(READ, 5 * PAGE, 0)).toBe(true);
  });

  test('a store by one is known to the other: what its TLB says must be looked at again', () => {
    const b = twoCpus(tdp);
    use(b, 0);
    b.access(5 * PAGE);
    use(b, 1);
    b.access(6 * PAGE);
    b.store(0x4000 + 8 * 5, (0x444 << 12) | 0x67);
    use(b, 0);
    expect(b.kvm.serves(READ, 5 * PAGE, 0)).toBe(false);
    b.invalidate(Invalidation.INVLPG, 0, 5 * PAGE, 0);
    expect(b.access(5 * PAGE)).toBe('translated to 0x444000');
  });

  test('KVM flushes both when the host takes a page away', () => {
    const b = twoCpus(tdp);
    for (const vcpu of [0, 1]) {
      use(b, vcpu);
      b.access(5 * PAGE);
      expect(b.kvm.serves(READ, 5 * PAGE, 0)).toBe(true);
    }
    const { userspace } = b.kvm.host.slotOf(0x405, 0)!;
    b.kvm.host.notify('unmap', userspace + 0x405 * PAGE, userspace + 0x406 * PAGE);
    for (const vcpu of [0, 1]) {
      use(b, vcpu);
      expect(b.kvm.serves(READ, 5 * PAGE, 0)).toBe(false);
      expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    }
  });

  test('obsolete roots go on both', () => {
    const b = twoCpus(tdp);
    b.access(5 * PAGE);
    use(b, 0);
    b.access(5 * PAGE);
    b.kvm.vm.zapAllFast();
    for (const vcpu of [1, 0]) {
      use(b, vcpu);
      expect(b.kvm.vcpu.requests).not.toBe(0);
      expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    }
  });
});

test('one vCPU runs L2 while the other runs L1', () => {
  const b = twoCpus(true);
  use(b, 0);
  b.enter();
  expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
  use(b, 1);
  expect(b.kvm.registers[2 * Reg.GUEST_MODE]).toBe(GuestMode.NONE);
  expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
  b.enter();
  expect(b.access(6 * PAGE, { type: 'write' })).toBe('translated to 0x126000');
  use(b, 0);
  expect(b.access(6 * PAGE, { type: 'write' })).toBe('translated to 0x126000');
  b.leave();
  use(b, 1);
  expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
});

test('that L1’s page-modification log was full is known of the vCPU that met it', () => {
  const b = new NestedBench({ vendor: 'intel' });
  const registers = b.kvm.registers.slice();
  const logs = [
    [Reg.SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_VPID | SECONDARY_PML],
    b.withAd(),
    [Reg.PML_ADDRESS, 0x60_0000],
  ] as const;
  const log = (): boolean => b.kvm.vcpu.tdpWalk.writeLogDirty!(0x9000, 0);
  b.enter([...logs, [Reg.PML_INDEX, 0xffff]]);
  b.access(5 * PAGE);
  expect(log()).toBe(false);
  use(b, 1);
  for (const register of [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER]) b.set(register, registers[2 * register]!);
  b.enter([...logs, [Reg.PML_INDEX, 3]]);
  b.access(5 * PAGE);
  expect(log()).toBe(true);
  use(b, 0);
  b.set(Reg.PML_INDEX, 3);
  expect(log()).toBe(false);
});
