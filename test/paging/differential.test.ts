/** A short run of the differential test, always the same cases; `differential-long.test.ts` is the long one. */

import { describe, expect, test } from 'vitest';
import { Differential } from './differential.ts';

/** Together some 30,000 cases. */
const EPOCHS = 32;

describe('the machine against the plain walker', () => {
  test('every walk of a random world reads, writes and ends as the plain one does', () => {
    const differential = new Differential(20_261_121);
    for (let epoch = 0; epoch < EPOCHS; epoch++) differential.runEpoch(epoch);
    expect(differential.differences.map(({ report }) => report)).toEqual([]);
    expect(differential.cases).toBeGreaterThan(20_000);
  });

  test('cases reach every outcome, so that agreement means something', () => {
    const differential = new Differential(20_261_121);
    for (let epoch = 0; epoch < EPOCHS; epoch++) differential.runEpoch(epoch);
    const { outcomes } = differential;
    const count = (name: string): number => outcomes.get(name) ?? 0;
    expect(count('translated')).toBeGreaterThan(2000);
    for (const kind of ['ept-violation', 'ept-misconfig', 'npf', 'exception 13 0x0']) {
      expect(count(kind), kind).toBeGreaterThan(30);
    }
    // Not present, protection, reserved, fetch, protection key, shadow stack.
    for (const code of ['0x0', '0x7', '0x9', '0x15', '0x25', '0x45']) {
      expect(count(`exception 14 ${code}`), code).toBeGreaterThan(5);
    }
  });

  test('while tables stay as they are, a TLB hit ends as a walk would', () => {
    const differential = new Differential(20_261_122, { tlb: true });
    for (let epoch = 0; epoch < 10; epoch++) differential.runEpoch(epoch);
    expect(differential.differences.map(({ report }) => report)).toEqual([]);
    expect(differential.hits).toBeGreaterThan(500);
  });
});
