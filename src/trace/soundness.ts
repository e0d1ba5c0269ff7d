/**
 * What must hold of a chunk's columns before anybody may use them without looking: the reader asks before it hands
 * them out, the writer before it writes. Whatever only makes a trace strange, not dangerous, is `check/`'s business.
 */

import { type Place, Problem } from '../bits/problem.ts';
import { OBS_KIND_COUNT, OBS_KIND_MASK } from '../formats/observation.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import { MAXIMUM_VCPUS, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { StepColumns } from './columns.ts';

const STEP_KIND_COUNT = Object.keys(StepKind).length;
/** A bit for every known kind but RARE and VCPU. */
// `| 0` makes it a small integer for the engine underneath, not a double.
const PLAIN_KINDS = (2 ** STEP_KIND_COUNT - 1 - (1 << StepKind.RARE) - (1 << StepKind.VCPU)) | 0;

/** A column whose length does not agree with the counts. */
function checkLengths(columns: StepColumns): void {
  const { stepCount, observationCount } = columns;
  const lengths: [string, Uint32Array, number][] = [
    ['registers', columns.registers, 2 * REGISTER_COUNT],
    ['op', columns.op, stepCount],
    ['address', columns.address, 2 * stepCount],
    ['operand', columns.operand, 2 * stepCount],
    ['observation_end', columns.observationEnd, stepCount],
    ['observation_op', columns.observationOp, observationCount],
    ['observation_address', columns.observationAddress, 2 * observationCount],
    ['observation_value', columns.observationValue, 2 * observationCount],
  ];
  for (const [name, column, length] of lengths) {
    if (column.length === length) continue;
    throw new Problem(
      'E_UNSOUND',
      `column ${name} has ${4 * column.length} bytes where the counts ask for ${4 * length}`,
    );
  }
}

/** States of vCPUs that do not exist, or come twice. */
function checkVcpus({ vcpu, others }: StepColumns): void {
  if (vcpu >= MAXIMUM_VCPUS) throw new Problem('E_UNSOUND', `the chunk begins with vCPU ${vcpu}`);
  let last = -1;
  for (const each of others) {
    if (each.registers.length !== 2 * REGISTER_COUNT) {
      throw new Problem('E_UNSOUND', `the registers of vCPU ${each.vcpu} are not as many as there are`);
    }
    if (each.vcpu <= last || each.vcpu === vcpu || each.vcpu >= MAXIMUM_VCPUS) {
      throw new Problem('E_UNSOUND', `the chunk has registers of vCPU ${each.vcpu} where none are due`);
    }
    last = each.vcpu;
  }
}

// Every step of every trace passes through the next two functions, at about a nanosecond each. So they only say whether
// something is wrong; whoever gets `false` looks for the step. Each is a single loop on purpose: code behind a hot loop
// that has seldom run makes V8 throw its compiled version away, chunk after chunk.

/** True if all steps are of known kinds whose operands can do no harm. */
function allPlain(op: Uint32Array): boolean {
  const words = new Int32Array(op.buffer, op.byteOffset, op.length);
  let plain = 1;
  // A shift takes the low 5 bits of its count, which are the step's kind.
  for (let i = 0; i < words.length; i++) plain &= PLAIN_KINDS >>> words[i]!;
  return plain === 1;
}

/** True if no element is less than the one before it. */
function neverFalls(column: Uint32Array): boolean {
  const words = new Int32Array(column.buffer, column.byteOffset, column.length);
  let before = 0;
  let sign = 0;
  // From 2^31 on, more than any chunk can hold, the elements themselves are negative here. Where none is, a difference
  // that is tells of a fall.
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    sign |= word | (word - before);
    before = word;
  }
  return sign >= 0;
}

function checkSteps(columns: StepColumns): void {
  const { op, address, operand, stepCount, stimuli } = columns;
  let rare = 0;
  for (let step = allPlain(op) ? stepCount : 0; step < stepCount; step++) {
    const kind = op[step]! & STEP_KIND_MASK;
    const place = { step: columns.firstOrdinal + step };
    if (kind >= STEP_KIND_COUNT) throw unknownKind(`a step is of kind ${kind}`, place);
    if (kind === StepKind.VCPU && (operand[2 * step + 1] !== 0 || operand[2 * step]! >= MAXIMUM_VCPUS)) {
      throw new Problem('E_UNSOUND', `a step is of a vCPU beyond ${MAXIMUM_VCPUS - 1}`, place);
    }
    if (kind !== StepKind.RARE) continue;
    const zero = operand[2 * step + 1]! | address[2 * step]! | address[2 * step + 1]!;
    if (zero !== 0 || operand[2 * step] !== rare || rare >= stimuli.length) {
      throw new Problem('E_UNSOUND', 'a step does not refer to the next one of the rare stimuli', place);
    }
    rare++;
  }
  if (rare === stimuli.length) return;
  throw new Problem('E_UNSOUND', `the chunk has ${stimuli.length} rare stimuli for ${rare} steps`);
}

function unknownKind(sentence: string, place: Place): Problem {
  return new Problem('E_UNKNOWN_FEATURE', `${sentence}, which this version does not know`, place, 'use a newer rewalk');
}

function checkObservations(columns: StepColumns): void {
  const { observationEnd, observationOp, stepCount, observationCount } = columns;
  if (!neverFalls(observationEnd)) {
    const step = observationEnd.findIndex((end, i) => end >= 0x8000_0000 || end < (observationEnd[i - 1] ?? 0));
    const place = { step: columns.firstOrdinal + step };
    throw new Problem('E_UNSOUND', 'the observations of a step end before those of the step before it', place);
  }
  const last = observationEnd[stepCount - 1] ?? 0;
  if (last !== observationCount) {
    throw new Problem('E_UNSOUND', `the steps have ${last} observations and the chunk says ${observationCount}`);
  }
  const row = observationOp.findIndex((op) => (op & OBS_KIND_MASK) >= OBS_KIND_COUNT);
  if (row < 0) return;
  const place = { step: columns.firstOrdinal + observationEnd.findIndex((end) => end > row) };
  throw unknownKind(`an observation is of kind ${observationOp[row]! & OBS_KIND_MASK}`, place);
}

/** Throws E_UNSOUND or E_UNKNOWN_FEATURE, with the step where it has one. */
export function checkColumns(columns: StepColumns): void {
  checkLengths(columns);
  checkVcpus(columns);
  checkSteps(columns);
  checkObservations(columns);
}
