/** IA32_VMX_EPT_VPID_CAP as L1 reads it (SDM vol. 3D A.10). */

import type { Word64 } from '../../bits/word64.ts';
import type { TraceHeader } from '../../trace/header.ts';

/** Walks of 4 and 5 levels; EPTPs uncacheable, write-back, with A and D bits; INVEPT, single and global. */
const USED_LO = (1 << 6) | (1 << 7) | (1 << 8) | (1 << 14) | (1 << 20) | (1 << 21) | (3 << 25);
/** INVVPID, all four types. */
const USED_HI = (1 << 0) | (0xf << 8);

/**
 * `recorded`: what the recorded KVM offered. A trace of a bare processor has EPTPs and invalidations that were valid there,
 * whatever its header says of them: they are offered.
 */
export function eptVpidCapOf({ processor }: TraceHeader, recorded: boolean): Word64 {
  const { lo, hi } = processor.eptVpidCap;
  return recorded ? { lo, hi } : { lo: (lo | USED_LO) >>> 0, hi: (hi | USED_HI) >>> 0 };
}
