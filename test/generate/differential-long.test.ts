/**
 * Random programs at length, bare against KVM; it runs only when asked for (`npm run differential:kvm`):
 *
 *     REWALK_PROGRAMS=100000 npx vitest run test/generate/differential-long.test.ts
 *
 * Kinds of program take turns: not nested, with NPT, with EPT, without nested paging, each with one vCPU and with two;
 * REWALK_NESTED=ept restricts them to those of that nesting. Profiles and wirings take turns, too (`findings.ts`).
 * REWALK_SEED (default: the time) chooses the programs, REWALK_FIRST (default 0) the number of the first. Minimal
 * programs of what is found go to REWALK_FINDINGS (default: a temporary folder).
 */

import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Findings, KINDS } from './findings.ts';

const DAY = 86_400_000;
const { REWALK_PROGRAMS, REWALK_SEED, REWALK_FIRST, REWALK_FINDINGS, REWALK_NESTED } = process.env;

test.runIf(REWALK_PROGRAMS !== undefined)(
  'guests on KVM, and theirs, see what they see on a bare processor',
  async () => {
    const seed = Number(REWALK_SEED ?? Date.now()) >>> 0;
    const folder = REWALK_FINDINGS ?? mkdtempSync(join(tmpdir(), 'rewalk-findings-'));
    mkdirSync(folder, { recursive: true });
    const findings = new Findings(folder);
    const kinds = KINDS.filter(({ nested }) => REWALK_NESTED === undefined || nested === REWALK_NESTED);
    const begin = Date.now();
    let told = begin;
    let programs = 0;
    for (let index = Number(REWALK_FIRST ?? 0); programs < Number(REWALK_PROGRAMS); index++) {
      for (const kind of kinds) programs += findings.run(seed, index, kind);
      // The test runner wants to hear from its worker now and then.
      if (index % 16 === 0) await nextTurn();
      if (Date.now() - told < 60_000) continue;
      told = Date.now();
      console.log(`seed ${seed}: ${programs} programs, ${Math.round((1000 * programs) / (told - begin))} per second`);
    }
    console.log(
      `seed ${seed}, ${programs} programs, ${Math.round((Date.now() - begin) / 1000)} s\n${findings.summary()}`,
    );
    expect(findings.sentences).toEqual([]);
  },
  DAY,
);
