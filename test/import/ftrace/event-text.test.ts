import { describe, expect, it } from 'vitest';
import { Problem } from '../../../src/bits/problem.ts';
import { parseEventText } from '../../../src/import/ftrace/event-text.ts';

/** Lines of recordings by a kernel 6.1. */
const RECORDED: readonly (readonly [name: string, text: string, fields: object])[] = [
  ['kvm_entry', 'vcpu 0, rip 0x100000', { vcpu: 0, rip: 0x100000n }],
  [
    'kvm_exit',
    'vcpu 3 reason PF excp rip 0x100029 info1 0x0000000000000002 info2 0x0000000000110ffc intr_info 0x80000b0e error_code 0x00000004',
    { vcpu: 3, reason: 'PF excp', rip: 0x100029n, info1: 2n, info2: 0x110ffcn, intrInfo: 0x80000b0e, errorCode: 4 },
  ],
  [
    'kvm_page_fault',
    'vcpu 0 rip 0x100005 address 0x0000000000106040 error_code 0x100000004',
    { rip: 0x100005n, address: 0x106040n, errorCode: 0x100000004n },
  ],
  ['kvm_mmu_pagetable_walk', 'addr 105032 pferr 3 P|W', { addr: 0x105032n, pferr: 3 }],
  ['kvm_mmu_paging_element', 'pte 8000000000108003 level 4', { pte: 0x8000000000108003n, level: 4 }],
  ['kvm_mmu_set_accessed_bit', 'gpa 107000', { gpa: 0x107000n }],
  ['kvm_mmu_walker_error', 'pferr 0 ', { pferr: 0 }],
  [
    'kvm_mmu_get_page',
    'sp gen 1 gfn 40000 l2 8-byte q0 direct wux nxe ad root 0 sync\0 new',
    { gen: 1, gfn: 0x40000n, role: 0x1782, roleMask: 0x11fff, rootCount: 0, unsync: false, created: true },
  ],
  [
    'kvm_mmu_prepare_zap_page',
    'sp gen 0 gfn 200 l4 4-byte q3 w-- invalid !nxe !ad root 2 unsync',
    { role: 0x10a74, roleMask: 0x11fff, rootCount: 2, unsync: true },
  ],
  [
    'mark_mmio_spte',
    'sptep:ff1100000f809000 gfn e0000 access 5 gen 12',
    { sptep: 0xff1100000f809000n, gfn: 0xe0000n, access: 5, gen: 0x12 },
  ],
  ['handle_mmio_page_fault', 'addr:90000010 gfn e0000 access 4', { addr: 0x90000010n, gfn: 0xe0000n, access: 4 }],
  [
    'fast_page_fault',
    'vcpu 0 gva 401040 error_code P|W|U sptep ff1100000f3a2008 old 0x3310825 new 3310827 spurious 0 fixed 1',
    { gva: 0x401040n, errorCode: 7n, oldSpte: 0x3310825n, newSpte: 0x3310827n, spurious: false, fixed: true },
  ],
  ['kvm_mmu_zap_all_fast', 'kvm-mmu-valid-gen 1 used_pages 1d', { gen: 1, usedPages: 0x1d }],
  ['check_mmio_spte', 'spte 80000e0000045 kvm_gen 12 spte-gen 8 valid 0', { kvmGen: 0x12, spteGen: 8 }],
  [
    'kvm_mmu_set_spte',
    'gfn 100 spte 29dce67 (r-xu) level 1 at f3b4800',
    { gfn: 0x100n, spte: 0x29dce67n, r: true, x: true, u: true, level: 1, sptep: 0xf3b4800n },
  ],
  ['kvm_mmu_set_spte', 'gfn 100 spte 6 (-w-) level 2 at 8', { r: false, x: false, u: undefined, level: 2 }],
  ['kvm_mmu_spte_requested', 'gfn 100 pfn 8000000000000000 level 1', { pfn: 0x8000000000000000n }],
  [
    'kvm_tdp_mmu_spte_changed',
    'as id 1 gfn 0 level 5 old_spte 0 new_spte f3a7827',
    { asId: 1, gfn: 0n, level: 5, oldSpte: 0n, newSpte: 0xf3a7827n },
  ],
  ['kvm_mmu_split_huge_page', 'gfn 4000 spte 6a00ee7 level 2 errno -16', { level: 2, errno: -16 }],
  ['kvm_cr', 'cr_write 0 = 0x80010011', { write: true, cr: 0, value: 0x80010011n }],
  ['kvm_cr', 'cr_read 8 = 0x0', { write: false, cr: 8, value: 0n }],
  ['kvm_msr', 'msr_write c0000080 = 0xd00 (#GP)', { write: true, msr: 0xc0000080, value: 0xd00n }],
  ['kvm_inj_exception', '#PF (0x4) [reinjected]', { vector: 14, errorCode: 4, reinjected: true }],
  ['kvm_inj_exception', '#UD', { vector: 6, errorCode: undefined, reinjected: false }],
  ['kvm_inj_exception', '0x9', { vector: 9, errorCode: undefined }],
  ['kvm_mmio', 'mmio unsatisfied-read len 1 gpa 0xe0000010 val 0x0', { type: 'unsatisfied-read', length: 1 }],
  ['vcpu_match_mmio', 'gva 0x90000018 gpa 0xe0000018 Write GPA', { gva: 0x90000018n, write: true, gpaMatch: true }],
  [
    'kvm_emulate_insn',
    '10:1000a4:0f 20 e0 (prot32) failed',
    { csbase: 0x10n, rip: 0x1000a4n, bytes: '0f 20 e0', mode: 'prot32', failed: true },
  ],
  [
    'kvm_unmap_hva_range',
    'mmu notifier unmap range: 0x007ff7c6209000 -- 0x007ff7c620a000',
    { start: 0x7ff7c6209000n, end: 0x7ff7c620a000n },
  ],
  ['kvm_set_spte_hva', 'mmu notifier set pte hva: 0x007ff7c6209000', { hva: 0x7ff7c6209000n }],
  ['kvm_test_age_hva', 'mmu notifier test age hva: 0x007ff7c6209000', { hva: 0x7ff7c6209000n }],
  ['kvm_age_hva', 'mmu notifier age hva: 0x00000000001000 -- 0x00000000002000', { start: 0x1000n, end: 0x2000n }],
  ['kvm_userspace_exit', 'reason KVM_EXIT_IO (2)', { reason: 'KVM_EXIT_IO', number: 2 }],
  [
    'kvm_invlpga',
    'rip: 0x00000000001006a1 asid: 12 address: 0x0000000040001000',
    { rip: 0x1006a1n, asid: 12, address: 0x40001000n },
  ],
  [
    'kvm_nested_vmenter',
    'rip: 0x000000000010062b vmcb: 0x000000000011d000 nested_rip: 0x00000000001006ba int_ctl: 0x00000000 event_inj: 0x00000000 nested_npt=y nested_cr3: 0x0000000000207000',
    { rip: 0x10062bn, tdp: true, guestPgd: 0x207000n },
  ],
  [
    'kvm_nested_vmenter',
    'rip: 0x0000000000100506 vmcs: 0x000000000011e000 nested_rip: 0x000000000010057e int_ctl: 0x00000000 event_inj: 0x00000000 nested_ept=n guest_cr3: 0x0000000000600000',
    { tdp: false, guestPgd: 0x600000n },
  ],
  [
    'kvm_nested_intercepts',
    'cr_read: 0000 cr_write: 0000 excp: 00004000 intercepts: 80000000 00000003 00000000',
    { exceptions: 0x4000 },
  ],
  [
    'kvm_nested_vmexit_inject',
    'reason: npf ext_inf1: 0x0000000200000006 ext_inf2: 0x0000000000600000 ext_int: 0x00000000 ext_int_err: 0x00000000',
    { reason: 'npf', info1: 0x200000006n, info2: 0x600000n, intInfo: 0, intInfoError: 0 },
  ],
  ['kvm_nested_vmenter_failed', 'control->asid == 0', {}],
];

/** As facts/kvm-mmu.md §9 tells the formats of 7.1 and later. */
const LATER: typeof RECORDED = [
  ['kvm_entry', 'vcpu 1, rip 0x10 intr_info 0x00000000 error_code 0x00000000[immediate exit]', { vcpu: 1, rip: 16n }],
  [
    'kvm_exit',
    'vcpu 0 reason EPT_VIOLATION FAILED_VMENTRY rip 0x1 info1 0x0000000000000083 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000 requests 0x0000000000000000',
    { reason: 'EPT_VIOLATION FAILED_VMENTRY', info1: 0x83n },
  ],
  [
    'kvm_mmu_sync_page',
    'sp gen 0 gfn 209 l1 8-byte q0 r-ux nxe ad root 0 unsync\0',
    { role: 0x2d01, roleMask: 0x13fff, unsync: true },
  ],
  [
    'fast_page_fault',
    'vcpu 0 gva 1 error_code P|PK|SS|SGX|0x200000000 sptep 0000000012345678 old 0 new 0 spurious 0 fixed 0',
    { errorCode: 0x200008061n },
  ],
  ['kvm_inj_exception', '#CP (0x3)', { vector: 21, errorCode: 3 }],
];

describe('the text of an event', () => {
  it.each(RECORDED)('of 6.1: %s: %s', (name, text, fields) => {
    expect(parseEventText(name, text)).toMatchObject({ name, ...fields });
  });

  it.each(LATER)('of later kernels: %s: %s', (name, text, fields) => {
    expect(parseEventText(name, text)).toMatchObject({ name, ...fields });
  });

  it('marks, also under the name of their event, and what the kernel itself prints', () => {
    expect(parseEventText('tracing_mark_write', ' T 1 a=b')).toEqual({ name: 'mark', text: ' T 1 a=b' });
    expect(parseEventText('print', '       tracing_mark_write: T 1')).toEqual({ name: 'mark', text: 'T 1' });
    expect(parseEventText('print', 'kvm_foo: x')).toEqual({ name: 'other', event: 'kvm_foo', text: 'x' });
    expect(parseEventText('kvm_fpu', 'load')).toEqual({ name: 'other', event: 'kvm_fpu', text: 'load' });
  });

  it('fields that libtraceevent could not print', () => {
    const text = '    [FAILED TO PARSE] mmu_valid_gen=0 gfn=1545 role=145153 root_count=0 unsync=1 created=0';
    expect(parseEventText('kvm_mmu_get_page', text)).toEqual({
      name: 'kvm_mmu_get_page',
      gen: 0,
      gfn: 0x609n,
      role: 0x23701,
      roleMask: 0xffffffff,
      rootCount: 0,
      unsync: true,
      created: false,
    });
    const injected = '[FAILED TO PARSE] exception=14 has_error=1 error_code=4 reinjected=0';
    expect(parseEventText('kvm_inj_exception', injected)).toMatchObject({ vector: 14, errorCode: 4 });
  });

  it.each([
    ['kvm_entry', ' vcpu 0 rip 0x100000'],
    ['kvm_exit', 'reason EXIT_EXCP_PF rip 0x100000 info 10 100000'],
    ['kvm_exit', 'exit_reason=78 guest_rip=0x100000 isa=2'],
    ['kvm_mmu_unsync_page', ' 1 q0 wux pae nxe wp root 0 sync'],
    ['kvm_mmu_get_page', 'sp gen 0 gfn 0 l2 8-byte q0 direct rwuxx nxe ad root 0 sync new'],
    ['kvm_mmu_get_page', 'sp gen 0 gfn 0 l2 8-byte q0 direct abc nxe ad root 0 sync new'],
    ['kvm_mmu_set_spte', 'gfn 1 spte 2 (rwx'],
    ['kvm_mmu_set_spte', 'gfn 1 spte 2 (xwru) level 1 at 8'],
    ['kvm_mmu_paging_element', 'pte 11112222333344445 level 1'],
    ['kvm_mmu_paging_element', 'pte'],
    ['kvm_mmu_pagetable_walk', 'addr 0 pferr 100000000'],
    ['kvm_inj_exception', '#XX'],
    ['kvm_inj_exception', '[FAILED TO PARSE] exception=14'],
    ['kvm_inj_exception', '[FAILED TO PARSE] =1'],
    ['kvm_exit', '[FAILED TO PARSE] exit_reason=78 guest_rip=0x100000 isa=2 vcpu_id=0'],
    ['fast_page_fault', 'vcpu 0 gva 1 error_code Q sptep 0 old 0 new 0 spurious 0 fixed 0'],
    ['kvm_mmio', 'mmio lease len 1 gpa 0x0'],
  ])('refuses %s: %s', (name, text) => {
    expect(() => parseEventText(name, text)).toThrow(Problem);
  });
});
