import { describe, expect, test } from 'vitest';
import { HEADER, importFile, importRecords, logFile, type Step, stepsOf, toldOf } from './logs.ts';

/** Observations of the step that a record becomes, which is the last one. */
async function expectedOf(record: string): Promise<unknown> {
  return (await stepsOf(record)).at(-1)!['expect'];
}

async function last(record: string): Promise<Step> {
  const { expect: _, ...step } = (await stepsOf(record)).at(-1)!;
  return step;
}

describe('W: a walk', () => {
  test('is an access that was walked for, with every token in its order, the result last', async () => {
    expect(await stepsOf('W wU 3- 401000 8 g2:1000:2067 g1:2008:3007 ^g1:2008:3067 =3000 zfff t6')).toEqual([
      { store: '0x1000', value: '0x2067', knowledge: true, provenance: 'inferred' },
      { store: '0x2008', value: '0x3007', knowledge: true, provenance: 'inferred' },
      {
        access: 'write',
        address: '0x401000',
        user: true,
        length: 8,
        walked: true,
        expect: [
          { element: '0x1000', value: '0x2067', level: 2 },
          { element: '0x2008', value: '0x3007', level: 1 },
          { 'entry-write': '0x2008', value: '0x3067', level: 1 },
          { translated: '0x3000', page: '4k', guestPhysical: '0x3000' },
        ],
      },
    ]);
  });

  test.each([
    ['rS 0-', { access: 'read' }],
    ['xU 3-', { access: 'fetch', user: true }],
    ['mS 0a', { access: 'rmw', ac: true }],
    ['rS 3-', { access: 'read', cpl: 3 }],
    ['WS 1-', { access: 'write', cpl: 1, shadowStack: true }],
    ['RU 3a', { access: 'read', user: true, ac: true, shadowStack: true }],
  ])('%s: who accesses how', async (access, step) => {
    expect(await last(`W ${access} 5000 0 !PF 0 5000 @0`)).toEqual({ ...step, address: '0x5000', walked: true });
  });

  test('entries of every table, of four bytes, of PAE in memory, PDPTE registers', async () => {
    expect(
      await expectedOf(
        'W rS 0- 5000 0 g5:1:2 e4:10:20 n3:100:200 s1:8:9 g2d:1000:2067 P3:5001 p1:a008:b001 N2:c010:d001 !PF 0 5000 @0',
      ),
    ).toEqual([
      { element: '0x1', value: '0x2', level: 5 },
      { element: '0x10', value: '0x20', tables: 'ept', level: 4 },
      { element: '0x100', value: '0x200', tables: 'npt', level: 3 },
      { element: '0x8', value: '0x9', tables: 'spp', level: 1 },
      { element: '0x1000', value: '0x2067', level: 2, fourBytes: true },
      { pdpte: 3, value: '0x5001' },
      { element: '0xa008', value: '0xb001', level: 3 },
      { element: '0xc010', value: '0xd001', tables: 'npt', level: 3 },
      { exception: '#PF', cr2: '0x5000' },
    ]);
  });

  test('second-stage translations with what they were asked for', async () => {
    const walks = '>erp:1000 >ewfuw:2000 >exfnx:3000 >ewps:4000 >nmp:5000 >nrf:6000';
    expect(await expectedOf(`W rS 0- 5000 0 ${walks} !PF 0 5000 @0`)).toEqual(
      [
        { 'nested-walk': '0x1000', ofTable: true, tables: 'ept' },
        { 'nested-walk': '0x2000', access: 'write', user: true, writable: true, tables: 'ept' },
        { 'nested-walk': '0x3000', access: 'fetch', noLinear: true, nx: true, tables: 'ept' },
        { 'nested-walk': '0x4000', access: 'write', ofTable: true, shadowStack: true, tables: 'ept' },
        { 'nested-walk': '0x5000', access: 'rmw', ofTable: true, tables: 'npt' },
        { 'nested-walk': '0x6000', tables: 'npt' },
        { exception: '#PF', cr2: '0x5000' },
      ].map((row) => expect.objectContaining(row)),
    );
  });

  test.each([
    ['=5008 zfff t0', [{ translated: '0x5008', page: '4k', guestPhysical: '0x5008' }]],
    ['=105008/5008 z1fffff t6', [{ translated: '0x105008', page: '2m', guestPhysical: '0x5008' }]],
    ['=5008 z3fffff t0', [{ translated: '0x5008', page: '4m', guestPhysical: '0x5008' }]],
    ['=fffffff000 z3fffffff t0', [{ translated: '0xfffffff000', page: '1g', guestPhysical: '0xfffffff000' }]],
    ['!PF 1f ffff800000005008 @401000', [{ exception: '#PF', error: '0x1f', cr2: '0xffff800000005008' }]],
    ['!EV 181 5008 7008 @401000', [{ 'ept-violation': '0x5008', qualification: '0x181' }, { 'exit-linear': '0x7008' }]],
    ['!EV 1 5008 - @401000', [{ 'ept-violation': '0x5008', qualification: '0x1' }]],
    ['!EM 0 5008 7008 @401000', [{ 'ept-misconfig': '0x5008' }, { 'exit-linear': '0x7008' }]],
    ['!EM 0 5008 - @401000', [{ 'ept-misconfig': '0x5008' }]],
    ['!NPF 100000006 5008 @401000', [{ npf: '0x5008', exitInfo1: '0x100000006' }]],
  ])('%s is a result', async (result, rows) => {
    expect(await expectedOf(`W rS 0- 5008 8 ${result}`)).toEqual(rows);
  });

  test('an entry is stated once, and again where it changed without notice', async () => {
    const stores = async (...records: string[]): Promise<unknown[]> =>
      (await stepsOf(...records))
        .filter((step) => 'store' in step)
        .map(({ store, value, size }) => [store, value, size ?? 8]);
    const walk = (tokens: string): string => `W rS 0- 5000 0 ${tokens} =5000 zfff t0`;
    expect(await stores(walk('g1:1000:5067'), walk('g1:1000:5067'))).toEqual([['0x1000', '0x5067', 8]]);
    expect(await stores(walk('g1:1000:5067'), walk('g1:1000:6067'))).toEqual([
      ['0x1000', '0x5067', 8],
      ['0x1000', '0x6067', 8],
    ]);
    // What a walk wrote itself is no news.
    expect(await stores(walk('g1:1000:5007 ^g1:1000:5027'), walk('g1:1000:5027'))).toEqual([['0x1000', '0x5007', 8]]);
    expect(await stores(walk('g1:1000:5007 ^g1:1000:5027'), walk('g1:1000:5007'))).toHaveLength(2);
    expect(await stores(walk('g1d:1004:5067'), walk('g1d:1000:6067'), walk('g1:1000:506700006067'))).toEqual([
      ['0x1004', '0x5067', 4],
      ['0x1000', '0x6067', 4],
    ]);
  });
});

describe('A: a data access', () => {
  test('expects its physical address', async () => {
    expect(await stepsOf('A w 3a 7008 4 =105008', 'A r 0- 7010 8 =105010')).toEqual([
      { access: 'write', address: '0x7008', user: true, ac: true, length: 4, physical: '0x105008' },
      { access: 'read', address: '0x7010', length: 8, physical: '0x105010' },
    ]);
  });
});

describe('X: a translation outside a linear walk', () => {
  test('is an access to the guest-physical address that its first token names', async () => {
    expect(await stepsOf('X w 0 - >ewfn:5008 e1:1000:105037 =105008 zfff t6')).toEqual([
      { store: '0x1000', value: '0x105037', knowledge: true, provenance: 'inferred' },
      {
        'gpa-access': 'write',
        address: '0x5008',
        expect: [
          { 'nested-walk': '0x5008', access: 'write', noLinear: true, tables: 'ept' },
          { element: '0x1000', value: '0x105037', tables: 'ept', level: 1 },
          { translated: '0x105008', page: '4k', guestPhysical: '0x105008' },
        ],
      },
    ]);
  });
});

describe('I: invalidations and register writes', () => {
  test.each([
    ['invlpg 7fff000', { invlpg: '0x7fff000' }],
    ['invlpga 7fff000 3', { invlpga: '0x7fff000', asid: '0x3' }],
    ['invpcid 1 5 0', { invpcid: '0x0', type: 1, pcid: '0x5' }],
    ['invpcid 0 5 7fff000', { invpcid: '0x7fff000', pcid: '0x5' }],
    ['invvpid 0 2 7fff000', { invvpid: '0x7fff000', vpid: '0x2' }],
    ['invvpid 3 2 0', { invvpid: '0x0', type: 3, vpid: '0x2' }],
    ['invept 1 109301e', { invept: '0x109301e', type: 1 }],
    ['vmfunc_eptp 109401e', { 'eptp-switch': '0x109401e' }],
    ['cr0 80010011', { 'register-write': 'cr0', value: '0x80010011' }],
    ['cr4 2020', { 'register-write': 'cr4', value: '0x2020' }],
    ['cr3 8000000000001001', { 'register-write': 'cr3', value: '0x8000000000001001' }],
    ['task 428000', { 'register-write': 'cr3', value: '0x428000', taskSwitch: true }],
  ])('%s', async (record, step) => {
    expect(await stepsOf(`I ${record}`)).toEqual([step]);
  });
});

describe('V: entries and exits', () => {
  test.each([
    ['entry', { 'nested-entry': 'vmx' }],
    ['vmrun 1 3', { 'nested-entry': 'svm', tlbControl: 3 }],
    ['exit 30 782 @40b7b7', { 'nested-exit': 'vmx', reason: '0x30', qualification: '0x782' }],
    ['svmexit 400 100000006 5008 @40b7b7', { 'nested-exit': 'svm', reason: '0x400', qualification: '0x100000006' }],
  ])('%s', async (record, step) => {
    expect(await stepsOf(`V ${record}`)).toEqual([step]);
  });
});

describe('P: loading the PDPTE registers', () => {
  test('reads four entries, and loads or refuses', async () => {
    const [store, , , , load] = await stepsOf('P 1020 p0:1020:2001 p1:1028:0 p2:1030:3001 p3:1038:0 =ok');
    expect(store).toEqual({ store: '0x1020', value: '0x2001', knowledge: true, provenance: 'inferred' });
    expect(load).toEqual({
      'pdpte-load': '0x1020',
      expect: [
        { element: '0x1020', value: '0x2001', level: 3 },
        { element: '0x1028', level: 3 },
        { element: '0x1030', value: '0x3001', level: 3 },
        { element: '0x1038', level: 3 },
        { 'pdpte-loaded': true },
      ],
    });
    expect(await expectedOf('P 1020 p0:1020:2003 =bad')).toEqual([
      { element: '0x1020', value: '0x2003', level: 3 },
      { 'pdpte-loaded': false },
    ]);
  });
});

describe('S: state', () => {
  test('is a step for each field, when the next record comes', async () => {
    expect(
      await stepsOf('S * cr0=e0000011 cr3=428000 mode=0 hefer=1d00', 'S cr3=429000', 'A r 0- 1000 1 =1000'),
    ).toEqual([
      { 'register-set': 'cr0', value: '0xe0000011' },
      { 'register-set': 'cr3', value: '0x429000' },
      { 'register-set': 'guest_mode' },
      { 'register-set': 'host_efer', value: '0x1d00' },
      { access: 'read', address: '0x1000', length: 1, physical: '0x1000' },
    ]);
  });

  test('at the end of the log is not lost', async () => {
    expect(await stepsOf('S cr3=1000')).toEqual([{ 'register-set': 'cr3', value: '0x1000' }]);
  });

  test('of every field there is', async () => {
    const names =
      'cr0 cr3 cr4 efer pkru pkrs pat pdp0 pdp1 pdp2 pdp3 mode eptp vpid c2 np ncr3 asid hcr0 hcr4 hefer smm';
    const steps = await stepsOf(
      `S * ${names
        .split(' ')
        .map((name, i) => `${name}=${(i + 1).toString(16)}`)
        .join(' ')}`,
    );
    expect(steps.map((step) => [step['register-set'], Number(step['value'])])).toEqual(
      [
        'cr0 cr3 cr4 efer pkru pkrs pat pdpte0 pdpte1 pdpte2 pdpte3',
        'guest_mode eptp vpid secondary_controls nested_control ncr3 asid host_cr0 host_cr4 host_efer smm',
      ]
        .join(' ')
        .split(' ')
        .map((name, i) => [name, i + 1]),
    );
  });
});

describe('left out on purpose', () => {
  test('flushes, exceptions other than #PF and totals: counted in the header', async () => {
    const { header, steps } = await importRecords('F a', 'F p 5000', 'E 6 0 @406844', 'F n', 'Z rec=151 W=141');
    expect(steps).toEqual([]);
    expect(header.omissions).toEqual([
      { what: 'F records: what the emulator flushed, more than the architecture asks for', count: 3 },
      { what: 'E records: exceptions other than #PF', count: 1 },
      { what: 'Z records: totals', count: 1 },
    ]);
    expect((await importRecords('A r 0- 0 1 =0')).header.omissions).toEqual([]);
  });
});

describe('provenance', () => {
  test('each step has the line of its record', async () => {
    const { steps } = await importRecords(
      'S cr3=1000',
      'A r 0- 0 1 =0',
      'F a',
      'W rS 0- 5000 0 g1:1000:5067 =5000 zfff t0',
    );
    expect(steps.slice(1).map((step) => [Object.keys(step)[0], step['line']])).toEqual([
      ['access', 3],
      ['store', 5],
      ['access', 5],
    ]);
  });

  test('states and VM entries have the line of their own record, not of the one that completes them', async () => {
    const { steps } = await importRecords('S cr3=1000', 'F a', 'A r 0- 0 1 =0', 'V entry', 'S mode=1', 'A r 0- 0 1 =0');
    expect(steps.map((step) => [Object.keys(step)[0], step['line']])).toEqual([
      ['register-set', 2],
      ['access', 4],
      ['register-set', 6],
      ['nested-entry', 5],
      ['access', 7],
    ]);
  });
});

describe('chunks', () => {
  test('begin with the state that the steps before them leave', async () => {
    const accesses = Array.from(
      { length: 16_384 },
      (_, i) => `A r 0- ${(i * 16).toString(16)} 8 =${(i * 16).toString(16)}`,
    );
    const { chunks } = await importRecords('S cr3=1000 cr0=11', ...accesses, 'I cr3 2000', 'A r 0- 0 1 =0');
    expect(chunks.map(({ firstOrdinal, stepCount }) => [firstOrdinal, stepCount])).toEqual([
      [0, 16_384],
      [16_384, 4],
    ]);
    const registers = chunks.map((columns) => [columns.registers[0], columns.registers[2]]);
    expect(registers).toEqual([
      [0, 0],
      [0x11, 0x1000],
    ]);
  });
});

describe('what is no record', () => {
  test.each([
    ['', 'unknown record ""'],
    ['Q 1 2', 'unknown record "Q"'],
    ['toString', 'unknown record "toString"'],
    ['w rS 0- 5000 0 =5000 zfff t0', 'unknown record "w"'],
    [HEADER, 'unknown record "H"'],
    ['S cr9=0', 'unknown state "cr9=0"'],
    ['S constructor=0', 'unknown state "constructor=0"'],
    ['S cr0=xyz', 'unknown state "cr0=xyz"'],
    ['S cr0', 'unknown state "cr0"'],
    ['W', 'the record has no result'],
    ['W rS 0- 5000 0 g1:1000:5067', 'the record has no result'],
    ['W rS 0- 5000 zz !PF 0 0', 'length "zz" is not a hexadecimal number'],
    ['W rS 0- 5g 0 !PF 0 0', 'address "5g" is not a hexadecimal number'],
    ['W rS 0- 11112222333344445 0 !PF 0 0', 'address "11112222333344445" is not a hexadecimal number'],
    ['W qS 0- 5000 0 !PF 0 0', 'unknown access "q"'],
    ['W rQ 0- 5000 0 !PF 0 0', 'unknown access "rQ"'],
    ['W rS 4- 5000 0 !PF 0 0', 'unknown mode "4-"'],
    ['W rS 0x 5000 0 !PF 0 0', 'unknown mode "0x"'],
    ['W rS - 5000 0 !PF 0 0', 'unknown mode "-"'],
    ['W rS 0- 5000 0 g0:1:2 !PF 0 0', '"g0" is no label of an entry'],
    ['W rS 0- 5000 0 g6:1:2 !PF 0 0', '"g6" is no label of an entry'],
    ['W rS 0- 5000 0 h1:1:2 !PF 0 0', '"h1" is no label of an entry'],
    ['W rS 0- 5000 0 g1x:1:2 !PF 0 0', '"g1x" is no label of an entry'],
    ['W rS 0- 5000 0 g1dd:1:2 !PF 0 0', '"g1dd" is no label of an entry'],
    ['W rS 0- 5000 0 p4:1:2 !PF 0 0', '"p4" is no label of an entry'],
    ['W rS 0- 5000 0 Nx:1:2 !PF 0 0', '"Nx" is no label of an entry'],
    ['W rS 0- 5000 0 P4:1 !PF 0 0', '"P4" is no label of an entry'],
    ['W rS 0- 5000 0 Px:1 !PF 0 0', '"Px" is no label of an entry'],
    ['W rS 0- 5000 0 g1:1 !PF 0 0', 'value "" is not a hexadecimal number'],
    ['W rS 0- 5000 0 g1 !PF 0 0', 'address "" is not a hexadecimal number'],
    ['W rS 0- 5000 0 >qrf:1 !PF 0 0', '">qrf:1" is no second-stage translation'],
    ['W rS 0- 5000 0 >erq:1 !PF 0 0', '">erq:1" is no second-stage translation'],
    ['W rS 0- 5000 0 >erfz:1 !PF 0 0', '">erfz:1" has an unknown flag "z"'],
    ['W rS 0- 5000 0 !XX 0 0', '"!XX" is no result'],
    ['W rS 0- 5000 0 !PF 0', 'CR2 "" is not a hexadecimal number'],
    ['W rS 0- 5000 0 !EV 1 5008', 'linear address "" is not a hexadecimal number'],
    ['W rS 0- 5000 0 =5000', 'the translation has no page size'],
    ['W rS 0- 5000 0 = zfff t0', 'physical address "" is not a hexadecimal number'],
    ['A r 0- 5000 8 5000', '"5000" is no physical address'],
    ['A q 0- 5000 8 =5000', 'unknown access "q"'],
    ['A constructor 0- 5000 8 =5000', 'unknown access "constructor"'],
    ['X r 0 - =5000 zfff t0', 'the record names no guest-physical address'],
    ['X q 0 - >erf:1000 =5000 zfff t0', 'unknown access "q"'],
    ['X constructor 0 - >erf:1000 =5000 zfff t0', 'unknown access "constructor"'],
    ['P 1000 p0:1000:2001', '"p0:1000:2001" is no outcome of loading PDPTEs'],
    ['P 1000 p0:1000:2001 =maybe', '"=maybe" is no outcome of loading PDPTEs'],
    ['P xx =ok', 'CR3 "xx" is not a hexadecimal number'],
    ['I invlpgb 5000', 'unknown invalidation "invlpgb"'],
    ['I invlpg', 'address "" is not a hexadecimal number'],
    ['I cr3', 'value "" is not a hexadecimal number'],
    ['V resume', 'unknown transition "resume"'],
    ['V vmrun 1', 'TLB_CONTROL "" is not a hexadecimal number'],
  ])('%s', async (record, message) => {
    const told = await toldOf(importFile(logFile([HEADER, 'A r 0- 0 1 =0', record, 'A r 0- 0 1 =0'].join('\n'))));
    if (message === 'physical address "" is not a hexadecimal number')
      expect(told).toMatch(/^E_IMPORT LOG, line 3: (physical )?address "" is not/);
    else expect(told).toBe(`E_IMPORT LOG, line 3: ${message}`);
  });
});
