/** A guest on KVM sees what it sees on a bare processor: a seeded part of the differential test, and that it would notice. */

import { describe, expect, test } from 'vitest';
import { compareOn, Tally } from '../../src/generate/differential.ts';
import { generateProgram } from '../../src/generate/generate.ts';
import { PAGINGS, type Paging } from '../../src/generate/program.ts';
import { shrink } from '../../src/generate/shrink.ts';
import { isValid } from '../../src/generate/valid.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { Findings, KINDS } from './findings.ts';

const SEED = 20_261_122;
const NUMBERS = 60;

describe('bare against kvm', () => {
  const findings = new Findings();
  for (let index = 0; index < NUMBERS; index++) findings.run(SEED, index);

  test('nothing is unexplained', () => {
    expect(findings.sentences).toEqual([]);
  });

  test('programs get somewhere, and what is explained away is little', () => {
    const tallies = [...findings.tallies.values()];
    const sum = (value: (tally: Tally) => number): number => tallies.reduce((all, each) => all + value(each), 0);
    const accesses = sum((each) => each.accesses);
    expect(findings.tallies.size).toBe(3 * PAGINGS.length);
    expect(sum((each) => each.translated) / accesses).toBeGreaterThan(0.3);
    expect(sum((each) => each.equal) / accesses).toBeGreaterThan(0.98);
    expect(sum((each) => each.undetermined + each.notModelled)).toBe(0);
  });
});

describe('a hypervisor without nested paging', () => {
  const kind = KINDS.find(({ name }) => name === 'none')!;
  const findings = new Findings();
  for (let index = 0; index < NUMBERS / 2; index++) findings.run(SEED, index, kind);

  test('nothing is unexplained, with any tables', () => {
    expect(findings.sentences).toEqual([]);
    expect(findings.tallies.size).toBe(3 * PAGINGS.length);
  });
});

/** Where a mutant is first noticed. */
const NOTICED = [
  ['a page of other rights is shared', Mutant.INHERITED_PERMISSIONS, 'pae'],
  ['CR0.WP is not looked at again', Mutant.WP_TOGGLE_WITHOUT_INIT, '32-bit'],
  ['SMAP is not part of the role', Mutant.SMAP_NOT_IN_ROLE, 'pae'],
  ['EFER.NXE is not part of the role', Mutant.NX_SHARED, '4-level'],
] as const;

describe.each(NOTICED)('a KVM in which %s', (_, mutant, paging: Paging) => {
  test('is noticed, and the program shrunk to a few steps', () => {
    const options = { mutants: [mutant] };
    for (let index = 0; index < 400; index++) {
      const program = generateProgram({ seed: 7, index, paging });
      for (const variant of ['tdp', 'shadow'] as const) {
        const finding = compareOn(program, { variant }, new Tally(), options);
        if (finding === undefined) continue;
        const small = shrink(program, { variant }, finding, (each) =>
          compareOn(each, { variant }, new Tally(), options),
        );
        expect(small.finding.shape).toBe(finding.shape);
        expect(small.program.units.length - small.program.pinned).toBeLessThan(20);
        expect(isValid(small.program)).toBe(true);
        expect(compareOn(small.program, { variant })).toBeUndefined();
        return;
      }
    }
    expect.unreachable('no program noticed it');
  });
});
