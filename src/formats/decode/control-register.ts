/** CR0, CR3, CR4, EFER and PKRU: SDM vol. 3A 2.5, 4.5 and 4.6.2; APM vol. 2 3.1. */

import type { Word64 } from '../../bits/word64.ts';
import { bitsOf, type DecodedWord, decodeWord, type FieldSpec, field, flag, hex, ignored, reserved } from './word.ts';

/** A flag whose short token is its name. */
function named(name: string, bit: number, set: string, clear = 'off'): FieldSpec {
  return flag(name.toLowerCase().replaceAll('_', '-'), bit, name, set, clear);
}

export const CR0_FIELDS: readonly FieldSpec[] = [
  named('PE', 0, 'protected mode', 'real mode'),
  named('MP', 1, 'monitor coprocessor'),
  named('EM', 2, 'emulate x87'),
  named('TS', 3, 'task switched'),
  named('ET', 4, 'extension type'),
  named('NE', 5, 'x87 errors raise #MF'),
  ...reserved(15, 6),
  named('WP', 16, 'supervisor writes respect read-only pages', 'supervisor writes ignore read-only pages'),
  ...reserved(17, 17),
  named('AM', 18, 'alignment checks allowed'),
  ...reserved(28, 19),
  named('NW', 29, 'not write-through'),
  named('CD', 30, 'caches disabled', 'caches enabled'),
  named('PG', 31, 'paging on', 'paging off'),
  ...reserved(63, 32),
];

export const CR4_FIELDS: readonly FieldSpec[] = [
  named('VME', 0, 'virtual-8086 extensions'),
  named('PVI', 1, 'protected-mode virtual interrupts'),
  named('TSD', 2, 'RDTSC for CPL 0 only'),
  named('DE', 3, 'debugging extensions'),
  named('PSE', 4, '4-MByte pages in 32-bit paging', 'no 4-MByte pages in 32-bit paging'),
  named('PAE', 5, '8-byte entries', '4-byte entries'),
  named('MCE', 6, 'machine checks'),
  named('PGE', 7, 'global pages', 'no global pages'),
  named('PCE', 8, 'RDPMC for every CPL'),
  named('OSFXSR', 9, 'FXSAVE'),
  named('OSXMMEXCPT', 10, '#XM'),
  named('UMIP', 11, 'user-mode instruction prevention'),
  named('LA57', 12, '5-level paging in long mode', '4-level paging in long mode'),
  named('VMXE', 13, 'VMX'),
  named('SMXE', 14, 'SMX'),
  ...reserved(15, 15),
  named('FSGSBASE', 16, 'RDFSBASE and kin'),
  named('PCIDE', 17, 'process-context identifiers', 'every translation has PCID 0'),
  named('OSXSAVE', 18, 'XSAVE'),
  named('KL', 19, 'key locker'),
  named('SMEP', 20, 'no supervisor fetch from user pages', 'supervisor may fetch from user pages'),
  named('SMAP', 21, 'no supervisor data access to user pages unless RFLAGS.AC', 'supervisor may access user pages'),
  named('PKE', 22, 'protection keys for user pages', 'no protection keys for user pages'),
  named('CET', 23, 'control-flow enforcement'),
  named('PKS', 24, 'protection keys for supervisor pages', 'no protection keys for supervisor pages'),
  named('UINTR', 25, 'user interrupts'),
  ...reserved(26, 26),
  named('LASS', 27, 'linear-address-space separation', 'no linear-address-space separation'),
  named('LAM_SUP', 28, 'linear-address masking for supervisor pointers'),
  ...reserved(31, 29),
  named('FRED', 32, 'flexible return and event delivery'),
  ...reserved(63, 33),
];

export const EFER_FIELDS: readonly FieldSpec[] = [
  named('SCE', 0, 'SYSCALL'),
  ...reserved(7, 1),
  named('LME', 8, 'long mode enabled', 'no long mode'),
  ...reserved(9, 9),
  named('LMA', 10, 'long mode active', 'long mode not active'),
  named('NXE', 11, 'bit 63 of entries is execute-disable', 'bit 63 of entries is reserved'),
  named('SVME', 12, 'SVM'),
  named('LMSLE', 13, 'long-mode segment limits'),
  named('FFXSR', 14, 'fast FXSAVE'),
  named('TCE', 15, 'INVLPG keeps upper-level entries of other pages', 'INVLPG drops every upper-level entry'),
  ...reserved(16, 16),
  named('MCOMMIT', 17, 'MCOMMIT'),
  named('INTWB', 18, 'interruptible WBINVD'),
  ...reserved(19, 19),
  named('UAIE', 20, 'upper-address ignore'),
  named('AIBRSE', 21, 'automatic IBRS'),
  ...reserved(31, 22),
  ...reserved(63, 32),
];

export interface Cr3Context {
  /** CR4.PCIDE: bits 11:0 are the PCID. Default: off, they are PWT and PCD. */
  readonly pcide?: boolean | undefined;
  /** PAE paging: the table's address is bits 31:5. */
  readonly pae?: boolean | undefined;
}

/** CR3, or the source operand of MOV to CR3, whose bit 63 asks to keep translations (SDM vol. 3A 4.10.4.1). */
export function cr3Fields(context: Cr3Context = {}): FieldSpec[] {
  const cache = [
    flag('pwt', 3, 'PWT', 'write-through, by PAT', 'not write-through, by PAT'),
    flag('pcd', 4, 'PCD', 'cache disabled, by PAT', 'cache not disabled, by PAT'),
  ];
  if (context.pae === true) {
    return [
      ...ignored(2, 0),
      ...cache,
      field(
        'table',
        31,
        5,
        (v) => `PDPT at ${hex(v * 32)}`,
        (v) => `PDPT ${hex(v * 32)}`,
      ),
      ...ignored(63, 32),
    ];
  }
  const low =
    context.pcide === true
      ? [
          field(
            'pcid',
            11,
            0,
            (v) => `process-context identifier ${hex(v)}`,
            (v) => `pcid ${hex(v)}`,
          ),
        ]
      : [...ignored(2, 0), ...cache, ...ignored(11, 5)];
  return [
    field(
      'table',
      51,
      12,
      (v) => `top-level table at ${hex(v * 4096)}`,
      (v) => `gfn ${hex(v)}`,
    ),
    ...low,
    ...reserved(60, 52),
    flag('lam-u57', 61, 'LAM_U57', 'masking of user pointers, 57 bits', 'no LAM_U57'),
    flag('lam-u48', 62, 'LAM_U48', 'masking of user pointers, 48 bits', 'no LAM_U48'),
    flag(
      'no-flush',
      63,
      'no-flush',
      'operand of MOV to CR3: keep translations',
      'operand of MOV to CR3: drop translations',
    ),
  ];
}

export function decodeCr0(word: Word64): DecodedWord {
  return decodeWord('CR0', word, CR0_FIELDS);
}

export function decodeCr3(word: Word64, context: Cr3Context = {}): DecodedWord {
  return decodeWord('CR3', word, cr3Fields(context));
}

export function decodeCr4(word: Word64): DecodedWord {
  return decodeWord('CR4', word, CR4_FIELDS);
}

export function decodeEfer(word: Word64): DecodedWord {
  return decodeWord('EFER', word, EFER_FIELDS);
}

/** Bit 2i disables access, bit 2i+1 writing, by key i (SDM vol. 3A 4.6.2); IA32_PKRS has the same format. */
function keyRights(value: number): string {
  return ['all', 'no access', 'no write', 'no access'][value & 3] ?? '';
}

export const PKRU_FIELDS: readonly FieldSpec[] = [
  ...Array.from({ length: 16 }, (_, key) =>
    field(`key${key}`, 2 * key + 1, 2 * key, (value) => (value === 0 ? 'read and write' : keyRights(value))),
  ),
  ...reserved(63, 32),
];

/** `key 1 no access, key 3 no write`; `-` when nothing is denied. */
export function decodePkru(word: Word64, title: 'PKRU' | 'PKRS' = 'PKRU'): DecodedWord {
  const parts: string[] = [];
  for (let key = 0; key < 16; key++) {
    const value = bitsOf(word, 2 * key + 1, 2 * key);
    if (value !== 0) parts.push(`key ${key} ${keyRights(value)}`);
  }
  if (word.hi !== 0) parts.push('RSVD(63:32)');
  return decodeWord(title, word, PKRU_FIELDS, parts.length === 0 ? '-' : parts.join(', '));
}
