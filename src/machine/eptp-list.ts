/**
 * VMFUNC leaf 0: switching to an EPTP of the list that the hypervisor has set up (SDM vol. 3C 26.5.6.3). What is refused
 * is a VM exit and changes nothing.
 */

import { EPTP_AD, GuestMode, Reg, SECONDARY_EPT, SECONDARY_VMFUNC } from '../formats/registers.ts';
import type { BareMachine } from './bare.ts';

const LIST_ENTRIES = 512;
const EPTP_SWITCHING = 1 << 0;
// EPTP (SDM vol. 3C 25.6.11).
const MEMORY_TYPE = 7;
const WALK_LENGTH_SHIFT = 3;
const WALK_LENGTH_MASK = 7;
const RESERVED_LOW = 0xf80;
// What of it a processor knows: IA32_VMX_EPT_VPID_CAP (SDM vol. 3D A.10), by memory type and by walk length.
const CAP_TYPES: readonly number[] = [1 << 8, 0, 0, 0, 0, 0, 1 << 14, 0];
const CAP_LENGTHS: readonly number[] = [0, 0, 0, 1 << 6, 1 << 7, 0, 0, 0];
const CAP_AD = 1 << 21;
/** Of all these none: a recorder that does not know them. */
const CAP_ANY = CAP_TYPES[0]! | CAP_TYPES[6]! | CAP_LENGTHS[3]! | CAP_LENGTHS[4]! | CAP_AD;

/** Whether VM entry takes the EPTP (SDM vol. 3C 27.2.1.1). `capabilities`: low half of IA32_VMX_EPT_VPID_CAP. */
export function isValidEptp(lo: number, hi: number, maxphyaddr: number, capabilities: number): boolean {
  const known = (capabilities & CAP_ANY) === 0 ? CAP_ANY : capabilities;
  const type = CAP_TYPES[lo & MEMORY_TYPE]!;
  const length = CAP_LENGTHS[(lo >>> WALK_LENGTH_SHIFT) & WALK_LENGTH_MASK]!;
  if ((known & type) === 0 || (known & length) === 0) return false;
  if ((lo & EPTP_AD) !== 0 && (known & CAP_AD) === 0) return false;
  return (lo & RESERVED_LOW) === 0 && (hi >>> 0) / 2 ** (maxphyaddr - 32) < 1;
}

/** Switches to entry `lo`:`hi` of the list, if the hypervisor allows it and the entry is an EPTP. */
export function switchByList(machine: BareMachine, lo: number, hi: number): void {
  const { registers, memory, features } = machine;
  const controls = machine.register(Reg.SECONDARY_CONTROLS);
  const allowed = (controls & SECONDARY_EPT) !== 0 && (controls & SECONDARY_VMFUNC) !== 0;
  if (machine.register(Reg.GUEST_MODE) !== GuestMode.VMX || !allowed) return;
  if ((machine.register(Reg.VM_FUNCTION_CONTROLS) & EPTP_SWITCHING) === 0) return;
  if (hi !== 0 || lo >>> 0 >= LIST_ENTRIES) return;
  const listLo = machine.register(Reg.EPTP_LIST) & ~0xfff;
  const listHi = registers[2 * Reg.EPTP_LIST + 1]! & 0xf_ffff;
  const word = memory.pageIndex(listLo, listHi) + 2 * lo;
  const eptpLo = memory.words[word]! >>> 0;
  const eptpHi = memory.words[word + 1]! >>> 0;
  if (isValidEptp(eptpLo, eptpHi, features.maxphyaddr, machine.eptCapabilities))
    machine.setRegister(Reg.EPTP, eptpLo, eptpHi);
}
