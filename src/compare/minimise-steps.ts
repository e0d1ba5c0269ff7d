/**
 * The steps of a trace as a list from which any can be left out. What a list has and a trace has not: each step knows its
 * vCPU, so that VCPU steps are made anew as needed, and what a chunk states of registers has become steps.
 */

import { Problem } from '../bits/problem.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import { PROVENANCE_SHIFT, Provenance, STEP_KIND_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import { keptColumns, StepBuilder, type StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { takeRecorded } from './knowledge.ts';

/** Steps that a list may have: they are all in memory. */
const MAXIMUM_STEPS = 1 << 20;

/** A step, halves as in the trace file. */
export interface ListedStep {
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  /** Of a RARE step. */
  readonly stimulus: Stimulus | undefined;
  readonly vcpu: number;
  /** Where its expected observations are: rows `begin` to `end` of these columns. */
  readonly rows: StepColumns | null;
  readonly begin: number;
  readonly end: number;
  /** Position in the trace that the list was made from; for slicing and for reports. */
  readonly ordinal: number;
  /** Line in that trace's source and time, if known. */
  readonly line: number | undefined;
  readonly time: bigint | undefined;
  readonly source: number;
}

export interface StepList {
  readonly header: TraceHeader;
  /** vCPU 0 before the first step: 2 × REGISTER_COUNT elements. */
  readonly registers: Uint32Array;
  readonly steps: readonly ListedStep[];
}

/** A list that is made smaller as long as it serves. */
export interface Reducible {
  readonly best: StepList;
  /** Whether the other list serves. If so it, or what it needs of it, is `best` from then on. */
  attemptList(list: StepList): boolean;
  isOver(): boolean;
}

const NO_ROWS = { rows: null, begin: 0, end: 0 } as const;

/** A REGISTER_SET that states what a chunk's state says. */
function setStep(vcpu: number, register: number, lo: number, hi: number, like: Partial<ListedStep>): ListedStep {
  return {
    op: StepKind.REGISTER_SET | (Provenance.RECORDED << PROVENANCE_SHIFT) | ((register << STEP_REGISTER_SHIFT) >>> 0),
    addressLo: 0,
    addressHi: 0,
    operandLo: lo,
    operandHi: hi,
    stimulus: undefined,
    vcpu,
    ...NO_ROWS,
    ordinal: 0,
    line: undefined,
    time: undefined,
    source: 0,
    ...like,
  };
}

/** Collects the steps of a segment. The machine goes along: it knows which registers a chunk's state changes. */
export class StepListBuilder {
  private readonly header: TraceHeader;
  private readonly machine: Machine;
  private readonly adOpen: boolean;
  private readonly registers = new Uint32Array(2 * REGISTER_COUNT);
  private readonly steps: ListedStep[] = [];
  private vcpu = 0;
  private isFirst = true;

  constructor(header: TraceHeader, machine: Machine) {
    this.header = header;
    this.machine = machine;
    this.adOpen = header.adPolicy === 'unspecified';
  }

  /** Adds steps before ordinal `to`. Throws E_LIMIT. */
  add(chunk: StepColumns, to: number): void {
    const columns = keptColumns(chunk);
    this.takeState(columns);
    const { machine, steps } = this;
    const { op, address, operand, observationEnd, stimuli, firstOrdinal, source } = columns;
    const count = Math.min(columns.stepCount, to - firstOrdinal);
    if (steps.length + count > MAXIMUM_STEPS) {
      throw new Problem(
        'E_LIMIT',
        `the trace has more than ${MAXIMUM_STEPS} steps before the one that diverges: they do not all fit in memory`,
        {},
        'minimise a shorter recording of the same scenario',
      );
    }
    for (let i = 0; i < count; i++) {
      const at = 2 * i;
      const begin = i === 0 ? 0 : observationEnd[i - 1]!;
      const end = observationEnd[i]!;
      const words = [address[at]!, address[at + 1]!, operand[at]!, operand[at + 1]!] as const;
      machine.apply(firstOrdinal + i, op[i]!, words[0] | 0, words[1] | 0, words[2] | 0, words[3] | 0, stimuli);
      if (end > begin) takeRecorded(machine, columns, begin, end, this.adOpen);
      const kind = op[i]! & STEP_KIND_MASK;
      if (kind === StepKind.VCPU) {
        this.vcpu = words[2];
        continue;
      }
      steps.push({
        op: op[i]!,
        addressLo: words[0],
        addressHi: words[1],
        operandLo: words[2],
        operandHi: words[3],
        stimulus: kind === StepKind.RARE ? stimuli[words[2]] : undefined,
        vcpu: this.vcpu,
        rows: columns,
        begin,
        end,
        ordinal: firstOrdinal + i,
        line: columns.lineOf(i),
        time: columns.timeOf(i),
        source,
      });
    }
  }

  /** The state that a chunk begins with: that of vCPU 0 for the first one, steps for all else. */
  private takeState({ vcpu, registers, others, firstOrdinal, source }: StepColumns): void {
    const { machine } = this;
    const several = vcpu !== 0 || others.length > 0 || this.vcpu !== 0;
    for (const state of [...others, { vcpu, registers }]) {
      if (several) machine.apply(firstOrdinal, StepKind.VCPU, 0, 0, state.vcpu, 0, []);
      for (let register = 0; register < REGISTER_COUNT; register++) {
        const [lo, hi] = [state.registers[2 * register]!, state.registers[2 * register + 1]!];
        if (machine.registers[2 * register] === lo && machine.registers[2 * register + 1] === hi) continue;
        machine.setRegister(register, lo, hi);
        if (this.isFirst && state.vcpu === 0) {
          this.registers[2 * register] = lo;
          this.registers[2 * register + 1] = hi;
        } else this.steps.push(setStep(state.vcpu, register, lo, hi, { ordinal: firstOrdinal, source }));
      }
    }
    this.vcpu = vcpu;
    this.isFirst = false;
  }

  take(): StepList {
    return { header: this.header, registers: this.registers, steps: this.steps };
  }
}

/**
 * The list as one chunk, each step with its observations. Lines are those of the last step's source, the times are left
 * out unless every step has one.
 */
export function columnsOf({ registers, steps }: StepList, withRows = true): StepColumns {
  const builder = new StepBuilder();
  const source = steps.at(-1)?.source ?? 0;
  const timed = steps.length > 0 && steps.every(({ time, vcpu }) => time !== undefined && vcpu === 0);
  let vcpu = 0;
  for (const step of steps) {
    if (step.vcpu !== vcpu) builder.step(StepKind.VCPU, 0, 0, step.vcpu, 0);
    vcpu = step.vcpu;
    const line = step.source === source ? (step.line ?? 0) : 0;
    if (step.stimulus !== undefined) builder.rare(step.stimulus, step.op, line);
    else builder.step(step.op, step.addressLo, step.addressHi, step.operandLo, step.operandHi, line);
    if (timed) builder.stamp(step.time!);
    if (withRows) copyRows(builder, step);
  }
  return builder.take(registers, source);
}

function copyRows(builder: StepBuilder, { rows, begin, end }: ListedStep): void {
  if (rows !== null) copyObservations(builder, rows, begin, end);
}

/** Rows `begin` to `end`, exclusive, as they are. */
export function copyObservations(builder: StepBuilder, columns: StepColumns, begin: number, end: number): void {
  const { observationOp, observationAddress, observationValue } = columns;
  for (let row = begin; row < end; row++) {
    const at = 2 * row;
    builder.observe(
      observationOp[row]!,
      observationAddress[at]!,
      observationAddress[at + 1]!,
      observationValue[at]!,
      observationValue[at + 1]!,
    );
  }
}

/** How many members of the list make the steps of `columnsOf` up to and including `step`: VCPU steps are none. */
export function listedBefore({ steps }: StepList, step: number): number {
  let vcpu = 0;
  let at = -1;
  for (const [index, each] of steps.entries()) {
    at += each.vcpu === vcpu ? 1 : 2;
    vcpu = each.vcpu;
    if (at >= step) return index + 1;
  }
  return steps.length;
}
