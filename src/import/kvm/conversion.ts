/**
 * From one vCPU's trace to steps: every stimulus a step, every event a row of the step that caused it. This file goes
 * through the units and their events and hands each to whom it concerns.
 */

import { Provenance, StepKind } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { StepSink } from '../sink.ts';
import { ConcludedNesting } from './concluded-nesting.ts';
import { Conclusions } from './conclusions.ts';
import { type Draft, DraftWriter, draft, rareDraft } from './draft.ts';
import { Emulator, isOperand } from './emulator.ts';
import { isPageFaultExit } from './exit-reasons.ts';
import { isOfL2, type Unit } from './exit-units.ts';
import { FaultsAndWalks } from './faults-and-walks.ts';
import type { Seen } from './host-config.ts';
import { notifier } from './host-notifier.ts';
import { Intercepted } from './intercepted.ts';
import { isWalkerEvent } from './neighbours.ts';
import { NestedGuest } from './nested-guest.ts';
import type { Parts } from './parts.ts';
import type { Stranger } from './stranger.ts';
import { UnitProgress } from './unit-progress.ts';
import { Watcher } from './watcher.ts';

/** What handles the marks; see `trace-marks.ts`. */
export interface MarkHandler {
  mark(text: string, position: number): void;
  /** Called ahead of every exit that is no page fault, with the address of the instruction. */
  beforeExit(rip: bigint, position: number): void;
  /** Called ahead of every exit, before anything is made of it. `next`: the units that follow. */
  lookAhead(unit: Unit, next: AsyncIterable<Unit>): Promise<void>;
  /** Called ahead of every exit. `next`: the units that follow. */
  endQuietAccess(unit: Unit, next: AsyncIterable<Unit>): Promise<void>;
  /** The processor raised a #PF in the guest's guest, and its hypervisor has that as an exit. */
  interceptedPageFault(errorCode: bigint, cr2: bigint, position: number): void;
}

type NestedEvent = Extract<
  TraceEvent,
  {
    name:
      | 'kvm_nested_vmenter'
      | 'kvm_nested_intercepts'
      | 'kvm_nested_vmenter_failed'
      | 'kvm_nested_vmexit'
      | 'kvm_nested_vmexit_inject';
  }
>;

/** Of a recording with side files. */
export interface Described {
  readonly marks: MarkHandler;
  readonly nested: NestedGuest;
  /** Written ahead of the first entry. */
  prologue(): readonly Draft[];
}

export class Conversion {
  readonly writer: DraftWriter;
  private readonly parts: Parts;
  private readonly described: Described | undefined;
  private readonly concluded: Conclusions | undefined;
  private readonly emulator: Emulator;
  private readonly faultsAndWalks: FaultsAndWalks;
  private readonly intercepted: Intercepted;
  private readonly watcher: Watcher;
  private readonly nested: NestedGuest;
  private entered = false;

  /** `seen` is filled in. `from`: whoever tells what the events do not. */
  constructor(sink: StepSink, parts: Parts, seen: Seen, from: Described | Stranger) {
    this.parts = parts;
    this.described = 'marks' in from ? from : undefined;
    this.writer = new DraftWriter(sink, parts.registers);
    // Of a walk that is over, first what it touched is told, then what it shows of registers.
    this.emulator = new Emulator(parts);
    this.concluded = 'marks' in from ? undefined : new Conclusions(parts, from, seen);
    this.nested = this.described?.nested ?? new NestedGuest(parts, new ConcludedNesting(parts));
    this.faultsAndWalks = new FaultsAndWalks(parts, this.emulator, this.nested, this.concluded);
    this.intercepted = new Intercepted(parts, this.nested, this.concluded);
    this.watcher = new Watcher(parts, seen, this.concluded);
  }

  /** `next`: the units after this one, read only as far as needed. */
  async unit(whole: Unit, next: AsyncIterable<Unit>): Promise<void> {
    const { actions, steps } = this.parts;
    const unit = this.known(whole);
    const now = new UnitProgress(unit);
    this.parts.now = now;
    this.emulator.beginUnit();
    if (unit.exit !== undefined) await this.described?.marks.lookAhead(unit, next);
    if (unit.exit !== undefined) await this.described?.marks.endQuietAccess(unit, next);
    if (unit.exit !== undefined) await actions.before(unit, next, steps);
    await this.concluded?.lookAhead(unit, next);
    steps.beginEvents();
    this.exit(unit);
    for (const event of unit.events) {
      now.index++;
      this.concluded?.slotsUntil(event);
      this.event(event);
    }
    this.emulator.settleStore(unit.entry?.position ?? 0);
    steps.settle();
    this.nested.endUnit();
    if (unit.entry !== undefined) this.entry(unit.entry.position);
    else this.end(unit);
    this.writer.write(steps.take());
  }

  /** Of a guest's guest that ran before the trace began it is not known on which tables. */
  private known(unit: Unit): Unit {
    if (this.described !== undefined || this.nested.active || !isOfL2(unit)) return unit;
    for (const event of unit.events) {
      this.parts.receipt.omit(
        event.name === 'other' ? event.event : event.name,
        "of a guest's guest that was entered before",
      );
    }
    return { ...unit, exit: undefined, events: [] };
  }

  /** What the exit itself is a stimulus of. */
  private exit({ exit }: Unit): void {
    if (exit === undefined) return;
    if (this.parts.now.fault === undefined) this.described?.marks.beforeExit(exit.rip, exit.position);
    if (exit.reason === 'EPT_MISCONFIG') this.faultsAndWalks.misconfiguration(exit);
    else if (exit.reason === 'INVLPG') this.intercepted.invlpgExit(exit);
    else if (exit.reason === 'INVEPT' || exit.reason === 'INVVPID' || exit.reason === 'VMFUNC') {
      this.intercepted.instructionExit(exit);
    }
  }

  private entry(position: number): void {
    const { steps } = this.parts;
    if (!this.entered && this.described !== undefined) steps.addFirst(this.described.prologue());
    this.entered = true;
    const step = draft(StepKind.VM_ENTRY, 0n, 0n, position);
    step.rows.push(...steps.entryRows);
    steps.add([step]);
  }

  /** The trace ends without an entry: what user space left behind is the VM's end. */
  private end(unit: Unit): void {
    const { receipt, steps } = this.parts;
    if (steps.entryRows.length === 0) return;
    const left = unit.events.some((event) => event.name === 'kvm_userspace_exit');
    if (!left) {
      receipt.note('row after the last entry', steps.entryRows.length);
      return;
    }
    const step = rareDraft({ kind: 'hypervisor', what: 'destroy' }, Provenance.INFERRED, unit.exit?.position ?? 0);
    step.rows.push(...steps.entryRows);
    steps.add([step]);
  }

  private event(event: TraceEvent): void {
    const { now, receipt, steps } = this.parts;
    switch (event.name) {
      case 'mark':
        receipt.count('tracing_mark_write', 'context');
        steps.forgetStep();
        this.described?.marks.mark(event.text, event.position);
        return;
      case 'kvm_userspace_exit':
        receipt.count(event.name, 'context');
        this.emulator.settleStore(event.position);
        now.inUserSpace = true;
        // The instruction waits for its MMIO or I/O: what comes then is still the operand's.
        if (!isOperand(steps.current)) steps.leaveStep();
        return;
      case 'other':
        this.other(event.event);
        return;
      case 'kvm_emulate_insn':
        receipt.count(event.name, 'context');
        now.emulating = true;
        this.intercepted.emulated(event.position);
        return;
      case 'kvm_cr':
        this.intercepted.controlRegister(event);
        return;
      case 'kvm_msr':
        this.intercepted.msr(event);
        return;
      case 'kvm_page_fault':
        this.faultsAndWalks.pageFault(event);
        return;
      case 'kvm_mmu_pagetable_walk':
        this.faultsAndWalks.walk(event);
        return;
      case 'kvm_inj_exception':
        this.faultsAndWalks.injection(event);
        return;
      case 'kvm_unmap_hva_range':
      case 'kvm_set_spte_hva':
      case 'kvm_age_hva':
      case 'kvm_test_age_hva':
        notifier(this.parts, event);
        return;
      case 'vcpu_match_mmio':
        this.emulator.matchMmio(event);
        return;
      case 'kvm_mmio':
        this.emulator.mmio(event);
        return;
      case 'kvm_mmu_zap_all_fast':
        this.zapAll(event);
        return;
      case 'kvm_entry':
      case 'kvm_exit':
        receipt.omit(event.name, 'without consequence');
        return;
      case 'kvm_invlpga':
        this.intercepted.invlpga(event);
        return;
      case 'kvm_nested_vmenter':
      case 'kvm_nested_intercepts':
      case 'kvm_nested_vmenter_failed':
      case 'kvm_nested_vmexit':
      case 'kvm_nested_vmexit_inject':
        this.nestedEvent(event);
        return;
      default:
        this.watcher.watch(event);
        if (!isWalkerEvent(event)) this.emulator.settleStore(event.position);
        steps.row(event);
    }
  }

  private nestedEvent(event: NestedEvent): void {
    const { nested } = this;
    const { kvm, receipt } = this.parts;
    switch (event.name) {
      case 'kvm_nested_vmenter':
        this.emulator.settleStore(event.position);
        nested.enter(event);
        return;
      case 'kvm_nested_intercepts':
        nested.intercepts(event);
        return;
      case 'kvm_nested_vmenter_failed':
        receipt.count(event.name, 'context');
        nested.entryFailed(event.position);
        return;
      case 'kvm_nested_vmexit':
        nested.exited(event);
        return;
      case 'kvm_nested_vmexit_inject':
        this.emulator.settleStore(event.position);
        if (isPageFaultExit(event) && nested.raising(event) === undefined) {
          // VMX has the address as the qualification, and the error code with the exception.
          const [errorCode, cr2] = kvm.intel ? [BigInt(event.intInfoError), event.info1] : [event.info1, event.info2];
          this.described?.marks.interceptedPageFault(errorCode, cr2, event.position);
        }
        nested.leave(event);
    }
  }

  /** `event`: the name of one that has no fields for us. */
  private other(event: string): void {
    const { now, receipt, steps } = this.parts;
    if (event !== 'kvm_fpu') {
      receipt.other(event);
      return;
    }
    receipt.count(event, 'context');
    // The first one after user space ran is KVM_RUN taking up the guest again.
    if (now.inUserSpace && !isOperand(steps.current)) steps.leaveStep();
    now.inUserSpace = false;
  }

  private zapAll(event: TraceEvent): void {
    const { steps } = this.parts;
    // Never within an exit: where a trace has none, the step before has nothing to do with it.
    if (this.concluded?.hasExits === false) steps.forgetStep();
    // Without a mark, what the VMM did is not known: a slot gone, or nx_huge_pages toggled.
    if (steps.current === undefined) {
      steps.stimulus({ kind: 'hypervisor', what: 'zap-all' }, Provenance.INFERRED, event.position);
    }
    steps.row(event);
  }
}
