import { describe, expect, test } from 'vitest';
import { totalsOf } from '../../src/replay/totals.ts';
import { access, header, lands, READS, replay, state, TABLES, TO_PAGE_5, WALKS } from './small-traces.ts';

const MATCH = replay([header(), state(), ...TABLES, lands('read', '0x5008', '0x5008'), access('read', '0x5008')]);
const WALKED = replay([
  header({ observable: WALKS }),
  state(),
  ...TABLES.map((line) => ({ ...line, knowledge: true })),
  access('read', '0x5008', { expect: [...READS, TO_PAGE_5] }),
]);
const DIVERGED = replay([
  header(),
  state(),
  ...TABLES,
  lands('read', '0x5008', '0x6008'),
  lands('read', '0x5008', '0x7008'),
]);
const UNMODELLED = replay([header(), state({ cr4: '0x8000020' }), lands('read', '0x5008', '0x5008')]);
const NOTHING = replay([header(), state(), ...TABLES]);

describe('totals', () => {
  test('add up what each receipt says, kind by kind and name by name', () => {
    const totals = totalsOf([MATCH, WALKED, DIVERGED, UNMODELLED, NOTHING, WALKED]);
    expect(totals.verdicts).toEqual({
      match: 3,
      diverged: 1,
      undetermined: 0,
      'not-modelled': 1,
      'nothing-compared': 1,
    });
    expect([totals.traces, totals.steps, totals.diverged]).toEqual([6, 6 + 5 + 6 + 1 + 4 + 5, 2]);
    expect(totals.notModelled).toEqual({ lass: 1 });
    expect(totals.skipped).toEqual({ 'accesses of which no outcome was recorded': 1 });
    expect(totals.observationsPredicted).toBe(3);
    expect(Object.fromEntries(totals.counts.map((count) => [count.kind, count]))).toEqual({
      translated: {
        kind: 'translated',
        observations: 3,
        whollyPredicted: 3,
        predicted: 7,
        renamed: 0,
        learned: 0,
        input: 0,
      },
      element: {
        kind: 'element',
        observations: 8,
        whollyPredicted: 0,
        predicted: 16,
        renamed: 0,
        learned: 8,
        input: 0,
      },
    });
  });

  test('of one result are its own, of none are zero', () => {
    const one = totalsOf([WALKED]);
    expect([one.counts, one.steps]).toEqual([WALKED.receipt.counts, WALKED.receipt.steps]);
    const none = totalsOf([]);
    expect([none.traces, none.counts, none.observationsPredicted]).toEqual([0, [], 0]);
  });

  test('leave the receipts as they are', () => {
    const before = structuredClone([MATCH.receipt, WALKED.receipt]);
    totalsOf([MATCH, WALKED, MATCH]);
    expect([MATCH.receipt, WALKED.receipt]).toEqual(before);
  });
});
