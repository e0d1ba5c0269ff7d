import { describe, expect, test } from 'vitest';
import {
  access,
  countsOf,
  divergenceOf,
  header,
  type Line,
  lands,
  READS,
  replay,
  state,
  store,
  TABLES,
  TO_PAGE_5,
  WALKS,
} from './small-traces.ts';

const OUTCOME_TRACE = [header(), state(), ...TABLES];
const WALK_TRACE = [header({ observable: WALKS }), state(), ...TABLES];

const knowledge: Line = { knowledge: true, provenance: 'inferred' };

describe('what the machine did is compared with what was recorded', () => {
  test('a walk that is the recorded one matches, row by row', () => {
    const result = replay([...WALK_TRACE, access('read', '0x5008', { expect: [...READS, TO_PAGE_5] })]);
    expect(result.verdict).toBe('match');
    expect(result.divergences).toEqual([]);
    expect(countsOf(result)).toEqual({ element: [4, 12, 0], translated: [1, 3, 0] });
    expect(result.receipt.observationsPredicted).toBe(5);
  });

  test('one that differs in a value, an address, a level or the number of rows does not', () => {
    const [pml4e, pdpte, pde, pte] = READS as [Line, Line, Line, Line];
    const wrong: Record<string, Line[]> = {
      value: [pml4e, { ...pdpte, value: '0x3047' }, pde, pte, TO_PAGE_5],
      address: [pml4e, { ...pdpte, element: '0x2008' }, pde, pte, TO_PAGE_5],
      level: [pml4e, { ...pdpte, level: 2 }, pde, pte, TO_PAGE_5],
      'one row less': [pml4e, pde, pte, TO_PAGE_5],
      'one row more': [pml4e, pdpte, pdpte, pde, pte, TO_PAGE_5],
    };
    for (const [what, expected] of Object.entries(wrong)) {
      const { step, firstDifference } = divergenceOf([...WALK_TRACE, access('read', '0x5008', { expect: expected })]);
      expect([what, step, firstDifference]).toEqual([what, 4, what === 'one row more' ? 2 : 1]);
    }
    const cut = divergenceOf([...WALK_TRACE, access('read', '0x5008', { expect: READS.slice() })]);
    expect(cut.firstDifference).toBe(4);
  });

  test('an access that expects an address only is compared in that one field', () => {
    const good = replay([...OUTCOME_TRACE, lands('write', '0x5010', '0x5010')]);
    expect([good.verdict, countsOf(good)]).toEqual(['match', { translated: [1, 1, 0] }]);
    const bad = divergenceOf([...OUTCOME_TRACE, lands('write', '0x5010', '0x6010')]);
    expect([bad.recorded[0]!.addressLo, bad.replayed[0]!.addressLo]).toEqual([0x6010, 0x5010]);
    expect(divergenceOf([...OUTCOME_TRACE, lands('write', '0x6010', '0x6010')]).group).toBe(
      'supervisor write: recorded translated, replayed #PF 0x2',
    );
  });

  test('a store is a stimulus like any other: what is recorded of its outcome is compared, too', () => {
    const stored = (value: string): Line =>
      store('0x4030', '0x6067', { expect: [{ 'entry-after': '0x4030', level: 1, value }] });
    expect(replay([...OUTCOME_TRACE, stored('0x6067')]).receipt.observationsPredicted).toBe(1);
    expect(replay([...OUTCOME_TRACE, stored('0x6065'), lands('read', '0x5008', '0x5008')]).verdict).toBe('diverged');
  });
});

describe('learned and predicted', () => {
  const known = TABLES.map((line) => ({ ...line, ...knowledge }));
  const walk = access('read', '0x5008', { walked: true, expect: [...READS, TO_PAGE_5] });

  test('an entry that was stated as knowledge is learned by the first walk, predicted by the next', () => {
    const once = replay([header({ observable: WALKS }), state(), ...known, walk]);
    expect(countsOf(once)).toEqual({ element: [4, 8, 4], translated: [1, 3, 0] });
    expect(once.receipt.observationsPredicted).toBe(1);
    const twice = replay([header({ observable: WALKS }), state(), ...known, walk, walk]);
    expect(countsOf(twice)).toEqual({ element: [8, 20, 4], translated: [2, 6, 0] });
    expect(twice.receipt.observationsPredicted).toBe(6);
  });

  test('an entry that the guest stored is predicted at once', () => {
    const result = replay([header({ observable: WALKS }), state(), ...known.slice(0, 3), TABLES[3]!, walk]);
    expect(countsOf(result)['element']).toEqual([4, 9, 3]);
  });

  test('of two entries in one 8-byte word, only the one that was stated is learned', () => {
    const result = replay([
      header({ observable: WALKS }),
      { state: { cr0: '0x80010011', cr3: '0x1000' } },
      store('0x1000', '0x2067', { size: 4, ...knowledge }),
      store('0x2010', '0x5067', { size: 4, ...knowledge }),
      store('0x2014', '0x6067', { size: 4 }),
      access('read', '0x5000', {
        expect: [
          { element: '0x1000', level: 2, fourBytes: true, value: '0x2067' },
          { element: '0x2014', level: 1, fourBytes: true, value: '0x6067' },
          { translated: '0x6000', page: '4k', guestPhysical: '0x6000' },
        ],
      }),
    ]);
    expect(result.verdict).toBe('match');
    expect(countsOf(result)['element']).toEqual([2, 5, 1]);
  });

  test('knowledge that only outcomes rest on is never counted as predicted elements', () => {
    const result = replay([header(), state(), ...known, lands('read', '0x5008', '0x5008')]);
    expect(countsOf(result)).toEqual({ translated: [1, 1, 0] });
  });
});

describe('kinds that the recorder cannot see', () => {
  test('are passed over', () => {
    const result = replay([...OUTCOME_TRACE, access('read', '0x5008', { expect: [TO_PAGE_5] })]);
    expect([result.verdict, countsOf(result)]).toEqual(['match', { translated: [1, 3, 0] }]);
  });

  test('are not, where it can see them and recorded none', () => {
    const blind = divergenceOf([...WALK_TRACE, access('read', '0x5008', { expect: [TO_PAGE_5] })]);
    expect(blind.group).toBe('supervisor read: recorded translated, replayed element');
  });

  test('an access that completed matches any translation, and no fault', () => {
    const sees = header({ observable: ['completed', 'exception'] });
    const good = replay([sees, state(), ...TABLES, access('read', '0x5008', { expect: [{ completed: true }] })]);
    expect([good.verdict, countsOf(good)]).toEqual(['match', { completed: [1, 1, 0] }]);
    const bad = divergenceOf([sees, state(), ...TABLES, access('read', '0x6008', { expect: [{ completed: true }] })]);
    expect(bad.group).toBe('supervisor read: recorded completed, replayed #PF 0x0');
    const faulted = [{ exception: '#PF', error: '0x0', cr2: '0x5008' }];
    const worse = divergenceOf([sees, state(), ...TABLES, access('read', '0x5008', { expect: faulted })]);
    expect(worse.group).toBe('supervisor read: recorded #PF 0x0, replayed translated');
  });
});

describe('questions about the state after a step', () => {
  test('a register is asked for, and what was recorded is taken over', () => {
    const write = (cr3: string): Line[] => [
      ...OUTCOME_TRACE,
      store('0x9000', '0x2067'),
      { 'register-write': 'cr3', value: '0x9000', expect: [{ register: 'cr3', value: cr3 }] },
      store('0x1000', '0x0'),
      access('read', '0x5008', {
        expect: [cr3 === '0x9000' ? TO_PAGE_5 : { exception: '#PF', error: '0x0', cr2: '0x5008' }],
      }),
    ];
    const good = replay(write('0x9000'));
    expect([good.verdict, countsOf(good)]).toEqual(['match', { translated: [1, 3, 0], register: [1, 1, 0] }]);
    const bad = divergenceOf(write('0x1000'));
    expect([bad.step, bad.recorded[0]!.valueLo, bad.replayed[0]!.valueLo]).toEqual([5, 0x1000, 0x9000]);
  });

  test('an entry is read again, with what the walk set in it; what was recorded is taken over', () => {
    const reads = (value: string): Line[] => [
      ...OUTCOME_TRACE.slice(0, -1),
      store('0x4028', '0x5007'),
      access('write', '0x5008', {
        walked: true,
        expect: [TO_PAGE_5, { 'entry-after': '0x4028', level: 1, value }],
      }),
      { invlpg: '0x5000', expect: [{ 'entry-after': '0x4028', level: 1, value }] },
    ];
    expect(countsOf(replay(reads('0x5067')))).toEqual({ translated: [1, 3, 0], 'entry-after': [2, 2, 0] });
    const bad = divergenceOf(reads('0x5027'));
    expect([bad.step, bad.replayed[1]!.valueLo]).toEqual([4, 0x5067]);
  });

  test('of an entry of four bytes only these count', () => {
    const result = replay([
      header(),
      { state: { cr0: '0x80010011', cr3: '0x1000' } },
      store('0x1000', '0x20672067'),
      {
        invlpg: '0x5000',
        expect: [{ 'entry-after': '0x1000', level: 2, fourBytes: true, value: '0x20672067' }],
      },
    ]);
    expect(result.verdict).toBe('match');
  });
});

describe('steps that take no part', () => {
  const two = [...OUTCOME_TRACE, lands('read', '0x5008', '0x5008'), access('read', '0x5008', { expect: [TO_PAGE_5] })];

  test('before --from and from --to on: applied, not compared, counted', () => {
    const early = replay(two, { from: 5 });
    expect(countsOf(early)).toEqual({ translated: [1, 3, 0] });
    const late = replay(two, { to: 5 });
    expect(countsOf(late)).toEqual({ translated: [1, 1, 0] });
    expect(late.receipt.skipped).toEqual({ 'outside --from and --to': 1 });
    expect(late.receipt.stepsByKind).toEqual({ store: 4, access: 2 });
  });

  test('an access that expects an address only is counted among them', () => {
    expect(replay(two, { from: 5 }).receipt.skipped).toEqual({ 'outside --from and --to': 1 });
    expect(replay(two, { filter: () => false }).receipt.skipped).toEqual({ 'left out by --filter': 2 });
  });

  test('a wrong step outside the range is no divergence, one inside is', () => {
    const wrong = [...OUTCOME_TRACE, lands('read', '0x5008', '0x9008'), lands('read', '0x5008', '0x5008')];
    expect(replay(wrong, { from: 5 }).verdict).toBe('match');
    expect(replay(wrong, { to: 5 }).verdict).toBe('diverged');
  });

  test('a filter is asked for each step and leaves out what it does not hold for', () => {
    const asked: number[] = [];
    const result = replay(two, {
      filter: (columns, index) => {
        asked.push(index);
        return columns.address[2 * index] === 0x5008 && columns.observationEnd[index] === 1;
      },
    });
    expect(asked).toEqual([4, 5]);
    expect(countsOf(result)).toEqual({ translated: [1, 3, 0] });
  });

  test('an access of which nothing was recorded is counted and predicts nothing', () => {
    const result = replay([...OUTCOME_TRACE, access('read', '0x5008'), access('read', '0x6008')]);
    expect(result.receipt.skipped).toEqual({ 'accesses of which no outcome was recorded': 2 });
    expect([result.verdict, result.receipt.observationsPredicted]).toEqual(['nothing-compared', 0]);
  });

  test('so is one to a guest-physical address', () => {
    const result = replay([...OUTCOME_TRACE, { 'gpa-access': 'read', address: '0x5000' }]);
    expect(result.receipt.skipped).toEqual({ 'accesses of which no outcome was recorded': 1 });
  });

  test('with one outcome recorded the others do not spoil the verdict', () => {
    const result = replay([...OUTCOME_TRACE, access('read', '0x6008'), lands('read', '0x5008', '0x5008')]);
    expect([result.verdict, result.receipt.observationsPredicted]).toEqual(['match', 1]);
  });
});

describe('what is not modelled', () => {
  const LASS = '0x8000020';
  const lass = (...steps: Line[]): Line[] => [header(), state({ cr4: LASS }), ...TABLES, ...steps];

  test.each([
    ['an outcome', access('read', '0x5008', { expect: [TO_PAGE_5] })],
    ['a physical address', lands('read', '0x5008', '0x5008')],
    ['nothing', access('read', '0x5008')],
    ['an entry only', access('read', '0x5008', { expect: [{ 'entry-after': '0x4028', level: 1, value: '0x5067' }] })],
  ])('is counted by name and decides the verdict, where %s was recorded', (_, step) => {
    const { verdict, receipt } = replay(lass(step));
    expect([verdict, receipt.notModelled, receipt.diverged]).toEqual(['not-modelled', { lass: 1 }, 0]);
  });

  test('it may be allowed by name; then the rest decides', () => {
    const steps = lass(
      lands('read', '0x5008', '0x5008'),
      { 'register-set': 'cr4', value: '0x20' },
      lands('read', '0x5008', '0x5008'),
    );
    expect(replay(steps, { allowUnmodelled: ['lass'] }).verdict).toBe('match');
    expect(replay(steps, { allowUnmodelled: ['lam'] }).verdict).toBe('not-modelled');
    expect(replay(lass(lands('read', '0x5008', '0x5008')), { allowUnmodelled: ['lass'] }).verdict).toBe(
      'nothing-compared',
    );
  });

  test('it weighs more than a divergence', () => {
    const steps = lass(
      lands('read', '0x5008', '0x5008'),
      { 'register-set': 'cr4', value: '0x20' },
      lands('read', '0x5008', '0x9008'),
    );
    expect(replay(steps).verdict).toBe('not-modelled');
    expect(replay(steps, { allowUnmodelled: ['lass'] }).verdict).toBe('diverged');
  });
});
