import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkTrace, type Finding } from '../../src/trace/check/trace.ts';
import {
  accesses,
  chunksArbitrary,
  convert,
  fileOf,
  freshPath,
  PLAIN_HEADER,
  registersOf,
  SEEDED,
  sampleBytes,
  writeTrace,
} from './samples.ts';

const ALL =
  '{"header":{"processor":{"maxphyaddr":40},"observable":["element","translated","exception","register","entry-after"]}}';

/** What is found in a trace of these steps. */
function found(...steps: object[]): string[] {
  return foundBehind(ALL, ...steps);
}

function foundBehind(header: string, ...steps: object[]): string[] {
  const path = freshPath();
  convert(fileOf([header, ...steps.map((step) => JSON.stringify(step))].join('\n')), path);
  return checkTrace(path).map(({ id, severity, place, sentence }) => `${severity} ${id} @${place.step}: ${sentence}`);
}

const ids = (findings: readonly Finding[]): string[] => [...new Set(findings.map(({ id }) => id))];

test('nothing is found in a trace that is sound', () => {
  const sound = [
    { access: 'read', address: '0x1234', length: 8, physical: '0x5234' },
    {
      access: 'write',
      address: '0xffff800000001ff8',
      length: 8,
      expect: [{ element: '0x1ff8', value: '0x1' }, { exception: '#PF' }],
    },
    { access: 'read', user: true, expect: [{ translated: '0xfff000', page: '4k' }] },
    { store: '0xffffffffff', value: '0xff', size: 1 },
    { 'clear-page': '0x1000' },
    { 'register-write': 'cr3', value: '0x1000', expect: [{ register: 'pdpte0' }] },
    { note: 'x' },
  ];
  expect(found(...sound)).toEqual([]);
  expect(checkTrace(writeTrace([accesses(70_000).take(registersOf(1))], { header: PLAIN_HEADER }).path)).toEqual([]);
});

test('only an access can fault, and only a recorder that sees it can say so', () => {
  const fault = { expect: [{ faulted: true }] };
  const usual = (...steps: object[]): string[] => foundBehind('{"header":{}}', ...steps);
  expect(usual({ access: 'read', ...fault }, { 'gpa-access': 'write', ...fault })).toEqual([]);
  expect(usual({ 'register-write': 'cr3', ...fault })).toEqual([
    "error observation.kind @0: 'faulted' cannot be observed of a step of this kind",
  ]);
  expect(found({ access: 'read', ...fault })).toEqual([
    "warning observation.not-observable @0: 'faulted' is expected, but by the header the recorder could not see it, so it is not compared",
  ]);
});

test('each broken invariant is found, with its step', () => {
  expect([
    ...found({ store: '0x1000', size: 3 }),
    ...found({ store: '0x1ffe', size: 4 }),
    ...found({ store: '0x1000', size: 4, value: '0x100000000' }),
    ...found({ store: '0x1000', size: 1, value: '0x100' }),
    ...found({ store: '0x10000000000', size: 8 }),
    ...found({ 'clear-page': '0x1008' }),
    ...found({ 'register-set': 28 }),
    ...found({ vcpu: 1, address: '0x1' }),
    ...found({ 'register-set': 'cr0', bits: '0x80000000' }),
    ...found({ access: 'read', address: '0x1ff9', length: 8 }),
    ...found({ access: 'read', user: true, cpl: 0 }),
    ...found({ access: 'read', address: '0x1234', physical: '0x5235' }),
    ...found({ access: 'read', expect: [{ translated: '0x1' }] }),
    ...found({ access: 'read', physical: '0x0', expect: [{ translated: '0x0' }] }),
    ...found({ access: 'read', expect: [{ translated: '0x0' }, { translated: '0x0' }] }),
    ...found({ access: 'read', expect: [{ npf: '0x0' }] }),
    ...found({ access: 'read', expect: [{ element: '0x1004' }] }),
    ...found({ access: 'read', expect: [{ element: '0x1004', fourBytes: true }] }),
    ...found({ access: 'read', expect: [{ element: '0x0', bits: '0x80000000' }] }),
    ...found({ access: 'read', expect: [{ element: '0x0', bits: '0x40000000' }] }),
    ...found({ access: 'read', expect: [{ register: 63 }] }),
    ...found({ store: '0x0' }, { store: '0x0', expect: [{ element: '0x0' }] }),
    ...found({ note: 'x', line: 2 }, { note: 'y', line: 1 }),
    ...found({ note: 'x', time: 2 }, { note: 'y', time: 1 }),
    ...found({ 'page-image': '0x10000000000' }),
    ...found({ state: {}, source: 1 }, { note: 'x' }),
    ...found(),
  ]).toMatchInlineSnapshot(`
    [
      "error store.size @0: a store has 3 bytes; it has 1, 2, 4 or 8",
      "error store.crosses-page @0: a store of 4 bytes leaves its page",
      "error store.value @0: the value does not fit in the store's 4 bytes",
      "error store.value @0: the value does not fit in the store's 1 bytes",
      "error address.beyond-maxphyaddr @0: a physical address has more than the processor's 40 bits",
      "error clear-page.alignment @0: 0x1008 is not 4 KiB aligned",
      "error step.register @0: there is no register 28",
      "error vcpu.address @0: a change of the vCPU has an address, which means nothing",
      "error step.bits @0: the step's word has bits that mean nothing: 0x80000000",
      "error access.crosses-page @0: 8 bytes at 0x1ff9 leave the page",
      "error access.user-cpl @0: a user-mode access is made at a privilege level other than 3",
      "error access.offset @0: the expected physical address has another page offset than the linear one",
      "error access.offset @0: the expected physical address has another page offset than the linear one",
      "error access.translated-twice @0: an access is expected to be translated more than once",
      "error access.translated-twice @0: an access is expected to be translated more than once",
      "warning observation.not-observable @0: 'npf' is expected, but by the header the recorder could not see it, so it is not compared",
      "error observation.alignment @0: an entry of 8 bytes at 0x1004 is not aligned",
      "error observation.learned @0: an observation is marked as learned, which only a machine does",
      "error observation.bits @0: an observation's word has bits that mean nothing: 0x40000000",
      "error observation.register @0: there is no register 63",
      "error observation.kind @1: 'element' cannot be observed of a step of this kind",
      "warning origin.line @1: the step comes from line 1, the one before from line 2",
      "warning origin.time @1: the step happened 1 ns before the one before it",
      "error address.beyond-maxphyaddr @undefined: a physical address has more than the processor's 40 bits",
      "error chunk.source @undefined: the chunk comes from source 1, which the header does not list",
      "warning file.no-steps @undefined: the trace has no steps",
    ]
  `);
});

test('of many alike, ten are listed and the others counted', () => {
  const steps = Array.from({ length: 500 }, () => ({ 'clear-page': '0x8' }));
  const path = freshPath();
  convert(fileOf([ALL, ...steps.map((step) => JSON.stringify(step))].join('\n')), path);
  const findings = checkTrace(path);
  expect(findings).toHaveLength(10);
  expect(findings.map(({ further }) => further)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 490]);
});

describe('the file’s own faults are findings', () => {
  test('a cut', () => {
    expect(ids(checkTrace(fileOf(sampleBytes().subarray(0, -8))))).toContain('E_CUT_SHORT');
  });

  test('damage, after what was found before it', () => {
    const bytes = sampleBytes();
    bytes[bytes.length - 200]! ^= 1;
    expect(ids(checkTrace(fileOf(bytes))).at(-1)).toBe('E_CORRUPT');
  });

  test('something that is no trace', () => {
    expect(checkTrace(fileOf('hello'))).toMatchObject([{ id: 'E_NOT_A_TRACE', severity: 'error' }]);
  });

  test('but a file that is not there is no finding', () => {
    expect(() => checkTrace('/nowhere.rwt')).toThrow('no such file');
  });
});

test('whatever a reader accepts can be checked', () => {
  fc.assert(
    fc.property(chunksArbitrary, (chunks) => {
      const { path } = writeTrace(chunks);
      expect(ids(checkTrace(path)).filter((id) => id.startsWith('E_'))).toEqual([]);
    }),
    SEEDED,
  );
});

test('checking reads the file and leaves it alone', () => {
  const path = fileOf(sampleBytes());
  checkTrace(path);
  expect(readFileSync(path).equals(sampleBytes())).toBe(true);
});
