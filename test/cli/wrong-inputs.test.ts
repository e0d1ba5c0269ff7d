import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { header } from '../trace/crafted.ts';
import { CASE, emptyFolder, file, folder, packedCase, rewalk } from './cli.ts';

interface Wrong {
  readonly name: string;
  readonly path: string;
  readonly code: string;
  /** Parts of the message. */
  readonly texts: readonly string[];
}

const wrong: Wrong[] = [];
/** Those that `check` reports as findings of the file instead of failing on them. */
const WORLD = ['E_NO_SUCH_FILE', 'E_NO_TRACES', 'E_IO'];

beforeAll(async () => {
  const packed = readFileSync(await packedCase());
  const flipped = Buffer.from(packed);
  flipped[600]! ^= 0x10;
  const lines = CASE.split('\n');
  const add = (name: string, path: string, code: string, ...texts: string[]): void => {
    wrong.push({ name, path, code, texts });
  };
  add('no trace at all', file('picture.rwt', '\u0089PNG\r\n\u001a\n'), 'E_NOT_A_TRACE', 'picture.rwt');
  add('an empty file', file('empty.rwt', ''), 'E_NOT_A_TRACE', 'empty');
  add('a walk log', file('log.rwt', 'H walklog 1 bochs=x\n'), 'E_NOT_A_TRACE', 'rewalk import');
  add('cut short', file('cut.rwt', packed.subarray(0, packed.length - 400)), 'E_CUT_SHORT', 'byte', 'rewalk recover');
  add('a flipped bit', file('flipped.rwt', flipped), 'E_CORRUPT', 'chunk 1');
  add('a newer version', file('newer.rwt', header({ formatVersion: 99 })), 'E_NEWER_VERSION', '99', 'newer rewalk');
  add('a missing file', join(folder, 'missing.rwt'), 'E_NO_SUCH_FILE', 'missing.rwt');
  add('an empty folder', emptyFolder('nothing'), 'E_NO_TRACES', 'nothing', '*.rwt');
  add('a pattern that matches nothing', join(folder, '*.nix'), 'E_NO_TRACES', '*.nix');
  const typing = [...lines.slice(0, 4), '{"stroe":"0x2000","value":"0x3027"}'].join('\n');
  add('a typing error in the text form', file('typing.jsonl', typing), 'E_TEXT_FORM', 'line 5', "'store'");
  const noJson = [...lines.slice(0, 3), '{"note":"unfinished'].join('\n');
  add('a line that is no JSON', file('nojson.jsonl', noJson), 'E_TEXT_FORM', 'line 4');
  add('text without a header', file('headless.jsonl', lines.slice(1).join('\n')), 'E_TEXT_FORM', 'line 1', 'header');
});

/** Vitest wants its tables before the files exist. */
const NAMES = [
  'no trace at all',
  'an empty file',
  'a walk log',
  'cut short',
  'a flipped bit',
  'a newer version',
  'a missing file',
  'an empty folder',
  'a pattern that matches nothing',
  'a typing error in the text form',
  'a line that is no JSON',
  'text without a header',
];

function named(name: string): Wrong {
  const found = wrong.find((each) => each.name === name);
  if (found === undefined) throw new Error(`no wrong input ${name}`);
  return found;
}

test('the table and the names agree', () => {
  expect(wrong.map(({ name }) => name)).toEqual(NAMES);
});

describe.each(['view', 'stats'])('%s of a wrong input', (command) => {
  test.each(NAMES)('%s: status 3 and one clear message', async (name) => {
    const { path, code, texts } = named(name);
    const { status, stderr } = await rewalk(command, path);
    expect(status).toBe(3);
    expect(stderr).toMatch(new RegExp(`^rewalk: ${code}: `));
    expect(stderr.match(/^rewalk: /gm)).toHaveLength(1);
    expect(stderr).not.toContain('bug');
    for (const text of texts) expect(stderr).toContain(text);
  });

  test.each(NAMES)('%s: with --json one line of JSON', async (name) => {
    const { path, code } = named(name);
    const { status, stderr } = await rewalk(command, path, '--json');
    expect(status).toBe(3);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code, exitStatus: 3 } });
  });
});

describe('check of a wrong input', () => {
  test.each(NAMES)('%s: status 3 and a finding, or a message if there is no file', async (name) => {
    const { path, code } = named(name);
    const { status, stdout, stderr } = await rewalk('check', path);
    expect(status).toBe(3);
    if (WORLD.includes(code)) expect(stderr).toMatch(new RegExp(`^rewalk: ${code}: `));
    else expect(stdout).toContain(`error ${code} `);
  });
});

describe('convert of a wrong input', () => {
  test.each(NAMES)('%s: status 3, a message, and no file', async (name) => {
    const { path, code } = named(name);
    const target = join(folder, 'never.jsonl');
    const { status, stderr } = await rewalk('convert', path, '-o', target, '--to', 'trace');
    expect(status).toBe(3);
    // A folder or a pattern is no input of convert.
    expect(stderr).toMatch(
      code === 'E_NO_TRACES' ? /^rewalk: E_(IO|NO_SUCH_FILE): / : new RegExp(`^rewalk: ${code}: `),
    );
    expect(() => readFileSync(target)).toThrow();
  });
});

test('one bad trace does not keep from the others, but decides the status', async () => {
  const good = await packedCase();
  const { status, stdout, stderr } = await rewalk('view', named('a flipped bit').path, good);
  expect(status).toBe(3);
  expect(stderr).toContain('E_CORRUPT');
  expect(stdout).toContain(`${good}: two writes`);
});

test('the whole chunks of a cut trace are shown before its end is told', async () => {
  const { stdout, stderr } = await rewalk('view', named('cut short').path);
  expect(stdout).toContain('cut.rwt: two writes');
  expect(stderr).toContain('E_CUT_SHORT');
});
