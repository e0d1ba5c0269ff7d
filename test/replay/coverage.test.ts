import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { coverageOf } from '../../src/replay/coverage.ts';
import { COVERAGE_CELLS, COVERAGE_CONTEXTS, checkOf } from '../../src/replay/coverage-cells.ts';
import { byContext, minimumCorpus, type TraceCoverage, unionOf } from '../../src/replay/coverage-corpus.ts';
import { CoverageSet } from '../../src/replay/coverage-set.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import type { ReplayResult } from '../../src/replay/result.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));

function replay(trace: string, machine: MachineChoice, covered: boolean): { set: CoverageSet; result: ReplayResult } {
  const set = new CoverageSet();
  let result: ReplayResult | undefined;
  let session: ReplaySession | undefined;
  let reached: CoverageSet | undefined;
  for (const item of openTrace(join(TRACES, trace))) {
    if (item.kind === 'header') {
      session = new ReplaySession(trace, item.header, { machine });
      if (covered) reached = coverageOf(session);
    } else if (item.kind === 'steps') {
      session!.run(item.columns);
    } else {
      result = session!.result(item.digest, 'complete');
      if (reached !== undefined) set.add(reached);
      session!.release();
    }
  }
  return { set, result: result! };
}

function namesOf(set: CoverageSet): string[] {
  return COVERAGE_CELLS.filter(({ number }) => set.has(number)).map(({ name }) => name);
}

function setOf(...cells: number[]): CoverageSet {
  const set = new CoverageSet();
  for (const cell of cells) {
    const { context, check, level, outcome } = COVERAGE_CELLS[cell]!;
    set.reach(checkOf(context, check), level, outcome);
  }
  return set;
}

describe('the list of cells', () => {
  test('has every name once, and numbers that count', () => {
    expect(new Set(COVERAGE_CELLS.map(({ name }) => name)).size).toBe(COVERAGE_CELLS.length);
    expect(COVERAGE_CELLS.every(({ number }, i) => number === i)).toBe(true);
    expect(new Set(COVERAGE_CELLS.map(({ context }) => context))).toEqual(new Set(COVERAGE_CONTEXTS));
  });

  test('finds a cell by what it is', () => {
    for (const { context, check, level, outcome, number } of COVERAGE_CELLS) {
      expect(checkOf(context, check).at(level, outcome)).toBe(number);
    }
    expect(checkOf('cpuWalk', 'present').at(6, 'pass')).toBe(-1);
    expect(checkOf('cpuWalk', 'present').at(1, 'maybe')).toBe(-1);
    expect(() => checkOf('cpuWalk', 'nonsense')).toThrow('no such check');
  });

  // Results files hold numbers: a cell may be added at the end, never in between. Change this only with their version.
  test('keeps its numbers', () => {
    const names = COVERAGE_CELLS.slice(0, 1166).map(({ name }) => name);
    expect(createHash('sha256').update(names.join('\n')).digest('hex').slice(0, 16)).toMatchInlineSnapshot(
      `"a1488f76e3734603"`,
    );
  });
});

describe('a set of cells', () => {
  test('counts, adds up, and tells what is not in the list', () => {
    const set = setOf(0, 9, 9);
    set.add(setOf(1));
    expect([set.count, set.has(0), set.has(1), set.has(2), set.has(9)]).toEqual([3, true, true, false, true]);
    set.reach(checkOf('cpuWalk', 'present'), 7, 'pass');
    expect([...set.unlisted]).toEqual(['cpuWalk/present/l7/pass']);
    expect(set.count).toBe(3);
  });

  test('what cannot be reached is not known, unless it was', () => {
    const cell = COVERAGE_CELLS.find(({ unreachable }) => unreachable !== undefined)!;
    const of = (set: CoverageSet): number => byContext(set).find(({ context }) => context === cell.context)!.known;
    expect(of(setOf(cell.number))).toBe(of(setOf()) + 1);
  });
});

describe('the minimum corpus', () => {
  const trace = (name: string, ...cells: number[]): TraceCoverage => ({ trace: name, set: setOf(...cells) });

  test('takes the trace that adds most, the earlier of equals, and leaves out what adds nothing', () => {
    const chosen = minimumCorpus([trace('a', 1), trace('b', 1, 2, 3), trace('c', 2, 4), trace('d', 4, 3), trace('e')]);
    expect(chosen.map(({ trace: name, adds, total }) => [name, adds, total])).toEqual([
      ['b', 3, 3],
      ['c', 1, 4],
    ]);
    expect(chosen[1]!.first).toEqual([COVERAGE_CELLS[4]!.name]);
  });

  test('leaves out a trace that later ones make superfluous', () => {
    // Greedy takes 1234 first, then needs both others, which reach all by themselves.
    const chosen = minimumCorpus([trace('most', 1, 2, 3, 4), trace('left', 1, 2, 5), trace('right', 3, 4, 6)]);
    expect(chosen.map(({ trace: name }) => name)).toEqual(['left', 'right']);
    expect(chosen.at(-1)!.total).toBe(6);
  });

  test('of nothing is nothing', () => {
    expect(minimumCorpus([])).toEqual([]);
    expect(unionOf([]).count).toBe(0);
  });
});

describe('coverage of a replay', () => {
  test('a nested page fault of a table and of a page', () => {
    const { set } = replay('hand/nested-fault-npt.rwt', {}, true);
    expect(namesOf(set)).toEqual(
      expect.arrayContaining([
        'cpuWalk/format/4-level',
        'cpuWalk/second-of-table/l1/fail',
        'cpuWalk/second-of-final/fail',
        'tdpWalk/npt-present/l1/fail',
        'tdpWalk/npt-write/l1/fail',
        'processor/nested-entry/svm',
      ]),
    );
    expect([...set.unlisted]).toEqual([]);
  });

  test('protection keys: one rule broken, and only that', () => {
    const { set } = replay('hand/protection-keys.rwt', {}, true);
    const names = namesOf(set);
    expect(names).toContain('cpuWalk/rights-key/l1/fail');
    expect(names).toContain('cpuWalk/rights-supervisor-key/l1/pass');
    expect(names.some((name) => name.includes('/ept-') || name.startsWith('kvm'))).toBe(false);
  });

  test('KVM: shadow pages, requests, roots', () => {
    const { set } = replay('mutants/m37-pdptes-keep-root.rwt', { machine: 'kvm', tdp: false }, true);
    const names = namesOf(set);
    expect(names).toContain('rootMmu.shadow/root/loaded');
    expect(names).toContain('rootMmu.shadow/root/current-freed');
    expect(names).toContain('kvm/request/load-mmu-pgd');
    expect(names.filter((name) => name.startsWith('rootMmu.tdp') || name.startsWith('guestMmu'))).toEqual([]);
  });

  test('NX huge pages', () => {
    const { set } = replay('mutants/m55-nx-huge-replaces-table.rwt', {}, true);
    expect(namesOf(set)).toContain('rootMmu.tdp/nx-huge/l2/kept-small');
  });

  test('a nested guest: the walk of its tables, and of those of its hypervisor', () => {
    const { set } = replay('mutants/m35-no-passthrough.rwt', {}, true);
    const names = namesOf(set);
    for (const context of ['guestMmu', 'kvm.tdpWalk'])
      expect(names.some((name) => name.startsWith(`${context}/`))).toBe(true);
    expect(names).toContain('kvm/in-force/guestMmu');
  });

  test('changes nothing of the replay, and reaches nothing that is said to be out of reach or not listed', () => {
    const traces = ['hand', 'generated', 'mutants'].flatMap((folder) =>
      readdirSync(join(TRACES, folder))
        .filter((name) => name.endsWith('.rwt'))
        .map((name) => `${folder}/${name}`),
    );
    expect(traces.length).toBeGreaterThan(50);
    const union = new CoverageSet();
    for (const trace of [...traces, 'kvm/c_nest_np1.rwt', 'kvmmmu/d_two_vm2.rwt']) {
      const plain = replay(trace, {}, false);
      const covered = replay(trace, {}, true);
      expect(covered.result, trace).toEqual(plain.result);
      union.add(covered.set);
    }
    expect([...union.unlisted]).toEqual([]);
    expect(COVERAGE_CELLS.filter(({ number, unreachable }) => unreachable !== undefined && union.has(number))).toEqual(
      [],
    );
    expect(union.count).toBeGreaterThan(450);
  });
});
