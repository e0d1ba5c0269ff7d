/**
 * The wirings of the walks are equal on random nested programs. At length, when asked for (`npm run differential:wirings`):
 *
 *     REWALK_PROGRAMS=100000 npx vitest run test/generate/wirings.test.ts
 *
 * REWALK_SEED chooses the programs.
 */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { offers } from '../../src/generate/differential.ts';
import { generateProgram } from '../../src/generate/generate.ts';
import { PAGINGS } from '../../src/generate/program.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { hostsOf, KINDS } from './findings.ts';
import { compareWirings } from './wirings.ts';

const DAY = 86_400_000;
const { REWALK_PROGRAMS, REWALK_SEED } = process.env;
const NESTED = KINDS.filter(({ nested }) => nested !== 'no');
const PROGRAMS = Number(REWALK_PROGRAMS ?? 48);
const SEED = Number(REWALK_SEED ?? 20_261_122) >>> 0;

test(
  `${PROGRAMS} programs`,
  async () => {
    const differences: string[] = [];
    const begin = Date.now();
    let told = begin;
    let programs = 0;
    let runs = 0;
    let steps = 0;
    let rows = 0;
    for (let index = 0; programs < PROGRAMS; index++) {
      for (const kind of NESTED) {
        const paging = PAGINGS[index % PAGINGS.length]!;
        const program = generateProgram({ seed: SEED, index, paging, nested: kind.nested, vcpus: kind.vcpus });
        programs++;
        for (const host of hostsOf(kind, Math.floor(index / PAGINGS.length))) {
          if (!offers(host, program)) continue;
          const result = compareWirings(program, host);
          runs++;
          steps += result.steps;
          rows += result.rows;
          if (result.difference !== undefined) {
            differences.push(`${kind.name} ${paging} ${host.variant} number ${index}: ${result.difference}`);
          }
        }
      }
      if (index % 16 === 0) await nextTurn();
      if (REWALK_PROGRAMS === undefined || Date.now() - told < 60_000) continue;
      told = Date.now();
      console.log(`seed ${SEED}: ${programs} programs, ${differences.length} differ`);
    }
    if (REWALK_PROGRAMS !== undefined) {
      console.log(`seed ${SEED}: ${programs} programs, ${runs} runs, ${steps} steps, ${rows} rows each`);
    }
    expect(differences).toEqual([]);
    expect(rows).toBeGreaterThan(steps);
  },
  DAY,
);

/** What mutant 61 leaves out no random program has met; a trace of its own catches it (traces/mutants). */
describe.each([
  ['a walk that is left stale after an exit', Mutant.L2_WALK_AFTER_EXIT, 'ept'],
  ['addresses that are translated as it were a guest with nested paging', Mutant.TRANSLATES_IN_GUEST_MODE, 'none'],
] as const)('%s', (_, mutant, nested) => {
  test('would be noticed', () => {
    const noticed = Array.from({ length: 200 }, (_, index) => index).some((index) => {
      const program = generateProgram({ seed: 3, index, paging: PAGINGS[index % 4]!, nested });
      const host = { variant: 'tdp', profile: '7.3' } as const;
      return compareWirings(program, host, { mutants: [mutant] }).difference !== undefined;
    });
    expect(noticed).toBe(true);
  });
});
