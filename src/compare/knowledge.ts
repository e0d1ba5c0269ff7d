/**
 * What machines learn from the recording besides the steps, as a replay gives it to its one machine (`replay/session.ts`):
 * registers that a chunk begins with or that were read after a step, entries that were read, A and D bits that were not
 * set because the access faulted. Here each of two machines gets the same of it, after they were held against each other.
 *
 * Whether what a machine did is as recorded is not asked. Of a partial trace the replay also follows events that nothing
 * explains; machines that are compared do not.
 */

import { isFault, OBS_KIND_MASK, OBS_REGISTER_MASK, OBS_REGISTER_SHIFT, Obs } from '../formats/observation.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import type { Machine } from '../machine/machine.ts';
import type { StepColumns } from '../trace/columns.ts';

/** Accessed and dirty, the same in guest entries of every format; those of EPT are bits 8 and 9 (SDM vol. 3C table 29-6). */
const AD_BITS = 0x360;

/** Registers that a chunk begins with. */
export function takeState(machine: Machine, columns: StepColumns): void {
  for (let register = 0; register < REGISTER_COUNT; register++) {
    setIfOther(machine, register, columns.registers[2 * register]!, columns.registers[2 * register + 1]!);
  }
}

/** Whether the recording names a guest entry in this row, with its value after the step. */
export function namesEntry(op: number): boolean {
  const kind = op & OBS_KIND_MASK;
  return kind === Obs.ENTRY_AFTER || kind === Obs.ENTRY_WRITE;
}

/** What the recording tells of the state after step rows `begin` to `end`. `adOpen`: the recorder's A/D policy is unknown. */
export function takeRecorded(
  machine: Machine,
  columns: StepColumns,
  begin: number,
  end: number,
  adOpen: boolean,
): void {
  const { observationOp, observationAddress, observationValue } = columns;
  for (let row = begin; row < end; row++) {
    const op = observationOp[row]!;
    const [lo, hi] = [observationValue[2 * row]!, observationValue[2 * row + 1]!];
    const [addressLo, addressHi] = [observationAddress[2 * row]!, observationAddress[2 * row + 1]!];
    switch (op & OBS_KIND_MASK) {
      case Obs.REGISTER:
        setIfOther(machine, (op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK, lo, hi);
        break;
      case Obs.ENTRY_AFTER:
        adopt(machine, op, addressLo, addressHi, lo, hi, ~0);
        break;
      case Obs.ELEMENT:
      case Obs.ENTRY_WRITE:
        if (adOpen) adopt(machine, op, addressLo, addressHi, lo, hi, AD_BITS);
        break;
      default:
        if (isFault(op) && endsTranslated(machine)) machine.kvm?.takeBackAd();
    }
  }
}

function endsTranslated({ log }: Machine): boolean {
  return log.count > 0 && (log.op(log.count - 1) & OBS_KIND_MASK) === Obs.TRANSLATED;
}

function setIfOther(machine: Machine, register: number, lo: number, hi: number): void {
  const { registers } = machine;
  if (registers[2 * register] !== lo || registers[2 * register + 1] !== hi) machine.setRegister(register, lo, hi);
}

/** Takes an entry over if it differs in `bits` of its lower half and nowhere else; `~0`: anywhere. */
function adopt(
  machine: Machine,
  row: number,
  addressLo: number,
  addressHi: number,
  lo: number,
  hi: number,
  bits: number,
): void {
  const [heldLo, heldHi] = machine.readEntry(row, addressLo, addressHi);
  if (heldLo === lo && heldHi === hi) return;
  if (bits !== ~0 && (((heldLo ^ lo) & ~bits) !== 0 || heldHi !== hi)) return;
  machine.adoptEntry(row, addressLo, addressHi, lo, hi);
}
