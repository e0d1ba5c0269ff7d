/**
 * The guest's guest ("L2"): when it runs, and its entries and exits as steps. What its hypervisor ("L1") has set for it
 * is told by marks, which SVM and VMX have their own of; when it is entered and left, by KVM's events.
 */

import { GuestMode, Reg, type RegId } from '../../formats/registers.ts';
import { NESTED_SVM, PROVENANCE_SHIFT, Provenance, StepKind } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { Mark } from '../kvm-guest/marks.ts';
import { type Draft, draft } from './draft.ts';
import { rowsOf } from './event-rows.ts';
import { exitReasonNumber, isPageFaultExit, isSecondStageExit } from './exit-reasons.ts';
import type { Parts } from './parts.ts';

export type NestedEntryEvent = Extract<TraceEvent, { name: 'kvm_nested_vmenter' }>;
export type NestedExitEvent = Extract<TraceEvent, { name: 'kvm_nested_vmexit' }>;
export type InjectedExitEvent = Extract<TraceEvent, { name: 'kvm_nested_vmexit_inject' }>;

/** Exit reason: VM entry failed, invalid guest state (SDM vol. 3D appendix C). */
const INVALID_GUEST_STATE = 0x8000_0021n;

/** CR0, CR3, CR4 and EFER, in this order. */
export type ControlRegisters = readonly [bigint, bigint, bigint, bigint];

export const CONTROL_REGISTERS: readonly RegId[] = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER];

/** A register that is to hold `value`. `always`: it is stated even if that is no news. */
export interface Stated {
  readonly register: RegId;
  readonly value: bigint;
  readonly provenance: number;
  readonly always?: boolean;
}

/** SVM or VMX. */
export interface NestingKind {
  /** Flags of a NESTED_ENTRY beside NESTED_SVM. */
  readonly entryFlags: number;
  /** False: nobody tells of L1's page-modification log. */
  readonly logKnown?: boolean;
  /** How it is known what L1 goes on with. */
  readonly restored: number;
  /** Whether the mark is one that prepares an entry. */
  take(mark: Mark): boolean;
  /** What is in force while L2 runs, with `l1` in force before. */
  entered(l1: ControlRegisters, event: NestedEntryEvent): readonly Stated[];
  /** VMFUNC has loaded another EPT pointer. */
  eptpSwitched(eptp: bigint): void;
  /** What L1 finds in its registers; `l1`: what it had, `l2`: what L2 leaves behind. */
  left(l1: ControlRegisters, l2: ControlRegisters): ControlRegisters;
}

export class NestedGuest {
  readonly kind: NestingKind;
  private readonly parts: Parts;
  private l1: ControlRegisters = [0n, 0n, 0n, 0n];
  /** The exit from L2 that the unit begins with, until a step has it as a row. */
  private exit: NestedExitEvent | undefined;
  /** L2 was entered in this unit. */
  private entering = false;

  constructor(parts: Parts, kind: NestingKind) {
    this.parts = parts;
    this.kind = kind;
  }

  get active(): boolean {
    return this.parts.actions.inL2;
  }

  private get control(): ControlRegisters {
    return CONTROL_REGISTERS.map((register) => this.parts.registers.get(register)) as unknown as ControlRegisters;
  }

  // Exits from L2 to KVM.

  exited(event: NestedExitEvent): void {
    const { receipt, steps } = this.parts;
    if (!this.active) receipt.note('exit of a guest that is not known to run');
    this.exit = event;
    // An EPT misconfiguration has no event of its own.
    if (steps.kind === StepKind.FAULT_EXIT) this.exitRow(steps.current!);
  }

  /** The exit from L2 is the first row of the fault, or the exit to L1, that it is. */
  exitRow(step: Draft): void {
    if (this.exit === undefined) return;
    this.parts.receipt.count(this.exit.name, 'observation');
    step.rows.push(...rowsOf(this.exit)!);
    this.exit = undefined;
  }

  /** The unit is over: an exit that was KVM's own business concerns nobody here. */
  endUnit(): void {
    if (this.exit !== undefined) this.parts.receipt.count(this.exit.name, 'not ours');
    this.exit = undefined;
    this.entering = false;
  }

  // From L1 to L2 and back.

  enter(event: NestedEntryEvent): void {
    const { actions, kvm, receipt, steps } = this.parts;
    if (this.active) receipt.note('entry of a guest that runs already');
    this.l1 = this.control;
    steps.forgetStep();
    this.state(this.kind.entered(this.l1, event), event.position);
    const mode = kvm.intel ? GuestMode.VMX : GuestMode.SVM;
    steps.setRegister(Reg.GUEST_MODE, BigInt(mode), Provenance.RECORDED, event.position);
    const flags = this.kind.entryFlags | (kvm.intel ? 0 : NESTED_SVM);
    steps.begin(draft(StepKind.NESTED_ENTRY | flags, 0n, 0n, event.position));
    steps.row(event);
    actions.inL2 = true;
    this.entering = true;
  }

  /** The guest state of an entry under way was refused: L1 finds itself after an exit (SDM vol. 3C 27.8). */
  entryFailed(position: number): void {
    if (!this.entering) return;
    const op = StepKind.NESTED_EXIT | (Provenance.INFERRED << PROVENANCE_SHIFT);
    this.goBack(draft(op, 0n, INVALID_GUEST_STATE, position));
  }

  /** `kvm_nested_intercepts`, which is printed right behind an entry. */
  intercepts(event: TraceEvent): void {
    const { receipt, steps } = this.parts;
    if (steps.kind === StepKind.NESTED_ENTRY) steps.row(event);
    else receipt.omit(event.name, 'without an entry');
  }

  /** L1 gets an exit: one that a walk of KVM's raised is a row of that step, any other is an input. */
  leave(event: InjectedExitEvent): void {
    const { receipt } = this.parts;
    receipt.count(event.name, 'observation');
    const reason = exitReasonNumber(event.reason);
    if (reason === undefined) receipt.note('exit reason of which the name is not known');
    const op = StepKind.NESTED_EXIT | (this.parts.kvm.intel ? 0 : NESTED_SVM);
    const step = draft(
      op | (Provenance.RECORDED << PROVENANCE_SHIFT),
      event.info1,
      BigInt(reason ?? 0),
      event.position,
    );
    const refused = event.reason === 'PML_FULL' ? this.parts.tables.lastSetRefused(event.position) : undefined;
    const raising = this.raising(event);
    if (raising !== undefined) {
      raising.rows.push(...rowsOf(event)!);
    } else {
      if (this.exit?.reason === event.reason) this.exitRow(step);
      step.rows.push(...rowsOf(event)!);
    }
    this.goBack(step);
    // A replay that knows of no log has set the bits.
    if (refused !== undefined && this.kind.logKnown === false) this.parts.steps.add([refused]);
  }

  /** L1 goes on; `step`: the exit. */
  private goBack(step: Draft): void {
    const { actions, steps } = this.parts;
    steps.begin(step);
    const l2 = this.control;
    const { position } = step;
    const { restored } = this.kind;
    steps.setRegister(Reg.GUEST_MODE, BigInt(GuestMode.NONE), restored, position);
    this.kind.left(this.l1, l2).forEach((value, i) => {
      steps.setRegister(CONTROL_REGISTERS[i]!, value, restored, position);
    });
    actions.inL2 = false;
    this.entering = false;
  }

  /** The step whose failure L1 gets as this exit; `undefined`: the processor or the hypervisor's own doing raised it. */
  raising(event: InjectedExitEvent): Draft | undefined {
    const { now, receipt, steps } = this.parts;
    if (isPageFaultExit(event)) return now.failed;
    if (!isSecondStageExit(event.reason)) return undefined;
    const found = now.failed ?? steps.current;
    if (found === undefined) receipt.note('exit of a second stage for no walk');
    return found;
  }

  private state(stated: readonly Stated[], position: number): void {
    const { steps } = this.parts;
    for (const { register, value, provenance, always } of stated) {
      if (always === true) steps.stateRegister(register, value, provenance, position);
      else steps.setRegister(register, value, provenance, position);
    }
  }
}
