import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CASE, file, folder, rewalk } from './cli.ts';

const M01 = 'traces/mutants/m01-inherited-permissions.rwt';
const M38 = 'traces/mutants/m38-guest-mode-not-in-role.rwt';
const MATCHES = 'traces/hand/canonical.rwt';
/** Its page fault at step 6 is told without the entries that were read for it. */
const WRONG = CASE;

describe('rewalk minimise', () => {
  test('writes a small trace and tells what it is good for', async () => {
    const output = join(folder, 'm01.jsonl');
    const { status, stdout, stderr } = await rewalk('minimise', '--mutant', 'm01', M01, '-o', output);
    expect([status, stderr]).toEqual([0, '']);
    const lines = stdout.trimEnd().split('\n');
    expect(lines[0]).toBe(`wrote 7 steps to ${output}`);
    expect(lines[1]).toMatch(/^ {2}of 9 steps up to the divergence at step 8; \d+ after slicing; \d+ trials$/);
    expect(lines[2]).toBe('  class: fault-exit: get-page (role access)');
    expect(lines[3]).toMatch(/^ {2}step 6: get-page gfn 0x2: role /);
    expect(lines[4]).toBe('  clean matches it, m01-inherited-permissions does not');
    expect((await rewalk('check', '--strict', output)).status).toBe(0);
    expect((await rewalk('replay', output)).status).toBe(0);
    expect((await rewalk('replay', '--mutant', 'm01', output)).status).toBe(1);
  });

  test('both forms hold the same trace; with -o - it goes to standard output and the rest to standard error', async () => {
    const packed = join(folder, 'm38.rwt');
    const text = join(folder, 'm38.jsonl');
    await rewalk('minimise', '--mutant', 'm38', M38, '-o', packed);
    await rewalk('minimise', '--mutant', 'm38', M38, '-o', text);
    const back = join(folder, 'm38-back.jsonl');
    await rewalk('convert', packed, '-o', back);
    expect(readFileSync(back, 'utf8')).toBe(readFileSync(text, 'utf8'));
  });

  test('--json', async () => {
    const output = join(folder, 'json.rwt');
    const { status, stdout } = await rewalk('minimise', '--json', '--mutant', 'm38', M38, '-o', output);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      output,
      form: 'trace',
      steps: 4,
      machines: ['clean', 'm38-guest-mode-not-in-role'],
      kind: 'pair',
      class: 'vm-entry: recorded get-page, replayed nothing',
      step: 3,
      original: { step: 12, steps: 13 },
      finished: true,
    });
  });

  test('of a replay: the class stays', async () => {
    const path = file('wrong.jsonl', WRONG);
    const output = join(folder, 'right.jsonl');
    const { status, stdout } = await rewalk('minimise', path, '-o', output);
    expect(status).toBe(0);
    expect(stdout).toContain('a replay of it diverges');
    expect((await rewalk('replay', output)).status).toBe(1);
  });

  test('that matches: nothing to minimise, no file, exit status 2', async () => {
    const output = join(folder, 'none.rwt');
    const { status, stdout, stderr } = await rewalk('minimise', MATCHES, '-o', output);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain('rewalk: E_NO_DIVERGENCE: the replay does not diverge on this trace');
    expect(stderr).toContain('hint: ');
    expect(existsSync(output)).toBe(false);
  });

  test.each([
    [['-'], 'a trace is read more than once'],
    [[M01, '--scope', 'all'], '--scope is for two machines'],
    [[M01, '--budget', '0'], '--budget'],
    [[M01, '--mutant', 'm01', '--step', '3'], 'do the same at step 3'],
  ])('%j is refused', async (argv, sentence) => {
    const { status, stdout, stderr } = await rewalk('minimise', ...argv);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(sentence);
  });

  test('what comes from a trace is escaped', async () => {
    const bell = WRONG.replace('two writes', 'two\\u0007writes');
    const { stdout } = await rewalk('minimise', file('bell.jsonl', bell), '-o', join(folder, 'bell-small.jsonl'));
    expect(stdout).not.toContain('\u0007');
  });
});

describe('rewalk bisect', () => {
  test('the step that goes wrong, and the one that shows it', async () => {
    const { status, stdout, stderr } = await rewalk('bisect', '--mutant', 'm38', M38);
    expect([status, stderr]).toEqual([1, '']);
    expect(stdout).toContain(`bad ${M38}\n`);
    expect(stdout).toContain('the states part at step 11: VMRUN');
    expect(stdout).toContain('  vcpu.cpuWalk.base: 0x23704 on clean, 0x3704 on m38-guest-mode-not-in-role\n');
    expect(stdout).toContain('it shows first at step 12: KVM enters the guest\n');
    expect(stdout).toMatch(/\d+ runs from the beginning\n$/);
  });

  test('--json', async () => {
    const { status, stdout } = await rewalk('bisect', '--json', '--mutant', 'm38', M38);
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ bad: true, parted: { step: 11 }, shown: { step: 12 } });
  });

  test('of a replay; and nothing bad: exit status 0', async () => {
    const wrong = await rewalk('bisect', file('wrong-too.jsonl', WRONG));
    expect(wrong.status).toBe(1);
    expect(wrong.stdout).toContain('it shows first at step 6 (');
    const { status, stdout } = await rewalk('bisect', MATCHES);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^no bad step in \S+: nothing diverges in \d+ steps\n$/);
  });
});

describe('--bisect: 125 in place of 3 and 4', () => {
  const UNMODELLED = `${CASE}\n{"register-set":"cr4","value":"0x8000020"}\n{"access":"read","address":"0x1040"}`;

  test.each([['replay'], ['compare', '--mutant', 'm01']])('%s', async (...command) => {
    const statusOf = async (path: string, ...more: string[]): Promise<number> =>
      (await rewalk(...command, ...more, path)).status;
    const unmodelled = file('unmodelled.jsonl', UNMODELLED);
    const noTrace = file('no-trace.rwt', 'nothing of ours');
    expect([await statusOf(noTrace), await statusOf(noTrace, '--bisect')]).toEqual([3, 125]);
    expect([await statusOf(unmodelled), await statusOf(unmodelled, '--bisect')]).toEqual([4, 125]);
    const missing = join(folder, 'missing.rwt');
    expect([await statusOf(missing), await statusOf(missing, '--bisect')]).toEqual([3, 125]);
    expect(await statusOf(M01, '--bisect')).toBe(command[0] === 'replay' ? 0 : 1);
  });

  test('what is bad stays bad', async () => {
    expect((await rewalk('replay', '--bisect', file('wrong-again.jsonl', WRONG))).status).toBe(1);
    expect((await rewalk('replay', '--bisect', '--nonsense', M01)).status).toBe(2);
  });
});
