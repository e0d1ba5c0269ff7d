/** Results files on the command line: replay -o, compare of two of them, accept, pending files. */

import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { CASE, captured, emptyFolder, file, folder, type Result, rewalk, rewalkWith } from './cli.ts';

const CORPUS = fileURLToPath(new URL('../../traces/', import.meta.url));
/** A recording of KVM that the first mutant spoils. */
const SHADOW = 'b_pse_npt0.rwt';

let folders = 0;

/** A folder with copies of traces, by path in the corpus. */
function copies(...names: string[]): string {
  const path = emptyFolder(`copies${folders++}`);
  for (const name of names) copyFileSync(join(CORPUS, name), join(path, name.split('/').at(-1)!));
  return path;
}

/** `rewalk` as if at a terminal. */
function atTerminal(...argv: string[]): Promise<Result> {
  const stdout = captured({ isTTY: true, columns: 0 });
  const run = rewalkWith({ stdout }, ...argv);
  return run.then((result) => ({ ...result, stdout: stdout.text }));
}

async function run(output: string, ...argv: string[]): Promise<string> {
  const path = join(folder, output);
  const { stderr } = await rewalk('replay', ...argv, '-o', path);
  expect(stderr).toBe(`rewalk: wrote the results to ${path}\n`);
  return path;
}

let clean = '';
let again = '';
let mutant = '';
let traces = '';

beforeAll(async () => {
  traces = copies(`kvmmmu/${SHADOW}`, 'kvmmmu/a_npt1.rwt', 'kvmmmu/expectations.json');
  clean = await run('clean.rwr', traces);
  again = await run('again.rwr', traces);
  mutant = await run('mutant.rwr', traces, '--mutant', 'm01');
});

interface ComparedJson {
  readonly totals: Record<string, { traces: number; changes: number; steps: number }>;
  readonly traces: { trace: string; class: string; changes: { class: string; first: number; steps: number }[] }[];
  readonly exitStatus: number;
}

async function compareJson(...argv: string[]): Promise<ComparedJson> {
  const { status, stdout, stderr } = await rewalk('compare', '--json', ...argv);
  expect(stderr).toBe('');
  const result = JSON.parse(stdout) as ComparedJson;
  expect(result.exitStatus).toBe(status);
  return result;
}

describe('compare', () => {
  test('of two equal runs: a table, nothing changed', async () => {
    const { status, stdout, stderr } = await rewalk('compare', clean, again);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout.split('\n').slice(3)).toEqual([
      '           traces  changes  steps',
      'unchanged       2              73',
      '2 traces unchanged',
      '',
    ]);
    expect((await rewalk('compare', clean, again, '--strict')).status).toBe(0);
  });

  test('of a clean and a spoilt run: regressed, with the first step in full', async () => {
    const { status, stdout } = await rewalk('compare', clean, mutant);
    expect(status).toBe(1);
    const lines = stdout.replaceAll(folder, '').split('\n');
    expect(lines.filter((line) => line.startsWith('note: '))).toEqual([
      'note: 1 trace: other machine: kvm 6.1, NPT, TDP MMU → kvm 6.1, NPT, TDP MMU, with m01-inherited-permissions',
      'note: 1 trace: other machine: kvm 6.1, shadow paging → kvm 6.1, shadow paging, with m01-inherited-permissions',
    ]);
    expect(stdout).toMatch(
      /^regressed {2}.*b_pse_npt0\.rwt {2}match → diverged {2}326 steps, \d+ kinds of change, the first at step 1395$/m,
    );
    expect(stdout).toMatch(
      /^the first regressed: .*b_pse_npt0\.rwt, step 1395\n {2}A {2}match\n {2}B {2}diverged: .*\n {5}step 1395/m,
    );
    expect(stdout).toMatch(/^ {7}cause: get-page gfn .*: role .* was recorded/m);
    expect(lines.at(-2)).toBe('1 trace regressed, 1 trace unchanged');
    expect(lines.length).toBeLessThan(70);
  });

  test('the other way round: fixed, exit status 0, and 1 with --strict', async () => {
    expect(await compareJson(mutant, clean)).toMatchObject({
      totals: { fixed: { traces: 1, steps: 326 } },
      exitStatus: 0,
    });
    expect((await compareJson(mutant, clean, '--strict')).exitStatus).toBe(1);
  });

  test('as JSON names trace, class and first step of each change', async () => {
    const { traces: found, totals } = await compareJson(clean, mutant);
    expect(totals['regressed']!.steps).toBe(326);
    expect(found.map(({ class: kind, changes }) => [kind, changes[0]!.class, changes[0]!.first])).toEqual([
      ['regressed', 'regressed', 1395],
    ]);
  });

  test('of other traces is refused, unless asked for: added and removed, no regression', async () => {
    const other = await run('other.rwr', copies('hand/pml.rwt'), join(traces, SHADOW));
    const { status, stderr } = await rewalk('compare', clean, other);
    expect([status, stderr]).toEqual([
      2,
      expect.stringMatching(/^rewalk: E_OTHER_CORPUS: .*\n {2}hint: add --allow-other-corpus/),
    ]);
    const { totals, exitStatus } = await compareJson(clean, other, '--allow-other-corpus');
    expect(Object.fromEntries(Object.entries(totals).map(([name, { traces: count }]) => [name, count]))).toEqual({
      regressed: 0,
      changed: 0,
      fixed: 0,
      added: 1,
      removed: 1,
      unchanged: 1,
    });
    expect(exitStatus).toBe(0);
    expect((await compareJson(clean, other, '--allow-other-corpus', '--strict')).exitStatus).toBe(1);
  });

  test('without a trace in common is refused, whatever is allowed', async () => {
    const other = await run('foreign.rwr', join(CORPUS, 'hand/pml.rwt'));
    const { status, stdout, stderr } = await rewalk('compare', '--allow-other-corpus', clean, other);
    expect([status, stdout]).toEqual([3, '']);
    expect(stderr).toMatch(/^rewalk: E_NOTHING_COMPARED: no trace was replayed for both results: .*\n {2}hint: /);
  });

  test('and anything else names the file that is wrong', async () => {
    const refusal = async (...argv: string[]): Promise<string> => {
      const { status, stdout, stderr } = await rewalk('compare', ...argv);
      expect(stdout).toBe('');
      return `${status} ${stderr}`;
    };
    const trace = join(CORPUS, 'hand/pml.rwt');
    expect(await refusal(clean, trace)).toMatch(/^2 .*E_USAGE: .* this is no results file \(.*pml\.rwt\)\n {2}hint: /);
    expect(await refusal('none', clean)).toMatch(/^3 .*E_NO_SUCH_FILE: .*\(none\)\n {2}hint: /);
    expect(await refusal('none.rwr', clean)).toMatch(/^3 .*E_NO_SUCH_FILE: .*\(none\.rwr\)/);
    expect(await refusal(clean)).toMatch(/^2 .*E_USAGE: results are compared two by two; there is one/);
    expect(await refusal(clean, again, mutant)).toMatch(/^2 .*E_USAGE: .* these are 3/);
    for (const option of [['--scope', 'all'], ['--bail'], ['--vm', 'a'], ['--max-diffs', '2'], ['--mutant', 'm01']]) {
      expect(await refusal(clean, again, ...option)).toMatch(
        new RegExp(`^2 .*E_USAGE: .*so ${option[0]} cannot apply`),
      );
    }
  });

  test('with results of a run that compared nothing is refused with a sentence', async () => {
    const lines = CASE.split('\n').filter((line) => !line.includes('expect') && !line.includes('physical'));
    const empty = await run('empty.rwr', file('nothing.jsonl', lines.join('\n')));
    const { status, stderr } = await rewalk('compare', clean, empty);
    expect([status, stderr]).toEqual([
      3,
      expect.stringMatching(/E_NOTHING_COMPARED: the run that left these results compared nothing/),
    ]);
  });

  test('with results of a run that predicted nothing because all diverged is no such thing', async () => {
    const trace = join(CORPUS, 'mutants/m36-pdptes-unchecked.rwt');
    const [a, b] = [await run('m36a.rwr', trace), await run('m36b.rwr', trace, '--mutant', 'm36')];
    expect((await compareJson(a, b)).traces[0]!.changes[0]).toMatchObject({ class: 'regressed', first: 5 });
  });

  test('of a damaged or foreign file is refused', async () => {
    const bytes = readFileSync(clean);
    const short = file('short.rwr', bytes.subarray(0, bytes.length - 5));
    expect((await rewalk('compare', clean, short)).stderr).toMatch(/^rewalk: E_CUT_SHORT: /);
    expect((await rewalk('compare', clean, file('text.rwr', 'hello'))).stderr).toMatch(/^rewalk: E_NOT_RESULTS: /);
  });

  test.each([
    ['one results file', () => [clean]],
    ['three', () => [clean, again, mutant]],
    ['with a trace', () => [clean, join(traces, SHADOW)]],
    ['with options of machines', () => [clean, again, '--mutant', 'm01']],
  ])('is refused: %s', async (_, argv) => {
    const { status, stderr } = await rewalk('compare', ...argv());
    expect([status, stderr]).toEqual([2, expect.stringMatching(/^rewalk: E_USAGE: /)]);
  });
});

describe('replay -o', () => {
  test('leaves the report as it is without', async () => {
    const path = join(CORPUS, 'hand/stale-translations.rwt');
    const plain = await rewalk('replay', path);
    expect((await rewalk('replay', path, '-o', join(folder, 'x.rwr'))).stdout).toBe(plain.stdout);
    const diverging = join(traces, SHADOW);
    const options = ['replay', diverging, '--mutant', 'm01', '--max-diffs', '2', '--json'];
    expect((await rewalk(...options, '-o', join(folder, 'x.rwr'))).stdout).toBe((await rewalk(...options)).stdout);
  });

  test.each([
    ['standard output', ['-o', '-'], 2],
    ['a folder that is not there', ['-o', '/nowhere/run.rwr'], 3],
  ])('is refused: %s', async (_, argv, status) => {
    expect((await rewalk('replay', join(traces, SHADOW), ...argv)).status).toBe(status);
  });

  test('does not replace a trace, and writes nothing if the replay fails', async () => {
    const trace = join(traces, SHADOW);
    expect((await rewalk('replay', trace, '-o', trace)).stderr).toMatch(/E_USAGE: the results would replace a trace/);
    const output = join(folder, 'never.rwr');
    expect((await rewalk('replay', join(CORPUS, 'hand/pml.rwt'), '--tdp', 'off', '-o', output)).status).toBe(2);
    expect([existsSync(output), readdirSync(folder).filter((name) => name.endsWith('.tmp'))]).toEqual([false, []]);
  });
});

describe('accept with results', () => {
  test('begins a baseline, lists what differs from it, shows it, and takes over what is named', async () => {
    const here = emptyFolder('baseline');
    const [first, second] = [join(here, 'first.rwr'), join(here, 'second.rwr')];
    copyFileSync(clean, first);
    copyFileSync(mutant, second);
    const baseline = join(here, 'baseline.rwr');
    expect((await rewalk('accept', first)).stdout).toMatch(/^there is no baseline .*\nadded .*\nadded /);
    expect(existsSync(baseline)).toBe(false);
    expect((await atTerminal('accept', first, '--all')).stdout).toMatch(
      /2 traces accepted into .*baseline\.rwr, 0 left as they were\n$/,
    );
    expect(await compareJson(baseline, first)).toMatchObject({ exitStatus: 0, traces: [] });
    expect((await rewalk('accept', second)).stdout).toMatch(/\nregressed .*b_pse_npt0\.rwt +match → diverged /);
    expect((await rewalk('accept', second, SHADOW, '--show')).stdout).toMatch(
      /^regressed: .*step 1395\n {2}A {2}match\n/,
    );
    expect((await rewalk('accept', second, 'a_npt1.rwt', '--yes')).stderr).toMatch(
      /E_USAGE: nothing on the list is called "a_npt1.rwt"/,
    );
    expect((await compareJson(baseline, second)).exitStatus).toBe(1);
    expect((await atTerminal('accept', second, SHADOW)).status).toBe(0);
    expect(await compareJson(baseline, second)).toMatchObject({ exitStatus: 0, traces: [] });
    expect((await atTerminal('accept', second, '--all')).stdout).toMatch(/nothing to accept/);
  });

  test('leaves alone what is not named: added, removed, regressed', async () => {
    const here = emptyFolder('some');
    const [old, now] = [join(here, 'baseline.rwr'), join(here, 'run.rwr')];
    await run('some/baseline.rwr', copies('hand/pml.rwt', 'hand/pse-36.rwt'));
    await run('some/run.rwr', copies('hand/pml.rwt', 'hand/canonical.rwt'));
    const list = JSON.parse((await rewalk('accept', now, '--json')).stdout) as { review: { class: string }[] };
    expect(list.review.map((each) => each.class)).toEqual(['removed', 'added']);
    await atTerminal('accept', now, 'canonical.rwt');
    expect((await compareJson(old, now, '--allow-other-corpus')).totals).toMatchObject({
      removed: { traces: 1 },
      added: { traces: 0 },
    });
    await atTerminal('accept', now, 'pse-36.rwt');
    expect((await compareJson(old, now)).totals).toMatchObject({ unchanged: { traces: 2 } });
  });

  test('refuses in CI, without a terminal, of a part, and for expected failures', async () => {
    const refusal = async (io: Parameters<typeof rewalkWith>[0], ...argv: string[]): Promise<string> => {
      const { status, stderr } = await rewalkWith(io, 'accept', ...argv);
      expect(status).toBe(2);
      return /^rewalk: (E_\w+): /.exec(stderr)![1]!;
    };
    const target = ['--baseline', join(folder, 'ci.rwr')];
    expect(await refusal({}, clean, '--all', ...target)).toBe('E_REVIEW');
    const ci = { env: { CI: 'true' }, stdout: captured({ isTTY: true, columns: 0 }) };
    expect(await refusal(ci, clean, '--all', '--yes', ...target)).toBe('E_REVIEW');
    const part = await run('part.rwr', join(traces, SHADOW), '--from', '3');
    expect(await refusal({}, part, '--all', '--yes', ...target)).toBe('E_REVIEW');
    expect(await refusal({}, clean, '--all', '--fault', 'x')).toBe('E_USAGE');
    expect(await refusal({}, clean, '--all', 'name')).toBe('E_USAGE');
    expect(existsSync(target[1]!)).toBe(false);
    expect((await rewalkWith({ env: { CI: 'false' } }, 'accept', clean, '--all', '--yes', ...target)).status).toBe(0);
  });
});

describe('pending files', () => {
  const REASON = ['--fault', 'qemu-rsvd-without-p', '--reason', 'QEMU leaves P out'];
  let here = '';
  beforeAll(() => {
    here = copies('kvmmmu/a_npt1.rwt', 'hand/pml.rwt');
  });
  const expectations = (): Record<string, Record<string, unknown>[]> =>
    JSON.parse(readFileSync(join(here, 'expectations.json'), 'utf8')) as Record<string, Record<string, unknown>[]>;
  const pending = (): string[] => readdirSync(here).filter((name) => name.endsWith('.pending.rwr'));

  test('are written beside what diverged, where somebody sees it', async () => {
    expect((await rewalk('replay', here, '--pending')).stderr).toMatch(
      /E_REVIEW: a pending file is written from a terminal/,
    );
    expect((await rewalkWith({ env: { CI: '1' } }, 'replay', here, '--pending', '--yes')).stderr).toMatch(
      /E_REVIEW: .*CI/,
    );
    expect((await rewalk('replay', here, '--pending', '--bail')).stderr).toMatch(
      /E_USAGE: --pending is about whole traces/,
    );
    expect(pending()).toEqual([]);
    expect((await atTerminal('replay', here, '--pending')).status).toBe(1);
    expect(pending()).toEqual(['a_npt1.rwt.pending.rwr']);
  });

  test('are listed and shown by name', async () => {
    const { stdout } = await rewalk('accept', here);
    expect(stdout.split('\n')[0]).toBe(
      'a_npt1.rwt#1  11 steps from step 3195 on: supervisor read: recorded #PF 0x8, replayed #PF 0x9',
    );
    expect((await rewalk('accept', here, 'a_npt1.rwt#1', '--show')).stdout).toMatch(
      / {2}step 3195 .*\n.*\n {4}cause: #PF 0x8 was recorded/,
    );
  });

  test('become expected failures with a reason, and a condition', async () => {
    expect((await atTerminal('accept', here, '--all')).stderr).toMatch(
      /E_USAGE: a_npt1.rwt#1 diverges: to expect that/,
    );
    const wrong = await atTerminal('accept', here, 'a_npt1.rwt#1', ...REASON, '--when', 'profile=7.3');
    expect(wrong.stderr).toMatch(/--when does not hold for the machine that diverged/);
    const unknown = await atTerminal('accept', here, 'a_npt1.rwt#1', ...REASON, '--when', 'moon=full');
    expect(unknown.status).not.toBe(0);
    expect(existsSync(join(here, 'expectations.json'))).toBe(false);
    await atTerminal('accept', here, 'a_npt1.rwt#1', ...REASON, '--when', 'profile=6.1', '--when', 'tdp=on');
    const [entry] = expectations()['a_npt1.rwt']!;
    expect(entry).toMatchObject({
      fault: REASON[1],
      reason: REASON[3],
      count: 11,
      when: { profile: '6.1', tdp: true },
    });
    expect(entry!['steps']).toHaveLength(11);
    expect(pending()).toHaveLength(1);
    await atTerminal('replay', here, '--pending');
    expect((await rewalk('accept', here)).stdout.split('\n')).toHaveLength(7);
    await atTerminal('accept', here, '--all', ...REASON);
    expect([pending(), (await rewalk('replay', here)).status]).toEqual([[], 0]);
    expect((await rewalk('accept', here)).stdout).toMatch(/^nothing to review/);
  });

  test('an expectation that moved is brought up to date, one that is met no more goes', async () => {
    const content = expectations();
    const list = content['a_npt1.rwt']!;
    list[0]!['count'] = 12;
    list.push({ fault: 'gone', reason: 'was there', group: 'none', count: 1 });
    writeFileSync(join(here, 'expectations.json'), JSON.stringify(content));
    expect((await atTerminal('replay', here, '--pending')).status).toBe(1);
    expect((await rewalk('accept', here)).stdout.trim().split('\n')).toHaveLength(2);
    await atTerminal('accept', here, 'a_npt1.rwt');
    expect(expectations()['a_npt1.rwt']!.map(({ fault, count }) => [fault, count])).toContainEqual([REASON[1], 11]);
    expect(expectations()['a_npt1.rwt']!.some(({ fault }) => fault === 'gone')).toBe(false);
    expect((await rewalk('replay', here)).status).toBe(0);
  });

  test('go when there is nothing to review any more; a file of somebody else under that name stays', async () => {
    const path = join(here, 'pml.rwt.pending.rwr');
    writeFileSync(path, 'mine');
    await atTerminal('replay', here, '--pending');
    expect(readFileSync(path, 'utf8')).toBe('mine');
    copyFileSync(clean, path);
    await atTerminal('replay', here, '--pending');
    expect(existsSync(path)).toBe(false);
  });
});

test('nothing of a pending file decides where is written', async () => {
  const [from, to] = [copies('kvmmmu/a_npt1.rwt'), emptyFolder('elsewhere')];
  await atTerminal('replay', from, '--pending');
  mkdirSync(to, { recursive: true });
  copyFileSync(join(from, 'a_npt1.rwt.pending.rwr'), join(to, 'x.rwt.pending.rwr'));
  rmSync(from, { recursive: true });
  await atTerminal('accept', join(to, 'x.rwt.pending.rwr'), '--all', '--fault', 'f', '--reason', 'r');
  expect([existsSync(from), readdirSync(to)]).toEqual([false, ['expectations.json']]);
});
