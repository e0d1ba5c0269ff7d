/**
 * What is stored into a page at one time as one page image: a table that is prepared is one step, however many entries it
 * has.
 */

import type { Word64 } from '../bits/word64.ts';
import {
  PROVENANCE_MASK,
  PROVENANCE_SHIFT,
  STEP_KIND_MASK,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { ListedStep, Reducible } from './minimise-steps.ts';

/** Elements of a page's contents: 512 words, low half first. */
const HALVES = 1024;

function pageNumber({ lo, hi }: Word64): number {
  return hi * 0x10_0000 + (lo >>> 12);
}

/** Bytes that a STORE writes. */
export function storeSize({ op }: ListedStep): number {
  return (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
}

/** Number of the page that a step sets aligned words of, doing nothing else; -1: it does something else. */
export function pagePrepared(step: ListedStep): number {
  const { op, addressLo, addressHi, stimulus } = step;
  if (stimulus?.kind === 'page-image') return pageNumber(stimulus.address);
  if ((op & STEP_KIND_MASK) !== StepKind.STORE) return -1;
  const size = storeSize(step);
  const isWord = (size === 4 || size === 8) && addressLo % size === 0;
  return isWord ? pageNumber({ lo: addressLo, hi: addressHi }) : -1;
}

/** Contents of a page after steps that prepare it. */
function contents(steps: readonly ListedStep[]): Uint32Array {
  const words = new Uint32Array(HALVES);
  for (const step of steps) {
    const { addressLo, operandLo, operandHi, stimulus } = step;
    if (stimulus?.kind === 'page-image') words.set(stimulus.words);
    else {
      const half = (addressLo & 0xfff) >>> 2;
      words[half] = operandLo;
      if (storeSize(step) === 8) words[half + 1] = operandHi;
    }
  }
  return words;
}

/** A page image in the place of a store. */
function asImage(step: ListedStep, page: number, words: Uint32Array): ListedStep {
  const address = { lo: (page % 0x10_0000) * 0x1000, hi: Math.floor(page / 0x10_0000) };
  return {
    ...step,
    op: (StepKind.RARE | (step.op & (PROVENANCE_MASK << PROVENANCE_SHIFT))) >>> 0,
    addressLo: 0,
    addressHi: 0,
    operandLo: 0,
    operandHi: 0,
    stimulus: { kind: 'page-image', address, words },
  };
}

/**
 * What step `first` and others store into a page without anything but stores in between, as one page image in its place;
 * undefined: there is nothing to join.
 */
export function joinedFrom(steps: readonly ListedStep[], first: number): ListedStep[] | undefined {
  const page = pagePrepared(steps[first]!);
  if (page < 0) return undefined;
  const joined = [first];
  for (let i = first + 1; i < steps.length && pagePrepared(steps[i]!) >= 0; i++) {
    if (pagePrepared(steps[i]!) === page && steps[i]!.vcpu === steps[first]!.vcpu) joined.push(i);
  }
  if (joined.length < 2) return undefined;
  const image = asImage(steps[first]!, page, contents(joined.map((i) => steps[i]!)));
  return steps.map((step, i) => (i === first ? image : step)).filter((_, i) => i === first || !joined.includes(i));
}

/** As few steps for each page as can be; yields after every attempt. */
export function* joinStores(list: Reducible): Generator<void, void, void> {
  for (let first = 0; first < list.best.steps.length && !list.isOver(); first++) {
    const steps = joinedFrom(list.best.steps, first);
    if (steps === undefined) continue;
    list.attemptList({ ...list.best, steps });
    yield;
  }
}
