import { describe, expect, test } from 'vitest';
import { CASE, emptyFolder, file, packedCase, rewalk } from './cli.ts';

const M01 = 'traces/mutants/m01-inherited-permissions.rwt';
const WIRINGS = ['--wiring', 'walk-mmu', '--wiring', 'gva-walk'] as const;
/** LASS, which is not modelled, from the access on. */
const UNMODELLED = `${CASE}\n{"register-set":"cr4","value":"0x8000020"}\n{"access":"read","address":"0x1040"}`;
/** Nothing but stores. */
const NOTHING = CASE.split('\n')
  .filter((line) => !line.includes('access') && !line.includes('invlpg'))
  .join('\n');

interface CompareJson {
  readonly results: {
    readonly labels: readonly string[];
    readonly verdict: string;
    readonly receipt: Record<string, unknown>;
    readonly differences: Record<string, unknown>[];
  }[];
  readonly totals: Record<string, unknown>;
  readonly exitStatus: number;
}

async function json(...argv: string[]): Promise<CompareJson & { status: number; stderr: string }> {
  const { status, stdout, stderr } = await rewalk('compare', '--json', ...argv);
  return { ...(JSON.parse(stdout) as CompareJson), status, stderr };
}

async function refused(...argv: string[]): Promise<string> {
  const { status, stdout, stderr } = await rewalk('compare', ...argv);
  expect([status, stdout]).toEqual([2, '']);
  return stderr;
}

describe('one trace', () => {
  test('in which nothing changes: the receipt, then the verdict, exit status 0', async () => {
    const path = await packedCase();
    const { status, stdout, stderr } = await rewalk('compare', ...WIRINGS, path);
    expect([status, stderr]).toEqual([0, '']);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^trace +\S+\.rwt: two writes$/);
    expect(lines[1]).toMatch(/^walk-mmu +kvm 6\.1, EPT, TDP MMU/);
    expect(lines[2]).toMatch(/^gva-walk +kvm 6\.1, EPT, TDP MMU/);
    expect(lines[3]).toMatch(/^policy +every row of every step/);
    expect(stdout).toMatch(/compared: 9 steps, \d+ rows, \d+ events of KVM among them/);
    expect(stdout).toContain('\nnothing changed\n');
    expect(lines.at(-2)).toMatch(/^unchanged \S+: 9 steps, \d+ rows$/);
  });

  test('in which something does: the first difference with both sides, classes; exit status 1', async () => {
    const { status, stdout } = await rewalk('compare', '--mutant', 'm01-inherited-permissions', M01);
    expect(status).toBe(1);
    const order = [
      'clean ',
      'm01-inherited-permissions ',
      '1 difference\n',
      'CHANGED ',
      '\nstep 8\n',
      'stimulus: exit: #PF',
      'get-page differs in role access',
      '! clean                      get-page sp gen 0 gfn 2 l3',
      '! m01-inherited-permissions  get-page sp gen 0 gfn 2 l3',
      'differences by class:\n  1  fault-exit: get-page (role access)  first at step 8',
    ];
    const places = order.map((text) => stdout.indexOf(text));
    expect(places.every((place) => place >= 0)).toBe(true);
    expect(places).toEqual([...places].sort((a, b) => a - b));
  });

  test('as JSON', async () => {
    const { status, exitStatus, results, totals } = await json('--mutant', '1', M01);
    expect([status, exitStatus]).toEqual([1, 1]);
    expect(results).toHaveLength(1);
    const [result] = results;
    expect(result!.labels).toEqual(['clean', 'm01-inherited-permissions']);
    expect([result!.verdict, result!.receipt['changed']]).toEqual(['changed', 1]);
    expect(result!.differences[0]).toMatchObject({ step: 8, cause: 'get-page differs in role access' });
    expect(totals).toMatchObject({ traces: 1, changed: 1, verdicts: { changed: 1 } });
  });

  test('on a machine without TDP and one with it: what the guest sees', async () => {
    const { status, stdout } = await rewalk('compare', '--tdp', 'on', '--tdp', 'off', await packedCase());
    expect(status).toBe(0);
    expect(stdout).toMatch(/^policy +what the guest sees/m);
    expect(stdout).toMatch(/compared: 9 steps, 3 rows\n/);
  });

  test('whose L2 a KVM without TDP cannot run: not modelled, as in a replay, unless that is allowed', async () => {
    const argv = ['--tdp', 'on', '--tdp', 'off', 'traces/mutants/m60-translates-in-guest-mode.rwt'];
    const nested = ['--tdp', 'on', '--tdp', 'off', 'traces/mutants/m23-ept-read-implied.rwt'];
    const { status, stdout } = await rewalk('compare', ...nested);
    expect(status).toBe(4);
    expect(stdout).toMatch(/^not modelled by one side or both: \d+ nested-tdp-without-tdp$/m);
    expect(stdout).not.toContain('documented difference');
    expect((await rewalk('compare', ...argv)).status).toBe(0);
    const allowed = await rewalk('compare', '--allow-unmodelled', 'nested-tdp-without-tdp', ...argv, nested.at(-1)!);
    expect([allowed.status, allowed.stderr]).toEqual([0, '']);
    const { stderr } = await rewalk('compare', '--allow-unmodelled', 'nested-tdp', ...argv);
    expect(stderr).toContain('did you mean nested-tdp-without-tdp?');
  });

  test('from a pipe is no file', async () => {
    expect(await refused(...WIRINGS, '-', '-')).toContain('standard input (-) can be read only once');
  });
});

describe('many traces', () => {
  test('a line each, one full receipt for all', async () => {
    const { status, stdout } = await rewalk('compare', '--mutant', '1', M01, await packedCase());
    expect(status).toBe(1);
    expect(stdout).toMatch(/^CHANGED .*\n(.*\n)*unchanged .*\n(.*\n)*2 traces, 18 steps\n/m);
    expect(stdout).toContain('1 unchanged, 1 CHANGED');
    expect(stdout).toContain('1  fault-exit: get-page (role access)  in 1 trace');
  });

  test('--bail stops after the first that changes', async () => {
    const { results } = await json('--bail', '--mutant', '1', M01, await packedCase());
    expect(results).toHaveLength(1);
  });

  test('one that cannot be read does not keep from the others: exit status 3', async () => {
    const broken = file('broken.rwt', 'no trace');
    const { status, stderr, stdout } = await rewalk('compare', ...WIRINGS, broken, await packedCase());
    expect(status).toBe(3);
    expect(stderr).toContain('E_NOT_A_TRACE');
    expect(stdout).toContain('unchanged');
  });
});

describe('exit status', () => {
  test('4 if a machine does not model what a step needs, unless that is named', async () => {
    const path = file('unmodelled.jsonl', UNMODELLED);
    const { status, results } = await json(...WIRINGS, path);
    expect([status, results[0]!.verdict, results[0]!.receipt['notModelled']]).toEqual([4, 'not-modelled', { lass: 1 }]);
    expect((await rewalk('compare', ...WIRINGS, '--allow-unmodelled', 'lass', path)).status).toBe(0);
  });

  test('1 if nothing was compared: no steps that show anything, or one machine for both sides', async () => {
    const nothing = await rewalk('compare', ...WIRINGS, file('nothing.jsonl', NOTHING));
    expect([nothing.status, nothing.stdout]).toEqual([1, expect.stringContaining('NOTHING COMPARED')]);
    const same = await rewalk('compare', '--tdp-mmu', 'on', '--tdp-mmu', 'off', 'traces/kvmmmu/b_pse_npt0.rwt');
    expect([same.status, same.stdout]).toEqual([1, expect.stringContaining('both sides are the same machine')]);
  });

  test('2 for options that make no two machines', async () => {
    const path = await packedCase();
    expect(await refused(path)).toContain('one trace, and no two machines: there is nothing to compare with');
    expect(await refused(path, path, path)).toContain('3 traces, and no two machines');
    expect(await refused(...WIRINGS, '--vm', 'a', path)).toContain('so --vm cannot apply');
    expect(await refused(...WIRINGS, '--allow-other-corpus', path)).toContain('so --allow-other-corpus cannot apply');
    expect(await refused('--wiring', 'gva-walk', path)).toContain('twice');
    expect(await refused('--wiring', 'gva', '--wiring', 'gva-walk', path)).toContain('--wiring "gva": expected');
    expect(await refused('--mutant', 'm99', path)).toContain('--mutant "m99"');
    expect(await refused('--profile', '6.1', '--profile', '7.3', '--profile', '6.1', path)).toContain(
      'more than twice',
    );
    expect(await refused('--scope', 'rows', ...WIRINGS, path)).toContain('--scope "rows": expected all or guest');
    expect(await refused(...WIRINGS)).toContain('an argument is missing');
    expect(await refused('--wirings', 'gva-walk', path)).toContain('did you mean --wiring?');
  });

  test('3 for what is not there', async () => {
    const { status, stderr } = await rewalk('compare', ...WIRINGS, emptyFolder('none-to-compare'));
    expect([status, stderr]).toEqual([3, expect.stringContaining('E_NO_TRACES')]);
  });
});

test('--help has examples', async () => {
  const { status, stdout } = await rewalk('compare', '--help');
  expect(status).toBe(0);
  expect(stdout.replace(/\s+/g, ' ')).toContain('rewalk compare --wiring walk-mmu --wiring gva-walk');
});

test('text of a hostile trace is escaped', async () => {
  const path = file('hostile.jsonl', CASE.replace('two writes', 'two \\u001b[31m writes'));
  const { stdout } = await rewalk('compare', ...WIRINGS, path);
  expect(stdout).not.toContain('\u001b');
});
