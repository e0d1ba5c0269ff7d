/**
 * The steps of the unit under way, in order, and the one of them that events belong to. A stimulus ends the step before
 * it: what that showed of the host is then stated ahead of it, and its walk is over.
 */

import type { KvmProfile } from '../../formats/decode/kvm-role.ts';
import { Reg, type RegId } from '../../formats/registers.ts';
import {
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  PROVENANCE_SHIFT,
  Provenance,
  StepKind,
} from '../../formats/step.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { RegisterFile } from '../kvm-guest/register-file.ts';
import { lettingGo, mayCause } from './attribution.ts';
import { type Draft, draft, kindOf, rareDraft, registerDraft } from './draft.ts';
import type { EventReceipt } from './event-receipt.ts';
import { type Row, rowsOf } from './event-rows.ts';
import { nothingShown, type Residency, type Shown } from './residency.ts';
import type { Walk, WalkedTables } from './walked-tables.ts';

const PFEC_W = 2n;

/** The role word's bit for a page that is no longer valid (facts/kvm-mmu.md §2.1). */
const ROLE_INVALID: Readonly<Record<KvmProfile, number>> = { '6.1': 1 << 11, '7.3': 1 << 12 };

export class StepList {
  private readonly receipt: EventReceipt;
  private readonly registers: RegisterFile;
  private readonly tables: WalkedTables;
  private readonly residency: Residency;
  private readonly roleInvalid: number;
  private list: Draft[] = [];
  private step: Draft | undefined;
  private shown: { readonly step: Draft; readonly shown: Shown } | undefined;
  private rowsOfEntry: Row[] = [];
  /** The walk that the current step makes, or that is made for it. */
  walk: Walk | undefined;
  /** Called in this order with every walk that is over, and its step. */
  readonly walkOver: ((walk: Walk, step: Draft) => void)[] = [];

  constructor(
    receipt: EventReceipt,
    registers: RegisterFile,
    tables: WalkedTables,
    residency: Residency,
    profile: KvmProfile,
  ) {
    this.receipt = receipt;
    this.registers = registers;
    this.tables = tables;
    this.residency = residency;
    this.roleInvalid = ROLE_INVALID[profile];
  }

  /** The step that events belong to; `undefined`: they are the entry's. */
  get current(): Draft | undefined {
    return this.step;
  }

  /** Kind of the step that events belong to. */
  get kind(): number | undefined {
    return this.step === undefined ? undefined : kindOf(this.step);
  }

  /** Rows that no step of the unit accounts for. */
  get entryRows(): readonly Row[] {
    return this.rowsOfEntry;
  }

  // Units.

  /** The events of a unit begin; steps made since the last one ended are the guest's doing before its exit. */
  beginEvents(): void {
    this.step = undefined;
    this.rowsOfEntry = [];
  }

  /** Takes the steps out. */
  take(): readonly Draft[] {
    const { list } = this;
    this.list = [];
    return list;
  }

  // Steps.

  /** Steps that no events belong to. */
  add(drafts: readonly Draft[]): void {
    for (const each of drafts) this.list.push(each);
  }

  /** The same, ahead of all others. */
  addFirst(drafts: readonly Draft[]): void {
    this.list = [...drafts, ...this.list];
  }

  /** A stimulus: what follows belongs to it. */
  begin(step: Draft): Draft {
    this.settle();
    this.list.push(step);
    this.step = step;
    return step;
  }

  /** A rare stimulus by the VMM or the host. */
  stimulus(stimulus: Stimulus, provenance: number, position: number): Draft {
    return this.begin(rareDraft(stimulus, provenance, position));
  }

  note(text: string, position: number): void {
    this.list.push(rareDraft({ kind: 'note', text }, Provenance.MARK, position));
  }

  writeRegister(register: RegId, value: bigint, position: number, provenance: number = Provenance.MARK): void {
    this.begin(registerDraft(StepKind.REGISTER_WRITE, register, value, provenance, position));
    this.registers.write(register, value);
    if (register === Reg.CR3) this.tables.rootKnown = true;
  }

  setRegister(register: RegId, value: bigint, provenance: number, position: number): void {
    if (this.registers.get(register) === value) return;
    this.stateRegister(register, value, provenance, position);
  }

  /** The same, whether or not that is news. */
  stateRegister(register: RegId, value: bigint, provenance: number, position: number): void {
    this.list.push(registerDraft(StepKind.REGISTER_SET, register, value, provenance, position));
    this.registers.set(register, value);
  }

  invlpg(address: bigint, position: number, provenance: number = Provenance.MARK): Draft {
    const op = StepKind.INVALIDATE | (provenance << PROVENANCE_SHIFT) | (Invalidation.INVLPG << INVALIDATION_SHIFT);
    return this.begin(draft(op, address, 0n, position));
  }

  /** Any other invalidation: `kind` one of `Invalidation`, `type` the instruction's own. */
  invalidate(kind: number, type: number, address: bigint, operand: bigint, position: number): Draft {
    const flags = (kind << INVALIDATION_SHIFT) | ((type & INVALIDATION_TYPE_MASK) << INVALIDATION_TYPE_SHIFT);
    return this.begin(
      draft(StepKind.INVALIDATE | (Provenance.MARK << PROVENANCE_SHIFT) | flags, address, operand, position),
    );
  }

  // Events.

  /** Adds the event's rows where they belong. */
  row(event: TraceEvent): void {
    const rows = rowsOf(event);
    if (rows === undefined) {
      this.receipt.omit(event.name, 'no observation');
      return;
    }
    this.receipt.count(event.name, 'observation');
    const { kind } = this;
    const released = event.name === 'kvm_mmu_prepare_zap_page' && (event.role & this.roleInvalid) !== 0;
    if (kind !== undefined && (!mayCause(kind, event.name) || (released && lettingGo(kind)))) this.forgetStep();
    (this.step?.rows ?? this.rowsOfEntry).push(...rows);
  }

  /** What the step under way shows of the host, or `undefined` outside one. */
  showing(): Shown | undefined {
    const { step } = this;
    if (step === undefined) return undefined;
    if (this.shown?.step !== step) {
      this.settle();
      const write = kindOf(step) === StepKind.FAULT_EXIT && (step.operand & PFEC_W) !== 0n;
      this.shown = { step, shown: nothingShown(write) };
    }
    return this.shown.shown;
  }

  // Ends.

  /** What follows does not belong to the step made last. */
  forgetStep(): void {
    this.settle();
    this.step = undefined;
  }

  /** The same; what the step showed is settled later, and its walk is not looked at. */
  leaveStep(): void {
    this.step = undefined;
  }

  /** Ends the step under way: states ahead of it what it showed of the host. */
  settle(): void {
    const { shown, walk, step } = this;
    if (shown !== undefined) {
      shown.step.before.push(...this.residency.judge(shown.shown, shown.step.position));
      this.shown = undefined;
    }
    if (walk !== undefined && step !== undefined) for (const over of this.walkOver) over(walk, step);
    this.walk = undefined;
  }
}
