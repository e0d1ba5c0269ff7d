/**
 * From one vCPU's trace to steps: every stimulus a step, every event a row of the step that caused it. This file goes
 * through the events of a unit; what the guest did by itself is in `guest-actions.ts`, what a mark means in
 * `trace-marks.ts`, and which step an event belongs to in `attribution.ts`.
 */

import { fromBigInt } from '../../bits/word64.ts';
import type { KvmProfile } from '../../formats/decode/kvm-role.ts';
import { Reg, type RegId } from '../../formats/registers.ts';
import {
  FAULT_AC,
  FAULT_CPL3,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  INVALIDATION_SHIFT,
  Invalidation,
  PROVENANCE_SHIFT,
  Provenance,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  SOFTWARE_RMW,
  STEP_KIND_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import { KnownMemory } from '../known-memory.ts';
import { RegisterFile } from '../kvm-guest/register-file.ts';
import type { StepSink } from '../sink.ts';
import { lettingGo, mayCause } from './attribution.ts';
import { type Draft, DraftWriter, draft, rareDraft } from './draft.ts';
import type { EventReceipt } from './event-receipt.ts';
import { type Row, rowsOf } from './event-rows.ts';
import { emulated, type PageFaultEvent, pageFaultOf, type Unit } from './exit-units.ts';
import { type ActionSink, GuestActions, svmControlRegister } from './guest-actions.ts';
import type { GuestStores } from './guest-stores.ts';
import type { Seen } from './host-config.ts';
import { registerShown } from './register-shown.ts';
import { nothingShown, Residency, type Shown } from './residency.ts';
import type { Stranger, Wanted } from './stranger.ts';
import type { AccessUnderTest } from './trace-marks.ts';
import { type Walk, WalkedTables } from './walked-tables.ts';

const EVENT_VALID = 1 << 31;
const PFEC_W = 2;
const PFEC_U = 4;
const PFEC_ACCESS = 0x16;
const EFER_MSR = 0xc000_0080;
const PAGE_FAULT_VECTOR = 14;
const CONTROL_REGISTERS: Readonly<Record<number, RegId>> = { 0: Reg.CR0, 3: Reg.CR3, 4: Reg.CR4 };
/** An SPTE that the host lets KVM make writable: bit 57 of EPT entries, bit 9 of others (facts/kvm-6.1.md §0). */
const HOST_WRITABLE_EPT = 1n << 57n;
const HOST_WRITABLE = 1n << 9n;
const ALL_BITS = 0xffff_ffff;
/** Bit 7 of the role word, in all layouts. */
const ROLE_DIRECT = 1 << 7;
/** Pfns with bit 63 set are errors: no slot, no page. */
const ERROR_PFN = 1n << 63n;

/** What handles the marks; see `trace-marks.ts`. */
export interface MarkHandler {
  mark(text: string, position: number): void;
}

export interface ConversionOptions {
  readonly intel: boolean;
  readonly tdp: boolean;
  /** Registers are known from the start. */
  readonly registersKnown: boolean;
  readonly profile: KvmProfile;
  /** Of a trace without side files. */
  readonly stranger?: Stranger;
}

export class Conversion implements ActionSink {
  readonly receipt: EventReceipt;
  readonly memory = new KnownMemory();
  readonly registers = new RegisterFile(this.memory);
  readonly actions = new GuestActions();
  readonly residency: Residency;
  readonly tables: WalkedTables;
  readonly writer: DraftWriter;
  readonly tdp: boolean;
  private readonly intel: boolean;
  private readonly seen: Seen;
  private readonly registersKnown: boolean;
  private readonly stranger: Stranger | undefined;
  private readonly profile: KvmProfile;
  /** The role word's bit for a page that is no longer valid. */
  private readonly roleInvalid: number;
  private rootKnown: boolean;
  private out: Draft[] = [];
  /** The step that events belong to. */
  private current: Draft | undefined;
  /** Events that no step of the unit accounts for: the entry's. */
  private entryRows: Row[] = [];
  private walk: Walk | undefined;
  private shown: { readonly step: Draft; readonly shown: Shown } | undefined;
  /** `kvm_emulate_insn` has been seen in this unit. */
  private emulating = false;
  /** What an INVLPG was about, of a stranger's trace. */
  private shownInvlpg: ShownInvlpg | undefined;
  /** The emulated instruction's store is done or cannot be done. */
  private storeWalk: Walk | undefined;
  private fault: PageFaultEvent | undefined;
  /** Walks that the fault handler itself is still to make. */
  private handlerWalks = 0;
  /** User space runs: what comes belongs to the ioctl that the last mark announces. */
  private inUserSpace = false;
  /** Written ahead of the first entry. */
  prologue: (() => Draft[]) | undefined;
  marks: MarkHandler | undefined;

  // Set by marks.
  /** KVM_TRANSLATE is under way. */
  translating = false;
  access: AccessUnderTest | undefined;
  /** Number of the last access under test that was the processor's but ended in the emulator, e.g. at MMIO. */
  emulatedAccess = -1;
  /** Guest frames in which the guest has announced stores. */
  readonly tablePages = new Set<bigint>();
  /** The access under test stores into a table. */
  storeOfAccess: GuestStores | undefined;

  constructor(sink: StepSink, receipt: EventReceipt, seen: Seen, options: ConversionOptions) {
    this.receipt = receipt;
    this.seen = seen;
    this.tdp = options.tdp;
    this.intel = options.intel;
    this.registersKnown = options.registersKnown;
    this.stranger = options.stranger;
    this.profile = options.profile;
    this.roleInvalid = options.profile === '6.1' ? 1 << 11 : 1 << 12;
    this.rootKnown = options.registersKnown;
    this.residency = new Residency(receipt);
    this.tables = new WalkedTables(this.memory, this.registers, receipt, () => this.rootKnown);
    this.writer = new DraftWriter(sink, this.registers);
    if (this.stranger !== undefined) {
      this.residency.slots = this.stranger.backing;
      this.out = this.stranger.prologue();
    }
  }

  // What steps are made with.

  add(drafts: readonly Draft[]): void {
    this.out.push(...drafts);
  }

  /** A stimulus: what follows belongs to it. */
  private begin(step: Draft): Draft {
    this.settle();
    this.out.push(step);
    this.current = step;
    this.walk = undefined;
    return step;
  }

  /** A rare stimulus by the VMM or the host. */
  stimulus(stimulus: Stimulus, provenance: number, position: number): Draft {
    return this.begin(rareDraft(stimulus, provenance, position));
  }

  /** What follows does not belong to the step made last. */
  forgetStep(): void {
    this.settle();
    this.current = undefined;
  }

  note(text: string, position: number): void {
    this.out.push(rareDraft({ kind: 'note', text }, Provenance.MARK, position));
  }

  writeRegister(register: RegId, value: bigint, position: number, provenance: number = Provenance.MARK): void {
    const op = StepKind.REGISTER_WRITE | (provenance << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT);
    this.begin(draft(op, 0n, value, position));
    this.registers.write(register, value);
    if (register === Reg.CR3) this.rootKnown = true;
  }

  setRegister(register: RegId, value: bigint, provenance: number, position: number): void {
    if (this.registers.get(register) === value) return;
    const op = StepKind.REGISTER_SET | (provenance << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT);
    this.out.push(draft(op, 0n, value, position));
    this.registers.set(register, value);
  }

  invlpg(address: bigint, position: number, provenance: number = Provenance.MARK): void {
    const op = StepKind.INVALIDATE | (provenance << PROVENANCE_SHIFT) | (Invalidation.INVLPG << INVALIDATION_SHIFT);
    const step = this.begin(draft(op, address, 0n, position));
    const { shownInvlpg } = this;
    if (shownInvlpg?.address !== address || !this.tables.paging) return;
    // KVM reads the entry anew: what the next walk finds is there by now.
    const walk = this.tables.begin(address, 0);
    for (const { level, pte } of shownInvlpg.elements) this.tables.element(walk, level, pte, step);
  }

  // Units.

  /** `next`: the units after this one, read only as far as needed. */
  async unit(unit: Unit, next: AsyncIterable<Unit>): Promise<void> {
    this.current = undefined;
    this.entryRows = [];
    this.emulating = false;
    this.storeWalk = undefined;
    this.inUserSpace = unit.exit === undefined;
    this.fault = pageFaultOf(unit);
    this.handlerWalks = 0;
    if (this.access !== undefined && this.emulatesAccess(unit, this.access)) this.emulatedAccess = this.access.n;
    if (unit.exit !== undefined) await this.actions.before(unit, next, this);
    if (this.stranger !== undefined && /^invlpg$/i.test(unit.exit?.reason ?? '')) {
      const told = unit.exit?.reason === 'INVLPG' ? unit.exit.info1 : undefined;
      this.shownInvlpg = await invlpgShown(next, told);
    }
    this.current = undefined;
    this.exit(unit);
    unit.events.forEach((event, index) => {
      this.event(event, index, unit);
    });
    this.settleStore(unit, unit.entry?.position ?? 0);
    this.settle();
    if (unit.entry !== undefined) this.entry(unit.entry.position);
    else this.end(unit);
    this.writer.write(this.out);
    this.out = [];
  }

  /** Whether the exit is a fault of the access under test for which the hypervisor makes the access itself. */
  private emulatesAccess(unit: Unit, access: AccessUnderTest): boolean {
    if (!emulated(unit)) return false;
    if (unit.exit?.reason === 'EPT_MISCONFIG') return true;
    const address = this.fault?.address;
    if (address === undefined) return false;
    // Of a second stage's fault only the offset in the page shows which linear address it was.
    return this.tdp ? (address & 0xfffn) === (access.va & 0xfffn) : address === access.va;
  }

  /** The trace ends without an entry: what user space left behind is the VM's end. */
  private end(unit: Unit): void {
    if (this.entryRows.length === 0) return;
    const left = unit.events.some((event) => event.name === 'kvm_userspace_exit');
    if (!left) {
      this.receipt.note('row after the last entry', this.entryRows.length);
      return;
    }
    const step = rareDraft({ kind: 'hypervisor', what: 'destroy' }, Provenance.INFERRED, unit.exit?.position ?? 0);
    step.rows.push(...this.entryRows);
    this.out.push(step);
  }

  private entry(position: number): void {
    if (this.prologue !== undefined) {
      const after = this.out;
      this.out = [];
      this.out.push(...this.prologue(), ...after);
      this.prologue = undefined;
    }
    const step = draft(StepKind.VM_ENTRY, 0n, 0n, position);
    step.rows.push(...this.entryRows);
    this.out.push(step);
  }

  /** Called ahead of every exit that is no page fault, with the address of the instruction. */
  beforeExit: ((rip: bigint, position: number) => void) | undefined;

  /** What the exit itself is a stimulus of. */
  private exit(unit: Unit): void {
    const { exit } = unit;
    if (exit === undefined) return;
    if (this.fault === undefined) this.beforeExit?.(exit.rip, exit.position);
    if (exit.reason === 'EPT_MISCONFIG') {
      const op =
        StepKind.FAULT_EXIT | FAULT_MISCONFIG | this.duringEvent(unit) | (Provenance.INFERRED << PROVENANCE_SHIFT);
      this.begin(draft(op, misconfiguredAddress(unit, this.receipt), 0n, exit.position));
    } else if (exit.reason === 'INVLPG') {
      this.actions.takeInvlpg();
      this.invlpg(exit.info1, exit.position, Provenance.RECORDED);
    }
  }

  /** The flag of a fault that came while an event was being delivered (facts/kvm-6.1.md §4.1). */
  private duringEvent(unit: Unit): number {
    // VMX prints the IDT-vectoring information as info2, SVM EXITINTINFO as intr_info.
    const info = this.intel ? Number(unit.exit!.info2 & 0xffff_ffffn) : unit.exit!.intrInfo;
    return (info & EVENT_VALID) !== 0 ? FAULT_DURING_EVENT : 0;
  }

  // Events.

  private event(event: TraceEvent, index: number, unit: Unit): void {
    if (this.stranger !== undefined) this.slotsUntil(this.stranger, event);
    switch (event.name) {
      case 'mark':
        this.receipt.count('tracing_mark_write', 'context');
        this.forgetStep();
        this.marks?.mark(event.text, event.position);
        return;
      case 'kvm_userspace_exit':
        this.receipt.count(event.name, 'context');
        this.settleStore(unit, event.position);
        this.inUserSpace = true;
        // The instruction waits for its MMIO or I/O: what comes then is still the operand's.
        if (!isOperand(this.current)) this.current = undefined;
        return;
      case 'other':
        this.otherEvent(event.event);
        return;
      case 'kvm_emulate_insn':
        this.receipt.count(event.name, 'context');
        this.emulateInsn(event.position, unit);
        return;
      case 'kvm_cr':
        this.controlRegister(event);
        return;
      case 'kvm_msr':
        this.msr(event, unit);
        return;
      case 'kvm_page_fault':
        if (this.isRecorded(event)) this.receipt.count(event.name, 'stimulus');
        else this.receipt.note(`${event.name} concluded`);
        this.pageFault(event, index, unit);
        return;
      case 'kvm_mmu_pagetable_walk':
        this.pageTableWalk(event, index, unit);
        return;
      case 'kvm_unmap_hva_range':
      case 'kvm_set_spte_hva':
      case 'kvm_age_hva':
      case 'kvm_test_age_hva':
        this.notifier(event, index, unit);
        return;
      case 'vcpu_match_mmio':
        this.mmio(event, event.gva, event.gpa, event.write, !event.gpaMatch);
        return;
      case 'kvm_mmio':
        this.mmio(event, undefined, event.gpa, event.type === 'write', false);
        return;
      case 'kvm_inj_exception':
        this.injection(event);
        return;
      case 'kvm_entry':
      case 'kvm_exit':
      case 'kvm_nested_vmexit':
      case 'kvm_invlpga':
        this.receipt.omit(event.name, event.name === 'kvm_nested_vmexit' ? 'nested event' : 'without consequence');
        return;
      case 'kvm_mmu_zap_all_fast':
        // Never within an exit: where a trace has none, the step before has nothing to do with it.
        if (this.stranger?.survey.hasExits === false) this.forgetStep();
        // Without a mark, what the VMM did is not known: a slot gone, or nx_huge_pages toggled.
        if (this.current === undefined) {
          this.stimulus({ kind: 'hypervisor', what: 'zap-all' }, Provenance.INFERRED, event.position);
        }
        this.row(event);
        return;
      default:
        this.watch(event);
        if (!isWalkerEvent(event)) this.settleStore(unit, event.position);
        this.row(event);
    }
  }

  /** Slots that a stranger's trace shows to have come or gone by now. */
  private slotsUntil(stranger: Stranger, event: TraceEvent): void {
    const changes = stranger.changesUntil(event.position);
    if (changes.length === 0) return;
    this.residency.slots = stranger.backing;
    this.receipt.note('memory slot concluded to have changed', changes.length);
    // Where everything is zapped, that is what the change did.
    if (event.name === 'kvm_mmu_zap_all_fast' && this.current === undefined) {
      this.out.push(...changes.slice(0, -1));
      this.begin(changes.at(-1)!);
    } else if (this.current === undefined) this.out.push(...changes);
    else this.current.before.push(...changes);
  }

  /** Whether the event is one of the recording's, not one that was concluded. */
  private isRecorded(event: TraceEvent): boolean {
    return this.stranger?.putIn.has(event) !== true;
  }

  /** Writes registers as the trace shows them to have been written. */
  private writeWanted(wanted: Wanted, position: number): boolean {
    let changed = false;
    for (const [register, value] of wanted) {
      if (this.registers.get(register) === value) continue;
      const op =
        StepKind.REGISTER_WRITE | (Provenance.INFERRED << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT);
      this.out.push(draft(op, 0n, value, position));
      this.registers.write(register, value);
      this.receipt.note('register concluded');
      changed = true;
    }
    return changed;
  }

  /** Adds the event's rows where they belong. */
  private row(event: TraceEvent): void {
    const rows = rowsOf(event);
    if (rows === undefined) {
      this.receipt.omit(event.name, 'no observation');
      return;
    }
    this.receipt.count(event.name, 'observation');
    const kind = this.current === undefined ? undefined : this.current.op & STEP_KIND_MASK;
    const released = event.name === 'kvm_mmu_prepare_zap_page' && (event.role & this.roleInvalid) !== 0;
    if (kind !== undefined && (!mayCause(kind, event.name) || (released && lettingGo(kind)))) {
      this.settle();
      this.current = undefined;
    }
    if (this.current === undefined) this.entryRows.push(...rows);
    else this.current.rows.push(...rows);
  }

  /** Learns from an event what the importer itself keeps track of. */
  private watch(event: TraceEvent): void {
    const { walk, current } = this;
    switch (event.name) {
      case 'kvm_mmu_paging_element':
        if (walk === undefined || current === undefined) return;
        if (!this.registersKnown && walk.level === 0) this.guessMode(walk, event.level, current);
        this.tables.element(walk, event.level, event.pte, current);
        return;
      case 'kvm_mmu_set_accessed_bit':
        this.tables.bitsSet(event.gpa, false);
        return;
      case 'kvm_mmu_set_dirty_bit':
        this.tables.bitsSet(event.gpa, true);
        return;
      case 'kvm_mmu_walker_error':
        if (walk !== undefined) {
          walk.failed = true;
          walk.error = event.pferr;
        }
        return;
      case 'kvm_mmu_spte_requested':
        if (event.pfn < ERROR_PFN) this.request(event);
        return;
      case 'kvm_mmu_set_spte':
        this.showing()?.sets.push({
          gfn: event.gfn,
          level: event.level,
          hostWritable: (event.spte & (this.tdp && this.intel ? HOST_WRITABLE_EPT : HOST_WRITABLE)) !== 0n,
        });
        return;
      case 'kvm_mmu_get_page':
        if (this.seen.directRootLevel === undefined && this.tdp) this.seen.directRootLevel = event.role & 0xf;
        if (event.roleMask !== ALL_BITS) this.receipt.note('role word of which the text tells a part');
        if (!this.registersKnown) this.guessRoot(event, event.position);
        return;
      case 'mark_mmio_spte':
        this.generation(event.gen, event.position);
        return;
      case 'check_mmio_spte':
        this.generation(event.kvmGen, event.position);
        this.seen.mmio ??= { spte: event.spte, gfn: mmioFrame(event.spte) };
        return;
      case 'kvm_tdp_mmu_spte_changed':
        this.seen.tdpMmu = true;
        this.seen.mmio ??= mmioOf(event);
        return;
    }
  }

  /** Of a stranger's trace: how often the slots were updated. */
  private generation(told: number, position: number): void {
    this.current?.before.push(...(this.stranger?.generation(told, position) ?? []));
  }

  /** Of a stranger's trace: the level that a walk begins at tells the guest's paging mode, ahead of `step`. */
  private guessMode(walk: Walk, level: number, step: Draft): void {
    const { stranger, registers } = this;
    if (stranger === undefined || level < 2 || this.tables.levels === level) return;
    for (const [register, value] of stranger.modeOf(level, registers)) {
      if (registers.get(register) === value) continue;
      registers.set(register, value);
      const op = StepKind.REGISTER_SET | (Provenance.INFERRED << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT);
      step.before.push(draft(op, 0n, value, step.position));
    }
    Object.assign(walk, this.tables.begin(walk.address, walk.access));
  }

  /** Of a stranger's trace: where the root of the walk at `position` is. One that is never told gets a place. */
  private rootOf(position: number, fault: Draft | undefined): void {
    const { stranger } = this;
    if (stranger === undefined) return;
    const told = stranger.survey.roots.get(position);
    const root = told ?? (this.rootKnown ? undefined : stranger.spareRoot);
    if (root === undefined || (this.registers.get(Reg.CR3) & ~0xfffn) === root) return;
    const { out } = this;
    this.out = [];
    this.setRegister(Reg.CR3, root, Provenance.INFERRED, position);
    // Ahead of the fault whose walk it is.
    if (fault === undefined) out.push(...this.out);
    else fault.before.push(...this.out);
    this.out = out;
    this.rootKnown = true;
    this.receipt.note(told === undefined ? 'CR3 not known: a root table made up' : 'CR3 concluded');
  }

  /** Of a stranger's trace: what the root of shadow tables says of the registers, and that there is reason for a root. */
  private guessRoot(
    event: { readonly role: number; readonly roleMask: number; readonly gfn: bigint; readonly created: boolean },
    position: number,
  ): void {
    const { stranger } = this;
    const level = event.role & 0xf;
    const direct = (event.role & ROLE_DIRECT) !== 0;
    if (stranger === undefined) return;
    if (this.current !== undefined && mayCause(this.current.op & STEP_KIND_MASK, 'kvm_mmu_get_page')) return;
    if (this.tdp) {
      if (!event.created && level === (this.seen.directRootLevel ?? 4)) this.contextReset(position);
      return;
    }
    const first = this.entryRows.length === 0;
    if (!first || (level < 4 && !direct)) return;
    const { registers } = this;
    const wanted = stranger.registersOf(event.role, event.roleMask, event.gfn, this.profile, registers);
    const known = this.rootKnown;
    if (level >= 4) this.rootKnown = true;
    if (!this.writeWanted(wanted, position) && known && !event.created) this.contextReset(position);
  }

  /** Roots are obtained anew although nothing in them changed: registers were written that they do not tell. */
  private contextReset(position: number): void {
    const call = { kind: 'hypervisor', what: 'set-sregs' } as const;
    this.out.push(rareDraft(call, Provenance.INFERRED, position));
    this.receipt.note('context reset concluded');
  }

  private request(event: { readonly gfn: bigint; readonly level: number }): void {
    const shown = this.showing();
    if (shown !== undefined) shown.requested ??= { gfn: event.gfn, level: event.level };
  }

  /** What the step under way shows of the host, or `undefined` outside one. */
  private showing(): Shown | undefined {
    const { current } = this;
    if (current === undefined) return undefined;
    if (this.shown?.step !== current) {
      this.settle();
      const write = (current.op & STEP_KIND_MASK) === StepKind.FAULT_EXIT && (current.operand & BigInt(PFEC_W)) !== 0n;
      this.shown = { step: current, shown: nothingShown(write) };
    }
    return this.shown.shown;
  }

  /** Ends the step under way: states ahead of it what it showed of the host. */
  private settle(): void {
    const { shown, walk, current } = this;
    if (shown !== undefined) {
      const { step } = shown;
      step.before.push(...this.residency.judge(shown.shown, Provenance.INFERRED, step.position));
      this.shown = undefined;
    }
    if (walk !== undefined && current !== undefined && isOperand(current)) this.operandTouched(walk, current);
    if (walk !== undefined && current !== undefined && this.stranger !== undefined) this.learnRegisters(walk, current);
    this.walk = undefined;
  }

  /** A walk ended otherwise than the registers as they are known let it: they are others, from here on. */
  private learnRegisters(walk: Walk, step: Draft): void {
    const change = registerShown(walk, this.registers, (step.op & STEP_KIND_MASK) === StepKind.SOFTWARE_WALK);
    if (change === undefined) return;
    const { register, bit, on } = change;
    const old = this.registers.get(register);
    this.setRegister(register, on ? old | bit : old & ~bit, Provenance.INFERRED, step.position);
    this.receipt.note('register concluded');
  }

  /** The emulator reads or writes its operand through the host's own mapping. */
  private operandTouched(walk: Walk, step: Draft): void {
    const gpa = this.tables.result(walk);
    if (gpa === undefined) return;
    const write = (step.operand & BigInt(PFEC_W)) !== 0n;
    // The walk of a store that was told has been forgotten by now.
    if (write && walk === this.storeWalk && this.tablePages.has(gpa >> 12n))
      this.receipt.note('store into a table whose value is not known');
    this.out.push(...this.residency.touched(gpa >> 12n, write, Provenance.INFERRED, step.position));
  }

  private otherEvent(event: string): void {
    if (event === 'kvm_fpu') {
      this.receipt.count(event, 'context');
      // The first one after user space ran is KVM_RUN taking up the guest again.
      if (this.inUserSpace && !isOperand(this.current)) this.current = undefined;
      if (this.inUserSpace) this.inUserSpace = false;
      return;
    }
    this.receipt.other(event);
  }

  private emulateInsn(position: number, unit: Unit): void {
    this.emulating = true;
    if (unit.entry?.rip === unit.exit?.rip) return;
    const reason = unit.exit?.reason ?? '';
    const register = svmControlRegister(reason);
    if (register !== undefined) {
      const action = this.actions.takeRegister(register);
      if (action === undefined) this.receipt.note('register write whose value is not known');
      else this.writeRegister(register, action.value, position);
    } else if (reason === 'invlpg') {
      const address = this.actions.takeInvlpg() ?? this.shownInvlpg?.address;
      if (address === undefined) this.receipt.note('INVLPG whose address is not known');
      else this.invlpg(address, position, this.stranger === undefined ? Provenance.MARK : Provenance.INFERRED);
    } else if (this.access?.access === 'fep-invlpg' && !this.walk?.failed) {
      this.invlpg(this.access.va, position);
    }
  }

  private controlRegister(event: Extract<TraceEvent, { name: 'kvm_cr' }>): void {
    const register = CONTROL_REGISTERS[event.cr];
    if (!event.write || register === undefined) {
      this.receipt.count(event.name, 'not ours');
      return;
    }
    this.receipt.count(event.name, 'stimulus');
    const announced = this.actions.takeRegister(register);
    if (announced !== undefined && announced.value !== event.value)
      this.receipt.note('register write announced otherwise');
    this.beforeWrite?.(register, event.value, event.position);
    this.writeRegister(register, event.value, event.position, Provenance.RECORDED);
  }

  /** Called ahead of a recorded register write: a guest may have told only afterwards what another register holds. */
  beforeWrite: ((register: RegId, value: bigint, position: number) => void) | undefined;

  private msr(event: Extract<TraceEvent, { name: 'kvm_msr' }>, unit: Unit): void {
    const efer = event.write && event.msr === EFER_MSR && unit.entry?.rip !== unit.exit?.rip;
    if (!efer) {
      this.receipt.count(event.name, 'not ours');
      return;
    }
    this.receipt.count(event.name, 'stimulus');
    this.actions.takeRegister(Reg.EFER);
    this.writeRegister(Reg.EFER, event.value, event.position, Provenance.RECORDED);
  }

  private pageFault(event: PageFaultEvent, index: number, unit: Unit): void {
    const { access } = this;
    const state = (access?.ac === true ? FAULT_AC : 0) | (access?.user === true ? FAULT_CPL3 : 0);
    const during = this.duringEvent(unit);
    const provenance = (this.isRecorded(event) ? Provenance.RECORDED : Provenance.INFERRED) << PROVENANCE_SHIFT;
    const op = StepKind.FAULT_EXIT | provenance | during | state;
    const step = this.begin(draft(op, event.address, event.errorCode, event.position));
    if (this.isRecorded(event)) step.rows.push(...rowsOf(event)!);
    if (!this.tdp && this.tables.paging) {
      this.handlerWalks = 1;
      // With an event to deliver, KVM first gives up protecting the page, which it looks up by a walk of its own.
      if (during !== 0 && walksTo(unit, index + 1, event.address) > 1) this.handlerWalks = 2;
    } else if (!this.tdp && !this.registersKnown) {
      // Nothing tells whether paging is on: the handler's walk shows itself.
      this.handlerWalks = 1;
    }
  }

  private pageTableWalk(
    event: Extract<TraceEvent, { name: 'kvm_mmu_pagetable_walk' }>,
    index: number,
    unit: Unit,
  ): void {
    const own = this.handlerWalks > 0 && !this.emulating && event.addr === this.fault?.address;
    this.rootOf(event.position, own ? this.current : undefined);
    if (own && this.current !== undefined) {
      this.handlerWalks--;
      this.row(event);
      this.walk = this.tables.begin(event.addr, event.pferr);
      return;
    }
    this.settleStore(unit, event.position);
    this.receipt.count(event.name, 'stimulus');
    const flags = this.walkFlags(event, index, unit);
    const op = StepKind.SOFTWARE_WALK | (Provenance.RECORDED << PROVENANCE_SHIFT) | flags;
    const step = this.begin(draft(op, event.addr, BigInt(event.pferr & PFEC_ACCESS), event.position));
    step.rows.push(...rowsOf(event)!);
    this.walk = this.tables.begin(event.addr, event.pferr);
    if ((event.pferr & PFEC_W) !== 0 && this.emulating) this.storeWalk = this.walk;
  }

  private walkFlags(event: { readonly addr: bigint; readonly pferr: number }, index: number, unit: Unit): number {
    const { access } = this;
    if (this.translating) return SOFTWARE_QUIET;
    const { failed, injected, writes } = outcomeOf(unit, index);
    let flags = failed && !injected ? SOFTWARE_QUIET : 0;
    if (access?.ac === true) flags |= SOFTWARE_AC;
    if (!this.emulating) return flags;
    const unprotects =
      this.fault !== undefined &&
      event.addr === this.fault.address &&
      event.pferr === PFEC_W &&
      unit.entry?.rip === unit.exit?.rip &&
      !injected;
    if (unprotects) return flags | SOFTWARE_QUIET;
    if (access?.access === 'fep-seg') return flags | SOFTWARE_IMPLICIT;
    const modifies = (access?.access.endsWith('rmw') === true || writes) && (event.pferr & PFEC_W) === 0;
    return flags | SOFTWARE_OPERAND | (modifies ? SOFTWARE_RMW : 0);
  }

  /** `fromCache`: the linear address alone matched, no walk was needed. */
  private mmio(event: TraceEvent, linear: bigint | undefined, gpa: bigint, write: boolean, fromCache: boolean): void {
    const { current } = this;
    const belongs =
      isOperand(current) && !fromCache && (linear === undefined || (linear & ~0xfffn) === (current.address & ~0xfffn));
    if (!belongs && !(this.inUserSpace && isOperand(current))) {
      const address = linear ?? this.linearOf(gpa);
      const user = this.access?.user === true ? PFEC_U : 0;
      const op =
        StepKind.SOFTWARE_WALK |
        SOFTWARE_OPERAND |
        (this.access?.ac === true ? SOFTWARE_AC : 0) |
        (Provenance.INFERRED << PROVENANCE_SHIFT);
      this.begin(draft(op, address, BigInt(user | (write ? PFEC_W : 0)), event.position));
    }
    this.row(event);
  }

  /** The linear address of an operand that the emulator found without a walk, known from what is being done. */
  private linearOf(gpa: bigint): bigint {
    const { access, fault } = this;
    if (access !== undefined && (access.va & 0xfffn) === (gpa & 0xfffn)) return access.va;
    if (fault !== undefined && !this.tdp) return fault.address;
    this.receipt.note('MMIO whose linear address is not known');
    return 0n;
  }

  private injection(event: Extract<TraceEvent, { name: 'kvm_inj_exception' }>): void {
    const kind = this.current === undefined ? -1 : this.current.op & STEP_KIND_MASK;
    const caused = kind === StepKind.FAULT_EXIT || kind === StepKind.SOFTWARE_WALK;
    if (event.vector !== PAGE_FAULT_VECTOR || event.reinjected || !caused) {
      this.receipt.count(event.name, 'not ours');
      if (event.vector === PAGE_FAULT_VECTOR && !event.reinjected) this.receipt.note('#PF injected for no walk');
      return;
    }
    this.row(event);
  }

  private notifier(
    event: Extract<
      TraceEvent,
      { name: 'kvm_unmap_hva_range' | 'kvm_set_spte_hva' | 'kvm_age_hva' | 'kvm_test_age_hva' }
    >,
    index: number,
    unit: Unit,
  ): void {
    this.receipt.count(event.name, 'host input');
    const start = 'start' in event ? event.start : event.hva;
    const end = 'end' in event ? event.end : event.hva + 0x1000n;
    const kind = this.current === undefined ? -1 : this.current.op & STEP_KIND_MASK;
    const inFault = kind === StepKind.FAULT_EXIT && !this.emulating;
    const inWalk = kind === StepKind.SOFTWARE_WALK && setsBitsLater(unit, index);
    if (inFault || inWalk) {
      if (event.name === 'kvm_unmap_hva_range') this.showing()?.copied.push({ start, end });
      this.current!.rows.push(...rowsOf(event)!);
      return;
    }
    const what = NOTIFIER_NAMES[event.name];
    const notifier = { kind: 'notifier', what, start: fromBigInt(start), end: fromBigInt(end) } as const;
    this.stimulus(notifier, Provenance.RECORDED, event.position).rows.push(...rowsOf(event)!);
    if (what === 'unmap' || what === 'set-pte') {
      this.add(this.residency.notified(start, end, what === 'set-pte', Provenance.INFERRED, event.position));
    }
  }

  /** The emulator's store, once its walks are over: it comes before whatever it causes. */
  private settleStore(unit: Unit, position: number): void {
    if (!this.emulating) return;
    const { storeWalk } = this;
    const stores = this.actions.emulated ?? (storeWalk === undefined ? undefined : this.storeOfAccess);
    if (stores === undefined) return;
    // Under paging the operand is walked before it is written.
    if (this.tables.paging && !this.tdp && storeWalk === undefined) return;
    this.actions.emulated = undefined;
    this.storeOfAccess = undefined;
    if (storeWalk?.failed === true || !emulated(unit)) return;
    this.storeWalk = undefined;
    const step = stores.emulate(position);
    if (step !== undefined) this.begin(step);
    this.actions.dropFinishedStores();
  }
}

interface ShownInvlpg {
  readonly address: bigint;
  /** The entries that the next walk of it read. */
  readonly elements: readonly { readonly level: number; readonly pte: bigint }[];
}

/**
 * What an INVLPG was about. `told`: its address; if no event tells that, likely the next address that turns out not to
 * be present.
 */
async function invlpgShown(next: AsyncIterable<Unit>, told: bigint | undefined): Promise<ShownInvlpg | undefined> {
  for await (const unit of next) {
    if (told === undefined && unit.exit?.reason === 'invlpg') return undefined;
    const fault = pageFaultOf(unit);
    const address = told ?? (fault !== undefined && (fault.errorCode & 1n) === 0n ? fault.address : undefined);
    if (address === undefined) continue;
    const { events } = unit;
    const at = events.findIndex(
      (each) => each.name === 'kvm_mmu_pagetable_walk' && each.addr >> 12n === address >> 12n,
    );
    if (at < 0 && told !== undefined) continue;
    const elements: { level: number; pte: bigint }[] = [];
    for (const event of at < 0 ? [] : events.slice(at + 1)) {
      if (event.name !== 'kvm_mmu_paging_element') break;
      elements.push(event);
    }
    return { address, elements };
  }
  return undefined;
}

const NOTIFIER_NAMES = {
  kvm_unmap_hva_range: 'unmap',
  kvm_set_spte_hva: 'set-pte',
  kvm_age_hva: 'age',
  kvm_test_age_hva: 'test-age',
} as const;

function isOperand(step: Draft | undefined): step is Draft {
  return (
    step !== undefined && (step.op & STEP_KIND_MASK) === StepKind.SOFTWARE_WALK && (step.op & SOFTWARE_OPERAND) !== 0
  );
}

/** Rows of the walk itself, which come before what the access does. */
function isWalkerEvent(event: TraceEvent): boolean {
  switch (event.name) {
    case 'kvm_mmu_paging_element':
    case 'kvm_mmu_set_accessed_bit':
    case 'kvm_mmu_set_dirty_bit':
    case 'kvm_mmu_walker_error':
      return true;
    default:
      return false;
  }
}

/** Walks of `address` from `from` on, before the emulator takes over. */
function walksTo(unit: Unit, from: number, address: bigint): number {
  let count = 0;
  for (const event of unit.events.slice(from)) {
    if (event.name === 'kvm_emulate_insn') break;
    if (event.name === 'kvm_mmu_pagetable_walk' && event.addr === address) count++;
  }
  return count;
}

/** Whether the walk at `index` fails, and whether the guest learns of it. */
function outcomeOf(unit: Unit, index: number): { failed: boolean; injected: boolean; writes: boolean } {
  let failed = false;
  for (const event of unit.events.slice(index + 1)) {
    if (event.name === 'kvm_mmu_pagetable_walk') break;
    if (event.name === 'kvm_mmu_walker_error') failed = true;
    if (event.name === 'kvm_inj_exception' && event.vector === PAGE_FAULT_VECTOR && !event.reinjected) {
      // The walk of an operand that is read first and then written fails as a write.
      return { failed, injected: true, writes: ((event.errorCode ?? 0) & PFEC_W) !== 0 };
    }
  }
  return { failed, injected: false, writes: false };
}

/** The walk under way goes on to set bits: it is the write of these that the host had to copy a page for. */
function setsBitsLater(unit: Unit, index: number): boolean {
  for (const event of unit.events.slice(index + 1)) {
    if (event.name === 'kvm_mmu_set_accessed_bit' || event.name === 'kvm_mmu_set_dirty_bit') return true;
    if (!isWalkerEvent(event) && event.name !== 'kvm_set_spte_hva' && event.name !== 'kvm_tdp_mmu_spte_changed')
      return false;
  }
  return false;
}

/** An MMIO SPTE of EPT: not MMU-present, writable and executable but not readable (facts/kvm-6.1.md §6). */
function mmioOf(event: { readonly newSpte: bigint; readonly gfn: bigint }): Seen['mmio'] {
  return (event.newSpte & 0x807n) === 6n ? { spte: event.newSpte, gfn: event.gfn } : undefined;
}

/** The guest frame of an MMIO SPTE, as far as its low bits tell it. */
function mmioFrame(spte: bigint): bigint {
  return (spte >> 12n) & 0x3ff_ffffn;
}

/** No event prints where an EPT misconfiguration was; what KVM then emulates tells. */
function misconfiguredAddress(unit: Unit, receipt: EventReceipt): bigint {
  for (const event of unit.events) {
    if (event.name === 'kvm_mmio') return event.gpa;
    if (event.name === 'vcpu_match_mmio') return event.gpa;
  }
  for (const event of unit.events) if (event.name === 'handle_mmio_page_fault') return event.gfn << 12n;
  receipt.note('EPT misconfiguration whose address is not known');
  return 0n;
}
