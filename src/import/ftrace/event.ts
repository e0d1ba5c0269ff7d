/**
 * A record of the kernel's trace buffer, whichever text or binary form it came in: the events of systems `kvm` and
 * `kvmmmu` with their fields under the kernel's names (facts/kvm-mmu.md §9), marks of user space, and the rest.
 */

/** Where and when. */
export interface TraceRecord {
  /** Line of a text trace, from 1; ordinal of the record in a binary one, from 1. */
  readonly position: number;
  /** Nanoseconds since the trace clock's zero. */
  readonly time: number;
  readonly task: string;
  readonly pid: number;
  readonly cpu: number;
}

/** A shadow page as four events print it. */
export interface ShadowPageFields {
  readonly gen: number;
  readonly gfn: bigint;
  /** Raw role word, unsigned; from text, which prints some of it, rebuilt in the layout of the kernel's generation. */
  readonly role: number;
  /** The bits of `role` that are known: all of a raw word, of text those that it prints. Unsigned. */
  readonly roleMask: number;
  readonly rootCount: number;
  readonly unsync: boolean;
}

export interface ExitFields {
  readonly vcpu: number;
  /** The kernel's name of the reason, e.g. `npf`, `EPT_VIOLATION`, `PF excp`. */
  readonly reason: string;
  readonly rip: bigint;
  readonly info1: bigint;
  readonly info2: bigint;
  readonly intrInfo: number;
  readonly errorCode: number;
}

export type TraceEventFields =
  | { readonly name: 'kvm_entry'; readonly vcpu: number; readonly rip: bigint }
  | ({ readonly name: 'kvm_exit' } & ExitFields)
  | ({ readonly name: 'kvm_nested_vmexit' } & ExitFields)
  | {
      readonly name: 'kvm_page_fault';
      readonly vcpu: number;
      readonly rip: bigint;
      readonly address: bigint;
      readonly errorCode: bigint;
    }
  | { readonly name: 'kvm_mmu_pagetable_walk'; readonly addr: bigint; readonly pferr: number }
  | { readonly name: 'kvm_mmu_paging_element'; readonly pte: bigint; readonly level: number }
  | { readonly name: 'kvm_mmu_set_accessed_bit'; readonly gpa: bigint }
  | { readonly name: 'kvm_mmu_set_dirty_bit'; readonly gpa: bigint }
  | { readonly name: 'kvm_mmu_walker_error'; readonly pferr: number }
  | ({ readonly name: 'kvm_mmu_get_page'; readonly created: boolean } & ShadowPageFields)
  | ({ readonly name: 'kvm_mmu_sync_page' | 'kvm_mmu_unsync_page' | 'kvm_mmu_prepare_zap_page' } & ShadowPageFields)
  | {
      readonly name: 'mark_mmio_spte';
      readonly sptep: bigint;
      readonly gfn: bigint;
      readonly access: number;
      readonly gen: number;
    }
  | { readonly name: 'handle_mmio_page_fault'; readonly addr: bigint; readonly gfn: bigint; readonly access: number }
  | {
      readonly name: 'fast_page_fault';
      readonly vcpu: number;
      readonly gva: bigint;
      readonly errorCode: bigint;
      readonly sptep: bigint;
      readonly oldSpte: bigint;
      readonly newSpte: bigint;
      readonly spurious: boolean;
      readonly fixed: boolean;
    }
  | { readonly name: 'kvm_mmu_zap_all_fast'; readonly gen: number; readonly usedPages: number }
  | { readonly name: 'check_mmio_spte'; readonly spte: bigint; readonly kvmGen: number; readonly spteGen: number }
  | {
      readonly name: 'kvm_mmu_set_spte';
      readonly gfn: bigint;
      readonly spte: bigint;
      readonly sptep: bigint;
      readonly level: number;
      readonly r: boolean;
      readonly x: boolean;
      /** undefined: the format has no user bit and the kernel prints nothing. */
      readonly u: boolean | undefined;
    }
  | { readonly name: 'kvm_mmu_spte_requested'; readonly gfn: bigint; readonly pfn: bigint; readonly level: number }
  | {
      readonly name: 'kvm_tdp_mmu_spte_changed';
      readonly asId: number;
      readonly gfn: bigint;
      readonly level: number;
      readonly oldSpte: bigint;
      readonly newSpte: bigint;
    }
  | {
      readonly name: 'kvm_mmu_split_huge_page';
      readonly gfn: bigint;
      readonly spte: bigint;
      readonly level: number;
      readonly errno: number;
    }
  | { readonly name: 'kvm_cr'; readonly write: boolean; readonly cr: number; readonly value: bigint }
  | { readonly name: 'kvm_msr'; readonly write: boolean; readonly msr: number; readonly value: bigint }
  | {
      readonly name: 'kvm_inj_exception';
      readonly vector: number;
      /** undefined: none was printed. */
      readonly errorCode: number | undefined;
      readonly reinjected: boolean;
    }
  | {
      readonly name: 'kvm_mmio';
      readonly type: 'unsatisfied-read' | 'read' | 'write';
      readonly length: number;
      readonly gpa: bigint;
    }
  | {
      readonly name: 'vcpu_match_mmio';
      readonly gva: bigint;
      readonly gpa: bigint;
      readonly write: boolean;
      readonly gpaMatch: boolean;
    }
  | {
      readonly name: 'kvm_emulate_insn';
      readonly rip: bigint;
      readonly csbase: bigint;
      readonly bytes: string;
      readonly mode: string;
      readonly failed: boolean;
    }
  | { readonly name: 'kvm_unmap_hva_range' | 'kvm_age_hva'; readonly start: bigint; readonly end: bigint }
  | { readonly name: 'kvm_set_spte_hva' | 'kvm_test_age_hva'; readonly hva: bigint }
  | { readonly name: 'kvm_userspace_exit'; readonly reason: string; readonly number: number }
  | { readonly name: 'kvm_invlpga'; readonly rip: bigint; readonly asid: number; readonly address: bigint }
  /** `guestPgd`: nested CR3 or EPTP with nested paging (`tdp`), else CR3 of the guest's guest. */
  | { readonly name: 'kvm_nested_vmenter'; readonly rip: bigint; readonly tdp: boolean; readonly guestPgd: bigint }
  | { readonly name: 'kvm_nested_intercepts'; readonly exceptions: number }
  | {
      readonly name: 'kvm_nested_vmexit_inject';
      /** As of `ExitFields`. */
      readonly reason: string;
      readonly info1: bigint;
      readonly info2: bigint;
      readonly intInfo: number;
      readonly intInfoError: number;
    }
  | { readonly name: 'kvm_nested_vmenter_failed' }
  /** What user space wrote to `trace_marker`, without newlines at its end. */
  | { readonly name: 'mark'; readonly text: string }
  /** Here the buffer of the CPU overflowed; how many events are gone, if that is known. */
  | { readonly name: 'lost'; readonly count: number | undefined }
  /** Any other event, by the kernel's name. `text` as printed, empty from binary traces. */
  | { readonly name: 'other'; readonly event: string; readonly text: string };

export type TraceEvent = TraceRecord & TraceEventFields;
