/** Which exceptions of a guest are VM exits to its hypervisor (SDM vol. 3C 25.2; APM vol. 2 15.12). */

import { GuestMode, Reg } from '../formats/registers.ts';

const PAGE_FAULT = 14;

/** Whether the exception of a running guest is intercepted. `errorCode`: of #PF. */
export function interceptsException(registers: Uint32Array, vector: number, errorCode: number): boolean {
  const mode = registers[2 * Reg.GUEST_MODE]!;
  if (mode === GuestMode.NONE) return false;
  const intercepted = ((registers[2 * Reg.EXCEPTION_BITMAP]! >>> vector) & 1) !== 0;
  if (vector !== PAGE_FAULT || mode !== GuestMode.VMX) return intercepted;
  // The bitmap's bit 14 says what happens to error codes that match; the others are treated the other way round.
  const mask = registers[2 * Reg.PFEC_MASK_MATCH]!;
  const match = registers[2 * Reg.PFEC_MASK_MATCH + 1]!;
  return ((errorCode & mask) >>> 0 === match) === intercepted;
}
