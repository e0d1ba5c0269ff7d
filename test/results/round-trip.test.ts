/** What goes into a results file comes out of it: every kind of verdict, of bare machines and of KVM. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { RESULTS_LIMITS } from '../../src/results/model.ts';
import { isResultsFile, ResultsReader } from '../../src/results/reader.ts';
import { reviewItems } from '../../src/results/review.ts';
import { corpusDigest } from '../../src/results/writer.ts';
import { CORPUS, folder, guestThatDiffers, type Kept, RUN, replayed, written } from './samples.ts';

const MUTANT = [1];
let bare: Kept[] = [];
let kvm: Kept[] = [];
let guest: Kept[] = [];

/** A copy of a trace without expectations.json beside it. */
function alone(path: string): string {
  const copy = join(folder, path.replaceAll('/', '-'));
  writeFileSync(copy, readFileSync(join(CORPUS, path)));
  return copy;
}

beforeAll(() => {
  bare = [...replayed(join(CORPUS, 'hand/stale-translations.rwt')), ...replayed(alone('kvm/a_npt1.rwt'))];
  kvm = [
    ...replayed(join(CORPUS, 'kvmmmu/a_npt1.rwt')),
    ...replayed(join(CORPUS, 'kvmmmu/a_npt0.rwt'), { mutants: MUTANT }),
  ];
  guest = guestThatDiffers();
});

function readBack(path: string): Kept[] {
  const reader = ResultsReader.open(path);
  try {
    return reader.traces.map((entry) => reader.traceAt(entry));
  } finally {
    reader.close();
  }
}

describe('a results file', () => {
  test('gives back every trace and every step that was kept', () => {
    const all = [...bare, ...kvm, ...guest];
    expect(readBack(written(all))).toEqual(all);
  });

  test('has every kind of judgement among these', () => {
    const kinds = new Set(
      [...bare, ...kvm, ...guest].flatMap(({ trace }) => trace.groups.map((each) => each.judgement)),
    );
    expect([...kinds].toSorted()).toEqual(['diverged', 'expected', 'guest-differs', 'stale-allowed']);
  });

  test('keeps the other kinds of judgement, too', () => {
    const [first] = kvm[1]!.steps;
    const steps = [
      { ...first!, judgement: { kind: 'undetermined', why: 'memory unknown' } as const },
      { ...first!, judgement: { kind: 'stale-after-invalidation', invalidatedAt: 3 } as const },
    ].map((step) => ({ ...step, detail: undefined }));
    expect(readBack(written([{ ...kvm[1]!, steps }]))[0]!.steps).toEqual(steps);
  });

  test('says what the run was, and is known by its first bytes', () => {
    const path = written(bare);
    const reader = ResultsReader.open(path);
    reader.close();
    expect(reader.run).toEqual(RUN);
    const predicted = bare.reduce((sum, { trace }) => sum + trace.receipt.observationsPredicted, 0);
    expect(reader.end).toMatchObject({ traces: 2, observationsPredicted: predicted, exitStatus: 1 });
    expect([isResultsFile(path), isResultsFile(join(CORPUS, 'kvm/a_npt1.rwt')), isResultsFile(folder)]).toEqual([
      true,
      false,
      false,
    ]);
  });

  test('of the same run differs in the time only', () => {
    const [a, b] = [written(bare, RUN), written(bare, { ...RUN, when: RUN.when + 1 })].map((path) =>
      readFileSync(path),
    );
    // The time and the CRC of its record.
    const differing = [...a!].filter((byte, i) => byte !== b![i]);
    expect([a!.length === b!.length, differing.length <= 5]).toEqual([true, true]);
  });

  test('has a digest of its corpus that does not depend on the order, nor on names', () => {
    const digestOf = (all: readonly Kept[]): string => {
      const reader = ResultsReader.open(written(all));
      reader.close();
      return reader.end.corpusDigest;
    };
    const [first, second] = bare as [Kept, Kept];
    const renamed = { ...first, trace: { ...first.trace, file: 'another name' } };
    expect(digestOf([first, second])).toBe(digestOf([second, renamed]));
    expect(digestOf([first, second])).not.toBe(digestOf([first]));
    expect(corpusDigest(['b\n', 'a\n'])).toBe(corpusDigest(['a\n', 'b\n']));
  });
});

describe('more steps than are kept', () => {
  const limits = { ...RESULTS_LIMITS, maxSteps: 40, maxDetails: 10 };

  test('are counted; the file says up to where all are there, and has the first of each group', () => {
    const [kept] = replayed(join(CORPUS, 'kvmmmu/a_npt0.rwt'), { mutants: MUTANT }, limits) as [Kept];
    const [whole] = kvm.slice(1) as [Kept];
    const { trace, steps } = kept;
    expect(trace.stepCount).toBe(whole.trace.stepCount);
    expect(trace.groups).toEqual(whole.trace.groups);
    expect(steps.length).toBeLessThan(60);
    expect(steps.filter(({ step }) => step < trace.keptBelow).map(({ step }) => step)).toEqual(
      whole.steps.filter(({ step }) => step < trace.keptBelow).map(({ step }) => step),
    );
    const shapes = (of: Kept): string[] => [...new Set(of.steps.map(({ judgement, group }) => judgement.kind + group))];
    expect(shapes(kept)).toEqual(shapes(whole));
    expect(whole.trace.keptBelow).toBe(Number.POSITIVE_INFINITY);
    expect(readBack(written([kept], RUN, limits))).toEqual([kept]);
  });

  test('a step that does not fit into a record is kept without its sides', () => {
    const [kept] = bare as [Kept];
    const [step] = kept.steps;
    if (step?.detail?.kind !== 'replay') throw new Error('the first step is kept whole');
    const { divergence } = step.detail;
    const row = { op: 1, addressLo: 1, addressHi: 2, valueLo: 3, valueHi: 4 };
    const large = { ...divergence, walk: Array.from({ length: 1000 }, () => row) };
    const steps = [{ ...step, detail: { kind: 'replay', divergence: large } as const }];
    const limits = { ...RESULTS_LIMITS, maxRecordBytes: 10_000 };
    expect(readBack(written([{ ...kept, steps }], RUN, limits))[0]!.steps).toEqual([{ ...step, detail: undefined }]);
  });
});

test('what a review can accept: diverging groups and expectations that moved', () => {
  const { trace } = bare[1]!;
  const items = reviewItems(trace);
  expect(items.every(({ kind }) => kind === 'divergence')).toBe(true);
  expect(items.length).toBe(trace.receipt.groups.length);
  const outcome = { fault: 'f', group: 'g', expected: 3, met: 2 };
  const moved = {
    ...trace,
    groups: [],
    receipt: { ...trace.receipt, expectationOutcomes: [outcome, { ...outcome, met: 3 }] },
  };
  expect(reviewItems(moved)).toEqual([{ kind: 'expectation', ...outcome }]);
  expect(reviewItems(kvm[1]!.trace).some((item) => item.kind === 'divergence' && item.mixed > 0)).toBe(true);
});
