import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { alignSteps, NOTE_PLACE } from '../../src/compare/trace-align.ts';

const steps = (text: string): { key: string; place: string }[] =>
  [...text].map((key) => ({ key, place: key === '#' ? NOTE_PLACE : key.toLowerCase() }));

/** The two sides with what stands alone: `a`, `-b` only in A, `+c` only in B, `d/D` one place. */
function told(a: string, b: string): string {
  return alignSteps(steps(a), steps(b))
    .map(([x, y]) => {
      if (y < 0) return `-${a[x]}`;
      if (x < 0) return `+${b[y]}`;
      return a[x] === b[y] ? a[x] : `${a[x]}/${b[y]}`;
    })
    .join(' ');
}

describe('alignSteps', () => {
  test.each([
    ['abcdef', 'abcdef', 'a b c d e f'],
    ['abcdef', 'abef', 'a b -c -d e f'],
    ['abef', 'abcdef', 'a b +c +d e f'],
    ['abc', 'aBc', 'a b/B c'],
    ['xyxyaxyxy', 'xyaxyxyxy', 'x y +a x y -a x y x y'],
    // A mark stays beside its like, whatever that costs.
    ['xyxy#xyxy', 'xy#xyxyxy', 'x y -x -y # x y x y +x +y'],
    ['', 'ab', '+a +b'],
    ['ab', 'cd', '-a -b +c +d'],
  ])('%s and %s', (a, b, expected) => {
    expect(told(a, b)).toBe(expected);
  });

  test('every step leaves once and in order, side by side only with its like', () => {
    const side = fc.array(fc.constantFrom('a', 'A', 'b', 'B', 'c', 'd', 'e'), { maxLength: 60 });
    fc.assert(
      fc.property(side, side, (a, b) => {
        const pairs = alignSteps(steps(a.join('')), steps(b.join('')));
        expect(pairs.flatMap(([x]) => (x < 0 ? [] : [x]))).toEqual(a.map((_, i) => i));
        expect(pairs.flatMap(([, y]) => (y < 0 ? [] : [y]))).toEqual(b.map((_, i) => i));
        for (const [x, y] of pairs) if (x >= 0 && y >= 0) expect(a[x]?.toLowerCase()).toBe(b[y]?.toLowerCase());
      }),
    );
  });
});
