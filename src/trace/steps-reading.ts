/** The Steps message as columns, viewed where they lie. */

import { Problem } from '../bits/problem.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import { MAXIMUM_VCPUS } from '../formats/step.ts';
import type { ChunkBody } from './chunk.ts';
import type { StepColumns, VcpuRegisters } from './columns.ts';
import { countVarints, decodeLines, decodeTimes } from './deltas.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { checkColumns } from './soundness.ts';
import type { Stimulus } from './stimulus.ts';
import { decodeStimulus, stimulusBytes } from './stimulus-message.ts';
import { WireReader, WireType, words32 } from './wire.ts';

/** Numbers of the message's fields. */
export const StepsField = {
  FIRST_ORDINAL: 1,
  REGISTERS: 2,
  STEP_COUNT: 3,
  OBSERVATION_COUNT: 4,
  OP: 5,
  ADDRESS: 6,
  OPERAND: 7,
  OBSERVATION_END: 8,
  OBSERVATION_OP: 9,
  OBSERVATION_ADDRESS: 10,
  OBSERVATION_VALUE: 11,
  STIMULUS: 12,
  SOURCE: 13,
  LINE_DELTA: 14,
  TIME_DELTA: 15,
  PADDING: 16,
  VCPU: 17,
  OTHER_VCPU: 18,
} as const;

/** Numbers of the fields of a VcpuState message. */
export const VcpuField = { VCPU: 1, REGISTERS: 2 } as const;

const EMPTY = new Uint32Array(0);
const NO_BYTES = new Uint8Array(0);

/** Bytes of one element, for the columns of fixed width. */
const ELEMENT_BYTES: Readonly<Record<number, number>> = {
  [StepsField.REGISTERS]: 8,
  [StepsField.OP]: 4,
  [StepsField.ADDRESS]: 8,
  [StepsField.OPERAND]: 8,
  [StepsField.OBSERVATION_END]: 4,
  [StepsField.OBSERVATION_OP]: 4,
  [StepsField.OBSERVATION_ADDRESS]: 8,
  [StepsField.OBSERVATION_VALUE]: 8,
};

/** The message's parts by number of field, before anything about them is believed but their lengths. */
class Parts {
  readonly numbers = new Map<number, number>();
  readonly columns = new Map<number, Uint32Array>();
  readonly deltas = new Map<number, Uint8Array>();
  readonly stimuli: Stimulus[] = [];
  readonly others: VcpuRegisters[] = [];
  private stimulusBytes = 0;

  constructor(reader: WireReader, limits: TraceLimits) {
    while (!reader.atEnd) {
      const at = reader.position;
      const tag = reader.varint();
      const field = Math.floor(tag / 8);
      const wireType = tag % 8;
      const known = field >= StepsField.FIRST_ORDINAL && field <= StepsField.OTHER_VCPU && field !== StepsField.PADDING;
      if (known && this.has(field)) {
        throw reader.problem(`field ${field} of the steps comes twice`, at);
      }
      const isMessage = field === StepsField.STIMULUS || field === StepsField.OTHER_VCPU;
      if (wireType === WireType.VARINT && known && !isMessage) this.numbers.set(field, reader.varint());
      else if (wireType === WireType.BYTES && known) this.bytesField(reader, field, limits);
      else if (known) throw reader.problem(`field ${field} of the steps has wire type ${wireType}`, at);
      else reader.skip(wireType);
    }
  }

  private has(field: number): boolean {
    return this.numbers.has(field) || this.columns.has(field) || this.deltas.has(field);
  }

  private bytesField(reader: WireReader, field: number, limits: TraceLimits): void {
    const length = reader.skipBytes();
    const start = reader.position - length;
    const width = ELEMENT_BYTES[field];
    if (width !== undefined) {
      if (length % width !== 0) throw reader.problem(`field ${field} of the steps ends inside an element`, start);
      this.columns.set(field, words32(reader.bytes, start, length));
    } else if (field === StepsField.STIMULUS) {
      withinLimit(limits, 'maxStimuli', this.stimuli.length + 1, "the number of the chunk's rare stimuli");
      const stimulus = decodeStimulus(reader.bytes, start, reader.position, limits);
      this.stimulusBytes += stimulusBytes(stimulus);
      withinLimit(limits, 'maxStimulusBytes', this.stimulusBytes, "the memory of the chunk's rare stimuli");
      this.stimuli.push(stimulus);
    } else if (field === StepsField.OTHER_VCPU) {
      if (this.others.length === MAXIMUM_VCPUS) throw reader.problem('the chunk has too many vCPUs', start);
      this.others.push(readVcpu(new WireReader(reader.bytes, start, reader.position)));
    } else if (field === StepsField.LINE_DELTA || field === StepsField.TIME_DELTA) {
      this.deltas.set(field, reader.bytes.subarray(start, reader.position));
    } else throw reader.problem(`field ${field} of the steps is no number`, start);
  }

  number(field: number): number {
    return this.numbers.get(field) ?? 0;
  }

  column(field: number): Uint32Array {
    return this.columns.get(field) ?? EMPTY;
  }

  /** A column of differences, which is absent or has one for each step. */
  deltaBytes(field: number, stepCount: number): Uint8Array {
    const bytes = this.deltas.get(field) ?? NO_BYTES;
    if (bytes.length > 0 && countVarints(bytes) !== stepCount) {
      throw new Problem('E_UNSOUND', `field ${field} of the steps has not one number for each step`);
    }
    return bytes;
  }
}

/** The number and registers of another vCPU. */
function readVcpu(reader: WireReader): VcpuRegisters {
  let vcpu = 0;
  let registers: Uint32Array = EMPTY;
  while (!reader.atEnd) {
    const tag = reader.varint();
    if (tag === VcpuField.VCPU * 8 + WireType.VARINT) vcpu = reader.varint();
    else if (tag === VcpuField.REGISTERS * 8 + WireType.BYTES) {
      const length = reader.skipBytes();
      if (length % 8 !== 0) throw reader.problem("a vCPU's registers end inside an element");
      registers = words32(reader.bytes, reader.position - length, length);
    } else reader.skip(tag % 8);
  }
  return { vcpu, registers: allRegisters(registers) };
}

/** The registers at the chunk's start; a writer that knew fewer than we do left the others at 0. */
function allRegisters(column: Uint32Array): Uint32Array {
  if (column.length > 2 * REGISTER_COUNT) {
    throw new Problem(
      'E_UNKNOWN_FEATURE',
      'the chunk has registers that this version does not know',
      {},
      'use a newer rewalk',
    );
  }
  const registers = new Uint32Array(2 * REGISTER_COUNT);
  registers.set(column);
  return registers;
}

/**
 * The columns of a Steps message, sound as `checkColumns` understands it. They are views of `body.bytes` wherever
 * these are aligned. Throws E_UNSOUND, E_LIMIT or E_UNKNOWN_FEATURE.
 */
export function readSteps(body: ChunkBody, limits: TraceLimits): StepColumns {
  const parts = new Parts(new WireReader(body.bytes, body.start, body.end, body.fileOffset), limits);
  const stepCount = parts.number(StepsField.STEP_COUNT);
  const lineBytes = parts.deltaBytes(StepsField.LINE_DELTA, stepCount);
  const timeBytes = parts.deltaBytes(StepsField.TIME_DELTA, stepCount);
  let lines: Uint32Array | undefined;
  let times: BigInt64Array | undefined;
  const columns: StepColumns = {
    firstOrdinal: parts.number(StepsField.FIRST_ORDINAL),
    registers: allRegisters(parts.column(StepsField.REGISTERS)),
    vcpu: parts.number(StepsField.VCPU),
    others: parts.others,
    stepCount,
    observationCount: parts.number(StepsField.OBSERVATION_COUNT),
    op: parts.column(StepsField.OP),
    address: parts.column(StepsField.ADDRESS),
    operand: parts.column(StepsField.OPERAND),
    observationEnd: parts.column(StepsField.OBSERVATION_END),
    observationOp: parts.column(StepsField.OBSERVATION_OP),
    observationAddress: parts.column(StepsField.OBSERVATION_ADDRESS),
    observationValue: parts.column(StepsField.OBSERVATION_VALUE),
    stimuli: parts.stimuli,
    source: parts.number(StepsField.SOURCE),
    lineOf(step) {
      if (lineBytes.length === 0) return undefined;
      lines ??= decodeLines(lineBytes, stepCount);
      return lines[step] || undefined;
    },
    timeOf(step) {
      if (timeBytes.length === 0) return undefined;
      times ??= decodeTimes(timeBytes, stepCount);
      return times[step];
    },
  };
  checkColumns(columns);
  return columns;
}
