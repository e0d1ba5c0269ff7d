/**
 * Smaller in what the steps hold, once no step can be left out: registers stated at the beginning instead of by steps,
 * fewer words of page images, fewer entries of fills, one vCPU called 0.
 */

import type { Word64 } from '../bits/word64.ts';
import { REGISTER_COUNT, Reg } from '../formats/registers.ts';
import {
  PROVENANCE_MASK,
  PROVENANCE_SHIFT,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { EntryFill, PageImage, Stimulus } from '../trace/stimulus.ts';
import { leaveOut } from './minimise-list.ts';
import type { ListedStep, StepList } from './minimise-steps.ts';

/** A list that is made smaller as long as it serves. */
export interface Reducible {
  readonly best: StepList;
  /** Whether the other list serves. If so it, or what it needs of it, is `best` from then on. */
  attemptList(list: StepList): boolean;
  isOver(): boolean;
}

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

// -------------------------------------------------------------------------------------------------------------- memory

function replaced(list: StepList, at: number, step: ListedStep): StepList {
  return { ...list, steps: list.steps.map((each, i) => (i === at ? step : each)) };
}

function withStimulus(step: ListedStep, stimulus: Stimulus): ListedStep {
  return { ...step, stimulus };
}

/** A STORE of `size` bytes in the place of a rare step. */
function asStore(step: ListedStep, address: Word64, value: Word64, size: 4 | 8): ListedStep {
  const provenance = step.op & (PROVENANCE_MASK << PROVENANCE_SHIFT);
  return {
    ...step,
    op: (StepKind.STORE | provenance | (size << STORE_SIZE_SHIFT)) >>> 0,
    addressLo: address.lo,
    addressHi: address.hi,
    operandLo: value.lo,
    operandHi: size === 8 ? value.hi : 0,
    stimulus: undefined,
  };
}

function plus({ lo, hi }: Word64, bytes: number): Word64 {
  const sum = lo + bytes;
  return { lo: sum >>> 0, hi: (hi + Math.floor(sum / 0x1_0000_0000)) >>> 0 };
}

/** Page images with only the words that matter, a single word as a store; fills with only the entries that do. */
export function* reduceMemory(list: Reducible): Generator<void, void, void> {
  for (let at = 0; at < list.best.steps.length && !list.isOver(); at++) {
    const { stimulus } = list.best.steps[at]!;
    if (stimulus?.kind === 'page-image') yield* reduceImage(list, at, stimulus);
    else if (stimulus?.kind === 'entry-fill') yield* reduceFill(list, at, stimulus);
  }
}

function* reduceImage(list: Reducible, at: number, image: PageImage): Generator<void, void, void> {
  const imageOf = (words: readonly number[]): PageImage => {
    const kept = new Uint32Array(image.words.length);
    for (const word of words) kept.set(image.words.subarray(2 * word, 2 * word + 2), 2 * word);
    return { ...image, words: kept };
  };
  const all = Array.from({ length: image.words.length / 2 }, (_, word) => word);
  let best: readonly number[] = all.filter((word) => (image.words[2 * word]! | image.words[2 * word + 1]!) !== 0);
  yield* leaveOut({
    get best() {
      return best;
    },
    isOver: () => list.isOver(),
    attempt: (words) => {
      const step = withStimulus(list.best.steps[at]!, imageOf(words));
      if (!list.attemptList(replaced(list.best, at, step))) return false;
      best = words;
      return true;
    },
  });
  const [word] = best;
  if (best.length !== 1 || word === undefined) return;
  const value = { lo: image.words[2 * word]!, hi: image.words[2 * word + 1]! };
  const store = asStore(list.best.steps[at]!, plus(image.address, 8 * word), value, 8);
  list.attemptList(replaced(list.best, at, store));
  yield;
}

/** Entries `from` to `to` of a fill. */
function partOf(fill: EntryFill, from: number, to: number): EntryFill {
  const bigIncrement = (BigInt(fill.increment.hi) << 32n) | BigInt(fill.increment.lo);
  const first = ((BigInt(fill.first.hi) << 32n) | BigInt(fill.first.lo)) + BigInt(from) * bigIncrement;
  const word = BigInt.asUintN(8 * fill.size, first);
  return {
    ...fill,
    address: plus(fill.address, from * fill.size),
    count: to - from,
    first: { lo: Number(word & 0xffff_ffffn), hi: Number(word >> 32n) },
  };
}

function* reduceFill(list: Reducible, at: number, whole: EntryFill): Generator<void, void, void> {
  let fill = whole;
  const attempt = (part: EntryFill): boolean => {
    if (list.isOver() || !list.attemptList(replaced(list.best, at, withStimulus(list.best.steps[at]!, part)))) {
      return false;
    }
    fill = part;
    return true;
  };
  for (let size = Math.floor(fill.count / 2); size >= 1; ) {
    const left = size < fill.count && attempt(partOf(fill, size, fill.count));
    const right = size < fill.count && attempt(partOf(fill, 0, fill.count - size));
    yield;
    if (!left && !right) size = Math.floor(size / 2);
    else size = Math.min(size, Math.floor(fill.count / 2));
  }
  if (fill.count !== 1) return;
  list.attemptList(replaced(list.best, at, asStore(list.best.steps[at]!, fill.address, fill.first, fill.size)));
  yield;
}
