/** How an access of the processor ended: the row that says so, in words, and what ended it besides entries and rights. */

import { hexText } from '../bits/word64.ts';
import { decodePfec, decodeQualification } from '../formats/decode/fault.ts';
import { pageSizeName } from '../formats/decode/page-table-entry.ts';
import {
  OBS_KIND_MASK,
  OBS_PAGE_SHIFT_MASK,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../formats/observation.ts';
import type { ExplainedCheck } from './explanation.ts';
import type { Row } from './result.ts';

export function kindOf(row: Row): number {
  return row.op & OBS_KIND_MASK;
}

/** Of an EXCEPTION row. */
export function vectorOf(row: Row): number {
  return (row.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
}

/** What ends an access besides entries and rights. */
export function specialCheck(row: Row): ExplainedCheck | undefined {
  const failed = { outcome: 'fail' as const };
  const vector = vectorOf(row);
  if (kindOf(row) === Obs.PML_FULL) {
    const rule = 'a page that becomes dirty needs room in the page-modification log';
    return { name: 'log', rule, citation: 'SDM vol. 3C 29.3.6', ...failed, detail: 'the index is beyond 511' };
  }
  if (kindOf(row) !== Obs.EXCEPTION || (vector !== 12 && vector !== 13)) return undefined;
  const rule = 'the linear address must be canonical';
  return {
    name: 'canonical',
    rule,
    citation: 'SDM vol. 1 3.3.7.1',
    ...failed,
    detail: 'its upper bits are not all equal',
  };
}

export function resultText(row: Row): string {
  const address = hexText(row.addressLo, row.addressHi);
  switch (kindOf(row)) {
    case Obs.TRANSLATED: {
      const size = pageSizeName((row.op >>> OBS_PAGE_SHIFT_SHIFT) & OBS_PAGE_SHIFT_MASK);
      const gpa = hexText(row.valueLo, row.valueHi);
      return `translated to ${address}${gpa === address ? '' : `, guest-physical ${gpa}`}, page of ${size}`;
    }
    case Obs.EXCEPTION: {
      const vector = vectorOf(row);
      if (vector !== 14) return `exception ${vector}`;
      return `#PF, error code 0x${row.valueLo.toString(16)} (${decodePfec({ lo: row.valueLo, hi: 0 }).short})`;
    }
    case Obs.EPT_VIOLATION:
      return `EPT violation at ${address}, qualification 0x${row.valueLo.toString(16)} (${decodeQualification({ lo: row.valueLo, hi: row.valueHi }).short})`;
    case Obs.EPT_MISCONFIG:
      return `EPT misconfiguration at ${address}`;
    case Obs.NPF:
      return `nested page fault at ${address}, EXITINFO1 ${hexText(row.valueLo, row.valueHi)}`;
    case Obs.PML_FULL:
      return `the page-modification log is full at ${address}`;
    case Obs.NOT_MODELLED:
      return 'the machine does not model what the access needs';
    default:
      return `observation ${kindOf(row)}`;
  }
}
