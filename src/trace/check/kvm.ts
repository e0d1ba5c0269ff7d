/** The invariants of what a hypervisor's own tracing recorded: its steps, its stimuli and its events. */

import { KVM_EVENT_COUNT, KVM_EVENT_NAMES, KVM_MORE_ROWS, KvmEvent, kvmEventOf } from '../../formats/kvm-event.ts';
import { KVM_EVENT_BITS } from '../../formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, Obs, obsMask } from '../../formats/observation.ts';
import {
  FAULT_MISCONFIG,
  HOST_LEVEL_MASK,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_MASK,
  HOST_PAGE_NAMES,
  HOST_PAGE_SHIFT,
  STEP_KIND_MASK,
  STORE_EMULATED,
  STORE_KNOWLEDGE,
  StepKind,
} from '../../formats/step.ts';
import type { StepColumns } from '../columns.ts';
import type { TraceHeader } from '../header.ts';
import type { Stimulus } from '../stimulus.ts';

/** What is wrong: an id and a sentence. */
export interface KvmFault {
  readonly id: string;
  readonly sentence: string;
}

const fault = (id: string, sentence: string): KvmFault => ({ id, sentence });

/** Frames of 4 KiB that 52 bits of address can tell apart. */
const FRAMES = 2 ** 40;
const PFEC_ACCESS = 0x2 | 0x4 | 0x10;

/** Whether a trace without an emulated hypervisor's configuration cannot have this step. */
export function isKvmStep(op: number, stimulus: Stimulus | undefined): boolean {
  switch (op & STEP_KIND_MASK) {
    case StepKind.FAULT_EXIT:
    case StepKind.VM_ENTRY:
    case StepKind.SOFTWARE_WALK:
    case StepKind.HOST_PAGES:
      return true;
    case StepKind.STORE:
      return (op & STORE_EMULATED) !== 0;
    case StepKind.RARE:
      return stimulus !== undefined && !['page-image', 'entry-fill', 'note'].includes(stimulus.kind);
    default:
      return false;
  }
}

/** Faults of a header about its hypervisor. */
export function* headerFaults({ hypervisor, observable }: TraceHeader): Generator<KvmFault> {
  const mmu = hypervisor?.mmu;
  if (mmu === undefined) {
    if ((observable & obsMask(Obs.KVM_EVENT)) === 0) return;
    yield fault('header.no-mmu', 'the recorder could see KVM events, but the header does not describe the MMU');
  } else if (mmu.tdp !== hypervisor?.tdp) {
    yield fault('header.tdp', 'the hypervisor and its MMU do not agree on whether two-dimensional paging is in use');
  }
}

/** Faults of step number `step` of `columns`; none for steps that are no business of a hypervisor. */
export function* kvmStepFaults(columns: StepColumns, step: number): Generator<KvmFault> {
  const op = columns.op[step]!;
  const [lo, hi] = [columns.operand[2 * step]!, columns.operand[2 * step + 1]!];
  switch (op & STEP_KIND_MASK) {
    case StepKind.FAULT_EXIT:
      if ((op & FAULT_MISCONFIG) !== 0 && (lo !== 0 || hi !== 0)) {
        yield fault('fault-exit.error', 'an EPT misconfiguration has an error code, which the processor does not give');
      }
      return;
    case StepKind.VM_ENTRY:
      if ((lo | hi | columns.address[2 * step]! | columns.address[2 * step + 1]!) !== 0) {
        yield fault('vm-entry.operand', 'a VM entry has an address or an operand, which mean nothing');
      }
      return;
    case StepKind.SOFTWARE_WALK:
      if (hi !== 0 || (lo & ~PFEC_ACCESS) !== 0) {
        yield fault('software-walk.access', 'a software walk is for an access with bits other than W, U and F');
      }
      return;
    case StepKind.HOST_PAGES:
      yield* hostPagesFaults(op, columns.address[2 * step]!, columns.address[2 * step + 1]!, hi * 2 ** 32 + lo);
      return;
    case StepKind.STORE:
      if ((op & STORE_EMULATED) !== 0 && (op & STORE_KNOWLEDGE) !== 0) {
        yield fault('store.emulated', 'a value that was only found was not stored by the emulator');
      }
      return;
    default:
      return;
  }
}

function* hostPagesFaults(op: number, lo: number, hi: number, count: number): Generator<KvmFault> {
  if ((lo & 0xfff) !== 0) yield fault('host-pages.alignment', 'the first of the host pages is not 4 KiB aligned');
  const first = hi * 2 ** 20 + (lo >>> 12);
  if (count === 0) yield fault('host-pages.count', 'a run of host pages has no page');
  else if (first + count > FRAMES) {
    yield fault('host-pages.count', 'a run of host pages reaches beyond the 52 bits of a physical address');
  }
  const residency = (op >>> HOST_PAGE_SHIFT) & HOST_PAGE_MASK;
  if (HOST_PAGE_NAMES[residency] === undefined) {
    yield fault('host-pages.residency', `there is no residency ${residency}`);
  }
  const level = (op >>> HOST_LEVEL_SHIFT) & HOST_LEVEL_MASK;
  if (level === 0) yield fault('host-pages.level', 'the host maps pages at level 0; it is 1 to 3');
}

/** Faults of a stimulus beyond those for which it is refused. */
export function* kvmStimulusFaults(stimulus: Stimulus): Generator<KvmFault> {
  if (stimulus.kind === 'memslot') {
    const { what, size } = stimulus;
    const empty = size.lo === 0 && size.hi === 0;
    if (empty === (what === 'delete')) return;
    yield fault('memslot.size', empty ? `a memslot without a size is no ${what}` : 'a deleted memslot has a size');
  } else if (stimulus.kind === 'notifier') {
    const { start, end } = stimulus;
    if (((start.lo | end.lo) & 0xfff) !== 0) {
      yield fault('notifier.alignment', "a notifier's range is not made of whole pages");
    } else if (start.lo === end.lo && start.hi === end.hi) {
      yield fault('notifier.empty', "a notifier's range is empty");
    }
  }
}

/** Faults of the rows `[start, end)`, one step's: events that are known and complete, and nothing loose between them. */
export function* kvmRowsFaults(columns: StepColumns, start: number, end: number): Generator<KvmFault> {
  const { observationOp } = columns;
  for (let row = start; row < end; row++) {
    const op = observationOp[row]!;
    const kind = op & OBS_KIND_MASK;
    if (kind === Obs.KVM_MORE) yield fault('kvm.more', 'further fields belong to no KVM event');
    if (kind !== Obs.KVM_EVENT) continue;
    const event = kvmEventOf(op);
    if (event === KvmEvent.NONE || event >= KVM_EVENT_COUNT) {
      yield fault('kvm.event', `there is no KVM event ${event}`);
      continue;
    }
    let missing = KVM_MORE_ROWS[event]!;
    while (missing > 0 && row + 1 < end && (observationOp[row + 1]! & OBS_KIND_MASK) === Obs.KVM_MORE) {
      missing--;
      row++;
    }
    if (missing === 0) continue;
    yield fault('kvm.incomplete', `the KVM event '${KVM_EVENT_NAMES[event]}' lacks ${missing} of its rows`);
  }
}

/** Bits of a KVM_EVENT row's word that mean nothing. */
export function strayEventBits(op: number): number {
  return (op & ~(KVM_EVENT_BITS[kvmEventOf(op)] ?? -1)) >>> 0;
}
