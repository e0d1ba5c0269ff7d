import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { captured, emptyFolder, file, folder, rewalk, rewalkWith } from './cli.ts';

const GOOD = 'traces/hand/ept-rights.rwt';
const MUTANT = 'traces/mutants/m06-child-of-other-role.rwt';

/** A trace with one recorded entry changed. */
async function changedTrace(): Promise<string> {
  const path = join(folder, 'changed.jsonl');
  if (existsSync(path)) return path;
  await rewalk('convert', 'traces/walklog/svm-npt.rwt', '-o', path);
  const lines = readFileSync(path, 'utf8').split('\n');
  const at = lines.findIndex((line) => line.includes('"tables":"npt"'));
  lines[at] = lines[at]!.replace(
    /"value":"0x[0-9a-f]+","tables":"npt","level":1/,
    '"value":"0x5067","tables":"npt","level":1',
  );
  writeFileSync(path, lines.join('\n'));
  return path;
}

const read = (path: string): string => readFileSync(path, 'utf8');

describe('--report', () => {
  test('files beside the text, which stays as it was', async () => {
    const trace = await changedTrace();
    const out = emptyFolder('reports');
    const plain = await rewalk('replay', trace);
    const names = ['text', 'json', 'ndjson', 'junit', 'ktap', 'tap', 'github', 'html'];
    const result = await rewalk(
      'replay',
      trace,
      ...names.flatMap((name) => ['--report', `${name}=${join(out, name)}`]),
    );
    expect(result.stderr).toBe('');
    expect(result).toMatchObject({ status: 1, stdout: plain.stdout });
    expect(readdirSync(out).sort()).toEqual([...names].sort());
    expect(read(join(out, 'text'))).toBe(plain.stdout);
    expect(JSON.parse(read(join(out, 'json')))).toEqual(JSON.parse((await rewalk('replay', trace, '--json')).stdout));
    const events = read(join(out, 'ndjson')).trim().split('\n');
    expect(events.map((line) => (JSON.parse(line) as { type: string }).type)).toEqual(['start', 'trace', 'end']);
    expect(read(join(out, 'junit'))).toContain('<failure type="diverged"');
    expect(read(join(out, 'ktap'))).toMatch(/^KTAP version 1\n1\.\.1\n(# .*\n)+not ok 1 .*changed\.jsonl\n/);
    expect(read(join(out, 'tap'))).toMatch(/^TAP version 13\n1\.\.1\nnot ok 1 - .*changed\.jsonl\n {2}---\n/);
    expect(read(join(out, 'github'))).toMatch(/\n::error file=.*changed\.jsonl,title=diverged at step \d+::step /);
    const page = read(join(out, 'html'));
    expect(page).toMatch(/^<!DOCTYPE html>/);
    // The walk as a picture, the timeline, and the step explained with its rules.
    expect(page).toContain('<svg class="walk');
    expect(page).toContain('data-spans=');
    expect(page).toContain('Explained: walks, TLB, SPTEs, contexts, actions');
    expect(page).toContain('SDM vol. 3');
  });

  test('on standard output in place of the text', async () => {
    const { status, stdout } = await rewalk('replay', GOOD, '--report', 'tap');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^TAP version 13\n1\.\.1\nok 1 - traces\/hand\/ept-rights\.rwt\n(# .*\n)+$/);
    const lines = (await rewalk('replay', GOOD, '--report', 'ndjson')).stdout.trim().split('\n');
    expect(lines.every((line) => line.startsWith('{"type":'))).toBe(true);
  });

  test('no colour gets into a file', async () => {
    const path = join(folder, 'plain.txt');
    const { stdout } = await rewalk('replay', GOOD, '--color', 'always', '--report', `text=${path}`);
    expect(stdout).toContain('\u001b[');
    expect(read(path)).not.toContain('\u001b');
  });

  test('a comparison of two machines, with the sentence that names the mechanism', async () => {
    const [page, xml] = [join(folder, 'cmp.html'), join(folder, 'cmp.xml')];
    const { status } = await rewalk(
      ...['compare', MUTANT, GOOD, '--mutant', 'm06-child-of-other-role'],
      ...['--report', `html=${page}`, '--report', `junit=${xml}`],
    );
    expect(status).toBe(1);
    expect(read(xml)).toMatch(/<failure type="changed" message="step 12: /);
    expect(read(page)).toContain('a child table is reused');
  });

  test('a comparison of two results files', async () => {
    const [a, b] = [join(folder, 'a.rwr'), join(folder, 'b.rwr')];
    const [page, xml, json] = [join(folder, 'rwr.html'), join(folder, 'rwr.xml'), join(folder, 'rwr.json')];
    const trace = 'traces/walklog/ept-ad-pml-pae.rwt';
    await rewalk('replay', trace, GOOD, '-o', a);
    await rewalk('replay', trace, '-o', b, '--no-expectations');
    const reports = [`html=${page}`, `junit=${xml}`, `json=${json}`].flatMap((each) => ['--report', each]);
    const { status, stdout } = await rewalk('compare', a, b, '--allow-other-corpus', ...reports);
    expect(status).toBe(1);
    expect(read(xml)).toMatch(/<failure type="regressed" message="step \d+: regressed: /);
    expect(read(page)).toContain('replayed by B');
    expect(JSON.parse(read(json))).toEqual(
      JSON.parse((await rewalk('compare', a, b, '--allow-other-corpus', '--json')).stdout),
    );
    expect(stdout).toContain('regressed');
  });

  test('a comparison of two traces', async () => {
    const page = join(folder, 'two.html');
    const trace = await changedTrace();
    const { status } = await rewalk('compare', 'traces/walklog/svm-npt.rwt', trace, '--report', `html=${page}`);
    expect(status).toBe(1);
    expect(read(page)).toContain('svm-npt.rwt ↔ ');
    const { stdout } = await rewalk('compare', GOOD, GOOD, '--report', 'tap');
    expect(stdout).toMatch(/^TAP version 13\n1\.\.1\nok 1 - traces\/hand\/ept-rights\.rwt ↔ /);
  });

  test('a trace that cannot be read is a case, too', async () => {
    const bad = file('bad.rwt', 'no trace');
    const { status, stdout } = await rewalk('replay', bad, GOOD, '--report', 'junit');
    expect(status).toBe(3);
    expect(stdout).toContain('<error type="E_NOT_A_TRACE"');
    expect(stdout).toContain('name="ept-rights.rwt"');
  });

  test('a run that compared nothing fails in every format', async () => {
    const args = ['replay', GOOD, '--min-predicted', '1000000', '--report'];
    expect((await rewalk(...args, 'junit')).stdout).toContain('<failure type="run"');
    expect((await rewalk(...args, 'ktap')).stdout).toContain('not ok 2 rewalk replay');
    expect((await rewalk(...args, 'github')).stdout).toContain('::error title=rewalk replay::only ');
  });

  test('github appends to the summary of the job, where there is one', async () => {
    const summary = file('summary.md', '# before\n');
    const trace = await changedTrace();
    const io = { env: { GITHUB_STEP_SUMMARY: summary } };
    const { stdout } = await rewalkWith(io, 'replay', trace, '--report', 'github');
    const token = /^::stop-commands::([0-9a-f]{32})$/m.exec(stdout)?.[1] ?? '';
    expect(stdout.indexOf(`::${token}::`)).toBeLessThan(stdout.indexOf('::error'));
    expect(read(summary)).toMatch(/^# before\n## ❌ rewalk replay\n/);
    expect(read(summary)).toContain('<details><summary>');
  });

  test('files are written whole or not at all', async () => {
    const out = emptyFolder('interrupted');
    const path = join(out, 'report.html');
    writeFileSync(path, 'before');
    const aborted = new AbortController();
    aborted.abort();
    const args = ['replay', GOOD, '--report', `html=${path}`, '--report', `ndjson=${join(out, 'x')}`];
    expect((await rewalkWith({ signal: aborted.signal }, ...args)).status).toBe(130);
    expect(readdirSync(out)).toEqual(['report.html']);
    expect(read(path)).toBe('before');
  });

  test.each([
    [['--report', 'junt'], 'did you mean junit?'],
    [['--report', 'junit='], 'names no file'],
    [['--report', 'junit', '--report', 'tap'], 'two reports would go to standard output'],
    [['--report', 'junit=a', '--report', 'tap=a'], 'two reports would go to a'],
    [['--report', 'junit', '--json'], '--json and --report junit exclude each other'],
    [['--report', 'text=x', '--json'], '--json and --report text exclude each other'],
    [['--report', `html=${GOOD}`], 'would replace a trace'],
  ])('%j is refused with a sentence', async (args, sentence) => {
    const { status, stderr, stdout } = await rewalk('replay', GOOD, ...args);
    expect(status).toBe(2);
    expect(stderr.replaceAll('\\"', '"')).toContain(sentence);
    expect(stdout).toBe('');
  });

  test('a page is not for a terminal; a folder that is not there is told before the work', async () => {
    const terminal = captured({ isTTY: true, columns: 80 });
    expect((await rewalkWith({ stdout: terminal }, 'replay', GOOD, '--report', 'html')).stderr).toContain(
      'no use in a terminal',
    );
    const { status, stderr } = await rewalk('replay', GOOD, '--report', `tap=${join(folder, 'none', 'x')}`);
    expect(status).toBe(3);
    expect(stderr).toContain('E_NO_SUCH_FILE: cannot write it');
  });

  test('--json on standard output and a report in a file', async () => {
    const path = join(folder, 'beside.xml');
    const { stdout } = await rewalk('replay', GOOD, '--json', '--report', `junit=${path}`);
    expect(JSON.parse(stdout)).toMatchObject({ exitStatus: 0 });
    expect(read(path)).toContain('<testsuites>');
  });
});

test('explain writes a page', async () => {
  const path = join(folder, 'step.html');
  const trace = await changedTrace();
  const { status } = await rewalk('explain', `${trace}@first`, '--html', path);
  expect(status).toBe(1);
  const page = read(path);
  expect(page).toContain('<svg class="walk');
  expect(page).toContain('Both sides');
});
