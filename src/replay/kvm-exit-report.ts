/**
 * What KVM tells a hypervisor in its guest of a fault of EPT12 or NPT12, where that is not what a processor tells
 * (facts/kvm-mmu.md §5.4, §7.2, §7.3; facts/kvm-6.1.md §7.1). KVM walks these tables in software and makes the exit's
 * qualification or EXITINFO1 of what its walk found; the bare machine's outcome is changed to that.
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { Obs } from '../formats/observation.ts';
import type { BareMachine } from '../machine/bare.ts';
import { OF_TABLE } from '../paging/access.ts';
import type { GuestOutcome } from './guest-outcome.ts';

/** Read, write and fetch, the entries' rights, the two bits about the linear address: all that 6.1 knows. */
const QUAL_6_1 = 0x1bf;
const QUAL_LINEAR_BITS = 0x180;
const QUAL_SHADOW_STACK = 1 << 13;
/** What the walker of 7.3 makes of its own. */
const QUAL_WALKER = 0x1ff;
const EXITINFO_FINAL = 1;
const EXITINFO_TABLE = 2;

/**
 * Changes `outcome`, which `machine` has just come to. `software`: KVM's emulator made the access, not the processor.
 * `seen`: what the guest on KVM saw.
 */
export function reportByKvm(
  outcome: GuestOutcome,
  machine: BareMachine,
  profile: KvmProfile,
  software: boolean,
  seen: GuestOutcome,
): void {
  const second = machine.tdpWalk;
  if (second === null) return;
  if (outcome.kind === Obs.NPF && software && profile !== '6.1') {
    outcome.valueHi = (second.faultAccess & OF_TABLE) !== 0 ? EXITINFO_TABLE : EXITINFO_FINAL;
  }
  if (outcome.kind !== Obs.EPT_VIOLATION) return;
  if (profile !== '6.1') {
    outcome.valueLo = software ? second.qualification & QUAL_WALKER : outcome.valueLo & ~QUAL_SHADOW_STACK;
  } else if (software) {
    // Left over from the last violation of any kind, also of one that the guest never heard of.
    outcome.valueLo = (outcome.valueLo & ~QUAL_LINEAR_BITS) | (seen.valueLo & QUAL_LINEAR_BITS);
  } else {
    outcome.valueLo &= QUAL_6_1;
  }
}
