import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import {
  decodeNpfExitInfo1,
  decodePfec,
  decodeQualification,
  exceptionName,
  type QualificationContext,
} from '../../src/formats/decode/fault.ts';

describe('page-fault error codes (SDM vol. 3A figure 4-12)', () => {
  const cases: [bigint, string][] = [
    [0x0n, '-'],
    [0x1n, 'P'],
    [0x2n, 'W'],
    [0x4n, 'U'],
    [0x8n, 'RSVD'],
    [0x9n, 'P RSVD'],
    [0x10n, 'F'],
    [0x15n, 'P U F'],
    [0x27n, 'P W U PK'],
    [0x47n, 'P W U SS'],
    [0x80n, 'HLAT'],
    [0x8007n, 'P W U SGX'],
    [0x107n, 'P W U RSVD(14:8)'],
  ];
  test.each(cases)('0x%s', (word, expected) => {
    expect(decodePfec(fromBigInt(word)).short).toBe(expected);
  });

  test('on AMD bit 31 is an RMP violation and bit 15 means nothing', () => {
    expect(decodePfec(fromBigInt(0x8000_0007n), 'amd').short).toBe('P W U RMP');
    expect(decodePfec(fromBigInt(0x8007n), 'amd').short).toBe('P W U RSVD(30:7)');
  });

  test('a clear bit has words of its own', () => {
    const words = decodePfec(fromBigInt(0x0n)).fields.map((f) => f.words);
    expect(words.slice(0, 3)).toEqual(['a non-present page', 'the access was a read', 'a supervisor-mode access']);
  });
});

describe('EPT exit qualifications (SDM vol. 3C table 28-7)', () => {
  const cases: [bigint, QualificationContext, string][] = [
    // As recorded: kvm-intel/nest_ept.
    [0x181n, {}, 'read; entry ---; linear, final'],
    [0x182n, {}, 'write; entry ---; linear, final'],
    [0x184n, {}, 'fetch; entry ---; linear, final'],
    [0x19cn, {}, 'fetch; entry RW-; linear, final'],
    [0x1aan, {}, 'write; entry R-X; linear, final'],
    [0x183n, {}, 'read+write; entry ---; linear, final'],
    [0x81n, {}, 'read; entry ---; linear, table'],
    [0xaan, {}, 'write; entry R-X; linear, table'],
    [0xabn, {}, 'read+write; entry R-X; linear, table'],
    [0x29n, {}, 'read; entry R-X; no linear address'],
    // Bit 6: user-execute under mode-based execute control only.
    [0x1ccn, {}, 'fetch; entry R--U; linear, final'],
    [0x1ccn, { mbec: false }, 'fetch; entry R--; linear, final'],
    [0x18cn, { mbec: true }, 'fetch; entry R---; linear, final'],
    // Bits 11:9: advanced VM-exit information.
    [0x7aan, {}, 'write; entry R-X; linear, final; page user writable'],
    [0x9aan, {}, 'write; entry R-X; linear, final; page supervisor read-only NX'],
    [0x1aan, { advanced: true }, 'write; entry R-X; linear, final; page supervisor read-only'],
    [0x7aan, { advanced: false }, 'write; entry R-X; linear, final'],
    // Bits 16:12.
    [0x1182n, {}, 'write; entry ---; linear, final; NMI unblocking'],
    [0x2182n, {}, 'write; entry ---; linear, final; shadow stack'],
    [0x1_0181n, {}, 'read; entry ---; linear, final; asynchronous'],
    [0x2_0181n, {}, 'read; entry ---; linear, final; RSVD(63:17)'],
  ];
  test.each(cases)('0x%s %o', (word, context, expected) => {
    expect(decodeQualification(fromBigInt(word), context).short).toBe(expected);
  });

  test('bit 8 is reserved where bit 7 is clear', () => {
    expect(decodeQualification(fromBigInt(0x101n)).fields.find((f) => f.low === 8)?.words).toBe(
      'reserved without a linear address',
    );
  });
});

describe('EXITINFO1 of nested page faults (APM vol. 2 15.25.6)', () => {
  const cases: [bigint, string][] = [
    // As recorded: kvm/c_nest_np1.
    [0x1_0000_0004n, 'U; final'],
    [0x1_0000_0007n, 'P W U; final'],
    [0x1_0000_000dn, 'P U RSVD; final'],
    [0x1_0000_0015n, 'P U F; final'],
    [0x2_0000_0007n, 'P W U; table'],
    [0x0n, '-; no stage'],
    [0x3_0000_0004n, 'U; final and table'],
    [0x1_8000_0006n, 'W U RMP; final'],
  ];
  test.each(cases)('0x%s', (word, expected) => {
    expect(decodeNpfExitInfo1(fromBigInt(word)).short).toBe(expected);
  });
});

test('exception vectors have the manuals names, others their number', () => {
  expect(exceptionName(14)).toBe('#PF');
  expect(exceptionName(13)).toBe('#GP');
  expect(exceptionName(200)).toBe('vector 200');
});
