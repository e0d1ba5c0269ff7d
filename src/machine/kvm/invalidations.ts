/** Invalidation instructions of L1 and L2: what the processor does itself, and what comes to KVM (facts/kvm-mmu.md §8.4, §8.5). */

import {
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
} from '../../formats/step.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import type { Nested } from '../../nested/nested.ts';
import type { Processor } from './processor.ts';

export class Invalidations {
  private readonly vcpu: Vcpu;
  private readonly nested: Nested;
  private readonly processor: Processor;

  constructor(vcpu: Vcpu, nested: Nested, processor: Processor) {
    this.vcpu = vcpu;
    this.nested = nested;
    this.processor = processor;
  }

  /** An INVALIDATE step; operands as there. */
  apply(op: number, lo: number, hi: number, tagLo: number, tagHi: number): void {
    const { vcpu, nested, processor } = this;
    const { tdp } = vcpu.pages.config;
    const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
    switch ((op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK) {
      case Invalidation.INVLPG:
        if (tdp) processor.invalidate(op, lo, hi, tagLo, tagHi);
        else vcpu.invlpg(lo, hi);
        break;
      case Invalidation.INVPCID:
        if (tdp) processor.invalidate(op, lo, hi, tagLo, tagHi);
        else vcpu.invpcid(type, tagLo & 0xfff, lo, hi);
        break;
      // Whatever the guest has, the instructions of VMX and SVM are KVM's.
      case Invalidation.INVLPGA:
        nested.invlpga(lo, hi, tagLo >>> 0);
        break;
      case Invalidation.INVEPT:
        nested.invept(type, tagLo, tagHi);
        break;
      case Invalidation.INVVPID:
        nested.invvpid(type, tagLo >>> 0, lo, hi);
        break;
      case Invalidation.EPTP_SWITCH:
        if (nested.active) nested.switchEptp(tagLo, tagHi);
        processor.registersChanged();
    }
  }
}
