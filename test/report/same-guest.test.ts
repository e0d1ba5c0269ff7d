import { describe, expect, test } from 'vitest';
import { Mutant } from '../../src/mmu/mutants.ts';
import type { GuestComparison, ReplayResult } from '../../src/replay/result.ts';
import { totalsOf } from '../../src/replay/totals.ts';
import { replayObject } from '../../src/report/replay-json.ts';
import { type PaintText, receiptLines, summaryLine, totalLines } from '../../src/report/replay-text.ts';
import { guestCountLines, guestDifferenceLines, guestGroupLines } from '../../src/report/same-guest.ts';
import { access, header, lands, replay, state, TABLES } from '../replay/small-traces.ts';
import { HEADER } from '../trace/samples.ts';

const plain: PaintText = (_, text) => text;

const GUEST: GuestComparison = {
  accesses: 1234,
  equal: 1200,
  asBare: 20,
  legal: [{ number: 7, name: 'keys', citation: 'a page', sentence: 'A sentence.', count: 3 }],
  stale: 9,
  undetermined: 1,
  entries: 55,
  staleEntries: 2,
  questions: 1,
  registerWrites: 4,
  words: 1024,
  wordsInAd: 6,
  unexplained: 1,
  groups: [],
};

/** A fetch that a KVM with a bug reports as one where nothing knows of fetches; the read before is as it should be. */
function buggy(): ReplayResult {
  const absent = access('fetch', '0x7000', { expect: [{ exception: '#PF', error: '0x0', cr2: '0x7000' }] });
  const lines = [header(), state({ efer: '0x500' }), ...TABLES, lands('read', '0x5008', '0x5008'), absent];
  return replay(lines, { machine: { machine: 'kvm', tdp: false, mutants: [Mutant.FETCH_ALWAYS] } });
}

describe('the counts', () => {
  test('name everything that is not simply equal', () => {
    expect(guestCountLines(GUEST)).toEqual([
      'the guest on the emulated KVM against the guest on the bare machine:',
      '  accesses compared: 1,234; 1,200 equal, 20 as the bare machine, not as recorded, 9 stale, allowed, 1 undetermined',
      '  also 4 register writes, 1 answer, A and D set 55 times, 1,024 words of memory at the end',
      '  A or D left alone, a translation with them could be cached: 2',
      '  words that differ in A or D at the end, for reasons above: 6',
      '  legal difference 7, keys: 3 (a page)',
      '  unexplained: 1',
    ]);
  });

  test('stand in the receipt, in the summary and in the totals', () => {
    const result = buggy();
    expect(receiptLines(result.receipt).at(-1)).toBe('  unexplained: 1');
    expect(summaryLine(result, plain)).toMatch(/^DIVERGED .*, 1 unexplained on KVM$/);
    const totals = totalsOf([result, result]);
    expect(totals.sameGuest).toMatchObject({ accesses: 4, equal: 2, unexplained: 2 });
    expect(totalLines(totals, plain)).toContain('  unexplained: 2');
    const legal = totalsOf(
      [GUEST, GUEST].map((sameGuest) => ({ ...result, receipt: { ...result.receipt, sameGuest } })),
    );
    expect(legal.sameGuest!.legal).toMatchObject([{ number: 7, count: 6 }]);
  });

  test('are not there without an emulated KVM', () => {
    const bare = replay([header(), state(), ...TABLES, lands('read', '0x5008', '0x5008')]);
    expect(['sameGuest' in bare.receipt, 'guestDifferences' in bare]).toEqual([false, false]);
    expect(totalsOf([bare]).sameGuest).toBeUndefined();
    expect(replayObject(bare, HEADER)).not.toHaveProperty('guestDifferences');
  });
});

describe('a difference', () => {
  const result = buggy();

  test("says which machine saw what, with KVM's events", () => {
    const lines = guestDifferenceLines(result.guestDifferences![0]!, HEADER, plain);
    expect(lines.slice(0, 3)).toEqual([
      'step 5: the guest on KVM sees something else',
      '  stimulus: fetch  supervisor  cpl0 0x7000  in 4-level',
      '  cause: the guest on KVM: #PF error 0x10 cr2 0x7000; the recording: #PF error 0x0 cr2 0x7000',
    ]);
    expect(lines).toContain('    #PF error 0x0 (-) cr2 0x7000');
    expect(lines).toContain('    pagetable-walk addr 7000 pferr 10 F');
    expect(lines.at(-1)).toBe('    #PF error 0x10 (F) cr2 0x7000');
    expect(guestGroupLines(result.receipt.sameGuest!)).toEqual([
      'unexplained differences of the like:',
      '  1  supervisor fetch: expected #PF 0x0, on KVM #PF 0x10  first at step 5',
    ]);
    expect(guestGroupLines(GUEST)).toEqual([]);
  });

  test('has a form for machines', () => {
    expect(replayObject(result, HEADER)).toMatchObject({
      receipt: { sameGuest: { unexplained: 1 } },
      guestDifferences: [
        {
          step: 5,
          stimulus: 'fetch  supervisor  cpl0 0x7000',
          kvm: expect.arrayContaining(['walker-error pferr 10 F']),
        },
      ],
    });
  });

  test('at the end has no stimulus', () => {
    const [first] = result.guestDifferences!;
    const lines = guestDifferenceLines({ ...first!, op: 0 }, HEADER, plain);
    expect(lines.map((line) => line.slice(0, 8))).toEqual(['step 5: ', '  cause:']);
  });
});
