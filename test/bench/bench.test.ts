/** That `rewalk bench` measures what it says. No figure is asserted: the machine is shared. */

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { measureTrace, measureWalks } from '../../src/bench/measure.ts';
import { NativeWalker } from '../../src/bench/native.ts';
import { buildWalkTables, loadWalkTables, walkImage, xorshift } from '../../src/bench/tables.ts';
import { Problem } from '../../src/bits/problem.ts';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { ACCESS_USER, ACCESS_WALKED, StepKind } from '../../src/formats/step.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import { logRows } from '../../src/replay/align.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { file, rewalk } from '../cli/cli.ts';

const TRACE = fileURLToPath(new URL('../../traces/walklog/pcid.rwt', import.meta.url));

const compiler = ((): boolean => {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

/** The machine after the trace's header, with the benchmark's tables. */
function machineWithTables(): { machine: BareMachine; addresses: Uint32Array } {
  const reader = TraceReader.open(TRACE);
  const item = reader.next();
  reader.close();
  if (item?.kind !== 'header') throw new Error('a trace begins with its header');
  const tables = buildWalkTables(64);
  const machine = new BareMachine(item.header);
  loadWalkTables(machine, tables);
  return { machine, addresses: tables.addresses };
}

describe('the tables', () => {
  test('make every access cost 24 reads, four levels in both dimensions', () => {
    const { machine, addresses } = machineWithTables();
    for (let i = 0; i < addresses.length; i += 2) {
      machine.apply(
        0,
        StepKind.ACCESS | ACCESS_USER | ACCESS_WALKED,
        addresses[i]! | 0,
        addresses[i + 1]! | 0,
        0,
        0,
        [],
      );
      const kinds = logRows(machine.log).map(({ op }) => op & OBS_KIND_MASK);
      expect(kinds.filter((kind) => kind === Obs.ELEMENT)).toHaveLength(24);
      expect(kinds.at(-1)).toBe(Obs.TRANSLATED);
    }
  });

  test('are the same each time, and the image holds them all', () => {
    const [one, two] = [buildWalkTables(64), buildWalkTables(64)];
    expect(walkImage(one, 40).equals(walkImage(two, 40))).toBe(true);
    expect(walkImage(one, 40).length).toBe(8 * 6 + one.pages.size * 4104 + 8 * 64);
    expect(walkImage(one, 40).equals(walkImage(two, 41))).toBe(false);
  });

  test('are spread by a generator that repeats itself for a seed, and never stands still', () => {
    const take = (seed: number): number[] => Array.from({ length: 5 }, xorshift(seed));
    expect(take(7)).toEqual(take(7));
    expect(take(7)).not.toEqual(take(8));
    expect(new Set(take(0)).size).toBe(5);
  });
});

describe('measuring', () => {
  test('walks: a rate, and no ratio without a native walker', () => {
    const { walks, perSecond, native, ratio } = measureWalks(1, false);
    expect([walks, native, ratio]).toEqual([1 << 18, undefined, undefined]);
    expect(perSecond).toBeGreaterThan(0);
  });

  test('a trace: decoding and replay of all its steps, with what was predicted', () => {
    const figures = measureTrace(TRACE, 1);
    expect(figures).toMatchObject({ trace: TRACE, steps: 159, observationsPredicted: 481 });
    for (const rate of [figures.decode, figures.decodeAsStored, figures.replay, figures.decodeShare, figures.bytes]) {
      expect(Number.isFinite(rate) && rate > 0).toBe(true);
    }
  });
});

describe('rewalk bench', () => {
  test('--rounds 1: rates, and ratios of the same run', async () => {
    const { status, stdout, stderr } = await rewalk('bench', '--rounds', '1', '--trace', TRACE);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout.split('\n').map((line) => line.replace(/\d[\d.]*/g, '#').replace(/ {2,}/g, '  '))).toEqual([
      'what  rate  of the same run  peak memory',
      '#-D walks, no TLB  # M/s  # MB',
      'replay of pcid.rwt  # M/s  # x #-D walks  # MB',
      '  decoding, uncompressed  # M/s  # % of replay time',
      '  decoding, as stored  # M/s',
      '',
    ]);
  });

  test('--json: the same as numbers', async () => {
    const { status, stdout } = await rewalk('bench', '--rounds', '1', '--trace', TRACE, '--json');
    expect(status).toBe(0);
    const figures = JSON.parse(stdout) as { walks: object; trace: object };
    expect(Object.keys(figures)).toEqual(['walks', 'trace']);
    expect(figures.walks).toMatchObject({
      walks: 1 << 18,
      perSecond: expect.any(Number),
      peakMemory: expect.any(Number),
    });
    expect(figures.trace).toMatchObject({ steps: 159, replay: expect.any(Number), decodeShare: expect.any(Number) });
  });

  test.each([
    ['no rounds', ['--rounds', '0'], 2, /--rounds "0": expected a whole number from 1 to 100/],
    ['too many rounds', ['--rounds', '101'], 2, /--rounds "101"/],
    ['a trace that is not there', ['--rounds', '1', '--trace', 'missing.rwt'], 3, /E_NO_SUCH_FILE/],
    ['no trace', ['--rounds', '1', '--trace', file('no.rwt', 'not a trace')], 3, /E_NOT_A_TRACE/],
  ])('%s is told', async (_, argv, status, message) => {
    const run = await rewalk('bench', ...argv);
    expect([run.status, run.stdout]).toEqual([status, '']);
    expect(run.stderr).toMatch(message);
  });
});

describe('the native walker', () => {
  test('without a C compiler: told in a sentence, with what to do', () => {
    try {
      new NativeWalker(buildWalkTables(1), 40, 'no-such-compiler');
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(Problem);
      expect(error).toMatchObject({ code: 'E_USAGE', remedy: 'install gcc or clang' });
      expect((error as Problem).message).toMatch(/^--native: the C compiler "no-such-compiler" failed: /);
    }
  });

  describe.runIf(compiler)('compiled (only where there is a C compiler, cc)', () => {
    test('translates as the machine does, over the same tables', () => {
      const { native, ratio, perSecond } = measureWalks(1, true);
      expect(native).toBeGreaterThan(0);
      expect(ratio).toBe(perSecond / native!);
    });

    test('counts each repetition, and sums up one and several', () => {
      const walker = new NativeWalker(buildWalkTables(64), 40);
      try {
        const [once, thrice] = [walker.run(1), walker.run(3)];
        expect(thrice.checksum).toBe((3n * once.checksum) & 0xffff_ffff_ffff_ffffn);
      } finally {
        walker.remove();
      }
    });

    test('--native gives the ratio of the same run', async () => {
      const { status, stdout } = await rewalk('bench', '--rounds', '1', '--native', '--trace', TRACE);
      expect(status).toBe(0);
      expect(stdout).toMatch(/^2-D walks, no TLB +[\d.]+ M\/s +[\d.]+ of native +[\d,]+ MB$/m);
      expect(stdout).toMatch(/^2-D walks, native C +[\d.]+ M\/s$/m);
    });
  });
});
