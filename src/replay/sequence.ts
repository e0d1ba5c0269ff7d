/**
 * Puts two sequences side by side by keys: a longest common subsequence by the first key, what lies between its members
 * by the next key, and so on. Bounded: of very long stretches only the beginning is searched.
 */

/** Elements of either side that one search takes; what is beyond pairs off by position. */
const MAXIMUM = 1500;

/** Indices in both sequences; -1: nothing on that side. */
export type Pair = readonly [a: number, b: number];

/**
 * Pairs every element of both sequences, in order. `keysA[level]` and `keysB[level]`: keys of all elements, the strictest
 * level first; elements with equal keys may stand side by side. Elements without a partner stand alone, those of `a`
 * before those of `b`.
 */
export function sideBySide<Key>(keysA: readonly (readonly Key[])[], keysB: readonly (readonly Key[])[]): Pair[] {
  const pairs: Pair[] = [];
  pairRange(keysA, keysB, 0, [0, keysA[0]!.length], [0, keysB[0]!.length], pairs);
  return pairs;
}

type Range = readonly [begin: number, end: number];

function pairRange<Key>(
  keysA: readonly (readonly Key[])[],
  keysB: readonly (readonly Key[])[],
  level: number,
  [beginA, endA]: Range,
  [beginB, endB]: Range,
  pairs: Pair[],
): void {
  const a = keysA[level];
  const b = keysB[level];
  if (a === undefined || b === undefined || beginA === endA || beginB === endB) {
    for (let i = beginA; i < endA; i++) pairs.push([i, -1]);
    for (let i = beginB; i < endB; i++) pairs.push([-1, i]);
    return;
  }
  let [fromA, fromB] = [beginA, beginB];
  while (fromA < endA && fromB < endB && a[fromA] === b[fromB]) pairs.push([fromA++, fromB++]);
  let [toA, toB] = [endA, endB];
  while (toA > fromA && toB > fromB && a[toA - 1] === b[toB - 1]) {
    toA--;
    toB--;
  }
  for (const [x, y] of common(a, b, fromA, Math.min(toA, fromA + MAXIMUM), fromB, Math.min(toB, fromB + MAXIMUM))) {
    pairRange(keysA, keysB, level + 1, [fromA, x], [fromB, y], pairs);
    pairs.push([x, y]);
    [fromA, fromB] = [x + 1, y + 1];
  }
  pairRange(keysA, keysB, level + 1, [fromA, toA], [fromB, toB], pairs);
  for (; toA < endA; toA++, toB++) pairs.push([toA, toB]);
}

/** A longest common subsequence of two stretches, as pairs of indices. */
function common<Key>(
  a: readonly Key[],
  b: readonly Key[],
  beginA: number,
  endA: number,
  beginB: number,
  endB: number,
): Pair[] {
  const width = endB - beginB + 1;
  // Length of the longest one of what follows each pair of positions.
  const lengths = new Uint16Array((endA - beginA + 1) * width);
  for (let i = endA - beginA - 1; i >= 0; i--) {
    for (let j = width - 2; j >= 0; j--) {
      const at = i * width + j;
      lengths[at] =
        a[beginA + i] === b[beginB + j]
          ? lengths[at + width + 1]! + 1
          : Math.max(lengths[at + width]!, lengths[at + 1]!);
    }
  }
  const pairs: Pair[] = [];
  let [i, j] = [0, 0];
  while (i < endA - beginA && j < width - 1) {
    if (a[beginA + i] === b[beginB + j]) pairs.push([beginA + i++, beginB + j++]);
    else if (lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!) i++;
    else j++;
  }
  return pairs;
}
