import { describe, expect, it } from 'vitest';
import { comparisons, symbolTables } from '../../../src/import/ftrace/trace-dat/print-format.ts';

describe('print formats', () => {
  it('gives tables of names, whatever stands around them', () => {
    const tables = symbolTables(
      '"a (%s) %s", ({ f(")"); }), __print_flags(REC->x & (1 | 2), "|", { (1U << 0), "P" }, { ((((1UL))) << (3)), "R,D" }), ' +
        '__print_symbolic(REC->y, { 0, "#" "DE" }, { (1 << 0) | (1 << 3), "both" }, { -1, "minus" }, { ~0, "all" }, { SOME_ENUM, "?" }, { 0x040 + 14, "PF \\"x\\"" })',
    );
    expect(tables.map((table) => [...table])).toEqual([
      [
        [1n, 'P'],
        [8n, 'R,D'],
      ],
      [
        [0n, '#DE'],
        [9n, 'both'],
        [0xffffffffffffffffn, 'minus'],
        [78n, 'PF \\"x\\"'],
      ],
    ]);
  });

  it('gives the numbers that a field is compared with', () => {
    expect(comparisons('"%d %d", REC->ret == 5, REC->ret == 4, REC->retry == 1', 'ret')).toEqual([5, 4]);
    expect(comparisons('REC->ret == RET_PF_FIXED', 'ret')).toEqual([]);
  });

  it.each([
    '__print_symbolic(',
    '__print_symbolic(x, {',
    '__print_flags(x, "',
    '__print_symbolic(x, { 1 << 99, "a" })',
  ])('comes to an end with %s', (text) => {
    expect(symbolTables(text).map((table) => table.size)).toEqual([0]);
  });
});
