/**
 * States that no processor can be in: a list from which a step is left out must not get into one that the whole list did
 * not get into. Judged before every step but register steps, which pass through anything.
 */

import { CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import type { StepList } from './minimise-steps.ts';

/** Low halves of CR0, CR4 and EFER. */
type Controls = readonly [cr0: number, cr4: number, efer: number];

/** Each is true of a state that cannot be (SDM vol. 3A 2.5, 4.1.1, 4.10.1; vol. 2 MOV to control registers). */
const IMPOSSIBLE: readonly ((controls: Controls) => boolean)[] = [
  ([cr0]) => (cr0 & CR0_PG) !== 0 && (cr0 & CR0_PE) === 0,
  ([cr0]) => (cr0 & CR0_NW) !== 0 && (cr0 & CR0_CD) === 0,
  ([cr0, , efer]) => ((efer & EFER_LMA) !== 0) !== ((efer & EFER_LME) !== 0 && (cr0 & CR0_PG) !== 0),
  ([, cr4, efer]) => (efer & EFER_LMA) !== 0 && (cr4 & CR4_PAE) === 0,
  ([, cr4, efer]) => (cr4 & CR4_PCIDE) !== 0 && (efer & EFER_LMA) === 0,
];

const CONTROLS: readonly number[] = [Reg.CR0, Reg.CR4, Reg.EFER];

/** The impossible states that the list gets into, one bit each. */
export function impossibleStates({ registers, steps }: StepList): number {
  const controls = new Map<number, [number, number, number]>();
  const of = (vcpu: number): [number, number, number] => {
    const known = controls.get(vcpu);
    if (known !== undefined) return known;
    const first = vcpu === 0 ? CONTROLS.map((register) => registers[2 * register]!) : [0, 0, 0];
    const fresh = first as [number, number, number];
    controls.set(vcpu, fresh);
    return fresh;
  };
  let met = 0;
  for (const { op, operandLo, vcpu } of steps) {
    const kind = op & STEP_KIND_MASK;
    const now = of(vcpu);
    if (kind === StepKind.REGISTER_SET || kind === StepKind.REGISTER_WRITE) {
      const at = CONTROLS.indexOf((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK);
      if (at >= 0) now[at] = operandLo;
      continue;
    }
    IMPOSSIBLE.forEach((isMet, bit) => {
      if (isMet(now)) met |= 1 << bit;
    });
  }
  return met;
}
