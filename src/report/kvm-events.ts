/**
 * KVM's events as text, one event, one line, as the kernel's own trace spells it where that is natural: `set-spte gfn
 * 100 spte 29d3e67 (rwxu) level 1 at f3b4800` (facts/kvm-mmu.md §9). Numbers are hexadecimal without `0x`, as there.
 */

import { hex64, type Word64 } from '../bits/word64.ts';
import { decodePfec, exceptionName } from '../formats/decode/fault.ts';
import { decodeRole } from '../formats/decode/kvm-role.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { KVM_EVENT_NAMES, KVM_MORE_ROWS, KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';

/** An observation row. */
export interface EventRow {
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly valueLo: number;
  readonly valueHi: number;
}

/** `set-spte`; `KVM event 30` for a number that has no name. */
export function kvmEventName(op: number): string {
  const event = kvmEventOf(op);
  return KVM_EVENT_NAMES[event] ?? `KVM event ${event}`;
}

/** How many KVM_MORE rows go with the KVM_EVENT row at `row`; no further than `end`. */
export function moreRowsAt(ops: Uint32Array, row: number, end: number): number {
  const due = KVM_MORE_ROWS[kvmEventOf(ops[row]!)] ?? 0;
  let more = 0;
  while (more < due && row + more + 1 < end && (ops[row + more + 1]! & OBS_KIND_MASK) === Obs.KVM_MORE) more++;
  return more;
}

/** A field's bits, moved down to bit 0. */
export function fieldWord({ column, low, maskLo, maskHi, width }: KvmField, row: EventRow): Word64 {
  if (column === 'op') return { lo: (row.op & maskLo) >>> low, hi: 0 };
  const lo = column === 'address' ? row.addressLo : row.valueLo;
  const hi = column === 'address' ? row.addressHi : row.valueHi;
  if (width === 64) return { lo, hi };
  return low >= 32 ? { lo: (hi & maskHi) >>> (low - 32), hi: 0 } : { lo: (lo & maskLo) >>> low, hi: 0 };
}

/** Access to the fields of one event by the kernel's names. */
class Fields {
  private readonly event: number;
  private readonly rows: readonly EventRow[];

  constructor(event: number, rows: readonly EventRow[]) {
    this.event = event;
    this.rows = rows;
  }

  /** `undefined` where the row that holds the field is not there. */
  private word(name: string): Word64 | undefined {
    const field = KVM_EVENT_FIELDS[this.event]!.find((candidate) => candidate.name === name);
    const row = field === undefined ? undefined : this.rows[field.row];
    return field === undefined || row === undefined ? undefined : fieldWord(field, row);
  }

  hex(name: string): string {
    const word = this.word(name);
    return word === undefined ? '?' : hex64(word.lo, word.hi);
  }

  /** The low half, 0 where it is not there. */
  number(name: string): number {
    return this.word(name)?.lo ?? 0;
  }

  is(name: string): boolean {
    return this.number(name) !== 0;
  }

  /** `P|W|U`, empty for 0. */
  pfec(name: string): string {
    const word = this.word(name) ?? { lo: 0, hi: 0 };
    return word.lo === 0 && word.hi === 0 ? '' : decodePfec(word).short.replaceAll(' ', '|');
  }
}

/** As the kernel prints a shadow page, then the rest of its role; the role as a number where its layout is not known. */
function shadowPage(fields: Fields, mmu: KvmConfig | undefined): string {
  const word = { lo: fields.number('role'), hi: 0 };
  const role = mmu === undefined ? `role ${fields.hex('role')}` : decodeRole(word, mmu.profile).short;
  const sync = fields.is('unsync') ? 'unsync' : 'sync';
  return `sp gen ${fields.number('mmu_valid_gen')} gfn ${fields.hex('gfn')} ${role} root ${fields.number('root_count')} ${sync}`;
}

function rights(fields: Fields): string {
  const letter = (is: boolean, name: string): string => (is ? name : '-');
  const writable = (fields.number('spte') & 2) !== 0;
  const user = fields.is('u') || !fields.is('no_u') ? letter(fields.is('u'), 'u') : '';
  return letter(fields.is('r'), 'r') + letter(writable, 'w') + letter(fields.is('x'), 'x') + user;
}

function withPfec(fields: Fields, name: string): string {
  return `${fields.hex(name)} ${fields.pfec(name)}`.trimEnd();
}

/** Exits that have to do with paging, by basic reason (SDM vol. 3D, appendix C) and by code (APM vol. 2, appendix C). */
const EXITS: Readonly<Record<'amd' | 'intel', Readonly<Record<number, string>>>> = {
  intel: {
    0: 'exception or NMI',
    18: 'VMCALL',
    48: 'EPT violation',
    49: 'EPT misconfiguration',
    50: 'INVEPT',
    53: 'INVVPID',
    59: 'VMFUNC',
    62: 'PML full',
  },
  amd: { 78: '#PF', 122: 'INVLPGA', 129: 'VMMCALL', 1024: 'nested page fault' },
};

/** `400 (nested page fault)`; without a name where the vendor is not known. */
function exitReason(fields: Fields, name: string, mmu: KvmConfig | undefined): string {
  const told = mmu === undefined ? undefined : EXITS[mmu.vendor][fields.number(name)];
  return told === undefined ? fields.hex(name) : `${fields.hex(name)} (${told})`;
}

const MMIO_TYPES = ['unsatisfied-read', 'read', 'write'];

function fieldsText(event: number, fields: Fields, mmu: KvmConfig | undefined): string {
  const hex = (name: string): string => fields.hex(name);
  const number = (name: string): number => fields.number(name);
  switch (event) {
    case KvmEvent.PAGETABLE_WALK:
      return `addr ${hex('addr')} pferr ${withPfec(fields, 'pferr')}`;
    case KvmEvent.PAGING_ELEMENT:
      return `pte ${hex('pte')} level ${number('level')}`;
    case KvmEvent.SET_ACCESSED_BIT:
    case KvmEvent.SET_DIRTY_BIT:
      return `gpa ${hex('gpa')}`;
    case KvmEvent.WALKER_ERROR:
      return `pferr ${withPfec(fields, 'pferr')}`;
    case KvmEvent.GET_PAGE:
      return `${shadowPage(fields, mmu)} ${fields.is('created') ? 'new' : 'existing'}`;
    case KvmEvent.SYNC_PAGE:
    case KvmEvent.UNSYNC_PAGE:
    case KvmEvent.PREPARE_ZAP_PAGE:
      return shadowPage(fields, mmu);
    case KvmEvent.MARK_MMIO_SPTE:
      return `sptep ${hex('sptep')} gfn ${hex('gfn')} access ${hex('access')} gen ${hex('gen')}`;
    case KvmEvent.HANDLE_MMIO_PAGE_FAULT:
      return `addr ${hex('addr')} gfn ${hex('gfn')} access ${hex('access')}`;
    case KvmEvent.FAST_PAGE_FAULT: {
      const how = `spurious ${number('spurious')} fixed ${number('fixed')}`;
      const change = `sptep ${hex('sptep')} old ${hex('old_spte')} new ${hex('new_spte')}`;
      return `gva ${hex('cr2_or_gpa')} error_code ${fields.pfec('error_code')} ${change} ${how}`;
    }
    case KvmEvent.ZAP_ALL_FAST:
      return `kvm-mmu-valid-gen ${number('mmu_valid_gen')} used_pages ${hex('mmu_used_pages')}`;
    case KvmEvent.CHECK_MMIO_SPTE: {
      const valid = hex('kvm_gen') === hex('spte_gen') ? 1 : 0;
      return `spte ${hex('spte')} kvm_gen ${hex('kvm_gen')} spte-gen ${hex('spte_gen')} valid ${valid}`;
    }
    case KvmEvent.SET_SPTE:
      return `gfn ${hex('gfn')} spte ${hex('spte')} (${rights(fields)}) level ${number('level')} at ${hex('sptep')}`;
    case KvmEvent.SPTE_REQUESTED:
      return `gfn ${hex('gfn')} pfn ${hex('pfn')} level ${number('level')}`;
    case KvmEvent.TDP_SPTE_CHANGED: {
      const change = `old_spte ${hex('old_spte')} new_spte ${hex('new_spte')}`;
      return `as id ${number('as_id')} gfn ${hex('gfn')} level ${number('level')} ${change}`;
    }
    case KvmEvent.SPLIT_HUGE_PAGE:
      return `gfn ${hex('gfn')} spte ${hex('spte')} level ${number('level')} errno ${number('errno') | 0}`;
    case KvmEvent.PAGE_FAULT:
      return `address ${hex('fault_address')} error_code ${hex('error_code')}`;
    case KvmEvent.INJ_EXCEPTION: {
      const error = fields.is('has_error') ? ` (${hex('error_code')})` : '';
      return `${exceptionName(number('exception'))}${error}${fields.is('reinjected') ? ' [reinjected]' : ''}`;
    }
    case KvmEvent.MMIO:
      return `${MMIO_TYPES[number('type')] ?? `type ${number('type')}`} gpa ${hex('gpa')}`;
    case KvmEvent.MATCH_MMIO: {
      const match = `${fields.is('write') ? 'Write' : 'Read'} ${fields.is('gpa_match') ? 'GPA' : 'GVA'}`;
      return `gva ${hex('gva')} gpa ${hex('gpa')} ${match}`;
    }
    case KvmEvent.UNMAP_HVA_RANGE:
    case KvmEvent.SET_SPTE_HVA:
    case KvmEvent.AGE_HVA:
    case KvmEvent.TEST_AGE_HVA:
      return `${hex('start')} -- ${hex('end')}`;
    case KvmEvent.NESTED_VMENTER:
      return `nested_tdp ${number('tdp_enabled')} guest_pgd ${hex('guest_pgd')}`;
    case KvmEvent.NESTED_VMEXIT:
      return `reason ${exitReason(fields, 'exit_reason', mmu)} info1 ${hex('info1')} info2 ${hex('info2')}`;
    case KvmEvent.NESTED_VMEXIT_INJECT: {
      const info = `exit_info1 ${hex('exit_info1')} exit_info2 ${hex('exit_info2')}`;
      const event = `exit_int_info ${hex('exit_int_info')} exit_int_info_err ${hex('exit_int_info_err')}`;
      return `code ${exitReason(fields, 'exit_code', mmu)} ${info} ${event}`;
    }
    case KvmEvent.NESTED_INTERCEPTS:
      return `exceptions ${hex('exceptions')}`;
    case KvmEvent.INVLPGA:
      return `address ${hex('address')} asid ${hex('asid')}`;
    default:
      return '';
  }
}

/**
 * An event as one line. `rows`: its KVM_EVENT row, then as many of its KVM_MORE rows as there are; fields of those that
 * are not are shown as `?`. `mmu`: that of the header; gives roles their layout.
 */
export function kvmEventText(rows: readonly EventRow[], mmu?: KvmConfig): string {
  const head = rows[0]!;
  const event = kvmEventOf(head.op);
  const name = kvmEventName(head.op);
  if (KVM_EVENT_FIELDS[event] === undefined || event === KvmEvent.NONE) {
    return `${name} address ${hex64(head.addressLo, head.addressHi)} value ${hex64(head.valueLo, head.valueHi)}`;
  }
  return `${name} ${fieldsText(event, new Fields(event, rows), mmu)}`;
}
