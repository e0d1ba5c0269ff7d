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

describe('the check that failed', () => {
  /** Why the replay faults where the recording has a translation. */
  const reason = (registers: Line, stores: Line[], step: Line): string => {
    const { recorded, replayed, cause } = divergenceOf([
      header({ observable: WALKS }),
      state(registers),
      ...TABLES,
      ...stores,
      { ...step, expect: [...readsOf(stores), TO_PAGE_5] },
    ]);
    expect([recorded.length, replayed.length]).toEqual([5, 5]);
    const inside = /^the replay ends here \((.*)\), the recording has a translation to 0x5008$/.exec(cause);
    return inside?.[1] ?? cause;
  };
  const readsOf = (stores: Line[]): Line[] =>
    READS.map((read) => ({
      ...read,
      value: stores.findLast((each) => each['store'] === read['element'])?.['value'] ?? read['value'],
    }));
  const read = access('read', '0x5008');
  const write = access('write', '0x5008');
  const fetch = access('fetch', '0x5008');
  const user = { user: true };

  test('not present: the entry', () => {
    expect(reason({}, [store('0x4028', '0x5066')], read)).toBe('#PF: the guest PTE at 0x4028 is not present');
  });

  test('a reserved bit: the entry', () => {
    expect(reason({}, [store('0x4028', '0x10000005067')], read)).toBe(
      '#PF: the guest PTE at 0x4028 has a reserved bit set',
    );
  });

  test('write protection: the level whose R/W is clear, and CR0.WP for a supervisor', () => {
    expect(reason({}, [store('0x3000', '0x4065')], { ...write, ...user })).toBe(
      '#PF: the guest PDE at 0x3000 has R/W clear for a write',
    );
    expect(reason({}, [store('0x2000', '0x3065')], write)).toBe(
      '#PF: the guest PDPTE at 0x2000 has R/W clear for a write with CR0.WP set',
    );
  });

  test('a supervisor page: the level whose U/S is clear', () => {
    expect(reason({}, [store('0x1000', '0x2063')], { ...read, ...user })).toBe(
      '#PF: the guest PML4E at 0x1000 has U/S clear for a user access',
    );
  });

  test('NX: the level that has it', () => {
    expect(reason({}, [store('0x2000', '0x8000000000003067')], fetch)).toBe(
      '#PF: the guest PDPTE at 0x2000 has NX set for a fetch',
    );
  });

  test('SMEP and SMAP', () => {
    expect(reason({ cr4: '0x100020' }, [], fetch)).toBe('#PF: CR4.SMEP forbids a supervisor fetch from a user page');
    expect(reason({ cr4: '0x200020' }, [], read)).toBe('#PF: CR4.SMAP forbids a supervisor access to a user page');
    expect(reason({ cr4: '0x200020' }, [], write)).toBe('#PF: CR4.SMAP forbids a supervisor access to a user page');
  });

  test('SMAP and write protection: the one that applies', () => {
    expect(reason({ cr4: '0x200020' }, [store('0x4028', '0x5065')], write)).toBe(
      '#PF: the guest PTE at 0x4028 has R/W clear for a write with CR0.WP set',
    );
    expect(reason({ cr4: '0x200020', cr0: '0x80000011' }, [store('0x4028', '0x5065')], write)).toBe(
      '#PF: CR4.SMAP forbids a supervisor access to a user page',
    );
  });

  test('a protection key', () => {
    expect(reason({ cr4: '0x400020', pkru: '0x4' }, [store('0x4028', '0x800000000005067')], read)).toBe(
      '#PF: the protection key of the guest PTE at 0x4028 denies the access',
    );
  });

  test('an address that is not canonical', () => {
    expect(causeOf(...SEEN, lands('read', '0x800000000000', '0x5000'))).toBe(
      'the replay ends here (the linear address is not canonical), the recording has a translation to 0x5000',
    );
  });

  describe('under PAE, whose PDPTEs have no rights', () => {
    const pae = (registers: Line, stores: Line[], step: Line): string =>
      causeOf(
        header({ independent: true }),
        { state: { cr0: '0x80010011', cr4: '0x20', efer: '0x800', pdpte0: '0x2001', ...registers } },
        ...[store('0x2000', '0x4067'), store('0x4028', '0x5067')],
        ...stores,
        { ...step, physical: '0x5008' },
      );
    const sentence = (reason: string): string =>
      `the replay ends here (#PF: ${reason}), the recording has a translation to 0x5008`;

    test('a register that is not present', () => {
      expect(pae({ pdpte0: '0x0' }, [], read)).toBe(sentence('the PDPTE0 register is not present'));
    });

    test('the entries that have them are named', () => {
      expect(pae({}, [store('0x4028', '0x5063')], { ...read, ...user })).toBe(
        sentence('the guest PTE at 0x4028 has U/S clear for a user access'),
      );
      expect(pae({}, [store('0x2000', '0x4065')], { ...write, ...user })).toBe(
        sentence('the guest PDE at 0x2000 has R/W clear for a write'),
      );
      expect(pae({}, [store('0x4028', '0x8000000000005067')], fetch)).toBe(
        sentence('the guest PTE at 0x4028 has NX set for a fetch'),
      );
    });

    test('SMEP and SMAP see a user page', () => {
      expect(pae({ cr4: '0x100020' }, [], fetch)).toBe(
        sentence('CR4.SMEP forbids a supervisor fetch from a user page'),
      );
      expect(pae({ cr4: '0x200020' }, [], write)).toBe(sentence('CR4.SMAP forbids a supervisor access to a user page'));
    });

    test('nor do those that are read from memory under NPT', () => {
      const npt = {
        ...{ guest_mode: '0x2', nested_control: '0x1', ncr3: '0x10000', asid: '0x1', cr3: '0x1000' },
        ...{ host_cr0: '0x80010011', host_cr4: '0x20', host_efer: '0x1d00', pdpte0: '0x0' },
      };
      const cause = causeOf(
        header({ independent: true, processor: { vendor: 'amd', maxphyaddr: 40, features: ['pae', 'nx'] } }),
        { state: { cr0: '0x80010011', cr4: '0x20', efer: '0x800', ...npt } },
        ...[store('0x10000', '0x11067'), store('0x11000', '0x12067'), store('0x12000', '0x13067')],
        ...[1, 2, 4, 5].map((frame) => store(`0x130${(8 * frame).toString(16).padStart(2, '0')}`, `0x${frame}067`)),
        ...[store('0x1000', '0x2001'), store('0x2000', '0x4067'), store('0x4028', '0x5063')],
        access('read', '0x5008', { ...user, physical: '0x5008' }),
      );
      expect(cause).toBe(sentence('the guest PTE at 0x4028 has U/S clear for a user access'));
    });
  });

  test('is named as well where the recorder saw outcomes only', () => {
    const blind = [header(), state(), ...TABLES.slice(0, 3), store('0x4028', '0x5063')];
    expect(causeOf(...blind, lands('read', '0x5008', '0x5008', user))).toBe(
      'the replay ends here (#PF: the guest PTE at 0x4028 has U/S clear for a user access), the recording has a translation to 0x5008',
    );
  });
});

describe('the second stage', () => {
  const EPT = { eptp: '0x1001e', guest_mode: '0x1', secondary_controls: '0x2' };
  const ENTRIES = [
    ...[store('0x10000', '0x11007'), store('0x11000', '0x12007'), store('0x12000', '0x13007')],
    ...[1, 2, 3, 4, 5].map((page) => store(`0x130${(8 * page).toString(16).padStart(2, '0')}`, `0x10${page}037`)),
    ...[store('0x101000', '0x2067'), store('0x102000', '0x3067'), store('0x103000', '0x4067')],
    store('0x104028', '0x5067'),
  ];
  /** A recorder of outcomes. Independent, so that no entry is stale. */
  const underEpt = (stores: Line[], step: Line): string =>
    causeOf(header({ independent: true }), state(EPT), ...ENTRIES, ...stores, step);
  const violated = (stores: Line[]): string => underEpt(stores, lands('write', '0x5008', '0x105008'));

  test('an EPT violation of the final page, or of a page-table page, names the entry', () => {
    expect(violated([store('0x13028', '0x105035')])).toBe(
      'the replay ends here (EPT violation: the final translation (write) of guest-physical 0x5008 ended at the EPT PTE at 0x13028), the recording has a translation to 0x105008',
    );
    expect(violated([store('0x13020', '0x0')])).toBe(
      'the replay ends here (EPT violation: the translation of a guest page-table page (write) of guest-physical 0x4028 ended at the EPT PTE at 0x13020), the recording has a translation to 0x105008'.replace(
        'page (write)',
        'page (read)',
      ),
    );
  });

  test('an EPT misconfiguration names the entry', () => {
    expect(violated([store('0x13028', '0x105032')])).toBe(
      'the replay ends here (EPT misconfiguration: the final translation (write) of guest-physical 0x5008 ended at the EPT PTE at 0x13028), the recording has a translation to 0x105008',
    );
  });

  test('another qualification: the bits', () => {
    const recorded = [{ 'ept-violation': '0x5008', qualification: '0x1ab' }, { 'exit-linear': '0x5008' }];
    expect(underEpt([store('0x13028', '0x105035')], access('write', '0x5008', { expect: recorded }))).toMatch(
      /^EPT violation 0x1ab was recorded, EPT violation 0x1aa replayed, bit 0 differs?; the replay says: EPT violation: .*EPT PTE at 0x13028$/,
    );
  });

  test('another guest-physical address, of a violation, of a misconfiguration, of the linear address', () => {
    const violation = [{ 'ept-violation': '0x5000', qualification: '0x1aa' }, { 'exit-linear': '0x5008' }];
    expect(underEpt([store('0x13028', '0x105035')], access('write', '0x5008', { expect: violation }))).toBe(
      'EPT violation 0x1aa names address 0x5000 in the recording, 0x5008 in the replay',
    );
    const misconfig = [{ 'ept-misconfig': '0x5000' }, { 'exit-linear': '0x5008' }];
    const cause = underEpt([store('0x13028', '0x105032')], access('write', '0x5008', { expect: misconfig }));
    expect([cause.includes('0x5000'), cause.includes('0x5008')]).toEqual([true, true]);
    const linear = [{ 'ept-misconfig': '0x5008' }, { 'exit-linear': '0x7008' }];
    const other = underEpt([store('0x13028', '0x105032')], access('write', '0x5008', { expect: linear }));
    expect([other.includes('0x7008'), other.includes('0x5008')]).toEqual([true, true]);
  });

  test('another translation asked for', () => {
    const walk = { 'nested-walk': '0x1000', tables: 'ept', access: 'read', ofTable: true };
    const first = (fields: Line): string =>
      causeOf(
        header({ observable: WALKS }),
        state(EPT),
        ...ENTRIES,
        access('read', '0x5008', { expect: [{ ...walk, ...fields }] }),
      );
    expect(first({ 'nested-walk': '0x9000' })).toMatch(
      /^the second-stage translation of guest-physical 0x9000 \(a page-table page\) for read was recorded, the second-stage translation of guest-physical 0x1000 \(a page-table page\) for read replayed/,
    );
    expect(first({ access: 'write', ofTable: false })).toMatch(
      /^the second-stage translation of guest-physical 0x1000 \(the final address\) for write was recorded/,
    );
  });

  test('a nested page fault names the entry and the address', () => {
    const svm = {
      guest_mode: '0x2',
      nested_control: '0x1',
      ncr3: '0x10000',
      asid: '0x1',
      host_cr0: '0x80010011',
      host_cr4: '0x20',
      host_efer: '0x1d00',
    };
    const nested = ENTRIES.map((each) => ({ ...each, value: String(each['value']).replace(/0[03]7$/, '067') }));
    const steps = (info: string): Line[] => [
      header({ processor: { vendor: 'amd', maxphyaddr: 40, features: ['pae', 'nx'] } }),
      state(svm),
      ...nested,
      store('0x13028', '0x105065'),
      access('write', '0x5008', { expect: [{ npf: '0x5008', exitInfo1: info }] }),
    ];
    expect(causeOf(...steps('0x200000007'))).toBe(
      'NPF 0x200000007 was recorded, NPF 0x100000007 replayed, bits 32, 33 differ; the replay says: nested page fault: the final translation (write) of guest-physical 0x5008 ended at the NPT PTE at 0x13028',
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
