/** What a hypervisor sets up for its guest, as far as paging depends on it: SDM vol. 3C 25.6; APM vol. 2 15.12. */

import type { Word64 } from '../../bits/word64.ts';
import { exceptionName } from './fault.ts';
import { type DecodedWord, decodeWord, type FieldSpec, field, flag, hex, reserved } from './word.ts';

export const EXCEPTION_BITMAP_FIELDS: readonly FieldSpec[] = [
  ...Array.from({ length: 32 }, (_, vector) => {
    const name = exceptionName(vector);
    return { ...flag(`vector-${vector}`, vector, name, `${name} is a VM exit`, ''), meaningless: true };
  }),
  ...reserved(63, 32),
];

/** Which error codes of #PF the exception bitmap's bit 14 speaks of: those with code & mask = match (SDM vol. 3C 25.2). */
export const PFEC_FILTER_FIELDS: readonly FieldSpec[] = [
  field(
    'mask',
    31,
    0,
    (value) => `bits ${hex(value)} of the error code count`,
    (value) => `mask ${hex(value)}`,
  ),
  field(
    'match',
    63,
    32,
    (value) => `if they are ${hex(value)}, the bitmap decides; if not, its opposite`,
    (value) => `match ${hex(value)}`,
  ),
];

export const VM_FUNCTION_FIELDS: readonly FieldSpec[] = [
  flag('eptp-switching', 0, 'EPTP-switching', 'VMFUNC leaf 0 switches EPTPs', 'VMFUNC leaf 0 is a VM exit'),
  ...reserved(63, 1),
];

export function decodeExceptionBitmap(word: Word64): DecodedWord {
  return decodeWord('exception bitmap', word, EXCEPTION_BITMAP_FIELDS);
}

export function decodePfecFilter(word: Word64): DecodedWord {
  return decodeWord('page-fault error-code filter', word, PFEC_FILTER_FIELDS);
}

export function decodeVmFunctions(word: Word64): DecodedWord {
  return decodeWord('VM-function controls', word, VM_FUNCTION_FIELDS);
}
