/** Columns as a Steps message, laid out so that a reader can view them where they lie. */

import type { StepColumns, VcpuRegisters } from './columns.ts';
import { LINE_DELTA_BYTES, putLines, putTimes, TIME_DELTA_BYTES } from './deltas.ts';
import { PREFIX_ROOM } from './framing.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import { StepsField, VcpuField } from './steps-reading.ts';
import { encodeStimulus } from './stimulus-message.ts';
import { putVarint, tagOf, varintSize, WireType } from './wire.ts';

/** Where a message begins in the buffer: room for the frame before it, and a multiple of 8. */
export const BODY_START = Math.ceil(PREFIX_ROOM / 8) * 8;

/** Tag, length, and zeros of a padding field. */
const PADDING_HEAD = 3;

/** A buffer that grows, is reused from chunk to chunk, and holds one message from BODY_START on. */
export class MessageBuffer {
  bytes = new Uint8Array(1 << 16);
  position = BODY_START;

  reserve(more: number): void {
    if (this.position + more <= this.bytes.length) return;
    const larger = new Uint8Array(Math.max(this.position + more, 2 * this.bytes.length));
    larger.set(this.bytes.subarray(0, this.position));
    this.bytes = larger;
  }

  number(field: number, value: number): void {
    if (value === 0) return;
    this.reserve(16);
    this.position = putVarint(this.bytes, this.position, tagOf(field, WireType.VARINT));
    this.position = putVarint(this.bytes, this.position, value);
  }

  bytesField(field: number, value: Uint8Array): void {
    this.reserve(16 + value.length);
    this.position = putVarint(this.bytes, this.position, tagOf(field, WireType.BYTES));
    this.position = putVarint(this.bytes, this.position, value.length);
    this.bytes.set(value, this.position);
    this.position += value.length;
  }

  /** Zeros, so that what follows `ahead` further bytes begins at a multiple of 8. */
  align(ahead: number): void {
    if (((this.position + ahead) & 7) === 0) return;
    this.reserve(16);
    const zeros = -(this.position + PADDING_HEAD + ahead) & 7;
    const tag = tagOf(StepsField.PADDING, WireType.BYTES);
    this.position = putVarint(this.bytes, this.position, tag);
    this.bytes[this.position++] = zeros;
    this.bytes.fill(0, this.position, this.position + zeros);
    this.position += zeros;
  }

  /** A column of fixed width, its elements at a multiple of 8. */
  column(field: number, words: Uint32Array): void {
    if (words.length === 0) return;
    const length = 4 * words.length;
    this.align(1 + varintSize(length));
    this.reserve(16 + length);
    this.bytes[this.position++] = tagOf(field, WireType.BYTES);
    this.position = putVarint(this.bytes, this.position, length);
    new Uint32Array(this.bytes.buffer, this.position, words.length).set(words);
    this.position += length;
  }
}

function hasLines(columns: StepColumns): boolean {
  for (let step = 0; step < columns.stepCount; step++) if (columns.lineOf(step) !== undefined) return true;
  return false;
}

function linesOf(columns: StepColumns): Uint8Array | undefined {
  if (!hasLines(columns)) return undefined;
  const bytes = new Uint8Array(LINE_DELTA_BYTES * columns.stepCount);
  return bytes.subarray(
    0,
    putLines(bytes, 0, columns.stepCount, (step) => columns.lineOf(step)),
  );
}

function timesOf(columns: StepColumns): Uint8Array | undefined {
  const { stepCount } = columns;
  if (stepCount === 0 || columns.timeOf(0) === undefined) return undefined;
  const bytes = new Uint8Array(TIME_DELTA_BYTES * stepCount);
  const end = putTimes(bytes, 0, stepCount, (step) => {
    const time = columns.timeOf(step);
    if (time === undefined) throw new Error('all steps of a chunk have a timestamp, or none has');
    return time;
  });
  return bytes.subarray(0, end);
}

/** Registers that every chunk tells; of the later ones, those up to the last that is not 0. */
const FIRST_REGISTERS = 22;

function toldRegisters(registers: Uint32Array): Uint32Array {
  let count = registers.length / 2;
  while (count > FIRST_REGISTERS && registers[2 * count - 2] === 0 && registers[2 * count - 1] === 0) count--;
  return registers.subarray(0, 2 * count);
}

function vcpuMessage({ vcpu, registers }: VcpuRegisters): Uint8Array {
  const told = toldRegisters(registers);
  const bytes = new Uint8Array(16 + 4 * told.length);
  let position = 0;
  bytes[position++] = tagOf(VcpuField.VCPU, WireType.VARINT);
  position = putVarint(bytes, position, vcpu);
  bytes[position++] = tagOf(VcpuField.REGISTERS, WireType.BYTES);
  position = putVarint(bytes, position, 4 * told.length);
  const data = new DataView(bytes.buffer);
  for (const [i, word] of told.entries()) data.setUint32(position + 4 * i, word, true);
  return bytes.subarray(0, position + 4 * told.length);
}

/** Puts the message into `buffer`, from BODY_START to its position; the message's size is a multiple of 8. */
export function putSteps(buffer: MessageBuffer, columns: StepColumns, firstOrdinal: number): void {
  buffer.position = BODY_START;
  buffer.number(StepsField.FIRST_ORDINAL, firstOrdinal);
  buffer.number(StepsField.STEP_COUNT, columns.stepCount);
  buffer.number(StepsField.OBSERVATION_COUNT, columns.observationCount);
  buffer.number(StepsField.SOURCE, columns.source);
  buffer.number(StepsField.VCPU, columns.vcpu);
  buffer.column(StepsField.REGISTERS, toldRegisters(columns.registers));
  for (const other of columns.others) buffer.bytesField(StepsField.OTHER_VCPU, vcpuMessage(other));
  buffer.column(StepsField.OP, columns.op);
  buffer.column(StepsField.ADDRESS, columns.address);
  buffer.column(StepsField.OPERAND, columns.operand);
  buffer.column(StepsField.OBSERVATION_END, columns.observationEnd);
  buffer.column(StepsField.OBSERVATION_OP, columns.observationOp);
  buffer.column(StepsField.OBSERVATION_ADDRESS, columns.observationAddress);
  buffer.column(StepsField.OBSERVATION_VALUE, columns.observationValue);
  for (const stimulus of columns.stimuli) {
    buffer.bytesField(StepsField.STIMULUS, encodeStimulus(stimulus, DEFAULT_LIMITS));
  }
  const lines = linesOf(columns);
  if (lines !== undefined) buffer.bytesField(StepsField.LINE_DELTA, lines);
  const times = timesOf(columns);
  if (times !== undefined) buffer.bytesField(StepsField.TIME_DELTA, times);
  buffer.align(0);
}
