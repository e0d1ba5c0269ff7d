import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { MachineComparison } from '../../src/compare/machines.ts';
import type { ComparisonResult, Scope } from '../../src/compare/result.ts';
import { type GivenMachines, sidesOf } from '../../src/compare/sides.ts';
import { KVM_EVENT_SHIFT, KvmEvent } from '../../src/formats/kvm-event.ts';
import { OBS_LEVEL_SHIFT, OBS_NOT_MODELLED_SHIFT, OBS_VECTOR_SHIFT, Obs } from '../../src/formats/observation.ts';
import { Reg } from '../../src/formats/registers.ts';
import { MUTANTS } from '../../src/mmu/mutants.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { header, type Line, state, store } from '../replay/small-traces.ts';
import { compareScripts, type FakeRow } from './fake-machine.ts';

const NONE: GivenMachines = { machine: [], profile: [], wiring: [], tdp: [], tdpMmu: [], mutant: [] };

function compareFile(path: string, given: Partial<GivenMachines>, scope: Scope = 'all'): ComparisonResult {
  const sides = sidesOf({ ...NONE, ...given });
  const trace = openTrace(path);
  let comparison: MachineComparison | undefined;
  try {
    for (const item of trace) {
      if (item.kind === 'header') {
        const options = { scope, maxDiffs: 3, bail: false, allowUnmodelled: [] };
        comparison = new MachineComparison(path, item.header, sides, options);
      } else if (item.kind === 'steps') comparison!.run(item.columns);
      else return comparison!.result(item.digest, 'complete');
    }
  } finally {
    trace.close();
  }
  throw new Error('no end');
}

describe('a clean machine against one with a mutant, on the traces that show it', () => {
  const traces = readdirSync('traces/mutants').filter((name) => name.endsWith('.rwt'));
  const cases = MUTANTS.filter(({ nested }) => !nested).flatMap(({ number, name }) => {
    const trace = traces.find((each) => each === `${name}.rwt`);
    return trace === undefined ? [] : [[name, number, trace] as const];
  });

  test('there are many', () => {
    expect(cases.length).toBeGreaterThan(20);
  });

  test.each(cases)('%s is told from it, with TDP as recorded or without', (_name, number, trace) => {
    const results = [[], [false]].map((tdp) => compareFile(`traces/mutants/${trace}`, { mutant: [[number]], tdp }));
    const changed = results.filter(({ verdict }) => verdict === 'changed');
    expect(changed.length).toBeGreaterThan(0);
    for (const { differences, receipt } of changed) {
      const { step } = differences[0]!;
      expect(step).toBe(receipt.groups[0]!.first);
      expect(differences[0]!.cause).not.toBe('');
    }
  });

  test('the first difference names the step, both sides and what of an event differs', () => {
    const { differences, receipt, labels } = compareFile('traces/mutants/m01-inherited-permissions.rwt', {
      mutant: [[1]],
    });
    expect(labels).toEqual(['clean', 'm01-inherited-permissions']);
    expect(receipt).toMatchObject({ changed: 1, steps: 9, stepsCompared: 9, rows: 13, events: 12 });
    const [first] = differences;
    expect([first!.step, first!.cause]).toEqual([8, 'get-page differs in role access']);
    expect(first!.places[first!.at]).toMatchObject({ state: 'differs', fields: ['role'] });
  });
});

describe('machines that differ in their tables, by what the guest sees', () => {
  test('are unchanged where each is lawful by itself; that is counted apart', () => {
    const path = 'traces/generated/nx-forced-on.rwt';
    const { verdict, receipt } = compareFile(path, { tdp: [true, false] }, 'guest');
    expect([verdict, receipt.changed]).toEqual(['unchanged', 0]);
    expect(receipt.documented).toMatchObject([{ name: 'lawful-on-each-side' }]);
    expect(receipt.rows).toBeGreaterThan(0);
  });

  test('are changed where one of them is not', () => {
    const path = 'traces/mutants/m19-wp0-keeps-execute.rwt';
    const both = { tdp: [true, false], mutant: [[], [19]] };
    const { verdict, receipt } = compareFile(path, both, 'guest');
    expect([verdict, receipt.changed > 0]).toEqual(['changed', true]);
  });

  test('are not run on a recording of KVM whose exits are those of tables of the other kind', () => {
    const { verdict, receipt } = compareFile('traces/kvmmmu/b_pse_npt0.rwt', { tdp: [true, false] }, 'guest');
    expect([verdict, receipt.steps, receipt.rows]).toEqual(['skipped', 0, 0]);
    expect(receipt.limits[0]).toMatch(/^the exits that a recording of KVM is made of/);
  });

  test('are not run where they are one machine', () => {
    const given = { tdpMmu: [true, false] };
    const { verdict, receipt } = compareFile('traces/kvmmmu/b_pse_npt0.rwt', given, 'guest');
    expect([verdict, receipt.limits]).toEqual(['skipped', ['both sides are the same machine for this trace']]);
  });
});

// ------------------------------------------------------------------------------------------------------------- by script

const STORES: readonly Line[] = Array.from({ length: 6 }, (_, i) => store('0x5000', `0x${i}`));
const LINES: readonly Line[] = [header(), state(), ...STORES];

function event(number: number, level = 0): number {
  return Obs.KVM_EVENT | (number << KVM_EVENT_SHIFT) | (level << OBS_LEVEL_SHIFT);
}

/** An SPTE of a page (gfn = its frame) set in a table at `sptep`. */
function setSpte(sptep: number, gfn = 1): FakeRow[] {
  return [
    [event(KvmEvent.SET_SPTE, 1), gfn, 0x800],
    [Obs.KVM_MORE, sptep, 0],
  ];
}

const TRANSLATED: FakeRow = [Obs.TRANSLATED, 0x5000, 0x5000];

describe('step by step', () => {
  test('equal rows are unchanged, none at all are nothing compared', () => {
    const step = { rows: [...setSpte(0x9008), TRANSLATED] };
    const { result } = compareScripts(LINES, [
      [step, step],
      [step, step],
    ]);
    expect(result.verdict).toBe('unchanged');
    expect(result.receipt).toMatchObject({ steps: 6, stepsCompared: 6, rows: 6, events: 2, changed: 0, words: 512 });
    expect(compareScripts(LINES, [[], []]).result.verdict).toBe('nothing-compared');
  });

  test('a row on one side only, and one in the place of another', () => {
    const fault: FakeRow = [Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT), 0x5000, 2];
    const { result } = compareScripts(LINES, [
      [{ rows: [TRANSLATED] }, { rows: [TRANSLATED] }, { rows: [] }],
      [{ rows: [TRANSLATED] }, { rows: [fault] }, { rows: [TRANSLATED] }],
    ]);
    expect(result.verdict).toBe('changed');
    expect(result.differences.map(({ step, cause }) => [step, cause])).toEqual([
      [1, 'old has a translation to 0x5000, new #PF 0x2'],
      [2, 'new has a translation to 0x5000, which old lacks'],
    ]);
    expect(result.receipt.groups).toEqual([
      { group: 'store: translated / #PF 0x2', count: 1, first: 1 },
      { group: 'store: nothing / translated', count: 1, first: 2 },
    ]);
  });

  test('frames are compared as they are numbered, until the machines have parted: then up to renaming', () => {
    const at = (sptep: number, gfn = 1): { rows: FakeRow[] } => ({ rows: setSpte(sptep, gfn) });
    const { result } = compareScripts(LINES, [
      [at(0x9008), at(0x9008), at(0xa010), at(0xa018), at(0xb000)],
      [at(0x9008), at(0x7008), at(0x8010), at(0x8018), at(0x8000)],
    ]);
    // Step 1 parts them. Table 8 then stands for table a, in steps 2 and 3; not for b in step 4.
    expect(result.differences.map(({ step, cause }) => [step, cause])).toEqual([
      [1, 'set-spte differs in sptep'],
      [4, 'set-spte differs in sptep'],
    ]);
  });

  test('a frame that the second machine gives to another table loses its name', () => {
    const fault = { rows: [TRANSLATED] };
    const taken = [{ row: 0, frame: 8, taken: true }];
    const { result } = compareScripts(LINES, [
      [fault, { rows: setSpte(0xa010) }, { rows: setSpte(0xb010) }],
      [{ rows: [] }, { rows: setSpte(0x8010) }, { rows: setSpte(0x8010), tables: taken }],
    ]);
    expect(result.differences.map(({ step }) => step)).toEqual([0]);
  });

  test('registers: once, until they agree again', () => {
    const cr3 = (lo: number): object => ({ rows: [TRANSLATED], registers: { [Reg.CR3]: lo } });
    const { result } = compareScripts(LINES, [
      [cr3(1), cr3(2), cr3(2), cr3(3), cr3(4)],
      [cr3(1), cr3(7), cr3(7), cr3(3), cr3(5)],
    ]);
    expect(result.differences.map(({ step, cause }) => [step, cause])).toEqual([
      [1, 'after the step cr3 holds 0x2 on old, 0x7 on new'],
      [4, 'after the step cr3 holds 0x4 on old, 0x5 on new'],
    ]);
  });

  test('guest memory that the trace stored into, at the end', () => {
    const step = { rows: [TRANSLATED] };
    const { result } = compareScripts(LINES, [[step], [step]], {}, (machine, side) => {
      machine.memory.set(0x5000, 5 + side);
      machine.memory.set(0x6000, side);
    });
    expect(result.differences.map(({ ofStep, cause }) => [ofStep, cause])).toEqual([
      [false, 'at the end guest memory at 0x5000 is 0x5 on old, 0x6 on new'],
    ]);
  });

  test('what the recording knows reaches both, after they were held against each other', () => {
    const lines: Line[] = [
      header(),
      state(),
      {
        access: 'read',
        address: '0x5000',
        expect: [
          { register: 'pkru', value: '0x77' },
          { 'entry-after': '0x4028', level: 1, value: '0x5067' },
          { exception: '#PF', error: '0x0', cr2: '0x5000' },
        ],
      },
    ];
    const step = { rows: [TRANSLATED] };
    const { result, machines } = compareScripts(lines, [[step], [step]], {}, (machine, side) => {
      machine.memory.set(0x4028, side === 0 ? 0x5067 : 0x5027);
    });
    expect(result.differences.map(({ cause }) => cause)).toEqual([
      'after the step the entry at 0x4028 is 0x5067 on old, 0x5027 on new',
    ]);
    expect(result.receipt.entries).toBe(1);
    const state0 = machines[0]!.told.filter((what) => !what.startsWith('register'));
    const state1 = machines[1]!.told.filter((what) => !what.startsWith('register'));
    expect([state0, state1]).toEqual([['take back'], [`entry ${0x4028} ${0x5067}`, 'take back']]);
    expect(machines[0]!.registers).toEqual(machines[1]!.registers);
    expect(machines[0]!.told.filter((what) => what.startsWith('register')).at(-1)).toMatch(/ 119$/);
  });

  test('one machine that cannot go on is a difference and the end; both are a bug', () => {
    const step = { rows: [TRANSLATED] };
    const broken = { throws: new Error('no such page') };
    const { result } = compareScripts(LINES, [
      [step, step],
      [step, broken],
    ]);
    expect(result.differences.map(({ step: at, cause }) => [at, cause])).toEqual([
      [1, 'new cannot go on: no such page'],
    ]);
    expect(result.receipt.steps).toBe(2);
    expect(result.receipt.limits).toEqual(['stopped at step 1: what follows was not compared']);
    expect(() => compareScripts(LINES, [[broken], [broken]])).toThrow('no such page');
  });

  test('bail stops at the first difference; only so many are kept in full', () => {
    const [a, b] = [{ rows: [TRANSLATED] }, { rows: [] }];
    const scripts = [
      [a, a, a],
      [a, b, b],
    ] as const;
    expect(compareScripts(LINES, scripts, { bail: true }).result.receipt).toMatchObject({ steps: 2, changed: 1 });
    const { differences, receipt } = compareScripts(LINES, scripts, { maxDiffs: 1 }).result;
    expect([differences.length, receipt.changed]).toEqual([1, 2]);
  });

  test('what either side does not model is counted by name and not compared', () => {
    const lass: FakeRow = [Obs.NOT_MODELLED | (1 << OBS_NOT_MODELLED_SHIFT), 0, 0];
    const scripts = [
      [{ rows: [TRANSLATED] }, { rows: [TRANSLATED] }],
      [{ rows: [lass] }, { rows: [TRANSLATED] }],
    ] as const;
    const { verdict, receipt } = compareScripts(LINES, scripts).result;
    expect([verdict, receipt.notModelled, receipt.changed]).toEqual(['not-modelled', { lass: 1 }, 0]);
    expect(compareScripts(LINES, scripts, { allowUnmodelled: ['lass'] }).result.verdict).toBe('unchanged');
  });

  test('a documented difference is counted apart and changes no verdict', () => {
    const documented = [
      {
        name: 'no-row',
        citation: 'here',
        sentence: 'the new one is silent',
        covers: ({ group }: { group: string }) => group === 'store: translated / nothing',
      },
    ];
    const a = { rows: [TRANSLATED] };
    const scripts = [
      [a, a],
      [a, {}],
    ] as const;
    const { verdict, receipt } = compareScripts(LINES, scripts, { documented }).result;
    expect([verdict, receipt.changed, receipt.documented]).toEqual([
      'unchanged',
      0,
      [{ name: 'no-row', citation: 'here', sentence: 'the new one is silent', count: 1 }],
    ]);
  });

  test('of a very long step the part about the first difference is kept', () => {
    const rows = Array.from({ length: 9000 }, (_, i) => setSpte(0x9000, i)).flat();
    const other = rows.map((row, i): FakeRow => (i === 14_000 ? [row[0], row[1], 0x801] : row));
    const [first] = compareScripts(LINES, [[{ rows }], [{ rows: other }]]).result.differences;
    expect(first!.a.length).toBeLessThanOrEqual(4096);
    expect(first!.cause).toMatch(/^set-spte differs in spte/);
    expect(first!.places[first!.at]!.a[0]!.addressLo).toBe(7000);
  });
});
