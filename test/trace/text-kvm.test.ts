import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Problem, placeText } from '../../src/bits/problem.ts';
import { defaultKvmConfig } from '../../src/formats/kvm-config.ts';
import { KVM_EVENT_NAMES, KVM_EVENT_SHIFT, KVM_MORE_ROWS } from '../../src/formats/kvm-event.ts';
import { Obs } from '../../src/formats/observation.ts';
import { StepKind } from '../../src/formats/step.ts';
import { StepBuilder } from '../../src/trace/columns.ts';
import { KVM_FIELD_NAMES } from '../../src/trace/text/kvm-event.ts';
import { convert, fileOf, freshPath, KVM_HEADER, PLAIN_HEADER, readAll, registersOf, writeTrace } from './samples.ts';

function toText(path: string): string {
  const text = freshPath('.jsonl');
  convert(path, text);
  return readFileSync(text, 'utf8');
}

function toTrace(text: string): string {
  const path = freshPath();
  convert(fileOf(text, '.jsonl'), path);
  return path;
}

const lines = (...objects: object[]): string => `${objects.map((object) => JSON.stringify(object)).join('\n')}\n`;

/** What becomes of lines behind a header, brought into their usual form. */
function usual(...steps: object[]): unknown[] {
  const text = toText(toTrace(lines({ header: {} }, { state: {} }, ...steps)));
  const all = text.trimEnd().split('\n');
  return all.slice(2).map((line) => JSON.parse(line) as unknown);
}

/** What the observations of one step are told as, or the problem with them. */
function told(...expected: object[]): unknown {
  try {
    const [step] = usual({ 'vm-entry': true, expect: expected }) as { expect: unknown }[];
    return step!.expect;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return `${error.code} ${placeText({ ...error.place, file: 'FILE' })}: ${error.message}`;
  }
}

/** A step of every kind that a hypervisor's tracing adds, and an event of every kind. */
const EVERYTHING = [
  {
    header: {
      processor: {},
      hypervisor: { name: 'kvm', mmu: { profile: '7.3', vendor: 'intel', tdp: false, maxLevel: 1 } },
    },
  },
  { state: {} },
  { memslot: 'create', slot: 3, address: '0x0', size: '0x4000000', dirtyLog: true, userspace: '0x7fd390000000' },
  { memslot: 'flags', slot: 4, addressSpace: 1, address: '0x1000', size: '0x1000', readOnly: true, userspace: '0x0' },
  { 'dirty-log': 3 },
  { notifier: 'set-pte', start: '0x7fd390d0f000', end: '0x7fd390d10000' },
  { hypervisor: 'set-cpuid', provenance: 'inferred' },
  { 'host-pages': '0x200000', count: '0x200', residency: 'writable', level: 2 },
  { 'host-pages': '0x100000', count: '0x10' },
  {
    'fault-exit': '0x104de3',
    error: '0x184',
    duringEvent: true,
    expect: [
      { kvm: 'page-fault', fault_address: '0x104de3', error_code: '0x184' },
      { kvm: 'unmap-hva-range', start: '0x7fd390d0f000', end: '0x7fd390d10000' },
      { kvm: 'set-spte-hva', start: '0x7fd390d0f000', end: '0x7fd390d10000' },
      { kvm: 'age-hva', start: '0x1000', end: '0x2000' },
      { kvm: 'test-age-hva', start: '0x1000', end: '0x2000' },
      { kvm: 'spte-requested', gfn: '0x100', pfn: '0x29dc', level: 1 },
      { kvm: 'get-page', mmu_valid_gen: 200, gfn: '0x100', role: '0x80000311', root_count: 3, created: true },
      { kvm: 'unsync-page', gfn: '0x20b', role: '0x1', unsync: true },
      { kvm: 'sync-page', gfn: '0x20b', role: '0x1' },
      { kvm: 'prepare-zap-page', mmu_valid_gen: 1, role: '0x1' },
      { kvm: 'set-spte', gfn: '0x100', spte: '0x29dce67', rwx: 'rwxu', level: 1, sptep: '0xf3b4800' },
      { kvm: 'set-spte', gfn: '0x101', spte: '0x29dc805', rwx: 'r-x-', level: 2, sptep: '0xf3b4808' },
      { kvm: 'set-spte', gfn: '0x102', spte: '0x6000000028f6b77', rwx: 'rwx', level: 1, sptep: '0xf3b4810' },
      { kvm: 'tdp-spte-changed', as_id: 1, gfn: '0x100', level: 4, old_spte: '0x10353907' },
      {
        kvm: 'fast-page-fault',
        cr2_or_gpa: '0x20b868',
        error_code: '0x3',
        sptep: '0xffff8880103b8058',
        old_spte: '0x200000002976b75',
        new_spte: '0x200000002976b77',
        fixed: true,
      },
      { kvm: 'zap-all-fast', mmu_valid_gen: 1, mmu_used_pages: 43 },
      { kvm: 'split-huge-page', gfn: '0x4200', spte: '0x600000010400bf7', level: 2, errno: -12 },
      { kvm: 'none' },
    ],
  },
  {
    'fault-exit': '0xe0000018',
    misconfig: true,
    expect: [
      { kvm: 'check-mmio-spte', spte: '0xf80e0000046', kvm_gen: 8, spte_gen: 6 },
      { kvm: 'handle-mmio-page-fault', addr: '0xe0000018', gfn: '0xe0000', access: '0x7' },
      { kvm: 'mark-mmio-spte', sptep: '0xff1100000f39f000', gfn: '0xe0000', access: '0x7', gen: 8 },
    ],
  },
  {
    'software-walk': '0x40005040',
    access: '0x6',
    quiet: true,
    operandOfInstruction: true,
    implicit: true,
    ac: true,
    expect: [
      { kvm: 'pagetable-walk', addr: '0x40005040', pferr: '0x6' },
      { kvm: 'paging-element', pte: '0x305025', level: 1 },
      { kvm: 'set-accessed-bit', gpa: '0x609028' },
      { kvm: 'set-dirty-bit', gpa: '0x609028' },
      { kvm: 'walker-error', pferr: '0x7' },
      { kvm: 'inj-exception', exception: '#PF', has_error: true, error_code: '0x7', reinjected: true },
      { kvm: 'match-mmio', gva: '0x40005010', gpa: '0xe0000010', write: true, gpa_match: true },
      { kvm: 'mmio', type: 'unsatisfied-read', gpa: '0xe0000010' },
      { kvm: 'mmio', type: 'write', gpa: '0xe0000010' },
    ],
  },
  { store: '0x1000', value: '0x5', emulated: true },
  { 'vm-entry': true },
  { invlpga: '0x1000', asid: '0x2', expect: [{ kvm: 'invlpga', address: '0x1000', asid: 2 }] },
  {
    'nested-entry': 'svm',
    expect: [
      { kvm: 'nested-vmenter', tdp_enabled: true, guest_pgd: '0x8000' },
      { kvm: 'nested-intercepts', exceptions: '0x60042' },
    ],
  },
  { vcpu: 1 },
  {
    'nested-exit': 'vmx',
    reason: '0x30',
    qualification: '0x181',
    expect: [
      { kvm: 'nested-vmexit', exit_reason: 48, info1: '0x181', info2: '0x80000b0e' },
      {
        kvm: 'nested-vmexit-inject',
        exit_code: 48,
        exit_info1: '0x181',
        exit_int_info: '0x80000b0e',
        exit_int_info_err: '0x2',
      },
    ],
  },
];

describe("a hypervisor's steps and events", () => {
  test('are the same text after a way through the file', () => {
    const text = lines(...EVERYTHING);
    expect(toText(toTrace(text))).toBe(text);
  });

  test('every event is there', () => {
    const text = JSON.stringify(EVERYTHING);
    expect(KVM_EVENT_NAMES.filter((name) => !text.includes(`"kvm":"${name}"`))).toEqual([]);
  });

  test('are the rows that the formats describe', () => {
    const set = { kvm: 'set-spte', gfn: '0x100', spte: '0x29dce67', rwx: 'rwx', level: 1, sptep: '0xf3b4800' };
    const item = readAll(toTrace(lines({ header: {} }, { 'vm-entry': true, expect: [set] })))[1];
    const op = Obs.KVM_EVENT | (1 << 7) | (15 << KVM_EVENT_SHIFT) | (1 << 16) | (1 << 17) | (1 << 19);
    expect(item).toMatchObject({
      op: [StepKind.VM_ENTRY],
      end: [2],
      observationOp: [op, Obs.KVM_MORE],
      observationAddress: [0x100n, 0xf3b4800n],
      observationValue: [0x29dce67n, 0n],
    });
  });
});

describe('the configuration of the MMU', () => {
  test('survives file and text', () => {
    const { path } = writeTrace([new StepBuilder().take(registersOf(0))], { header: KVM_HEADER });
    expect(readAll(path)[0]).toMatchObject({ header: KVM_HEADER });
    expect(readFileSync(toTrace(toText(path))).equals(readFileSync(path))).toBe(true);
  });

  test('is the usual one where nothing is said', () => {
    const [item] = readAll(toTrace(lines({ header: { hypervisor: { mmu: {} } } }))) as { header: typeof KVM_HEADER }[];
    expect(item!.header.hypervisor!.mmu).toEqual(defaultKvmConfig());
    // These are what texts mean that say nothing: a change would change what old texts say.
    expect(defaultKvmConfig()).toEqual({
      profile: '6.1',
      vendor: 'amd',
      tdp: true,
      tdpMmu: true,
      tdpLevel: 4,
      hostMaxphyaddr: 40,
      eptAd: true,
      pml: false,
      maxLevel: 3,
      nxHugePages: false,
      mmioCaching: true,
      eagerPageSplit: true,
      l1tfBits: 0,
    });
  });

  test('is refused where it cannot be', () => {
    const said = (mmu: object): string => {
      try {
        toTrace(lines({ header: { hypervisor: { mmu } } }));
      } catch (error) {
        return error instanceof Problem ? error.message : String(error);
      }
      return 'accepted';
    };
    expect([
      said({ tdpLevel: 3 }),
      said({ hostMaxphyaddr: 31 }),
      said({ maxLevel: 0 }),
      said({ l1tfBits: 52 }),
      said({ profile: '6.2' }),
      said({ vendor: 'unknown' }),
      said({ mmioCache: true }),
    ]).toMatchInlineSnapshot(`
      [
        "the header gives TDP level 3; it is 4 or 5",
        "the header gives host MAXPHYADDR 31; it is 32 to 52",
        "the header gives page level 0; it is 1, 2 or 3",
        "'l1tfBits' is 52, but a whole number from 0 to 51 is due",
        "'profile' is "6.2", which is none of its values; did you mean '6.1'?",
        "'vendor' is "unknown", which is none of its values",
        "'mmioCache' is no field of the hypervisor's MMU; did you mean 'mmioCaching'?",
      ]
    `);
  });
});

describe('what a person gets wrong in an event', () => {
  test('is told', () => {
    expect([
      told({ kvm: 'set-sptes' }),
      told({ kvm: 'set-spte', gnf: '0x1' }),
      told({ kvm: 'set-spte', r: true }),
      told({ kvm: 'set-spte', rwx: 'rwxz' }),
      told({ kvm: 'set-spte', spte: '0x1', rwx: 'rwxu' }),
      told({ kvm: 'set-spte', more: 0, sptep: '0x1' }),
      told({ kvm: 'set-spte', more: 2 }),
      told({ kvm: 'set-spte', level: 8 }),
      told({ kvm: 'set-spte', bits: '0x10000' }),
      told({ kvm: 'paging-element', rwx: 'rwx' }),
      told({ kvm: 'get-page', role: '0x100000000' }),
      told({ kvm: 'get-page', unsync: 1 }),
      told({ kvm: 'check-mmio-spte', kvm_gen: -1 }),
      told({ kvm: 'mmio', type: 'reed' }),
      told({ kvm: 'mmio', element: '0x1' }),
      told({ kwm: 'mmio' }),
    ]).toMatchInlineSnapshot(`
      [
        "E_TEXT_FORM FILE, line 3: 'kvm' is "set-sptes", which is none of its values; did you mean 'set-spte'?",
        "E_TEXT_FORM FILE, line 3: 'gnf' is no field of the event 'set-spte'",
        "E_TEXT_FORM FILE, line 3: 'r' is no field of the event 'set-spte'",
        "E_TEXT_FORM FILE, line 3: 'rwx' is "rwxz", but letters like "rw-u" are due",
        "E_TEXT_FORM FILE, line 3: 'rwx' and bit 1 of 'spte' say different things of writing",
        "E_TEXT_FORM FILE, line 3: 'sptep' is in a row that 'more' says is not there",
        "E_TEXT_FORM FILE, line 3: 'more' is 2, but a whole number from 0 to 1 is due",
        "E_TEXT_FORM FILE, line 3: 'level' is 8, but a whole number from 0 to 7 is due",
        "E_TEXT_FORM FILE, line 3: 'bits' sets bits that have fields of their own",
        "E_TEXT_FORM FILE, line 3: 'rwx' is no field of the event 'paging-element'",
        "E_TEXT_FORM FILE, line 3: 'role' has more than 32 bits",
        "E_TEXT_FORM FILE, line 3: 'unsync' is 1, but true or false is due",
        "E_TEXT_FORM FILE, line 3: 'kvm_gen' is -1, but a whole number is due",
        "E_TEXT_FORM FILE, line 3: 'type' is "reed", which is none of its values; did you mean 'read'?",
        "E_TEXT_FORM FILE, line 3: 'element' is no field of the event 'mmio'",
        "E_TEXT_FORM FILE, line 3: no key says what kind of observation this is; did you mean 'kvm'?",
      ]
    `);
  });

  test('is brought into its usual form where it is not wrong', () => {
    expect(
      told({ kvm: 15, rwx: '----', more: 1 }, { kvm: 'mmio' }, { kvm: 'check-mmio-spte', kvm_gen: '0x10' }),
    ).toEqual([
      { kvm: 'set-spte', rwx: '----' },
      { kvm: 'mmio', type: 'unsatisfied-read' },
      { kvm: 'check-mmio-spte', kvm_gen: 16 },
    ]);
    expect(told({ 'kvm-event': 'mmio', address: '0x1000' })).toEqual([
      { kvm: 'mmio', type: 'unsatisfied-read', gpa: '0x1000' },
    ]);
  });
});

test('rows that make up no event stay what they are', () => {
  const strange = [
    { kvm: 'none', address: '0x1', value: '0x2', bits: '0x7fff0000' },
    { kvm: 'set-spte', gfn: '0x1', rwx: '---u', more: 0, bits: '0x40080000' },
    { kvm: 'fast-page-fault', sptep: '0x1', more: 1 },
    { 'kvm-more': '0x5', value: '0x6' },
    { kvm: 'walker-error', pferr: '0x1', address: '0x8' },
    { 'kvm-more': '0x0', bits: '0x800' },
    { kvm: 'check-mmio-spte', kvm_gen: '0xffffffffffffffff' },
    { kvm: 'set-spte', rwx: '----', more: 0 },
    { 'kvm-more': '0x0', value: '0x1' },
  ];
  expect(told(...strange)).toEqual(strange);
});

test('an event ends with its step', () => {
  const builder = new StepBuilder();
  const op = Obs.KVM_EVENT | (15 << KVM_EVENT_SHIFT);
  expect(KVM_MORE_ROWS[15]).toBe(1);
  builder.step(StepKind.VM_ENTRY, 0, 0, 0, 0, 0);
  builder.observe(op, 1, 0, 0, 0);
  builder.step(StepKind.VM_ENTRY, 0, 0, 0, 0, 0);
  builder.observe(Obs.KVM_MORE, 2, 0, 0, 0);
  const { path } = writeTrace([builder.take(registersOf(0))], { header: PLAIN_HEADER });
  const text = toText(path);
  expect(text).toContain('{"vm-entry":true,"expect":[{"kvm":"set-spte","gfn":"0x1","rwx":"----","more":0}]}');
  expect(text).toContain('{"vm-entry":true,"expect":[{"kvm-more":"0x2"}]}');
  expect(readFileSync(toTrace(text)).equals(readFileSync(path))).toBe(true);
});

test('the description of the text form names every event and field', () => {
  const description = readFileSync(join(import.meta.dirname, '../../src/trace/text/TEXT-FORM.md'), 'utf8');
  const names = [...KVM_EVENT_NAMES.slice(1), ...KVM_FIELD_NAMES, ...Object.keys(defaultKvmConfig())];
  expect(names.filter((name) => !description.includes(`\`${name}\``))).toEqual([]);
  const example = /```json\n(.*?)\n```/s.exec(description)![1]!;
  expect(told(JSON.parse(example) as object)).toEqual([JSON.parse(example)]);
});
