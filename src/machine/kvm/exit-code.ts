/** What KVM makes of what the hardware reports of a fault (facts/kvm-mmu.md §6.1). */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import { PFERR_F, PFERR_HI_GUEST_PAGE, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W } from '../../mmu/fault.ts';

/** The error code of an EPT violation, made of its exit qualification; 6.1 takes "read" for "user". */
export function errorOfQualification(qualification: number, config: KvmConfig): number {
  const read = config.profile === '6.1' && (qualification & 1) !== 0 ? PFERR_U : 0;
  const write = (qualification & 2) !== 0 ? PFERR_W : 0;
  const fetch = (qualification & 4) !== 0 ? PFERR_F : 0;
  return read | write | fetch | ((qualification & 0x38) !== 0 ? PFERR_P : 0);
}

/** Low half of the error code for any fault: #PF and NPF have one, an EPT misconfiguration is a reserved bit. */
export function errorCodeOf(reported: number, misconfig: boolean, config: KvmConfig): number {
  if (misconfig) return PFERR_RSVD;
  return config.tdp && config.vendor === 'intel' ? errorOfQualification(reported, config) : reported;
}

const QUALIFICATION_LINEAR = 1 << 7;
const QUALIFICATION_FINAL = 1 << 8;

/** High half of it. Of an EPT violation: whether it met one of the guest's own tables (7.3). */
export function errorHiOf(reportedLo: number, reportedHi: number, misconfig: boolean, config: KvmConfig): number {
  if (misconfig) return 0;
  if (!config.tdp || config.vendor !== 'intel') return reportedHi;
  return (reportedLo & (QUALIFICATION_LINEAR | QUALIFICATION_FINAL)) === QUALIFICATION_LINEAR ? PFERR_HI_GUEST_PAGE : 0;
}
