/** How far the reading of a unit has come, and what of it later events need. */

import type { TraceEvent } from '../ftrace/event.ts';
import type { Draft } from './draft.ts';
import { type PageFaultEvent, pageFaultOf, type Unit } from './exit-units.ts';
import type { Walk } from './walked-tables.ts';

export class UnitProgress {
  readonly unit: Unit;
  /** The fault that the exit brought. */
  readonly fault: PageFaultEvent | undefined;
  /** Index of the event under way; -1 before the first. */
  index = -1;
  /** `kvm_emulate_insn` has been seen. */
  emulating = false;
  /** The walk for the emulated instruction's store, as long as the store has not been told. */
  storeWalk: Walk | undefined;
  /** The step of which a walk has failed last. */
  failed: Draft | undefined;
  /** Walks that the fault handler itself is still to make. */
  handlerWalks = 0;
  /** User space runs: what comes belongs to the ioctl that the last mark announces. */
  inUserSpace: boolean;

  constructor(unit: Unit) {
    this.unit = unit;
    this.fault = pageFaultOf(unit);
    this.inUserSpace = unit.exit === undefined;
  }

  /** The events behind the one under way. */
  *following(): Generator<TraceEvent> {
    const { events } = this.unit;
    for (let i = this.index + 1; i < events.length; i++) yield events[i]!;
  }

  /** The guest goes on at the instruction that it left. */
  get sameInstruction(): boolean {
    return this.unit.entry?.rip === this.unit.exit?.rip;
  }
}
