import { type FinalResults, Parser } from 'tap-parser';
import { describe, expect, test } from 'vitest';
import { ktapLines } from '../../src/report/ktap.ts';
import type { ReportRun } from '../../src/report/run.ts';
import { tapLines } from '../../src/report/tap.ts';
import { ATTACK, MIXED, reportCase, reportRun } from './run-samples.ts';

interface Parsed {
  readonly results: FinalResults;
  readonly names: readonly string[];
  readonly diagnoses: readonly unknown[];
  readonly extra: readonly string[];
  readonly comments: readonly string[];
}

/** By npm's tap-parser, as strictly as it can. */
function parsed(lines: readonly string[], strict = true): Parsed {
  const parser = new Parser({ strict });
  const names: string[] = [];
  const diagnoses: unknown[] = [];
  const extra: string[] = [];
  const comments: string[] = [];
  let results: FinalResults | undefined;
  parser.on('assert', ({ name, diag }) => {
    names.push(name);
    diagnoses.push(diag);
  });
  parser.on('extra', (text) => extra.push(text));
  parser.on('comment', (text) => comments.push(text));
  parser.on('complete', (all) => {
    results = all;
  });
  parser.end(`${lines.join('\n')}\n`);
  return { results: results!, names, diagnoses, extra, comments };
}

const BAD = '\\x1b[2J';

describe('TAP 13', () => {
  test('one of each outcome', () => {
    const { results, names, diagnoses, extra } = parsed(tapLines(MIXED));
    expect(results).toMatchObject({ ok: false, count: 4, pass: 2, fail: 2, skip: 1, bailout: false });
    expect(results.plan).toMatchObject({ start: 1, end: 4 });
    expect(names).toEqual(['traces/a.rwt', 'traces/b.rwt', 'other/c.rwt', 'other/d.rwt']);
    expect(diagnoses[1]).toMatchObject({
      message: 'step 12: the PTE was read as 0x7, memory holds 0x5',
      severity: 'fail',
      differing: 3,
      detail: ['step 12: diverged', '  cause: the PTE was read as 0x7, memory holds 0x5'],
    });
    expect(diagnoses[2]).toMatchObject({ verdict: 'E_CORRUPT', severity: 'error' });
    expect(extra).toEqual([]);
  });

  test('a hostile trace makes no line, directive or diagnosis of its own', () => {
    const { results, diagnoses, extra, names } = parsed(tapLines(ATTACK));
    expect(results).toMatchObject({ ok: false, count: 4, pass: 1, fail: 3, todo: 0, skip: 1 });
    expect(results.failures.filter(({ tapError }) => tapError !== undefined && tapError !== null)).toEqual([]);
    expect(extra).toEqual([]);
    expect((diagnoses[0] as { message: string }).message).toContain(BAD);
    expect(names[0]).toContain('\\x23 TODO');
  });

  test('nothing compared is no pass', () => {
    expect(parsed(tapLines(reportRun([], { faults: ['nothing compared'], exitStatus: 1 }))).results.ok).toBe(false);
    expect(tapLines(reportRun([]))).toContain('1..0 # SKIP nothing was compared');
  });
});

describe('KTAP', () => {
  /** The version line is the only one that TAP has otherwise. */
  const asTap = (run: ReportRun): string[] => {
    const [version, ...others] = ktapLines(run);
    expect(version).toBe('KTAP version 1');
    return ['TAP version 13', ...others];
  };

  test('one of each outcome', () => {
    const { results, names, extra, comments } = parsed(asTap(MIXED));
    expect(results).toMatchObject({ ok: false, count: 4, pass: 2, fail: 2, skip: 1 });
    expect(names).toEqual(['traces/a.rwt', 'traces/b.rwt', 'other/c.rwt # ERROR', 'other/d.rwt']);
    expect(extra).toEqual([]);
    expect(comments).toContain('# step 12: diverged\n');
  });

  test('the version line as it is does no harm to a reader of TAP', () => {
    const { results, extra } = parsed(ktapLines(MIXED), false);
    expect(results).toMatchObject({ count: 4, pass: 2, fail: 2, skip: 1 });
    expect(extra.map((line) => line.trim())).toEqual(['KTAP version 1']);
  });

  test('a hostile trace makes no line of its own', () => {
    const { results, extra } = parsed(asTap(ATTACK));
    expect(results).toMatchObject({ ok: false, count: 4, pass: 1, fail: 3, todo: 0, skip: 1 });
    expect(extra).toEqual([]);
  });

  test('plan, result lines and diagnosis as the kernel documents them', () => {
    const lines = ktapLines(MIXED);
    expect(lines.slice(0, 3)).toEqual(['KTAP version 1', '1..4', 'ok 1 traces/a.rwt']);
    expect(lines.indexOf('# step 12: diverged')).toBeLessThan(lines.indexOf('not ok 2 traces/b.rwt'));
    expect(lines).toContain('not ok 3 other/c.rwt # ERROR');
    expect(lines).toContain('ok 4 other/d.rwt # SKIP cannot differ');
    expect(ktapLines(reportRun([reportCase({ file: 'a # b' })]))).toContain('ok 1 a \\x23 b');
  });
});
