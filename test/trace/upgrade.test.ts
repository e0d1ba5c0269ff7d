import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { checkTrace } from '../../src/trace/check/trace.ts';
import { FORMAT_VERSION } from '../../src/trace/header.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { convert, freshPath, HEADER, plain, readAll, sampleChunks } from './samples.ts';

const FIXTURES = join(import.meta.dirname, 'fixtures');

/**
 * Written once by the version of its name and never again, one segment for each codec. A test that fails here means
 * that recordings which people have are no longer readable: mend the reader or `upgrade.ts`, not the fixture.
 */
const VERSION_1 = join(FIXTURES, 'version-1.rwt');

test('a file of version 1 stays readable', () => {
  const segment = [{ header: HEADER }, ...sampleChunks().map(plain), { complete: true, steps: 7 }];
  expect(readAll(VERSION_1)).toMatchObject([...segment, ...segment]);
});

test('a file of version 1 stays readable by ordinal', () => {
  const reader = TraceReader.open(VERSION_1);
  expect(plain(reader.stepsAt(5, 1))).toEqual(plain(sampleChunks()[1]!));
  reader.close();
});

test('a file of version 1 says the same as text for ever', () => {
  const text = freshPath('.jsonl');
  convert(VERSION_1, text);
  expect(readFileSync(text, 'utf8')).toBe(readFileSync(join(FIXTURES, 'version-1.jsonl'), 'utf8'));
});

test('there is a fixture for every version that was ever written', () => {
  expect(FORMAT_VERSION, 'a new version needs a fixture of the one before').toBe(1);
  expect(checkTrace(VERSION_1).filter(({ id }) => id.startsWith('E_'))).toEqual([]);
});
