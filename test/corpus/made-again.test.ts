/** The traces of the corpus are what their sources make of themselves today, byte by byte. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { folder, rewalk } from '../cli/cli.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));
const RECORDINGS = fileURLToPath(new URL('../../../shared/recordings/', import.meta.url));

async function made(name: string, ...argv: string[]): Promise<Buffer> {
  const output = join(folder, name);
  const { status, stderr } = await rewalk(...argv, '-o', output);
  expect([status, stderr]).toEqual([0, '']);
  return readFileSync(output);
}

describe('hand-written cases', () => {
  const cases = readdirSync(join(TRACES, 'hand')).filter((name) => name.endsWith('.jsonl'));

  test('each has both forms', () => {
    const packed = readdirSync(join(TRACES, 'hand')).filter((name) => name.endsWith('.rwt'));
    expect(packed).toEqual(cases.map((name) => name.replace(/\.jsonl$/, '.rwt')));
  });

  test.each(cases)('%s packed is its .rwt', async (name) => {
    const packed = name.replace(/\.jsonl$/, '.rwt');
    const bytes = await made(packed, 'convert', join(TRACES, 'hand', name));
    expect(bytes.equals(readFileSync(join(TRACES, 'hand', packed)))).toBe(true);
  });
});

describe.runIf(existsSync(RECORDINGS))('recordings (only where ../shared/recordings exists)', () => {
  test.each(['pcid', 'la57', '32bit-taskswitch2'])('walklog/%s imported again is its trace', async (name) => {
    const log = join(RECORDINGS, 'walklog', `${name}.walklog.gz`);
    const bytes = await made(`${name}.rwt`, 'import', 'walklog', log, '--codec', 'deflate');
    expect(bytes.equals(readFileSync(join(TRACES, 'walklog', `${name}.rwt`)))).toBe(true);
  });

  test.each([
    ['kvm/c_nest_np0', 'kvm/c_nest_np0', []],
    ['kvm/d_two', 'kvm/d_two_vm2', ['--vm', 'vm2']],
    ['kvm-intel/ept1_pse', 'kvm-intel/ept1_pse', []],
  ])('%s imported again is %s', async (recording, trace, options) => {
    const name = `${trace.replace('/', '-')}.rwt`;
    const bytes = await made(
      name,
      'import',
      'kvm-guest',
      join(RECORDINGS, recording),
      ...options,
      '--codec',
      'deflate',
    );
    expect(bytes.equals(readFileSync(join(TRACES, `${trace}.rwt`)))).toBe(true);
  });
});
