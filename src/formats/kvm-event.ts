/**
 * KVM's tracepoints as observation rows. An event is one row of kind `Obs.KVM_EVENT`, followed, where two 64-bit fields
 * do not hold it, by rows of kind `Obs.KVM_MORE`. Names and fields are the kernel's (facts/kvm-mmu.md §9).
 *
 * | bits  | meaning of a KVM_EVENT row                                    |
 * | ----- | ------------------------------------------------------------- |
 * | 4:0   | `Obs.KVM_EVENT`                                               |
 * | 9:7   | level, where the event has one                                |
 * | 15:11 | event, one of `KvmEvent`                                      |
 * | 30:16 | flags by event, see the constants below                       |
 *
 * A KVM_MORE row has nothing but its kind in its word; `address` and `value` are by event.
 */

import { namesByNumber } from './names.ts';
import { observationLevel } from './observation.ts';

/** What `address`, `value` and further rows (A1, V1: address and value of the first KVM_MORE, ...) hold. */
export const KvmEvent = {
  NONE: 0,
  /** address = addr, value = pferr. */
  PAGETABLE_WALK: 1,
  /** level; value = pte. */
  PAGING_ELEMENT: 2,
  /** address = gpa. */
  SET_ACCESSED_BIT: 3,
  /** address = gpa. */
  SET_DIRTY_BIT: 4,
  /** value = pferr. */
  WALKER_ERROR: 5,
  /** The four events of shadow pages: address = gfn, value low half = role word, high half = root_count; SP_* flags. */
  GET_PAGE: 6,
  SYNC_PAGE: 7,
  UNSYNC_PAGE: 8,
  PREPARE_ZAP_PAGE: 9,
  /** address = gfn, value = sptep; A1 = access, V1 = generation. */
  MARK_MMIO_SPTE: 10,
  /** address = addr, value = gfn; A1 = access. */
  HANDLE_MMIO_PAGE_FAULT: 11,
  /** address = cr2_or_gpa, value = old_spte; A1 = sptep, V1 = new_spte; A2 = error_code; FPF_* flags. */
  FAST_PAGE_FAULT: 12,
  /** value low half = mmu_valid_gen, high half = mmu_used_pages. */
  ZAP_ALL_FAST: 13,
  /** value = spte; A1 = kvm_gen, V1 = spte_gen. */
  CHECK_MMIO_SPTE: 14,
  /** level; address = gfn, value = spte; A1 = sptep; SET_SPTE_* flags. */
  SET_SPTE: 15,
  /** level; address = gfn, value = pfn (frame number, as printed). */
  SPTE_REQUESTED: 16,
  /** level; address = gfn, value = old_spte; V1 = new_spte; flag: address space 1 (SMM). */
  TDP_SPTE_CHANGED: 17,
  /** level; address = gfn, value = spte; V1 = errno. */
  SPLIT_HUGE_PAGE: 18,
  /** `kvm_page_fault`: address = fault address, value = error code or EPT qualification. */
  PAGE_FAULT: 19,
  /** `kvm_inj_exception`: value = error code; INJ_* flags. */
  INJ_EXCEPTION: 20,
  /** `kvm_mmio`: address = gpa; MMIO_TYPE flags. */
  MMIO: 21,
  /** address = gva, value = gpa; MATCH_* flags. */
  MATCH_MMIO: 22,
  /** The notifier's events are the host's doing: address = start, value = end (exclusive), as host-virtual addresses. */
  UNMAP_HVA_RANGE: 23,
  SET_SPTE_HVA: 24,
  AGE_HVA: 25,
  TEST_AGE_HVA: 26,
  /** `kvm_nested_vmenter`: value = guest_pgd (nested CR3 or EPTP, CR3 without nested paging); VMENTER_* flags. */
  NESTED_VMENTER: 27,
  /** `kvm_nested_vmexit`, L2 exits to L0: address = info2, value = info1; A1 = exit reason. */
  NESTED_VMEXIT: 28,
  /**
   * `kvm_nested_vmexit_inject`, L1 gets an exit: address = exit_info2, value = exit_info1; A1 = exit code, V1 low half =
   * exit_int_info, high half = exit_int_info_err. Of VMX exit_info2 (IDT vectoring) is not the MMU's: 0.
   */
  NESTED_VMEXIT_INJECT: 29,
  /** `kvm_nested_intercepts` (SVM): value = exceptions. */
  NESTED_INTERCEPTS: 30,
  /** `kvm_invlpga`: address, value = ASID. */
  INVLPGA: 31,
} as const;

export type KvmEventId = (typeof KvmEvent)[keyof typeof KvmEvent];

export const KVM_EVENT_COUNT = 32;

/** Names by number: `set-spte`, as reports and receipts spell them. */
export const KVM_EVENT_NAMES = namesByNumber(KvmEvent);

/** The kernel's names of the same. */
export const KVM_TRACEPOINTS: readonly string[] = [
  '',
  'kvm_mmu_pagetable_walk',
  'kvm_mmu_paging_element',
  'kvm_mmu_set_accessed_bit',
  'kvm_mmu_set_dirty_bit',
  'kvm_mmu_walker_error',
  'kvm_mmu_get_page',
  'kvm_mmu_sync_page',
  'kvm_mmu_unsync_page',
  'kvm_mmu_prepare_zap_page',
  'mark_mmio_spte',
  'handle_mmio_page_fault',
  'fast_page_fault',
  'kvm_mmu_zap_all_fast',
  'check_mmio_spte',
  'kvm_mmu_set_spte',
  'kvm_mmu_spte_requested',
  'kvm_tdp_mmu_spte_changed',
  'kvm_mmu_split_huge_page',
  'kvm_page_fault',
  'kvm_inj_exception',
  'kvm_mmio',
  'vcpu_match_mmio',
  'kvm_unmap_hva_range',
  'kvm_set_spte_hva',
  'kvm_age_hva',
  'kvm_test_age_hva',
  'kvm_nested_vmenter',
  'kvm_nested_vmexit',
  'kvm_nested_vmexit_inject',
  'kvm_nested_intercepts',
  'kvm_invlpga',
];

/** KVM_MORE rows that follow, by event. */
export const KVM_MORE_ROWS: readonly number[] = [
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0,
];

export const KVM_EVENT_SHIFT = 11;
export const KVM_EVENT_MASK = 0x1f;

// GET_PAGE, SYNC_PAGE, UNSYNC_PAGE, PREPARE_ZAP_PAGE
/** The page was created; clear: found (GET_PAGE). */
export const SP_CREATED = 1 << 16;
export const SP_UNSYNC = 1 << 17;
/** mmu_valid_gen, 8 bits. */
export const SP_GENERATION_SHIFT = 18;
export const SP_GENERATION_MASK = 0xff;

// FAST_PAGE_FAULT: how it ended, as the kernel's text tells it.
export const FPF_SPURIOUS = 1 << 16;
export const FPF_FIXED = 1 << 17;

// SET_SPTE: the letters of the kernel's text.
export const SET_SPTE_R = 1 << 16;
export const SET_SPTE_X = 1 << 17;
export const SET_SPTE_U = 1 << 18;
/** The format has no user bit, so no letter is printed (EPT, 6.1). */
export const SET_SPTE_NO_U = 1 << 19;

// TDP_SPTE_CHANGED
export const TDP_SMM = 1 << 16;

// INJ_EXCEPTION
export const INJ_VECTOR_SHIFT = 16;
export const INJ_VECTOR_MASK = 0xff;
export const INJ_HAS_ERROR = 1 << 24;
export const INJ_REINJECTED = 1 << 25;

// MMIO: 0 unsatisfied-read, 1 read, 2 write
export const MMIO_TYPE_SHIFT = 16;
export const MMIO_TYPE_MASK = 3;

// MATCH_MMIO
export const MATCH_WRITE = 1 << 16;
/** The guest-physical address matched, not the linear one. */
export const MATCH_GPA = 1 << 17;

// NESTED_VMENTER
/** nested_npt or nested_ept. */
export const VMENTER_TDP = 1 << 16;

/** The event of a KVM_EVENT row. */
export function kvmEventOf(op: number): number {
  return (op >>> KVM_EVENT_SHIFT) & KVM_EVENT_MASK;
}

/** Whether the event tells what the host's memory management did: an input, never a prediction. */
export function isHostEvent(event: number): boolean {
  return event >= KvmEvent.UNMAP_HVA_RANGE && event <= KvmEvent.TEST_AGE_HVA;
}

/** Level of the SPTE that a KVM_EVENT row shows; faults fixed fast and MMIO SPTEs are leaves without a level told: 1. */
export function kvmSpteLevel(op: number): number {
  const event = kvmEventOf(op);
  if (event === KvmEvent.FAST_PAGE_FAULT || event === KvmEvent.CHECK_MMIO_SPTE) return 1;
  return observationLevel(op);
}
