/** What the machine meets and does not model: found when the registers change, told by name when an access needs it. */

import { NotModelled } from '../formats/observation.ts';
import {
  CR0_PG,
  CR3_LAM_HI,
  CR4_LAM_SUP,
  CR4_LASS,
  CR4_PAE,
  EFER_LMA,
  GuestMode,
  Reg,
  SECONDARY_SPP,
} from '../formats/registers.ts';
import type { PageWalk } from '../paging/page-walk.ts';

/** One of `NotModelled` that stands in the way of accesses in this state, or 0. `second`: the second stage, or null. */
export function unmodelledFeature(registers: Uint32Array, second: PageWalk | null): number {
  const low = (register: number): number => registers[2 * register]!;
  const cr4 = low(Reg.CR4);
  const longMode = (low(Reg.EFER) & EFER_LMA) !== 0;
  if (longMode && (cr4 & CR4_LASS) !== 0) return NotModelled.LASS;
  if (longMode && ((cr4 & CR4_LAM_SUP) !== 0 || (registers[2 * Reg.CR3 + 1]! & CR3_LAM_HI) !== 0)) {
    return NotModelled.LAM;
  }
  const vmx = low(Reg.GUEST_MODE) === GuestMode.VMX;
  if (vmx && (low(Reg.SECONDARY_CONTROLS) & SECONDARY_SPP) !== 0) return NotModelled.SUB_PAGE_PERMISSIONS;
  // Combinations that no processor enters: long mode without PAE, EPT of a depth that does not exist.
  if (longMode && (low(Reg.CR0) & CR0_PG) !== 0 && (cr4 & CR4_PAE) === 0) return NotModelled.PAGING_MODE;
  if (second?.ept && second.rootLevel !== 4 && second.rootLevel !== 5) return NotModelled.PAGING_MODE;
  return 0;
}
