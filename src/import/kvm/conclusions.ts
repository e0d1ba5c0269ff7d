/**
 * What is concluded of a stranger's trace along the way, where an event shows what nobody told: slots, registers, roots
 * and generations, as steps ahead of the one that shows them. `stranger.ts` says what they must be, this file when.
 */

import { CR0_PG, Reg, type RegId } from '../../formats/registers.ts';
import { Provenance, StepKind } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import { mayCause } from './attribution.ts';
import { type Draft, kindOf, rareDraft, registerDraft } from './draft.ts';
import type { Unit } from './exit-units.ts';
import type { Seen } from './host-config.ts';
import { invlpgShown, type ShownInvlpg } from './invlpg-shown.ts';
import { nestedWalkShown } from './nested-walk-shown.ts';
import type { Parts } from './parts.ts';
import { registerShown } from './register-shown.ts';
import { Role } from './role-bits.ts';
import type { Stranger, Wanted } from './stranger.ts';
import type { Walk } from './walked-tables.ts';

/** Where L1's own registers are kept while L2 runs. */
const HOST_REGISTERS: ReadonlyMap<RegId, RegId> = new Map<RegId, RegId>([
  [Reg.CR0, Reg.HOST_CR0],
  [Reg.CR4, Reg.HOST_CR4],
  [Reg.EFER, Reg.HOST_EFER],
]);

type PageEvent = Extract<TraceEvent, { name: 'kvm_mmu_get_page' }>;

export class Conclusions {
  private readonly parts: Parts;
  private readonly stranger: Stranger;
  private readonly seen: Seen;
  /** What the INVLPG of the unit was about. */
  private invlpg: ShownInvlpg | undefined;

  constructor(parts: Parts, stranger: Stranger, seen: Seen) {
    this.parts = parts;
    this.stranger = stranger;
    this.seen = seen;
    parts.residency.slots = stranger.backing;
    parts.steps.add(stranger.prologue());
    parts.steps.walkOver.push((walk, step) => this.walkOver(walk, step));
  }

  /** Exits and entries are the trace's own. */
  get hasExits(): boolean {
    return this.stranger.survey.hasExits;
  }

  /** The event was put in: it is not the recording's. */
  isPutIn(event: TraceEvent): boolean {
    return this.stranger.putIn.has(event);
  }

  /** Slots that have come or gone by the time of the event. */
  slotsUntil(event: TraceEvent): void {
    const { receipt, residency, steps } = this.parts;
    const changes = this.stranger.changesUntil(event.position);
    if (changes.length === 0) return;
    residency.slots = this.stranger.backing;
    receipt.note('memory slot concluded to have changed', changes.length);
    if (steps.current !== undefined) {
      steps.current.before.push(...changes);
    } else if (event.name === 'kvm_mmu_zap_all_fast') {
      // Where everything is zapped, that is what the change did.
      steps.add(changes.slice(0, -1));
      steps.begin(changes.at(-1)!);
    } else {
      steps.add(changes);
    }
  }

  /** How often the slots were updated: `told` is their generation. */
  generation(told: number, position: number): void {
    this.parts.steps.current?.before.push(...this.stranger.generation(told, position));
  }

  // INVLPG.

  /** Looks ahead for what the unit's INVLPG, if it is one, was about. */
  async lookAhead(unit: Unit, next: AsyncIterable<Unit>): Promise<void> {
    this.invlpg = undefined;
    if (!/^invlpg$/i.test(unit.exit?.reason ?? '')) return;
    const told = unit.exit?.reason === 'INVLPG' ? unit.exit.info1 : undefined;
    this.invlpg = await invlpgShown(next, told);
  }

  get invlpgAddress(): bigint | undefined {
    return this.invlpg?.address;
  }

  /** KVM reads the entry anew at INVLPG: what the next walk finds is there by now. */
  entriesOfInvlpg(step: Draft): void {
    const { tables } = this.parts;
    if (this.invlpg?.address !== step.address || !tables.paging) return;
    const walk = tables.begin(step.address, 0);
    for (const { level, pte } of this.invlpg.elements) tables.element(walk, level, pte, step);
  }

  // Registers.

  /** Where the root of the walk at `position` is, ahead of the fault whose walk it is. One never told gets a place. */
  rootOf(position: number, fault: Draft | undefined): void {
    const { receipt, registers, steps, tables } = this.parts;
    const told = this.stranger.survey.roots.get(position);
    const root = told ?? (tables.rootKnown ? undefined : this.stranger.spareRoot);
    if (root === undefined || (registers.get(Reg.CR3) & ~0xfffn) === root) return;
    const found = this.found(Reg.CR3, root, position);
    if (fault === undefined) steps.add(found);
    else fault.before.push(...found);
    tables.rootKnown = true;
    receipt.note(told === undefined ? 'CR3 not known: a root table made up' : 'CR3 concluded');
  }

  /** The level of the first entry of `walk` tells the guest's paging mode, ahead of `step`. */
  mode(walk: Walk, level: number, step: Draft): void {
    const { registers, tables } = this.parts;
    if (walk.second !== undefined) this.secondStageMode(walk, level, step);
    if (walk.second !== undefined || walk.shape !== undefined) return;
    if (walk.level !== 0 || level < 2 || tables.levels === level) return;
    for (const [register, value] of this.stranger.modeOf(level, registers)) {
      step.before.push(...this.found(register, value, step.position));
    }
    Object.assign(walk, tables.begin(walk.address, walk.access));
  }

  /** L1's nested page tables have the format that L1's own paging has. */
  private secondStageMode(walk: Walk, level: number, step: Draft): void {
    const { kvm, registers, tables } = this.parts;
    if (kvm.intel || walk.level !== 0 || level < 4 || walk.second?.levels === level) return;
    const host = { get: (register: RegId): bigint => registers.get(HOST_REGISTERS.get(register) ?? register) };
    for (const [register, value] of this.stranger.modeOf(level, host)) {
      step.before.push(...this.found(HOST_REGISTERS.get(register)!, value, step.position));
    }
    Object.assign(walk, tables.beginSecond(walk.address, walk.access));
  }

  /** What a walk of L2's that begins shows of L2's root and paging mode. */
  nestedWalk({ addr, position }: { readonly addr: bigint; readonly position: number }): void {
    const { now, receipt, registers, steps, tables } = this.parts;
    const second = tables.secondStage;
    const shown = second && nestedWalkShown(addr, now.following(), second);
    if (shown === undefined) return;
    const wanted = new Map(
      shown.levels === 0
        ? [[Reg.CR0, registers.get(Reg.CR0) & ~BigInt(CR0_PG >>> 0)]]
        : tables.levels === shown.levels
          ? []
          : this.stranger.modeOf(shown.levels, registers),
    );
    if (shown.root !== undefined) wanted.set(Reg.CR3, (registers.get(Reg.CR3) & 0xfffn) | shown.root);
    const found = [...wanted].flatMap(([register, value]) => this.found(register, value, position));
    if (found.length > 0) receipt.note("register of the guest's guest concluded", found.length);
    steps.add(found);
    if (shown.root !== undefined) tables.rootKnown = true;
  }

  /** A register that holds `value`, whatever was known of it. */
  private found(register: RegId, value: bigint, position: number): Draft[] {
    const { registers } = this.parts;
    if (registers.get(register) === value) return [];
    registers.set(register, value);
    return [registerDraft(StepKind.REGISTER_SET, register, value, Provenance.INFERRED, position)];
  }

  /** A walk ended otherwise than the registers as they are known let it: they are others, from here on. */
  private walkOver(walk: Walk, step: Draft): void {
    const { receipt, registers, steps } = this.parts;
    // Of two dimensions it is not looked into which of them failed, nor by whose registers.
    if (walk.second !== undefined || walk.shape !== undefined) return;
    const change = registerShown(walk, registers, kindOf(step) === StepKind.SOFTWARE_WALK);
    if (change === undefined) return;
    const { register, bit, on } = change;
    const old = registers.get(register);
    steps.add(this.found(register, on ? old | bit : old & ~bit, step.position));
    receipt.note('register concluded');
  }

  // Roots.

  /** What the root of shadow tables says of the registers, and that there is reason for a root. */
  pageObtained(event: PageEvent): void {
    const { kvm, registers, steps, tables } = this.parts;
    if (steps.kind !== undefined && mayCause(steps.kind, event.name)) return;
    const level = event.role & Role.LEVEL;
    const direct = (event.role & Role.DIRECT) !== 0;
    if (kvm.tdp) {
      if (direct && !event.created && level === (this.seen.directRootLevel ?? 4)) this.contextReset(event.position);
      return;
    }
    if (steps.entryRows.length > 0 || (level < 4 && !direct)) return;
    const wanted = this.stranger.registersOf(event.role, event.roleMask, event.gfn, kvm.profile, registers);
    const { rootKnown } = tables;
    if (level >= 4) tables.rootKnown = true;
    if (!this.writeWanted(wanted, event.position) && rootKnown && !event.created) this.contextReset(event.position);
  }

  /** Writes registers as the trace shows them to have been written; false if none had to be. */
  private writeWanted(wanted: Wanted, position: number): boolean {
    const { receipt, registers, steps } = this.parts;
    let changed = false;
    for (const [register, value] of wanted) {
      if (registers.get(register) === value) continue;
      steps.add([registerDraft(StepKind.REGISTER_WRITE, register, value, Provenance.INFERRED, position)]);
      registers.write(register, value);
      receipt.note('register concluded');
      changed = true;
    }
    return changed;
  }

  /** Roots are obtained anew although nothing in them changed: registers were written that they do not tell. */
  private contextReset(position: number): void {
    const { receipt, steps } = this.parts;
    steps.add([rareDraft({ kind: 'hypervisor', what: 'set-sregs' }, Provenance.INFERRED, position)]);
    receipt.note('context reset concluded');
  }
}
