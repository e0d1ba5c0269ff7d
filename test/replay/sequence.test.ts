import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Pair, sideBySide } from '../../src/replay/sequence.ts';

/** By the characters themselves, then without regard to case. */
function pairs(a: string, b: string): string {
  const keys = (text: string): string[][] => [[...text], [...text.toLowerCase()]];
  return sideBySide(keys(a), keys(b))
    .map(([x, y]) => (a[x] ?? '-') + (b[y] ?? '-'))
    .join(' ');
}

describe('two sequences side by side', () => {
  test('that are equal', () => {
    expect([pairs('', ''), pairs('abc', 'abc')]).toEqual(['', 'aa bb cc']);
  });

  test('with one more or one less on a side', () => {
    expect(pairs('abc', 'abxc')).toBe('aa bb -x cc');
    expect(pairs('abcd', 'acd')).toBe('aa b- cc dd');
    expect(pairs('', 'ab')).toBe('-a -b');
    expect(pairs('aaab', 'aab')).toBe('aa aa a- bb');
  });

  test('with another in its place', () => {
    expect(pairs('axb', 'ayb')).toBe('aa x- -y bb');
  });

  test('what is alike by a weaker key stands together, between what is equal', () => {
    expect(pairs('aXb', 'axb')).toBe('aa Xx bb');
    expect(pairs('aXYb', 'ayb')).toBe('aa X- Yy bb');
    expect(pairs('XYZ', 'xqz')).toBe('Xx Y- -q Zz');
  });

  test('too long to be searched as a whole: the rest goes by position', () => {
    const a = `${'x'.repeat(4000)}b`;
    const b = `${'y'.repeat(4000)}b`;
    expect(pairs(a, b).endsWith('bb')).toBe(true);
  });

  test('hold every element once, in order', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'A', 'B', 'c'), maxLength: 30 });
    const property = fc.property(text, text, (a, b) => {
      const keys = (of: string): string[][] => [[...of], [...of.toLowerCase()]];
      const all = sideBySide(keys(a), keys(b));
      const side = (index: 0 | 1): number[] => all.map((pair: Pair) => pair[index]).filter((i) => i >= 0);
      expect(side(0)).toEqual(Array.from(a, (_, i) => i));
      expect(side(1)).toEqual(Array.from(b, (_, i) => i));
      for (const [x, y] of all) if (x >= 0 && y >= 0) expect(a[x]!.toLowerCase()).toBe(b[y]!.toLowerCase());
    });
    fc.assert(property);
  });
});
