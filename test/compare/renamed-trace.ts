/**
 * Another recording of the same thing: a trace with other host frames, other places of SPTEs, other host addresses, other
 * lines and times; nothing that means anything is touched.
 */

import { isHostEvent, KvmEvent, kvmEventOf } from '../../src/formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../../src/formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { PROVENANCE_SHIFT } from '../../src/formats/step.ts';
import { keptColumns, type StepColumns } from '../../src/trace/columns.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';

/** Frames below 2^28 (MAXPHYADDR 40) to others, one to one. Returns the new low and high half of an address. */
function otherFrame(lo: number, hi: number): readonly [lo: number, hi: number] {
  return [(lo ^ 0x5000_0000) >>> 0, hi];
}

/** Host-virtual addresses lie elsewhere by a multiple of the largest page. */
const HOST_OFFSET = 0x40;

function renameField(field: KvmField, column: Uint32Array, at: number): void {
  const [lo, hi] = [column[2 * at]!, column[2 * at + 1]!];
  let renamed: readonly [number, number] = [lo, hi];
  if (field.kind === 'spte' && (lo & (1 << 11)) !== 0) renamed = otherFrame(lo, hi);
  if (field.kind === 'sptep' && (lo | hi) !== 0) renamed = otherFrame(lo, hi);
  if (field.kind === 'pfn' && hi < 1 << 20) renamed = [(lo ^ 0x5_0000) >>> 0, hi];
  column.set(renamed, 2 * at);
}

function renamedStimulus(stimulus: Stimulus): Stimulus {
  if (stimulus.kind === 'memslot' && stimulus.userspace.hi !== 0) {
    const { lo, hi } = stimulus.userspace;
    return { ...stimulus, userspace: { lo, hi: hi + HOST_OFFSET } };
  }
  if (stimulus.kind === 'notifier') {
    const moved = ({ lo, hi }: { lo: number; hi: number }): { lo: number; hi: number } => ({
      lo,
      hi: hi + HOST_OFFSET,
    });
    return { ...stimulus, start: moved(stimulus.start), end: moved(stimulus.end) };
  }
  return stimulus;
}

/** The same steps under other names. */
export function renamedColumns(columns: StepColumns): StepColumns {
  const copy = keptColumns(columns);
  const { observationOp, observationAddress, observationValue } = copy;
  for (let row = 0; row < copy.observationCount; row++) {
    const op = observationOp[row]!;
    if ((op & OBS_KIND_MASK) !== Obs.KVM_EVENT) continue;
    const event = kvmEventOf(op);
    if (event === KvmEvent.NONE) continue;
    for (const field of KVM_EVENT_FIELDS[event]!) {
      if (field.column === 'op') continue;
      renameField(field, field.column === 'address' ? observationAddress : observationValue, row + field.row);
    }
    if (isHostEvent(event)) {
      observationAddress[2 * row + 1]! += HOST_OFFSET;
      observationValue[2 * row + 1]! += HOST_OFFSET;
    }
  }
  return {
    ...copy,
    // Whether the recorder or the guest told of an operand is no part of what happened, either.
    op: copy.op.map((op) => (((op >>> PROVENANCE_SHIFT) & 2) === 0 ? op ^ (1 << PROVENANCE_SHIFT) : op)),
    stimuli: copy.stimuli.map(renamedStimulus),
    lineOf: (step) => (copy.lineOf(step) ?? 0) + 1000,
    timeOf: (step) => (copy.timeOf(step) ?? 0n) + 777_000n,
  };
}
