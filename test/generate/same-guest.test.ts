/** Random programs as traces: what `rewalk replay --machine kvm` makes of them, and of those that once failed. */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { PAGINGS } from '../../src/generate/program.ts';
import { folder, rewalk } from '../cli/cli.ts';

const KEPT = fileURLToPath(new URL('../../traces/generated/', import.meta.url));
const MACHINES: readonly { readonly name: string; readonly options: readonly string[] }[] = [
  { name: 'tdp', options: ['--tdp', 'on', '--tdp-mmu', 'on'] },
  { name: 'tdp legacy', options: ['--tdp', 'on', '--tdp-mmu', 'off'] },
  { name: 'shadow', options: ['--tdp', 'off'] },
];

async function diverged(files: readonly string[], options: readonly string[], beyond = ''): Promise<unknown[]> {
  const { stdout } = await rewalk('replay', '--json', '--machine', 'kvm', ...options, ...files);
  const { results } = JSON.parse(stdout) as { results: { verdict: string; receipt: { title: string } }[] };
  expect(results.length).toBeGreaterThan(0);
  // Under shadow paging KVM offers no nested paging: what needs it is said not to be modelled.
  return results.filter(({ verdict }) => verdict !== 'match' && verdict !== beyond).map(({ receipt }) => receipt.title);
}

describe.each(MACHINES)('$name', ({ options }) => {
  test.each(PAGINGS)('%s: the guest sees what it sees on a bare processor', async (paging) => {
    const path = join(folder, `${paging}.rwt`);
    await rewalk('generate', '--seed', '5', '--programs', '8', '--paging', paging, '-o', path);
    expect(await diverged([path], options)).toEqual([]);
  });

  test('so it does in the programs that were kept', async () => {
    const files = readdirSync(KEPT).filter((name) => name.endsWith('.rwt'));
    expect(
      await diverged(
        files.map((name) => join(KEPT, name)),
        options,
        options[1] === 'off' ? 'not-modelled' : '',
      ),
    ).toEqual([]);
  });
});
