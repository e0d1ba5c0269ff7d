/** A machine that does what a table says, and a trace of plain stores and accesses to run two of them on. */

import { MachineComparison, type MachineComparisonOptions } from '../../src/compare/machines.ts';
import type { ComparisonResult } from '../../src/compare/result.ts';
import type { Sides } from '../../src/compare/sides.ts';
import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { REGISTER_COUNT } from '../../src/formats/registers.ts';
import type { Machine, TableUse } from '../../src/machine/machine.ts';
import { RowLog } from '../../src/paging/row-log.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import type { Line } from '../replay/small-traces.ts';
import { textFile } from '../replay/small-traces.ts';

/** op, address (low half), value (low half). */
export type FakeRow = readonly [op: number, address: number, value: number];

/** What the machine does in one step. */
export interface FakeStep {
  readonly rows?: readonly FakeRow[];
  readonly tables?: readonly TableUse[];
  /** Register by number: low half. */
  readonly registers?: Readonly<Record<number, number>>;
  readonly throws?: Error;
}

export class FakeMachine implements Machine {
  readonly log = new RowLog();
  readonly registers = new Uint32Array(2 * REGISTER_COUNT);
  readonly staleHit = false;
  readonly servedByTlb = false;
  readonly tlb = { lo: 0, hi: 0 };
  readonly kvm: {
    config: KvmConfig;
    tableUses: readonly TableUse[];
    predictsFaults: boolean;
    invariantFindings: [];
    takeBackAd(): void;
    takeReflected(): void;
  };
  /** Calls of what gives a machine knowledge. */
  readonly told: string[] = [];
  readonly memory = new Map<number, number>();
  private readonly steps: readonly FakeStep[];

  constructor(config: KvmConfig, steps: readonly FakeStep[]) {
    this.kvm = {
      config,
      tableUses: [],
      predictsFaults: true,
      invariantFindings: [],
      takeBackAd: () => this.told.push('take back'),
      takeReflected: () => {},
    };
    this.steps = steps;
  }

  apply(ordinal: number): void {
    const step = this.steps[ordinal] ?? {};
    this.log.count = 0;
    if (step.throws !== undefined) throw step.throws;
    this.kvm.tableUses = step.tables ?? [];
    for (const [op, address, value] of step.rows ?? []) this.log.push(op, address, 0, value, 0);
    for (const [register, lo] of Object.entries(step.registers ?? {})) this.registers[2 * Number(register)] = lo;
  }

  probe(): void {}

  rewalk(): void {}

  serves(): boolean {
    return false;
  }

  setRegister(register: number, lo: number, hi: number): void {
    this.told.push(`register ${register} ${lo}`);
    this.registers.set([lo, hi], 2 * register);
  }

  readEntry(_row: number, addressLo: number): readonly [lo: number, hi: number] {
    return [this.memory.get(addressLo) ?? 0, 0];
  }

  adoptEntry(_row: number, addressLo: number, _addressHi: number, lo: number): void {
    this.told.push(`entry ${addressLo} ${lo}`);
    this.memory.set(addressLo, lo);
  }
}

export const SIDES: Sides = [
  { label: 'old', choice: { machine: 'kvm', profile: '6.1' } },
  { label: 'new', choice: { machine: 'kvm', profile: '7.3' } },
];

export interface Compared {
  readonly result: ComparisonResult;
  readonly machines: readonly FakeMachine[];
}

/** Two scripts on one trace. */
export function compareScripts(
  lines: readonly Line[],
  scripts: readonly [readonly FakeStep[], readonly FakeStep[]],
  options: Partial<MachineComparisonOptions> = {},
  prepare: (machine: FakeMachine, side: number) => void = () => {},
): Compared {
  const machines: FakeMachine[] = [];
  const makeKvm = (): FakeMachine => {
    const config = { ...defaultKvmConfig({ vendor: 'intel' }), profile: '6.1' as const };
    const machine = new FakeMachine(config, scripts[machines.length]!);
    prepare(machine, machines.length);
    machines.push(machine);
    return machine;
  };
  const all = { scope: 'all', maxDiffs: 10, bail: false, allowUnmodelled: [], makeKvm, ...options } as const;
  let comparison: MachineComparison | undefined;
  for (const item of openTrace(textFile(lines))) {
    if (item.kind === 'header') comparison = new MachineComparison('fake', item.header, SIDES, all);
    else if (item.kind === 'steps') comparison!.run(item.columns);
  }
  return { result: comparison!.result('digest', 'complete'), machines };
}
