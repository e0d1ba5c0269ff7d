import { expect, test } from 'vitest';
import { Obs } from '../../src/formats/observation.ts';
import { checkTrace } from '../../src/trace/check/trace.ts';
import { StepBuilder } from '../../src/trace/columns.ts';
import { convert, fileOf, freshPath, KVM_HEADER, registersOf, writeTrace } from './samples.ts';

const MMU = { hypervisor: { tdp: true, mmu: {} }, observable: ['kvm-event', 'kvm-more', 'translated', 'exception'] };

/** What is found in a trace with this header and these steps. */
function foundBehind(header: object, ...steps: object[]): string[] {
  const path = freshPath();
  convert(fileOf([{ header }, ...steps].map((line) => JSON.stringify(line)).join('\n')), path);
  return checkTrace(path).map(({ id, severity, place, sentence }) => `${severity} ${id} @${place.step}: ${sentence}`);
}

const found = (...steps: object[]): string[] => foundBehind(MMU, ...steps);

const SET_SPTE = { kvm: 'set-spte', gfn: '0x100', spte: '0x29dce67', level: 1, sptep: '0xf3b4800' };

test('nothing is found in a sound recording of a hypervisor', () => {
  expect(
    found(
      { memslot: 'create', size: '0x4000', userspace: '0x7fd390000000' },
      { memslot: 'delete', address: '0x0' },
      { notifier: 'unmap', start: '0x1000', end: '0x3000', expect: [{ kvm: 'unmap-hva-range' }] },
      { 'dirty-log': 1, expect: [SET_SPTE] },
      { hypervisor: 'destroy', expect: [{ kvm: 'zap-all-fast' }] },
      { 'host-pages': '0xffffffffff000', count: '0x1', residency: 'read-only', level: 3 },
      { 'fault-exit': '0x1000', error: '0x184', expect: [{ kvm: 'fast-page-fault' }, SET_SPTE] },
      { 'fault-exit': '0x1000', misconfig: true, expect: [{ kvm: 'check-mmio-spte' }] },
      { 'software-walk': '0x1000', access: '0x16', expect: [{ kvm: 'pagetable-walk' }, { kvm: 'inj-exception' }] },
      { store: '0x1000', emulated: true, expect: [{ kvm: 'prepare-zap-page' }] },
      { 'register-write': 'cr3', expect: [{ kvm: 'sync-page' }] },
      { invlpg: '0x1000', expect: [{ kvm: 'sync-page' }] },
      { 'vm-entry': true, expect: [{ kvm: 'get-page' }] },
    ),
  ).toEqual([]);
});

test('each broken invariant is found, with its step', () => {
  expect([
    ...found({ memslot: 'create' }),
    ...found({ memslot: 'delete', size: '0x1000' }),
    ...found({ notifier: 'age', start: '0x800', end: '0x1000' }),
    ...found({ notifier: 'age', start: '0x1000', end: '0x1000' }),
    ...found({ 'host-pages': '0x800', count: '0x1' }),
    ...found({ 'host-pages': '0x1000' }),
    ...found({ 'host-pages': '0xffffffffff000', count: '0x2' }),
    ...found({ 'host-pages': '0x1000', count: '0x1', residency: 3, level: 0 }),
    ...found({ 'fault-exit': '0x1000', error: '0x1', misconfig: true }),
    ...found({ 'fault-exit': '0x1000', bits: '0x80000000' }),
    ...found({ 'software-walk': '0x1000', access: '0x1' }),
    ...found({ 'vm-entry': true, address: '0x1' }),
    ...found({ store: '0x1000', emulated: true, knowledge: true }),
    ...found({ 'vm-entry': true, expect: [{ kvm: 'none' }] }),
    ...found({ 'vm-entry': true, expect: [{ kvm: 'set-spte', more: 0 }] }),
    ...found({ 'vm-entry': true, expect: [{ kvm: 'fast-page-fault', more: 1 }, { kvm: 'walker-error' }] }),
    ...found({ 'vm-entry': true, expect: [{ kvm: 'walker-error' }, { 'kvm-more': '0x0' }] }),
    ...found({ 'vm-entry': true, expect: [{ kvm: 'walker-error', bits: '0x10000' }] }),
    ...found({ 'vm-entry': true, expect: [{ translated: '0x0' }] }),
    ...found({ 'host-pages': '0x1000', count: '0x1', expect: [{ kvm: 'walker-error' }] }),
  ]).toMatchInlineSnapshot(`
    [
      "error memslot.size @0: a memslot without a size is no create",
      "error memslot.size @0: a deleted memslot has a size",
      "error notifier.alignment @0: a notifier's range is not made of whole pages",
      "error notifier.empty @0: a notifier's range is empty",
      "error host-pages.alignment @0: the first of the host pages is not 4 KiB aligned",
      "error host-pages.count @0: a run of host pages has no page",
      "error host-pages.count @0: a run of host pages reaches beyond the 52 bits of a physical address",
      "error host-pages.residency @0: there is no residency 3",
      "error host-pages.level @0: the host maps pages at level 0; it is 1 to 3",
      "error fault-exit.error @0: an EPT misconfiguration has an error code, which the processor does not give",
      "error step.bits @0: the step's word has bits that mean nothing: 0x80000000",
      "error software-walk.access @0: a software walk is for an access with bits other than W, U and F",
      "error vm-entry.operand @0: a VM entry has an address or an operand, which mean nothing",
      "error store.emulated @0: a value that was only found was not stored by the emulator",
      "error kvm.event @0: there is no KVM event 0",
      "error kvm.incomplete @0: the KVM event 'set-spte' lacks 1 of its rows",
      "error kvm.incomplete @0: the KVM event 'fast-page-fault' lacks 1 of its rows",
      "error kvm.more @0: further fields belong to no KVM event",
      "error observation.bits @0: an observation's word has bits that mean nothing: 0x10000",
      "error observation.kind @0: 'translated' cannot be observed of a step of this kind",
      "error observation.kind @0: 'kvm-event' cannot be observed of a step of this kind",
    ]
  `);
});

test("a hypervisor's own steps need a header that describes its MMU", () => {
  const steps = [
    { 'vm-entry': true },
    { 'fault-exit': '0x1000' },
    { 'software-walk': '0x1000' },
    { 'host-pages': '0x1000', count: '0x1' },
    { store: '0x1000', emulated: true },
    { memslot: 'create', size: '0x1000' },
    { hypervisor: 'zap-all' },
  ];
  const errors = foundBehind({ hypervisor: { tdp: true } }, ...steps, { store: '0x1000' }, { note: 'x' });
  expect(errors).toEqual(
    steps.map(
      (_, i) => `error step.no-mmu @${i}: the step is a hypervisor's own, and the header does not describe its MMU`,
    ),
  );
});

test('the header agrees with itself', () => {
  expect(foundBehind({ observable: ['kvm-event'] }, { note: 'x' })).toEqual([
    'error header.no-mmu @undefined: the recorder could see KVM events, but the header does not describe the MMU',
  ]);
  expect(foundBehind({ hypervisor: { tdp: false, mmu: {} } }, { note: 'x' })).toEqual([
    'error header.tdp @undefined: the hypervisor and its MMU do not agree on whether two-dimensional paging is in use',
  ]);
});

test('an event ends with its step', () => {
  const builder = new StepBuilder();
  builder.step(12, 0, 0, 0, 0, 0);
  builder.observe(Obs.KVM_EVENT | (15 << 11), 1, 0, 0, 0);
  builder.step(12, 0, 0, 0, 0, 0);
  builder.observe(Obs.KVM_MORE, 2, 0, 0, 0);
  const { path } = writeTrace([builder.take(registersOf(0))], { header: KVM_HEADER });
  expect(checkTrace(path).map(({ id, place }) => `${id} @${place.step}`)).toEqual(['kvm.incomplete @0', 'kvm.more @1']);
});
