/** What a trace's registers say of entries into L2 and exits from it, and what KVM makes of that. */

import { describe, expect, test } from 'vitest';
import { KvmEvent, kvmEventOf } from '../../../src/formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../../../src/formats/observation.ts';
import { CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, GuestMode, Reg } from '../../../src/formats/registers.ts';
import {
  ACCESS_TYPE_SHIFT,
  NESTED_SVM,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../../src/formats/step.ts';
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

  // Random program 11 of seed 2 (PAE, two vCPUs): PDPTEs stored after such an exit are not those that it loads.
  test('an exit without another state is over before the next store', () => {
    const b = new NestedBench({ vendor });
    b.enter();
    b.access(5 * PAGE);
    b.apply(StepKind.NESTED_EXIT | (b.vmx ? 0 : NESTED_SVM), 0, 0, b.vmx ? 18 : 0x81, 0);
    b.apply(StepKind.STORE | (8 << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE, 0x40_0000, 0, 1, 0);
    expect(b.kvm.serves(StepKind.ACCESS, 5 * PAGE, 0)).toBe(false);
    const before = b.kvm.vcpu.requests;
    b.apply(StepKind.STORE | (8 << STORE_SIZE_SHIFT), 0x40_0000, 0, 1, 0);
    expect([before, b.kvm.vcpu.requests !== before]).toEqual([0, true]);
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
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
    b.access(6 * PAGE);
    b.enter();
    const { log } = b.kvm;
    expect(events(b)).toEqual([KvmEvent.NESTED_VMENTER, ...(b.vmx ? [] : [KvmEvent.NESTED_INTERCEPTS])]);
    expect(log.rows[ROW_VALUE_LO]).toBe((NESTED_ROOT << 12) | (b.vmx ? 0x1e : 0));
    b.access(6 * PAGE);
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
  amd.access(6 * PAGE);
  amd.apply(StepKind.NESTED_EXIT | NESTED_SVM, 0, 0, 0x60, 0);
  expect(events(amd)).toEqual([KvmEvent.NESTED_VMEXIT_INJECT]);
  const intel = new NestedBench({ vendor: 'intel' });
  intel.enter();
  intel.apply(StepKind.NESTED_EXIT, 0, 0, 0x8000_0021, 0);
  expect(events(intel)).toEqual([]);
});

/** Shadow paging, L1 without nested paging: L2's tables are a copy of L1's at 0x201000. */
function shadowed(profile: '6.1' | '7.3'): NestedBench {
  const b = new NestedBench({ vendor: 'intel', profile, tdp: false, tdpMmu: false }, {}, false);
  for (let table = 1; table < 4; table++) b.store(0x20_0000 | (table << 12), 0x20_0067 + ((table + 1) << 12));
  b.store(0x20_4028, 0x40_8067);
  return b;
}

/** A VPID that stays, so that nothing is flushed by the way. */
const L2_STATE = [
  [Reg.CR3, 0x20_1000],
  [Reg.VPID, 5],
] as const;

describe.each(['6.1', '7.3'] as const)('requests are served in the context that made them, %s', (profile) => {
  test('L1’s CR3 load before it enters L2', () => {
    const b = shadowed(profile);
    b.access(5 * PAGE);
    b.enter(L2_STATE);
    b.access(5 * PAGE);
    b.leave();
    b.access(5 * PAGE);
    b.store(0x4028, 0x40_9067);
    b.write(Reg.CR3, 0x1000);
    b.enter(L2_STATE);
    expect(b.access(5 * PAGE)).toBe('translated to 0x408000');
    b.leave();
    expect(b.access(5 * PAGE)).toBe('translated to 0x409000');
  });

  test('L2’s CR3 load before it exits', () => {
    const b = shadowed(profile);
    b.enter(L2_STATE);
    b.access(5 * PAGE);
    b.store(0x20_4028, 0x40_9067);
    b.write(Reg.CR3, 0x20_1000);
    b.leave();
    b.access(5 * PAGE);
    b.enter(L2_STATE);
    expect(b.access(5 * PAGE)).toBe('translated to 0x409000');
  });

  test('a CR3 load before another one, which keeps translations', () => {
    const b = shadowed(profile);
    const PCIDE = 1 << 17;
    b.set(Reg.CR3, 0x1001);
    b.set(Reg.CR4, CR4_PAE | PCIDE);
    const keep = (lo: number): void =>
      b.apply(StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT), 0, 0, lo, 0x8000_0000);
    b.access(5 * PAGE);
    keep(0x20_1002);
    b.access(5 * PAGE);
    keep(0x1001);
    b.access(5 * PAGE);
    b.store(0x4028, 0x40_9067);
    b.write(Reg.CR3, 0x1001);
    keep(0x20_1002);
    expect(b.access(5 * PAGE)).toBe('translated to 0x408000');
    keep(0x1001);
    expect(b.access(5 * PAGE)).toBe('translated to 0x409000');
  });
});

describe.each(['clear-page', 'store'] as const)('an exit is over before memory changes: %s', (how) => {
  test.each([true, false])('L1 with PAE, whose PDPTEs are those that were in memory then; TDP %s', (tdp) => {
    const b = new NestedBench({ vendor: 'intel', tdp, tdpMmu: tdp }, {}, false);
    b.store(0x1_0000, 0x1_1001);
    b.store(0x1_1000, 0x1_2067);
    b.store(0x1_2028, 0x40_7067);
    const l1 = [
      [Reg.CR3, 0x1_0000],
      [Reg.EFER, EFER_NXE],
      [Reg.PDPTE0, 0x1_1001],
    ] as const;
    for (const [register, value] of l1) b.set(register, value);
    expect(b.access(5 * PAGE)).toBe('translated to 0x407000');
    b.enter([
      [Reg.CR3, 0x1000],
      [Reg.EFER, EFER_LME | EFER_LMA | EFER_NXE],
    ]);
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    b.apply(StepKind.NESTED_EXIT, 0, 0, 18, 0);
    b.set(Reg.GUEST_MODE, GuestMode.NONE);
    for (const [register, value] of l1) b.set(register, value);
    if (how === 'store') b.store(0x1_0000, 0);
    else b.apply(StepKind.CLEAR_PAGE, 0x1_0000);
    expect(b.access(5 * PAGE)).toBe('translated to 0x407000');
  });
});

test.each(['amd', 'intel'] as const)('an nGPA that is written to and emulated ends at L1’s address: %s', (vendor) => {
  const b = new NestedBench({ vendor });
  // nGPA frame 0x30 is L1's own nested directory, which KVM shadows.
  b.map(0x30, NESTED_ROOT + 2);
  b.enter();
  b.access(5 * PAGE);
  b.apply(StepKind.GPA_ACCESS | (1 << ACCESS_TYPE_SHIFT), 0x3_0010);
  expect(b.compare()).toBe(`translated to 0x${(((NESTED_ROOT + 2) << 12) | 0x10).toString(16)}`);
});
