/**
 * What a fault says about itself: the page-fault error code, the exit qualification of an EPT violation, EXITINFO1 of
 * a nested page fault, and the names of exception vectors.
 */

import type { Word64 } from '../../bits/word64.ts';
import { eptRights } from './ept.ts';
import { bitOf, type DecodedWord, decodeWord, type FieldSpec, flag, ignored, reserved } from './word.ts';

/** By vector, as reports and the text form spell them. */
export const EXCEPTION_NAMES: Readonly<Record<number, string>> = {
  0: '#DE',
  1: '#DB',
  2: 'NMI',
  3: '#BP',
  4: '#OF',
  5: '#BR',
  6: '#UD',
  7: '#NM',
  8: '#DF',
  10: '#TS',
  11: '#NP',
  12: '#SS',
  13: '#GP',
  14: '#PF',
  16: '#MF',
  17: '#AC',
  18: '#MC',
  19: '#XM',
  20: '#VE',
  21: '#CP',
};

/** `#PF`; `vector 200` for what has no name. */
export function exceptionName(vector: number): string {
  return EXCEPTION_NAMES[vector] ?? `vector ${vector}`;
}

/** SDM vol. 3A 4.7, figure 4-12; APM vol. 2 8.4.2. The bits that both vendors share. */
const pfecLow: readonly FieldSpec[] = [
  flag('p', 0, 'P', 'a page-level protection violation', 'a non-present page'),
  flag('w', 1, 'W', 'the access was a write', 'the access was a read'),
  flag('u', 2, 'U', 'a user-mode access', 'a supervisor-mode access'),
  flag('rsvd', 3, 'RSVD', 'a reserved bit was set in an entry', 'no reserved bit was set'),
  flag('f', 4, 'F', 'an instruction fetch', 'not an instruction fetch'),
  flag('pk', 5, 'PK', 'a protection-key violation', 'no protection-key violation'),
  flag('ss', 6, 'SS', 'a shadow-stack access', 'not a shadow-stack access'),
];

const rmp = flag('rmp', 31, 'RMP', 'an RMP violation (SEV-SNP)', 'no RMP violation');

export function pfecFields(vendor: 'intel' | 'amd' = 'intel'): FieldSpec[] {
  if (vendor === 'amd') return [...pfecLow, ...reserved(30, 7), rmp, ...ignored(63, 32, 'beyond the error code')];
  return [
    ...pfecLow,
    flag('hlat', 7, 'HLAT', 'during HLAT paging', 'not during HLAT paging'),
    ...reserved(14, 8),
    flag('sgx', 15, 'SGX', 'an SGX access-control violation', 'no SGX violation'),
    ...reserved(31, 16),
    ...ignored(63, 32, 'beyond the error code'),
  ];
}

/** A page-fault error code: `P U F`; `-` when no bit is set (supervisor read of a non-present page). */
export function decodePfec(word: Word64, vendor: 'intel' | 'amd' = 'intel'): DecodedWord {
  return decodeWord('PFEC', word, pfecFields(vendor));
}

export interface QualificationContext {
  /** Mode-based execute control: bit 6 is meaningful. Unknown by default: shown when set. */
  readonly mbec?: boolean | undefined;
  /** Advanced VM-exit information (IA32_VMX_EPT_VPID_CAP bit 22): bits 11:9. Unknown by default: shown when set. */
  readonly advanced?: boolean | undefined;
}

/** SDM vol. 3C 27.2.1, table 27-7 (28-7 in newer editions). */
export function qualificationFields(word: Word64, context: QualificationContext = {}): FieldSpec[] {
  const mode = context.mbec === true ? ' at supervisor-mode linear addresses' : '';
  const linear = bitOf(word, 7);
  const final = linear && bitOf(word, 8);
  const userExecute = flag(
    'entry-xu',
    6,
    '',
    'the entries allow execution at user-mode linear addresses',
    'the entries do not allow execution at user-mode linear addresses',
  );
  const advanced = [
    flag('page-u', 9, '', 'user-mode linear address', 'supervisor-mode linear address'),
    flag('page-w', 10, '', 'the guest maps it writable', 'the guest maps it read-only'),
    flag('page-nx', 11, '', 'the guest maps it execute-disable', 'the guest maps it executable'),
  ];
  return [
    flag('read', 0, '', 'a data read', 'not a data read'),
    flag('write', 1, '', 'a data write', 'not a data write'),
    flag('fetch', 2, '', 'an instruction fetch', 'not an instruction fetch'),
    flag('entry-r', 3, '', 'the entries allow reading', 'the entries do not allow reading'),
    flag('entry-w', 4, '', 'the entries allow writing', 'the entries do not allow writing'),
    flag('entry-x', 5, '', `the entries allow execution${mode}`, `the entries do not allow execution${mode}`),
    ...(context.mbec === false ? ignored(6, 6, 'undefined without mode-based execute control') : [userExecute]),
    flag('linear', 7, '', 'the guest linear-address field is valid', 'no guest linear address'),
    ...(linear
      ? [flag('final', 8, '', 'the translation of the linear address', 'a guest paging-structure entry')]
      : ignored(8, 8, 'reserved without a linear address')),
    ...(final && context.advanced !== false ? advanced : ignored(11, 9, 'undefined here')),
    flag('nmi', 12, '', 'NMI unblocking due to IRET', 'no NMI unblocking'),
    flag('shadow-stack', 13, '', 'a shadow-stack access', 'not a shadow-stack access'),
    flag('sss', 14, '', 'the EPT entry maps a supervisor shadow-stack page', 'not a supervisor shadow-stack page'),
    flag('verification', 15, '', 'by guest-paging verification', 'not by guest-paging verification'),
    flag('asynchronous', 16, '', 'asynchronous to instruction execution', 'not asynchronous'),
    ...reserved(31, 17),
    ...reserved(63, 32),
  ];
}

/** An EPT-violation exit qualification: `write; entry R-X; linear, final`. */
export function decodeQualification(word: Word64, context: QualificationContext = {}): DecodedWord {
  const bit = (n: number): boolean => bitOf(word, n);
  const access = [bit(0) ? 'read' : '', bit(1) ? 'write' : '', bit(2) ? 'fetch' : ''].filter((s) => s !== '').join('+');
  const user = context.mbec === true || (context.mbec === undefined && bit(6)) ? bit(6) : undefined;
  const parts = [access === '' ? 'no access' : access, `entry ${eptRights(bit(3), bit(4), bit(5), user)}`];
  parts.push(!bit(7) ? 'no linear address' : bit(8) ? 'linear, final' : 'linear, table');
  const told = context.advanced === true || (context.advanced === undefined && (bit(9) || bit(10) || bit(11)));
  if (bit(7) && bit(8) && told) {
    parts.push(`page ${bit(9) ? 'user' : 'supervisor'} ${bit(10) ? 'writable' : 'read-only'}${bit(11) ? ' NX' : ''}`);
  }
  const extras = ['NMI unblocking', 'shadow stack', 'SSS page', 'guest-paging verification', 'asynchronous'];
  parts.push(...extras.filter((_, i) => bit(12 + i)));
  if (word.hi !== 0 || word.lo >>> 17 !== 0) parts.push('RSVD(63:17)');
  return decodeWord('EPT exit qualification', word, qualificationFields(word, context), parts.join('; '));
}

/** APM vol. 2 15.25.6. */
export const NPF_FIELDS: readonly FieldSpec[] = [
  flag('p', 0, 'P', 'the nested page was present', 'the nested page was not present'),
  flag('w', 1, 'W', 'the access was a write', 'the access was a read'),
  flag('u', 2, 'U', 'a user access (every nested access is, but under GMET)', 'a supervisor access'),
  flag('rsvd', 3, 'RSVD', 'a reserved bit was set in a nested entry', 'no reserved bit was set'),
  flag('f', 4, 'F', 'a code read', 'not a code read'),
  ...reserved(5, 5),
  flag('ss', 6, 'SS', 'a shadow-stack access', 'not a shadow-stack access'),
  ...reserved(30, 7),
  rmp,
  flag('final', 32, '', 'while translating the final guest-physical address', 'not on the final address'),
  flag('table', 33, '', 'while translating a guest page-table page', 'not on a page-table page'),
  flag('enc', 34, 'ENC', 'C-bit disagreement (SEV-SNP)', 'no C-bit disagreement'),
  flag('sizem', 35, 'SIZEM', 'page-size disagreement with the RMP', 'no page-size disagreement'),
  flag('vmpl', 36, 'VMPL', 'a VMPL permission violation', 'no VMPL violation'),
  flag('sss', 37, 'SSS', 'a supervisor shadow-stack check failed', 'no supervisor shadow-stack check failed'),
  ...reserved(63, 38),
];

/** EXITINFO1 of a nested page fault: `P W U; final`. */
export function decodeNpfExitInfo1(word: Word64): DecodedWord {
  const plain = decodeWord('NPF EXITINFO1', word, NPF_FIELDS);
  const stages = [bitOf(word, 32) ? 'final' : '', bitOf(word, 33) ? 'table' : ''].filter((s) => s !== '');
  return { ...plain, short: `${plain.short}; ${stages.length === 0 ? 'no stage' : stages.join(' and ')}` };
}
