/** The check that ended a walk, by name: which entry of which level, which bit, which rule. */

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

function causeOf(...steps: Line[]): string {
  return divergenceOf(steps).cause;
}

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
