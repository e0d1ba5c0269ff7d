/** Minimised traces: small, sound, and still showing what the original shows. */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { folder, minimised, mutantAgainstClean, REPLAY, replayed, TRACES, written } from './minimised.ts';

/** Recordings that nobody made for a mutant: thousands of steps. */
const CASES: readonly (readonly [mutant: string, trace: string, atMost: number])[] = [
  ['m44-pcide-keeps-roots', 'kvmmmu/ept0_g64', 3],
  ['m17-smap-not-in-role', 'kvmmmu/a_npt1', 15],
];

describe.each(CASES)('%s, from %s', (mutant, trace, atMost) => {
  const path = join(TRACES, `${trace}.rwt`);
  test.runIf(existsSync(path))(`is told from a clean machine in at most ${atMost} steps`, () => {
    const wanted = mutantAgainstClean(mutant);
    const found = minimised(path, wanted);
    expect(found.columns.stepCount).toBeLessThanOrEqual(atMost);
    expect([found.kind, found.finished]).toEqual(['pair', true]);
    expect(found.finding.group).toBe(found.original.group);
    const small = written(found, `${mutant}-${trace.replace('/', '-')}`);
    const [clean, bad] = wanted.sides!;
    expect(replayed(small, clean.choice)).toMatchObject({ verdict: 'match' });
    const { step, group } = found.finding;
    expect(replayed(small, bad.choice)).toEqual({ verdict: 'diverged', step, group });
  });
});

test('the same trace gives the same result', () => {
  const path = join(TRACES, 'mutants/m06-child-of-other-role.rwt');
  const [a, b] = [0, 1].map(() => minimised(path, mutantAgainstClean('m06-child-of-other-role')));
  expect(a!.columns.op).toEqual(b!.columns.op);
  expect(a!.columns.address).toEqual(b!.columns.address);
  expect(a!.columns.registers).toEqual(b!.columns.registers);
  expect(a!.trials).toBe(b!.trials);
});

test('the header tells where it comes from and whose expectations these are', () => {
  const path = join(TRACES, 'mutants/m01-inherited-permissions.rwt');
  const { header, steps } = minimised(path, mutantAgainstClean('m01-inherited-permissions'));
  expect(header.omissions.slice(-2)).toEqual([
    { what: 'steps left out by rewalk minimise', count: steps.before - steps.after },
    { what: 'expectations made by rewalk minimise in place of recorded ones: what clean does', count: 1 },
  ]);
  expect(header.sources.at(-1)).toMatchObject({
    name: 'm01-inherited-permissions.rwt',
    size: readFileSync(path).length,
  });
});

test('when the time is up, what is there is a result, too', () => {
  const path = join(TRACES, 'mutants/m06-child-of-other-role.rwt');
  const wanted = mutantAgainstClean('m06-child-of-other-role');
  const found = minimised(path, wanted, 3);
  expect(found.finished).toBe(false);
  expect(found.steps.after).toBeGreaterThan(minimised(path, wanted).steps.after);
  const small = written(found, 'early');
  expect(replayed(small)).toMatchObject({ verdict: 'match' });
  expect(replayed(small, wanted.sides![1].choice)).toMatchObject({ verdict: 'diverged' });
});

/** A trace of traces/ as text with one line changed. */
function changed(trace: string, change: (line: string) => string | undefined): string {
  let isChanged = false;
  const lines = readFileSync(join(TRACES, `${trace}.jsonl`), 'utf8')
    .split('\n')
    .map((line) => {
      const other = isChanged ? undefined : change(line);
      isChanged ||= other !== undefined;
      return other ?? line;
    });
  expect(isChanged).toBe(true);
  const path = join(folder, `changed-${trace.replace('/', '-')}.jsonl`);
  writeFileSync(path, lines.join('\n'));
  return path;
}

describe('of a replay', () => {
  test("KVM's events that are not as recorded: all expectations stay as recorded", () => {
    const path = changed('mutants/m05-child-of-other-gfn', (line) =>
      line.includes('"fault-exit":"0x205000"') ? line.replace('"pte":"0x8000e7"', '"pte":"0x8000c7"') : undefined,
    );
    const original = replayed(path);
    expect(original.verdict).toBe('diverged');
    const found = minimised(path, REPLAY);
    expect(found.original).toMatchObject({ step: original.step, group: original.group });
    const { step, group } = found.finding;
    expect(step).toBe(found.columns.stepCount - 1);
    expect(found.columns.stepCount).toBeLessThanOrEqual(12);
    expect(replayed(written(found, 'events'))).toEqual({ verdict: 'diverged', step, group });
    expect(group).toBe(original.group);
  });

  test('a fault that is not as recorded: the last step keeps its own, what comes before it matches', () => {
    const path = changed('hand/nested-fault-npt', (line) =>
      line.includes('"exitInfo1":"0x200000007"') ? line.replace('0x200000007', '0x100000007') : undefined,
    );
    const original = replayed(path);
    const found = minimised(path, REPLAY);
    expect(found.kind).toBe('remade');
    const { step, group } = found.finding;
    expect([group, step]).toEqual([original.group, found.columns.stepCount - 1]);
    expect(replayed(written(found, 'walk'))).toEqual({ verdict: 'diverged', step, group });
  });

  test('that does not diverge there is nothing to minimise', () => {
    const path = join(TRACES, 'hand/canonical.rwt');
    expect(() => minimised(path, REPLAY)).toThrowError(
      expect.objectContaining({ code: 'E_NO_DIVERGENCE', exitStatus: 2 }),
    );
    expect(() => minimised(path, { ...REPLAY, step: 3 })).toThrow('does not diverge at step 3');
  });
});

test('--step: the class of that step, whatever comes before it', () => {
  const path = join(TRACES, 'mutants/m38-guest-mode-not-in-role.rwt');
  const found = minimised(path, { ...mutantAgainstClean('m38-guest-mode-not-in-role'), step: 13 });
  expect(found.original).toMatchObject({ step: 13, group: 'fault-exit: nested-vmexit (info1 bit 0)' });
  expect(found.finding.group).toBe(found.original.group);
});

test('notes are left out, page images hold only what matters', () => {
  const found = minimised(join(TRACES, 'kvmmmu/ept1_g64.rwt'), mutantAgainstClean('m15-wp-toggle-without-init'));
  const { stimuli } = found.columns;
  expect(stimuli.filter(({ kind }) => kind === 'note')).toEqual([]);
  for (const each of stimuli) {
    if (each.kind === 'page-image') expect(each.words.filter((word) => word !== 0).length).toBeLessThan(8);
  }
  expect(found.steps.after).toBeLessThanOrEqual(20);
  const path = written(found, 'm15');
  for (const item of openTrace(path)) {
    if (item.kind !== 'steps') continue;
    const kinds = item.columns.observationOp.slice(0, item.columns.observationCount).map((op) => op & OBS_KIND_MASK);
    expect(kinds).toContain(Obs.KVM_EVENT);
  }
}, 60_000);
