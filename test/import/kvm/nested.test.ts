/** The guest's guest: entries and exits as steps, and what L1 and L2 do meanwhile; on traces made by hand. */

import { describe, expect, it } from 'vitest';
import type { TraceEventFields } from '../../../src/import/ftrace/event.ts';
import {
  element,
  emulate,
  entry,
  exit,
  fault,
  mark,
  marked,
  recording,
  type Told,
  told,
  trace,
  walk,
} from './events.ts';

const NPT = ['kvm_amd/parameters/npt Y'];
const EPT = ['kvm_intel/parameters/ept Y'];
const VMRUN = 'VMRUN np=1 ncr3=207000 asid=1 tlb=1 exc=4000 cr0=80010011 cr3=600000 cr4=20 efer=1d00';
/** L1, which runs before: long mode with its tables at 200000. */
const L1 = ['C cr4 20', 'C cr3 200000', 'C efer 1d00', 'C cr0 80010011'];

const exited = (reason: string, info1 = 0n, info2 = 0n): TraceEventFields[] => {
  const event = exit(reason, 0x6000n) as Extract<TraceEventFields, { name: 'kvm_exit' }>;
  return [
    { ...event, info1, info2 },
    { ...event, info1, info2, name: 'kvm_nested_vmexit' },
  ];
};
const entered = (guestPgd: bigint, tdp = true): TraceEventFields => ({
  name: 'kvm_nested_vmenter',
  rip: 0x5003n,
  tdp,
  guestPgd,
});
const injected = (reason: string, info1 = 0n, info2 = 0n, intInfo = 0): TraceEventFields => ({
  name: 'kvm_nested_vmexit_inject',
  reason,
  info1,
  info2,
  intInfo,
  intInfoError: 0,
});
const failed: TraceEventFields = { name: 'kvm_mmu_walker_error', pferr: 6 };

const start = [mark('VMM start blob=/bin/vnest.bin bytes=4096 mode=4'), entry(), ...L1.flatMap((text) => marked(text))];
const run = (text: string, guestPgd = 0x20_7000n): TraceEventFields[] => [
  ...marked(text),
  exit('vmrun', 0x5000n),
  emulate(0x5000n),
  entered(guestPgd),
  { name: 'kvm_nested_intercepts', exceptions: 0x4000 },
  entry(0x6000n),
];

async function svm(...events: TraceEventFields[]): Promise<Told> {
  const given = recording([...L1, VMRUN], 'vnest.bin', NPT);
  return told(trace(...start, ...events, exit('io', 0x1001n), entry()), given);
}

/** From the entry on. */
function fromEntry({ steps }: Told): readonly string[] {
  return steps.slice(steps.findIndex((step) => step.startsWith('nested-entry')));
}

describe('a VMRUN', () => {
  it('states the registers of L2, then enters, with its events as rows', async () => {
    const result = await svm(...run(VMRUN));
    const at = result.steps.findIndex((step) => step.startsWith('nested-entry'));
    const registers = result.steps.slice(0, at).filter((step) => step.startsWith('register-set'));
    expect(registers.map((step) => step.split(' ').slice(1).join(' '))).toEqual([
      '11 0 80010011',
      '12 0 20',
      '13 0 1d00',
      'e 0 1',
      'f 0 207000',
      '10 0 1',
      '16 0 4000',
      '1 0 600000',
      'a 0 2',
    ]);
    expect(result.steps[at]).toBe('nested-entry 3 0 0: nested-vmenter nested-intercepts');
    expect(result.header.omissions).toEqual([]);
  });

  it('that is refused changes nothing', async () => {
    const { steps } = await svm(
      ...marked(VMRUN),
      exit('vmrun', 0x5000n),
      emulate(0x5000n),
      { name: 'kvm_nested_vmenter_failed' },
      entry(0x5003n),
    );
    expect(steps.filter((step) => step.startsWith('nested') || step.startsWith('register-set a'))).toEqual([]);
  });
});

describe('a fault of L2', () => {
  it('that L1 gets ends with the exit, and L1 goes on with its registers', async () => {
    const result = await svm(
      ...run(VMRUN),
      ...exited('npf', 0x2_0000_0006n, 0x60_0000n),
      fault(0x60_0000n, 0x2_0000_0006n, 0x6000n),
      walk(0x60_0000n, 6),
      element(4, 0n),
      failed,
      injected('npf', 0x2_0000_0006n, 0x60_0000n),
      entry(0x5003n),
    );
    const steps = fromEntry(result).slice(1);
    // The table's entry is not known before it is read.
    expect(steps[0]).toMatch(/^store .* 207000 0$/);
    expect(steps.slice(1)).toEqual([
      [
        'fault-exit 0 600000 200000006: nested-vmexit kvm-more page-fault',
        'pagetable-walk paging-element walker-error nested-vmexit-inject kvm-more',
      ].join(' '),
      'nested-exit 1 200000006 400',
      'register-set a 0 0',
      'register-set 1 0 200000',
    ]);
  });

  it('under L1 without nested paging has no walk of tables of L1', async () => {
    const plain = 'VMRUN np=0 ncr3=0 asid=1 tlb=0 exc=0 cr0=80010011 cr3=600000 cr4=20 efer=1d00';
    const result = await svm(
      ...run(plain, 0x60_0000n),
      ...exited('npf', 6n, 0x5000n),
      fault(0x5000n, 6n, 0x6000n),
      walk(0x5000n, 0x10),
      entry(0x6000n),
    );
    expect(fromEntry(result).slice(1)).toEqual([
      'fault-exit 0 5000 6: nested-vmexit kvm-more page-fault',
      'software-walk 0 5000 10: pagetable-walk',
    ]);
  });
});

describe('an exit to L1', () => {
  it('that no walk raised has both events for itself', async () => {
    const result = await svm(...run(VMRUN), ...exited('hypercall'), injected('hypercall'), entry(0x5003n));
    expect(fromEntry(result)[1]).toBe('nested-exit 1 0 81: nested-vmexit kvm-more nested-vmexit-inject kvm-more');
  });

  it('for an interrupt is no exit of the processor', async () => {
    const result = await svm(...run(VMRUN), ...exited('io'), injected('interrupt'), entry(0x5003n));
    expect(fromEntry(result)[1]).toBe('nested-exit 1 0 60: nested-vmexit-inject kvm-more');
  });

  it('for a #PF of the processor tells the access under test, once', async () => {
    const access = 'T 1 t k=r u=1 ac=0 va=40001040 pte@60a008=0 cfg=c';
    const result = await svm(
      ...run(VMRUN),
      ...exited('io'),
      mark(access),
      entry(0x6000n),
      ...exited('PF excp', 4n, 0x4000_1040n),
      injected('PF excp', 4n, 0x4000_1040n),
      entry(0x5003n),
      ...run(VMRUN),
      ...exited('io'),
      mark('R 1 vec=14 err=4 cr2=40001040 pte=0'),
      entry(0x6000n),
    );
    const accesses = result.steps.filter((step) => step.startsWith('access'));
    expect(accesses).toHaveLength(1);
    expect(accesses[0]).toContain(': exception');
  });
});

describe('a walk of two dimensions', () => {
  it('is one step, with the walks of L1’s tables among its rows, and what follows is another', async () => {
    const nested = (frame: bigint): TraceEventFields[] => [
      walk(frame, 6),
      element(4, 0x20_9007n),
      element(3, 0x20_a007n),
      element(2, frame | 0x87n),
    ];
    const result = await svm(
      ...run(VMRUN),
      ...exited('UD excp'),
      walk(0x1000n, 0x10),
      ...nested(0x60_0000n),
      element(4, 0x60_1007n),
      ...nested(0x60_1000n),
      element(3, 0x83n),
      ...nested(0x1000n),
      walk(0x2000n, 0x10),
      entry(0x6000n),
    );
    const walks = fromEntry(result).filter((step) => step.startsWith('software-walk'));
    expect(walks.map((step) => step.split(':')[0])).toEqual(['software-walk 0 1000 10', 'software-walk 0 2000 10']);
    expect(walks[0]!.split(' ').filter((word) => word === 'pagetable-walk')).toHaveLength(4);
  });
});

describe('stores of L2', () => {
  it('wait for L1 to mend what they fault on', async () => {
    const result = await svm(
      ...run(VMRUN),
      ...exited('io'),
      mark('E a=300008 v=1007 s=8'),
      entry(0x6002n),
      ...exited('npf', 0x1_0000_0006n, 0x38_0008n),
      fault(0x38_0008n, 0x1_0000_0006n, 0x6100n),
      walk(0x38_0008n, 6),
      failed,
      injected('npf', 0x1_0000_0006n, 0x38_0008n),
      entry(0x5003n),
      ...marked('E a=209000 v=300007 s=8'),
      ...run(VMRUN),
      ...exited('io'),
      entry(0x6000n),
    );
    const stores = result.steps.filter((step) => step.startsWith('store'));
    expect(stores.map((step) => step.split(' ').slice(2).join(' '))).toEqual(['209000 300007', '300008 1007']);
  });
});

describe('VMX', () => {
  const FIELDS = [
    'VW 4002 80000000',
    'VW 401e 2302a',
    'VW 0 1',
    'VW 201a 20705e',
    'VW 2024 11a000',
    'VW 200e 119000',
    'VW 812 1ff',
    'VW 6800 80010031',
    'VW 6802 600000',
    'VW 6804 2020',
    'VW 2806 d00',
    'VW 6c00 80010031',
    'VW 6c02 200000',
    'VW 6c04 2020',
    'VW 2c02 d00',
  ];
  const launch = (): TraceEventFields[] => [
    ...marked('VMENTRY eptp=20705e vpid=1'),
    exit('VMLAUNCH', 0x5000n),
    entered(0x20_705en),
    entry(0x6000n),
  ];
  const vmx = (...events: TraceEventFields[]): Promise<Told> => {
    const intel = 'cpuid 00000000.0 eax=0000000d ebx=756e6547 ecx=6c65746e edx=49656e69';
    const given = recording([intel, ...L1], 'vnest.bin', EPT);
    return told(trace(...start, ...FIELDS.flatMap((text) => marked(text)), ...events, exit('HLT'), entry()), given);
  };

  it('enters with the fields written, and states the index of the log only when L1 has written it', async () => {
    const { steps } = await vmx(...launch(), ...exited('VMCALL'), injected('VMCALL'), entry(0x5003n), ...launch());
    const index = steps.filter((step) => step.startsWith('register-set 19 '));
    expect(index).toEqual(['register-set 19 0 1ff']);
    expect(steps.filter((step) => step.startsWith('register-set b '))).toEqual(['register-set b 0 20705e']);
    expect(steps).toContain('nested-exit 0 0 12: nested-vmexit kvm-more nested-vmexit-inject kvm-more');
  });

  it('takes an entry that fails late for an entry and an exit', async () => {
    const { steps } = await vmx(
      ...marked('VMENTRY eptp=20705e vpid=1'),
      exit('VMLAUNCH', 0x5000n),
      entered(0x20_705en),
      { name: 'kvm_nested_vmenter_failed' },
      entry(0x5003n),
    );
    expect(steps.filter((step) => step.startsWith('nested'))).toEqual([
      'nested-entry 0 0 0: nested-vmenter',
      'nested-exit 0 0 80000021',
    ]);
  });

  it('brings INVEPT, INVVPID and VMFUNC by their exits', async () => {
    const { steps } = await vmx(
      ...marked('I invept 1 20705e'),
      exit('INVEPT', 0x5000n),
      entry(0x5003n),
      ...marked('I invvpid 0 1 5000'),
      exit('INVVPID', 0x5000n),
      entry(0x5003n),
      ...marked('E a=11a008 v=20805e s=8'),
      ...launch(),
      ...exited('IO_INSTRUCTION'),
      mark('F vmfunc eptp_index=1 in=l2'),
      entry(0x6000n),
      ...exited('VMFUNC'),
      entry(0x6003n),
    );
    expect(steps.filter((step) => step.startsWith('invalidate'))).toEqual([
      'invalidate 12 0 20705e',
      'invalidate 3 5000 1',
      'invalidate 5 1 20805e',
    ]);
  });
});
