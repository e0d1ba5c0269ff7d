import { openSync, writeSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Problem } from '../../src/bits/problem.ts';
import { ChunkField } from '../../src/trace/framing.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { chunk, header } from './crafted.ts';
import { fileOf, HEADER, outcome, readAll, sampleBytes, sampleChunks, told, writeTrace } from './samples.ts';

/** Where each chunk of the sample begins, and where the file ends. */
function borders(bytes: Buffer): number[] {
  const reader = TraceReader.open(fileOf(bytes));
  const [index] = reader.indices();
  reader.close();
  return [0, ...index!.chunks.map(({ offset }) => offset), index!.indexOffset, bytes.length];
}

/** A file of which one bit after the other is flipped, and flipped back. */
class FlippedFile {
  readonly path: string;
  private readonly bytes: Buffer;
  private readonly fd: number;

  constructor(bytes: Buffer) {
    this.bytes = Buffer.from(bytes);
    this.path = fileOf(bytes);
    this.fd = openSync(this.path, 'r+');
  }

  flip(bit: number): void {
    this.bytes[bit >>> 3]! ^= 1 << (bit & 7);
    writeSync(this.fd, this.bytes, bit >>> 3, 1, bit >>> 3);
  }
}

describe.each(['none', 'deflate'] as const)('a file with codec %s', (codec) => {
  const bytes = sampleBytes({ codec });
  const [, firstSteps, secondSteps, index, end] = borders(bytes) as [number, number, number, number, number];

  test('that was cut anywhere delivers its whole chunks and says that it was cut', () => {
    for (let length = 1; length < end; length++) {
      const { steps, ended } = outcome(fileOf(bytes.subarray(0, length)));
      const whole = length >= index ? 7 : length >= secondSteps ? 4 : 0;
      expect(steps, `cut at ${length}`).toBe(whole);
      if (length >= firstSteps) expect(ended, `cut at ${length}`).toBe('incomplete');
      else expect((ended as Problem).code, `cut at ${length}`).toBe('E_CUT_SHORT');
    }
  });

  test('with any one bit flipped is never taken for whole', () => {
    const file = new FlippedFile(bytes);
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      file.flip(bit);
      expect(outcome(file.path).ended, `bit ${bit & 7} of byte ${bit >>> 3}`).not.toBe('complete');
      file.flip(bit);
    }
    expect(outcome(file.path).ended).toBe('complete');
  });

  test('with any one bit flipped gives no wrong step by its ordinal', () => {
    const expected = Array.from({ length: 7 }, (_, i) => (i < 4 ? 4 : 3));
    const file = new FlippedFile(bytes);
    for (let bit = 0; bit < 8 * bytes.length; bit += 5) {
      file.flip(bit);
      const reader = TraceReader.open(file.path);
      for (const ordinal of [0, 6]) {
        try {
          expect(reader.stepsAt(ordinal).stepCount).toBe(expected[ordinal]);
        } catch (error) {
          expect(error).toBeInstanceOf(Problem);
        }
      }
      reader.close();
      file.flip(bit);
    }
  });

  test('without one of its chunks, or with one twice, or in another order, is refused', () => {
    const parts = [0, 1, 2, 3].map((i) => bytes.subarray(borders(bytes)[i], borders(bytes)[i + 1]));
    const made = (...order: number[]): string => fileOf(Buffer.concat(order.map((i) => parts[i]!)));
    expect(outcome(made(0, 1, 2, 3)).ended).toBe('complete');
    for (const order of [
      [0, 2, 3],
      [0, 1, 3],
      [0, 3],
      [0, 2, 1, 3],
      [0, 1, 1, 2, 3],
      [1, 2, 3],
      [3],
      [0, 1, 2, 3, 3],
      [0, 1, 2, 3, 1],
    ]) {
      const { ended } = outcome(made(...order));
      expect(ended instanceof Problem && ended.code, String(order)).toBe('E_CORRUPT');
    }
    expect(outcome(made(0, 1, 0, 1, 2, 3)).ended).toBe('incomplete');
  });
});

test('a segment without an index does not keep the next one from being read', () => {
  const bytes = sampleBytes();
  const indexStart = borders(bytes).at(-2)!;
  const items = readAll(fileOf(Buffer.concat([bytes.subarray(0, indexStart), bytes]))) as { kind: string }[];
  expect(items.filter(({ kind }) => kind === 'end')).toMatchObject([
    { complete: false, steps: 7 },
    { complete: true, steps: 7 },
  ]);
});

test('a segment whose index is that of another recording is refused', () => {
  const bytes = sampleBytes();
  const other = writeTrace(sampleChunks(), { header: { ...HEADER, title: 'b sample' } });
  const reader = TraceReader.open(other.path);
  const start = reader.indices()[0]!.indexOffset;
  reader.close();
  expect(start).toBe(borders(bytes).at(-2));
  const otherIndex = sampleBytes().subarray(start);
  const mixed = Buffer.concat([header({ title: 'b sample' }), bytes.subarray(header().length, start), otherIndex]);
  expect((outcome(fileOf(mixed)).ended as Problem).code).toBe('E_CORRUPT');
});

describe('what the user is told', () => {
  const bytes = sampleBytes();
  const flipped = (at: number): Buffer => {
    const copy = Buffer.from(bytes);
    copy[at]! ^= 1;
    return copy;
  };
  const problem = (content: Uint8Array | string): string => {
    const path = fileOf(content);
    const { ended } = outcome(path);
    if (ended instanceof Problem) return told(ended);
    const items = readAll(path) as { problem?: Problem }[];
    return told(items.at(-1)!.problem!);
  };

  test('of a file that is something else', () => {
    const gzip = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    const traceDat = Buffer.concat([Buffer.from([0x17, 0x08, 0x44]), Buffer.from('tracing7')]);
    const texts = [
      '',
      'H walklog 1 bochs=783b58fd',
      '{"header":{}}\n',
      '# tracer: nop\n',
      '\nabcdefgh',
      'MZ',
      gzip,
      traceDat,
    ];
    expect(texts.map(problem)).toMatchInlineSnapshot(`
      [
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: the file is empty -> record or import again",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace; it looks like a walklog of Bochs -> make a trace of it with \`rewalk import\`",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace; it looks like JSON Lines, perhaps the text form of a trace -> make a trace of it with \`rewalk convert\`",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace; it looks like the text of ftrace -> make a trace of it with \`rewalk import\`",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace: its first bytes are none of ours -> give a trace (*.rwt); foreign recordings become one with \`rewalk import\`",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace: its first bytes are none of ours -> give a trace (*.rwt); foreign recordings become one with \`rewalk import\`",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace; it looks like gzip data -> unpack it with \`gzip -dc\`, or pass it to \`rewalk import\`",
        "E_NOT_A_TRACE FILE.rwt, chunk 0, byte 0: this is not a trace; it looks like a trace.dat of trace-cmd -> make a trace of it with \`rewalk import\`",
      ]
    `);
  });

  test('of a file that was cut short', () => {
    const cut = [1, 20, borders(bytes)[1]!, borders(bytes)[2]! + 3, borders(bytes)[2]! + 30, borders(bytes)[3]!];
    expect(cut.map((length) => problem(bytes.subarray(0, length)))).toMatchInlineSnapshot(`
      [
        "E_CUT_SHORT FILE.rwt, chunk 0, byte 0: the file ends inside a chunk -> record or copy it again",
        "E_CUT_SHORT FILE.rwt, chunk 0, byte 0: the file ends inside a chunk, of which 20 of 248 bytes are there (or the chunk's length is damaged) -> record or copy it again",
        "E_CUT_SHORT FILE.rwt, chunk 1, byte 248, step 0: the file ends without its index -> the steps up to there are good; \`rewalk recover\` writes them as a whole file",
        "E_CUT_SHORT FILE.rwt, chunk 2, byte 712, step 4: the file ends inside a chunk -> the steps up to there are good; \`rewalk recover\` writes them as a whole file",
        "E_CUT_SHORT FILE.rwt, chunk 2, byte 712, step 4: the file ends inside a chunk, of which 30 of 424 bytes are there (or the chunk's length is damaged) -> the steps up to there are good; \`rewalk recover\` writes them as a whole file",
        "E_CUT_SHORT FILE.rwt, chunk 3, byte 1136, step 7: the file ends without its index -> the steps up to there are good; \`rewalk recover\` writes them as a whole file",
      ]
    `);
  });

  test('of a file that is damaged', () => {
    const damaged = [
      flipped(30),
      flipped(borders(bytes)[1]!),
      flipped(borders(bytes)[2]! + 100),
      Buffer.concat([bytes.subarray(0, borders(bytes)[1]), bytes.subarray(borders(bytes)[2]!)]),
      Buffer.concat([bytes.subarray(0, borders(bytes)[2]), bytes.subarray(borders(bytes)[3]!)]),
      bytes.subarray(borders(bytes)[1]!),
      Buffer.concat([bytes, Buffer.from('some more text')]),
    ];
    expect(damaged.map(problem)).toMatchInlineSnapshot(`
      [
        "E_CORRUPT FILE.rwt, chunk 0, byte 0: the chunk is damaged: its checksum does not match its bytes -> \`rewalk recover\` saves the other chunks",
        "E_CORRUPT FILE.rwt, chunk 1, byte 248: no chunk begins where the one before ends -> \`rewalk recover\` saves the chunks that are whole",
        "E_CORRUPT FILE.rwt, chunk 2, byte 712: the chunk is damaged: its checksum does not match its bytes -> \`rewalk recover\` saves the other chunks",
        "E_CORRUPT FILE.rwt, chunk 1, byte 248: the chunk begins with step 4 where step 0 is due: chunks are missing or in another order -> \`rewalk recover\` saves what is there, in segments",
        "E_CORRUPT FILE.rwt, chunk 2, byte 712: the index does not tell of the chunks before it: some are missing, changed or in another order -> see \`rewalk check\`; \`rewalk recover\` writes a new index",
        "E_CORRUPT FILE.rwt, chunk 0, byte 0: the chunk holds steps, but no header is before it -> record or copy it again",
        "E_CORRUPT FILE.rwt, chunk 4, byte 1224: no chunk begins where the one before ends -> \`rewalk recover\` saves the chunks that are whole",
      ]
    `);
  });

  test('of a file from the future', () => {
    const future = [
      header({ formatVersion: 2 }),
      header({ featureFlags: 5 }),
      Buffer.concat([header(), chunk(ChunkField.PACKED, new Uint8Array(8), 2, 8)]),
      Buffer.concat([header(), chunk(9, new Uint8Array(8))]),
    ];
    expect(future.map(problem)).toMatchInlineSnapshot(`
      [
        "E_NEWER_VERSION FILE.rwt, chunk 0, byte 0: the file has format version 2; this rewalk reads up to 1 -> use a newer rewalk",
        "E_UNKNOWN_FEATURE FILE.rwt, chunk 0, byte 0: the file needs features that this version does not know (flags 0x5) -> use a newer rewalk",
        "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248: the chunk is packed with codec 2, which this version does not know -> use a newer rewalk",
        "E_UNKNOWN_FEATURE FILE.rwt, chunk 1, byte 248: the chunk holds nothing that this version knows -> use a newer rewalk",
      ]
    `);
  });

  test('of a file that is not there or cannot be read', () => {
    const failures = ['/nowhere/at/all.rwt', '/tmp'].map((path) => {
      try {
        TraceReader.open(path);
        return 'opened';
      } catch (error) {
        return error instanceof Problem ? `${error.code} ${error.message}` : error;
      }
    });
    expect(failures).toMatchInlineSnapshot(`
      [
        "E_NO_SUCH_FILE cannot open it: no such file or directory",
        "E_IO cannot open it: it is a folder",
      ]
    `);
  });
});
