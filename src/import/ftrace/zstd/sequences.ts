/** What Zstandard's sequence codes mean, and the tables that a block need not describe (RFC 8878 §3.1.1.3.2). */

import { buildTable, type FseTable } from './fse.ts';

interface Codes {
  readonly base: readonly number[];
  readonly bits: readonly number[];
}

/** Codes whose extra bits grow: each starts where the one before ends. */
function codes(first: number, widths: readonly number[]): Codes {
  const base: number[] = [];
  let next = first;
  for (const width of widths) {
    base.push(next);
    next += 2 ** width;
  }
  return { base, bits: widths };
}

const zeros = (count: number): number[] => new Array<number>(count).fill(0);

export const LITERAL_LENGTHS = codes(0, [
  ...zeros(16),
  ...[1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
]);

export const MATCH_LENGTHS = codes(3, [
  ...zeros(32),
  ...[1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
]);

/** One of the three kinds of codes: its limits and its predefined table. */
export interface CodeKind {
  readonly log: number;
  readonly symbols: number;
  readonly predefined: FseTable;
}

const ones = (count: number): number[] => new Array<number>(count).fill(1);
const rare = (count: number): number[] => new Array<number>(count).fill(-1);

export const LITERAL_KIND: CodeKind = {
  log: 9,
  symbols: 36,
  predefined: buildTable(
    [4, 3, ...new Array<number>(11).fill(2), 1, 1, 1, ...new Array<number>(9).fill(2), 3, 2, ...ones(5), ...rare(4)],
    6,
  ),
};

export const OFFSET_KIND: CodeKind = {
  log: 8,
  symbols: 32,
  predefined: buildTable([...ones(6), 2, 2, 2, ...ones(15), ...rare(5)], 5),
};

export const MATCH_KIND: CodeKind = {
  log: 9,
  symbols: 53,
  predefined: buildTable([1, 4, 3, ...new Array<number>(6).fill(2), ...ones(37), ...rare(7)], 6),
};
