import { describe, expect, test } from 'vitest';
import {
  access,
  countsOf,
  divergenceOf,
  header,
  type Line,
  lands,
  replay,
  state,
  store,
  TABLES,
} from './small-traces.ts';

const BEGIN = [header(), state(), ...TABLES];
const GOOD = lands('read', '0x5008', '0x5008');
const BAD = lands('read', '0x5008', '0x9008');

describe('the verdict', () => {
  test.each([
    ['match', [GOOD]],
    ['diverged', [GOOD, BAD]],
    ['not-modelled', [GOOD, { 'register-set': 'cr4', value: '0x8000020' }, GOOD, BAD]],
    ['nothing-compared', []],
    ['nothing-compared', [access('read', '0x5008')]],
  ] as [string, Line[]][])('%s', (verdict, steps) => {
    expect(replay([...BEGIN, ...steps]).verdict).toBe(verdict);
  });

  test('entries that were learned and nothing else are nothing compared', () => {
    const learned = store('0x1000', '0x0', { knowledge: true });
    const read = access('read', '0x5008', { expect: [{ element: '0x1000', level: 4, value: '0x2067' }] });
    const sees = header({ observable: ['element'] });
    const once = replay([sees, state(), { ...learned, value: '0x2067' }, { ...read }]);
    expect(once.divergences[0]?.group).toBe('supervisor read: recorded nothing, replayed element');
    const absent = { ...read, expect: [{ element: '0x1000', level: 4, value: '0x2066' }] };
    const only = replay([sees, state(), { ...learned, value: '0x2066' }, absent]);
    expect([only.verdict, countsOf(only)]).toEqual(['nothing-compared', { element: [1, 2, 1] }]);
  });
});

describe('divergences', () => {
  test('carry the step, its source and line, both sides, the walk and the registers', () => {
    const sources = [{ name: 'a.walklog' }, { name: 'b.walklog' }];
    const lines = [
      header({ sources }),
      { state: { ...(state()['state'] as Line) }, source: 1 },
      ...TABLES,
      { ...BAD, line: 77 },
    ];
    const d = divergenceOf(lines);
    expect([d.step, d.line, d.source, d.addressLo, d.firstDifference]).toEqual([4, 77, 'b.walklog', 0x5008, 0]);
    expect([d.recorded.length, d.replayed.length, d.walk.length]).toEqual([1, 1, 5]);
    expect([d.registers[0], d.registers[2], d.judgement]).toEqual([0x8001_0011, 0x1000, { kind: 'diverged' }]);
  });

  test('are kept up to a number, and all counted, in groups of the like', () => {
    const wild = lands('write', '0x7000', '0x7000');
    const absent = lands('read', '0x7000', '0x7000');
    const steps = [...BEGIN, absent, wild, absent, GOOD, wild, absent];
    for (const maxDiffs of [0, 1, 2]) {
      const { divergences, receipt } = replay(steps, { maxDiffs });
      expect([divergences.length, receipt.diverged]).toEqual([maxDiffs, 5]);
    }
    const { divergences, receipt } = replay(steps);
    expect(divergences.map(({ step }) => step)).toEqual([4, 5, 6, 8, 9]);
    expect(receipt.groups).toEqual([
      { group: 'supervisor read: recorded translated, replayed #PF 0x0', count: 3, first: 4, leads: 1 },
      { group: 'supervisor write: recorded translated, replayed #PF 0x2', count: 2, first: 5, leads: 1 },
    ]);
  });

  test('are ten if nothing is said', () => {
    const { divergences, receipt } = replay([...BEGIN, ...Array.from({ length: 12 }, () => BAD)]);
    expect([divergences.length, receipt.diverged]).toEqual([10, 12]);
  });

  test('the first one ends the replay with bail; without it does not', () => {
    const stopped = replay([...BEGIN, GOOD, BAD, GOOD, BAD], { bail: true });
    expect([stopped.receipt.steps, stopped.receipt.diverged, stopped.receipt.observationsPredicted]).toEqual([6, 1, 1]);
    const through = replay([...BEGIN, GOOD, BAD, GOOD, BAD]);
    expect([through.receipt.steps, through.receipt.diverged, through.receipt.observationsPredicted]).toEqual([8, 2, 2]);
  });
});

describe('the state that a chunk begins with', () => {
  const chunks = (registers: Line, ...steps: Line[]): Line[] => [...BEGIN, GOOD, state(registers), ...steps];

  test('is the machine’s own at the beginning, and asked for afterwards', () => {
    expect(replay(chunks({}, GOOD)).verdict).toBe('match');
    const d = divergenceOf(chunks({ cr4: '0x100020' }, GOOD));
    expect([d.step, d.group]).toEqual([5, 'chunk state']);
    expect(d.cause).toBe('at the start of a chunk after the step cr4 holds 0x20, recorded was 0x100020');
    expect([d.recorded[0]!.valueLo, d.replayed[0]!.valueLo]).toEqual([0x10_0020, 0x20]);
  });

  test('names every register that differs', () => {
    const d = divergenceOf(chunks({ cr3: '0x9000', pkru: '0x4' }));
    expect(d.recorded.map(({ valueLo }) => valueLo)).toEqual([0x9000, 4]);
    expect(d.replayed.map(({ valueLo }) => valueLo)).toEqual([0x1000, 0]);
  });

  test('is taken over: what follows is compared as the recording has it', () => {
    const smap = access('read', '0x5008', { expect: [{ exception: '#PF', error: '0x1', cr2: '0x5008' }] });
    const { receipt } = replay(chunks({ cr4: '0x200020' }, smap));
    expect([receipt.diverged, countsOf(replay(chunks({ cr4: '0x200020' }, smap)))]).toEqual([
      1,
      { translated: [1, 1, 0], exception: [1, 3, 0] },
    ]);
  });

  test('stops a replay with bail before the chunk is begun', () => {
    const { receipt } = replay(chunks({ cr4: '0x100020' }, BAD, BAD), { bail: true });
    expect([receipt.steps, receipt.diverged]).toEqual([5, 1]);
  });

  test('is not asked for outside --from and --to', () => {
    const wrong = chunks({ cr4: '0x100020' }, GOOD);
    expect(replay(wrong, { to: 5 }).verdict).toBe('match');
    expect(replay(wrong, { from: 6, to: 7 }).receipt.diverged).toBe(0);
    expect(replay(wrong, { from: 5 }).verdict).toBe('diverged');
  });
});

describe('the receipt', () => {
  test('says what was replayed, by whom recorded, under which policy', () => {
    const { receipt } = replay([
      header({ title: 'a title', recorder: 'a recorder', adPolicy: 'after-translation', independent: true }),
      state(),
      ...TABLES,
      GOOD,
    ]);
    expect(receipt).toMatchObject({
      file: 'trace.jsonl',
      title: 'a title',
      recorder: 'a recorder',
      machine: 'bare',
      policy: 'A/D after-translation, independent accesses',
      ending: 'complete',
      steps: 5,
      stepsByKind: { store: 4, access: 1 },
      skipped: {},
      notModelled: {},
      staleAllowed: 0,
      undetermined: 0,
      expected: {},
      diverged: 0,
      groups: [],
      brokenExpectations: [],
    });
    expect(receipt.digest).toMatch(/^[0-9a-f]{64}$/);
  });

  test('counts steps by kind, rare ones too', () => {
    const { receipt } = replay([...BEGIN, { note: 'one' }, { 'clear-page': '0x9000' }, { invlpg: '0x0' }, GOOD]);
    expect(receipt.stepsByKind).toEqual({ rare: 1, access: 1, store: 4, 'clear-page': 1, invalidate: 1 });
  });
});
