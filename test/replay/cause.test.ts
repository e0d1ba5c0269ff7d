import { describe, expect, test } from 'vitest';
import {
  access,
  divergenceOf,
  header,
  type Line,
  lands,
  READS,
  state,
  store,
  TABLES,
  TO_PAGE_5,
  WALKS,
} from './small-traces.ts';

const SEEN = [header({ observable: WALKS }), state(), ...TABLES];
const [PML4E, PDPTE, PDE, PTE] = READS as [Line, Line, Line, Line];

function causeOf(...steps: Line[]): string {
  return divergenceOf(steps).cause;
}

/** The cause where this was recorded of a read of 0x5008 through the usual tables. */
function causeOfRead(...expected: Line[]): string {
  return causeOf(...SEEN, access('read', '0x5008', { walked: true, expect: expected }));
}

describe('an entry', () => {
  test('that was read with another value is named with both, and the bits that differ', () => {
    expect(causeOfRead(PML4E, PDPTE, PDE, { ...PTE, value: '0x5065' }, TO_PAGE_5)).toMatch(
      /^the guest PTE at 0x4028 was read as 0x5065, memory holds 0x5067: bit 1 differs?$/,
    );
    expect(causeOfRead(PML4E, { ...PDPTE, value: '0x8000000000103067' })).toBe(
      'the guest PDPTE at 0x2000 was read as 0x8000000000103067, memory holds 0x3067: bits 20, 63 differ',
    );
  });

  test('that differs in many bits is named with the first eight', () => {
    expect(causeOfRead({ ...PML4E, value: '0xffffffffffffffff' })).toBe(
      'the guest PML4E at 0x1000 was read as 0xffffffffffffffff, memory holds 0x2067: bits 3, 4, 7, 8, 9, 10, 11, 12 … differ',
    );
  });

  test('of another address: the walks part below the one before, or below the root', () => {
    expect(causeOfRead(PML4E, PDPTE, { ...PDE, element: '0x3008' })).toBe(
      'the walks part below a read of the guest PDPTE at 0x2000: the recording reads the guest PDE at 0x3008, the replay the guest PDE at 0x3000',
    );
    expect(causeOfRead({ ...PML4E, element: '0x9000' })).toBe(
      'the walks part below the root: the recording reads the guest PML4E at 0x9000, the replay the guest PML4E at 0x1000',
    );
  });

  test('of another level or kind of table, at the same address with the same value', () => {
    const cause = causeOfRead(PML4E, { ...PDPTE, level: 2 });
    expect(cause).toContain('guest PDE at 0x2000');
    expect(cause).toContain('guest PDPTE at 0x2000');
    expect(cause).not.toContain('bits  differ');
  });

  test('that was written with another value, or elsewhere', () => {
    const written = (fields: Line): string =>
      causeOf(
        ...SEEN.slice(0, -1),
        store('0x4028', '0x5007'),
        access('write', '0x5008', {
          expect: [PML4E, PDPTE, PDE, { ...PTE, value: '0x5007' }, { 'entry-write': '0x4028', level: 1, ...fields }],
        }),
      );
    expect(written({ value: '0x5027' })).toMatch(
      /^the guest PTE at 0x4028 ends as 0x5027 in the recording, as 0x5067 in the replay: bit 6 differs?$/,
    );
    expect(written({ 'entry-write': '0x3000', level: 2, value: '0x4067' })).toBe(
      'the recording writes the guest PDE at 0x3000, the replay the guest PTE at 0x4028',
    );
  });

  test('that was left with another value', () => {
    const left = { 'entry-after': '0x4028', level: 1, value: '0x5077' };
    expect(causeOf(header(), state(), ...TABLES, access('read', '0x5008', { expect: [TO_PAGE_5, left] }))).toMatch(
      /^the guest PTE at 0x4028 ends as 0x5077 in the recording, as 0x5067 in the replay: bit 4 differs?$/,
    );
  });
});

describe('PDPTE registers', () => {
  const PAE = [
    header({ observable: WALKS }),
    { state: { cr0: '0x80010011', cr4: '0x20', pdpte0: '0x2001', pdpte1: '0x3001' } },
  ];

  test('are called so, with their number', () => {
    const cause = causeOf(...PAE, access('read', '0x40000000', { expect: [{ pdpte: 1, value: '0x3005' }] }));
    expect(cause).toContain('0x3005');
    expect(cause).toContain('0x3001');
    expect(cause).toContain('PDPTE1');
  });

  test('another one than the one recorded', () => {
    const cause = causeOf(...PAE, access('read', '0x40000000', { expect: [{ pdpte: 0, value: '0x2001' }] }));
    expect(cause).toContain('PDPTE0');
    expect(cause).toContain('PDPTE1');
  });

  test('loaded or refused', () => {
    const cause = causeOf(header(), state(), store('0x1020', '0x2003'), {
      'pdpte-load': '0x1020',
      expect: [{ 'pdpte-loaded': true }],
    });
    expect(cause).toMatch(/loaded.*refused/);
  });
});

describe('one goes on where the other ends', () => {
  test('the replay', () => {
    expect(causeOfRead(PML4E, PDPTE)).toBe(
      'the replay goes on with a read of the guest PDE at 0x3000 where the recording ends',
    );
  });

  test('the recording', () => {
    const linear = { 'exit-linear': '0x5008' };
    expect(causeOfRead(...READS, TO_PAGE_5, linear)).toBe(
      'the recording goes on with exit-linear where the replay ends',
    );
    expect(causeOf(header(), state(), ...TABLES, access('read', '0x5008', { expect: [TO_PAGE_5, linear] }))).toBe(
      'the recording goes on with exit-linear where the replay ends',
    );
  });

  test('the replay has an outcome where the recording still reads', () => {
    expect(
      causeOf(
        ...SEEN,
        store('0x3000', '0x4066'),
        access('read', '0x5008', { expect: [PML4E, PDPTE, { ...PDE, value: '0x4066' }, PTE, TO_PAGE_5] }),
      ),
    ).toBe(
      'the replay ends here (#PF: the guest PDE at 0x3000 is not present), the recording has a read of the guest PTE at 0x4028',
    );
  });

  test('the recording has an outcome where the replay still reads', () => {
    const fault = { exception: '#PF', error: '0x0', cr2: '0x5008' };
    expect(causeOfRead(PML4E, PDPTE, PDE, fault)).toBe(
      'the recording ends here (#PF: the guest PDE at 0x3000 is not present), the replay goes on with a read of the guest PTE at 0x4028',
    );
  });

  test('a read where the other writes', () => {
    const write = { 'entry-write': '0x3000', level: 2, value: '0x4067' };
    expect(causeOfRead(PML4E, PDPTE, PDE, write)).toBe(
      'the recording has a write of 0x4067 to the guest PDE at 0x3000, the replay a read of the guest PTE at 0x4028',
    );
  });
});

describe('outcomes of one kind', () => {
  const absent = access('read', '0x6008', { expect: [] as Line[] });
  const faulted = (fields: Line): string =>
    causeOf(header(), state(), ...TABLES, {
      ...absent,
      expect: [{ exception: '#PF', error: '0x0', cr2: '0x6008', ...fields }],
    });

  test('another error code, with the bits and what the replay says', () => {
    expect(faulted({ error: '0x5' })).toBe(
      '#PF 0x5 was recorded, #PF 0x0 replayed, bits 0, 2 differ; the replay says: #PF: the guest PTE at 0x4030 is not present',
    );
  });

  test('another CR2', () => {
    expect(faulted({ cr2: '0x6000' })).toBe('#PF 0x0 names address 0x6000 in the recording, 0x6008 in the replay');
  });

  test('another exception', () => {
    const cause = causeOf(header(), state(), ...TABLES, { ...absent, expect: [{ exception: '#GP' }] });
    expect(cause).toContain('#PF 0x0');
    expect(cause).toMatch(/#GP|exception 13/);
    expect(cause).not.toContain('names address');
  });

  test('another address of a translation, or another page size', () => {
    expect(causeOf(header(), state(), ...TABLES, lands('read', '0x5008', '0x6008'))).toBe(
      'the recording translates to 0x6008, the replay to 0x5008',
    );
    expect(causeOfRead(...READS, { ...TO_PAGE_5, page: '2m' })).toBe(
      'the recording translates to 0x5008, the replay to 0x5008 with another page size or guest-physical address',
    );
  });

  test('a register after the step', () => {
    const write = (expected: Line): Line[] => [
      header(),
      state(),
      { 'register-write': 'cr3', value: '0x9000', expect: [expected] },
    ];
    expect(causeOf(...write({ register: 'cr3', value: '0x8000' }))).toBe(
      'after the step cr3 holds 0x9000, recorded was 0x8000',
    );
    expect(causeOf(...write({ register: 'pdpte0', value: '0x8001' }))).toBe(
      'after the step pdpte0 holds 0x0, recorded was 0x8001',
    );
  });
});

describe('groups of the like', () => {
  const groupOf = (step: Line): string => divergenceOf([header({ observable: WALKS }), state(), ...TABLES, step]).group;

  test('say who accessed how and what differs, without addresses', () => {
    const other = (index: number, fields: Line): Line[] =>
      READS.map((each, i) => (i === index ? { ...each, ...fields } : each));
    expect(groupOf(access('read', '0x5008', { expect: other(3, { value: '0x5065' }) }))).toBe(
      'supervisor read: recorded element, replayed element (bit 1)',
    );
    expect(groupOf(access('fetch', '0x5008', { user: true, expect: other(1, { element: '0x2008' }) }))).toBe(
      'user fetch: recorded element, replayed element (address)',
    );
    expect(groupOf(access('rmw', '0x5008', { software: true, expect: other(1, { level: 2 }) }))).toBe(
      'software supervisor rmw: recorded element, replayed element (attributes)',
    );
  });

  test('name the address where only that was recorded', () => {
    expect(groupOf(lands('read', '0x5008', '0x6008'))).toBe(
      'supervisor read: recorded translated, replayed translated (address)',
    );
  });

  test('of steps that are no accesses begin with the step', () => {
    expect(groupOf({ 'register-write': 'cr3', value: '0x9000', expect: [{ register: 'cr3', value: '0x8000' }] })).toBe(
      'register-write: recorded register cr3, replayed register cr3 (bit 12)',
    );
  });

  test('are equal for equal shapes at other addresses, and not for others', () => {
    const at = (address: string, error: string): string =>
      groupOf(access('read', address, { expect: [...READS.slice(0, 3), { exception: '#PF', error, cr2: address }] }));
    expect(at('0x5008', '0x1')).toBe(at('0x5010', '0x1'));
    expect(at('0x5008', '0x1')).not.toBe(at('0x5008', '0x3'));
  });
});
