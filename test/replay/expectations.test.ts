import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { Problem, placeText } from '../../src/bits/problem.ts';
import { defaultKvmConfig } from '../../src/formats/kvm-config.ts';
import { type Expectation, expectationsFor } from '../../src/replay/expectations.ts';
import type { MachineFacts, ReplayResult } from '../../src/replay/result.ts';
import type { ReplayOptions } from '../../src/replay/session.ts';
import { header, lands, replay, state, TABLES } from './small-traces.ts';

const folder = mkdtempSync(join(tmpdir(), 'rewalk-expectations-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const GROUP = 'supervisor read: recorded translated, replayed #PF 0x0';
const FAULT: Expectation = { fault: 'wrong-page', reason: 'the recorder adds a page', group: GROUP, count: 2 };

/** Two steps that differ, 4 and 6, between two that do not. */
function replayWith(expectations: readonly Expectation[], options: ReplayOptions = {}): ReplayResult {
  const [good, bad] = [lands('read', '0x5008', '0x5008'), lands('read', '0x6008', '0x6008')];
  return replay([header(), state(), ...TABLES, bad, good, bad, good], { expectations, ...options });
}

describe('an expectation that is met', () => {
  test('makes the steps a match of their own kind, counted by fault', () => {
    const { verdict, receipt, divergences } = replayWith([FAULT]);
    expect([verdict, receipt.diverged, divergences]).toEqual(['match', 0, []]);
    expect(receipt.expected).toEqual({ 'wrong-page': 2 });
    expect(receipt.brokenExpectations).toEqual([]);
    expect(receipt.observationsPredicted).toBe(2);
  });

  test('may list the steps', () => {
    expect(replayWith([{ ...FAULT, steps: [4, 6] }]).verdict).toBe('match');
  });

  test('may share a group with another that lists other steps; faults of one name add up', () => {
    const one = { ...FAULT, count: 1 };
    const { verdict, receipt } = replayWith([
      { ...one, steps: [4] },
      { ...one, fault: 'other', steps: [6] },
    ]);
    expect([verdict, receipt.expected]).toEqual(['match', { 'wrong-page': 1, other: 1 }]);
    const same = replayWith([
      { ...one, steps: [4] },
      { ...one, steps: [6] },
    ]);
    expect(same.receipt.expected).toEqual({ 'wrong-page': 2 });
  });
});

describe('an expectation that is not met', () => {
  test('too seldom, or never: the fault is gone, which must be looked at', () => {
    const more = replayWith([{ ...FAULT, count: 3 }]);
    expect([more.verdict, more.receipt.diverged]).toEqual(['diverged', 0]);
    expect(more.receipt.brokenExpectations).toEqual([
      `"wrong-page" is expected in 3 steps (${GROUP}) but was met in 2`,
    ]);
    const never = replay([header(), state(), ...TABLES, lands('read', '0x5008', '0x5008')], { expectations: [FAULT] });
    expect([never.verdict, never.receipt.expected]).toEqual(['diverged', {}]);
    expect(never.receipt.brokenExpectations).toEqual([
      `"wrong-page" is expected in 2 steps (${GROUP}) but was met in 0`,
    ]);
  });

  test('too often: there are more than are known', () => {
    const { verdict, receipt } = replayWith([{ ...FAULT, count: 1 }]);
    expect(verdict).toBe('diverged');
    expect(receipt.brokenExpectations).toEqual([`"wrong-page" is expected in 1 steps (${GROUP}) but was met in 2`]);
  });

  test('in other steps than listed: these diverge', () => {
    const { verdict, receipt, divergences } = replayWith([{ ...FAULT, steps: [4, 5] }]);
    expect([verdict, receipt.diverged, divergences[0]?.step]).toEqual(['diverged', 1, 6]);
    expect(receipt.brokenExpectations).toHaveLength(1);
  });

  test('in another group: the steps diverge', () => {
    const { verdict, receipt } = replayWith([{ ...FAULT, group: GROUP.replace('read', 'write') }]);
    expect([verdict, receipt.diverged, receipt.groups[0]?.group]).toEqual(['diverged', 2, GROUP]);
  });

  test('does not matter where only a part of the trace is compared', () => {
    const wrong = [{ ...FAULT, count: 3 }];
    for (const part of [{ from: 1 }, { to: 7 }, { filter: () => true }] satisfies ReplayOptions[]) {
      expect(replayWith(wrong, part).receipt.brokenExpectations).toEqual([]);
    }
    expect(replayWith(wrong, { from: 0 }).receipt.brokenExpectations).toHaveLength(1);
    expect(replayWith(wrong, { bail: true }).receipt.brokenExpectations).toHaveLength(1);
  });
});

describe('the file beside the traces', () => {
  const path = join(folder, 'expectations.json');
  const trace = join(folder, 'case.rwt');
  const entry = { fault: 'a-fault', reason: 'because', group: 'a group', count: 1 };

  /** The expectations of `case.rwt`, or the problem with its place. */
  const read = (content: unknown, of = trace): unknown => {
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
    try {
      return expectationsFor(of);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return `${error.code} ${placeText(error.place).replace(folder, '')}: ${error.message}`;
    }
  };

  test('gives those of the trace, in either form, and none of other traces', () => {
    const content = { 'case.rwt': [entry, { ...entry, steps: [1, 2] }], 'other.rwt': [{ ...entry, fault: 'other' }] };
    expect(read(content)).toEqual([entry, { ...entry, steps: [1, 2] }]);
    expect(read(content, join(folder, 'case.jsonl'))).toEqual([entry, { ...entry, steps: [1, 2] }]);
    expect(read(content, join(folder, 'third.rwt'))).toEqual([]);
  });

  test('says under which machine: elsewhere it is as if it were not there', () => {
    const kvm: MachineFacts = { name: 'kvm', config: defaultKvmConfig(), wiring: 'walk-mmu', mutants: ['m01-x'] };
    const bare: MachineFacts = { name: 'bare', config: undefined, wiring: undefined, mutants: [] };
    const holds = (when: object): [onKvm: number, onBare: number, anywhere: number] => {
      writeFileSync(path, JSON.stringify({ 'case.rwt': [{ ...entry, when }] }));
      return [
        expectationsFor(trace, 0, kvm).length,
        expectationsFor(trace, 0, bare).length,
        expectationsFor(trace).length,
      ];
    };
    for (const when of [
      { machine: 'kvm' },
      { profile: '6.1' },
      { wiring: 'walk-mmu' },
      { tdp: true, tdpMmu: true },
      { mutant: 'm01-x' },
    ]) {
      expect([when, holds(when)]).toEqual([when, [1, 0, 1]]);
    }
    expect(holds({ machine: 'bare' })).toEqual([0, 1, 1]);
    for (const when of [{ profile: '7.3' }, { machine: 'kvm', tdp: false }, { mutant: 'm02' }]) {
      expect([when, holds(when)]).toEqual([when, [0, 0, 1]]);
    }
  });

  test('need not be there, and is not looked for beside a pipe', () => {
    expect(expectationsFor(join(folder, 'nowhere', 'case.rwt'))).toEqual([]);
    expect(read('no JSON', '-')).toEqual([]);
  });

  test.each([
    ['no JSON', '{"case.rwt": [', /^E_EXPECTATIONS \/expectations.json: the file is not valid JSON: /],
    ['a list', [], /: the file is no object of trace names$/],
    ['null', 'null', /: the file is no object of trace names$/],
    ['no list', { 'case.rwt': entry }, /: "case.rwt" is no list$/],
    ['an entry that is none', { 'case.rwt': [entry, 3] }, /: entry 1 of "case.rwt" is no object$/],
    [
      'an unknown field',
      { 'case.rwt': [{ ...entry, step: [1] }] },
      /: entry 0 of "case.rwt" has an unknown field "step"$/,
    ],
    ['no fault', { 'case.rwt': [{ ...entry, fault: '' }] }, /has no text "fault"$/],
    ['no reason', { 'case.rwt': [{ fault: 'f', group: 'g', count: 1 }] }, /has no text "reason"$/],
    ['a group that is no text', { 'case.rwt': [{ ...entry, group: 7 }] }, /has no text "group"$/],
    ['a count of 0', { 'case.rwt': [{ ...entry, count: 0 }] }, /has no positive "count"$/],
    ['half a count', { 'case.rwt': [{ ...entry, count: 1.5 }] }, /has no positive "count"$/],
    ['a condition that is none', { 'case.rwt': [{ ...entry, when: 'kvm' }] }, /has a "when" that is no object$/],
    ['an empty condition', { 'case.rwt': [{ ...entry, when: {} }] }, /has an empty "when"$/],
    [
      'an unknown condition',
      { 'case.rwt': [{ ...entry, when: { cpu: 'x' } }] },
      /has an unknown condition "cpu" in "when"$/,
    ],
    ['a condition of another type', { 'case.rwt': [{ ...entry, when: { tdp: 'on' } }] }, /"tdp" is no true or false$/],
    ['steps that are none', { 'case.rwt': [{ ...entry, steps: [-1] }] }, /has "steps" that is no list of ordinals$/],
  ])('is refused with its place: %s', (_, content, message) => {
    expect(read(content)).toMatch(message);
    expect(read(content)).toMatch(/^E_EXPECTATIONS \/expectations.json: /);
  });
});
