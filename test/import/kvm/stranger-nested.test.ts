/** A guest's guest in a stranger's trace: what KVM's events and its walks tell of it. */

import { describe, expect, it } from 'vitest';
import type { TraceEventFields } from '../../../src/import/ftrace/event.ts';
import { nestedWalkShown } from '../../../src/import/kvm/nested-walk-shown.ts';
import type { TableFormat } from '../../../src/import/kvm/second-stage.ts';
import { SurveyedNesting } from '../../../src/import/kvm/surveyed-nesting.ts';
import { element, emulate, entry, exit, fault, told, trace, walk } from './events.ts';

const NPT: TableFormat = { root: 0n, levels: 4, entrySize: 8, present: 1n, accessed: 0x20n, dirty: 0x40n };
const table = (address: bigint): TraceEventFields[] => [
  walk(address, 6),
  element(4, 0x20_9027n),
  element(3, 0x20_a027n),
  element(2, 0x21_3027n),
  element(1, address | 0x67n),
];
const entered: TraceEventFields[] = [
  exit('vmrun', 0x5000n),
  emulate(0x5000n),
  { name: 'kvm_nested_vmenter', rip: 0x5003n, tdp: true, guestPgd: 0x20_7000n },
  { name: 'kvm_nested_intercepts', exceptions: 0x4000 },
  entry(0x6000n),
];
const ofL2 = (reason: string): TraceEventFields[] => {
  const event = exit(reason, 0x6000n) as Extract<TraceEventFields, { name: 'kvm_exit' }>;
  return [event, { ...event, name: 'kvm_nested_vmexit' }];
};

describe('a walk of two dimensions', () => {
  it('shows the root and the levels', () => {
    const shown = nestedWalkShown(0x4000n, trace(...table(0x60_0000n), element(5, 0x60_1027n)), NPT);
    expect(shown).toEqual({ levels: 5, root: 0x60_0000n });
  });

  it('shows that paging is off, or of the PAE kind', () => {
    expect(nestedWalkShown(0x4000n, trace(...table(0x4000n).slice(1)), NPT)).toEqual({ levels: 0, root: undefined });
    expect(nestedWalkShown(0x4000n, trace(element(3, 0x60_1001n)), NPT)).toEqual({ levels: 3, root: undefined });
  });

  it('that fails in the second stage shows nothing', () => {
    const events = trace(walk(0x60_0000n, 6), element(4, 0n), { name: 'kvm_mmu_walker_error', pferr: 6 });
    expect(nestedWalkShown(0x4000n, events, NPT)).toBeUndefined();
  });

  it('says of the guest what its second stage reads', () => {
    const survey = new SurveyedNesting();
    survey.entered(true);
    survey.walk(0x4000n);
    survey.walk(0x60_0000n);
    expect([4, 3, 2, 1].map((level) => survey.isOfL2(level, 0x20_9027n))).toEqual([false, false, false, false]);
    expect(survey.isOfL2(4, 0x60_1027n)).toBe(true);
    survey.left();
    survey.walk(0x4000n);
    expect(survey.isOfL2(4, 0x20_1027n)).toBe(false);
  });
});

describe("a stranger's trace", () => {
  it("has entries with L1's tables, and L2's root where a walk shows it", async () => {
    const { steps, header } = await told(
      trace(
        entry(),
        exit('npf', 0x1000n),
        fault(0x1000n, 0x1_0000_0014n),
        entry(),
        ...entered,
        ...ofL2('msr'),
        walk(0x6000n, 0x14),
        ...table(0x60_0000n),
        element(4, 0n),
        entry(0x6002n),
      ),
      undefined,
    );
    const at = steps.findIndex((step) => step.startsWith('nested-entry'));
    expect(steps.slice(0, at).some((step) => step.startsWith('register-set') && step.endsWith(' 207000'))).toBe(true);
    expect(steps[at]).toBe('nested-entry 1 0 0: nested-vmenter nested-intercepts');
    const after = steps.slice(at);
    const walked = after.findIndex((step) => step.startsWith('software-walk'));
    expect(after.slice(0, walked).some((step) => step.startsWith('register-set') && step.endsWith(' 600000'))).toBe(
      true,
    );
    expect(header.unknown).toContain('registers');
  });

  it('that begins while L2 runs leaves that out, by name', async () => {
    const { steps, result } = await told(
      trace(entry(), ...ofL2('npf'), fault(0x60_0000n, 6n), walk(0x60_0000n, 6), element(4, 0n), entry()),
      undefined,
    );
    expect(steps.some((step) => step.startsWith('fault-exit'))).toBe(false);
    expect(result.receipt.omissions.get("kvm_page_fault: of a guest's guest that was entered before")).toBe(1);
  });
});
