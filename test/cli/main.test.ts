/** The compiled command in a process of its own: what streams, signals and pipes do can only be seen there. */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { CASE, file, folder } from './cli.ts';

const root = resolve(import.meta.dirname, '../..');
const home = join(folder, 'installed');
const main = join(home, 'dist/cli/main.js');

beforeAll(() => {
  mkdirSync(join(home, 'dist/trace/schema'), { recursive: true });
  try {
    execFileSync(join(root, 'node_modules/.bin/tsc'), [
      '-p',
      join(root, 'tsconfig.build.json'),
      '--outDir',
      join(home, 'dist'),
    ]);
  } catch {
    // Errors of types are `npm run typecheck`'s business; what was emitted is tested.
  }
  copyFileSync(join(root, 'src/trace/schema/trace.js'), join(home, 'dist/trace/schema/trace.js'));
  copyFileSync(join(root, 'package.json'), join(home, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(home, 'node_modules'));
});

function sh(command: string): { status: number | null; stdout: string; stderr: string } {
  return spawnSync('bash', ['-c', command.replaceAll('rewalk', `node ${main}`)], { encoding: 'utf8', cwd: folder });
}

/** A text trace of many steps. */
function long(name: string, steps: number): string {
  const [header = '', state = ''] = CASE.split('\n');
  const step = '{"access":"read","address":"0x1040","physical":"0x5040"}';
  const chunk = [state, ...new Array<string>(1000).fill(step)].join('\n');
  return file(name, [header, ...new Array<string>(steps / 1000).fill(chunk)].join('\n'));
}

test('main.ts begins with a line that makes it a command', () => {
  expect(readFileSync(main, 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
});

describe('pipes', () => {
  test('a trace is read from standard input and written to standard output', () => {
    file('piped.jsonl', CASE);
    const { status, stdout, stderr } = sh(
      'set -o pipefail; rewalk convert piped.jsonl --to trace -o - | rewalk convert - --to text -o - | rewalk convert - --from text -o - | rewalk view -',
    );
    expect(status).toBe(0);
    expect(stdout).toMatch(/^<stdin>: two writes\n/);
    expect(stderr.match(/^wrote 9 steps/gm)).toHaveLength(3);
  });

  test('a reader that stops early ends it quietly', () => {
    long('long.jsonl', 50_000);
    const { stdout, stderr } = sh('rewalk view long.jsonl | head -1; echo $PIPESTATUS >&2');
    expect(stdout).toMatch(/^long.jsonl: two writes\n$/);
    expect(stderr).toBe('141\n');
  });

  test('the same where the trace itself is the output', () => {
    long('long2.jsonl', 50_000);
    const { stderr } = sh('rewalk convert long2.jsonl --to trace -o - | head -c 10 >/dev/null; echo $PIPESTATUS >&2');
    expect(stderr).toBe('141\n');
  });
});

test('SIGINT ends it with 130 and leaves nothing half written', async () => {
  const input = long('endless.jsonl', 400_000);
  mkdirSync(join(folder, 'out'));
  const child: ChildProcess = spawn(process.execPath, [main, 'convert', input, '-o', 'out/never.rwt'], { cwd: folder });
  let stderr = '';
  child.stderr?.on('data', (data) => {
    stderr += String(data);
  });
  // The temporary file tells that it is in the middle of it.
  while (readdirSync(join(folder, 'out')).length === 0) await new Promise((wake) => setTimeout(wake, 5));
  child.kill('SIGINT');
  const status = await new Promise((done) => child.on('exit', done));
  expect({ status, stderr }).toEqual({ status: 130, stderr: 'rewalk: interrupted\n' });
  expect(existsSync(join(folder, 'out/never.rwt'))).toBe(false);
  expect(readdirSync(join(folder, 'out'))).toEqual([]);
});

test('the exit status reaches the shell', () => {
  expect(sh('rewalk view missing.rwt').status).toBe(3);
  expect(sh('rewalk view').status).toBe(2);
  expect(sh('rewalk --help').status).toBe(0);
});
