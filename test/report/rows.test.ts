import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import {
  Dim,
  elementRow,
  entryWriteRow,
  OBS_DIM_SHIFT,
  OBS_EXCEPTION_EXITS,
  OBS_LEARNED,
  OBS_LEVEL_SHIFT,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_NO_LINEAR,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_REGISTER_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../src/formats/observation.ts';
import { Reg } from '../../src/formats/registers.ts';
import { AccessType } from '../../src/formats/step.ts';
import { type RowContext, rowText } from '../../src/report/rows.ts';

function text(op: number, address: bigint, value: bigint, context: RowContext = {}): string {
  const [a, v] = [fromBigInt(address), fromBigInt(value)];
  return rowText(op, a.lo, a.hi, v.lo, v.hi, context);
}

describe('entries', () => {
  test('an element names whose entry it is, where it is and what it says', () => {
    expect(text(elementRow(Dim.GUEST, 4, false), 0x40e000n, 0x40d027n)).toBe(
      'guest PML4E [0x40e000] = 0x40d027  P W U A gfn 0x40d',
    );
    expect(text(elementRow(Dim.EPT, 1, false), 0x10_3048n, 0x20_9037n)).toBe(
      'EPT PTE [0x103048] = 0x209037  RWX WB gfn 0x209',
    );
    expect(text(elementRow(Dim.NPT, 2, false), 0x10_3048n, 0x60_00e7n)).toBe(
      'NPT PDE [0x103048] = 0x6000e7  P W U A D 2M gfn 0x600',
    );
  });

  test('a 4-byte entry is decoded as one', () => {
    expect(text(elementRow(Dim.GUEST, 2, true), 0x1000n, 0x40_00e7n)).toBe(
      'guest PDE [0x1000] = 0x4000e7  P W U A D 4M gfn 0x400',
    );
  });

  test('the context reaches the decoder: MAXPHYADDR, PAE', () => {
    expect(text(elementRow(Dim.GUEST, 1, false), 0x1000n, (1n << 40n) | 1n, { maxphyaddr: 40 })).toContain(
      'RSVD(51:40)',
    );
    expect(
      text(elementRow(Dim.GUEST, 1, false), 0x1000n, (1n << 40n) | 1n, { maxphyaddr: 40, paging: 'pae' }),
    ).toContain('RSVD(62:40)');
  });

  test('a write-back and a re-read entry differ from a read one', () => {
    expect(text(entryWriteRow(Dim.GUEST, 1, false), 0x1000n, 0x2067n)).toBe(
      'guest PTE [0x1000] := 0x2067  P W U A D gfn 0x2',
    );
    expect(text(Obs.ENTRY_AFTER | (1 << OBS_LEVEL_SHIFT), 0x1000n, 0x2067n)).toBe(
      'guest PTE [0x1000] afterwards 0x2067  P W U A D gfn 0x2',
    );
  });

  test('a PDPTE register has an index', () => {
    expect(text(Obs.PDPTE | (3 << OBS_LEVEL_SHIFT), 0n, 0x2001n)).toBe('PDPTE3 register = 0x2001  P gfn 0x2');
  });

  test('addresses use all 64 bits', () => {
    expect(text(Obs.EXIT_LINEAR, 0xffff_8000_0000_0001n, 0n)).toBe(
      'exit reports guest-linear address 0xffff800000000001',
    );
  });
});

describe('walks and results', () => {
  const ept = Dim.EPT << OBS_DIM_SHIFT;

  test('a second-stage walk says for what it was asked', () => {
    const table = Obs.NESTED_WALK | ept | (AccessType.WRITE << OBS_NESTED_ACCESS_SHIFT) | OBS_NESTED_OF_TABLE;
    expect(text(table, 0x40e000n, 0n)).toBe('EPT walk of gpa 0x40e000: write, paging-structure entry');
    const final = Obs.NESTED_WALK | ept | OBS_NESTED_USER | OBS_NESTED_WRITABLE | OBS_NESTED_NO_LINEAR;
    expect(text(final, 0x20_9040n, 0n)).toBe(
      'EPT walk of gpa 0x209040: read, final address, page so far user writable, no linear address',
    );
  });

  test('a translation, with the guest-physical address where it differs', () => {
    const page4k = Obs.TRANSLATED | (12 << OBS_PAGE_SHIFT_SHIFT);
    expect(text(page4k, 0x20_9040n, 0x20_9040n)).toBe('translated to 0x209040, page of 4K');
    expect(text(page4k, 0x120_9040n, 0x20_9040n)).toBe('translated to 0x1209040 (gpa 0x209040), page of 4K');
    expect(text(Obs.COMPLETED, 0n, 0n)).toBe('completed, physical address not seen');
    expect(text(Obs.FAULTED, 0n, 0n)).toBe('faulted, how was not seen');
  });

  test('a page fault has CR2 and words, another exception has neither', () => {
    expect(text(Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT), 0x4000_1040n, 0x15n)).toBe(
      '#PF error 0x15 (P U F) cr2 0x40001040',
    );
    expect(text(Obs.EXCEPTION | (13 << OBS_VECTOR_SHIFT), 0n, 0n)).toBe('#GP error 0x0');
    expect(text(Obs.EXCEPTION | (13 << OBS_VECTOR_SHIFT) | OBS_EXCEPTION_EXITS, 0n, 0n)).toBe(
      '#GP error 0x0, a VM exit',
    );
    expect(text(Obs.PML_FULL, 0x7008n, 0n)).toBe('page-modification log full, gpa 0x7008 not logged');
  });

  test('nested faults', () => {
    expect(text(Obs.EPT_VIOLATION, 0x1001_1040n, 0x1aan)).toBe(
      'EPT violation gpa 0x10011040 qualification 0x1aa (write; entry R-X; linear, final)',
    );
    expect(text(Obs.EPT_MISCONFIG, 0x1001_1040n, 0n)).toBe('EPT misconfiguration gpa 0x10011040');
    expect(text(Obs.NPF, 0x1001_1040n, 0x2_0000_0007n)).toBe('NPF gpa 0x10011040 exitinfo1 0x200000007 (P W U; table)');
  });
});

describe('the rest', () => {
  test('registers, PDPTE loads, what is not modelled', () => {
    expect(text(Obs.REGISTER | (Reg.CR0 << OBS_REGISTER_SHIFT), 0n, 0x8001_0001n)).toBe('cr0 = 0x80010001  PE WP PG');
    expect(text(Obs.REGISTER | (Reg.VPID << OBS_REGISTER_SHIFT), 0n, 5n)).toBe('vpid = 0x5');
    expect(text(Obs.PDPTE_LOADED, 0n, 1n)).toBe('PDPTE registers loaded');
    expect(text(Obs.PDPTE_LOADED, 0n, 0n)).toBe('PDPTE registers refused: a reserved bit is set');
    expect(text(Obs.NOT_MODELLED | (3 << OBS_NOT_MODELLED_SHIFT), 0n, 0n)).toBe('not modelled: lam');
  });

  test('a learned value is marked', () => {
    expect(text((elementRow(Dim.GUEST, 1, false) | OBS_LEARNED) >>> 0, 0x1000n, 0n)).toBe(
      'guest PTE [0x1000] = 0x0  not present  [learned]',
    );
  });

  test('a kind or number that does not exist is printed, not thrown at', () => {
    expect(text(29, 1n, 2n)).toBe('observation 29 address 0x1 value 0x2');
    expect(text(Obs.NOT_MODELLED | (99 << OBS_NOT_MODELLED_SHIFT), 0n, 0n)).toBe('not modelled: number 99');
    expect(text(Obs.REGISTER | (60 << OBS_REGISTER_SHIFT), 0n, 0n)).toBe('register 60 = 0x0');
    expect(text(elementRow(Dim.GUEST, 7, false), 0n, 1n)).toContain('guest level 7 entry');
  });
});
