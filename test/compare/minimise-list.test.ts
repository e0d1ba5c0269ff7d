import fc from 'fast-check';
import { expect, test } from 'vitest';
import { leaveOut, leaveOutPairs, type Shrinking } from '../../src/compare/minimise-list.ts';

/** A list that serves as long as all of `needed` are in it. */
function needing(all: readonly number[], needed: ReadonlySet<number>, maximum = Number.POSITIVE_INFINITY) {
  let best = all;
  let attempts = 0;
  const list: Shrinking<number> = {
    get best() {
      return best;
    },
    isOver: () => attempts >= maximum,
    attempt: (shorter) => {
      attempts++;
      if (![...needed].every((each) => shorter.includes(each))) return false;
      best = shorter;
      return true;
    },
  };
  return { list, attempts: () => attempts };
}

test('leaves exactly what is needed, in order', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.array(fc.nat(199)), (length, chosen) => {
      const all = Array.from({ length }, (_, i) => i);
      const needed = new Set(chosen.filter((each) => each < length));
      const { list } = needing(all, needed);
      for (const _ of leaveOut(list));
      expect(list.best).toEqual([...needed].sort((a, b) => a - b));
    }),
  );
});

test('few attempts for few members: about what halving takes', () => {
  const { list, attempts } = needing(
    Array.from({ length: 100_000 }, (_, i) => i),
    new Set([99_999, 500, 40_000]),
  );
  for (const _ of leaveOut(list));
  expect(list.best).toHaveLength(3);
  expect(attempts()).toBeLessThan(200);
});

test('stops when it is over', () => {
  const { list, attempts } = needing([...Array(100).keys()], new Set([7, 50]), 5);
  for (const _ of leaveOut(list));
  for (const _ of leaveOutPairs(list));
  expect(attempts()).toBe(5);
  expect(list.best).toEqual(expect.arrayContaining([7, 50]));
});

test('members that only go together', () => {
  // Entries and exits by turns: a list of an odd number of them is none.
  let best: readonly number[] = [1, 2, 3, 4, 5, 6];
  const list: Shrinking<number> = {
    get best() {
      return best;
    },
    isOver: () => false,
    attempt: (shorter) => {
      if (shorter.length % 2 === 1 || !shorter.includes(6)) return false;
      best = shorter;
      return true;
    },
  };
  for (const _ of leaveOut({
    ...list,
    attempt: (shorter) => best.length - shorter.length === 1 && list.attempt(shorter),
  }));
  expect(best).toHaveLength(6);
  for (const _ of leaveOutPairs(list));
  expect(best).toEqual(expect.arrayContaining([6]));
  expect(best).toHaveLength(2);
});

test('pairs that cannot go together are not tried', () => {
  const tried: string[] = [];
  const list: Shrinking<number> = {
    best: [1, 2, 3, 4],
    isOver: () => false,
    attempt: (shorter) => {
      tried.push(shorter.join(' '));
      return false;
    },
  };
  for (const _ of leaveOutPairs(list, (first, second) => (first + second) % 2 === 0));
  expect(tried).toEqual(['1 3', '2 4']);
});
