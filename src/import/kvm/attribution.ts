/**
 * Which step an event belongs to. Within one exit events follow their cause, up to the next stimulus; but before the
 * next entry the hypervisor serves requests that earlier steps raised (roots obtained, tables synced). That is the
 * VM_ENTRY step's work, and nothing in the trace says where it begins. So each kind of step has a list of what it can
 * cause; the first event that its step cannot have caused begins the entry's (facts/kvm-6.1.md §8 and §9).
 */

import { StepKind } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';

type EventName = TraceEvent['name'];

/** A walk by software: the walk, what injecting its failure re-creates, what giving up protection zaps, and MMIO. */
const WALK: ReadonlySet<EventName> = new Set<EventName>([
  'kvm_mmu_pagetable_walk',
  'kvm_mmu_paging_element',
  'kvm_mmu_set_accessed_bit',
  'kvm_mmu_set_dirty_bit',
  'kvm_mmu_walker_error',
  'kvm_mmu_set_spte',
  'mark_mmio_spte',
  'kvm_mmu_prepare_zap_page',
  'kvm_mmio',
  'vcpu_match_mmio',
  'kvm_unmap_hva_range',
  'kvm_set_spte_hva',
  'kvm_tdp_mmu_spte_changed',
]);

/**
 * A root that was zapped while in use goes for good when its user lets go of it: by the request that the entry serves,
 * or at once where a register write drops all roots.
 */
export function lettingGo(kind: number): boolean {
  switch (kind) {
    case StepKind.REGISTER_WRITE:
    case StepKind.RARE:
    case StepKind.NESTED_ENTRY:
    case StepKind.NESTED_EXIT:
      return false;
    default:
      return true;
  }
}

/** A store into a shadowed table: pages zapped; a page that was unsync is synced as it goes. */
const STORE: ReadonlySet<EventName> = new Set<EventName>(['kvm_mmu_prepare_zap_page', 'kvm_mmu_sync_page']);

/** INVLPG re-creates an entry of a page that is unsync. */
const INVALIDATE: ReadonlySet<EventName> = new Set<EventName>(['kvm_mmu_set_spte', 'mark_mmio_spte', 'kvm_invlpga']);

/** A register write only drops roots, of which those that were invalid tell. */
const REGISTER_WRITE: ReadonlySet<EventName> = new Set<EventName>(['kvm_mmu_prepare_zap_page']);

/** Nested entry and exit: other roots are taken, of which one that was invalid and has to make room tells. */
const NESTED_ENTRY: ReadonlySet<EventName> = new Set<EventName>([
  'kvm_nested_vmenter',
  'kvm_nested_intercepts',
  'kvm_mmu_prepare_zap_page',
]);

const NOTHING: ReadonlySet<EventName> = new Set<EventName>();

/** Whether a step of this kind may have caused the event. */
export function mayCause(kind: number, event: EventName): boolean {
  // Whatever comes just before an entry was injected for the last walk or fault.
  if (event === 'kvm_inj_exception') return kind === StepKind.FAULT_EXIT || kind === StepKind.SOFTWARE_WALK;
  return causes(kind)?.has(event) ?? true;
}

/** `undefined`: anything. */
function causes(kind: number): ReadonlySet<EventName> | undefined {
  switch (kind) {
    case StepKind.FAULT_EXIT:
    case StepKind.RARE:
      return undefined;
    case StepKind.SOFTWARE_WALK:
      return WALK;
    case StepKind.STORE:
      return STORE;
    case StepKind.INVALIDATE:
      return INVALIDATE;
    case StepKind.REGISTER_WRITE:
      return REGISTER_WRITE;
    case StepKind.NESTED_ENTRY:
    case StepKind.NESTED_EXIT:
      return NESTED_ENTRY;
    default:
      return NOTHING;
  }
}
