/**
 * Puts two stretches of steps side by side: first by the guest's marks, then by keys that each side has once (patience),
 * so that a repetitive guest does not draw the two apart, then between those by longest common subsequences.
 */

import { type Pair, sideBySide } from '../replay/sequence.ts';

export interface Keyed {
  readonly key: string;
  readonly place: string;
}

/** The place of every note: the guest's marks. */
export const NOTE_PLACE = 'note';

type Range = readonly [begin: number, end: number];

/**
 * Pairs of indices in order, -1 where a side has nothing. Two steps stand side by side only if their keys or their places
 * are equal.
 */
export function alignSteps(a: readonly Keyed[], b: readonly Keyed[]): Pair[] {
  const numbers = new Map<string, number>();
  const numbered = (text: string): number => {
    let number = numbers.get(text);
    if (number === undefined) {
      number = numbers.size;
      numbers.set(text, number);
    }
    return number;
  };
  const keysA = a.map(({ key }) => numbered(`k${key}`));
  const keysB = b.map(({ key }) => numbered(`k${key}`));
  const placesA = a.map(({ place }) => numbered(`p${place}`));
  const placesB = b.map(({ place }) => numbered(`p${place}`));
  const pairs: Pair[] = [];

  const between = ([beginA, endA]: Range, [beginB, endB]: Range): void => {
    let [fromA, fromB] = [beginA, beginB];
    while (fromA < endA && fromB < endB && keysA[fromA] === keysB[fromB]) pairs.push([fromA++, fromB++]);
    let [toA, toB] = [endA, endB];
    while (toA > fromA && toB > fromB && keysA[toA - 1] === keysB[toB - 1]) {
      toA--;
      toB--;
    }
    const anchors = uniqueCommon(keysA, keysB, [fromA, toA], [fromB, toB]);
    if (anchors.length === 0) {
      const levels = (keys: readonly number[], places: readonly number[], from: number, to: number): number[][] => [
        keys.slice(from, to),
        places.slice(from, to),
      ];
      for (const [x, y] of sideBySide(levels(keysA, placesA, fromA, toA), levels(keysB, placesB, fromB, toB))) {
        pairs.push([x < 0 ? -1 : fromA + x, y < 0 ? -1 : fromB + y]);
      }
    }
    for (const [x, y] of anchors) {
      between([fromA, x], [fromB, y]);
      pairs.push([x, y]);
      [fromA, fromB] = [x + 1, y + 1];
    }
    if (anchors.length > 0) between([fromA, toA], [fromB, toB]);
    for (; toA < endA; toA++, toB++) pairs.push([toA, toB]);
  };
  const marksOf = (keys: readonly number[], steps: readonly Keyed[]): number[] =>
    keys.map((key, i) => (steps[i]!.place === NOTE_PLACE ? key : -1));
  let [fromA, fromB] = [0, 0];
  const marks = uniqueCommon(marksOf(keysA, a), marksOf(keysB, b), [0, a.length], [0, b.length]);
  for (const [x, y] of marks) {
    between([fromA, x], [fromB, y]);
    pairs.push([x, y]);
    [fromA, fromB] = [x + 1, y + 1];
  }
  between([fromA, a.length], [fromB, b.length]);
  return pairs;
}

/** Pairs of elements whose key, if not negative, each range has once, as many as stand in the same order on both sides. */
function uniqueCommon(
  a: readonly number[],
  b: readonly number[],
  [beginA, endA]: Range,
  [beginB, endB]: Range,
): (readonly [a: number, b: number])[] {
  const once = (keys: readonly number[], begin: number, end: number): Map<number, number> => {
    const at = new Map<number, number>();
    for (let i = begin; i < end; i++) if (keys[i]! >= 0) at.set(keys[i]!, at.has(keys[i]!) ? -1 : i);
    return at;
  };
  const inA = once(a, beginA, endA);
  const candidates: (readonly [number, number])[] = [];
  for (const [key, y] of once(b, beginB, endB)) {
    const x = inA.get(key);
    if (y >= 0 && x !== undefined && x >= 0) candidates.push([x, y]);
  }
  candidates.sort(([x], [y]) => x - y);
  return longestRising(candidates);
}

/** The longest subsequence whose second elements rise, too. */
function longestRising(pairs: readonly (readonly [number, number])[]): (readonly [number, number])[] {
  const ends: number[] = [];
  const before = new Int32Array(pairs.length);
  pairs.forEach(([, y], i) => {
    let [low, high] = [0, ends.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (pairs[ends[middle]!]![1] < y) low = middle + 1;
      else high = middle;
    }
    before[i] = low === 0 ? -1 : ends[low - 1]!;
    ends[low] = i;
  });
  const rising: (readonly [number, number])[] = [];
  for (let i = ends.at(-1) ?? -1; i >= 0; i = before[i]!) rising.push(pairs[i]!);
  return rising.reverse();
}
