/** Traces as text: one line for each segment's header, each chunk's state and each step (`TEXT-FORM.md`). */

import { word64 } from '../../bits/word64.ts';
import { KVM_MORE_ROWS, kvmEventOf } from '../../formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../../formats/observation.ts';
import { StepKind } from '../../formats/step.ts';
import type { StepColumns } from '../columns.ts';
import type { TraceHeader } from '../header.ts';
import { Output } from '../output.ts';
import type { Row } from './fields.ts';
import { headerObject, stateObject } from './header.ts';
import { observationKindOf, stepKindOf } from './kinds.ts';
import { kvmEventObject } from './kvm-event.ts';
import { putRowFields, rowObject, type TextObject } from './rows.ts';
import { stimulusObject } from './stimulus.ts';

function rowAt(op: Uint32Array, address: Uint32Array, second: Uint32Array, i: number): Row {
  return {
    op: op[i]!,
    address: word64(address[2 * i]!, address[2 * i + 1]!),
    second: word64(second[2 * i]!, second[2 * i + 1]!),
  };
}

/** The observations `[start, end)` of the columns, those of one step, as objects of the text form. */
function observationObjects(columns: StepColumns, start: number, end: number): TextObject[] {
  const { observationOp, observationAddress, observationValue } = columns;
  const at = (row: number): Row => rowAt(observationOp, observationAddress, observationValue, row);
  const objects: TextObject[] = [];
  for (let row = start; row < end; ) {
    const op = observationOp[row]!;
    if ((op & OBS_KIND_MASK) === Obs.KVM_EVENT) {
      const last = Math.min(end - 1, row + (KVM_MORE_ROWS[kvmEventOf(op)] ?? 0));
      const { object, rows } = kvmEventObject(Array.from({ length: last - row + 1 }, (_, i) => at(row + i)));
      objects.push(object);
      row += rows;
    } else {
      const values = at(row++);
      objects.push(rowObject(observationKindOf(values.op), values));
    }
  }
  return objects;
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
  const start = step === 0 ? 0 : columns.observationEnd[step - 1]!;
  const expect = observationObjects(columns, start, columns.observationEnd[step]!);
  if (expect.length > 0) object['expect'] = expect;
  return object;
}

/** Text is handed to the system in pieces of about this many characters. */
const STRETCH = 1 << 16;

/** Writes the text form. The file appears under its name when `finish` is called, or not at all. */
export class TextWriter {
  private readonly output: Output;
  private text = '';
  private steps = 0;
  private segments = 0;

  private constructor(output: Output) {
    this.output = output;
  }

  /** `path`: a file, or `-`. Throws E_IO. */
  static create(path: string): TextWriter {
    return new TextWriter(Output.create(path));
  }

  beginSegment(header: TraceHeader): void {
    this.line(headerObject(header));
    this.segments++;
  }

  /** Writes a chunk: its state line and its steps. */
  add(columns: StepColumns): void {
    this.line(stateObject(columns));
    for (let step = 0; step < columns.stepCount; step++) this.line(stepObject(columns, step));
    this.steps += columns.stepCount;
  }

  private line(object: TextObject): void {
    this.text += `${JSON.stringify(object)}\n`;
    if (this.text.length >= STRETCH) this.flush();
  }

  private flush(): void {
    this.output.write(Buffer.from(this.text));
    this.text = '';
  }

  finish(): { steps: number; segments: number; bytes: number } {
    this.flush();
    this.output.finish();
    return { steps: this.steps, segments: this.segments, bytes: this.output.size };
  }

  /** Leaves nothing behind. After `finish` it does nothing. */
  abort(): void {
    this.output.abort();
  }
}
