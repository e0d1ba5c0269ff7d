/**
 * What KVM's instruction emulator does with its operand in memory: the guest's store, which no event tells, pages that
 * it touches through the host's own mapping, and MMIO.
 */

import { PROVENANCE_SHIFT, Provenance, SOFTWARE_AC, SOFTWARE_OPERAND, StepKind } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import { type Draft, draft, kindOf } from './draft.ts';
import { emulated } from './exit-units.ts';
import type { Parts } from './parts.ts';
import type { Walk } from './walked-tables.ts';

const PFEC_W = 2;
const PFEC_U = 4;

interface MmioAccess {
  /** `undefined` if the event does not tell it. */
  readonly linear: bigint | undefined;
  readonly gpa: bigint;
  readonly write: boolean;
  /** The linear address alone matched, no walk was needed. */
  readonly fromCache: boolean;
}

/** The step is a walk for an operand of the emulated instruction. */
export function isOperand(step: Draft | undefined): step is Draft {
  return step !== undefined && kindOf(step) === StepKind.SOFTWARE_WALK && (step.op & SOFTWARE_OPERAND) !== 0;
}

export class Emulator {
  private readonly parts: Parts;

  constructor(parts: Parts) {
    this.parts = parts;
    parts.steps.walkOver.push((walk, step) => {
      if (isOperand(step)) this.operandTouched(walk, step);
    });
  }

  /** Takes down whether the unit's exit is a fault of the access under test that ends in the emulator. */
  beginUnit(): void {
    const { kvm, now, told } = this.parts;
    const { access } = told;
    if (access === undefined || !emulated(now.unit)) return;
    const address = now.fault?.address;
    // Of a second stage's fault only the offset in the page shows which linear address it was.
    const same = (a: bigint, b: bigint): boolean => (kvm.tdp ? (a & 0xfffn) === (b & 0xfffn) : a === b);
    if (now.unit.exit?.reason === 'EPT_MISCONFIG' || (address !== undefined && same(address, access.va))) {
      told.emulatedAccess = access.n;
    }
  }

  /** The emulator's store, once its walks are over: it comes before whatever it causes. */
  settleStore(position: number): void {
    const { actions, kvm, now, steps, tables, told } = this.parts;
    if (!now.emulating) return;
    const { storeWalk } = now;
    const stores = actions.emulated ?? (storeWalk === undefined ? undefined : told.storeOfAccess);
    if (stores === undefined) return;
    // Under paging the operand is walked before it is written.
    if (tables.paging && !kvm.tdp && storeWalk === undefined) return;
    actions.emulated = undefined;
    told.storeOfAccess = undefined;
    if (storeWalk?.failed === true || !emulated(now.unit)) return;
    now.storeWalk = undefined;
    const step = stores.emulate(position);
    if (step !== undefined) steps.begin(step);
    actions.dropFinishedStores();
  }

  /** The emulator reads or writes its operand through the host's own mapping. */
  private operandTouched(walk: Walk, step: Draft): void {
    const { now, receipt, residency, steps, tables, told } = this.parts;
    const gpa = tables.result(walk);
    if (gpa === undefined) return;
    const write = (step.operand & BigInt(PFEC_W)) !== 0n;
    // The walk of a store that was told has been forgotten by now.
    if (write && walk === now.storeWalk && told.tablePages.has(gpa >> 12n))
      receipt.note('store into a table whose value is not known');
    steps.add(residency.touched(gpa >> 12n, write, step.position));
  }

  matchMmio(event: Extract<TraceEvent, { name: 'vcpu_match_mmio' }>): void {
    const { gva, gpa, write, gpaMatch } = event;
    this.mmioAccess(event, { linear: gva, gpa, write, fromCache: !gpaMatch });
  }

  mmio(event: Extract<TraceEvent, { name: 'kvm_mmio' }>): void {
    const { gpa, type } = event;
    this.mmioAccess(event, { linear: undefined, gpa, write: type === 'write', fromCache: false });
  }

  private mmioAccess(event: TraceEvent, { linear, gpa, write, fromCache }: MmioAccess): void {
    const { now, steps, told } = this.parts;
    const { current } = steps;
    const belongs =
      isOperand(current) && !fromCache && (linear === undefined || (linear & ~0xfffn) === (current.address & ~0xfffn));
    if (!belongs && !(now.inUserSpace && isOperand(current))) {
      const address = linear ?? this.linearOf(gpa);
      const rights = (told.access?.user === true ? PFEC_U : 0) | (write ? PFEC_W : 0);
      const flags = SOFTWARE_OPERAND | (told.access?.ac === true ? SOFTWARE_AC : 0);
      const op = StepKind.SOFTWARE_WALK | flags | (Provenance.INFERRED << PROVENANCE_SHIFT);
      steps.begin(draft(op, address, BigInt(rights), event.position));
    }
    steps.row(event);
  }

  /** The linear address of an operand that the emulator found without a walk, known from what is being done. */
  private linearOf(gpa: bigint): bigint {
    const { kvm, now, receipt, tables, told } = this.parts;
    const { access } = told;
    if (access !== undefined && (access.va & 0xfffn) === (gpa & 0xfffn)) return access.va;
    if (now.fault !== undefined && !kvm.tdp) return now.fault.address;
    // The guests have their interrupt controller where it is.
    if (tables.linearResult(gpa) === gpa) return gpa;
    receipt.note('MMIO whose linear address is not known');
    return 0n;
  }
}
