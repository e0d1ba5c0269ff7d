/**
 * Accesses of whoever runs, L1 or L2: made on the processor, again and again until KVM has served what stood in the way,
 * or somebody gets an exception or an exit.
 */

import {
  NotModelled,
  OBS_EXCEPTION_EXITS,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../formats/observation.ts';
import { ACCESS_AC, ACCESS_SOFTWARE } from '../../formats/step.ts';
import { RetPf } from '../../mmu/fault.ts';
import type { FaultHandler } from '../../mmu/fault-handler.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import { frameHi, frameLo } from '../../paging/guest-memory.ts';
import type { RowLog } from '../../paging/row-log.ts';
import type { Emulator } from './emulator.ts';
import type { FaultExits } from './fault-exits.ts';
import { pushInjected } from './injected.ts';
import { offersL2 } from './offered.ts';
import { Outcome, type Processor } from './processor.ts';
import type { RecordedExits } from './recorded-exits.ts';

/** Exits that one access may cause; a guest that needs more makes no progress. */
const MAXIMUM_EXITS = 64;
const PF_VECTOR = 14;

export interface GuestAccessesParts {
  readonly vcpu: Vcpu;
  readonly processor: Processor;
  readonly handler: FaultHandler;
  readonly emulator: Emulator;
  readonly faults: FaultExits;
  readonly exits: RecordedExits;
  /** The trace says what comes to KVM; otherwise it is found out. */
  readonly recorded: boolean;
  /** KVM enters the guest: requests are served, and there is a root; a recording tells of that itself. */
  readonly run: () => void;
  /** Called before each access, where they have no common history. */
  readonly forget: (() => void) | null;
}

export class GuestAccesses {
  staleHit = false;
  servedByTlb = false;
  private readonly parts: GuestAccessesParts;
  private readonly vcpu: Vcpu;
  private readonly processor: Processor;
  private readonly log: RowLog;

  constructor(parts: GuestAccessesParts) {
    this.parts = parts;
    this.vcpu = parts.vcpu;
    this.processor = parts.processor;
    this.log = parts.vcpu.pages.trace.log;
  }

  /** An ACCESS step. */
  access(op: number, lo: number, hi: number): void {
    const { vcpu, parts } = this;
    if (this.isBeyondModel()) return;
    if ((op & ACCESS_SOFTWARE) === 0) {
      if (this.reach(op, lo, hi, true)) return;
      parts.emulator.access(op, lo, hi);
    } else {
      this.parts.run();
      if (!parts.recorded) vcpu.exit.kind = 'none';
      parts.handler.injected = null;
      parts.emulator.access(op, lo, hi);
    }
    parts.exits.noteReflected();
  }

  /** A GPA_ACCESS step: of L2, if it has nested paging, with its addresses. */
  gpaAccess(op: number, lo: number, hi: number): void {
    if (this.isBeyondModel()) return;
    const gpaHi = hi & 0xf_ffff;
    const translated = Obs.TRANSLATED | (12 << OBS_PAGE_SHIFT_SHIFT);
    const { tdp } = this.vcpu.pages.config;
    if (tdp && this.reach(op, lo, gpaHi, false)) return;
    // Without a second stage, or where there is no memory, the address is all that is to be had; L2's has been translated.
    const { nested, tdpWalk } = this.vcpu;
    const toLo = nested ? frameLo(tdpWalk.gfn) | (lo & 0xfff) : lo;
    const toHi = nested ? frameHi(tdpWalk.gfn) : gpaHi;
    this.log.push(translated, toLo, toHi, lo, gpaHi);
  }

  /** False: it goes on to the emulator. `linear`: the address is; otherwise the second stage alone is asked. */
  private reach(op: number, lo: number, hi: number, linear: boolean): boolean {
    const { vcpu, processor, parts } = this;
    const { handler, faults, recorded } = parts;
    parts.forget?.();
    for (let exits = 0; exits < MAXIMUM_EXITS; exits++) {
      this.parts.run();
      if (vcpu.mmu.root === null) {
        this.notModelled(NotModelled.PAGING_MODE);
        return true;
      }
      const outcome = linear ? processor.translate(op, lo, hi) : processor.translateGpa(op, lo, hi);
      this.conclude(lo, hi, outcome);
      // A recording tells of its exits: one that it does not tell of is a difference, not a reason to go on.
      if (outcome !== Outcome.EXIT || recorded) return true;
      const done = faults.handleOf(processor, (op & ACCESS_AC) !== 0);
      if (handler.injected !== null) {
        pushInjected(this.log, handler.injected, linear ? { lo, hi } : null);
        parts.exits.noteReflected();
        return true;
      }
      if (done === RetPf.EMULATE) return false;
    }
    // It would fault for ever: an access without an outcome, which differs from any that is expected.
    return true;
  }

  /** Logs that L2 is run in a way that KVM does not offer, if it is. */
  isBeyondModel(): boolean {
    const { vcpu } = this;
    if (!vcpu.guestMode || offersL2(vcpu.registers, vcpu.pages.config, vcpu.features.eptAdvancedInfo)) return false;
    this.notModelled(NotModelled.NESTED);
    return true;
  }

  /** Logs that the step needs something that the machine does not model: one of `NotModelled`. */
  notModelled(what: number): void {
    this.log.push(Obs.NOT_MODELLED | (what << OBS_NOT_MODELLED_SHIFT), 0, 0, 0, 0);
  }

  /** Logs how the processor's access ended. */
  conclude(lo: number, hi: number, outcome: number): void {
    const { processor, vcpu, log } = this;
    switch (outcome) {
      case Outcome.OK: {
        this.staleHit = processor.staleHit;
        this.servedByTlb = processor.servedByTlb;
        const { gpaLo, gpaHi, meantLo, meantHi } = processor;
        const row = Obs.TRANSLATED | (processor.pageShift << OBS_PAGE_SHIFT_SHIFT);
        if (vcpu.nested) log.push(row, gpaLo, gpaHi, meantLo, meantHi);
        else log.push(row, gpaLo, gpaHi, gpaLo, gpaHi);
        break;
      }
      case Outcome.NOT_MODELLED:
        this.notModelled(processor.unmodelled);
        break;
      case Outcome.GUEST_FAULT: {
        const { vector, errorCode, intercepted } = processor;
        const isPageFault = vector === PF_VECTOR;
        const row = Obs.EXCEPTION | (vector << OBS_VECTOR_SHIFT) | (intercepted ? OBS_EXCEPTION_EXITS : 0);
        log.push(row, isPageFault ? lo : 0, isPageFault ? hi : 0, errorCode, 0);
        break;
      }
      default:
        vcpu.pages.trace.pageFault(processor.faultLo, processor.faultHi, processor.exitLo, processor.exitHi);
    }
  }
}
