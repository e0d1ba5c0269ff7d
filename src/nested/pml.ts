/** L1's page-modification log, which KVM's software writes while it sets D in L1's EPT (facts/kvm-mmu.md §7.3). */

import { Reg } from '../formats/registers.ts';
import { frameOf, type GuestMemory } from '../paging/guest-memory.ts';

const ENTRIES = 512;

/** Logs an nGPA by L1's controls in `registers`; what cannot be written is not logged. False: the log is full. */
export function logDirty(registers: Uint32Array, memory: GuestMemory, lo: number, hi: number): boolean {
  // Nobody has said where the log is: the rule of paging/configure.ts.
  if ((registers[2 * Reg.PML_ADDRESS]! | registers[2 * Reg.PML_ADDRESS + 1]!) === 0) return true;
  const index = registers[2 * Reg.PML_INDEX]! & 0xffff;
  if (index >= ENTRIES) return false;
  const frame = frameOf(registers[2 * Reg.PML_ADDRESS]!, registers[2 * Reg.PML_ADDRESS + 1]!);
  if (memory.pageIndexOf(frame) < 0 || !memory.isWritable(frame)) return true;
  memory.writeEntry(frame, 8 * index, lo & ~0xfff, hi, 8);
  memory.markDirty(frame);
  registers[2 * Reg.PML_INDEX] = (index - 1) & 0xffff;
  return true;
}
