/** `rewalk compare A B` with two folders of traces or recordings. */

import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CASE, emptyFolder, file, folder, packedCase, rewalk } from './cli.ts';

interface FoldersJson {
  readonly mode: string;
  readonly verdicts: Record<string, number>;
  readonly removed: string[];
  readonly added: string[];
  readonly differences: number;
  readonly classes: { title: string; count: number; traces: number; firstTrace: string }[];
  readonly traces: { trace: string; verdict: string; differences?: number; error?: { code: string } }[];
  readonly exitStatus: number;
}

let folders = 0;

/** A folder with these files. */
function folderOf(files: Readonly<Record<string, string | Uint8Array>>): string {
  const name = `folder${folders++}`;
  for (const [path, content] of Object.entries(files)) file(join(name, path), content);
  return join(folder, name);
}

async function json(...argv: string[]): Promise<FoldersJson> {
  const { stdout } = await rewalk('compare', '--json', ...argv);
  return JSON.parse(stdout) as FoldersJson;
}

const OTHER = CASE.replace('0x4027', '0x4067');
const KERNEL = '# tracer: nop\n#\n  vmm-1 [000] ...1. 19.000001: kvm_entry: vcpu 0, rip 0x100000\n';

describe('two folders', () => {
  test('of the same traces are equal, packed, as text and to be imported; other files are left alone', async () => {
    const packed = readFileSync(await packedCase());
    const files = { 'a.rwt': packed, 'deep/b.jsonl': CASE, 'kernel.txt': KERNEL, 'README.md': '# no trace' };
    const { status, stdout, stderr } = await rewalk('compare', folderOf(files), folderOf({ ...files, notes: 'x' }));
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^both +3 traces of the same name: 3 equal$/m);
    expect(stdout).toMatch(/\nequal: 3 traces of both say the same\n$/);
  });

  test('the table names what differs, what was added and removed; then the first of each class and where', async () => {
    const a = folderOf({ 'a.jsonl': CASE, 'sub/b.jsonl': CASE, 'gone.jsonl': CASE });
    const b = folderOf({ 'a.jsonl': CASE, 'sub/b.jsonl': OTHER, 'new.jsonl': CASE });
    const { status, stdout } = await rewalk('compare', a, b);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^removed +1 only in A: gone\.jsonl$/m);
    expect(stdout).toMatch(/^added +1 only in B: new\.jsonl$/m);
    expect(stdout).toMatch(
      /^ +1 +1 +sub\/b\.jsonl +different +store differs, value|^ +\d+ +\d+ +sub\/b\.jsonl +different/m,
    );
    expect(stdout).toMatch(/^1\. .* in sub\/b\.jsonl\n {3}A step \d+ /m);
    expect(stdout).toMatch(/\ndifferent: 1 trace: \d+ differences? of \d+ class(es)?; 2 traces of one folder only\n$/);
    const found = await json(a, b);
    expect(found).toMatchObject({ mode: 'folders', removed: ['gone.jsonl'], added: ['new.jsonl'], exitStatus: 1 });
    expect(found.verdicts).toEqual({ equal: 1, different: 1, 'nothing-compared': 0, unreadable: 0 });
    expect(found.traces.map(({ trace, verdict }) => [trace, verdict])).toEqual([
      ['a.jsonl', 'equal'],
      ['sub/b.jsonl', 'different'],
    ]);
    expect(found.classes.every(({ firstTrace, traces }) => firstTrace === 'sub/b.jsonl' && traces === 1)).toBe(true);
  });

  test('a trace that cannot be read is told of and keeps from no other; exit status 3', async () => {
    const packed = readFileSync(await packedCase());
    const a = folderOf({ 'a.rwt': packed, 'b.jsonl': CASE, 'c.rwt': packed });
    const b = folderOf({ 'a.rwt': packed.subarray(0, packed.length - 40), 'b.jsonl': CASE, 'c.rwt': 'junk' });
    const { status, stdout, stderr } = await rewalk('compare', a, b);
    expect(status).toBe(3);
    expect(stderr).toMatch(/E_CUT_SHORT: .*a\.rwt[\s\S]*E_NOT_A_TRACE: .*c\.rwt/);
    expect(stdout).toMatch(/^both +3 traces of the same name: 1 equal, 2 unreadable$/m);
    expect(stdout).toMatch(/\ndifferent: 2 traces that could not be read\n$/);
    const { traces } = await json(a, b);
    expect(traces.map(({ verdict, error }) => [verdict, error?.code])).toEqual([
      ['unreadable', undefined],
      ['equal', undefined],
      ['unreadable', 'E_NOT_A_TRACE'],
    ]);
  });

  test('names and texts cannot command the terminal', async () => {
    const name = 'a\u001b[2J.jsonl';
    const evil = `${CASE}\n{"note":"\\u001b[2J"}`;
    const { stdout, stderr } = await rewalk('compare', folderOf({ [name]: CASE }), folderOf({ [name]: evil }));
    expect(stdout).toContain('a\\x1b[2J.jsonl');
    expect(stdout + stderr).not.toContain('\u001b');
  });

  test('however many differ, the report has fewer than 80 lines; --max-diffs tells more or fewer', async () => {
    const [a, b] = [emptyFolder('many-a'), emptyFolder('many-b')];
    const [from, to] = ['traces/kvmmmu/c_nest_np0.rwt', 'traces/kvmmmu/c_nest_intr.rwt'];
    for (let i = 0; i < 30; i++) {
      file(`many-a/t${i}.jsonl`, CASE);
      file(`many-b/t${i}.jsonl`, OTHER);
    }
    copyFileSync(from, join(a, 'c.rwt'));
    copyFileSync(to, join(b, 'c.rwt'));
    const { stdout } = await rewalk('compare', a, b);
    expect(stdout.trimEnd().split('\n').length).toBeLessThan(80);
    expect(stdout).toMatch(/^ {2}and 11 traces more, all in --json$/m);
    const one = (await rewalk('compare', '--max-diffs', '1', a, b)).stdout;
    expect(one).toContain('\n1. ');
    expect(one).not.toContain('\n2. ');
  }, 60_000);

  test('a report has a case for each trace, and says what is in one folder only', async () => {
    const report = join(folder, 'folders.xml');
    const a = folderOf({ 'a.jsonl': CASE, 'b.jsonl': CASE, 'gone.jsonl': CASE });
    await rewalk('compare', a, folderOf({ 'a.jsonl': CASE, 'b.jsonl': OTHER }), '--report', `junit=${report}`);
    const xml = readFileSync(report, 'utf8');
    expect([...xml.matchAll(/<testcase classname="[^"]*" name="([^"]*)"/g)].map(([, name]) => name)).toEqual([
      'a.jsonl',
      'b.jsonl',
      'rewalk compare',
    ]);
    expect(xml).toContain('only in A: gone.jsonl');
  });
});

describe('refused', () => {
  test('a folder and a file, a folder without traces, no name in common, what is not there', async () => {
    const traces = folderOf({ 'a.jsonl': CASE });
    const refusal = async (...argv: string[]): Promise<string> => {
      const { status, stdout, stderr } = await rewalk('compare', ...argv);
      expect(stdout).toBe('');
      return `${status} ${stderr}`;
    };
    expect(await refusal(traces, await packedCase())).toMatch(/^2 .*E_USAGE: a folder of traces/);
    expect(await refusal('-', traces)).toMatch(/^2 .*E_USAGE/);
    expect(await refusal(traces, emptyFolder('none'))).toMatch(/^3 .*E_NO_TRACES: the folder holds no trace .*none/);
    expect(await refusal(traces, folderOf({ 'z.jsonl': CASE }))).toMatch(/^3 .*E_NO_TRACES: no trace .*\(z\.jsonl\)/);
    expect(await refusal(traces, join(folder, 'nowhere'))).toMatch(/^3 .*E_NO_SUCH_FILE.*nowhere/);
    expect(await refusal('--bail', traces, traces)).toMatch(/^2 .*--bail cannot apply/);
  });

  test("a recording's folder is one trace", async () => {
    const recording = emptyFolder('recording');
    mkdirSync(join(recording, 'more'), { recursive: true });
    file('recording/trace.txt', KERNEL);
    const { status, stdout } = await rewalk('compare', recording, file('other.txt', KERNEL));
    expect(status).toBe(0);
    expect(stdout).toMatch(/\nequal: \d+ steps?/);
  });
});
