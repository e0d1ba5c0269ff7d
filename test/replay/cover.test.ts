/** Methods and logs covered by ones that tell. */

import { describe, expect, test } from 'vitest';
import { RowLog } from '../../src/paging/row-log.ts';
import { cover, coverLog } from '../../src/replay/cover.ts';

class Counter {
  count = 0;

  add(by: number): number {
    this.count += by;
    return this.count;
  }

  twice(by: number): number {
    this.add(by);
    return this.add(by);
  }
}

describe('a method that is covered', () => {
  test('does what it did, and is told of from inside the object too', () => {
    const [counter, other] = [new Counter(), new Counter()];
    const told: number[] = [];
    cover(counter, 'add', (call: () => number, by: number) => {
      told.push(by);
      return call();
    });
    expect([counter.twice(3), other.add(5), told]).toEqual([6, 5, [3, 3]]);
  });

  test('can be covered once more', () => {
    const counter = new Counter();
    const told: string[] = [];
    for (const name of ['first', 'second']) {
      cover(counter, 'add', (call: () => number) => {
        told.push(name);
        return call();
      });
    }
    expect([counter.add(2), told]).toEqual([2, ['second', 'first']]);
  });

  test('has to be there', () => {
    expect(() => cover(new Counter(), 'remove', (call: () => void) => call())).toThrow('nothing to cover: remove');
  });
});

test("a walk's log tells of each row before it has it", () => {
  const log = new RowLog();
  const walk = { log };
  const told: number[][] = [];
  coverLog(walk, (op, addressLo, valueLo, valueHi) => told.push([log.count, op, addressLo, valueLo, valueHi]));
  walk.log.push(1, 2, 3, 4, 5);
  expect([log.count, log.op(0), told]).toEqual([1, 1, [[0, 1, 2, 4, 5]]]);
});
