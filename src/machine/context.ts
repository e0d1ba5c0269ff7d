/**
 * Tags of cached translations: which (VPID or ASID, EP4TA, PCID) the processor runs under, as small numbers.
 *
 * A *space* is what global translations are shared within; a *context* is a space and a PCID. Space and context 0 are
 * never given out, so that 0 can mean "empty" to the TLB.
 */

import { CR4_PCIDE, GuestMode, Reg, SECONDARY_EPT, SECONDARY_VPID } from '../formats/registers.ts';

/** Contexts known at once; beyond that the owner must drop every translation and start anew. */
const MAXIMUM_CONTEXTS = 1 << 16;

export class Contexts {
  private readonly numbers = new Map<string, number>();
  /** Number of the current space and context. */
  space = 0;
  context = 0;
  /** VPID under VMX, ASID under SVM, 0 for the host or without tags. */
  asid = 0;
  /** Current PCID, 0 without CR4.PCIDE. */
  pcid = 0;
  /** EPTP bits 51:12 as a frame number, 0 without EPT (the EP4TA, SDM vol. 3C 29.4.1). */
  ep4ta = 0;

  /** Recomputes all of it from the registers. Returns false when the numbers ran out and were started anew. */
  update(registers: Uint32Array): boolean {
    const low = (register: number): number => registers[2 * register]!;
    const mode = low(Reg.GUEST_MODE);
    const controls = low(Reg.SECONDARY_CONTROLS);
    this.asid = 0;
    this.ep4ta = 0;
    if (mode === GuestMode.VMX) {
      if ((controls & SECONDARY_VPID) !== 0) this.asid = low(Reg.VPID);
      if ((controls & SECONDARY_EPT) !== 0) {
        this.ep4ta = (registers[2 * Reg.EPTP + 1]! & 0xf_ffff) * 0x10_0000 + (low(Reg.EPTP) >>> 12);
      }
    } else if (mode === GuestMode.SVM) {
      this.asid = low(Reg.ASID);
    }
    this.pcid = (low(Reg.CR4) & CR4_PCIDE) !== 0 ? low(Reg.CR3) & 0xfff : 0;
    const fresh = this.numbers.size < MAXIMUM_CONTEXTS;
    if (!fresh) this.numbers.clear();
    this.space = this.number(`${mode} ${this.asid} ${this.ep4ta}`);
    this.context = this.number(`${this.space}/${this.pcid}`);
    return fresh;
  }

  private number(key: string): number {
    let number = this.numbers.get(key);
    if (number === undefined) {
      number = this.numbers.size + 1;
      this.numbers.set(key, number);
    }
    return number;
  }
}
