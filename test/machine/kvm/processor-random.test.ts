/** A guest cannot tell a processor above a hypervisor's tables from a bare one: random guest tables, seeded. */

import { expect, test } from 'vitest';
import { AgainstBare, type Below } from './against-bare.ts';

const WORLDS = Number(process.env['REWALK_WORLDS'] ?? 25);

test.each<[Below, boolean]>([
  ['npt', false],
  ['npt', true],
  ['ept', false],
  ['ept', true],
  ['ept-ad', false],
  ['ept-ad', true],
  ['shadow', false],
  ['shadow', true],
])('a guest on %s, TLB %s, is what it is on a bare processor', (below, tlb) => {
  const against = new AgainstBare(below, 4711);
  for (let world = 0; world < WORLDS; world++) against.run(world, tlb);
  const { counts } = against;
  if (process.env['REWALK_WORLDS'] !== undefined) console.log(below, tlb, counts);
  expect(counts.accesses).toBe(WORLDS * 30);
  expect(counts.exits).toBeGreaterThan(WORLDS);
  expect(counts.translated).toBeGreaterThan(counts.accesses / 10);
  expect(counts.faults).toBeGreaterThan(counts.accesses / 20);
  if (tlb) expect(counts.hits).toBeGreaterThan(counts.accesses / 50);
});
