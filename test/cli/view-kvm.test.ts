import { beforeAll, expect, test } from 'vitest';
import { file, rewalk } from './cli.ts';

const CASE = [
  '{"header":{"title":"faults","processor":{"vendor":"amd","maxphyaddr":40},"observable":["kvm-event","kvm-more"],"hypervisor":{"name":"kvm","version":"6.1.192","tdp":true,"mmu":{}}}}',
  '{"memslot":"create","slot":1,"address":"0x100000","size":"0x400000","userspace":"0x7fd390000000"}',
  '{"host-pages":"0x100000","count":"0x10","residency":"writable"}',
  '{"fault-exit":"0x100de3","error":"0x100000014","expect":[{"kvm":"page-fault","fault_address":"0x100de3","error_code":"0x100000014"},{"kvm":"spte-requested","gfn":"0x100","pfn":"0x29dc","level":1},{"kvm":"get-page","gfn":"0x100","role":"0x1781","created":true},{"kvm":"set-spte","gfn":"0x100","spte":"0x29dce67","rwx":"rwxu","level":1,"sptep":"0xf3b4800"}]}',
  '{"vm-entry":true}',
  '{"software-walk":"0x40005040","access":"0x2","expect":[{"kvm":"pagetable-walk","addr":"0x40005040","pferr":"0x2"},{"kvm":"paging-element","pte":"0x305025","level":1},{"kvm":"set-accessed-bit","gpa":"0x202028"}]}',
  '{"store":"0x202028","value":"0x7","emulated":true}',
  '{"fault-exit":"0x200000","error":"0x100000006","expect":[{"kvm":"set-spte","gfn":"0x200","spte":"0x6000877","rwx":"rwxu","level":2,"sptep":"0xf3b5000"}]}',
].join('\n');

let trace = '';
beforeAll(() => {
  trace = file('kvm.jsonl', CASE);
});

/** Ordinals of the steps that are printed. */
async function ordinals(...options: string[]): Promise<number[]> {
  const { status, stdout, stderr } = await rewalk('view', trace, ...options);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return [...stdout.matchAll(/^ *(\d+) {2}\S/gm)].map((match) => Number(match[1]));
}

test('steps and events, each in one line', async () => {
  const { stdout } = await rewalk('view', trace, '--to', '4');
  expect(stdout.split('\n').slice(1)).toEqual([
    '  amd, MAXPHYADDR 40, A/D unspecified, under kvm 6.1.192, KVM 6.1 on amd, NPT, TDP MMU',
    '       0  memslot 1 created: gpa 0x100000, 0x400000 bytes at host 0x7fd390000000',
    '       1  host has 16 pages from gpa 0x100000 writable, mapped by 4K',
    '       2  exit: NPF gpa 0x100de3 exitinfo1 0x100000014 (U F; final)',
    '              page-fault address 100de3 error_code 100000014',
    '              spte-requested gfn 100 pfn 29dc level 1',
    '              get-page sp gen 0 gfn 100 l1 8-byte q0 direct wux nxe ad root 0 sync new',
    '              set-spte gfn 100 spte 29dce67 (rwxu) level 1 at f3b4800',
    '       3  KVM enters the guest',
    '       4  software walk of 0x40005040: write supervisor',
    '              pagetable-walk addr 40005040 pferr 2 W',
    '              paging-element pte 305025 level 1',
    '              set-accessed-bit gpa 202028',
    '',
  ]);
});

test('--json prints the text form', async () => {
  const { stdout } = await rewalk('view', trace, '--json', '--from', '6', '--to', '6');
  expect(stdout).toContain(
    '{"kvm":"set-spte","gfn":"0x200","spte":"0x6000877","rwx":"rwxu","level":2,"sptep":"0xf3b5000"}',
  );
});

test('steps can be asked for by kind, by event and by any event', async () => {
  expect(await ordinals('--kind', 'fault-exit,memslot')).toEqual([0, 2, 6]);
  expect(await ordinals('--observed', 'set-spte')).toEqual([2, 6]);
  expect(await ordinals('--observed', 'get-page,set-accessed-bit')).toEqual([2, 4]);
  expect(await ordinals('--observed', 'kvm-event')).toEqual([2, 4, 6]);
});

test('the history of a page is what maps it, also as a part of a large one', async () => {
  expect(await ordinals('--gfn', '0x100')).toEqual([0, 1, 2]);
  expect(await ordinals('--gfn', '0x202')).toEqual([0, 4, 5, 6]);
  expect(await ordinals('--entry', '0x202028')).toEqual([0, 4, 5, 6]);
  const { stdout } = await rewalk('view', trace, '--gfn', '0x100', '--from', '2');
  expect(stdout.split('\n').slice(2)).toEqual([
    '       2  exit: NPF gpa 0x100de3 exitinfo1 0x100000014 (U F; final)',
    '              spte-requested gfn 100 pfn 29dc level 1',
    '              get-page sp gen 0 gfn 100 l1 8-byte q0 direct wux nxe ad root 0 sync new',
    '              set-spte gfn 100 spte 29dce67 (rwxu) level 1 at f3b4800',
    '',
  ]);
});

test('a linear address is that of a software walk, and of a fault only without two-dimensional paging', async () => {
  expect(await ordinals('--gva', '0x40005040')).toEqual([4]);
  expect(await ordinals('--gva', '0x100de3')).toEqual([]);
  trace = file('shadow.jsonl', CASE.replace('"tdp":true,"mmu":{}', '"tdp":false,"mmu":{"tdp":false}'));
  expect(await ordinals('--gva', '0x100de3')).toEqual([2]);
  expect(await ordinals('--kind', 'fault-exit', '--entry', '0x200000')).toEqual([6]);
});

test('stats counts events by name', async () => {
  const { stdout } = await rewalk('stats', '--json', file('count.jsonl', CASE));
  const { sum } = JSON.parse(stdout) as { sum: Record<string, object> };
  expect(sum['events']).toEqual({
    'set-spte': 2,
    'get-page': 1,
    'page-fault': 1,
    'pagetable-walk': 1,
    'paging-element': 1,
    'set-accessed-bit': 1,
    'spte-requested': 1,
  });
  expect(sum['steps']).toEqual({
    'fault-exit': 2,
    'host-pages': 1,
    memslot: 1,
    'software-walk': 1,
    store: 1,
    'vm-entry': 1,
  });
  expect(sum['observations']).toEqual({ 'kvm-event': 8, 'kvm-more': 2 });
});
