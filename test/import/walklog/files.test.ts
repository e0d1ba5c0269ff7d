import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { folder as cliFolder, file, rewalk } from '../../cli/cli.ts';
import { folder, HEADER, importFile, logFile, toldOf } from './logs.ts';

const RECORDS = [
  'S cr3=1000',
  ...Array.from({ length: 2000 }, (_, i) => `A r 0- ${(i * 4099).toString(16)} 1 =${(i * 7919).toString(16)}`),
  'Z rec=1',
];
const LOG = [HEADER, ...RECORDS, ''].join('\n');

describe('a log', () => {
  test('gives the same steps plain and compressed', async () => {
    const plain = await importFile(logFile(LOG));
    const packed = await importFile(logFile(gzipSync(LOG), '.walklog.gz'));
    expect(packed.steps).toEqual(plain.steps);
    expect(plain.steps).toHaveLength(2001);
    expect(packed.header.omissions).toEqual(plain.header.omissions);
  });

  test('with CRLF, or without a last newline, gives the same', async () => {
    const { steps } = await importFile(logFile(LOG));
    expect((await importFile(logFile(LOG.replaceAll('\n', '\r\n')))).steps).toEqual(steps);
    expect((await importFile(logFile(LOG.trimEnd()))).steps).toEqual(steps);
  });

  test('of several compressed parts is read as one', async () => {
    const parts = [LOG.slice(0, 3000), LOG.slice(3000)].map((part) => gzipSync(part));
    expect((await importFile(logFile(Buffer.concat(parts), '.walklog.gz'))).steps).toHaveLength(2001);
  });

  test('is named in the header as it lies there: name, size, digest', async () => {
    const bytes = gzipSync(LOG);
    const { header } = await importFile(logFile(bytes, '-pcid.walklog.gz'));
    expect(header.title).toMatch(/^page walks of \d+-pcid on arrow_lake$/);
    const [source] = header.sources;
    expect([source!.size, Buffer.from(source!.sha256)]).toEqual([
      bytes.length,
      createHash('sha256').update(bytes).digest(),
    ]);
  });

  test('of a header only has no steps', async () => {
    expect((await importFile(logFile(`${HEADER}\n`))).steps).toEqual([]);
  });
});

describe('a log that cannot be read', () => {
  test('empty', async () => {
    expect(await toldOf(importFile(logFile('')))).toBe('E_IMPORT LOG: the walk log is empty');
    expect(await toldOf(importFile(logFile(gzipSync(''), '.walklog.gz')))).toMatch(
      /^E_IMPORT .*: the walk log is empty$/,
    );
  });

  test('something else', async () => {
    expect(await toldOf(importFile(logFile('\n\n')))).toBe(
      'E_IMPORT LOG, line 1: this is no walk log: it does not begin with "H walklog"',
    );
    expect(await toldOf(importFile(logFile(Buffer.from([0, 255, 10, 200]))))).toMatch(
      /^E_IMPORT LOG, line 1: this is no walk log/,
    );
  });

  test('compressed and cut short, anywhere', async () => {
    const bytes = gzipSync(LOG);
    for (const length of [1, 9, 10, 11, 100, bytes.length >> 1, bytes.length - 9, bytes.length - 1]) {
      const told = await toldOf(importFile(logFile(bytes.subarray(0, length), '.walklog.gz')));
      expect([length, told.replace(/^E_IMPORT .*gz: /, '')]).toEqual([
        length,
        expect.stringMatching(/^the log cannot be read: /),
      ]);
    }
  });

  test('compressed and damaged', async () => {
    const bytes = Buffer.from(gzipSync(LOG));
    bytes[bytes.length >> 1]! ^= 0x10;
    expect(await toldOf(importFile(logFile(bytes, '.walklog.gz')))).toMatch(/^E_IMPORT /);
    expect(await toldOf(importFile(logFile(LOG, '.walklog.gz')))).toMatch(
      /^E_IMPORT .*: the log cannot be read: incorrect header check$/,
    );
  });

  test('a wrong record in the middle: nothing is left behind, and the line is named', async () => {
    const path = logFile(LOG.replace('\nZ ', '\nQ '));
    expect(await toldOf(importFile(path))).toBe('E_IMPORT LOG, line 2003: unknown record "Q"');
    const output = join(cliFolder, 'not-there.rwt');
    const { status, stderr } = await rewalk('import', 'walklog', path, '-o', output);
    expect([status, stderr]).toEqual([
      3,
      expect.stringMatching(/^rewalk: E_IMPORT: unknown record "Q" \(\d+\.walklog, line 2003\)\n/),
    ]);
    expect((await rewalk('replay', output)).stderr).toContain('E_NO_SUCH_FILE');
  });

  test('missing, or a folder: a problem of the user’s, not a bug', async () => {
    for (const path of [join(folder, 'missing.walklog'), folder]) {
      const { status, stderr } = await rewalk('import', 'walklog', path, '-o', join(cliFolder, 'none.rwt'));
      expect([status, stderr]).toEqual([3, expect.stringMatching(/^rewalk: E_(NO_SUCH_FILE|IO|IMPORT): /)]);
    }
  });
});

describe('rewalk import', () => {
  test('knows a log when it sees it, plain or compressed, whatever it is called', async () => {
    for (const path of [
      file('a.log', LOG),
      file('a.walklog', LOG),
      file('a.walklog.gz', gzipSync(LOG)),
      file('a.log.packed', gzipSync(LOG)),
    ]) {
      const output = join(cliFolder, 'out.rwt');
      const { status, stdout, stderr } = await rewalk('import', path, '-o', output, '--json');
      expect([path, status, stderr]).toEqual([path, 0, '']);
      expect(JSON.parse(stdout)).toMatchObject({ format: 'walklog', steps: 2001, segments: 1 });
    }
  });
});
