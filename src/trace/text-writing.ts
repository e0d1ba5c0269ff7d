/** Traces as text: one line for each segment's header, each chunk's state and each step (`TEXT-FORM.md`). */

import { word64 } from '../bits/word64.ts';
import { StepKind } from '../formats/step.ts';
import type { StepColumns } from './columns.ts';
import type { TraceItem } from './reader.ts';
import type { Row } from './text-fields.ts';
import { headerObject, stateObject } from './text-header.ts';
import { observationKindOf, stepKindOf } from './text-kinds.ts';
import { putRowFields, rowObject, type TextObject } from './text-rows.ts';
import { stimulusObject } from './text-stimulus.ts';

function rowAt(op: Uint32Array, address: Uint32Array, second: Uint32Array, i: number): Row {
  return {
    op: op[i]!,
    address: word64(address[2 * i]!, address[2 * i + 1]!),
    second: word64(second[2 * i]!, second[2 * i + 1]!),
  };
}

/** Observation `row` of the columns as an object of the text form. */
export function observationObject(columns: StepColumns, row: number): TextObject {
  const { observationOp, observationAddress, observationValue } = columns;
  const values = rowAt(observationOp, observationAddress, observationValue, row);
  return rowObject(observationKindOf(values.op), values);
}

/** Numbers that JSON cannot hold exactly are written as strings. */
function timeJson(time: bigint): number | string {
  const number = Number(time);
  return Number.isSafeInteger(number) ? number : String(time);
}

/** Step `step` (an index into the columns, not an ordinal) as an object of the text form. */
export function stepObject(columns: StepColumns, step: number): TextObject {
  const row = rowAt(columns.op, columns.address, columns.operand, step);
  const kind = stepKindOf(row.op);
  const object = kind.bits === StepKind.RARE ? stimulusObject(columns.stimuli[row.second.lo]!) : rowObject(kind, row);
  if (kind.bits === StepKind.RARE) putRowFields(object, kind, row);
  const line = columns.lineOf(step);
  if (line !== undefined) object['line'] = line;
  const time = columns.timeOf(step);
  if (time !== undefined) object['time'] = timeJson(time);
  const expect: TextObject[] = [];
  const end = columns.observationEnd[step]!;
  for (let i = step === 0 ? 0 : columns.observationEnd[step - 1]!; i < end; i++) {
    expect.push(observationObject(columns, i));
  }
  if (expect.length > 0) object['expect'] = expect;
  return object;
}

/** The lines of a trace, without their ends. Nothing but the item at hand is held. */
export function* traceLines(items: Iterable<TraceItem>): Generator<string, void, void> {
  for (const item of items) {
    if (item.kind === 'header') yield JSON.stringify(headerObject(item.header));
    if (item.kind !== 'steps') continue;
    const { columns } = item;
    yield JSON.stringify(stateObject(columns.registers, columns.source));
    for (let step = 0; step < columns.stepCount; step++) yield JSON.stringify(stepObject(columns, step));
  }
}
