import { describe, expect, it } from 'vitest';
import { tell } from './tell.ts';

/** A 64-bit guest that announces its boot: four tables, one page at 40001000h. */
const BOOT = `
VMM start blob=/bin/g64.bin bytes=20576 mode=4
Z page=200000
Z page=201000
Z page=207000
Z page=209000
E a=200000 v=201007 s=8
E a=201008 v=207007 s=8
E a=207000 v=209007 s=8
E a=209008 v=301007 s=8
C cr4 00000020
C cr3 00200000
C efer 00000900
C cr0 80010011
`;
const BOOT_LINES = 13;
const BOOT_STEPS = 14;

function afterBoot(log: string, splitsRmw = false) {
  const told = tell(BOOT + log, {}, splitsRmw);
  return { ...told, steps: told.steps.slice(BOOT_STEPS) };
}

describe('stimuli', () => {
  it('become steps as they are announced', () => {
    expect(tell(BOOT).steps).toEqual([
      'note guest /bin/g64.bin',
      'set cr0=11 (inferred)',
      'clear 200000',
      'clear 201000',
      'clear 207000',
      'clear 209000',
      'store 200000=201007 size 8',
      'store 201008=207007 size 8',
      'store 207000=209007 size 8',
      'store 209008=301007 size 8',
      'write cr4=20',
      'write cr3=200000',
      'write efer=900',
      'write cr0=80010011',
    ]);
  });

  it('are fills of 8 bytes per entry, of 4 in the two-level guest', () => {
    expect(afterBoot('B a=203000 n=512 v=3 step=1000').steps).toEqual(['fill 203000 512x8 3+1000']);
    const small = 'VMM start blob=/bin/g32.bin bytes=1 mode=2\nB a=201000 n=1024 v=3 step=1000';
    expect(tell(small).steps.at(-1)).toBe('fill 201000 1024x4 3+1000');
  });

  it('are invalidations, but not those that the processor refused', () => {
    const { steps, omissions } = afterBoot(`
      I invlpg 40001000
      I invept 1 20701e
      L1 invept type=1 desc=20701e,0 flags=0 insn_error=0
      I invept 3 20701e
      L1 invept type=3 desc=20701e,0 flags=40 insn_error=1c
      I invvpid 0 1 40009000
      L1 invvpid type=0 desc=1,40009000 flags=0 insn_error=0
      I invlpga 40001000 1`);
    expect(steps).toEqual([
      'invlpg type 0 40001000 0',
      'invept type 1 0 20701e',
      'invvpid type 0 40009000 1',
      'invlpga type 0 40001000 1',
    ]);
    expect(omissions).toEqual({ 'invalidation refused': 1 });
  });

  it('of the VMM are notes, and pages that it drops are cleared', () => {
    expect(afterBoot('V memslot delete slot=0\nV madvise_dontneed gpa=400000 len=2000').steps).toEqual([
      'note memory slot 0 deleted',
      'note madvise(MADV_DONTNEED) gpa=400000 length=2000',
      'clear 400000',
      'clear 401000',
    ]);
  });

  it.each([
    ['a store of three bytes', 'E a=209000 v=1 s=3'],
    ['a store that is not aligned', 'E a=209004 v=1 s=8'],
    ['a run longer than a page', 'B a=209008 n=512 v=3 step=1000'],
    ['an unknown register', 'C dr7 0'],
    ['an invalidation of a type that does not exist', 'I invept 9 0'],
    ['more memory than there is', 'V madvise_dontneed gpa=0 len=ffffffffffffffff'],
  ])('are refused with their line: %s', (_what, line) => {
    expect(() => afterBoot(line)).toThrowError(
      expect.objectContaining({ code: 'E_IMPORT', place: { line: BOOT_LINES + 1 } }),
    );
  });
});

describe('accesses', () => {
  it('expect what the guest saw, and the entry as it was re-read', () => {
    const { steps } = afterBoot(`
      T 1 mtx k=r u=0 ac=0 va=40001040 pte@209008=301007 cfg=wp
      R 1 ok pte=301027
      T 2 mtx k=w u=1 ac=1 va=40001040 pte@209008=301027 cfg=wp
      R 2 vec=14 err=7 cr2=40001040 pte=301027`);
    expect(steps).toEqual([
      'note mtx cfg=wp',
      'read 40001040+1',
      '  completed',
      '  entry-after level 0 209008=301027',
      'write user ac 40001040+1',
      '  exception 14 error 7 cr2 40001040',
      '  entry-after level 0 209008=301027',
    ]);
  });

  it('before the one that faulted have completed', () => {
    const { steps } = afterBoot(`
      T 1 mtx k=fep-x u=1 ac=0 va=40001000 pte@209008=301007 cfg=
      R 1 vec=6 err=0 cr2=0 pte=301007
      T 2 mtx k=fep-x u=1 ac=0 va=40001000 pte@209008=301007 cfg=
      R 2 vec=14 err=15 cr2=40000ffb pte=301007`);
    expect(steps.slice(1)).toEqual([
      'fetch user 40000ffb+5 (inferred)',
      '  completed',
      'fetch user software 40001000+1',
      '  exception 6 error 0 cr2 0',
      '  entry-after level 0 209008=301007',
      'fetch user 40000ffb+5 (inferred)',
      '  exception 14 error 15 cr2 40000ffb',
      '  entry-after level 0 209008=301007',
    ]);
  });

  it('of a locked instruction fault as the load or the store that they are', () => {
    const log = (error: number) => `
      T 1 mtx k=rmw u=0 ac=0 va=40001040 pte@209008=301007 cfg=
      R 1 vec=14 err=${error} cr2=40001040 pte=301007`;
    expect(afterBoot(log(1), true).steps.slice(1, 3)).toEqual([
      'read 40001040+1',
      '  exception 14 error 1 cr2 40001040',
    ]);
    expect(afterBoot(log(3), true).steps.slice(1, 5)).toEqual([
      'read 40001040+1',
      '  completed',
      'write 40001040+1',
      '  exception 14 error 3 cr2 40001040',
    ]);
    expect(afterBoot(log(3)).steps.slice(1, 3)).toEqual(['rmw 40001040+1', '  exception 14 error 3 cr2 40001040']);
  });

  it('of a call that faults elsewhere are the push of its return address', () => {
    const { steps } = afterBoot(`
      T 1 nonxe k=x u=1 ac=0 va=40001000 pte@209008=301007 cfg=nonxe
      R 1 vec=14 err=f cr2=50002fe8 pte=301007`);
    expect(steps.slice(1, 5)).toEqual([
      'fetch user 40001000+1',
      '  completed',
      'write user 50002fe8+8 (inferred)',
      '  exception 14 error f cr2 50002fe8',
    ]);
  });

  it('store what was announced for them, once they completed', () => {
    const { steps } = afterBoot(`
      W a=209010 v=0 s=1
      T 1 fep-w-to-pt k=fep-w u=0 ac=0 va=40001010 pte@209008=301007 cfg=
      R 1 ok pte=301067`);
    expect(steps.slice(1)).toEqual([
      'write software 40001010+1',
      '  completed',
      'store 209010=0 size 1',
      'note the guest reads entries',
      '  entry-after level 0 209008=301067',
    ]);
  });

  it('that invalidate are invalidations, and those without memory are none', () => {
    const { steps } = afterBoot(`
      T 1 t k=fep-invlpg u=0 ac=0 va=40001000 pte@209008=301007 cfg=
      R 1 ok pte=301007
      T 2 t k=ud2 u=0 ac=0 va=0 pte@0=0 cfg=
      R 2 vec=6 err=0 cr2=0 pte=0`);
    expect(steps).toEqual(['note t', 'invlpg type 0 40001000 0', '  entry-after level 0 209008=301007']);
  });

  it('of KVM_TRANSLATE lead to its address, or fail in a way that nobody knows', () => {
    const { steps, omissions } = afterBoot(`
      X gva=40001040 KVM_TRANSLATE begin
      X gva=40001040 gpa=301040 valid=1 writeable=1 usermode=0
      X gva=40003040 KVM_TRANSLATE begin
      X gva=40003040 gpa=ffffffffffffffff valid=0 writeable=1 usermode=0`);
    expect(steps).toEqual(['read software 40001040+0 -> 301040', 'read software 40003040+0', '  faulted']);
    expect(omissions).toEqual({});
  });

  it('of unknown kinds, and faults at addresses that they do not touch, are refused with their line', () => {
    const place = (line: number) => expect.objectContaining({ code: 'E_IMPORT', place: { line: BOOT_LINES + line } });
    expect(() => afterBoot('T 1 t k=cmpxchg u=0 ac=0 va=0 pte@0=0 cfg=\nR 1 ok pte=0')).toThrowError(place(1));
    const elsewhere = 'T 1 t k=r u=0 ac=0 va=40001040 pte@0=0 cfg=\nR 1 vec=14 err=0 cr2=50000000 pte=0';
    expect(() => afterBoot(elsewhere)).toThrowError(place(2));
    const untold = 'T 1 t k=r u=0 ac=0 va=40001040 pte@0=0 cfg=\nR 1 vec=254 err=100000004 cr2=10001040 pte=0';
    expect(() => afterBoot(untold)).toThrowError(place(2));
  });

  it('at the end of a log that was cut short expect nothing', () => {
    const { steps, omissions } = afterBoot('T 1 t k=r u=0 ac=0 va=40001040 pte@209008=301007 cfg=');
    expect(steps).toEqual(['note t']);
    expect(omissions).toEqual({ 'access without a result': 1 });
  });
});

describe('entries that the guest read', () => {
  it('may have been accessed and dirtied, but not otherwise changed', () => {
    const { steps, omissions } = afterBoot(`
      T 1 t k=r u=0 ac=0 va=40001040 pte@209008=301067 cfg=
      R 1 ok pte=301067
      T 2 t k=r u=0 ac=0 va=40001040 pte@209008=301005 cfg=
      R 2 ok pte=301025
      T 3 t k=r u=0 ac=0 va=40003040 pte@20a018=303007 cfg=
      R 3 ok pte=303027`);
    expect(omissions).toEqual({ 'unexplained overwrite': 1, 'entry first known when read': 1 });
    expect(steps.filter((step) => step.startsWith('know'))).toEqual([
      'know 209008=301005 size 8 (inferred)',
      'know 20a018=303007 size 8 (inferred)',
    ]);
  });

  it('above a leaf are expected of the step before', () => {
    const { steps } = afterBoot('I invlpg 40001000\nM level=2 entry@207000=209007');
    expect(steps).toEqual(['invlpg type 0 40001000 0', '  entry-after level 2 207000=209007']);
  });

  it('and found accessed although a reserved bit made the access fault are stated as they are', () => {
    const { steps, omissions } = afterBoot(`
      E a=209008 v=8000000301007 s=8
      T 1 t k=r u=0 ac=0 va=40001040 pte@209008=8000000301007 cfg=
      R 1 vec=14 err=8 cr2=40001040 pte=8000000301027`);
    expect(steps.slice(-3)).toEqual([
      '  exception 14 error 8 cr2 40001040',
      '  entry-after level 0 209008=8000000301027',
      'know 209008=8000000301027 size 8 (inferred)',
    ]);
    expect(omissions).toEqual({ 'A or D set by an access that faulted on a reserved bit': 1 });
  });
});

describe('states told after the fact', () => {
  it('confirm what was announced, and say so when they do not', () => {
    const agreed = afterBoot('CFG wp cr0=80010011 cr3=200000 cr4=20 efer=d00\nROOT cr3=200000');
    expect(agreed.steps).toEqual([]);
    const differing = afterBoot('CFG nowp cr0=80000011 cr3=200000 cr4=20 efer=d00');
    expect(differing.steps).toEqual(['set cr0=80000011']);
    expect(differing.omissions).toEqual({ 'register found changed': 1 });
  });

  it('are how writes become known where none is announced', () => {
    const dump = 'cr0=80010011 cr3=200000 cr4=20 efer=d00';
    const { steps } = tell(
      `VMM start blob=/bin/g64.bin bytes=1 mode=4
       BOOT levels=4 cr3=106000
       ROOT cr3=200000
       CFG wp cr0=80010011 cr3=200000 cr4=20 efer=d00
       DUMP dump00_start.txt
       PGE on
       CR3 reload
       CR0.WP=0
       PKRU=4
       PGE off`,
      { 'dump00_start.txt': dump },
    );
    expect(steps).toEqual([
      'note guest /bin/g64.bin',
      'set cr4=20 (inferred)',
      'set efer=d00 (inferred)',
      'set cr0=80010011 (inferred)',
      'set cr3=106000',
      'write cr3=200000',
      'note dump dump00_start.txt',
      'write cr4=a0',
      'write cr3=200000',
      'write cr0=80000011',
      'write pkru=4',
      'write cr4=20',
    ]);
  });

  it('in a dump are the registers of whatever runs then', () => {
    const { steps, omissions } = tell(`${BOOT}DUMP a`, { a: 'cr0=80010011 cr3=201000 cr4=20 efer=d00' });
    expect(steps.slice(BOOT_STEPS)).toEqual(['note dump a', 'set cr3=201000 (dump)']);
    expect(omissions).toEqual({ 'register found changed': 1 });
  });
});

describe('a run of steps', () => {
  it('is handed over before it gets long, with the registers that it begins with', () => {
    const { columns } = tell(BOOT + 'I invlpg 1000\n'.repeat(20_000));
    expect(columns.map((run) => run.stepCount)).toEqual([16_384, BOOT_STEPS + 20_000 - 16_384]);
    expect(columns[1]!.firstOrdinal).toBe(16_384);
    // CR3, and EFER with the LMA bit that no mark names.
    expect([columns[1]!.registers[2], columns[1]!.registers[6]]).toEqual([0x20_0000, 0xd00]);
  });
});
