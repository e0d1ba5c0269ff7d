/** A machine with an emulated KVM that does what a script says: two hand-made traces, one recorded, one replayed. */

import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { REGISTER_COUNT } from '../../src/formats/registers.ts';
import type { Machine, TableUse } from '../../src/machine/machine.ts';
import { RowLog } from '../../src/paging/row-log.ts';
import type { ReplayResult } from '../../src/replay/result.ts';
import { type ReplayOptions, ReplaySession } from '../../src/replay/session.ts';
import { keptColumns, type StepColumns } from '../../src/trace/columns.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { header, type Line, textFile } from './small-traces.ts';

export const KVM_OUTCOMES = ['kvm-event', 'completed', 'exception', 'translated', 'register', 'entry-after'];

/** One step: the stimulus, what was recorded of it, what the machine does (the same if left out). */
export interface Scripted {
  readonly step: Line;
  readonly recorded: readonly Line[];
  readonly replayed?: readonly Line[];
  readonly tables?: readonly TableUse[];
}

export class ScriptedMachine implements Machine {
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
  private readonly columns: StepColumns;
  private readonly tables: readonly (readonly TableUse[])[];

  constructor(
    config: KvmConfig,
    columns: StepColumns,
    tables: readonly (readonly TableUse[])[],
    predictsFaults: boolean,
  ) {
    this.kvm = {
      config,
      tableUses: [],
      predictsFaults,
      invariantFindings: [],
      takeBackAd: () => {},
      takeReflected: () => {},
    };
    this.columns = columns;
    this.tables = tables;
  }

  apply(ordinal: number): void {
    const { observationEnd, observationOp, observationAddress: a, observationValue: v } = this.columns;
    this.log.count = 0;
    this.kvm.tableUses = this.tables[ordinal]!;
    for (let row = ordinal === 0 ? 0 : observationEnd[ordinal - 1]!; row < observationEnd[ordinal]!; row++) {
      this.log.push(observationOp[row]!, a[2 * row]!, a[2 * row + 1]!, v[2 * row]!, v[2 * row + 1]!);
    }
  }

  probe(): void {}

  rewalk(): void {}

  serves(): boolean {
    return false;
  }

  setRegister(register: number, lo: number, hi: number): void {
    this.registers.set([lo, hi], 2 * register);
  }

  readEntry(): readonly [lo: number, hi: number] {
    return [0, 0];
  }

  adoptEntry(): void {}
}

function read(lines: readonly Line[]): { header: TraceHeader; columns: StepColumns } {
  const trace = openTrace(textFile(lines));
  try {
    let seen: TraceHeader | undefined;
    for (const item of trace) {
      if (item.kind === 'header') seen = item.header;
      else if (item.kind === 'steps') return { header: seen!, columns: keptColumns(item.columns) };
    }
    throw new Error('the script has no steps');
  } finally {
    trace.close();
  }
}

export interface ScriptOptions extends ReplayOptions {
  readonly mmu?: Line;
  readonly parameters?: readonly string[];
  readonly predictsFaults?: boolean;
}

/** Replays a script against its recording. */
export function replayScript(steps: readonly Scripted[], options: ScriptOptions = {}): ReplayResult {
  const { mmu = {}, parameters = [], predictsFaults = false, ...rest } = options;
  const begin = header({
    observable: KVM_OUTCOMES,
    adPolicy: 'after-translation',
    hypervisor: { name: 'kvm', tdp: true, parameters, mmu },
  });
  const trace = (side: (step: Scripted) => readonly Line[]): Line[] => [
    begin,
    ...steps.map((each) => ({ ...each.step, expect: side(each) })),
  ];
  const recorded = read(trace(({ recorded: rows }) => rows));
  const replayed = read(trace((each) => each.replayed ?? each.recorded));
  const config = recorded.header.hypervisor?.mmu ?? defaultKvmConfig();
  const tables = steps.map((each) => each.tables ?? []);
  const session = new ReplaySession('script', recorded.header, {
    ...rest,
    makeKvm: (_, asked) => new ScriptedMachine(asked ?? config, replayed.columns, tables, predictsFaults),
  });
  const whole = session.run(recorded.columns);
  return session.result(undefined, whole ? 'complete' : 'not read');
}

export const ENTRY: Line = { 'vm-entry': true };

export function fault(address: string, error = '0x4'): Line {
  return { 'fault-exit': address, error };
}

export function pageFault(address: string, error = '0x4'): Line {
  return { kvm: 'page-fault', fault_address: address, error_code: error };
}

/** A leaf of level 1: `set-spte`, `rwxu`. */
export function setSpte(gfn: string, spte: string, sptep: string, more: Line = {}): Line {
  return { kvm: 'set-spte', gfn, spte, rwx: 'rwxu', level: 1, sptep, ...more };
}

export function changed(gfn: string, level: number, old_spte: string, new_spte: string): Line {
  return { kvm: 'tdp-spte-changed', gfn, level, old_spte, new_spte };
}

export function getPage(gfn: string, role: string, more: Line = {}): Line {
  return { kvm: 'get-page', mmu_valid_gen: 0, gfn, role, root_count: 0, created: true, ...more };
}
