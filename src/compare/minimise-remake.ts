/**
 * Expected observations made anew: what a machine does, as its recorder would have written it down. Once steps of a
 * recording are left out, what was recorded of the others no longer applies.
 */

import {
  OBS_FAULTS,
  OBS_KIND_MASK,
  OBS_LEARNED,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { ACCESS_EXPECTS_ADDRESS, expectsAddress, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import {
  ROW,
  ROW_ADDRESS_HI,
  ROW_ADDRESS_LO,
  ROW_OP,
  ROW_VALUE_HI,
  ROW_VALUE_LO,
  type RowLog,
} from '../paging/row-log.ts';
import { ReplayEngine } from '../replay/engine.ts';
import { type KvmMachineMaker, type MachineChoice, machineFor } from '../replay/machines.ts';
import type { SameGuest } from '../replay/same-guest.ts';
import { StepBuilder, type StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { takeState } from './knowledge.ts';
import { copyObservations } from './minimise-steps.ts';

/** Kinds of step that nothing is recorded of. */
const SILENT =
  (1 << StepKind.CLEAR_PAGE) | (1 << StepKind.REGISTER_SET) | (1 << StepKind.HOST_PAGES) | (1 << StepKind.VCPU);

export class Remake {
  private readonly machine: Machine;
  private readonly same: SameGuest | null;
  private readonly engine: ReplayEngine;
  private readonly observable: number;
  /** Leaves the machine's memory to others. Nothing must be asked of it afterwards. */
  readonly release: () => void;
  /** Ordinal of the first step with observations; -1: none so far. */
  firstMade = -1;

  /** Throws E_USAGE if the machine asked for does not fit the trace. */
  constructor(header: TraceHeader, choice: MachineChoice, makeKvm?: KvmMachineMaker) {
    const chosen = machineFor(header, choice, makeKvm);
    this.machine = chosen.machine;
    this.same = chosen.same;
    this.observable = header.observable;
    this.release = chosen.release;
    // Of the engine only its knowledge of what a recorder sees is asked.
    this.engine = new ReplayEngine(chosen.machine, header, { mismatch: () => true });
  }

  /**
   * The steps with what the machine does as their observations. `keepLast`: the last step's are the recorded ones. To be
   * called run by run.
   */
  run(columns: StepColumns, keepLast = false): StepColumns {
    const { machine } = this;
    const { op, address, operand, observationEnd, stimuli, stepCount, firstOrdinal } = columns;
    takeState(machine, columns);
    const builder = new StepBuilder();
    for (let i = 0; i < stepCount; i++) {
      const at = 2 * i;
      const words = [address[at]!, address[at + 1]!, operand[at]!, operand[at + 1]!] as const;
      machine.apply(firstOrdinal + i, op[i]!, words[0] | 0, words[1] | 0, words[2] | 0, words[3] | 0, stimuli);
      const line = columns.lineOf(i) ?? 0;
      const kept = keepLast && i === stepCount - 1;
      if ((op[i]! & STEP_KIND_MASK) === StepKind.RARE) builder.rare(stimuli[words[2]]!, op[i]!, line);
      else if (kept || !expectsAddress(op[i]!)) builder.step(op[i]!, ...words, line);
      else builder.step((op[i]! & ~ACCESS_EXPECTS_ADDRESS) >>> 0, words[0], words[1], 0, 0, line);
      const time = columns.timeOf(i);
      if (time !== undefined) builder.stamp(time);
      const begin = i === 0 ? 0 : observationEnd[i - 1]!;
      if (kept) copyObservations(builder, columns, begin, observationEnd[i]!);
      else {
        if (((SILENT >>> (op[i]! & STEP_KIND_MASK)) & 1) === 0) this.observe(builder, machine.log);
        this.answer(builder, columns, begin, observationEnd[i]!);
      }
      if (this.firstMade < 0 && builder.observationCount > 0) this.firstMade = firstOrdinal + i;
    }
    const made = builder.take(columns.registers, columns.source, columns.vcpu, columns.others);
    return { ...made, firstOrdinal };
  }

  /** Whether a guest on an emulated KVM, if that is the machine, saw nothing else than on a bare processor. */
  get isLawful(): boolean {
    return this.same === null || this.same.result().unexplained === 0;
  }

  /** What the recording asks about the state after a step, with the machine's answers. */
  private answer(builder: StepBuilder, columns: StepColumns, begin: number, end: number): void {
    const { registers } = this.machine;
    const { observationOp, observationAddress } = columns;
    for (let row = begin; row < end; row++) {
      const op = observationOp[row]!;
      const [lo, hi] = [observationAddress[2 * row]!, observationAddress[2 * row + 1]!];
      if ((op & OBS_KIND_MASK) === Obs.ENTRY_AFTER) {
        builder.observe(op, lo, hi, ...this.machine.readEntry(op, lo, hi));
      } else if ((op & OBS_KIND_MASK) === Obs.REGISTER) {
        const at = 2 * ((op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK);
        builder.observe(op, lo, hi, registers[at]!, registers[at + 1]!);
      }
    }
  }

  private observe(builder: StepBuilder, log: RowLog): void {
    const { rows } = log;
    let hasEvent = false;
    for (let at = 0; at < log.count * ROW; at += ROW) {
      const op = rows[at + ROW_OP]! & ~OBS_LEARNED;
      const kind = op & OBS_KIND_MASK;
      if (kind === Obs.NOT_MODELLED) continue;
      if (kind === Obs.KVM_MORE) {
        if (!hasEvent) continue;
      } else {
        hasEvent = kind === Obs.KVM_EVENT && this.engine.isVisible(op);
        if (!this.engine.isVisible(op)) continue;
      }
      if (((this.observable >>> kind) & 1) === 0 && kind !== Obs.KVM_MORE) {
        // The recorder sees only that it went through, or that it did not.
        if (kind === Obs.TRANSLATED) builder.observe(Obs.COMPLETED, 0, 0, 0, 0);
        else if (((OBS_FAULTS >>> kind) & 1) !== 0) builder.observe(Obs.FAULTED, 0, 0, 0, 0);
        continue;
      }
      builder.observe(
        op >>> 0,
        rows[at + ROW_ADDRESS_LO]! >>> 0,
        rows[at + ROW_ADDRESS_HI]! >>> 0,
        rows[at + ROW_VALUE_LO]! >>> 0,
        rows[at + ROW_VALUE_HI]! >>> 0,
      );
    }
  }
}

/** The steps of a whole trace with what the machine does as their observations. */
export function remade(
  header: TraceHeader,
  choice: MachineChoice,
  columns: StepColumns,
  keepLast = false,
): StepColumns {
  const remake = new Remake(header, choice);
  const made = remake.run(columns, keepLast);
  remake.release();
  return made;
}
