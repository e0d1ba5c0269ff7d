import { describe, expect, test } from 'vitest';
import { REGISTER_COUNT, Reg } from '../../src/formats/registers.ts';
import { REGISTER_WRITE_TASK_SWITCH, STEP_REGISTER_SHIFT, StepKind } from '../../src/formats/step.ts';
import { ContextTracker, pagingModeOf, translationName } from '../../src/report/row-context.ts';
import type { TraceHeader } from '../../src/trace/header.ts';

const HEADER: TraceHeader = {
  formatVersion: 1,
  featureFlags: 0,
  recorder: '',
  writer: '',
  title: '',
  processor: {
    vendor: 'amd',
    model: '',
    maxphyaddr: 40,
    features: [],
    eptVpidCap: { lo: 0, hi: 0 },
    secondaryControlsAllowed: 0,
  },
  adPolicy: 'unspecified',
  observable: 0,
  independent: false,
  sources: [],
  knownFaults: [],
  hypervisor: undefined,
  omissions: [],
};

function registers(values: Readonly<Record<number, number>>): Uint32Array {
  const all = new Uint32Array(2 * REGISTER_COUNT);
  for (const [register, value] of Object.entries(values)) all[2 * Number(register)] = value;
  return all;
}

const PG = 0x8000_0001;

describe('the paging mode (SDM vol. 3A 4.1.1)', () => {
  test('is selected by CR0.PG, CR4.PAE, EFER.LME and CR4.LA57', () => {
    expect(pagingModeOf(1, 0x20, 0xd00)).toBeUndefined();
    expect(pagingModeOf(PG, 0x10, 0)).toBe('32-bit');
    expect(pagingModeOf(PG, 0x20, 0)).toBe('pae');
    expect(pagingModeOf(PG, 0x20, 0xd00)).toBe('4-level');
    expect(pagingModeOf(PG, 0x1020, 0xd00)).toBe('5-level');
  });

  test('the operand of a WRMSR without LMA does not leave long mode', () => {
    expect(pagingModeOf(PG, 0x20, 0x900)).toBe('4-level');
  });

  test('under a hypervisor the second stage is named', () => {
    const long = { [Reg.CR0]: PG, [Reg.CR4]: 0x20, [Reg.EFER]: 0xd00 };
    expect(translationName(registers(long))).toBe('4-level');
    expect(translationName(registers({ ...long, [Reg.GUEST_MODE]: 1, [Reg.EPTP]: 0x1005e }))).toBe('4-level under EPT');
    expect(translationName(registers({ ...long, [Reg.GUEST_MODE]: 1 }))).toBe('4-level in a VMX guest');
    expect(translationName(registers({ ...long, [Reg.GUEST_MODE]: 2, [Reg.NESTED_CONTROL]: 1 }))).toBe(
      '4-level under NPT',
    );
  });
});

describe('the tracker', () => {
  test('has the header and the registers in its context', () => {
    const tracker = new ContextTracker(HEADER, registers({ [Reg.CR0]: PG, [Reg.CR4]: 0x2_0020, [Reg.EFER]: 0x500 }));
    expect(tracker.context).toMatchObject({ paging: '4-level', pcide: true, vendor: 'amd', maxphyaddr: 40 });
  });

  test('follows register writes, and leaves the no-flush bit out of CR3', () => {
    const tracker = new ContextTracker(HEADER, registers({}));
    tracker.step(StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT), 0x1000, 0x8000_0000);
    expect([...tracker.registers.slice(2, 4)]).toEqual([0x1000, 0]);
    const taskSwitch = StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT) | REGISTER_WRITE_TASK_SWITCH;
    tracker.step(taskSwitch, 0x2000, 0x8000_0000);
    expect([...tracker.registers.slice(2, 4)]).toEqual([0x2000, 0x8000_0000]);
  });

  test('has the registers of the vCPU whose steps come', () => {
    const tracker = new ContextTracker(HEADER, registers({ [Reg.CR3]: 1 }));
    const cr3 = (vcpu: number): number => {
      tracker.step(StepKind.VCPU, vcpu, 0);
      return tracker.registers[2 * Reg.CR3]!;
    };
    expect([cr3(1), cr3(0)]).toEqual([0, 1]);
    const others = [{ vcpu: 2, registers: registers({ [Reg.CR3]: 3 }) }];
    tracker.restart({ registers: registers({ [Reg.CR3]: 4 }), vcpu: 1, others });
    expect([cr3(1), cr3(2), cr3(0), cr3(1)]).toEqual([4, 3, 0, 4]);
  });

  test('a register that does not exist changes nothing', () => {
    const tracker = new ContextTracker(HEADER, registers({}));
    tracker.step(StepKind.REGISTER_SET | (60 << STEP_REGISTER_SHIFT), 1, 1);
    expect(tracker.registers.every((half) => half === 0)).toBe(true);
  });
});
