/**
 * What KVM tells a hypervisor in its guest of a fault of EPT12 or NPT12, where that is not what a processor tells
 * (facts/kvm-mmu.md §5.4, §7.2, §7.3; facts/kvm-6.1.md §7.1). KVM walks these tables in software and makes the exit's
 * qualification or EXITINFO1 of what its walk found; the bare machine's outcome is changed to that.
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { BareMachine } from '../machine/bare.ts';
import { OF_TABLE } from '../paging/access.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { GuestOutcome } from './guest-outcome.ts';

/** Read, write and fetch, the entries' rights, the two bits about the linear address: all that 6.1 knows. */
const QUAL_6_1 = 0x1bf;
const QUAL_LINEAR_BITS = 0x180;
const QUAL_SHADOW_STACK = 1 << 13;
/** What the walker of 7.3 makes of its own. */
const QUAL_WALKER = 0x1ff;
const EXITINFO_FINAL = 1;
const EXITINFO_TABLE = 2;

const QUAL_RIGHTS = 0x78;
const QUAL_RIGHTS_SHIFT = 3;
const QUAL_USER_EXECUTE = 1 << 6;
const RWX = 7;
const USER_EXECUTE = 1 << 10;

/**
 * The rights that EPT's tables have given before a table without a slot was reached, which reads as not present, as
 * qualification bits 6:3. KVM reports them, a processor those of the zeros that it reads. Undefined: no such table.
 */
function rightsBefore({ log, tdpWalk }: BareMachine, hasSlot: (frame: number) => boolean): number | undefined {
  const { rows } = log;
  let at = (log.count - 1) * ROW;
  while (at >= 0 && (rows[at]! & OBS_KIND_MASK) !== Obs.ELEMENT) at -= ROW;
  if (at < 0 || hasSlot(frameOf(rows[at + ROW_ADDRESS_LO]!, rows[at + ROW_ADDRESS_HI]!))) return undefined;
  let all = -1;
  for (at -= ROW; at >= 0 && (rows[at]! & OBS_KIND_MASK) === Obs.ELEMENT; at -= ROW) all &= rows[at + ROW_VALUE_LO]!;
  const user = tdpWalk?.mbec === true && (all & USER_EXECUTE) !== 0 ? QUAL_USER_EXECUTE : 0;
  return ((all & RWX) << QUAL_RIGHTS_SHIFT) | user;
}

/**
 * Changes `outcome`, which `machine` has just come to. `software`: KVM's emulator made the access, not the processor.
 * `seen`: what the guest on KVM saw. `hasSlot`: whether a frame of the guest's memory has a slot.
 */
export function reportByKvm(
  outcome: GuestOutcome,
  machine: BareMachine,
  profile: KvmProfile,
  software: boolean,
  seen: GuestOutcome,
  hasSlot: (frame: number) => boolean,
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
  const rights = rightsBefore(machine, hasSlot);
  if (rights !== undefined) outcome.valueLo = (outcome.valueLo & ~QUAL_RIGHTS) | rights;
}
