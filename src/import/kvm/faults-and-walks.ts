/**
 * Faults and walks as steps: which walks are the fault handler's own and its rows, what the others were asked for, and
 * the #PF that is injected for either.
 */

import {
  FAULT_AC,
  FAULT_CPL3,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  PROVENANCE_SHIFT,
  Provenance,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  SOFTWARE_RMW,
  StepKind,
} from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { Conclusions } from './conclusions.ts';
import { draft } from './draft.ts';
import type { Emulator } from './emulator.ts';
import { rowsOf } from './event-rows.ts';
import type { ExitEvent, PageFaultEvent } from './exit-units.ts';
import { isNewPageFault, misconfiguredAddress, outcomeOf, walksTo } from './neighbours.ts';
import type { NestedGuest } from './nested-guest.ts';
import type { Parts } from './parts.ts';

const EVENT_VALID = 1 << 31;
const PFEC_W = 2;
/** What of a walk's error code says how memory is accessed: W, U and F. */
const PFEC_ACCESS = 0x16;

type WalkEvent = Extract<TraceEvent, { name: 'kvm_mmu_pagetable_walk' }>;

export class FaultsAndWalks {
  private readonly parts: Parts;
  private readonly emulator: Emulator;
  private readonly concluded: Conclusions | undefined;
  private readonly nested: NestedGuest;

  /** `concluded`: of a stranger's trace. */
  constructor(parts: Parts, emulator: Emulator, nested: NestedGuest, concluded: Conclusions | undefined) {
    this.parts = parts;
    this.nested = nested;
    this.emulator = emulator;
    this.concluded = concluded;
  }

  /** EPT_MISCONFIG, of which the exit is the only event. */
  misconfiguration(exit: ExitEvent): void {
    const { now, receipt, steps } = this.parts;
    const op = StepKind.FAULT_EXIT | FAULT_MISCONFIG | this.duringEvent() | (Provenance.INFERRED << PROVENANCE_SHIFT);
    steps.begin(draft(op, misconfiguredAddress(now.unit, receipt, this.parts.tables.twoStages), 0n, exit.position));
  }

  /** The flag of a fault that came while an event was being delivered (facts/kvm-6.1.md §4.1). */
  private duringEvent(): number {
    const { kvm, now } = this.parts;
    const { exit } = now.unit;
    // Of a trace that begins within an exit.
    if (exit === undefined) return 0;
    // VMX prints the IDT-vectoring information as info2, SVM EXITINTINFO as intr_info.
    const info = kvm.intel ? Number(exit.info2 & 0xffff_ffffn) : exit.intrInfo;
    return (info & EVENT_VALID) !== 0 ? FAULT_DURING_EVENT : 0;
  }

  pageFault(event: PageFaultEvent): void {
    const { kvm, now, receipt, steps, tables, told } = this.parts;
    const recorded = this.concluded?.isPutIn(event) !== true;
    if (recorded) receipt.count(event.name, 'stimulus');
    else receipt.note(`${event.name} concluded`);
    const state = (told.access?.ac === true ? FAULT_AC : 0) | (told.access?.user === true ? FAULT_CPL3 : 0);
    const during = this.duringEvent();
    const provenance = recorded ? Provenance.RECORDED : Provenance.INFERRED;
    const op = StepKind.FAULT_EXIT | (provenance << PROVENANCE_SHIFT) | during | state;
    const step = steps.begin(draft(op, event.address, event.errorCode, event.position));
    this.nested.exitRow(step);
    if (recorded) step.rows.push(...rowsOf(event)!);
    if (kvm.tdp) {
      // What L1 has under its guest is walked by the handler.
      if (tables.twoStages) now.handlerWalks = 1;
      return;
    }
    if (tables.paging) {
      // With an event to deliver, KVM first gives up protecting the page, which it looks up by a walk of its own.
      now.handlerWalks = during !== 0 && walksTo(now.following(), event.address) > 1 ? 2 : 1;
    } else if (this.concluded !== undefined) {
      // Nothing tells whether paging is on: the handler's walk shows itself.
      now.handlerWalks = 1;
    }
  }

  walk(event: WalkEvent): void {
    const { now, receipt, steps, tables } = this.parts;
    if (steps.walk !== undefined && tables.beginInner(steps.walk, event.addr, event.pferr)) {
      steps.row(event);
      return;
    }
    const own = now.handlerWalks > 0 && !now.emulating && event.addr === now.fault?.address;
    if (!tables.twoStages) this.concluded?.rootOf(event.position, own ? steps.current : undefined);
    else if (!own) this.concluded?.nestedWalk(event);
    if (own && steps.current !== undefined) {
      now.handlerWalks--;
      steps.row(event);
      const second = this.parts.kvm.tdp ? tables.beginSecond(event.addr, event.pferr) : undefined;
      steps.walk = second ?? tables.begin(event.addr, event.pferr);
      return;
    }
    this.emulator.settleStore(event.position);
    receipt.count(event.name, 'stimulus');
    const op = StepKind.SOFTWARE_WALK | (Provenance.RECORDED << PROVENANCE_SHIFT) | this.walkFlags(event);
    const step = steps.begin(draft(op, event.addr, BigInt(event.pferr & PFEC_ACCESS), event.position));
    step.rows.push(...rowsOf(event)!);
    steps.walk = tables.begin(event.addr, event.pferr);
    if ((event.pferr & PFEC_W) !== 0 && now.emulating) now.storeWalk = steps.walk;
  }

  private walkFlags(event: WalkEvent): number {
    const { now, tables, told } = this.parts;
    if (told.translating) return SOFTWARE_QUIET;
    const { access } = told;
    const { failed, injected, writes } = outcomeOf(now.following(), tables.shapeOf(event.addr));
    let flags = failed && !injected ? SOFTWARE_QUIET : 0;
    if (access?.ac === true) flags |= SOFTWARE_AC;
    if (!now.emulating) return flags;
    const unprotects = event.addr === now.fault?.address && event.pferr === PFEC_W && now.sameInstruction && !injected;
    if (unprotects) return flags | SOFTWARE_QUIET;
    if (access?.access === 'fep-seg') return flags | SOFTWARE_IMPLICIT;
    const modifies = (access?.access.endsWith('rmw') === true || writes) && (event.pferr & PFEC_W) === 0;
    return flags | SOFTWARE_OPERAND | (modifies ? SOFTWARE_RMW : 0);
  }

  /** An exception injected: ours is a #PF for the walk or fault under way. */
  injection(event: Extract<TraceEvent, { name: 'kvm_inj_exception' }>): void {
    const { receipt, steps } = this.parts;
    const caused = steps.kind === StepKind.FAULT_EXIT || steps.kind === StepKind.SOFTWARE_WALK;
    if (isNewPageFault(event) && caused) {
      steps.row(event);
      return;
    }
    receipt.count(event.name, 'not ours');
    if (isNewPageFault(event)) receipt.note('#PF injected for no walk');
  }
}
