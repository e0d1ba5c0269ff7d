import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Problem } from '../../src/bits/problem.ts';
import { checkTrace } from '../../src/trace/check/trace.ts';
import { parseFrameHead } from '../../src/trace/framing.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { recoverTrace } from '../../src/trace/recover.ts';
import { convert, fileOf, freshPath, outcome, sampleBytes } from './samples.ts';

/** Ends well, or with something that a user can understand. */
function survives(run: () => unknown): boolean {
  try {
    run();
    return true;
  } catch (error) {
    if (error instanceof Problem) return false;
    throw error;
  }
}

/** Gives every chunk the checksum that its bytes call for, as an attacker would. */
function withChecksums(bytes: Buffer): Buffer {
  for (let offset = 0; offset < bytes.length; ) {
    const head = parseFrameHead(bytes.subarray(offset), bytes.length - offset);
    if (head === undefined) break;
    const start = offset + head.start;
    const end = offset + head.start + head.length;
    const crc = crc32(bytes.subarray(start + 5, end), crc32(bytes.subarray(offset, start + 1)));
    bytes.writeUInt32LE(crc, start + 1);
    offset = end;
  }
  return bytes;
}

const changes = fc.array(fc.tuple(fc.nat(), fc.oneof(fc.constantFrom(0, 0x7f, 0x80, 0xff), fc.nat({ max: 255 }))), {
  minLength: 1,
  maxLength: 4,
});

test.each([
  'none',
  'deflate',
] as const)('changed bytes under right checksums end in a problem or in steps: %s', (codec) => {
  const good = sampleBytes({ codec });
  const path = freshPath();
  const text = freshPath('.jsonl');
  let whole = 0;
  fc.assert(
    fc.property(changes, (places) => {
      const bytes = Buffer.from(good);
      for (const [at, value] of places) bytes[at % bytes.length] = value;
      const file = fileOf(withChecksums(bytes));
      if (outcome(file).ended === 'complete') whole++;
      survives(() => checkTrace(file));
      survives(() => recoverTrace(file, path));
      survives(() => convert(file, text, 'trace'));
      const reader = TraceReader.open(file);
      for (const ordinal of [0, 5, 6]) survives(() => reader.stepsAt(ordinal));
      reader.close();
    }),
    { seed: 0xbad, numRuns: 300 },
  );
  // The checksums were right, so the digest alone may have noticed: hardly any file is taken for whole.
  expect(whole).toBeLessThan(60);
});

test('any bytes at all end in a problem', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, begin) => {
      const file = fileOf(begin ? Buffer.concat([Buffer.from([0x0a, bytes.length, 0x0d]), bytes]) : bytes);
      expect(outcome(file).ended).toBeInstanceOf(Problem);
    }),
    { seed: 0xbad, numRuns: 500 },
  );
});

test('any JSON at all ends in a problem or in steps', () => {
  const path = freshPath();
  const text = freshPath('.jsonl');
  convert(fileOf(sampleBytes()), text);
  const lines = readFileSync(text, 'utf8').trim().split('\n');
  const line = fc.oneof(
    fc.json(),
    fc.constantFrom(...lines),
    fc
      .dictionary(
        fc.constantFrom(
          'access',
          'address',
          'expect',
          'note',
          'state',
          'header',
          'store',
          'words',
          'line',
          'time',
          '__proto__',
        ),
        fc.oneof(fc.jsonValue(), fc.constantFrom('0x1000', 'read', 1, true, [{ element: '0x0' }])),
      )
      .map((object) => JSON.stringify(object)),
  );
  fc.assert(
    fc.property(fc.array(line, { maxLength: 6 }), (more) => {
      survives(() => convert(fileOf([lines[0], ...more].join('\n')), path, 'text'));
    }),
    { seed: 0xbad, numRuns: 300 },
  );
});
