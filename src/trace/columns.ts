/**
 * A run of steps with their expected observations, as columns.
 *
 * This is how steps look in memory everywhere: the writer emits these arrays, the reader returns views of the file's
 * own bytes, and the replay engine reads them in place. 64-bit columns hold two elements per row, low half first.
 */

import type { Stimulus } from './stimulus.ts';

/** The registers of a vCPU: 2 × REGISTER_COUNT elements. */
export interface VcpuRegisters {
  readonly vcpu: number;
  readonly registers: Uint32Array;
}

export interface StepColumns {
  /** Ordinal of the first step in its segment. */
  readonly firstOrdinal: number;
  /** vCPU state before the first step: 2 × REGISTER_COUNT elements. */
  readonly registers: Uint32Array;
  /** The vCPU that they are of, which makes the first step. */
  readonly vcpu: number;
  /** The state of the other vCPUs that the segment has had so far, by rising number. */
  readonly others: readonly VcpuRegisters[];
  readonly stepCount: number;
  readonly observationCount: number;
  /** Step words (`formats/step.ts`), `stepCount` elements. */
  readonly op: Uint32Array;
  readonly address: Uint32Array;
  readonly operand: Uint32Array;
  /** Per step: the index after its last observation. */
  readonly observationEnd: Uint32Array;
  /** Observation words (`formats/observation.ts`), `observationCount` elements. */
  readonly observationOp: Uint32Array;
  readonly observationAddress: Uint32Array;
  readonly observationValue: Uint32Array;
  /** Rare stimuli; the n-th RARE step refers to the n-th of them, by index. */
  readonly stimuli: readonly Stimulus[];
  /** Position in the header's sources. */
  readonly source: number;
  /** Line (or record) number of each step in the source, or `undefined`. A function, since only reports need it. */
  lineOf(step: number): number | undefined;
  /** Timestamp of each step in nanoseconds, or `undefined`. */
  timeOf(step: number): bigint | undefined;
}

/** A copy that lasts, of columns that are views of a reader's buffer and would be overwritten. */
export function keptColumns(columns: StepColumns): StepColumns {
  const { stepCount } = columns;
  const lines = Array.from({ length: stepCount }, (_, step) => columns.lineOf(step));
  const times = Array.from({ length: stepCount }, (_, step) => columns.timeOf(step));
  return {
    ...columns,
    registers: columns.registers.slice(),
    others: columns.others.map(({ vcpu, registers }) => ({ vcpu, registers: registers.slice() })),
    op: columns.op.slice(),
    address: columns.address.slice(),
    operand: columns.operand.slice(),
    observationEnd: columns.observationEnd.slice(),
    observationOp: columns.observationOp.slice(),
    observationAddress: columns.observationAddress.slice(),
    observationValue: columns.observationValue.slice(),
    lineOf: (step) => lines[step],
    timeOf: (step) => times[step],
  };
}

/** Sizes that make a good chunk: large enough to read fast, small enough to seek and to hold many in memory. */
const STEPS_PER_CHUNK = 0x1_0000;
const OBSERVATIONS_PER_CHUNK = 0x8_0000;
const STIMULI_PER_CHUNK = 0x1000;

/** Doubles a full typed array. */
function grown(array: Uint32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(array.length * 2);
  larger.set(array);
  return larger;
}

/**
 * Collects steps one after the other; `take` hands them out as columns and starts anew.
 *
 * Protocol: `step(...)`, then `observe(...)` for each of its observations.
 */
export class StepBuilder {
  stepCount = 0;
  observationCount = 0;
  private firstOrdinal = 0;
  private op = new Uint32Array(1024);
  private address = new Uint32Array(2048);
  private operand = new Uint32Array(2048);
  private end = new Uint32Array(1024);
  private line = new Uint32Array(1024);
  private rowOp = new Uint32Array(4096);
  private rowAddress = new Uint32Array(8192);
  private rowValue = new Uint32Array(8192);
  private stimuli: Stimulus[] = [];
  private times: bigint[] = [];

  /** Time to `take` the steps for a chunk: there are enough of them, or of what goes with them. */
  get isFull(): boolean {
    return (
      this.stepCount >= STEPS_PER_CHUNK ||
      this.observationCount >= OBSERVATIONS_PER_CHUNK ||
      this.stimuli.length >= STIMULI_PER_CHUNK
    );
  }

  /** Appends a step. `line`: line or record number in the source, 0 = unknown. */
  step(op: number, addressLo: number, addressHi: number, operandLo: number, operandHi: number, line = 0): void {
    const n = this.stepCount;
    if (n === this.op.length) {
      this.op = grown(this.op);
      this.address = grown(this.address);
      this.operand = grown(this.operand);
      this.end = grown(this.end);
      this.line = grown(this.line);
    }
    this.op[n] = op;
    this.address[2 * n] = addressLo;
    this.address[2 * n + 1] = addressHi;
    this.operand[2 * n] = operandLo;
    this.operand[2 * n + 1] = operandHi;
    this.end[n] = this.observationCount;
    this.line[n] = line;
    this.stepCount = n + 1;
  }

  /** Appends a RARE step; `provenanceBits`: provenance already shifted into place. */
  rare(stimulus: Stimulus, provenanceBits = 0, line = 0): void {
    this.step(provenanceBits, 0, 0, this.stimuli.length, 0, line);
    this.stimuli.push(stimulus);
  }

  /** Appends an observation expected of the last step. */
  observe(op: number, addressLo: number, addressHi: number, valueLo: number, valueHi: number): void {
    const n = this.observationCount;
    if (n === this.rowOp.length) {
      this.rowOp = grown(this.rowOp);
      this.rowAddress = grown(this.rowAddress);
      this.rowValue = grown(this.rowValue);
    }
    this.rowOp[n] = op;
    this.rowAddress[2 * n] = addressLo;
    this.rowAddress[2 * n + 1] = addressHi;
    this.rowValue[2 * n] = valueLo;
    this.rowValue[2 * n + 1] = valueHi;
    this.observationCount = n + 1;
    this.end[this.stepCount - 1] = n + 1;
  }

  /** Sets the last step's timestamp in nanoseconds; all steps of a run have one, or none has. */
  stamp(nanoseconds: bigint): void {
    this.times.push(nanoseconds);
  }

  /**
   * The steps so far, with `registers` of `vcpu` and those of all `others` seen so far as the state before the first of
   * them; the builder goes on empty.
   */
  take(registers: Uint32Array, source = 0, vcpu = 0, others: readonly VcpuRegisters[] = []): StepColumns {
    const n = this.stepCount;
    const rows = this.observationCount;
    const line = this.line.slice(0, n);
    const times = this.times;
    const columns: StepColumns = {
      firstOrdinal: this.firstOrdinal,
      registers: registers.slice(),
      vcpu,
      others: others.map((each) => ({ vcpu: each.vcpu, registers: each.registers.slice() })),
      stepCount: n,
      observationCount: rows,
      op: this.op.slice(0, n),
      address: this.address.slice(0, 2 * n),
      operand: this.operand.slice(0, 2 * n),
      observationEnd: this.end.slice(0, n),
      observationOp: this.rowOp.slice(0, rows),
      observationAddress: this.rowAddress.slice(0, 2 * rows),
      observationValue: this.rowValue.slice(0, 2 * rows),
      stimuli: this.stimuli,
      source,
      lineOf: (step) => line[step] || undefined,
      timeOf: (step) => times[step],
    };
    this.firstOrdinal += n;
    this.stepCount = 0;
    this.observationCount = 0;
    this.stimuli = [];
    this.times = [];
    return columns;
  }
}
