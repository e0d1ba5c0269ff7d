import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { TraceReader } from '../../src/trace/reader.ts';
import { compileTrace, runBehind } from './compiled.ts';
import {
  accesses,
  fileOf,
  freshPath,
  outcome,
  problemOf,
  readAll,
  registersOf,
  sampleChunks,
  told,
  writeTrace,
} from './samples.ts';

/** A named pipe that a process of its own fills with what `command` prints. */
function pipeOf(command: string): string {
  const path = freshPath('.pipe');
  execFileSync('mkfifo', [path]);
  spawn('sh', ['-c', `${command} > ${path}`], { stdio: 'ignore' });
  return path;
}

function bigTrace(codec: 'none' | 'deflate'): string {
  const chunks = [...sampleChunks(), accesses(100_000).take(registersOf(5)), accesses(1).take(registersOf(6))];
  return writeTrace(chunks, { codec }).path;
}

describe.each(['none', 'deflate'] as const)('with codec %s', (codec) => {
  test('a pipe delivers the same items as the file', () => {
    const path = bigTrace(codec);
    expect(readAll(pipeOf(`cat ${path}`))).toEqual(readAll(path));
  });

  test('a pipe that trickles does so too', () => {
    const { path } = writeTrace(sampleChunks(), { codec });
    const slowly = `(head -c 3 ${path}; sleep 0.05; tail -c +4 ${path} | dd bs=7 2>/dev/null)`;
    expect(readAll(pipeOf(slowly))).toEqual(readAll(path));
  });
});

test('a pipe that ends early is told from a whole one', () => {
  const path = bigTrace('none');
  const items = readAll(pipeOf(`head -c 500000 ${path}`));
  expect(items).toHaveLength(4);
  expect(items.at(-1)).toMatchObject({ complete: false, steps: 7, problem: { code: 'E_CUT_SHORT' } });
});

test('a pipe that claims a huge chunk is believed only as far as it delivers', () => {
  const path = bigTrace('none');
  // Behind the trace, a chunk of 60 MB begins, and nothing comes.
  const claim = fileOf(Buffer.from([0x0a, 0x80, 0x8e, 0xce, 0x1c, 0x0d, 0, 0]));
  const before = process.memoryUsage().arrayBuffers;
  const { steps, ended } = outcome(pipeOf(`cat ${path} ${claim}`));
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 << 20);
  expect(steps).toBe(100_008);
  expect(ended).toMatchObject({ code: 'E_CUT_SHORT' });
});

test('no step of a pipe is found by its ordinal', () => {
  const reader = TraceReader.open(pipeOf('printf x'));
  expect(told(problemOf(() => reader.stepsAt(0)))).toMatch(/E_USAGE .*a pipe can only be read from front to back/);
  reader.close();
});

describe('standard input and output', () => {
  beforeAll(compileTrace);

  const SCRIPT = `
    import { TraceReader } from './trace/reader.js';
    for (const item of TraceReader.open('-')) console.log(item.kind, item.digest ?? item.place?.file ?? '');
  `;

  test('`-` reads a trace from a pipe', () => {
    const { path, digest } = writeTrace(sampleChunks());
    const lines = ['header', 'steps <stdin>', 'steps <stdin>', `end ${digest}`];
    const printed = runBehind(`cat ${path}`, SCRIPT);
    expect(printed.split('\n').map((line) => line.trim())).toEqual([...lines, '']);
  });

  test('a pipe that somebody made non-blocking is waited for', () => {
    const { path, digest } = writeTrace(sampleChunks());
    // Node makes a pipe non-blocking when it is touched as a stream.
    const printed = runBehind(`(sleep 0.2; cat ${path})`, `process.stdin.pause();\n${SCRIPT}`);
    expect(printed).toContain(`end ${digest}`);
  });

  test('`-` writes a trace to a pipe, whole though the pipe is slow and non-blocking', () => {
    const path = bigTrace('none');
    const copy = freshPath();
    const script = `
      import { TraceReader } from './trace/reader.js';
      import { TraceWriter } from './trace/writer.js';
      process.stdout._handle.setBlocking?.(false);
      let writer;
      for (const item of TraceReader.open('-')) {
        if (item.kind === 'header') writer = TraceWriter.create('-', item.header);
        if (item.kind === 'steps') writer.add(item.columns);
      }
      writer.finish();
    `;
    expect(runBehind(`cat ${path}`, script, `(sleep 0.3; cat > ${copy})`)).toBe('');
    expect(readFileSync(copy).equals(readFileSync(path))).toBe(true);
  });
});
