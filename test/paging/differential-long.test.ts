/**
 * The differential test at length, for nights and releases; it runs only when asked for:
 *
 *     REWALK_CASES=10000000 npx vitest run test/paging/differential-long.test.ts
 *
 * REWALK_SEED (default: the time) chooses the cases. REWALK_TLB=1 lets the TLB take part. With REWALK_EPOCH, and
 * REWALK_WORLD if wanted, only that one runs: what the report of a difference names.
 */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Differential } from './differential.ts';

const DAY = 86_400_000;
const { REWALK_CASES, REWALK_SEED, REWALK_TLB, REWALK_EPOCH, REWALK_WORLD } = process.env;
const wanted = REWALK_CASES !== undefined || REWALK_EPOCH !== undefined;

test.runIf(wanted)(
  'the machine agrees with the plain walker',
  async () => {
    const seed = Number(REWALK_SEED ?? Date.now()) >>> 0;
    const differential = new Differential(seed, { tlb: REWALK_TLB === '1' });
    if (REWALK_EPOCH !== undefined) {
      differential.runEpoch(Number(REWALK_EPOCH), REWALK_WORLD === undefined ? undefined : Number(REWALK_WORLD));
    } else {
      const begin = Date.now();
      let told = begin;
      for (let epoch = 0; differential.cases < Number(REWALK_CASES); epoch++) {
        differential.runEpoch(epoch);
        // The test runner wants to hear from its worker now and then.
        await nextTurn();
        if (Date.now() - told < 60_000) continue;
        told = Date.now();
        const perSecond = Math.round((1000 * differential.cases) / (told - begin));
        console.log(
          `seed ${seed}: ${differential.cases} cases, ${perSecond} per second, ${differential.shapes.size} shapes`,
        );
      }
      console.log(`seed ${seed}, ${Math.round((Date.now() - begin) / 1000)} s`);
    }
    console.log(differential.summary());
    expect([...differential.shapes]).toEqual([]);
  },
  DAY,
);
