/** Results against results: what counts as regressed, changed, fixed; and which trace is which. */

import { describe, expect, test } from 'vitest';
import { addToTotals, compareTraceResults, emptyTotals, type TraceChange } from '../../src/compare/results.ts';
import { isSameTrace, pairTraces } from '../../src/compare/results-pairs.ts';
import type { Receipt } from '../../src/replay/result.ts';
import type { StoredJudgement, StoredStep, StoredTrace, VerdictGroup } from '../../src/results/model.ts';
import type { TraceEntry } from '../../src/results/reader.ts';

const RECEIPT = {
  notModelled: {},
  brokenExpectations: [],
  brokenInvariants: [],
  observationsPredicted: 100,
} as unknown as Receipt;

const DIVERGED: StoredJudgement = { kind: 'diverged' };
const EXPECTED: StoredJudgement = { kind: 'expected', name: 'a-fault' };
const STALE: StoredJudgement = { kind: 'stale-allowed' };
const OPEN: StoredJudgement = { kind: 'undetermined', why: 'because' };

function step(ordinal: number, judgement = DIVERGED, group = 'a group', fingerprint = '0'): StoredStep {
  const cause = `cause of ${group}`;
  return { step: ordinal, line: undefined, source: undefined, judgement, group, cause, fingerprint, detail: undefined };
}

interface Side {
  readonly trace: StoredTrace;
  readonly steps: readonly StoredStep[];
}

/** A trace with these steps; `more` of each group that are not kept. */
function side(steps: readonly StoredStep[], fields: Partial<StoredTrace> = {}, receipt: Partial<Receipt> = {}): Side {
  const groups = new Map<string, VerdictGroup>();
  for (const { judgement, group, step: first } of steps) {
    const key = `${judgement.kind} ${group}`;
    const known = groups.get(key) ?? { judgement: judgement.kind, group, count: 0, first, leads: 0, mixed: 0 };
    groups.set(key, { ...known, count: known.count + 1 });
  }
  const bad = steps.some(({ judgement }) => judgement === DIVERGED);
  const trace = {
    verdict: bad ? 'diverged' : 'match',
    groups: [...groups.values()],
    keptBelow: Number.POSITIVE_INFINITY,
    brokenInvariants: 0,
    receipt: { ...RECEIPT, ...receipt },
    ...fields,
  } as StoredTrace;
  return { trace, steps };
}

/** `regressed: 3 match → diverged a group @7`, and the class of the whole. */
function told({ class: whole, changes }: TraceChange): string[] {
  const text = (of: { judgement: string; group: string } | undefined): string =>
    of === undefined ? 'match' : of.judgement === 'finding' ? of.group : `${of.judgement} ${of.group}`;
  return [
    whole,
    ...changes.map(({ class: kind, a, b, count, first }) => `${kind}: ${count} ${text(a)} → ${text(b)} @${first}`),
  ];
}

function compared(a: Side, b: Side, same = true): string[] {
  return told(compareTraceResults(a, b, same));
}

describe('a step that', () => {
  test('matched and diverges has regressed, the other way round it is fixed', () => {
    const [clean, bad] = [side([]), side([step(7), step(9)])];
    expect(compared(clean, bad)).toEqual(['regressed', 'regressed: 2 match → diverged a group @7']);
    expect(compared(bad, clean)).toEqual(['fixed', 'fixed: 2 diverged a group → match @7']);
    expect(compared(bad, bad)).toEqual(['unchanged']);
    expect(compareTraceResults(bad, bad, true).unchangedSteps).toBe(2);
  });

  test('diverges in another way has changed', () => {
    const other = side([step(7, DIVERGED, 'another')]);
    expect(compared(side([step(7)]), other)).toEqual(['changed', 'changed: 1 diverged a group → diverged another @7']);
    const rows = side([step(7, DIVERGED, 'a group', '1')]);
    expect(compared(side([step(7)]), rows)).toEqual(['changed', 'changed: 1 diverged a group → diverged a group @7']);
  });

  test('is expected now has changed, not been fixed; and is no regression the other way round than divergence', () => {
    const [bad, known] = [side([step(7)]), side([step(7, EXPECTED)])];
    expect(compared(bad, known)[0]).toBe('changed');
    expect(compared(known, bad)[0]).toBe('regressed');
    expect(compared(side([]), known)[0]).toBe('changed');
  });

  test('is stale in an allowed way now is fixed, if it diverged', () => {
    expect(compared(side([step(7)]), side([step(7, STALE)]))[0]).toBe('fixed');
    expect(compared(side([step(7, STALE)]), side([step(7)]))[0]).toBe('regressed');
  });

  test('can no longer be judged has regressed, but not where the trace says beforehand that it leaves things open', () => {
    const open = side([step(7, OPEN)], { verdict: 'undetermined' });
    expect(compared(side([]), open)[0]).toBe('regressed');
    expect(compared(side([step(7)]), open)[0]).toBe('changed');
    const partial = side([step(7, OPEN)], {}, { partial: { unknown: ['memory'], undetermined: {} } });
    expect(compared(side([]), partial)[0]).toBe('changed');
    expect(compared(side([step(7)]), partial)[0]).toBe('changed');
  });

  test('regresses makes the trace regressed, whatever else is fixed; fixed and changed is changed', () => {
    const before = side([step(1), step(2)]);
    expect(compared(before, side([step(2), step(3)]))[0]).toBe('regressed');
    expect(compared(before, side([step(2, DIVERGED, 'another')]))[0]).toBe('changed');
    const { changes } = compareTraceResults(before, side([step(2), step(3)]), true);
    expect(changes.map(({ class: kind, first }) => [kind, first])).toEqual([
      ['fixed', 1],
      ['regressed', 3],
    ]);
  });

  test('is a guest difference stands beside a divergence of the same step', () => {
    const guest = step(7, { kind: 'guest-differs' }, 'on KVM');
    expect(compared(side([step(7)]), side([step(7), guest]))).toEqual([
      'regressed',
      'regressed: 1 match → guest-differs on KVM @7',
    ]);
  });
});

describe('behind the steps that are kept', () => {
  const group = { judgement: 'diverged', group: 'a group', first: 1, leads: 0, mixed: 0 } as const;

  test('groups are compared by their counts', () => {
    const before = side([step(1), step(2)], { keptBelow: 5, groups: [{ ...group, count: 10 }] });
    const after = side([step(1), step(2)], { keptBelow: 4, groups: [{ ...group, count: 13 }] });
    expect(compared(before, after)).toEqual(['regressed', 'regressed: 3 diverged a group → diverged a group @1']);
    expect(compared(after, before)[0]).toBe('fixed');
    expect(compareTraceResults(before, before, true)).toMatchObject({ class: 'unchanged', unchangedSteps: 10 });
    expect(compareTraceResults(before, after, true).changes[0]!.note).toBe(
      '8 steps before, 11 now, from step 4 on, where not every step is kept',
    );
  });

  test('and so are all of a trace that was recorded again', () => {
    expect(compared(side([step(1), step(2)]), side([step(3), step(4)]), false)).toEqual(['unchanged']);
    expect(compared(side([step(1)]), side([step(3), step(4)]), false)[0]).toBe('regressed');
  });
});

describe('beside steps', () => {
  test('what is not modelled counts', () => {
    const [none, some] = [side([]), side([], { verdict: 'not-modelled' }, { notModelled: { lass: 3 } })];
    expect(compared(none, some)).toEqual([
      'regressed',
      'regressed: 0 match → not modelled: lass: 0 before, 3 now @undefined',
    ]);
    expect(compared(some, none)[0]).toBe('fixed');
  });

  test('so do invariants and expectations that do not hold', () => {
    expect(compared(side([]), side([], { brokenInvariants: 2 }))[0]).toBe('regressed');
    expect(compared(side([]), side([], {}, { brokenExpectations: ['no more'] }))[0]).toBe('regressed');
    expect(compared(side([], {}, { brokenExpectations: ['no more'] }), side([]))[0]).toBe('fixed');
  });

  test('a verdict alone, and observations that are no longer predicted', () => {
    const nothing = side([], { verdict: 'nothing-compared' }, { observationsPredicted: 0 });
    expect(compared(side([]), nothing)[0]).toBe('regressed');
    expect(compared(nothing, side([]))[0]).toBe('fixed');
    expect(compared(side([]), side([], {}, { observationsPredicted: 99 }))).toEqual([
      'changed',
      'changed: 0 100 observations predicted before, 99 now → 100 observations predicted before, 99 now @undefined',
    ]);
  });
});

test('totals add up traces, kinds of change and steps', () => {
  const totals = emptyTotals();
  addToTotals(totals, compareTraceResults(side([step(1)]), side([step(1), step(2), step(3)]), true));
  addToTotals(totals, { class: 'added', changes: [], unchangedSteps: 0 });
  expect(totals).toMatchObject({
    regressed: { traces: 1, changes: 1, steps: 2 },
    added: { traces: 1, changes: 0, steps: 0 },
    unchanged: { traces: 0, changes: 0, steps: 1 },
  });
});

describe('which trace is which', () => {
  let offset = 0;
  const entry = (file: string, digest: string | undefined, segment = 0): TraceEntry => ({
    ...{ file, digest, segment, machine: '', policy: '', verdict: 'match' },
    offset: offset++,
  });
  const pairs = (a: readonly TraceEntry[], b: readonly TraceEntry[]): string[] =>
    pairTraces(a, b).map((pair) => `${pair.a?.file} ${pair.b?.file}${isSameTrace(pair) ? '' : ' other'}`);

  test('the same bytes under the same name, then under another one', () => {
    expect(pairs([entry('x/a', '1'), entry('x/b', '1')], [entry('y/b', '1'), entry('y/a', '1')])).toEqual([
      'x/a y/a',
      'x/b y/b',
    ]);
    expect(pairs([entry('a', '1')], [entry('z', '1')])).toEqual(['a z']);
  });

  test('another recording under the same name', () => {
    expect(pairs([entry('a', '1')], [entry('a', '2')])).toEqual(['a a other']);
    expect(pairs([entry('a', undefined)], [entry('a', undefined)])).toEqual(['a a other']);
  });

  test('segments of a file, and what is on one side only', () => {
    expect(
      pairs([entry('a', '1'), entry('a', '2', 1)], [entry('a', '2', 1), entry('a', '1'), entry('b', '3')]),
    ).toEqual(['a a', 'a a', 'undefined b other']);
    expect(pairs([entry('a', '1')], [])).toEqual(['a undefined other']);
  });
});
