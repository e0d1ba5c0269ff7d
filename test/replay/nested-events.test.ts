/** KVM's events of nested virtualization: what of them is predicted, what is input, and what is nobody's business here. */

import { describe, expect, test } from 'vitest';
import type { Divergence, ReplayResult } from '../../src/replay/result.ts';
import { fault, pageFault, replayScript, type Scripted, type ScriptOptions } from './scripted.ts';
import type { Line } from './small-traces.ts';

const AMD: ScriptOptions = { predictsFaults: true };
const INTEL: ScriptOptions = { predictsFaults: true, mmu: { vendor: 'intel' } };
const FAULT = fault('0x10001000', '0x100000006');
const EXIT: Line = { 'nested-exit': 'svm', reason: '0x81', qualification: '0x0' };
const WALK: Line = { 'software-walk': '0x40001040' };

function vmexit(reason: string, info1: string, info2 = '0x0'): Line {
  return { kvm: 'nested-vmexit', exit_reason: reason, info1, info2 };
}

function inject(code: string, info1: string, info2: string, more: Line = {}): Line {
  const rest = { exit_int_info: '0x0', exit_int_info_err: '0x0', ...more };
  return { kvm: 'nested-vmexit-inject', exit_code: code, exit_info1: info1, exit_info2: info2, ...rest };
}

/** `[predicted, input, diverged]` by field. */
function fieldsOf({ receipt }: ReplayResult, event: string): Record<string, number[]> {
  const found = receipt.events.find((each) => each.event === event)!;
  return Object.fromEntries(found.fields.map((f) => [f.field, [f.predicted, f.input, f.diverged]]));
}

function one(step: Line, recorded: readonly Line[], replayed?: readonly Line[], options = AMD): ReplayResult {
  const steps: Scripted[] = [{ step, recorded, ...(replayed === undefined ? {} : { replayed }) }];
  return replayScript(steps, options);
}

/** Whether the two match; if not, the fields that differ. */
function unlike(step: Line, recorded: Line, replayed: Line, options = AMD): readonly string[] {
  const { divergences } = one(step, [recorded], [replayed], options);
  return divergences.flatMap(({ pairs }: Divergence) => pairs!.flatMap(({ fields }) => fields));
}

describe('an exit of L2', () => {
  const rows = [vmexit('0x400', '0x100000006', '0x10001000'), pageFault('0x10001000', '0x100000006')];

  test('that came to KVM is input, but for what the tables said', () => {
    const result = one(FAULT, rows);
    expect(result.verdict).not.toBe('diverged');
    expect(fieldsOf(result, 'nested-vmexit')).toEqual({
      exit_reason: [0, 1, 0],
      info1: [0, 1, 0],
      'info1 of the tables': [1, 0, 0],
      info2: [0, 1, 0],
    });
  });

  test('has no code of the tables in it where it is another one', () => {
    const recorded = [vmexit('0x0', '0x117fb8'), pageFault('0x117fb8', '0x2')];
    expect(fieldsOf(one(FAULT, recorded, undefined, INTEL), 'nested-vmexit')).not.toHaveProperty('info1 of the tables');
  });

  test('that the machine did not have differs, and so does one of another reason', () => {
    expect(one(FAULT, rows, rows.slice(1)).receipt.groups[0]!.group).toBe(
      'fault-exit: recorded nested-vmexit, replayed nothing',
    );
    const { divergences } = one(FAULT, rows, [vmexit('0x4e', '0x100000006', '0x10001000'), rows[1]!]);
    expect(divergences[0]!.cause).toBe(
      'nested-vmexit exit_reason 0x400: exit_reason 0x400 was recorded, 0x4e replayed',
    );
  });

  test('whose error code differs tells that twice: one expectation covers both', () => {
    const recorded = [vmexit('0x400', '0x10000000e', '0x10001000'), pageFault('0x10001000', '0x10000000e')];
    const replayed = [vmexit('0x400', '0x10000000f', '0x10001000'), pageFault('0x10001000', '0x10000000f')];
    const group = 'fault-exit: nested-vmexit (info1 bit 0)';
    expect(one(FAULT, recorded, replayed).receipt.groups[0]!.group).toBe(group);
    const expectations = [{ fault: 'qemu-rsvd-without-p', reason: 'QEMU', group, count: 1 }];
    expect(one(FAULT, recorded, replayed, { ...AMD, expectations }).receipt.diverged).toBe(0);
    const other = [replayed[0]!, pageFault('0x10001000', '0x10000000a')];
    expect(one(FAULT, recorded, other, { ...AMD, expectations }).receipt.diverged).toBe(1);
  });

  test('says of VMX which event was under delivery, which is not compared', () => {
    const [a, b] = [vmexit('0x30', '0x181', '0x80000b0e'), vmexit('0x30', '0x181')];
    expect(unlike(FAULT, a, b, INTEL)).toEqual([]);
    expect(unlike(FAULT, a, b, AMD)).toEqual(['info2']);
  });

  test('that has nothing to do with the MMU is input as a whole', () => {
    const recorded = [vmexit('0x81', '0x0', '0x7'), inject('0x81', '0x0', '0x7', { exit_int_info: '0x5' })];
    const result = one(EXIT, recorded, [vmexit('0x81', '0x0'), inject('0x81', '0x0', '0x0')]);
    expect(result.receipt.diverged).toBe(0);
    for (const event of ['nested-vmexit', 'nested-vmexit-inject']) {
      expect(Object.values(fieldsOf(result, event)).every(([predicted]) => predicted === 0)).toBe(true);
    }
    expect(unlike(EXIT, vmexit('0x81', '0x0'), vmexit('0x80', '0x0'))).toEqual(['exit_reason']);
  });
});

describe('an exit that L1 gets', () => {
  const npf = inject('0x400', '0x100000007', '0x10001040');

  test.each([
    FAULT,
    WALK,
  ])('is predicted where the MMU raised it, but for an address that came with the fault: %j', (step) => {
    const fields = fieldsOf(one(step, [npf]), 'nested-vmexit-inject');
    expect(fields).toEqual({
      exit_code: [1, 0, 0],
      exit_info1: [1, 0, 0],
      exit_info2: step === FAULT ? [0, 1, 0] : [1, 0, 0],
      exit_int_info: [0, 1, 0],
      exit_int_info_err: [0, 1, 0],
    });
    expect(unlike(step, npf, inject('0x400', '0x100000006', '0x10001040'))).toEqual(['exit_info1']);
    expect(unlike(step, npf, inject('0x400', '0x100000007', '0x10001000'))).toEqual(['exit_info2']);
    expect(one(step, [npf], []).receipt.diverged).toBe(1);
  });

  test('of VMX is a #PF with its error code, and no word of other events', () => {
    const fault = (info: string, error: string, info2 = '0x0'): Line =>
      inject('0x0', '0x40001040', info2, { exit_int_info: info, exit_int_info_err: error });
    const pf = fault('0x80000b0e', '0x7');
    expect(unlike(FAULT, pf, pf, INTEL)).toEqual([]);
    const qualification = (rows: Line): number[] =>
      fieldsOf(one(FAULT, [rows], undefined, INTEL), 'nested-vmexit-inject')['exit_info1']!;
    expect([qualification(pf), qualification(inject('0x30', '0x181', '0x0'))]).toEqual([
      [0, 1, 0],
      [1, 0, 0],
    ]);
    expect(unlike(FAULT, pf, fault('0x80001b0e', '0x7', '0x80000020'), INTEL)).toEqual([]);
    expect(unlike(FAULT, pf, fault('0x80000b0d', '0x7'), INTEL)).toEqual(['exit_int_info']);
    expect(unlike(FAULT, pf, fault('0x80000b0e', '0x5'), INTEL)).toEqual(['exit_int_info_err']);
    // Nothing is valid: what the error code field holds is left over.
    const violation = (error: string): Line => inject('0x30', '0x181', '0x0', { exit_int_info_err: error });
    expect(unlike(FAULT, violation('0x7'), violation('0x0'), INTEL)).toEqual([]);
  });
});

test('what L1 gives its L2, and what INVLPGA is about, is input', () => {
  const enter: Line = { 'nested-entry': 'svm' };
  const vmenter = (pgd: string, tdp = true): Line => ({ kvm: 'nested-vmenter', tdp_enabled: tdp, guest_pgd: pgd });
  const intercepts = (exceptions: string): Line => ({ kvm: 'nested-intercepts', exceptions });
  const result = one(enter, [vmenter('0x7000'), intercepts('0x4000')]);
  expect(fieldsOf(result, 'nested-vmenter')).toEqual({ tdp_enabled: [0, 1, 0], guest_pgd: [0, 1, 0] });
  expect(fieldsOf(result, 'nested-intercepts')).toEqual({ exceptions: [0, 1, 0] });
  expect(unlike(enter, vmenter('0x7000'), vmenter('0x8000'))).toEqual(['guest_pgd']);
  expect(unlike(enter, vmenter('0x7000'), vmenter('0x7000', false))).toEqual(['tdp_enabled']);
  expect(unlike(enter, intercepts('0x4000'), intercepts('0x0'))).toEqual(['exceptions']);
  const invlpga = { kvm: 'invlpga', address: '0x5000', asid: '0x1' };
  const flush = one({ invlpga: '0x5000', asid: '0x1' }, [invlpga]);
  expect(fieldsOf(flush, 'invlpga')).toEqual({ address: [0, 1, 0], asid: [0, 1, 0] });
  expect(unlike({ invlpga: '0x5000', asid: '0x1' }, invlpga, { ...invlpga, asid: '0x2' })).toEqual(['asid']);
});
