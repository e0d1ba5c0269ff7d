/** Programs as traces: one segment each, what a bare machine makes of every step as the expected observation. */

import { OBS_KIND_MASK } from '../formats/observation.ts';
import { BareMachine } from '../machine/bare.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import { StepBuilder, type StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { applyStep, loadRegisters, type Program } from './program.ts';

/** Where programs go: a trace in either form. */
export interface ProgramOutput {
  header(header: TraceHeader): void;
  steps(columns: StepColumns): void;
}

/** The program's steps with the outcomes that they have on a bare machine, after `notes`, if any. */
export function programColumns(program: Program, notes: readonly string[] = []): StepColumns {
  const machine = new BareMachine(program.header);
  loadRegisters(machine, program.registers);
  const builder = new StepBuilder();
  for (const text of notes) builder.rare({ kind: 'note', text });
  let ordinal = notes.length;
  for (const each of program.units.flat()) {
    const { op, addressLo, addressHi, operandLo, operandHi, stimulus } = each;
    if (stimulus === undefined) builder.step(op, addressLo, addressHi, operandLo, operandHi);
    else builder.rare(stimulus);
    applyStep(machine, ordinal++, each);
    observe(machine, builder, program.header.observable);
  }
  machine.memory.release();
  return builder.take(program.registers);
}

function observe({ log }: BareMachine, builder: StepBuilder, observable: number): void {
  for (let at = 0; at < log.count * ROW; at += ROW) {
    const { rows } = log;
    const op = rows[at + ROW_OP]!;
    if (((observable >>> (op & OBS_KIND_MASK)) & 1) === 0) continue;
    builder.observe(
      op,
      rows[at + ROW_ADDRESS_LO]!,
      rows[at + ROW_ADDRESS_HI]!,
      rows[at + ROW_VALUE_LO]!,
      rows[at + ROW_VALUE_HI]!,
    );
  }
}

/** Writes the program as a segment of its own. */
export function writeProgram(output: ProgramOutput, program: Program, notes: readonly string[] = []): void {
  output.header(program.header);
  output.steps(programColumns(program, notes));
}
