/** EPT pointers: which ones KVM lets L1 use, and which of them are of the same tables (facts/kvm-mmu.md §7.3, §8.5). */

import { EPTP_AD } from '../formats/registers.ts';

/** IA32_VMX_EPT_VPID_CAP as L1 reads it (SDM vol. 3D A.10). */
export interface EptVpidCap {
  readonly lo: number;
  readonly hi: number;
}

// Low half.
export const CAP_EXECUTE_ONLY = 1 << 0;
const CAP_WALK_4 = 1 << 6;
const CAP_WALK_5 = 1 << 7;
const CAP_UNCACHEABLE = 1 << 8;
const CAP_WRITE_BACK = 1 << 14;
export const CAP_INVEPT = 1 << 20;
const CAP_AD = 1 << 21;
/** INVEPT type t: bit 24 + t. */
export const CAP_INVEPT_TYPES_SHIFT = 24;
// High half.
export const CAP_HI_INVVPID = 1 << 0;
/** INVVPID type t: bit 8 + t. */
export const CAP_HI_INVVPID_TYPES_SHIFT = 8;

const UNCACHEABLE = 0;
const WRITE_BACK = 6;
const LENGTH_4 = 3 << 3;
const LENGTH_5 = 4 << 3;
/** Bits 11:7. */
const RESERVED = 0xf80;

/** nested_vmx_check_eptp. */
export function isValidEptp(lo: number, hi: number, cap: EptVpidCap, maxphyaddr: number): boolean {
  const type = lo & 7;
  const length = lo & 0x38;
  const typeCap = type === UNCACHEABLE ? CAP_UNCACHEABLE : type === WRITE_BACK ? CAP_WRITE_BACK : 0;
  const lengthCap = length === LENGTH_4 ? CAP_WALK_4 : length === LENGTH_5 ? CAP_WALK_5 : 0;
  if ((cap.lo & typeCap) === 0 || (cap.lo & lengthCap) === 0) return false;
  if ((lo & RESERVED) !== 0 || hi >>> 0 >= 2 ** (maxphyaddr - 32)) return false;
  return (lo & EPTP_AD) === 0 || (cap.lo & CAP_AD) !== 0;
}

/** Bits 51:12 as a frame number: what the processor tags translations with (EP4TA, SDM vol. 3C 29.4.1). */
export function ep4taOf(lo: number, hi: number): number {
  return (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);
}
