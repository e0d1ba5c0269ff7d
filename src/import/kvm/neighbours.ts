/** What the events behind one tell of it: the kernel prints a walk's outcome, and a fault's purpose, only afterwards. */

import type { TraceEvent } from '../ftrace/event.ts';
import type { EventReceipt } from './event-receipt.ts';
import { isPageFaultExit, isSecondStageExit } from './exit-reasons.ts';
import type { Unit } from './exit-units.ts';
import { untilNextWalk, type WalkShape } from './walk-shape.ts';

const PFEC_W = 2;
/** The same of an error code and of EXITINFO1; an exit qualification says write by the same bit. */
const WRITE = 2n;
const PAGE_FAULT_VECTOR = 14;

/** Rows of the walk itself, which come before what the access does. */
export function isWalkerEvent(event: TraceEvent): boolean {
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

/** A #PF that is injected for a walk or a fault, not one taken up again. */
export function isNewPageFault(event: TraceEvent): event is Extract<TraceEvent, { name: 'kvm_inj_exception' }> {
  return event.name === 'kvm_inj_exception' && event.vector === PAGE_FAULT_VECTOR && !event.reinjected;
}

/** Walks of `address` before the emulator takes over. */
export function walksTo(following: Iterable<TraceEvent>, address: bigint): number {
  let count = 0;
  for (const event of following) {
    if (event.name === 'kvm_emulate_insn') break;
    if (event.name === 'kvm_mmu_pagetable_walk' && event.addr === address) count++;
  }
  return count;
}

export interface Outcome {
  readonly failed: boolean;
  /** The guest learns of it. */
  readonly injected: boolean;
  /** It fails as a write: an operand that is read first and then written. */
  readonly writes: boolean;
}

/** What becomes of a walk; `shape`: the second stage's walks that are its own. */
export function outcomeOf(following: Iterable<TraceEvent>, shape: WalkShape | undefined): Outcome {
  let failed = false;
  for (const event of untilNextWalk(following, shape)) {
    if (event.name === 'kvm_mmu_walker_error') failed = true;
    if (isNewPageFault(event)) return { failed, injected: true, writes: ((event.errorCode ?? 0) & PFEC_W) !== 0 };
    if (failed && isReflected(event)) return { failed, injected: true, writes: (event.info1 & WRITE) !== 0n };
  }
  return { failed, injected: false, writes: false };
}

/** A failure of the guest's guest that its hypervisor gets as an exit. */
export function isReflected(event: TraceEvent): event is Extract<TraceEvent, { name: 'kvm_nested_vmexit_inject' }> {
  return event.name === 'kvm_nested_vmexit_inject' && (isSecondStageExit(event.reason) || isPageFaultExit(event));
}

/** The walk under way goes on to set bits: it is the write of these that the host had to copy a page for. */
export function setsBitsLater(following: Iterable<TraceEvent>, shape: WalkShape | undefined): boolean {
  for (const event of following) {
    if (event.name === 'kvm_mmu_pagetable_walk' && shape !== undefined) continue;
    if (event.name === 'kvm_mmu_set_accessed_bit' || event.name === 'kvm_mmu_set_dirty_bit') return true;
    if (!isWalkerEvent(event) && event.name !== 'kvm_set_spte_hva' && event.name !== 'kvm_tdp_mmu_spte_changed')
      return false;
  }
  return false;
}

/** No event prints where an EPT misconfiguration was; what KVM then emulates tells. */
export function misconfiguredAddress(unit: Unit, receipt: EventReceipt, twoStages: boolean): bigint {
  if (twoStages) {
    // What is emulated tells where L1 has it; the handler of MMIO what the processor gave.
    for (const event of unit.events) if (event.name === 'handle_mmio_page_fault') return event.addr;
  }
  for (const event of unit.events) {
    if (event.name === 'kvm_mmio' || event.name === 'vcpu_match_mmio') return event.gpa;
  }
  for (const event of unit.events) if (event.name === 'handle_mmio_page_fault') return event.gfn << 12n;
  receipt.note('EPT misconfiguration whose address is not known');
  return 0n;
}
