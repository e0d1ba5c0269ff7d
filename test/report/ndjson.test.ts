import { expect, test } from 'vitest';
import { ndjsonLine } from '../../src/report/ndjson.ts';
import { HOSTILE } from './run-samples.ts';

test('one line, whatever is in it, and the same value when read', () => {
  const value = { type: 'trace', text: HOSTILE, deep: [{ [HOSTILE]: 1 }] };
  const line = ndjsonLine(value);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202e]/);
  expect(JSON.parse(line)).toEqual(value);
});
