import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { colourWanted, painter } from '../../src/cli/colour.ts';
import { globMatches } from '../../src/cli/glob.ts';
import { ClosedOutput } from '../../src/cli/io.ts';
import { addressRange, frameRange, hexWordValue, names, wholeNumber } from '../../src/cli/option-values.ts';
import { showProgress } from '../../src/cli/progress.ts';
import { ResultOutput } from '../../src/cli/result-output.ts';
import { worseStatus } from '../../src/cli/status.ts';
import { suggestion } from '../../src/cli/suggest.ts';
import { traceFiles } from '../../src/cli/traces.ts';
import { captured, file, folder, rewalkWith } from './cli.ts';

describe('colour', () => {
  const tty = { isTTY: true };
  const pipe = { isTTY: false };

  test('auto: on a terminal only', () => {
    expect(colourWanted('auto', tty, {})).toBe(true);
    expect(colourWanted('auto', pipe, {})).toBe(false);
    expect(colourWanted('auto', tty, { TERM: 'dumb' })).toBe(false);
  });

  test('NO_COLOR takes it away, FORCE_COLOR gives it', () => {
    expect(colourWanted('auto', tty, { NO_COLOR: '1' })).toBe(false);
    expect(colourWanted('auto', tty, { NO_COLOR: '' })).toBe(true);
    expect(colourWanted('auto', pipe, { FORCE_COLOR: '1' })).toBe(true);
    expect(colourWanted('auto', tty, { FORCE_COLOR: '0' })).toBe(false);
  });

  test('--color is stronger than both', () => {
    expect(colourWanted('always', pipe, { NO_COLOR: '1' })).toBe(true);
    expect(colourWanted('never', tty, { FORCE_COLOR: '1' })).toBe(false);
  });

  test('a style is put on only where it is wanted', () => {
    expect(painter(true)('red', 'x')).toBe('\u001b[31mx\u001b[39m');
    expect(painter(false)('red', 'x')).toBe('x');
  });
});

describe('status', () => {
  test('unreadable before not modelled before diverged before match', () => {
    expect(worseStatus(0, 1)).toBe(1);
    expect(worseStatus(4, 1)).toBe(4);
    expect(worseStatus(4, 3)).toBe(3);
    expect(worseStatus(3, 0)).toBe(3);
  });
});

describe('suggestions', () => {
  const known = ['max-diffs', 'bail', 'filter', 'from', 'to'];

  test('a slip, a swap, a beginning', () => {
    expect(suggestion('fliter', known)).toBe('filter');
    expect(suggestion('max', known)).toBe('max-diffs');
    expect(suggestion('bial', known)).toBe('bail');
  });

  test('nothing where nothing is near, or two things are begun', () => {
    expect(suggestion('xyzzy', known)).toBeUndefined();
    expect(suggestion('f', ['far-away', 'fog-bound'])).toBeUndefined();
  });
});

describe('option values', () => {
  test('whole numbers', () => {
    expect(wholeNumber('-n')('12')).toBe(12);
    expect(wholeNumber('-n')('0x10')).toBe(16);
    expect(wholeNumber('-n')(undefined)).toBeUndefined();
    for (const text of ['-1', '1.5', '1e3', '', 'x', '99999999999999999999']) {
      expect(() => wholeNumber('-n')(text), text).toThrow('whole number');
    }
  });

  test('address ranges are hexadecimal and include their ends', () => {
    const range = (text: string) => addressRange('--gva')(text);
    expect(range('0x1000')).toEqual({ first: { lo: 0x1000, hi: 0 }, last: { lo: 0x1000, hi: 0 } });
    expect(range('1000..1fff')).toEqual({ first: { lo: 0x1000, hi: 0 }, last: { lo: 0x1fff, hi: 0 } });
    expect(range('0x1000+0x1000')).toEqual({ first: { lo: 0x1000, hi: 0 }, last: { lo: 0x1fff, hi: 0 } });
    expect(range('ffffffff_80000000+1')?.first).toEqual({ lo: 0x8000_0000, hi: 0xffff_ffff });
    for (const text of ['', '..', '1..', '1+0', '2..1', 'ffffffffffffffff+2', '1.2']) {
      expect(() => range(text), text).toThrow('--gva');
    }
  });

  test('frames', () => {
    expect(frameRange('--gfn')('0x5')).toEqual({ first: { lo: 0x5000, hi: 0 }, last: { lo: 0x5fff, hi: 0 } });
    expect(() => frameRange('--gfn')('10000000000000')).toThrow('52 bits');
  });

  test('words', () => {
    expect(hexWordValue('word', '0xFFFF_0000_0000_0001')).toEqual({ lo: 1, hi: 0xffff_0000 });
    expect(() => hexWordValue('word', '0x')).toThrow('hexadecimal');
  });

  test('names', () => {
    expect(names('--kind', ['a', 'b'])(['a,b'])).toEqual(new Set(['a', 'b']));
    expect(() => names('--kind', ['a', 'b'])('c')).toThrow('one of a, b');
  });
});

describe('trace arguments', () => {
  const tree = join(folder, 'tree');
  file('tree/b.rwt', '');
  file('tree/a.jsonl', '');
  file('tree/sub/c.rwt', '');
  file('tree/sub/readme.md', '');
  file('tree/.hidden/d.rwt', '');
  file('tree/x[1].rwt', '');
  const at = (...names: string[]): string[] => names.map((name) => join(tree, name));

  test('a folder is searched for both forms, in an order that does not vary', () => {
    expect(traceFiles([tree])).toEqual(at('a.jsonl', 'b.rwt', 'sub/c.rwt', 'x[1].rwt'));
  });

  test('a file is taken whatever its name, and only once', () => {
    const path = file('tree/sub/odd.name', '');
    expect(traceFiles([path, join(tree, 'b.rwt'), path])).toEqual([path, join(tree, 'b.rwt')]);
  });

  test('a file whose name looks like a pattern is a file', () => {
    expect(traceFiles(at('x[1].rwt'))).toEqual(at('x[1].rwt'));
  });

  test('patterns', () => {
    expect(globMatches(join(tree, '*.rwt'))).toEqual(at('b.rwt', 'x[1].rwt'));
    expect(globMatches(join(tree, '**/*.rwt'))).toEqual(at('b.rwt', 'sub/c.rwt', 'x[1].rwt'));
    expect(globMatches(join(tree, '{a.jsonl,sub/?.rwt}'))).toEqual(at('a.jsonl', 'sub/c.rwt'));
    expect(globMatches(join(tree, '[!a].rwt'))).toEqual(at('b.rwt'));
    expect(globMatches(join(tree, 'nothing*'))).toEqual([]);
    expect(traceFiles([join(tree, 'su*')])).toEqual(at('sub/c.rwt'));
  });

  test('a link to a folder is not followed, so that no search is endless', () => {
    const looped = join(folder, 'looped');
    mkdirSync(looped);
    file('looped/a.rwt', '');
    symlinkSync(looped, join(looped, 'again'));
    expect(traceFiles([looped])).toEqual([join(looped, 'a.rwt')]);
    expect(globMatches(join(looped, '**/*.rwt'))).toEqual([join(looped, 'a.rwt')]);
  });

  test('what is not there is a problem', () => {
    expect(() => traceFiles([join(tree, 'none.rwt')])).toThrow('no such file or folder');
    expect(() => traceFiles([join(tree, 'none*')])).toThrow('matches no trace');
    expect(() => traceFiles(['-', '-'])).toThrow('only once');
  });
});

describe('standard output', () => {
  test('waits for a slow reader', async () => {
    let drain: () => void = () => undefined;
    const stream = captured({
      write: () => false,
      once: (_event, listener) => {
        drain = listener;
      },
    });
    const out = new ResultOutput(stream);
    out.line('x');
    let flushed = false;
    const flushing = out.flush().then(() => {
      flushed = true;
    });
    await Promise.resolve();
    expect(flushed).toBe(false);
    drain();
    await flushing;
    expect(flushed).toBe(true);
  });

  test('a reader that has gone away ends the command quietly', async () => {
    let fail: (error: Error & { code?: string }) => void = () => undefined;
    const stdout = captured({
      write: () => {
        fail(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
        return true;
      },
      on: (_event, listener) => {
        fail = listener;
      },
    });
    const stderr = captured();
    const { status } = await rewalkWith({ stdout, stderr }, 'decode', '--list');
    expect(status).toBe(141);
    expect(stderr.text).toBe('');
    const out = new ResultOutput(stdout);
    out.line('x');
    await expect(out.flush()).rejects.toBeInstanceOf(ClosedOutput);
  });
});

describe('stopping', () => {
  test('ends with 130 and one line', async () => {
    const stop = new AbortController();
    stop.abort();
    const stderr = captured();
    const path = file('stopped.jsonl', '{"header":{}}');
    const { status } = await rewalkWith({ stderr, signal: stop.signal }, 'stats', path);
    expect(status).toBe(130);
    expect(stderr.text).toBe('rewalk: interrupted\n');
  });
});

describe('progress', () => {
  async function shown(stream: ReturnType<typeof captured>, silent = false): Promise<string> {
    const progress = await showProgress(stream, silent, 'working');
    progress.update(() => {
      throw new Error('nobody asked');
    });
    progress.done();
    return stream.text;
  }

  test('says nothing off a terminal, or where it is told to be silent', async () => {
    expect(await shown(captured())).toBe('');
    expect(await shown(captured({ isTTY: true, columns: 80 }), true)).toBe('');
  });

  test('says nothing on a terminal without a size, where its lines could not be cleared', async () => {
    expect(await shown(captured({ isTTY: true, columns: 0 }))).toBe('');
  });
});
