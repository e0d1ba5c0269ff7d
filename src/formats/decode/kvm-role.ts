/**
 * KVM's role words, whose layout depends on the kernel (facts/kvm-mmu.md §2.1 and §2.2): the base role that tracepoints
 * print raw as `role`, and the extended role in the upper half of a CPU role.
 */

import type { Word64 } from '../../bits/word64.ts';
import { type DecodedWord, decodeWord, type FieldSpec, field, flag, reserved } from './word.ts';

/** Kernel generations that differ in layouts and encodings. */
export const KVM_PROFILES = ['6.1', '7.3'] as const;
export type KvmProfile = (typeof KVM_PROFILES)[number];

/**
 * The access string of the kernel's own text: 6.1 `wux` (EXEC=1, WRITE=2, USER=4), 7.3 `rwux` (READ=1, WRITE=2, USER=4,
 * EXEC=8); facts/kvm-mmu.md §9.1.
 */
export function accessText(access: number, profile: KvmProfile): string {
  const letter = (bit: number, name: string): string => ((access & bit) !== 0 ? name : '-');
  if (profile === '6.1') return letter(2, 'w') + letter(4, 'u') + letter(1, 'x');
  return letter(1, 'r') + letter(2, 'w') + letter(4, 'u') + letter(8, 'x');
}

const low: readonly FieldSpec[] = [
  field(
    'level',
    3,
    0,
    (v) => (v === 0 ? 'no paging' : `level ${v}`),
    (v) => `l${v}`,
  ),
  field(
    'has-4-byte-gpte',
    4,
    4,
    (v) => (v === 1 ? 'shadows a table of 4-byte entries' : 'entries of 8 bytes'),
    (v) => (v === 1 ? '4-byte' : '8-byte'),
  ),
  field(
    'quadrant',
    6,
    5,
    (v) => `quarter or half ${v} of the guest table`,
    (v) => `q${v}`,
  ),
  flag('direct', 7, 'direct', 'no guest table is shadowed', 'shadows a guest table'),
];

function access(high: number, profile: KvmProfile): FieldSpec {
  const text = (v: number): string => accessText(v, profile);
  return field('access', high, 8, (v) => `rights inherited from the levels above: ${text(v)}`, text);
}

/** efer_nx and ad_disabled are printed the kernel's way, also when clear. */
function efer(bit: number): FieldSpec {
  return field(
    'efer-nx',
    bit,
    bit,
    (v) => (v === 1 ? 'NX is meaningful' : 'NX is not meaningful'),
    (v) => (v === 1 ? 'nxe' : '!nxe'),
  );
}
const ad = field(
  'ad-disabled',
  16,
  16,
  (v) => (v === 1 ? 'A/D bits not used' : 'A/D bits used'),
  (v) => (v === 1 ? '!ad' : 'ad'),
);
const guestMode = flag('guest-mode', 17, 'guest-mode', 'created while L2 is active', 'not created for L2');
const passthrough = flag('passthrough', 18, 'passthrough', 'extra top level over a 4-level NPT', 'no extra level');
const smm = field(
  'smm',
  31,
  24,
  (v) => (v === 0 ? 'not in SMM' : 'in SMM'),
  (v) => (v === 0 ? '' : 'smm'),
);

export function roleFields(profile: KvmProfile): FieldSpec[] {
  if (profile === '6.1') {
    return [
      ...low,
      access(10, profile),
      flag('invalid', 11, 'invalid', 'being zapped, must not be used', 'valid'),
      efer(12),
      ad,
      flag('cr0-wp', 13, 'wp', 'CR0.WP', 'CR0.WP clear'),
      flag('smep-andnot-wp', 14, 'smep-andnot-wp', 'SMEP without CR0.WP', 'not SMEP without CR0.WP'),
      flag('smap-andnot-wp', 15, 'smap-andnot-wp', 'SMAP without CR0.WP', 'not SMAP without CR0.WP'),
      guestMode,
      passthrough,
      ...reserved(23, 19),
      smm,
      ...reserved(63, 32),
    ];
  }
  return [
    ...low,
    access(11, profile),
    flag('invalid', 12, 'invalid', 'being zapped, must not be used', 'valid'),
    efer(13),
    ad,
    flag('cr0-wp', 14, 'wp', 'CR0.WP', 'CR0.WP clear'),
    flag('smap-andnot-wp', 15, 'smap-andnot-wp', 'SMAP without CR0.WP', 'not SMAP without CR0.WP'),
    guestMode,
    passthrough,
    flag('is-mirror', 19, 'mirror', 'TDX mirror root', 'no mirror'),
    flag('cr4-smep', 20, 'smep', 'SMEP; MBEC for EPT; GMET for NPT', 'no SMEP, MBEC or GMET'),
    ...reserved(23, 21),
    smm,
    ...reserved(63, 32),
  ];
}

/** The base role: `l4 8-byte q0 direct rwux nxe ad wp`, as the kernel prints a shadow page, then the other flags. */
export function decodeRole(word: Word64, profile: KvmProfile): DecodedWord {
  return decodeWord(`KVM ${profile} role`, word, roleFields(profile));
}

const EXTENDED_NAMES: Readonly<Record<KvmProfile, readonly string[]>> = {
  '6.1': ['valid', 'execonly', 'cr4_pse', 'cr4_pke', 'cr4_smap', 'cr4_smep', 'cr4_la57', 'efer_lma'],
  '7.3': ['valid', 'execonly', 'cr4_pse', 'cr4_pke', 'cr4_smap', 'cr4_la57', 'efer_lma', 'has_pferr_fetch'],
};

const EXTENDED_WORDS: Readonly<Record<string, string>> = {
  valid: 'in use',
  execonly: 'execute-only EPT entries allowed',
  cr4_pse: 'CR4.PSE',
  cr4_pke: 'CR4.PKE in long mode',
  cr4_smap: 'CR4.SMAP',
  cr4_smep: 'CR4.SMEP',
  cr4_la57: 'CR4.LA57 in long mode',
  efer_lma: 'long mode',
  has_pferr_fetch: 'fetches set F in error codes',
};

export function extendedRoleFields(profile: KvmProfile): FieldSpec[] {
  const flags = EXTENDED_NAMES[profile].map((name, bit) =>
    flag(name.replaceAll('_', '-'), bit, name, EXTENDED_WORDS[name] ?? name, `not: ${EXTENDED_WORDS[name] ?? name}`),
  );
  return [...flags, ...reserved(31, 8), ...reserved(63, 32)];
}

export function decodeExtendedRole(word: Word64, profile: KvmProfile): DecodedWord {
  return decodeWord(`KVM ${profile} extended role`, word, extendedRoleFields(profile));
}

/** Both halves of a CPU role: the base role below, the extended role above. */
export function decodeCpuRole(word: Word64, profile: KvmProfile): DecodedWord {
  const base = decodeRole({ lo: word.lo, hi: 0 }, profile);
  const extended = decodeExtendedRole({ lo: word.hi, hi: 0 }, profile);
  const raised = extended.fields.map((f) => ({ ...f, high: f.high + 32, low: f.low + 32 }));
  return {
    title: `KVM ${profile} CPU role`,
    word,
    short: `${base.short}; ${extended.short}`,
    fields: [...base.fields, ...raised],
  };
}
