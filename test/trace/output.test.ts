import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { TraceWriter } from '../../src/trace/writer.ts';
import { accesses, freshPath, HEADER, outcome, problemOf, registersOf, sampleChunks, writeTrace } from './samples.ts';

function freshFolder(): string {
  const path = freshPath('.folder');
  mkdirSync(path);
  return path;
}

test('a trace appears under its name only when it is whole', () => {
  const inside = freshFolder();
  const path = join(inside, 'a.rwt');
  const writer = TraceWriter.create(path, HEADER);
  for (const columns of sampleChunks()) writer.add(columns);
  expect(readdirSync(inside)).toEqual([expect.stringMatching(/^\.a\.rwt\..*\.tmp$/)]);
  writer.finish();
  expect(readdirSync(inside)).toEqual(['a.rwt']);
  writer.abort();
  expect(outcome(path).ended).toBe('complete');
});

test('an aborted trace leaves nothing behind, and the old file as it was', () => {
  const inside = freshFolder();
  const path = join(inside, 'a.rwt');
  writeFileSync(path, 'old');
  const writer = TraceWriter.create(path, HEADER);
  writer.add(accesses(3).take(registersOf(1)));
  writer.abort();
  writer.abort();
  expect(readdirSync(inside)).toEqual(['a.rwt']);
  expect(readFileSync(path, 'utf8')).toBe('old');
});

test('a header that nobody can write leaves nothing behind', () => {
  const inside = freshFolder();
  const header = { ...HEADER, processor: { ...HEADER.processor, maxphyaddr: 60 } };
  expect(problemOf(() => TraceWriter.create(join(inside, 'a.rwt'), header)).code).toBe('E_UNSOUND');
  expect(readdirSync(inside)).toEqual([]);
});

test('a file that is replaced keeps its permissions, and a link keeps pointing', () => {
  const inside = freshFolder();
  const path = join(inside, 'a.rwt');
  const link = join(inside, 'link.rwt');
  writeFileSync(path, 'old');
  chmodSync(path, 0o640);
  symlinkSync(path, link);
  writeTrace(sampleChunks(), { path: link });
  expect(statSync(path).mode & 0o777).toBe(0o640);
  expect(readdirSync(inside).sort()).toEqual(['a.rwt', 'link.rwt']);
  expect(outcome(path).ended).toBe('complete');
});

test('a device is written, not replaced', () => {
  const { path } = writeTrace(sampleChunks(), { path: '/dev/null' });
  expect(statSync(path).isCharacterDevice()).toBe(true);
});

test('where nothing can be written, the user is told', () => {
  const inside = freshFolder();
  expect(problemOf(() => TraceWriter.create(join(inside, 'no/such/a.rwt'), HEADER)).code).toBe('E_NO_SUCH_FILE');
  expect(problemOf(() => TraceWriter.create(inside, HEADER)).code).toBe('E_IO');
  expect(problemOf(() => TraceWriter.create('/dev/full', HEADER)).message).toBe(
    'cannot write it: no space left on device',
  );
});

test('a process that exits in between leaves nothing behind', () => {
  // Vitest's own process is not to exit: what it would do then is asked of the list of exit handlers.
  const inside = freshFolder();
  TraceWriter.create(join(inside, 'a.rwt'), HEADER);
  expect(readdirSync(inside)).toHaveLength(1);
  for (const listener of process.listeners('exit')) if (String(listener).includes('unfinished')) listener(0);
  expect(readdirSync(inside)).toEqual([]);
});
