/**
 * Which register writes a processor accepts (SDM vol. 3A 2.5, 4.1.2, 4.10.1; vol. 2B, MOV to control registers):
 * programs make no others, but for PDPTEs with reserved bits, whose refusal every machine has to tell.
 */

import { CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, Reg } from '../formats/registers.ts';
import {
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  Invalidation,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { ProgramStep } from './program.ts';

const PCID_MASK = 0xfff;
const NO_FLUSH_HI = 0x8000_0000;

/** Whether a processor whose registers are `registers` accepts the step. */
export function accepts(registers: Uint32Array, each: ProgramStep): boolean {
  const low = (register: number): number => registers[2 * register]!;
  const { op, operandLo: lo, operandHi: hi } = each;
  const pcide = (low(Reg.CR4) & CR4_PCIDE) !== 0;
  const longMode = (low(Reg.EFER) & EFER_LMA) !== 0;
  const paging = (low(Reg.CR0) & CR0_PG) !== 0;
  if ((op & STEP_KIND_MASK) === StepKind.INVALIDATE) {
    const what = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
    return what !== Invalidation.INVPCID || pcide || lo === 0;
  }
  if ((op & STEP_KIND_MASK) !== StepKind.REGISTER_WRITE) return true;
  switch ((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK) {
    case Reg.CR0: {
      if ((lo & CR0_PE) === 0) return false;
      if ((lo & CR0_PG) === 0) return !paging || !pcide;
      const entersLongMode = !paging && (low(Reg.EFER) & EFER_LME) !== 0;
      return !entersLongMode || (low(Reg.CR4) & CR4_PAE) !== 0;
    }
    case Reg.CR3:
      return (hi & NO_FLUSH_HI) === 0 || pcide;
    case Reg.CR4: {
      const changed = low(Reg.CR4) ^ lo;
      if (longMode && (changed & (CR4_PAE | CR4_LA57)) !== 0) return false;
      if ((lo & CR4_PCIDE) !== 0 && !longMode) return false;
      return (changed & lo & CR4_PCIDE) === 0 || (low(Reg.CR3) & PCID_MASK) === 0;
    }
    case Reg.EFER:
      return !paging || ((low(Reg.EFER) ^ lo) & EFER_LME) === 0;
    default:
      return true;
  }
}
