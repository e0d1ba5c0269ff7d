import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { COVERAGE_CELLS } from '../../src/replay/coverage-cells.ts';
import { coverageLines, minimumLines, unreachedLines } from '../../src/report/coverage-text.ts';
import { file, rewalk } from './cli.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));
const HAND = `${TRACES}hand`;
const KEYS = `${HAND}/protection-keys.rwt`;
const NPT = `${HAND}/nested-fault-npt.rwt`;

describe('rewalk stats --coverage', () => {
  test('a table by context, whose sum is all', async () => {
    const { status, stdout, stderr } = await rewalk('stats', '--coverage', KEYS);
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^cells that 1 trace reaches\n {2}context +reached +known +unreachable\n/);
    expect(stdout).toMatch(/\n {2}guestMmu +0 +\d+ +0\.0% +\d+\n/);
    const [, reached, known, unreachable] = /\n {2}all +([\d,]+) +([\d,]+) +\S+ +([\d,]+)\n$/.exec(stdout)!;
    const number = (text: string): number => Number(text.replaceAll(',', ''));
    expect(number(reached!)).toBeGreaterThan(20);
    expect(number(known!) + number(unreachable!)).toBe(COVERAGE_CELLS.length);
  });

  test('--unreached lists the rest, and why what is out of reach is', async () => {
    const { stdout } = await rewalk('stats', '--coverage', '--unreached', KEYS);
    expect(stdout).toMatch(/\nnot reached\n/);
    expect(stdout).toMatch(/\n {2}cpuWalk\/rights-shadow-stack +l1\/pass l1\/fail/);
    expect(stdout).toContain('\nnot to be reached by any trace\n');
    expect(stdout).toContain('\n    kvm/request/tlb-flush\n');
  });

  test('--minimum chooses, the same each time', async () => {
    const first = await rewalk('stats', '--coverage', '--minimum', KEYS, NPT, KEYS);
    const again = await rewalk('stats', '--coverage', '--minimum', KEYS, NPT, KEYS);
    expect(again.stdout).toBe(first.stdout);
    expect(first.stdout).toMatch(
      /\nminimum corpus: 2 traces of \d\n {2}adds +total +trace +the first of what it adds\n/,
    );
  });

  test('--json: cells by number and name', async () => {
    const { stdout } = await rewalk('stats', '--coverage', '--minimum', '--json', KEYS, NPT);
    const { coverage } = JSON.parse(stdout);
    expect(coverage.cells).toBe(COVERAGE_CELLS.length);
    expect(coverage.reached + coverage.unreached.length).toBe(coverage.cells);
    expect(coverage.traces.map(({ trace }: { trace: string }) => trace)).toEqual([KEYS, NPT]);
    expect(coverage.minimum.at(-1).total).toBe(coverage.reached);
    const sum = coverage.contexts.reduce((all: number, { reached }: { reached: number }) => all + reached, 0);
    expect(sum).toBe(coverage.reached);
    const { number, name } = coverage.unreached[0];
    expect(COVERAGE_CELLS[number]!.name).toBe(name);
  });

  test('--machine kvm puts a KVM below a processor and reaches its cells, too', async () => {
    const bare = JSON.parse((await rewalk('stats', '--coverage', '--json', KEYS)).stdout).coverage.reached;
    const kvm = JSON.parse((await rewalk('stats', '--coverage', '--json', '--machine', 'kvm', KEYS)).stdout).coverage;
    expect(kvm.reached).toBeGreaterThan(bare + 10);
  });

  test('a trace that cannot be read is told of, the others are counted', async () => {
    const broken = file('broken.rwt', 'nothing of the kind');
    const { status, stdout, stderr } = await rewalk('stats', '--coverage', broken, KEYS);
    expect(status).not.toBe(0);
    expect(stderr).toContain('broken.rwt');
    expect(stdout).toContain('\n  all ');
  });

  test.each([
    [['--unreached'], '--unreached says how to count coverage', 'add --coverage'],
    [['--minimum'], '--minimum says how to count coverage', 'add --coverage'],
    [['--machine', 'kvm'], '--machine says how to count coverage', 'add --coverage'],
    [['--coverage', '--sum'], '--sum has nothing to add', 'leave out --sum'],
    [['--coverage', '--machine', 'abacus'], 'expected bare or kvm', 'E_USAGE'],
  ])('%j is refused with a remedy', async (options, sentence, remedy) => {
    const { status, stdout, stderr } = await rewalk('stats', ...options, KEYS);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(sentence);
    expect(stderr).toContain(remedy);
  });
});

describe('coverage as text', () => {
  test('nothing but all is 100%', () => {
    const lines = coverageLines([{ context: 'tlb', reached: 1999, known: 2000, unreachable: 0 }], 3);
    expect(lines[0]).toBe('cells that 3 traces reach');
    expect(lines[2]).toMatch(/99\.9%/);
    expect(coverageLines([{ context: 'tlb', reached: 0, known: 0, unreachable: 4 }], 1)[2]).toMatch(/ - /);
  });

  test('names of files are escaped', () => {
    const lines = minimumLines([{ trace: 'a\u001b[31m.rwt', adds: 4, first: ['x', 'y', 'z'], total: 4 }], 1);
    expect(lines.join('\n')).not.toContain('\u001b');
    expect(lines.at(-1)).toMatch(/x y z …$/);
  });

  test('what is all reached has no list', () => {
    expect(unreachedLines([])).toEqual([]);
  });
});
