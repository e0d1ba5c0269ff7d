/** Which guests of its guest the emulated KVM can run as a processor would. */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import {
  CR4_LA57,
  EFER_LMA,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
} from '../../formats/registers.ts';

/**
 * Whether KVM lets its guest run an L2 with the controls in `registers` (2 elements each, in the order of `Reg`), and can
 * follow it. Not: an L2 of the other vendor's kind, or on nested paging above shadow paging (facts/kvm-mmu.md §1.3); on
 * MBEC where the processor does not report whether a fetch was from a user page (`advancedInfo`), so that KVM takes all
 * for fetches from supervisor pages and lets L2 fault for ever (§6.1); on NPT of five levels above one of four, which KVM
 * shadows as if L1's had four (§2.5). 6.1 does as if there were no MBEC.
 */
export function offersL2(registers: Uint32Array, config: KvmConfig, advancedInfo: boolean): boolean {
  const { vendor, tdp, tdpLevel, profile } = config;
  const vmx = registers[2 * Reg.GUEST_MODE] === GuestMode.VMX;
  if (vmx !== (vendor === 'intel')) return false;
  const control = registers[2 * (vmx ? Reg.SECONDARY_CONTROLS : Reg.NESTED_CONTROL)]!;
  if ((control & (vmx ? SECONDARY_EPT : NESTED_NP_ENABLE)) === 0) return true;
  if (!tdp) return false;
  if (vmx) return profile === '6.1' || advancedInfo || (control & SECONDARY_MBEC) === 0;
  const long = (registers[2 * Reg.HOST_EFER]! & EFER_LMA) !== 0;
  return tdpLevel === 5 || !long || (registers[2 * Reg.HOST_CR4]! & CR4_LA57) === 0;
}
