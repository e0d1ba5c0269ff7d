/**
 * When faults, walks and flushes came, as the trace tells: counts over equal spans of steps. The spans widen as the trace
 * grows, so memory is bounded.
 */

import { INJ_VECTOR_SHIFT, KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { isFault, OBS_KIND_MASK, OBS_VECTOR_MASK, OBS_VECTOR_SHIFT, Obs } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import {
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { StepColumns } from '../trace/columns.ts';

/** Spans at most; half as many at least, once there are so many steps. */
const MAXIMUM_SPANS = 240;

export interface Timeline {
  /** Steps in all, and in each span. */
  readonly steps: number;
  readonly width: number;
  /** By span: page faults, nested faults and exits for them, and those that a hypervisor is told of. */
  readonly faults: readonly number[];
  /** Steps with a walk of the processor, and walks of KVM's software. */
  readonly walks: readonly number[];
  /** Invalidations asked for: INVLPG and its like, CR3 loads that flush, nested entries with TLB control. */
  readonly flushes: readonly number[];
}

const PAGE_FAULT = 14;

/** Collects a trace's timeline chunk by chunk. */
export class TimelineBuilder {
  private readonly faults = new Float64Array(MAXIMUM_SPANS);
  private readonly walks = new Float64Array(MAXIMUM_SPANS);
  private readonly flushes = new Float64Array(MAXIMUM_SPANS);
  private width = 1;
  private steps = 0;

  add(columns: StepColumns): void {
    const { stepCount, op, operand, observationEnd, observationOp, firstOrdinal } = columns;
    for (let step = 0, row = 0; step < stepCount; step++) {
      const span = this.spanOf(firstOrdinal + step);
      if (isFlush(op[step]!, operand[2 * step + 1]!)) this.flushes[span]!++;
      if ((op[step]! & STEP_KIND_MASK) === StepKind.FAULT_EXIT) this.faults[span]!++;
      let walked = false;
      for (const end = observationEnd[step]!; row < end; row++) {
        const word = observationOp[row]!;
        const kind = word & OBS_KIND_MASK;
        if (kind === Obs.ELEMENT) walked = true;
        else if (kind === Obs.KVM_EVENT) this.event(word, span);
        else if (isFault(word)) this.fault(word, span);
      }
      if (walked) this.walks[span]!++;
    }
    this.steps = Math.max(this.steps, firstOrdinal + stepCount);
  }

  result(): Timeline {
    const spans = Math.ceil(this.steps / this.width);
    const counts = (all: Float64Array): number[] => [...all.subarray(0, spans)];
    return {
      steps: this.steps,
      width: this.width,
      faults: counts(this.faults),
      walks: counts(this.walks),
      flushes: counts(this.flushes),
    };
  }

  private fault(word: number, span: number): void {
    const other = (word & OBS_KIND_MASK) === Obs.EXCEPTION && vectorOf(word) !== PAGE_FAULT;
    if (!other) this.faults[span]!++;
  }

  private event(word: number, span: number): void {
    const event = kvmEventOf(word);
    if (event === KvmEvent.PAGETABLE_WALK) this.walks[span]!++;
    else if (event === KvmEvent.INVLPGA) this.flushes[span]!++;
    else if (event === KvmEvent.INJ_EXCEPTION && ((word >>> INJ_VECTOR_SHIFT) & 0xff) === PAGE_FAULT) {
      this.faults[span]!++;
    }
  }

  private spanOf(ordinal: number): number {
    while (ordinal >= this.width * MAXIMUM_SPANS) {
      for (const all of [this.faults, this.walks, this.flushes]) {
        for (let i = 0; i < MAXIMUM_SPANS; i++) {
          all[i] = 2 * i + 1 < MAXIMUM_SPANS ? all[2 * i]! + all[2 * i + 1]! : 0;
        }
      }
      this.width *= 2;
    }
    return Math.floor(ordinal / this.width);
  }
}

function vectorOf(word: number): number {
  return (word >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
}

/** SDM vol. 3A 4.10.4.1: MOV to CR3 flushes unless bit 63 of its operand is set. */
function isFlush(op: number, operandHi: number): boolean {
  switch (op & STEP_KIND_MASK) {
    case StepKind.INVALIDATE:
      return true;
    case StepKind.REGISTER_WRITE:
      return ((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK) === Reg.CR3 && operandHi < 0x8000_0000;
    case StepKind.NESTED_ENTRY:
      return ((op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK) !== 0;
    default:
      return false;
  }
}
