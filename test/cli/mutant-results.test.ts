/** For every historical bug: the results of a clean run and of one with the bug; their comparison names the first step. */

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { MUTANT_ROWS } from '../corpus/mutant-table.ts';
import { folder, rewalk } from './cli.ts';

test('every row of the table', () => expect(MUTANT_ROWS.length).toBeGreaterThanOrEqual(51));

describe.each(MUTANT_ROWS)('$name', ({ name, trace, options, mutants, step }) => {
  test(`regressed, first at step ${step}`, async () => {
    // A machine that is asked for runs the guest on KVM; a recording of KVM's own runs there anyway.
    const machine = options.length === 0 ? [] : ['--machine', 'kvm', ...options];
    const run = async (kind: string, ...more: string[]): Promise<string> => {
      const path = join(folder, `${name}-${kind}.rwr`);
      const { stderr } = await rewalk('replay', trace, '-o', path, ...machine, ...more);
      expect(stderr).toBe(`rewalk: wrote the results to ${path}\n`);
      return path;
    };
    const [clean, bad] = [await run('clean'), await run('bad', '--mutant', mutants)];

    const { status, stdout, stderr } = await rewalk('compare', clean, bad);
    expect([status, stderr]).toEqual([1, '']);
    expect(stdout).toMatch(/^regressed +1 /m);
    expect(stdout).toMatch(new RegExp(`^regressed +${trace} +match → diverged .* first at step ${step}$`, 'm'));
    expect(stdout).toContain(`\nthe first regressed: ${trace}, step ${step}\n  A  match\n  B  `);
    expect(stdout).toMatch(/\n1 trace regressed\n$/);
  });
});
