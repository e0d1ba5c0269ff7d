/** Memory with only what matters: fewer words of page images, fewer entries of fills. */

import type { Word64 } from '../bits/word64.ts';
import { PROVENANCE_MASK, PROVENANCE_SHIFT, STORE_SIZE_SHIFT, StepKind } from '../formats/step.ts';
import type { EntryFill, PageImage, Stimulus } from '../trace/stimulus.ts';
import { leaveOut } from './minimise-list.ts';
import type { ListedStep, Reducible, StepList } from './minimise-steps.ts';

function replaced(list: StepList, at: number, step: ListedStep): StepList {
  return { ...list, steps: list.steps.map((each, i) => (i === at ? step : each)) };
}

function withStimulus(step: ListedStep, stimulus: Stimulus): ListedStep {
  return { ...step, stimulus };
}

/** A STORE of `size` bytes in the place of another step that writes. */
export function asStore(step: ListedStep, address: Word64, value: Word64, size: 4 | 8): ListedStep {
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

/** `bytes`: below 2 ** 52 either way. */
export function plus({ lo, hi }: Word64, bytes: number): Word64 {
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
