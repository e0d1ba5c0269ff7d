import { describe, expect, it } from 'vitest';
import { tell } from './tell.ts';

/** A hypervisor with NPT at 207000h; its guest's tables begin at 600000h and map 40001000h to its 10001000h. */
const SVM = `
VMM start blob=/bin/nest.bin bytes=1 mode=4
C cr4 20
C cr3 200000
C efer 1900
C cr0 80010011
Z page=207000
Z page=209000
Z page=20a000
Z page=20b000
Z page=215000
E a=207000 v=209007 s=8
E a=209000 v=20a007 s=8
E a=20a000 v=20b007 s=8
E a=20a400 v=215007 s=8
B a=20b000 n=512 v=7 step=1000
L1 vmcb=11d000 ncr3=207000 ncr3b=208000 l2cr3=600000 np=1
`;
const VMRUN = 'VMRUN np=1 ncr3=207000 asid=1 tlb=0 exc=0 cr0=80010011 cr3=600000 cr4=20 efer=1d00';

/** The steps behind `prefix`. */
function behind(prefix: string, log: string): string[] {
  return tell(prefix + log).steps.slice(tell(prefix).steps.length);
}

describe('under SVM', () => {
  it('an entry states what will be in force, an exit restores the host', () => {
    const steps = behind(SVM, `${VMRUN}\nL1 tlb_control=3\n${VMRUN.replace('tlb=0', 'tlb=3')}`);
    expect(steps).toEqual([
      'set host_cr0=80010011 (inferred)',
      'set host_cr4=20 (inferred)',
      'set host_efer=1d00 (inferred)',
      'set nested_control=1',
      'set ncr3=207000',
      'set asid=1',
      'set guest_mode=2',
      'set cr3=600000',
      'enter svm tlb 0',
      'exit 81 0 (inferred)',
      'set guest_mode=0 (inferred)',
      'set cr3=200000 (inferred)',
      'set guest_mode=2',
      'set cr3=600000',
      'enter svm tlb 3',
    ]);
  });

  it('an entry that was refused is none', () => {
    const { steps, omissions } = tell(`${SVM}${VMRUN}\nL1 asid 0: vmexit code=ffffffffffffffff`);
    expect(steps.some((step) => step.startsWith('enter'))).toBe(false);
    expect(omissions).toEqual({ 'entry refused': 1 });
  });

  it('an access that exits is tried again after the fix, and expected to complete then', () => {
    const steps = behind(
      SVM + VMRUN,
      `
      T 1 fill k=r u=0 ac=0 va=40001040 pte@609008=10001007 cfg=fill
      L1 NPF gpa=10001040 info1=100000004 rip=1050a4 cpl=0 policy=1
      E a=215008 v=301007 s=8
      L1 NPF fix npte=301007
      ${VMRUN}
      R 1 ok pte=10001027
      ${VMRUN}
      N gpa=10001000 l=1 npte=301027`,
    );
    expect(steps.filter((step) => !step.startsWith('set'))).toEqual([
      'note fill cfg=fill',
      'know 609008=10001007 size 8 (inferred)',
      'read 40001040+1',
      '  npf 10001040 100000004',
      'exit 400 100000004',
      'store 215008=301007 size 8',
      'enter svm tlb 0',
      'read 40001040+1',
      '  completed',
      '  entry-after level 0 609008=10001027',
      'exit 81 0 (inferred)',
      'enter svm tlb 0',
      '  entry-after level 1 215008=301027',
    ]);
  });

  it('an exit that the hypervisor reports as the result is told once', () => {
    const steps = behind(
      SVM + VMRUN,
      `
      T 1 mtx2 k=fep-w u=1 ac=0 va=40001040 pte@609008=10001007 cfg=
      L1 NPF gpa=10001000 info1=100000006 rip=500000be cpl=3 policy=2
      ${VMRUN}
      R 1 vec=254 err=100000006 cr2=10001000 pte=10001007`,
    );
    expect(steps.filter((step) => !step.startsWith('set')).slice(2)).toEqual([
      'write user software 40001040+1',
      '  npf 10001000 100000006',
      'exit 400 100000006',
      'enter svm tlb 0',
      '  entry-after level 0 609008=10001007',
    ]);
  });

  it('an exit of something else is a guest-physical access', () => {
    const steps = behind(
      SVM + VMRUN,
      `
      T 1 fill k=r u=1 ac=0 va=40001040 pte@609008=10001007 cfg=
      L1 NPF gpa=608000 info1=200000006 rip=50000000 cpl=3 policy=1
      L1 NPF fix npte=608007
      ${VMRUN}
      R 1 ok pte=10001027`,
    );
    expect(steps.filter((step) => /read|npf|completed/.test(step))).toEqual([
      'gpa read user of table 608000+0 (inferred)',
      '  npf 608000 200000006',
      'read user 40001040+1',
      '  completed',
    ]);
  });

  it('an intercepted page fault is the exception, whether it is passed on, reported or mended', () => {
    const attempt = (rest: string) =>
      behind(
        SVM + VMRUN,
        `
        T 1 sh k=w u=1 ac=0 va=40001040 pte@609008=301005 cfg=
        L1 PF-intercept err=7 cr2=40001040 rip=500000a8
        ${rest}`,
      ).filter((step) => /write user|exception|completed|exit/.test(step));
    const fault = ['write user 40001040+1', '  exception 14 error 7 cr2 40001040', 'exit 4e 7'];
    expect(attempt(`${VMRUN}\nR 1 vec=14 err=7 cr2=40001040 pte=301005`)).toEqual(fault);
    expect(attempt(`${VMRUN}\nR 1 vec=253 err=7 cr2=40001040 pte=301005`)).toEqual(fault);
    const mended = 'E a=609008 v=301007 s=8\nL1 shadow fix pte@609008=301007';
    expect(attempt(`${mended}\n${VMRUN}\nR 1 ok pte=301067`)).toEqual([
      ...fault,
      'write user 40001040+1',
      '  completed',
    ]);
  });

  it("a register write is the hypervisor's own if its next word confirms it", () => {
    expect(behind(SVM + VMRUN, '\nC cr0 80000011\nL2 WP off')).toEqual(['write cr0=80000011']);
    expect(behind(SVM + VMRUN, '\nC efer 1500\nL1 efer=1500')).toEqual([
      'exit 81 0 (inferred)',
      'set guest_mode=0 (inferred)',
      'set cr3=200000 (inferred)',
      'write efer=1500',
    ]);
  });

  it('memory behind a protected table shows what the second stage holds', () => {
    const steps = behind(
      SVM + VMRUN,
      `
      P l2pt gpa=1000 pte=10005007 npte=1005
      E a=20b008 v=1005 s=8
      L1 set npte gpa=1000 l=1 npte@20b008=1005 tlbctl=3
      ${VMRUN}
      A va=40a01040 k=r u=1 ac=0
      L1 NPF gpa=1008 info1=200000007 rip=500000a4 cpl=3 policy=2
      ${VMRUN}
      ${VMRUN}
      Q l2pt-ro k=r u=1 vec=254 err=200000007 cr2=1008 pte=10005007 pt_npte=1005`,
    );
    expect(steps.filter((step) => !step.startsWith('set')).slice(0, 8)).toEqual([
      'note l2pt npte=1005',
      'store 20b008=1005 size 8',
      'exit 81 0 (inferred)',
      'enter svm tlb 0',
      'read user 40a01040+1',
      '  npf 1008 200000007',
      '  entry-after level 1 20b008=1005',
      'exit 400 200000007',
    ]);
  });
});

/** A hypervisor with EPT at 207000h; its guest's tables lie from 600000h and map 40a01000h. */
const VMX = `
VMM start blob=/bin/vnest.bin bytes=1 mode=4
C cr4 20
C cr3 200000
C efer 900
C cr0 80010031
Z page=207000
Z page=209000
Z page=20a000
Z page=20e000
E a=207000 v=209007 s=8
E a=209000 v=20a007 s=8
E a=20a018 v=20e007 s=8
B a=20e000 n=512 v=600037 step=1000
Z page=600000
Z page=601000
Z page=607000
Z page=60a000
E a=600000 v=601007 s=8
E a=601008 v=607007 s=8
E a=607028 v=60a007 s=8
E a=60a008 v=10005007 s=8
VW 4002 96006172
VW 401e 2a
VW 0 1
VW 6c00 80010031
VW 6c02 200000
VW 6c04 2020
VW 2c02 d00
VW 6800 80010031
VW 6802 600000
VW 6804 2020
VW 2806 d00
E a=11a000 v=20701e s=8
E a=11a008 v=20801e s=8
VW 2024 11a000
L1 vmcs=11e000 ept=207000 ept2=208000 l2cr3=600000 useept=1 proc2=2a
`;
const VMENTRY = 'VMENTRY eptp=20701e vpid=1';

describe('under VMX', () => {
  it('an entry takes the fields that were written, an exit keeps what the guest changed', () => {
    const steps = behind(VMX, `${VMENTRY}\nC cr3 601000 in=l2\nVW 4004 0\n${VMENTRY}`);
    expect(steps).toEqual([
      'set secondary_controls=2a',
      'set eptp=20701e',
      'set vpid=1',
      'set guest_mode=1',
      'set cr3=600000',
      'set cr4=2020',
      'enter vmx tlb 0',
      'write cr3=601000',
      'exit 12 0 (inferred)',
      'set guest_mode=0 (inferred)',
      'set cr3=200000 (inferred)',
      'set guest_mode=1',
      'set cr3=601000',
      'enter vmx tlb 0',
    ]);
  });

  it('an exit with another linear address is an access to that', () => {
    const steps = behind(
      VMX + VMENTRY,
      `
      T 1 fill k=r u=1 ac=0 va=40001040 pte@609008=10001007 cfg=
      L1 EPT-violation gpa=608000 qual=81 gla=50000000 rip=50000000 cpl=3 policy=1
      L1 EPT fix epte=608037
      ${VMENTRY}
      L1 EPT-violation gpa=10001040 qual=181 gla=40001040 rip=500000a4 cpl=3 policy=1
      L1 EPT fix epte=301037
      ${VMENTRY}
      R 1 ok pte=10001027`,
    );
    expect(steps.filter((step) => /read|fetch|ept-|completed|exit/.test(step))).toEqual([
      'fetch user 50000000+0 (inferred)',
      '  ept-violation 608000 81',
      'exit 30 81',
      'read user 40001040+1',
      '  ept-violation 10001040 181',
      'exit 30 181',
      'read user 40001040+1',
      '  completed',
    ]);
  });

  it('a native access whose exit lost its offset was finished by the emulator', () => {
    const steps = behind(
      VMX + VMENTRY,
      `
      T 1 mmio k=w u=1 ac=0 va=4000c018 pte@609060=e0000077 cfg=
      L1 EPT-violation gpa=e0000000 qual=1ab gla=4000c018 rip=500000a8 cpl=3 policy=2
      ${VMENTRY}
      R 1 vec=254 err=1ab cr2=e0000000 pte=e0000077`,
    );
    expect(steps.slice(2, 4)).toEqual(['write user software 4000c018+1', '  ept-violation e0000000 1ab']);
  });

  it('an exit while an exception is delivered comes behind the exception, as an implicit access', () => {
    const steps = behind(
      VMX + VMENTRY,
      `
      T 1 vect-pf k=r u=1 ac=0 va=40016040 pte@6090b0=0 cfg=
      L1 idt_vectoring=80000b0e err=4 (reinjected)
      L1 EPT-violation gpa=10d0e0 qual=181 gla=10d0e0 rip=500000a4 cpl=3 policy=1
      L1 EPT fix epte=10d037
      ${VMENTRY}
      R 1 vec=14 err=4 cr2=40016040 pte=0`,
    );
    expect(steps.filter((step) => /read|exception|ept-/.test(step))).toEqual([
      'read user 40016040+1',
      '  exception 14 error 4 cr2 40016040',
      'read implicit 10d0e0+0 (inferred)',
      '  ept-violation 10d0e0 181',
    ]);
  });

  it('VMFUNC switches to the pointer in the list, unless it exits', () => {
    expect(behind(VMX + VMENTRY, '\nF vmfunc eptp_index=1 in=l2\nVMFUNC eptp index=1 vec=128 err=0 cr2=0')).toEqual([
      'eptp_switch type 0 0 20801e',
    ]);
    const refused = behind(VMX + VMENTRY, '\nF vmfunc eptp_index=2 in=l2\nL1 vmfunc exit qual=0 rip=10715c');
    expect(refused[0]).toBe('exit 3b 0');
  });

  it('an unannounced access to memory behind a protected table is found through the tables', () => {
    const steps = behind(
      VMX + VMENTRY,
      `
      E a=60a008 v=10005007 s=8
      P l2pt gpa=60a000 pte=10005007 epte=60a035
      E a=20e050 v=60a035 s=8
      L1 set epte gpa=60a000 l=1 epte@20e050=60a035 flush=1
      ${VMENTRY}
      ${VMENTRY}
      Q l2pt-rx k=fep-r u=1 vec=128 err=0 cr2=0 pte=10005027 pt_epte=60a035`,
    );
    expect(steps.filter((step) => /software|completed|entry-after/.test(step))).toEqual([
      'read user software 40a01040+1',
      '  completed',
      '  entry-after level 1 20e050=60a035',
      '  entry-after level 1 60a008=10005027',
    ]);
  });

  it("stores by the hypervisor's guest leave traces while EPT has A/D bits", () => {
    const store = '\nE a=60a010 v=10006007 s=8\nI invlpg 40a02000 in=l2';
    expect(behind(VMX + VMENTRY, store)).toEqual(['store 60a010=10006007 size 8', 'invlpg type 0 40a02000 0']);
    expect(behind(VMX + VMENTRY.replace('20701e', '20705e'), store)).toEqual([
      'store 60a010=10006007 size 8',
      'write 60a010+8 (inferred)',
      'invlpg type 0 40a02000 0',
    ]);
  });
});
