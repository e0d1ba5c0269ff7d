/** Registers stated at the beginning instead of by steps; those that do not matter 0; one vCPU called 0. */

import { REGISTER_COUNT, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import type { ListedStep, Reducible, StepList } from './minimise-steps.ts';

function isRegisterStep({ op }: ListedStep): boolean {
  const kind = op & STEP_KIND_MASK;
  return kind === StepKind.REGISTER_SET || kind === StepKind.REGISTER_WRITE;
}

function registerOf({ op }: ListedStep): number {
  return (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
}

function withRegister({ registers }: StepList, register: number, lo: number, hi: number): Uint32Array {
  const changed = registers.slice();
  changed[2 * register] = lo;
  changed[2 * register + 1] = hi;
  return changed;
}

/** Only one vCPU makes steps: it is called 0. */
export function renumberVcpu(list: Reducible): void {
  const { best } = list;
  const number = best.steps[0]?.vcpu ?? 0;
  if (number === 0 || best.steps.some(({ vcpu }) => vcpu !== number)) return;
  list.attemptList({ ...best, steps: best.steps.map((step) => ({ ...step, vcpu: 0 })) });
}

/**
 * All registers of vCPU 0 have from the beginning on what register steps make of them in the end; yields after every
 * attempt.
 */
export function* foldAllRegisters(list: Reducible): Generator<void, void, void> {
  const { best } = list;
  const isFolded = (step: ListedStep): boolean => isRegisterStep(step) && step.vcpu === 0;
  const folded = best.steps.slice(0, -1).filter(isFolded);
  if (folded.length < 2) return;
  const registers = best.registers.slice();
  for (const step of folded) {
    registers[2 * registerOf(step)] = step.operandLo;
    registers[2 * registerOf(step) + 1] = step.operandHi;
  }
  const last = best.steps.length - 1;
  list.attemptList({ ...best, registers, steps: best.steps.filter((step, i) => i === last || !isFolded(step)) });
  yield;
}

/** The same step by step: what the first step of a register sets, it has from the beginning on. */
export function* foldRegisters(list: Reducible): Generator<void, void, void> {
  const seen = new Set<number>();
  for (let i = 0; i < list.best.steps.length - 1 && !list.isOver(); ) {
    const { best } = list;
    const step = best.steps[i]!;
    const first = isRegisterStep(step) && step.vcpu === 0 && !seen.has(registerOf(step));
    if (isRegisterStep(step) && step.vcpu === 0) seen.add(registerOf(step));
    const steps = best.steps.filter((_, at) => at !== i);
    const registers = withRegister(best, registerOf(step), step.operandLo, step.operandHi);
    if (first && list.attemptList({ ...best, registers, steps })) {
      seen.delete(registerOf(step));
      yield;
      continue;
    }
    if (first) yield;
    i++;
  }
}

/** Those that say how the guest pages: they are part of the scenario even where a divergence does not depend on them. */
const PAGING_REGISTERS: readonly number[] = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER];

/** Other registers that do not matter are 0 at the beginning. */
export function* clearRegisters(list: Reducible): Generator<void, void, void> {
  for (let register = 0; register < REGISTER_COUNT && !list.isOver(); register++) {
    if (PAGING_REGISTERS.includes(register)) continue;
    const { best } = list;
    if (best.registers[2 * register] === 0 && best.registers[2 * register + 1] === 0) continue;
    list.attemptList({ ...best, registers: withRegister(best, register, 0, 0) });
    yield;
  }
}

/**
 * A register has its second value from the beginning on, and what needs the first one is done where it has that again;
 * yields after every attempt.
 */
export function* postponeFirstValues(list: Reducible): Generator<void, void, void> {
  for (let register = 0; register < REGISTER_COUNT; register++) {
    const { best } = list;
    const { steps } = best;
    const setsIt = (step: ListedStep): boolean =>
      isRegisterStep(step) && step.vcpu === 0 && registerOf(step) === register;
    const [lo, hi] = [best.registers[2 * register]!, best.registers[2 * register + 1]!];
    const second = steps.findIndex(setsIt);
    const again = steps.findIndex(
      (step, i) => i > second && setsIt(step) && step.operandLo === lo && step.operandHi === hi,
    );
    if (second < 0 || again < 0) continue;
    const { operandLo, operandHi } = steps[second]!;
    const registers = withRegister(best, register, operandLo, operandHi);
    for (let from = second - 1; from >= 0 && list.best === best && !list.isOver(); from--) {
      const postponed = steps.slice(from, second);
      const others = [...steps.slice(0, from), ...steps.slice(second + 1, again + 1)];
      list.attemptList({ ...best, registers, steps: [...others, ...postponed, ...steps.slice(again + 1)] });
      yield;
    }
  }
}
