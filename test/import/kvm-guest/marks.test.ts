import { describe, expect, it } from 'vitest';
import { Problem } from '../../../src/bits/problem.ts';
import { parseMark } from '../../../src/import/kvm-guest/marks.ts';

describe('marks', () => {
  it('read hexadecimal, decimal and text fields as what they are', () => {
    expect(parseMark('T 12 mtx k=fep-rmw u=1 ac=0 va=40001040 pte@209008=8000000000301007 cfg=smap+ac', 7)).toEqual({
      kind: 'access',
      line: 7,
      inL2: false,
      n: 12,
      tag: 'mtx',
      access: 'fep-rmw',
      user: 1,
      ac: 0,
      va: 0x40001040n,
      entryAddress: 0x209008n,
      entry: 0x8000_0000_0030_1007n,
      configuration: 'smap+ac',
    });
    expect(parseMark('B a=203000 n=512 v=3 step=1000', 1)).toMatchObject({
      kind: 'fill',
      count: 512,
      increment: 0x1000n,
    });
  });

  it('say who does it, where the line says so', () => {
    expect(parseMark('C cr4 2020 in=l2', 1)).toMatchObject({ kind: 'registerWrite', register: 'cr4', inL2: true });
    expect(parseMark('C cr4 2020', 1)).toMatchObject({ inL2: false });
  });

  it('tell lines apart that begin alike', () => {
    const kinds = [
      'R 1 ok pte=301021',
      'R 1 vec=14 err=4 cr2=40001040 pte=0',
      'X gva=40001040 KVM_TRANSLATE begin',
      'X gva=40001040 gpa=301040 valid=1 writeable=1 usermode=0',
      'L1 eptp=20705e (A/D on)',
      'L1 eptp=20801e',
      'L1 NPF gpa=10001040 info1=100000004 rip=1050a4 cpl=0 policy=1',
      'L1 NPF fix npte=301007',
      'Q l2pt-ro-AD-preset k=w vec=254',
      'Q l2pt-rx-AD-preset k=w vec=254 err=aa cr2=60a008 pt_epte=60a135',
      'L1 bad entry vpid 0: flags=40 insn_error=7',
      'L1 bad entry efer lma/lme: exit reason=80000021 qual=0',
      'CR3 switch to 200000',
      'CR3 reload',
      'PG on',
      'PG on cr0=80010011 cr3=200000 cr4=20',
    ].map((line) => parseMark(line, 1).kind);
    expect(kinds).toEqual([
      'completed',
      'excepted',
      'translateBegin',
      'translated',
      'l1EptpAd',
      'l1Eptp',
      'l1Npf',
      'l1NpfFix',
      'quietNptPreset',
      'quietEptPreset',
      'l1BadEntryFailed',
      'l1BadEntryExited',
      'cr3Switch',
      'cr3Reload',
      'pagingOn',
      'pagingOnState',
    ]);
  });

  it.each([
    'STRAY exception vec=14 err=0 cr2=0 rip=0',
    'WATCHDOG',
    'E a=209008 v=301000',
    'E a=209008 v=301000 s=8 x',
    'T 1 mtx k=r u=0 ac=0 va=xyz pte@0=0 cfg=wp',
    '',
    'constructor',
  ])('refuse what they do not know: %s', (line) => {
    const parse = () => parseMark(line, 41);
    expect(parse).toThrow(Problem);
    expect(parse).toThrow(/unknown mark/);
    try {
      parse();
    } catch (error) {
      expect((error as Problem).place).toEqual({ line: 41 });
    }
  });
});
