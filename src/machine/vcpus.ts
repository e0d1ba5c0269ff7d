/**
 * Several vCPUs on one bare machine: its registers and its TLB hold those of the vCPU whose steps come now, this class
 * those of the others. What all share (memory, and the numbers that contexts go by) stays where it is.
 */

import { MAXIMUM_VCPUS } from '../formats/step.ts';
import type { Tlb, TlbContents } from './tlb.ts';

/** What a vCPU has of its own. */
export interface VcpuState {
  readonly registers: Uint32Array;
  readonly tlb: TlbContents;
  /** Bits 8:7 of the last EPT violation's qualification. */
  readonly lastLinearBits: number;
}

export class Vcpus {
  /** The vCPU whose steps come now. */
  current = 0;
  private readonly others = new Map<number, VcpuState>();

  /**
   * Puts the state of vCPU `vcpu` into `registers` and `tlb` and keeps what was there; a vCPU that was not seen before
   * begins with zeros. Returns the `lastLinearBits` that it had, undefined if it is new.
   */
  use(vcpu: number, registers: Uint32Array, tlb: Tlb, lastLinearBits: number): number | undefined {
    if (vcpu >= MAXIMUM_VCPUS) throw new Error(`vCPU ${vcpu} passed the reader unchecked`);
    const next = this.others.get(vcpu);
    const kept = { registers: registers.slice(), tlb: tlb.exchange(next?.tlb ?? null), lastLinearBits };
    this.others.set(this.current, kept);
    this.others.delete(vcpu);
    this.current = vcpu;
    if (next === undefined) registers.fill(0);
    else registers.set(next.registers);
    return next?.lastLinearBits;
  }

  /** The numbers of contexts were given out anew: nobody's cached translations mean anything any more. */
  forgetTranslations(): void {
    for (const [vcpu, { registers, lastLinearBits, tlb }] of this.others) {
      for (const { tag } of tlb.classes) tag.fill(0);
      this.others.set(vcpu, { registers, lastLinearBits, tlb: { ...tlb, fractured: false } });
    }
  }
}
