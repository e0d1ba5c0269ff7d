/** What VMX and SVM have in common when L2 is entered or left: whose CR3 it is now, and what they differ in. */

import { Reg } from '../formats/registers.ts';
import type { HardwareExit, Injection } from '../mmu/injection.ts';
import { Mutant } from '../mmu/mutants.ts';
import type { Vcpu } from '../mmu/vcpu.ts';

/** A vendor's half of `Nested`. Meanings as there. */
export interface NestedVendor {
  enter(l1: Uint32Array): boolean;
  exit(): void;
  reflect(fromHardware: boolean, exit: HardwareExit, injection: Injection): void;
  interceptsPageFault(errorCode: number): boolean;
  traceInjection(injection: Injection): void;
}

/**
 * nested_vmx_load_cr3, nested_svm_load_cr3: the MMU is set up always, a new root is looked for only where CR3 has one.
 * `nestedTdp`: L2 with nested paging is entered, whose CR3 the second stage translates. False: a PDPTE has a reserved bit.
 */
export function loadCr3(vcpu: Vcpu, nestedTdp: boolean): boolean {
  if (!loadPdptes(vcpu, nestedTdp)) return false;
  vcpu.initMmu();
  if (!nestedTdp) vcpu.newPgd();
  return true;
}

function loadPdptes(vcpu: Vcpu, nestedTdp: boolean): boolean {
  const { registers } = vcpu;
  if (nestedTdp || !vcpu.paePaging) return true;
  return vcpu.loadPdptes(registers[2 * Reg.CR3]!, registers[2 * Reg.CR3 + 1]!);
}

/** The same for L1's own CR3, which L1 gets back. */
export function leave(vcpu: Vcpu): void {
  const { wiring, pages } = vcpu;
  if (wiring.name === 'gva-walk' && pages.mutants.has(Mutant.L2_WALK_AFTER_EXIT)) {
    loadPdptes(vcpu, false);
    vcpu.initRoot();
    vcpu.newPgd();
  } else {
    loadCr3(vcpu, false);
  }
}

/** An L2 without nested paging is entered, and the common walk goes through the second stage all the same. */
export function translatesAnyway(vcpu: Vcpu): boolean {
  return vcpu.wiring.name === 'gva-walk' && vcpu.pages.mutants.has(Mutant.TRANSLATES_IN_GUEST_MODE);
}
