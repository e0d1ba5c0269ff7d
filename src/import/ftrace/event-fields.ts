/** An event's fields under the kernel's names and numbers into the typed event (formats: facts/kvm-mmu.md §9). */

import { Problem } from '../../bits/problem.ts';
import type { ExitFields, ShadowPageFields, TraceEventFields } from './event.ts';
import { MMIO_TYPES } from './names.ts';

/** Where the fields of one event come from. All throw E_IMPORT for a field that is not there. */
export interface EventFields {
  has(name: string): boolean;
  /** Up to 32 bits, signed if the field is. */
  number(name: string): number;
  /** Up to 64 bits, unsigned. */
  big(name: string): bigint;
  /** The first `count` bytes of an array. */
  bytes(name: string, count: number): Uint8Array;
  /** The name of `value` in that table of the event's which has the name `among` in it; hexadecimal if it has none. */
  symbol(among: string, value: bigint): string;
  /** The names of all flags in `value`, from that table; what has no name follows in hexadecimal. */
  flags(among: string, value: bigint, between: string): string;
  /** The numbers that the print format compares the field with, in order. */
  comparisons(name: string): readonly number[];
}

const ISA_VMX = 1;
const VMX_BASIC_REASON = 0xffffn;
const ALL_BITS = 0xffffffff;

function exitFields(f: EventFields): ExitFields {
  return {
    vcpu: f.number('vcpu_id'),
    reason: exitReason(f, 'exit_reason'),
    rip: f.big('guest_rip'),
    info1: f.big('info1'),
    info2: f.big('info2'),
    intrInfo: f.number('intr_info'),
    errorCode: f.number('error_code'),
  };
}

/** `EPT_VIOLATION`, `npf`; on VMX the flags of the upper half follow the name. */
function exitReason(f: EventFields, field: 'exit_reason' | 'exit_code'): string {
  const reason = f.big(field);
  if (f.number('isa') !== ISA_VMX) return f.symbol('npf', reason);
  const name = f.symbol('EPT_VIOLATION', reason & VMX_BASIC_REASON);
  const flags = reason & ~VMX_BASIC_REASON;
  return flags === 0n ? name : `${name} ${f.flags('FAILED_VMENTRY', flags, ' ')}`;
}

function shadowPage(f: EventFields): ShadowPageFields {
  return {
    gen: f.number('mmu_valid_gen'),
    gfn: f.big('gfn'),
    role: f.number('role') >>> 0,
    roleMask: ALL_BITS,
    rootCount: f.number('root_count'),
    unsync: f.number('unsync') !== 0,
  };
}

/** How the fault ended is a number whose meaning changed between kernels; the print format knows it. */
function fastPageFault(f: EventFields): TraceEventFields {
  const [spurious, fixed] = f.comparisons('ret');
  if (spurious === undefined || fixed === undefined) {
    throw new Problem('E_IMPORT', 'the format of fast_page_fault does not tell which results are spurious and fixed');
  }
  const result = f.number('ret');
  return {
    name: 'fast_page_fault',
    vcpu: f.number('vcpu_id'),
    gva: f.big('cr2_or_gpa'),
    errorCode: f.big('error_code'),
    sptep: f.big('sptep'),
    oldSpte: f.big('old_spte'),
    newSpte: f.big('new_spte'),
    spurious: result === spurious,
    fixed: result === fixed,
  };
}

function setSpte(f: EventFields): TraceEventFields {
  const u = f.number('u');
  return {
    name: 'kvm_mmu_set_spte',
    gfn: f.big('gfn'),
    spte: f.big('spte'),
    sptep: f.big('sptep'),
    level: f.number('level'),
    r: f.number('r') !== 0,
    x: f.number('x') !== 0,
    u: u === -1 ? undefined : u !== 0,
  };
}

function emulatedInstruction(f: EventFields): TraceEventFields {
  const bytes = [...f.bytes('insn', f.number('len'))].map((byte) => byte.toString(16).padStart(2, '0'));
  return {
    name: 'kvm_emulate_insn',
    rip: f.big('rip'),
    csbase: f.big('csbase'),
    bytes: bytes.join(' '),
    mode: f.symbol('prot64', f.big('flags')),
    failed: f.number('failed') !== 0,
  };
}

function mmio(f: EventFields): TraceEventFields {
  const type = MMIO_TYPES[f.number('type')];
  if (type === undefined) throw new Problem('E_IMPORT', `kvm_mmio has type ${f.number('type')}`);
  return { name: 'kvm_mmio', type, length: f.number('len'), gpa: f.big('gpa') };
}

/** A negative errno is printed instead of the reason. */
function userspaceExit(f: EventFields): TraceEventFields {
  const errno = f.number('errno');
  const interrupted = -4;
  if (errno < 0) {
    return { name: 'kvm_userspace_exit', reason: errno === interrupted ? 'restart' : 'error', number: -errno };
  }
  const reason = f.symbol('KVM_EXIT_IO', f.big('reason'));
  return { name: 'kvm_userspace_exit', reason, number: f.number('reason') };
}

function injectedException(f: EventFields): TraceEventFields {
  return {
    name: 'kvm_inj_exception',
    vector: f.number('exception'),
    errorCode: f.number('has_error') !== 0 ? f.number('error_code') : undefined,
    reinjected: f.has('reinjected') && f.number('reinjected') !== 0,
  };
}

/** Events without fields of interest become `other`. Throws E_IMPORT if the kernel's event lacks a field. */
export function eventFromFields(name: string, f: EventFields): TraceEventFields {
  switch (name) {
    case 'kvm_entry':
      return { name, vcpu: f.number('vcpu_id'), rip: f.big('rip') };
    case 'kvm_exit':
    case 'kvm_nested_vmexit':
      return { name, ...exitFields(f) };
    case 'kvm_page_fault':
      return {
        name,
        vcpu: f.number('vcpu_id'),
        rip: f.big('guest_rip'),
        address: f.big('fault_address'),
        errorCode: f.big('error_code'),
      };
    case 'kvm_mmu_pagetable_walk':
      return { name, addr: f.big('addr'), pferr: f.number('pferr') };
    case 'kvm_mmu_paging_element':
      return { name, pte: f.big('pte'), level: f.number('level') };
    case 'kvm_mmu_set_accessed_bit':
    case 'kvm_mmu_set_dirty_bit':
      return { name, gpa: f.big('gpa') };
    case 'kvm_mmu_walker_error':
      return { name, pferr: f.number('pferr') };
    case 'kvm_mmu_get_page':
      return { name, ...shadowPage(f), created: f.number('created') !== 0 };
    case 'kvm_mmu_sync_page':
    case 'kvm_mmu_unsync_page':
    case 'kvm_mmu_prepare_zap_page':
      return { name, ...shadowPage(f) };
    case 'mark_mmio_spte':
      return { name, sptep: f.big('sptep'), gfn: f.big('gfn'), access: f.number('access'), gen: f.number('gen') };
    case 'handle_mmio_page_fault':
      return { name, addr: f.big('addr'), gfn: f.big('gfn'), access: f.number('access') };
    case 'fast_page_fault':
      return fastPageFault(f);
    case 'kvm_mmu_zap_all_fast':
      return { name, gen: f.number('mmu_valid_gen'), usedPages: f.number('mmu_used_pages') };
    case 'check_mmio_spte':
      return { name, spte: f.big('spte'), kvmGen: f.number('kvm_gen'), spteGen: f.number('spte_gen') };
    case 'kvm_mmu_set_spte':
      return setSpte(f);
    case 'kvm_mmu_spte_requested':
      return { name, gfn: f.big('gfn'), pfn: f.big('pfn'), level: f.number('level') };
    case 'kvm_tdp_mmu_spte_changed':
      return {
        name,
        asId: f.number('as_id'),
        gfn: f.big('gfn'),
        level: f.number('level'),
        oldSpte: f.big('old_spte'),
        newSpte: f.big('new_spte'),
      };
    case 'kvm_mmu_split_huge_page':
      return { name, gfn: f.big('gfn'), spte: f.big('spte'), level: f.number('level'), errno: f.number('errno') };
    case 'kvm_cr':
      return { name, write: f.number('rw') !== 0, cr: f.number('cr'), value: f.big('val') };
    case 'kvm_msr':
      return { name, write: f.number('write') !== 0, msr: f.number('ecx'), value: f.big('data') };
    case 'kvm_inj_exception':
      return injectedException(f);
    case 'kvm_mmio':
      return mmio(f);
    case 'vcpu_match_mmio':
      return {
        name,
        gva: f.big('gva'),
        gpa: f.big('gpa'),
        write: f.number('write') !== 0,
        gpaMatch: f.number('gpa_match') !== 0,
      };
    case 'kvm_emulate_insn':
      return emulatedInstruction(f);
    case 'kvm_unmap_hva_range':
    case 'kvm_age_hva':
      return { name, start: f.big('start'), end: f.big('end') };
    case 'kvm_set_spte_hva':
    case 'kvm_test_age_hva':
      return { name, hva: f.big('hva') };
    case 'kvm_userspace_exit':
      return userspaceExit(f);
    case 'kvm_invlpga':
      return { name, rip: f.big('rip'), asid: f.number('asid'), address: f.big('address') };
    case 'kvm_nested_vmenter':
      return { name, rip: f.big('rip'), tdp: f.number('tdp_enabled') !== 0, guestPgd: f.big('guest_pgd') };
    case 'kvm_nested_intercepts':
      return { name, exceptions: f.number('exceptions') >>> 0 };
    case 'kvm_nested_vmexit_inject':
      return {
        name,
        reason: exitReason(f, 'exit_code'),
        info1: f.big('exit_info1'),
        info2: f.big('exit_info2'),
        intInfo: f.number('exit_int_info') >>> 0,
        intInfoError: f.number('exit_int_info_err') >>> 0,
      };
    case 'kvm_nested_vmenter_failed':
      return { name };
    default:
      return { name: 'other', event: name, text: '' };
  }
}
