/**
 * Steps while they are being made, with their rows, and the list in which they wait for the end of their unit: what a
 * step shows may have to be stated before it.
 */

import { fromBigInt } from '../../bits/word64.ts';
import type { RegId } from '../../formats/registers.ts';
import { PROVENANCE_SHIFT, STEP_KIND_MASK, STEP_REGISTER_SHIFT, StepKind } from '../../formats/step.ts';
import { StepBuilder } from '../../trace/columns.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import type { RegisterFile } from '../kvm-guest/register-file.ts';
import type { StepSink } from '../sink.ts';
import type { Row } from './event-rows.ts';

export interface Draft {
  /** The step word. */
  op: number;
  readonly address: bigint;
  readonly operand: bigint;
  /** Of a rare step. */
  readonly stimulus: Stimulus | undefined;
  /** Record of the trace that it comes from. */
  readonly position: number;
  readonly rows: Row[];
  /** What has to be stated ahead of it. */
  readonly before: Draft[];
}

export function draft(op: number, address: bigint, operand: bigint, position: number): Draft {
  return { op: op >>> 0, address, operand, stimulus: undefined, position, rows: [], before: [] };
}

/** `kind`: REGISTER_WRITE, or REGISTER_SET for what a register is found to hold. */
export function registerDraft(
  kind: typeof StepKind.REGISTER_WRITE | typeof StepKind.REGISTER_SET,
  register: RegId,
  value: bigint,
  provenance: number,
  position: number,
): Draft {
  return draft(kind | (provenance << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT), 0n, value, position);
}

export function rareDraft(stimulus: Stimulus, provenance: number, position: number): Draft {
  const op = StepKind.RARE | (provenance << PROVENANCE_SHIFT);
  return { op, address: 0n, operand: 0n, stimulus, position, rows: [], before: [] };
}

export function kindOf(step: Draft): number {
  return step.op & STEP_KIND_MASK;
}

/** Hands drafts to a sink in runs that make good chunks. */
export class DraftWriter {
  steps = 0;
  rows = 0;
  private readonly sink: StepSink;
  private readonly registers: RegisterFile;
  private readonly builder = new StepBuilder();
  private runRegisters: Uint32Array;

  /** `registers`: the state as of the last draft written. */
  constructor(sink: StepSink, registers: RegisterFile) {
    this.sink = sink;
    this.registers = registers;
    this.runRegisters = registers.snapshot();
  }

  /** Writes drafts; only between units, when `registers` agrees with what was written. */
  write(drafts: readonly Draft[]): void {
    for (const each of drafts) this.put(each);
    if (this.builder.isFull) this.flush();
  }

  private put(each: Draft): void {
    for (const earlier of each.before) this.put(earlier);
    this.steps++;
    this.rows += each.rows.length;
    if (each.stimulus === undefined) {
      const address = fromBigInt(each.address);
      const operand = fromBigInt(each.operand);
      this.builder.step(each.op, address.lo, address.hi, operand.lo, operand.hi, each.position);
    } else {
      this.builder.rare(each.stimulus, each.op, each.position);
    }
    for (const row of each.rows) {
      const address = fromBigInt(row.address);
      const value = fromBigInt(row.value);
      this.builder.observe(row.op, address.lo, address.hi, value.lo, value.hi);
    }
  }

  flush(): void {
    if (this.builder.stepCount === 0) return;
    this.sink.steps(this.builder.take(this.runRegisters));
    this.runRegisters = this.registers.snapshot();
  }
}
