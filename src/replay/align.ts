/** Recorded and replayed observations of a step side by side, once it is known that they differ. */

import { isFault, OBS_KIND_MASK, OBS_REGISTER_MASK, OBS_REGISTER_SHIFT, Obs } from '../formats/observation.ts';
import { expectsAddress } from '../formats/step.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO, type RowLog } from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { ReplayEngine } from './engine.ts';
import type { Row, SidePair } from './result.ts';
import { type Unit, unitsOf } from './units.ts';

export interface Aligned {
  readonly recorded: readonly Row[];
  /** Of the machine's rows those that take part, with its answers where the recording asks. */
  readonly replayed: readonly Row[];
  /** Index of the first difference. */
  readonly at: number;
}

export function isQuestion(op: number): boolean {
  const kind = op & OBS_KIND_MASK;
  return kind === Obs.REGISTER || kind === Obs.ENTRY_AFTER;
}

/** All rows of a machine's log. */
export function logRows(log: RowLog): Row[] {
  return Array.from({ length: log.count }, (_, i) => ({
    op: log.op(i) >>> 0,
    addressLo: log.rows[i * ROW + ROW_ADDRESS_LO]! >>> 0,
    addressHi: log.rows[i * ROW + ROW_ADDRESS_HI]! >>> 0,
    valueLo: log.rows[i * ROW + ROW_VALUE_LO]! >>> 0,
    valueHi: log.rows[i * ROW + ROW_VALUE_HI]! >>> 0,
  }));
}

/** What the recording says of step `index`; an expected physical address becomes a row of its own. */
export function recordedRows(columns: StepColumns, index: number): Row[] {
  const op = columns.op[index]!;
  const rows: Row[] = [];
  if (expectsAddress(op)) {
    const addressLo = columns.operand[2 * index]!;
    const addressHi = columns.operand[2 * index + 1]!;
    rows.push({ op: Obs.TRANSLATED, addressLo, addressHi, valueLo: addressLo, valueHi: addressHi });
  }
  const begin = index === 0 ? 0 : columns.observationEnd[index - 1]!;
  for (let row = begin; row < columns.observationEnd[index]!; row++) {
    rows.push({
      op: columns.observationOp[row]!,
      addressLo: columns.observationAddress[2 * row]!,
      addressHi: columns.observationAddress[2 * row + 1]!,
      valueLo: columns.observationValue[2 * row]!,
      valueHi: columns.observationValue[2 * row + 1]!,
    });
  }
  return rows;
}

/** Whether a replayed row is what was recorded. `addressOnly`: a translation of which only the address was seen. */
export function sameRow(recorded: Row, replayed: Row, addressOnly = false): boolean {
  const recordedKind = recorded.op & OBS_KIND_MASK;
  const replayedKind = replayed.op & OBS_KIND_MASK;
  if (recordedKind === Obs.COMPLETED && replayedKind === Obs.TRANSLATED) return true;
  if (recordedKind === Obs.FAULTED && isFault(replayed.op)) return true;
  const sameAddress = recorded.addressLo === replayed.addressLo && recorded.addressHi === replayed.addressHi;
  if (addressOnly && recordedKind === Obs.TRANSLATED) return replayedKind === Obs.TRANSLATED && sameAddress;
  return (
    recorded.op === replayed.op &&
    sameAddress &&
    recorded.valueLo === replayed.valueLo &&
    recorded.valueHi === replayed.valueHi
  );
}

/** The machine's answer to a question row. */
export function answer(engine: ReplayEngine, question: Row): Row {
  const { machine } = engine;
  if ((question.op & OBS_KIND_MASK) === Obs.REGISTER) {
    const register = (question.op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK;
    const valueLo = machine.registers[2 * register]!;
    return { ...question, valueLo, valueHi: machine.registers[2 * register + 1]! };
  }
  const [valueLo, valueHi] = machine.readEntry(question.op, question.addressLo, question.addressHi);
  return { ...question, valueLo, valueHi };
}

/** Whether a row is an event of KVM or a part of one. */
export function isOfKvm(op: number): boolean {
  const kind = op & OBS_KIND_MASK;
  return kind === Obs.KVM_EVENT || kind === Obs.KVM_MORE;
}

/** Puts recorded and replayed rows of step `index` side by side. */
export function alignRows(engine: ReplayEngine, columns: StepColumns, index: number): Aligned {
  const recorded = recordedRows(columns, index).filter((row) => !isOfKvm(row.op));
  const addressOnly = expectsAddress(columns.op[index]!);
  const seen = logRows(engine.machine.log).filter((row) =>
    addressOnly ? isOutcomeKind(row.op) : engine.isVisible(row.op),
  );
  const replayed: Row[] = [];
  for (const row of recorded) {
    if (isQuestion(row.op)) replayed.push(answer(engine, row));
    else if (seen.length > 0) replayed.push(seen.shift()!);
    else break;
  }
  replayed.push(...seen);
  let at = 0;
  while (at < recorded.length && at < replayed.length && sameRow(recorded[at]!, replayed[at]!, addressOnly)) at++;
  return { recorded, replayed, at };
}

/** A step with events of KVM, cut into what is put side by side. */
export interface EventUnits {
  /** Everything that was recorded, row by row. */
  readonly rows: readonly Row[];
  readonly recorded: readonly Unit[];
  /** Of the machine's log what the recording would have told. */
  readonly replayed: readonly Unit[];
  /** Questions about the state after the step, with the machine's answers. */
  readonly questions: readonly SidePair[];
  /** Whether one side has an event of KVM at all. */
  readonly hasEvent: boolean;
}

/** Cuts both sides of step `index` into units. */
export function eventUnits(engine: ReplayEngine, columns: StepColumns, index: number): EventUnits {
  const rows = recordedRows(columns, index);
  const units = unitsOf(rows);
  const recorded = units.filter((unit) => !isQuestion(unit.rows[0]!.op));
  const replayed = unitsOf(logRows(engine.machine.log)).filter((unit) => engine.isVisible(unit.rows[0]!.op));
  const questions = units
    .filter((unit) => isQuestion(unit.rows[0]!.op))
    .map((unit): SidePair => {
      const asked = unit.rows[0]!;
      const answered = answer(engine, asked);
      const state = sameRow(asked, answered) ? 'equal' : 'differs';
      return { state, recorded: [asked], replayed: [answered], fields: [], wrongFrame: undefined };
    });
  const hasEvent = [...recorded, ...replayed].some((unit) => isOfKvm(unit.rows[0]!.op));
  return { rows, recorded, replayed, questions, hasEvent };
}

export function isOutcomeKind(op: number): boolean {
  const kind = op & OBS_KIND_MASK;
  return (kind >= Obs.TRANSLATED && kind <= Obs.EXIT_LINEAR) || kind === Obs.NOT_MODELLED;
}
