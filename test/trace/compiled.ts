/** The trace modules as JavaScript, for tests that need a process of their own: Node 20 does not run TypeScript. */

import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { folder } from './samples.ts';

const root = resolve(import.meta.dirname, '../..');
const out = join(folder, 'compiled');

/** Compiles `src/trace` with what it needs. */
export function compileTrace(): void {
  mkdirSync(join(out, 'trace/schema'), { recursive: true });
  const config = {
    extends: join(root, 'tsconfig.json'),
    compilerOptions: {
      noEmit: false,
      rootDir: join(root, 'src'),
      outDir: out,
      typeRoots: [join(root, 'node_modules/@types')],
    },
    files: ['reader.ts', 'writer.ts'].map((name) => join(root, 'src/trace', name)),
    include: [],
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', join(folder, 'tsconfig.json')]);
  copyFileSync(join(root, 'src/trace/schema/trace.js'), join(out, 'trace/schema/trace.js'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
}

/** Runs `script` in Node between two shell commands; returns what is printed. `./trace/…` are the modules. */
export function runBehind(source: string, script: string, sink = 'cat'): string {
  writeFileSync(join(out, 'script.js'), script);
  const { stdout, stderr } = spawnSync('sh', ['-c', `${source} | node ${join(out, 'script.js')} | ${sink}`], {
    encoding: 'utf8',
  });
  return stdout + stderr;
}
