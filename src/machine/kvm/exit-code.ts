/** What KVM makes of what the hardware reports of a fault (facts/kvm-mmu.md §6.1). */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import { PFERR_F, PFERR_HI_GUEST_PAGE, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W } from '../../mmu/fault.ts';

// Exit qualification of an EPT violation (SDM vol. 3C table 28-7).
const READ = 1 << 0;
const WRITE = 1 << 1;
const FETCH = 1 << 2;
const RIGHTS = 7 << 3;
const USER_EXECUTE = 1 << 6;
const LINEAR = 1 << 7;
const FINAL = 1 << 8;
const USER_PAGE = 1 << 9;

/** In the high half: the final address was what could not be translated (PFEC bit 32). */
const PFERR_HI_GUEST_FINAL = 1 << 0;

/** What the meaning of a qualification depends on. */
export interface QualificationRules {
  readonly config: KvmConfig;
  /** The processor reports the rights of the guest's own entries (IA32_VMX_EPT_VPID_CAP bit 22). */
  readonly advancedInfo: boolean;
}

/**
 * The error code of an EPT violation, low half, made of its exit qualification. 6.1 takes "read" for "user".
 * `mbec`: the EPT in force tells fetches of user pages from others.
 */
export function errorOfQualification(qualification: number, rules: QualificationRules, mbec: boolean): number {
  const write = (qualification & WRITE) !== 0 ? PFERR_W : 0;
  const fetch = (qualification & FETCH) !== 0 ? PFERR_F : 0;
  const rights = mbec ? RIGHTS | USER_EXECUTE : RIGHTS;
  return userOf(qualification, rules) | write | fetch | ((qualification & rights) !== 0 ? PFERR_P : 0);
}

function userOf(qualification: number, { config, advancedInfo }: QualificationRules): number {
  if (config.profile === '6.1') return (qualification & READ) !== 0 ? PFERR_U : 0;
  const user = LINEAR | FINAL | USER_PAGE;
  return advancedInfo && (qualification & user) === user ? PFERR_U : 0;
}

/** High half: whether the fault met the final address or one of the guest's own tables. 6.1 does not ask whether bit 8 is valid. */
function errorHiOfQualification(qualification: number, { config }: QualificationRules): number {
  if (config.profile !== '6.1' && (qualification & LINEAR) === 0) return 0;
  return (qualification & FINAL) !== 0 ? PFERR_HI_GUEST_FINAL : PFERR_HI_GUEST_PAGE;
}

/** Error code for any fault: #PF and NPF have one, an EPT misconfiguration is a reserved bit. */
export class ErrorCode {
  lo = 0;
  hi = 0;
  private readonly rules: QualificationRules;
  private readonly ept: boolean;

  constructor(rules: QualificationRules) {
    this.rules = rules;
    this.ept = rules.config.tdp && rules.config.vendor === 'intel';
  }

  /** `infoLo`, `infoHi`: error code, EXITINFO1 or qualification. */
  take(infoLo: number, infoHi: number, misconfig: boolean, mbec: boolean): void {
    if (misconfig) {
      this.lo = PFERR_RSVD;
      this.hi = 0;
    } else if (this.ept) {
      this.lo = errorOfQualification(infoLo, this.rules, mbec);
      this.hi = errorHiOfQualification(infoLo, this.rules);
    } else {
      this.lo = infoLo;
      this.hi = infoHi;
    }
  }
}
