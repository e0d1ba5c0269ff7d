/** That `rewalk bench` measures what it says. No figure is asserted: the machine is shared. */

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { measureTrace, type TraceFigures, type WalkFigures } from '../../src/bench/measure.ts';
import { NativeWalker } from '../../src/bench/native.ts';
import { buildWalkTables, loadWalkTables, walkImage, xorshift } from '../../src/bench/tables.ts';
import { Problem } from '../../src/bits/problem.ts';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { ACCESS_USER, ACCESS_WALKED, StepKind } from '../../src/formats/step.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import { logRows } from '../../src/replay/align.ts';
import { benchLines } from '../../src/report/bench-text.ts';
import { TraceReader } from '../../src/trace/reader.ts';
import { rewalk } from '../cli/cli.ts';

const TRACE = fileURLToPath(new URL('../../traces/walklog/pcid.rwt', import.meta.url));

const compiler = ((): boolean => {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

/** A machine of the trace's processor, with the benchmark's tables. */
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
    const op = StepKind.ACCESS | ACCESS_USER | ACCESS_WALKED;
    for (let i = 0; i < addresses.length; i += 2) {
      machine.apply(0, op, addresses[i]! | 0, addresses[i + 1]! | 0, 0, 0, []);
      const kinds = logRows(machine.log).map((row) => row.op & OBS_KIND_MASK);
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

test('a trace is measured in decoding and replay of all its steps, with what was predicted', () => {
  const figures = measureTrace(TRACE, 1);
  expect(figures).toMatchObject({ trace: TRACE, steps: 159, observationsPredicted: 481 });
  for (const rate of [figures.decode, figures.decodeAsStored, figures.replay, figures.decodeShare, figures.bytes]) {
    expect(Number.isFinite(rate) && rate > 0).toBe(true);
  }
});

describe('the figures as text', () => {
  const walks: WalkFigures = { walks: 1, perSecond: 2e6, native: 8e6, ratio: 0.25, peakMemory: 123e6 };
  const trace: TraceFigures = {
    trace: '/a/b\u001b.rwt',
    steps: 1,
    bytes: 1,
    decode: 100e6,
    decodeAsStored: 50e6,
    replay: 10e6,
    decodeShare: 0.1,
    observationsPredicted: 1,
    peakMemory: 1234e6,
  };

  test('are rates, and ratios of the same run', () => {
    const kvm = [{ way: 'shadow paging', faults: 0.2e6, walks: 1e6, edits: 0.4e6, pages: 1, peakMemory: 150e6 }];
    expect(benchLines(walks, kvm, trace)).toEqual([
      'what                                 rate  of the same run        peak memory',
      '2-D walks, no TLB                2.00 M/s  0.25 of native              123 MB',
      '2-D walks, native C              8.00 M/s',
      'KVM, shadow paging: walks        1.00 M/s  0.50 x 2-D walks            150 MB',
      '  faults that build tables       0.20 M/s',
      '  edits: store, INVLPG, access   0.40 M/s',
      'replay of b\\x1b.rwt              10.0 M/s  5.0 x 2-D walks           1,234 MB',
      '  decoding, uncompressed        100.0 M/s  10.0 % of replay time',
      '  decoding, as stored            50.0 M/s',
    ]);
  });

  test('leave out what was not measured', () => {
    const lines = benchLines({ ...walks, native: undefined, ratio: undefined }, [], undefined);
    expect(lines).toHaveLength(2);
    expect(lines.join()).not.toContain('native');
  });
});

describe('rewalk bench', () => {
  test('--rounds 1 runs and reports rates and ratios', async () => {
    const { status, stdout, stderr } = await rewalk('bench', '--rounds', '1', '--trace', TRACE);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^2-D walks, no TLB +[\d.]+ M\/s +[\d,]+ MB$/m);
    expect(stdout).toMatch(/^replay of pcid\.rwt +[\d.]+ M\/s +[\d.]+ x 2-D walks +[\d,]+ MB$/m);
    expect(stdout).toMatch(/^ {2}decoding, uncompressed +[\d.]+ M\/s +[\d.]+ % of replay time$/m);
    expect(stdout).not.toContain('native');
  });

  test.each([
    ['no rounds', ['--rounds', '0'], 2, /--rounds "0": expected a whole number from 1 to 100/],
    ['too many rounds', ['--rounds', '101'], 2, /--rounds "101"/],
    ['a trace that is not there', ['--rounds', '1', '--trace', 'missing.rwt'], 3, /E_NO_SUCH_FILE/],
  ])('%s: told', async (_, argv, status, message) => {
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
    test('counts each repetition, and sums up one and several', () => {
      const walker = new NativeWalker(buildWalkTables(64), 40);
      try {
        const [once, thrice] = [walker.run(1), walker.run(3)];
        expect(thrice.checksum).toBe((3n * once.checksum) & 0xffff_ffff_ffff_ffffn);
      } finally {
        walker.remove();
      }
    });

    // It fails if the two translate differently.
    test('translates as the machine does; --native --json has the ratio of the same run', async () => {
      const { status, stdout } = await rewalk('bench', '--rounds', '1', '--native', '--trace', TRACE, '--json');
      expect(status).toBe(0);
      const { walks, trace } = JSON.parse(stdout) as { walks: WalkFigures; trace: TraceFigures };
      expect(walks.walks).toBe(1 << 18);
      expect(walks.ratio).toBe(walks.perSecond / walks.native!);
      expect(trace).toMatchObject({ steps: 159, replay: expect.any(Number), decodeShare: expect.any(Number) });
    });
  });
});
