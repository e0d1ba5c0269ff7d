/** Observation rows (`formats/observation.ts`) as text: one row, one line. */

import { hexText, type Word64 } from '../bits/word64.ts';
import { decodeCr0, decodeCr3, decodeCr4, decodeEfer, decodePkru } from '../formats/decode/control-register.ts';
import { decodeEptEntry, decodeEptp, type EptContext } from '../formats/decode/ept.ts';
import {
  decodeNpfExitInfo1,
  decodePfec,
  decodeQualification,
  exceptionName,
  type QualificationContext,
} from '../formats/decode/fault.ts';
import { decodeExceptionBitmap, decodePfecFilter, decodeVmFunctions } from '../formats/decode/guest-controls.ts';
import {
  decodePageTableEntry,
  type EntryContext,
  entryName,
  type PagingMode,
  pageSizeName,
} from '../formats/decode/page-table-entry.ts';
import type { DecodedWord } from '../formats/decode/word.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  DIM_NAMES,
  Dim,
  NOT_MODELLED_NAMES,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_EXCEPTION_EXITS,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEARNED,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_NAMES,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_NO_LINEAR,
  OBS_NESTED_NX,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_SHADOW_STACK,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
  OBS_NOT_MODELLED_MASK,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_MASK,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { REGISTER_NAMES, Reg } from '../formats/registers.ts';
import { ACCESS_NAMES } from '../formats/step.ts';
import { kvmEventText } from './kvm-events.ts';

/** What the meaning of entries depends on beyond the row; all of it optional. */
export interface RowContext extends EntryContext, EptContext, QualificationContext {
  /** CR4.PCIDE, for CR3. */
  readonly pcide?: boolean | undefined;
  /** Paging mode of the host, which nested page tables follow (APM vol. 2 15.25.3). */
  readonly hostPaging?: PagingMode | undefined;
  /** The MMU of an emulated hypervisor: gives its roles and faults their layout. */
  readonly mmu?: KvmConfig | undefined;
}

const PAGE_FAULT = 14;

/** `element`, `npf` …; `observation 29` for a kind that has no name. */
export function observationName(op: number): string {
  return OBS_NAMES[op & OBS_KIND_MASK] ?? `observation ${op & OBS_KIND_MASK}`;
}

export function observationDim(op: number): number {
  return (op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK;
}

export function observationLevel(op: number): number {
  return (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
}

/** Whose entry of which level an element, write or after-row is about: `guest PML4E`, `EPT PTE`. */
export function rowEntryName(op: number): string {
  const dim = observationDim(op);
  const whose = dim === Dim.GUEST ? 'guest' : (DIM_NAMES[dim] ?? '').toUpperCase();
  return `${whose} ${entryName(observationLevel(op))}`;
}

/** The entry that an element, write or after-row holds, field by field; `undefined` where nothing tells them apart. */
export function rowEntry(op: number, lo: number, hi: number, context: RowContext = {}): DecodedWord | undefined {
  const word: Word64 = { lo, hi };
  const level = observationLevel(op);
  const dim = observationDim(op);
  if (dim === Dim.EPT) return decodeEptEntry(word, level, context);
  if (dim === Dim.SPP) return undefined;
  const mode = dim === Dim.NPT ? context.hostPaging : context.paging;
  // The row knows the entry's size; the registers may not yet, or no longer.
  const paging = (op & OBS_FOUR_BYTES) !== 0 ? '32-bit' : mode === '32-bit' ? undefined : mode;
  return decodePageTableEntry(word, level, { ...context, paging });
}

/** The entry that an element, write or after-row holds, decoded: `P W U A gfn 0x40d`. */
export function rowEntryText(op: number, lo: number, hi: number, context: RowContext = {}): string {
  return rowEntry(op, lo, hi, context)?.short ?? 'sub-page permissions';
}

/** A register's value field by field, `undefined` where it has no fields. */
export function decodeRegister(
  register: number,
  lo: number,
  hi: number,
  context: RowContext = {},
): DecodedWord | undefined {
  const word: Word64 = { lo, hi };
  switch (register) {
    case Reg.CR0:
    case Reg.HOST_CR0:
      return decodeCr0(word);
    case Reg.CR3:
      return decodeCr3(word, { pcide: context.pcide, pae: context.paging === 'pae' });
    case Reg.CR4:
    case Reg.HOST_CR4:
      return decodeCr4(word);
    case Reg.EFER:
    case Reg.HOST_EFER:
      return decodeEfer(word);
    case Reg.PKRU:
      return decodePkru(word, 'PKRU');
    case Reg.PKRS:
      return decodePkru(word, 'PKRS');
    case Reg.EPTP:
      return decodeEptp(word, context);
    case Reg.PDPTE0:
    case Reg.PDPTE1:
    case Reg.PDPTE2:
    case Reg.PDPTE3:
      return decodePageTableEntry(word, 3, { ...context, paging: 'pae' });
    case Reg.EXCEPTION_BITMAP:
      return decodeExceptionBitmap(word);
    case Reg.PFEC_MASK_MATCH:
      return decodePfecFilter(word);
    case Reg.VM_FUNCTION_CONTROLS:
      return decodeVmFunctions(word);
    default:
      return undefined;
  }
}

/** A register's value in words, empty where it has no fields. */
export function registerWords(register: number, lo: number, hi: number, context: RowContext = {}): string {
  return decodeRegister(register, lo, hi, context)?.short ?? '';
}

/** `cr4`; `register 40` for a number that is none. */
export function registerName(register: number): string {
  return REGISTER_NAMES[register] ?? `register ${register}`;
}

function nestedWalkText(op: number, address: string): string {
  const dim = (DIM_NAMES[observationDim(op)] ?? '').toUpperCase();
  const access = ACCESS_NAMES[(op >>> OBS_NESTED_ACCESS_SHIFT) & OBS_NESTED_ACCESS_MASK] ?? '';
  const of = (op & OBS_NESTED_OF_TABLE) !== 0 ? 'paging-structure entry' : 'final address';
  const rights = [
    (op & OBS_NESTED_USER) !== 0 ? 'user' : '',
    (op & OBS_NESTED_WRITABLE) !== 0 ? 'writable' : '',
    (op & OBS_NESTED_NX) !== 0 ? 'NX' : '',
    (op & OBS_NESTED_SHADOW_STACK) !== 0 ? 'supervisor shadow stack' : '',
  ].filter((s) => s !== '');
  const notes = [
    rights.length === 0 ? '' : `, page so far ${rights.join(' ')}`,
    (op & OBS_NESTED_NO_LINEAR) !== 0 ? ', no linear address' : '',
  ];
  return `${dim} walk of gpa ${address}: ${access}, ${of}${notes.join('')}`;
}

/**
 * One row as one line, without indentation: `guest PML4E [0x40e000] = 0x40d027  P W U A gfn 0x40d`. A
 * KVM event is made of several rows, which `kvmEventText` puts into one line.
 */
export function rowText(
  op: number,
  addressLo: number,
  addressHi: number,
  valueLo: number,
  valueHi: number,
  context: RowContext = {},
): string {
  const learned = (op & OBS_LEARNED) !== 0 ? '  [learned]' : '';
  return bareRowText(op, addressLo, addressHi, valueLo, valueHi, context) + learned;
}

function bareRowText(op: number, aLo: number, aHi: number, vLo: number, vHi: number, context: RowContext): string {
  const address = hexText(aLo, aHi);
  const value = hexText(vLo, vHi);
  switch (op & OBS_KIND_MASK) {
    case Obs.NONE:
      return 'no observation';
    case Obs.ELEMENT:
      return `${rowEntryName(op)} [${address}] = ${value}  ${rowEntryText(op, vLo, vHi, context)}`;
    case Obs.PDPTE: {
      const entry = decodePageTableEntry({ lo: vLo, hi: vHi }, 3, { ...context, paging: 'pae' });
      return `PDPTE${observationLevel(op)} register = ${value}  ${entry.short}`;
    }
    case Obs.NESTED_WALK:
      return nestedWalkText(op, address);
    case Obs.ENTRY_WRITE:
      return `${rowEntryName(op)} [${address}] := ${value}  ${rowEntryText(op, vLo, vHi, context)}`;
    case Obs.TRANSLATED: {
      const shift = (op >>> OBS_PAGE_SHIFT_SHIFT) & OBS_PAGE_SHIFT_MASK;
      const gpa = aLo === vLo && aHi === vHi ? '' : ` (gpa ${value})`;
      return `translated to ${address}${gpa}${shift === 0 ? '' : `, page of ${pageSizeName(shift)}`}`;
    }
    case Obs.COMPLETED:
      return 'completed, physical address not seen';
    case Obs.FAULTED:
      return 'faulted, how was not seen';
    case Obs.EXCEPTION: {
      const vector = (op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
      const exit = (op & OBS_EXCEPTION_EXITS) !== 0 ? ', a VM exit' : '';
      if (vector !== PAGE_FAULT) return `${exceptionName(vector)} error ${value}${exit}`;
      const words = decodePfec({ lo: vLo, hi: vHi }, context.vendor).short;
      return `#PF error ${value} (${words}) cr2 ${address}${exit}`;
    }
    case Obs.EPT_VIOLATION: {
      const words = decodeQualification({ lo: vLo, hi: vHi }, context).short;
      return `EPT violation gpa ${address} qualification ${value} (${words})`;
    }
    case Obs.EPT_MISCONFIG:
      return `EPT misconfiguration gpa ${address}`;
    case Obs.NPF:
      return `NPF gpa ${address} exitinfo1 ${value} (${decodeNpfExitInfo1({ lo: vLo, hi: vHi }).short})`;
    case Obs.EXIT_LINEAR:
      return `exit reports guest-linear address ${address}`;
    case Obs.PDPTE_LOADED:
      return vLo === 0 && vHi === 0 ? 'PDPTE registers refused: a reserved bit is set' : 'PDPTE registers loaded';
    case Obs.REGISTER: {
      const register = (op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK;
      const words = registerWords(register, vLo, vHi, context);
      return `${registerName(register)} = ${value}${words === '' ? '' : `  ${words}`}`;
    }
    case Obs.ENTRY_AFTER:
      return `${rowEntryName(op)} [${address}] afterwards ${value}  ${rowEntryText(op, vLo, vHi, context)}`;
    case Obs.NOT_MODELLED: {
      const what = (op >>> OBS_NOT_MODELLED_SHIFT) & OBS_NOT_MODELLED_MASK;
      return `not modelled: ${NOT_MODELLED_NAMES[what] ?? `number ${what}`}`;
    }
    case Obs.PML_FULL:
      return `page-modification log full, gpa ${address} not logged`;
    case Obs.KVM_EVENT:
      return kvmEventText([{ op, addressLo: aLo, addressHi: aHi, valueLo: vLo, valueHi: vHi }], context.mmu);
    case Obs.KVM_MORE:
      return `further fields ${address} ${value}`;
    default:
      return `${observationName(op)} address ${address} value ${value}`;
  }
}
