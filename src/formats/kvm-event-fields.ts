/**
 * Where the fields of KVM's tracepoints live in an event's rows, under the kernel's names (facts/kvm-mmu.md §9), and
 * what kind of thing each is. The text form, the reports and the comparison all go by this one table.
 */

import { EXCEPTION_NAMES } from './decode/fault.ts';
import {
  FPF_FIXED,
  FPF_SPURIOUS,
  INJ_HAS_ERROR,
  INJ_REINJECTED,
  INJ_VECTOR_SHIFT,
  KVM_EVENT_COUNT,
  KVM_EVENT_MASK,
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
  SP_GENERATION_SHIFT,
  SP_UNSYNC,
  TDP_SMM,
  VMENTER_TDP,
} from './kvm-event.ts';
import { OBS_KIND_MASK, OBS_LEVEL_SHIFT } from './observation.ts';

/**
 * `gfn`, `address` (guest-physical, linear or host-virtual), `number` (count, level, generation, vector) and `flags`
 * (bits with meanings of their own: error codes, guest entries, single bits) compare as they are. `spte`: a shadow
 * entry, which holds a host frame; `sptep`: where one stands, physical or a kernel address; `pfn`: a host frame number;
 * `role`: a base role word.
 */
export type KvmFieldKind = 'gfn' | 'spte' | 'sptep' | 'address' | 'role' | 'number' | 'flags' | 'pfn';

export interface KvmField {
  /** The kernel's name. */
  readonly name: string;
  readonly kind: KvmFieldKind;
  /** 0: the KVM_EVENT row; 1, 2: the first, second KVM_MORE row behind it. */
  readonly row: number;
  /** Which of the row's three columns. */
  readonly column: 'op' | 'address' | 'value';
  /** Lowest bit in the column, and how many bits: 64, or at most 32 within one half. */
  readonly low: number;
  readonly width: number;
  /** The same as masks over the column's halves; `maskHi` is 0 for `op`. Unsigned. */
  readonly maskLo: number;
  readonly maskHi: number;
  /** A two's complement number of 64 bits. */
  readonly signed: boolean;
  /** Names of a number's values. */
  readonly names?: Readonly<Record<number, string>>;
}

type Column = KvmField['column'];

function bits(name: string, kind: KvmFieldKind, row: number, column: Column, low: number, width: number): KvmField {
  const mask = width === 64 ? 0xffff_ffff : 2 ** width - 1;
  return {
    name,
    kind,
    row,
    column,
    low,
    width,
    maskLo: width === 64 ? mask : low < 32 ? (mask << low) >>> 0 : 0,
    maskHi: width === 64 ? mask : low < 32 ? 0 : (mask << (low - 32)) >>> 0,
    signed: false,
  };
}

/** A whole column. */
function word(name: string, kind: KvmFieldKind, column: 'address' | 'value', row = 0): KvmField {
  return bits(name, kind, row, column, 0, 64);
}

/** One bit of the event's word. */
function bit(name: string, mask: number): KvmField {
  return bits(name, 'flags', 0, 'op', 31 - Math.clz32(mask), 1);
}

const level = bits('level', 'number', 0, 'op', OBS_LEVEL_SHIFT, 3);

const shadowPage = [
  bits('mmu_valid_gen', 'number', 0, 'op', SP_GENERATION_SHIFT, 8),
  word('gfn', 'gfn', 'address'),
  bits('role', 'role', 0, 'value', 0, 32),
  bits('root_count', 'number', 0, 'value', 32, 32),
  bit('unsync', SP_UNSYNC),
];

const MMIO_TYPES: Readonly<Record<number, string>> = { 0: 'unsatisfied-read', 1: 'read', 2: 'write' };

const range = [word('start', 'address', 'address'), word('end', 'address', 'value')];

const FIELDS: Readonly<Record<KvmEventId, readonly KvmField[]>> = {
  [KvmEvent.NONE]: [],
  [KvmEvent.PAGETABLE_WALK]: [word('addr', 'address', 'address'), word('pferr', 'flags', 'value')],
  [KvmEvent.PAGING_ELEMENT]: [word('pte', 'flags', 'value'), level],
  [KvmEvent.SET_ACCESSED_BIT]: [word('gpa', 'address', 'address')],
  [KvmEvent.SET_DIRTY_BIT]: [word('gpa', 'address', 'address')],
  [KvmEvent.WALKER_ERROR]: [word('pferr', 'flags', 'value')],
  [KvmEvent.GET_PAGE]: [...shadowPage, bit('created', SP_CREATED)],
  [KvmEvent.SYNC_PAGE]: shadowPage,
  [KvmEvent.UNSYNC_PAGE]: shadowPage,
  [KvmEvent.PREPARE_ZAP_PAGE]: shadowPage,
  [KvmEvent.MARK_MMIO_SPTE]: [
    word('sptep', 'sptep', 'value'),
    word('gfn', 'gfn', 'address'),
    word('access', 'flags', 'address', 1),
    word('gen', 'number', 'value', 1),
  ],
  [KvmEvent.HANDLE_MMIO_PAGE_FAULT]: [
    word('addr', 'address', 'address'),
    word('gfn', 'gfn', 'value'),
    word('access', 'flags', 'address', 1),
  ],
  [KvmEvent.FAST_PAGE_FAULT]: [
    word('cr2_or_gpa', 'address', 'address'),
    word('error_code', 'flags', 'address', 2),
    word('sptep', 'sptep', 'address', 1),
    word('old_spte', 'spte', 'value'),
    word('new_spte', 'spte', 'value', 1),
    bit('spurious', FPF_SPURIOUS),
    bit('fixed', FPF_FIXED),
  ],
  [KvmEvent.ZAP_ALL_FAST]: [
    bits('mmu_valid_gen', 'number', 0, 'value', 0, 32),
    bits('mmu_used_pages', 'number', 0, 'value', 32, 32),
  ],
  [KvmEvent.CHECK_MMIO_SPTE]: [
    word('spte', 'spte', 'value'),
    word('kvm_gen', 'number', 'address', 1),
    word('spte_gen', 'number', 'value', 1),
  ],
  [KvmEvent.SET_SPTE]: [
    word('gfn', 'gfn', 'address'),
    word('spte', 'spte', 'value'),
    bit('r', SET_SPTE_R),
    bit('x', SET_SPTE_X),
    bit('u', SET_SPTE_U),
    bit('no_u', SET_SPTE_NO_U),
    level,
    word('sptep', 'sptep', 'address', 1),
  ],
  [KvmEvent.SPTE_REQUESTED]: [word('gfn', 'gfn', 'address'), word('pfn', 'pfn', 'value'), level],
  [KvmEvent.TDP_SPTE_CHANGED]: [
    bits('as_id', 'number', 0, 'op', 31 - Math.clz32(TDP_SMM), 1),
    word('gfn', 'gfn', 'address'),
    level,
    word('old_spte', 'spte', 'value'),
    word('new_spte', 'spte', 'value', 1),
  ],
  [KvmEvent.SPLIT_HUGE_PAGE]: [
    word('gfn', 'gfn', 'address'),
    word('spte', 'spte', 'value'),
    level,
    { ...word('errno', 'number', 'value', 1), signed: true },
  ],
  [KvmEvent.PAGE_FAULT]: [word('fault_address', 'address', 'address'), word('error_code', 'flags', 'value')],
  [KvmEvent.INJ_EXCEPTION]: [
    { ...bits('exception', 'number', 0, 'op', INJ_VECTOR_SHIFT, 8), names: EXCEPTION_NAMES },
    bit('has_error', INJ_HAS_ERROR),
    word('error_code', 'flags', 'value'),
    bit('reinjected', INJ_REINJECTED),
  ],
  [KvmEvent.MMIO]: [
    { ...bits('type', 'number', 0, 'op', MMIO_TYPE_SHIFT, 2), names: MMIO_TYPES },
    word('gpa', 'address', 'address'),
  ],
  [KvmEvent.MATCH_MMIO]: [
    word('gva', 'address', 'address'),
    word('gpa', 'address', 'value'),
    bit('write', MATCH_WRITE),
    bit('gpa_match', MATCH_GPA),
  ],
  [KvmEvent.UNMAP_HVA_RANGE]: range,
  [KvmEvent.SET_SPTE_HVA]: range,
  [KvmEvent.AGE_HVA]: range,
  [KvmEvent.TEST_AGE_HVA]: range,
  [KvmEvent.NESTED_VMENTER]: [bit('tdp_enabled', VMENTER_TDP), word('guest_pgd', 'address', 'value')],
  [KvmEvent.NESTED_VMEXIT]: [
    word('exit_reason', 'number', 'address', 1),
    word('info1', 'flags', 'value'),
    word('info2', 'address', 'address'),
  ],
  [KvmEvent.NESTED_VMEXIT_INJECT]: [
    word('exit_code', 'number', 'address', 1),
    word('exit_info1', 'flags', 'value'),
    word('exit_info2', 'address', 'address'),
    bits('exit_int_info', 'flags', 1, 'value', 0, 32),
    bits('exit_int_info_err', 'flags', 1, 'value', 32, 32),
  ],
  [KvmEvent.NESTED_INTERCEPTS]: [word('exceptions', 'flags', 'value')],
  [KvmEvent.INVLPGA]: [word('address', 'address', 'address'), word('asid', 'number', 'value')],
};

/**
 * The fields of an event by its number (`KvmEvent`), in the kernel's order. A column of a row is either described as a
 * whole or not at all; `op` may have bits that no field has, and those mean nothing.
 */
export const KVM_EVENT_FIELDS: readonly (readonly KvmField[])[] = Array.from(
  { length: KVM_EVENT_COUNT },
  (_, event) => FIELDS[event as KvmEventId],
);

/** By event, the bits of a KVM_EVENT row's word that mean something. Unsigned. */
export const KVM_EVENT_BITS: readonly number[] = KVM_EVENT_FIELDS.map((fields) =>
  fields.reduce(
    (sum, { row, column, maskLo }) => (row === 0 && column === 'op' ? (sum | maskLo) >>> 0 : sum),
    (OBS_KIND_MASK | (KVM_EVENT_MASK << KVM_EVENT_SHIFT)) >>> 0,
  ),
);

/** The value of a field of at most 32 bits, out of the halves of its column (`op`: the word and 0). Unsigned. */
export function fieldNumber({ low, width }: KvmField, lo: number, hi: number): number {
  const half = low < 32 ? lo >>> low : hi >>> (low - 32);
  return width >= 32 ? half >>> 0 : half & (2 ** width - 1);
}
