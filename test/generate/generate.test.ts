/** `rewalk generate`: the same seed, the same programs; valid ones, whose expectations hold on a bare machine. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { StepKind } from '../../src/formats/step.ts';
import { generateProgram } from '../../src/generate/generate.ts';
import { PAGINGS } from '../../src/generate/program.ts';
import { isValid } from '../../src/generate/valid.ts';
import { programColumns } from '../../src/generate/write-programs.ts';
import { folder, rewalk } from '../cli/cli.ts';

describe.each(PAGINGS)('%s', (paging) => {
  const programs = Array.from({ length: 25 }, (_, index) => generateProgram({ seed: 3, index, paging }));

  test('the same seed and number give the same program', () => {
    const again = generateProgram({ seed: 3, index: 7, paging });
    expect(again).toEqual(programs[7]);
    expect(generateProgram({ seed: 4, index: 7, paging })).not.toEqual(again);
  });

  test('a processor accepts every step', () => {
    expect(programs.filter((program) => !isValid(program))).toEqual([]);
  });

  test('every kind of step occurs, and accesses end in either way', () => {
    const kinds = new Set<number>();
    const stimuli = new Set<string>();
    let [translated, faulted] = [0, 0];
    for (const program of programs) {
      const columns = programColumns(program);
      for (const op of columns.op) kinds.add(op & 0x1f);
      for (const { kind } of columns.stimuli) stimuli.add(kind);
      for (const op of columns.observationOp) (op & 0x1f) === 5 ? translated++ : faulted++;
    }
    const { ACCESS, STORE, CLEAR_PAGE, REGISTER_WRITE, INVALIDATE, HOST_PAGES, RARE } = StepKind;
    expect([...kinds]).toEqual(
      expect.arrayContaining([ACCESS, STORE, CLEAR_PAGE, REGISTER_WRITE, INVALIDATE, HOST_PAGES, RARE]),
    );
    expect([...stimuli]).toEqual(
      expect.arrayContaining(['memslot', 'dirty-log', 'notifier', 'entry-fill', 'page-image']),
    );
    expect(Math.min(translated, faulted)).toBeGreaterThan(300);
  });

  test('the trace is sound and matches on a bare machine', async () => {
    const path = join(folder, `${paging}.rwt`);
    const made = await rewalk('generate', '--seed', '3', '--programs', '10', '--paging', paging, '-o', path, '--json');
    expect(made.status).toBe(0);
    expect(JSON.parse(made.stdout)).toMatchObject({ programs: 10, segments: 10, seed: 3, paging });
    expect((await rewalk('check', path)).status).toBe(0);
    const replay = await rewalk('replay', '--json', '--machine', 'bare', path);
    const { results } = JSON.parse(replay.stdout) as { results: { verdict: string }[] };
    expect([replay.status, results.map(({ verdict }) => verdict)]).toEqual([0, new Array(10).fill('match')]);
  });
});

test('as text, the steps are those of the packed trace', async () => {
  const text = join(folder, 'one.jsonl');
  const packed = join(folder, 'one.rwt');
  await rewalk('generate', '--first', '5', '--steps', '30', '-o', text);
  await rewalk('generate', '--first', '5', '--steps', '30', '-o', packed);
  await rewalk('convert', packed, '-o', join(folder, 'again.jsonl'));
  expect(readFileSync(join(folder, 'again.jsonl'), 'utf8')).toBe(readFileSync(text, 'utf8'));
});
