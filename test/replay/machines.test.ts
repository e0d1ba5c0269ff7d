import { describe, expect, test } from 'vitest';
import { Problem } from '../../src/bits/problem.ts';
import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { Obs } from '../../src/formats/observation.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import type { Machine } from '../../src/machine/machine.ts';
import { type ChosenMachine, checkChoice, type MachineChoice, machineFor } from '../../src/replay/machines.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { HEADER } from '../trace/samples.ts';
import { changed, ENTRY, KVM_OUTCOMES } from './scripted.ts';
import { replay } from './small-traces.ts';

const BARE: TraceHeader = { ...HEADER, hypervisor: undefined };
const MMU = defaultKvmConfig({ vendor: 'amd', tdpLevel: 5 });
const KVM: TraceHeader = {
  ...BARE,
  observable: (1 << Obs.KVM_EVENT) | (1 << Obs.COMPLETED),
  hypervisor: { name: 'kvm', version: '6.1', tdp: true, parameters: [], mmu: MMU },
};

/** What was chosen, and the configuration that a KVM machine was made with. */
function chosen(header: TraceHeader, choice: MachineChoice = {}): ChosenMachine & { config: KvmConfig | undefined } {
  let config: KvmConfig | undefined;
  const result = machineFor(header, choice, (_, asked) => {
    config = asked;
    return {} as Machine;
  });
  return { ...result, config };
}

function usage(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof Problem && error.code === 'E_USAGE') return error.message;
    throw error;
  }
  throw new Error('nothing is wrong');
}

describe('the machine for a trace', () => {
  test('is the bare one, if it is no recording of a KVM', () => {
    for (const header of [BARE, { ...KVM, observable: 1 << Obs.COMPLETED }, { ...KVM, hypervisor: undefined }]) {
      const { machine, bare, description, limits } = chosen(header);
      expect([machine instanceof BareMachine, bare === machine, description, limits]).toEqual([true, true, 'bare', []]);
    }
  });

  test('is the one with an emulated KVM as it was recorded, if it is', () => {
    const { bare, config, description, limits } = chosen(KVM);
    expect([bare, config, description, limits]).toEqual([null, MMU, 'kvm 6.1, NPT, TDP MMU', []]);
  });

  test('may be asked for otherwise; what then is not seen is said', () => {
    expect(chosen(KVM, { machine: 'bare' })).toMatchObject({
      description: 'bare',
      limits: ["KVM's events are not compared: a bare processor has none"],
    });
    expect(chosen(BARE, { machine: 'kvm' })).toMatchObject({
      description: 'kvm 6.1, EPT, TDP MMU',
      limits: ["KVM's events are not compared: the trace has none"],
    });
  });

  test('may be configured otherwise; the receipt says what was recorded', () => {
    const shadow = chosen(KVM, { tdp: false, profile: '7.3' });
    expect(shadow.config).toEqual({ ...MMU, profile: '7.3', tdp: false, tdpMmu: false });
    expect(shadow.description).toBe('kvm 7.3, shadow paging (recorded: 6.1, NPT, TDP MMU)');
    expect(chosen(KVM, { tdpMmu: false }).description).toBe(
      'kvm 6.1, NPT, legacy direct MMU (recorded: 6.1, NPT, TDP MMU)',
    );
    expect(chosen(KVM, { profile: '6.1' }).description).toBe('kvm 6.1, NPT, TDP MMU');
  });

  test('may be wired as another kernel is; the receipt says so', () => {
    let wiring: string | undefined;
    const wired = (choice: MachineChoice): string => {
      const { description } = machineFor(KVM, choice, (_, __, options) => {
        ({ wiring } = options);
        return {} as Machine;
      });
      return `${wiring}: ${description}`;
    };
    expect(wired({})).toBe('walk-mmu: kvm 6.1, NPT, TDP MMU');
    expect(wired({ profile: '7.3' })).toBe('gva-walk: kvm 7.3, NPT, TDP MMU (recorded: 6.1, NPT, TDP MMU)');
    expect(wired({ wiring: 'walk-mmu' })).toBe('walk-mmu: kvm 6.1, NPT, TDP MMU');
    expect(wired({ wiring: 'nested-cpu-walk' })).toBe(
      'nested-cpu-walk: kvm 6.1, NPT, TDP MMU, wired as nested-cpu-walk',
    );
    expect(usage(() => checkChoice({ machine: 'bare', wiring: 'gva-walk' }))).toContain('--wiring cannot apply');
  });

  test("of a bare processor's trace is a host of its vendor", () => {
    const vendor = (name: 'amd' | 'intel' | 'unknown'): TraceHeader => ({
      ...BARE,
      processor: { ...BARE.processor, vendor: name },
    });
    const config = (name: 'amd' | 'intel' | 'unknown'): [string, number] => {
      const made = chosen(vendor(name), { machine: 'kvm' }).config!;
      return [made.vendor, made.tdpLevel];
    };
    expect([config('amd'), config('intel'), config('unknown')]).toEqual([
      ['amd', 5],
      ['intel', 4],
      ['amd', 5],
    ]);
  });
});

describe('a choice that does not fit', () => {
  test('is refused whatever the trace', () => {
    expect(usage(() => checkChoice({ machine: 'bare', tdp: true, profile: '6.1' }))).toBe(
      '--machine bare has no KVM below it: --profile and --tdp cannot apply',
    );
    expect(usage(() => checkChoice({ tdp: false, tdpMmu: true }))).toContain('exclude each other');
    checkChoice({ machine: 'kvm', tdp: false, tdpMmu: false, profile: '7.3' });
  });

  test('is refused for a trace that a bare processor replays', () => {
    expect(usage(() => chosen(BARE, { tdpMmu: true }))).toContain('--tdp-mmu: the trace is no recording of a KVM');
    expect(usage(() => chosen(KVM, { machine: 'bare', tdp: true }))).toContain('--machine bare');
  });
});

describe('a recording of a KVM on a bare processor', () => {
  test('is compared in what that has; the rest is counted', () => {
    const mmu = {};
    const { verdict, receipt } = replay(
      [
        {
          header: {
            observable: KVM_OUTCOMES,
            processor: { vendor: 'amd' },
            hypervisor: { name: 'kvm', tdp: true, mmu },
          },
        },
        { 'vm-entry': true, expect: [changed('0x1', 1, '0x0', '0x5a0'), changed('0x2', 1, '0x0', '0x5a0')] },
        { 'host-pages': '0x0', count: '0x1', residency: 'writable' },
        { access: 'read', address: '0x1000', expect: [changed('0x1', 1, '0x0', '0x5a0')] },
        { access: 'read', address: '0x1000', expect: [changed('0x1', 1, '0x0', '0x5a0'), { completed: true }] },
        { ...ENTRY },
      ],
      { machine: { machine: 'bare' } },
    );
    expect([verdict, receipt.diverged, receipt.machine, receipt.events]).toEqual(['match', 0, 'bare', []]);
    expect(receipt.skipped).toEqual({ 'accesses of which no outcome was recorded': 1, "KVM's events": 4 });
    expect(receipt.limits).toEqual(["KVM's events are not compared: a bare processor has none"]);
  });
});
