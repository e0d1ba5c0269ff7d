/**
 * A trace event as observation rows: the raw recorded values in the columns that `formats/kvm-event.ts` gives them.
 * Nothing is renamed or judged here; frames and pointers are the recorded ones.
 */

import {
  FPF_FIXED,
  FPF_SPURIOUS,
  INJ_HAS_ERROR,
  INJ_REINJECTED,
  INJ_VECTOR_SHIFT,
  KVM_EVENT_SHIFT,
  KvmEvent,
  type KvmEventId,
  MATCH_GPA,
  MATCH_WRITE,
  MMIO_TYPE_SHIFT,
  SET_SPTE_NO_U,
  SET_SPTE_R,
  SET_SPTE_U,
  SET_SPTE_X,
  SP_CREATED,
  SP_GENERATION_MASK,
  SP_GENERATION_SHIFT,
  SP_UNSYNC,
  TDP_SMM,
  VMENTER_TDP,
} from '../../formats/kvm-event.ts';
import { OBS_LEVEL_MASK, OBS_LEVEL_SHIFT, Obs } from '../../formats/observation.ts';
import type { ShadowPageFields, TraceEventFields } from '../ftrace/event.ts';
import { exitReasonNumber, isVmxReason } from './exit-reasons.ts';

/** An observation row: word, address, value. */
export interface Row {
  readonly op: number;
  readonly address: bigint;
  readonly value: bigint;
}

const PAGE = 0x1000n;
/** A reason of which only a name is known that we do not know: no processor uses it. */
const UNKNOWN_REASON = 0xffff;
const MMIO_TYPES = { 'unsatisfied-read': 0, read: 1, write: 2 } as const;

function head(event: KvmEventId, flags: number, address: bigint, value: bigint, level = 0): Row {
  const op = Obs.KVM_EVENT | ((level & OBS_LEVEL_MASK) << OBS_LEVEL_SHIFT) | (event << KVM_EVENT_SHIFT) | flags;
  return { op: op >>> 0, address, value };
}

function more(address: bigint, value: bigint): Row {
  return { op: Obs.KVM_MORE, address, value };
}

/** Two 32-bit fields as the halves of one column. */
function halves(low: number, high: number): bigint {
  return BigInt.asUintN(32, BigInt(low)) | (BigInt.asUintN(32, BigInt(high)) << 32n);
}

function reasonOf(name: string): bigint {
  return BigInt(exitReasonNumber(name) ?? UNKNOWN_REASON);
}

function shadowPage(event: KvmEventId, page: ShadowPageFields, flags: number): Row[] {
  const bits = flags | (page.unsync ? SP_UNSYNC : 0) | ((page.gen & SP_GENERATION_MASK) << SP_GENERATION_SHIFT);
  return [head(event, bits, page.gfn, halves(page.role, page.rootCount))];
}

/** The rows of an event, or `undefined` if it is none that observations can tell. */
export function rowsOf(event: TraceEventFields): readonly Row[] | undefined {
  switch (event.name) {
    case 'kvm_mmu_pagetable_walk':
      return [head(KvmEvent.PAGETABLE_WALK, 0, event.addr, halves(event.pferr, 0))];
    case 'kvm_mmu_paging_element':
      return [head(KvmEvent.PAGING_ELEMENT, 0, 0n, event.pte, event.level)];
    case 'kvm_mmu_set_accessed_bit':
      return [head(KvmEvent.SET_ACCESSED_BIT, 0, event.gpa, 0n)];
    case 'kvm_mmu_set_dirty_bit':
      return [head(KvmEvent.SET_DIRTY_BIT, 0, event.gpa, 0n)];
    case 'kvm_mmu_walker_error':
      return [head(KvmEvent.WALKER_ERROR, 0, 0n, halves(event.pferr, 0))];
    case 'kvm_mmu_get_page':
      return shadowPage(KvmEvent.GET_PAGE, event, event.created ? SP_CREATED : 0);
    case 'kvm_mmu_sync_page':
      return shadowPage(KvmEvent.SYNC_PAGE, event, 0);
    case 'kvm_mmu_unsync_page':
      return shadowPage(KvmEvent.UNSYNC_PAGE, event, 0);
    case 'kvm_mmu_prepare_zap_page':
      return shadowPage(KvmEvent.PREPARE_ZAP_PAGE, event, 0);
    case 'mark_mmio_spte':
      return [head(KvmEvent.MARK_MMIO_SPTE, 0, event.gfn, event.sptep), more(BigInt(event.access), BigInt(event.gen))];
    case 'handle_mmio_page_fault':
      return [head(KvmEvent.HANDLE_MMIO_PAGE_FAULT, 0, event.addr, event.gfn), more(BigInt(event.access), 0n)];
    case 'fast_page_fault':
      return [
        head(
          KvmEvent.FAST_PAGE_FAULT,
          (event.spurious ? FPF_SPURIOUS : 0) | (event.fixed ? FPF_FIXED : 0),
          event.gva,
          event.oldSpte,
        ),
        more(event.sptep, event.newSpte),
        more(event.errorCode, 0n),
      ];
    case 'kvm_mmu_zap_all_fast':
      return [head(KvmEvent.ZAP_ALL_FAST, 0, 0n, halves(event.gen, event.usedPages))];
    case 'check_mmio_spte':
      return [head(KvmEvent.CHECK_MMIO_SPTE, 0, 0n, event.spte), more(BigInt(event.kvmGen), BigInt(event.spteGen))];
    case 'kvm_mmu_set_spte': {
      const user = event.u === undefined ? SET_SPTE_NO_U : event.u ? SET_SPTE_U : 0;
      const flags = (event.r ? SET_SPTE_R : 0) | (event.x ? SET_SPTE_X : 0) | user;
      return [head(KvmEvent.SET_SPTE, flags, event.gfn, event.spte, event.level), more(event.sptep, 0n)];
    }
    case 'kvm_mmu_spte_requested':
      return [head(KvmEvent.SPTE_REQUESTED, 0, event.gfn, event.pfn, event.level)];
    case 'kvm_tdp_mmu_spte_changed':
      return [
        head(KvmEvent.TDP_SPTE_CHANGED, event.asId === 1 ? TDP_SMM : 0, event.gfn, event.oldSpte, event.level),
        more(0n, event.newSpte),
      ];
    case 'kvm_mmu_split_huge_page':
      return [
        head(KvmEvent.SPLIT_HUGE_PAGE, 0, event.gfn, event.spte, event.level),
        more(0n, BigInt.asUintN(64, BigInt(event.errno))),
      ];
    case 'kvm_page_fault':
      return [head(KvmEvent.PAGE_FAULT, 0, event.address, event.errorCode)];
    case 'kvm_inj_exception':
      return [
        head(
          KvmEvent.INJ_EXCEPTION,
          ((event.vector & 0xff) << INJ_VECTOR_SHIFT) |
            (event.errorCode === undefined ? 0 : INJ_HAS_ERROR) |
            (event.reinjected ? INJ_REINJECTED : 0),
          0n,
          halves(event.errorCode ?? 0, 0),
        ),
      ];
    case 'kvm_mmio':
      return [head(KvmEvent.MMIO, MMIO_TYPES[event.type] << MMIO_TYPE_SHIFT, event.gpa, 0n)];
    case 'vcpu_match_mmio':
      return [
        head(
          KvmEvent.MATCH_MMIO,
          (event.write ? MATCH_WRITE : 0) | (event.gpaMatch ? MATCH_GPA : 0),
          event.gva,
          event.gpa,
        ),
      ];
    case 'kvm_unmap_hva_range':
      return [head(KvmEvent.UNMAP_HVA_RANGE, 0, event.start, event.end)];
    case 'kvm_age_hva':
      return [head(KvmEvent.AGE_HVA, 0, event.start, event.end)];
    case 'kvm_set_spte_hva':
      return [head(KvmEvent.SET_SPTE_HVA, 0, event.hva, event.hva + PAGE)];
    case 'kvm_test_age_hva':
      return [head(KvmEvent.TEST_AGE_HVA, 0, event.hva, event.hva + PAGE)];
    case 'kvm_nested_vmenter':
      return [head(KvmEvent.NESTED_VMENTER, event.tdp ? VMENTER_TDP : 0, 0n, event.guestPgd)];
    case 'kvm_nested_intercepts':
      return [head(KvmEvent.NESTED_INTERCEPTS, 0, 0n, BigInt(event.exceptions))];
    case 'kvm_nested_vmexit':
      return [head(KvmEvent.NESTED_VMEXIT, 0, event.info2, event.info1), more(reasonOf(event.reason), 0n)];
    case 'kvm_nested_vmexit_inject': {
      // VMX prints IDT-vectoring information there, whatever is being reflected.
      const info2 = isVmxReason(event.reason) ? 0n : event.info2;
      const interruption = halves(event.intInfo, event.intInfoError);
      return [head(KvmEvent.NESTED_VMEXIT_INJECT, 0, info2, event.info1), more(reasonOf(event.reason), interruption)];
    }
    case 'kvm_invlpga':
      return [head(KvmEvent.INVLPGA, 0, event.address, BigInt(event.asid))];
    default:
      return undefined;
  }
}
