/**
 * Entries into a guest that a processor refuses because of PDPTEs, while a trace goes on as if it had not: what its guest
 * then does, no machine can follow. By vCPU, of a bare machine; `machine/kvm/transitions.ts` knows of its own.
 */

import { CR0_PG, CR4_PAE, EFER_LMA, GuestMode, Reg, SECONDARY_EPT } from '../formats/registers.ts';
import { reservedPae } from '../paging/reserved-bits.ts';

/** Whether PAE paging is in force. `registers`: 2 elements each, in the order of `Reg`. */
function pagesWithPae(registers: Uint32Array): boolean {
  if ((registers[2 * Reg.CR0]! & CR0_PG) === 0 || (registers[2 * Reg.EFER]! & EFER_LMA) !== 0) return false;
  return (registers[2 * Reg.CR4]! & CR4_PAE) !== 0;
}

/** One of four PDPTEs, two halves each from element `at` on, is present and has a reserved bit (SDM vol. 3A 4.4.1). */
function hasReservedPdpte(words: Int32Array | Uint32Array, at: number, maxphyaddr: number): boolean {
  const { lo, hi } = reservedPae({ maxphyaddr, nx: true, page1g: false, amd: false });
  for (let i = at; i < at + 8; i += 2) {
    if ((words[i]! & 1) !== 0 && ((words[i]! & lo[3]!) | (words[i + 1]! & hi[3]!)) !== 0) return true;
  }
  return false;
}

/**
 * Whether VM entry with EPT refuses the PDPTE registers that it is to load; without PAE paging it loads none
 * (SDM vol. 3C 27.3.1.6).
 */
export function refusesPdpteFields(registers: Uint32Array, maxphyaddr: number): boolean {
  const ept = (registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_EPT) !== 0;
  if (registers[2 * Reg.GUEST_MODE] !== GuestMode.VMX || !ept || !pagesWithPae(registers)) return false;
  return hasReservedPdpte(registers, 2 * Reg.PDPTE0, maxphyaddr);
}

/** What is asked of a machine. */
interface Entered {
  readonly registers: Uint32Array;
  readonly features: { readonly maxphyaddr: number };
  readonly memory: { readonly words: Int32Array | Uint32Array; pageIndex(lo: number, hi: number): number };
  /** The second stage in force, or null. */
  readonly tdpWalk: object | null;
}

export class RefusedEntries {
  /** vCPUs that enter a guest whose registers, its mode among them, are still to come. */
  private readonly waiting = new Set<number>();
  private readonly refused = new Set<number>();

  /** A NESTED_ENTRY step of `vcpu`: whether it is refused is asked when registers are next looked at. */
  enter(vcpu: number): void {
    this.waiting.add(vcpu);
    this.refused.delete(vcpu);
  }

  /** A NESTED_EXIT step. Returns whether the entry that it ends was refused. */
  exit(vcpu: number): boolean {
    this.waiting.delete(vcpu);
    return this.refused.delete(vcpu);
  }

  /** Whether `vcpu` is in a guest that was never entered. Walks are configured for the registers. */
  has(vcpu: number, machine: Entered): boolean {
    if (this.waiting.size > 0 && this.waiting.has(vcpu)) this.look(vcpu, machine);
    return this.refused.size > 0 && this.refused.has(vcpu);
  }

  private look(vcpu: number, { registers, features, memory, tdpWalk }: Entered): void {
    if (registers[2 * Reg.GUEST_MODE] === GuestMode.NONE) return;
    this.waiting.delete(vcpu);
    const { maxphyaddr } = features;
    // Without a second stage the table is read from memory, as by a move to CR3.
    const cr3 = registers[2 * Reg.CR3]!;
    const table = memory.pageIndex(cr3 & ~0x1f, 0) + ((cr3 & 0xfe0) >>> 2);
    const refused =
      tdpWalk === null
        ? pagesWithPae(registers) && hasReservedPdpte(memory.words, table, maxphyaddr)
        : refusesPdpteFields(registers, maxphyaddr);
    if (refused) this.refused.add(vcpu);
  }
}
