/** Legal differences of nested paging, each by the minimal program that found it (traces/generated) on an emulated KVM. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { type Line, replay } from './small-traces.ts';

function linesOf(name: string): Line[] {
  const text = readFileSync(new URL(`../../traces/generated/${name}.jsonl`, import.meta.url), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

/** Unexplained differences, and the numbers of the legal ones. */
function figures(name: string, profile: '6.1' | '7.3'): unknown[] {
  const machine: MachineChoice = { machine: 'kvm', tdp: true, profile };
  const { unexplained, legal } = replay(linesOf(name), { machine }).receipt.sameGuest!;
  return [unexplained, ...legal.map(({ number }) => number)];
}

/** What the guest on KVM sees, by profile. */
const FOUND: readonly (readonly [name: string, old: readonly number[], recent: readonly number[]])[] = [
  ['tables-read-for-writing', [2, 6], [2, 6]],
  ['pse-not-in-nested-role', [11], [11]],
  ['pse-for-one-translation', [11], [11]],
  ['nested-fetches-without-pae', [13, 15], [13]],
  ['emulated-for-its-guest', [], [17]],
  ['exit-left-over', [17], [6, 17]],
  ['accessed-set-with-full-log', [18], [18]],
  ['device-accesses-untold', [6, 17], [19]],
  ['tables-untold', [6, 14, 17], [19]],
  ['table-without-slot', [6, 14], [6]],
  ['own-flags-untracked', [], [21]],
  ['pdptes-left-over', [], [22]],
  ['read-only-table', [20], []],
  ['read-only-table-by-pdpte', [10, 20], [10]],
  ['log-apart', [18], [18]],
  // Lawful without an entry of the list.
  ['pdptes-by-stale-ept', [], []],
  ['stale-for-first-translations', [], []],
  ['read-before-write', [], []],
  ['stale-for-one-stage', [], []],
  ['pdptes-before-store', [], []],
];

describe.each(FOUND)('%s', (name, old, recent) => {
  test('is all that differs', () => {
    expect(figures(name, '6.1')).toEqual([0, ...old]);
    expect(figures(name, '7.3')).toEqual([0, ...recent]);
  });
});
