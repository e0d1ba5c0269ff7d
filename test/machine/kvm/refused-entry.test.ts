/**
 * An entry into L2 that its PDPTEs do not let in (facts/kvm-mmu.md §8.5, §8.6): a trace that goes on in L2 is told by name,
 * by a bare processor and by the emulated KVM alike; one that knows it, by the exit that follows, is not.
 */

import { describe, expect, test } from 'vitest';
import type { KvmConfig } from '../../../src/formats/kvm-config.ts';
import { KvmEvent, kvmEventOf } from '../../../src/formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../../../src/formats/observation.ts';
import { CR4_PAE, EFER_NXE, EFER_SVME, GuestMode, Reg } from '../../../src/formats/registers.ts';
import { Invalidation, NESTED_SVM, StepKind } from '../../../src/formats/step.ts';
import { NestedBench } from './nested-bench.ts';

const PAGE = 0x1000;
const TABLE = 0x3_0000;
/** P, and W, which is reserved. */
const RESERVED = 0x3_1003;
const PRESENT = 0x3_1001;
const NOT_MODELLED = 'not modelled: refused-entry';

/** Rows of both machines that say what is not modelled, or are no events. */
function told({ bare, kvm }: NestedBench): [bare: string[], kvm: string[]] {
  const texts = [bare.log, kvm.log].map((log) => {
    const rows: string[] = [];
    for (let i = 0; i < log.count; i++) {
      const op = log.op(i);
      if ((op & OBS_KIND_MASK) === Obs.NOT_MODELLED)
        rows.push(op >>> 11 === 6 ? NOT_MODELLED : `not modelled ${op >>> 11}`);
      else if ((op & OBS_KIND_MASK) === Obs.KVM_EVENT) rows.push(`event ${kvmEventOf(op)}`);
    }
    return rows;
  });
  return [texts[0]!, texts[1]!];
}

const BOTH = [[NOT_MODELLED], [NOT_MODELLED]];

/** L1's tables of L2's, which are PAE's: linear pages are frames 0x500 and on. */
function pae(vendor: 'amd' | 'intel', nested: boolean, pdpte: number, config: Partial<KvmConfig> = {}): NestedBench {
  const b = new NestedBench({ vendor, ...config }, {}, nested);
  const below = nested ? 0x10_0000 : 0;
  b.store(TABLE + below, pdpte);
  b.store(0x3_1000 + below, 0x3_2067);
  for (let i = 0; i < 16; i++) b.store(0x3_2000 + below + 8 * i, ((nested ? 0x20 + i : 0x500 + i) << 12) | 0x67);
  b.access(5 * PAGE);
  return b;
}

function enter(b: NestedBench, pdpte = 0): void {
  b.enter([
    [Reg.CR3, TABLE],
    [Reg.CR4, CR4_PAE],
    [Reg.EFER, EFER_NXE | (b.vmx ? 0 : EFER_SVME)],
    [Reg.PDPTE0, pdpte],
  ]);
}

function leave(b: NestedBench, reason: number): void {
  b.apply(StepKind.NESTED_EXIT | (b.vmx ? 0 : NESTED_SVM), 0, 0, reason, 0);
}

function backInL1(b: NestedBench): void {
  b.set(Reg.CR3, 0x1000);
  b.set(Reg.EFER, 0xd00 | (b.vmx ? 0 : EFER_SVME));
  b.set(Reg.GUEST_MODE, GuestMode.NONE);
}

describe.each(['amd', 'intel'] as const)('%s, without nested paging', (vendor) => {
  test('a table without reserved bits lets L2 in', () => {
    const b = pae(vendor, false, PRESENT);
    enter(b, PRESENT);
    expect(b.access(5 * PAGE)).toBe('translated to 0x505000');
  });

  test('whatever an L2 does that was refused is not modelled', () => {
    const b = pae(vendor, false, RESERVED);
    enter(b);
    expect(told(b)[0]).toEqual([]);
    b.apply(StepKind.ACCESS, 5 * PAGE);
    expect(told(b)).toEqual(BOTH);
    b.apply(StepKind.GPA_ACCESS, 5 * PAGE);
    expect(told(b)).toEqual(BOTH);
    expect(b.kvm.serves(StepKind.ACCESS, 5 * PAGE, 0)).toBe(false);
    expect(b.bare.serves(StepKind.ACCESS, 5 * PAGE, 0)).toBe(false);
    b.invalidate(Invalidation.INVLPG, 0, 5 * PAGE, 0);
    expect(told(b)[1]).toEqual([NOT_MODELLED]);
    b.write(Reg.CR3, 0x4_0000);
    expect(told(b)[1]).toEqual([NOT_MODELLED]);
    expect(b.kvm.registers[2 * Reg.CR3]).toBe(0x4_0000);
    leave(b, vendor === 'intel' ? 10 : 0x72);
    expect(told(b)).toEqual(BOTH);
    backInL1(b);
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
  });

  test('an exit that says that the entry failed is all there is', () => {
    const b = pae(vendor, false, RESERVED);
    enter(b);
    leave(b, vendor === 'intel' ? 0x8000_0021 : 0xffff_ffff);
    // VMRUN fails with an exit (svm/nested.c, nested_svm_vmrun), VM entry without one (vmx/nested.c).
    const inject = vendor === 'intel' ? [] : [`event ${KvmEvent.NESTED_VMEXIT_INJECT}`];
    expect(told(b)).toEqual([[], inject]);
    backInL1(b);
    expect(b.access(6 * PAGE)).toBe('translated to 0x406000');
    b.store(TABLE, PRESENT);
    enter(b, PRESENT);
    expect(b.access(6 * PAGE)).toBe('translated to 0x506000');
  });

  test('it is that vCPU’s alone', () => {
    const b = pae(vendor, false, RESERVED);
    enter(b);
    const registers = b.kvm.registers.slice();
    b.apply(StepKind.VCPU, 0, 0, 1, 0);
    for (const register of [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER]) b.set(register, registers[2 * register]!);
    backInL1(b);
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    b.apply(StepKind.VCPU, 0, 0, 0, 0);
    b.apply(StepKind.ACCESS, 5 * PAGE);
    expect(told(b)).toEqual(BOTH);
  });

  test('the mode may be given after the entry', () => {
    const b = pae(vendor, false, RESERVED);
    enter(b);
    leave(b, vendor === 'intel' ? 0x8000_0021 : 0xffff_ffff);
    backInL1(b);
    b.access(5 * PAGE);
    b.set(Reg.CR3, TABLE);
    b.set(Reg.EFER, EFER_NXE | (b.vmx ? 0 : EFER_SVME));
    b.apply(StepKind.NESTED_ENTRY | (b.vmx ? 0 : NESTED_SVM));
    b.set(Reg.GUEST_MODE, b.vmx ? GuestMode.VMX : GuestMode.SVM);
    b.apply(StepKind.ACCESS, 5 * PAGE);
    expect(told(b)).toEqual(BOTH);
  });
});

// Under the NPT of an AMD processor PDPTEs are read from memory at each access (APM vol. 2 15.25.10).
test.each([true, false])('an L2 that is given has PDPTEs that are given: TDP %s', (tdp) => {
  const b = pae('intel', false, RESERVED, { tdp, tdpMmu: tdp });
  b.set(Reg.CR3, TABLE);
  b.set(Reg.EFER, EFER_NXE);
  b.set(Reg.PDPTE0, PRESENT);
  b.set(Reg.GUEST_MODE, GuestMode.VMX);
  expect(b.access(5 * PAGE)).toBe('translated to 0x505000');
});

describe('with nested paging', () => {
  test('VM entry checks the PDPTE fields, not what CR3 leads to', () => {
    const b = pae('intel', true, RESERVED);
    enter(b, PRESENT);
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
    leave(b, 10);
    backInL1(b);
    b.access(5 * PAGE);
    enter(b, RESERVED);
    b.apply(StepKind.ACCESS, 5 * PAGE);
    expect(told(b)).toEqual(BOTH);
  });

  test('VMRUN checks none: each access reads its own', () => {
    const b = pae('amd', true, PRESENT);
    enter(b, RESERVED);
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
  });
});
