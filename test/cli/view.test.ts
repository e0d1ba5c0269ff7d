import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { CASE, file, folder, packedCase, rewalk } from './cli.ts';

let packed = '';
beforeAll(async () => {
  packed = await packedCase();
});

/** Ordinals of the steps that are printed. */
async function ordinals(...options: string[]): Promise<number[]> {
  const { status, stdout, stderr } = await rewalk('view', packed, ...options);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return [...stdout.matchAll(/^ *(\d+) {2}\S/gm)].map((match) => Number(match[1]));
}

describe('the text', () => {
  test('one line per step, its expected observations indented below', async () => {
    const { stdout } = await rewalk('view', packed, '--from', '5', '--to', '6');
    expect(stdout.split('\n').slice(1)).toEqual([
      '  intel, MAXPHYADDR 40, A/D unspecified',
      '       5  write  user  cpl3 0x1040 len 8',
      '              guest PML4E [0x1000] = 0x2027  P W U A gfn 0x2',
      '              guest PDPTE [0x2000] = 0x3027  P W U A gfn 0x3',
      '              guest PDE [0x3000] = 0x4027  P W U A gfn 0x4',
      '              guest PTE [0x4008] = 0x5027  P W U A gfn 0x5',
      '              guest PTE [0x4008] := 0x5067  P W U A D gfn 0x5',
      '              translated to 0x5040, page of 4K',
      '       6  read  user  cpl3 0x2040',
      '              #PF error 0x4 (U) cr2 0x2040',
      '',
    ]);
  });

  test('an expectation without a row is shown like one', async () => {
    const { stdout } = await rewalk('view', packed, '--from', '8');
    expect(stdout).toContain('       8  read  supervisor  cpl0 0x1040\n              translated to 0x5040\n');
  });

  test('what the recording says cannot steer the terminal', async () => {
    const { stdout } = await rewalk('view', packed, '--kind', 'note');
    expect(stdout).toContain('note: begin \\x1b[31mred');
    expect(stdout).not.toContain('\u001b');
  });

  test('colour is there when it is asked for, and only then', async () => {
    const { stdout } = await rewalk('view', packed, '--color', 'always');
    expect(stdout).toContain('\u001b[33m#PF error');
    expect((await rewalk('view', packed)).stdout).not.toContain('\u001b');
  });

  test('--source names file and line', async () => {
    const { stdout } = await rewalk('view', packed, '--source', '--from', '6', '--to', '6');
    expect(stdout).toContain('0x2040  (case.txt:9)');
  });
});

describe('filters', () => {
  test('a range of ordinals includes both ends', async () => {
    expect(await ordinals('--from', '2', '--to', '4')).toEqual([2, 3, 4]);
    expect(await ordinals('--from', '100')).toEqual([]);
  });

  test('kinds, in a row or repeated', async () => {
    expect(await ordinals('--kind', 'access')).toEqual([5, 6, 8]);
    expect(await ordinals('--kind', 'note,invalidate')).toEqual([0, 7]);
    expect(await ordinals('--kind', 'note', '--kind', 'invalidate')).toEqual([0, 7]);
  });

  test('observation kinds, with the translation that has no row', async () => {
    expect(await ordinals('--observed', 'exception')).toEqual([6]);
    expect(await ordinals('--observed', 'translated')).toEqual([5, 8]);
  });

  test('linear addresses: accesses and invalidations', async () => {
    expect(await ordinals('--gva', '0x1000..0x1fff')).toEqual([5, 7, 8]);
    expect(await ordinals('--address', '0x2040')).toEqual([6]);
    expect(await ordinals('--gva', '0x3000+0x1000')).toEqual([]);
  });

  test('the history of an entry is the stores to it and the walks through it, with these rows only', async () => {
    const { stdout } = await rewalk('view', packed, '--entry', '0x4008');
    expect(stdout.split('\n').slice(2)).toEqual([
      '       4  store [0x4008] = 0x5027, 8 bytes  [mark]',
      '       5  write  user  cpl3 0x1040 len 8',
      '              guest PTE [0x4008] = 0x5027  P W U A gfn 0x5',
      '              guest PTE [0x4008] := 0x5067  P W U A D gfn 0x5',
      '',
    ]);
  });

  test('any byte of an entry names it, its neighbour does not', async () => {
    expect(await ordinals('--entry', '0x400f')).toEqual([4, 5]);
    expect(await ordinals('--entry', '0x4010')).toEqual([]);
  });

  test('the history of a page is also what was translated to it', async () => {
    expect(await ordinals('--gfn', '0x5')).toEqual([5, 8]);
    expect(await ordinals('--gfn', '0x3')).toEqual([3, 5]);
  });

  test('--limit counts printed steps', async () => {
    expect(await ordinals('--kind', 'access', '--limit', '2')).toEqual([5, 6]);
  });
});

describe('--json', () => {
  test('prints the lines of the text form', async () => {
    const { stdout } = await rewalk('view', packed, '--json');
    const text = join(folder, 'whole.jsonl');
    await rewalk('convert', packed, '-o', text);
    expect(stdout).toBe(readFileSync(text, 'utf8'));
    const objects = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    expect(objects.map((object) => Object.keys(object)[0]).slice(0, 4)).toEqual(['header', 'state', 'note', 'store']);
  });

  test('what is filtered can be read again', async () => {
    const { stdout } = await rewalk('view', packed, '--json', '--kind', 'access');
    const again = await rewalk('view', file('filtered.jsonl', stdout));
    expect(again.status).toBe(0);
    expect(again.stdout).toMatch(/^ {7}2 {2}read/m);
  });

  test('a filter that lets nothing through leaves the header', async () => {
    const { stdout } = await rewalk('view', packed, '--json', '--from', '100');
    expect(stdout.trimEnd().split('\n')).toHaveLength(1);
  });
});

test('the text form is viewed as it is', async () => {
  const text = await rewalk('view', file('as-text.jsonl', CASE));
  const binary = await rewalk('view', packed);
  expect(text.stdout.split('\n').slice(1)).toEqual(binary.stdout.split('\n').slice(1));
});

test('a text form under another name is known by its first byte', async () => {
  const { status, stdout } = await rewalk('view', file('case.txt', CASE));
  expect(status).toBe(0);
  expect(stdout).toContain('two writes');
});
