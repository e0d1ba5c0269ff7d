/**
 * The bare machine as a specification: it walks for every access, so that it always says what memory as it stands
 * says, and its history knows what the processor that is compared with it may still have cached.
 */

import { ACCESS_WALKED, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { applyStep, type ProgramStep } from './program.ts';

export class Specification extends BareMachine {
  /** A fault of this machine's drops nothing: it depends on whether the machine that is compared has met it, too. */
  override forgetFaulting(): void {}

  /** That machine has met a page fault, which drops what could translate the address (SDM vol. 3A 4.10.4.1). */
  pageFaulted({ addressLo, addressHi }: ProgramStep): void {
    super.forgetFaulting(addressLo | 0, addressHi | 0);
  }

  applyWalking(ordinal: number, each: ProgramStep): void {
    applyStep(this, ordinal, each, (each.op & STEP_KIND_MASK) === StepKind.ACCESS ? ACCESS_WALKED : 0);
  }
}
