/** What a trace's registers say of entries into L2 and exits from it, and what KVM makes of that. */

import { describe, expect, test } from 'vitest';
import { KvmEvent, kvmEventOf } from '../../../src/formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../../../src/formats/observation.ts';
import { GuestMode, Reg } from '../../../src/formats/registers.ts';
import { NESTED_SVM, StepKind } from '../../../src/formats/step.ts';
import { ROW, ROW_VALUE_LO } from '../../../src/paging/row-log.ts';
import { NESTED_ROOT, NestedBench, SECOND_ROOT } from './nested-bench.ts';

const PAGE = 0x1000;

function events({ kvm: { log } }: NestedBench): number[] {
  const found: number[] = [];
  for (let i = 0; i < log.count; i++) {
    if ((log.op(i) & OBS_KIND_MASK) === Obs.KVM_EVENT) found.push(kvmEventOf(log.op(i)));
  }
  return found;
}

describe.each(['amd', 'intel'] as const)('%s', (vendor) => {
  test('roots outlive transitions: they are no KVM_SET_SREGS', () => {
    const b = new NestedBench({ vendor });
    b.access(5 * PAGE);
    const { rootMmu, guestMmu } = b.kvm.vcpu;
    const l1 = rootMmu.root;
    expect(l1).not.toBeNull();
    b.enter();
    b.access(5 * PAGE);
    const l2 = guestMmu.root;
    expect([b.kvm.vcpu.mmu, rootMmu.root, l2 === null]).toEqual([guestMmu, l1, false]);
    b.leave();
    b.access(5 * PAGE);
    expect([b.kvm.vcpu.mmu, rootMmu.root, guestMmu.root]).toEqual([rootMmu, l1, l2]);
    b.enter();
    b.access(5 * PAGE);
    expect([rootMmu.root, guestMmu.root]).toEqual([l1, l2]);
  });

  test('registers that were set before L2’s are L1’s', () => {
    const b = new NestedBench({ vendor });
    b.store(0x8000, 0);
    b.set(Reg.CR3, 0x8000);
    b.store(0x8000, 0x2067);
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
    b.leave();
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
  });

  test('an exit without another state is one from which L2 goes on', () => {
    const b = new NestedBench({ vendor });
    b.enter();
    b.access(5 * PAGE);
    b.apply(StepKind.NESTED_EXIT | (b.vmx ? 0 : NESTED_SVM), 0, 0, b.vmx ? 18 : 0x81, 0);
    expect(b.kvm.serves(StepKind.ACCESS, 5 * PAGE, 0)).toBe(false);
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
    expect(b.kvm.vcpu.nested).toBe(true);
  });

  test('controls that change while L2 runs are another entry', () => {
    const b = new NestedBench({ vendor });
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
    if (b.vmx) b.set(Reg.EPTP, (SECOND_ROOT << 12) | 0x1e);
    else b.set(Reg.NCR3, SECOND_ROOT << 12);
    if (!b.vmx) b.apply(StepKind.NESTED_ENTRY | NESTED_SVM | (3 << 8));
    expect(b.access(5 * PAGE)).toBe('translated to 0x325000');
  });

  test('a guest mode that is set without an entry is one', () => {
    const b = new NestedBench({ vendor });
    b.enter();
    b.leave();
    b.set(Reg.GUEST_MODE, b.vmx ? GuestMode.VMX : GuestMode.SVM);
    if (b.vmx) b.set(Reg.SECONDARY_CONTROLS, 2);
    if (b.vmx) b.set(Reg.EPTP, (NESTED_ROOT << 12) | 0x1e);
    else {
      b.set(Reg.NESTED_CONTROL, 1);
      b.set(Reg.NCR3, NESTED_ROOT << 12);
    }
    expect(b.access(6 * PAGE)).toBe('translated to 0x126000');
    b.set(Reg.GUEST_MODE, GuestMode.NONE);
    expect(b.access(6 * PAGE)).toBe('translated to 0x406000');
  });

  test('tracepoints of entry and exit; an exit that the MMU has told of is not told twice', () => {
    const b = new NestedBench({ vendor });
    b.map(0x25, 0, 0);
    b.enter();
    const { log } = b.kvm;
    expect(events(b)).toEqual([KvmEvent.NESTED_VMENTER, ...(b.vmx ? [] : [KvmEvent.NESTED_INTERCEPTS])]);
    expect(log.rows[ROW_VALUE_LO]).toBe((NESTED_ROOT << 12) | (b.vmx ? 0x1e : 0));
    b.apply(StepKind.NESTED_EXIT | (b.vmx ? 0 : NESTED_SVM), 0, 0, b.vmx ? 18 : 0x81, 0);
    expect(events(b)).toEqual([KvmEvent.NESTED_VMEXIT, KvmEvent.NESTED_VMEXIT_INJECT]);
    expect(log.rows[2 * ROW + ROW_VALUE_LO]).toBe(0);
    b.access(5 * PAGE);
    expect(events(b)).toContain(KvmEvent.NESTED_VMEXIT_INJECT);
    b.apply(StepKind.NESTED_EXIT | (b.vmx ? 0 : NESTED_SVM), 0, 0, b.vmx ? 48 : 0x400, 0);
    expect(events(b)).toEqual([]);
  });
});

test('L1’s interrupts are events of KVM’s own, and an entry that fails is no exit', () => {
  const amd = new NestedBench({ vendor: 'amd' });
  amd.enter();
  amd.apply(StepKind.NESTED_EXIT | NESTED_SVM, 0, 0, 0x60, 0);
  expect(events(amd)).toEqual([KvmEvent.NESTED_VMEXIT_INJECT]);
  const intel = new NestedBench({ vendor: 'intel' });
  intel.enter();
  intel.apply(StepKind.NESTED_EXIT, 0, 0, 0x8000_0021, 0);
  expect(events(intel)).toEqual([]);
});
