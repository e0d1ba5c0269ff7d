/**
 * Every historical bug comes down to a trace that a reader takes in at once, and that still tells it from none.
 *
 * A trace that is no longer than that says so by itself (test/corpus/mutants.test.ts): it is minimised with
 * REWALK_MUTANTS=all (`npm run minimise:mutants`), which shows the median, too.
 */

import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { GivenMachines } from '../../src/compare/sides.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { HERE, MUTANT_CASES } from '../corpus/mutant-cases.ts';
import { minimised, mutantsAgainstClean, replayed, written } from './minimised.ts';

const AT_MOST = 20;
const MEDIAN_AT_MOST = 8;

const ALL = process.env['REWALK_MUTANTS'] === 'all';
const CASES = MUTANT_CASES.filter(({ step }) => ALL || step >= AT_MOST);

const lengths: number[] = [];

function commonOf({ machine, profile, wiring, tdp }: MachineChoice): Partial<GivenMachines> {
  return {
    ...(machine === undefined ? {} : { machine: [machine] }),
    ...(profile === undefined ? {} : { profile: [profile] }),
    ...(wiring === undefined ? {} : { wiring: [wiring] }),
    ...(tdp === undefined ? {} : { tdp: [tdp] }),
  };
}

test.each(CASES)(`$name comes down to ${AT_MOST} steps at most`, ({ name, mutants, machine }) => {
  const wanted = mutantsAgainstClean(mutants, commonOf(machine));
  const found = minimised(join(HERE, `${name}.rwt`), wanted);
  expect(found.columns.stepCount).toBeLessThanOrEqual(AT_MOST);
  expect([found.kind, found.finished, found.finding.group]).toEqual(['pair', true, found.original.group]);
  const small = written(found, name);
  const [clean, bad] = wanted.sides!;
  expect(replayed(small, clean.choice)).toMatchObject({ verdict: 'match' });
  const { step, group } = found.finding;
  expect(replayed(small, bad.choice)).toEqual({ verdict: 'diverged', step, group });
  lengths.push(found.columns.stepCount);
});

test.runIf(ALL)('half of them are shorter still', () => {
  expect(lengths).toHaveLength(MUTANT_CASES.length);
  lengths.sort((a, b) => a - b);
  expect(lengths[Math.floor(lengths.length / 2)]).toBeLessThanOrEqual(MEDIAN_AT_MOST);
});
