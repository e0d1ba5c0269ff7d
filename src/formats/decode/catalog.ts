/** Every decoder by name, with the options that it looks at: what `rewalk decode` offers. */

import type { Word64 } from '../../bits/word64.ts';
import { decodeCr0, decodeCr3, decodeCr4, decodeEfer, decodePkru } from './control-register.ts';
import { decodeEptEntry, decodeEptp } from './ept.ts';
import { decodeNpfExitInfo1, decodePfec, decodeQualification } from './fault.ts';
import { decodeExceptionBitmap, decodePfecFilter, decodeVmFunctions } from './guest-controls.ts';
import { decodeCpuRole, decodeExtendedRole, decodeRole, type KvmProfile } from './kvm-role.ts';
import { decodeSpte } from './kvm-spte.ts';
import { decodePageTableEntry, type PagingMode } from './page-table-entry.ts';
import type { DecodedWord } from './word.ts';

/** Everything that the meaning of some word depends on. */
export interface DecodeOptions {
  readonly level?: number | undefined;
  readonly paging?: PagingMode | undefined;
  readonly vendor?: 'intel' | 'amd' | undefined;
  readonly maxphyaddr?: number | undefined;
  readonly pse?: boolean | undefined;
  readonly pcide?: boolean | undefined;
  readonly mbec?: boolean | undefined;
  readonly ad?: boolean | undefined;
  readonly executeOnly?: boolean | undefined;
  readonly advanced?: boolean | undefined;
  readonly profile?: KvmProfile | undefined;
  readonly ept?: boolean | undefined;
}

export type DecodeOption = keyof DecodeOptions;

export interface DecodeFormat {
  readonly name: string;
  readonly aliases: readonly string[];
  /** What it is, for `--help`. */
  readonly summary: string;
  /** The options that make a difference. */
  readonly options: readonly DecodeOption[];
  readonly decode: (word: Word64, options: DecodeOptions) => DecodedWord;
}

const entryOptions: readonly DecodeOption[] = ['paging', 'vendor', 'maxphyaddr', 'pse'];
const eptOptions: readonly DecodeOption[] = ['maxphyaddr', 'mbec', 'ad', 'executeOnly'];

function entryFormat(name: string, level: number): DecodeFormat {
  return {
    name,
    aliases: [],
    summary: `page-table entry of level ${level}, also of NPT`,
    options: entryOptions,
    decode: (word, options) => decodePageTableEntry(word, level, options),
  };
}

function eptFormat(name: string, level: number): DecodeFormat {
  return {
    name,
    aliases: [],
    summary: `EPT entry of level ${level}`,
    options: eptOptions,
    decode: (word, options) => decodeEptEntry(word, level, { ...options, accessedDirty: options.ad }),
  };
}

/** The profile meant when none is named. */
const DEFAULT_PROFILE: KvmProfile = '7.3';

export const DECODE_FORMATS: readonly DecodeFormat[] = [
  {
    ...entryFormat('pte', 1),
    summary: 'page-table entry, also of NPT; --level 1 (PTE) to 5 (PML5E)',
    options: ['level', ...entryOptions],
    decode: (word, options) => decodePageTableEntry(word, options.level ?? 1, options),
  },
  entryFormat('pde', 2),
  entryFormat('pdpte', 3),
  entryFormat('pml4e', 4),
  entryFormat('pml5e', 5),
  {
    ...eptFormat('ept-pte', 1),
    aliases: ['ept'],
    summary: 'EPT entry; --level 1 to 5',
    options: ['level', ...eptOptions],
    decode: (word, options) => decodeEptEntry(word, options.level ?? 1, { ...options, accessedDirty: options.ad }),
  },
  eptFormat('ept-pde', 2),
  eptFormat('ept-pdpte', 3),
  eptFormat('ept-pml4e', 4),
  eptFormat('ept-pml5e', 5),
  {
    name: 'eptp',
    aliases: [],
    summary: 'EPT pointer',
    options: ['maxphyaddr'],
    decode: (word, options) => decodeEptp(word, options),
  },
  {
    name: 'pfec',
    aliases: ['error-code'],
    summary: 'page-fault error code',
    options: ['vendor'],
    decode: (word, options) => decodePfec(word, options.vendor),
  },
  {
    name: 'qualification',
    aliases: ['ept-violation'],
    summary: 'exit qualification of an EPT violation',
    options: ['mbec', 'advanced'],
    decode: (word, options) => decodeQualification(word, options),
  },
  {
    name: 'exitinfo1',
    aliases: ['npf'],
    summary: 'EXITINFO1 of a nested page fault',
    options: [],
    decode: (word) => decodeNpfExitInfo1(word),
  },
  {
    name: 'exception-bitmap',
    aliases: [],
    summary: 'exceptions of a guest that are VM exits',
    options: [],
    decode: (word) => decodeExceptionBitmap(word),
  },
  {
    name: 'pfec-filter',
    aliases: [],
    summary: 'page-fault error-code mask (low half) and match (high half)',
    options: [],
    decode: (word) => decodePfecFilter(word),
  },
  {
    name: 'vm-functions',
    aliases: [],
    summary: 'VM-function controls',
    options: [],
    decode: (word) => decodeVmFunctions(word),
  },
  { name: 'cr0', aliases: [], summary: 'CR0', options: [], decode: (word) => decodeCr0(word) },
  {
    name: 'cr3',
    aliases: [],
    summary: 'CR3, or the operand of MOV to CR3',
    options: ['pcide', 'paging'],
    decode: (word, options) => decodeCr3(word, { pcide: options.pcide, pae: options.paging === 'pae' }),
  },
  { name: 'cr4', aliases: [], summary: 'CR4', options: [], decode: (word) => decodeCr4(word) },
  { name: 'efer', aliases: [], summary: 'IA32_EFER', options: [], decode: (word) => decodeEfer(word) },
  { name: 'pkru', aliases: ['pkrs'], summary: 'PKRU or IA32_PKRS', options: [], decode: (word) => decodePkru(word) },
  {
    name: 'role',
    aliases: [],
    summary: "KVM's page role, as tracepoints print it",
    options: ['profile'],
    decode: (word, options) => decodeRole(word, options.profile ?? DEFAULT_PROFILE),
  },
  {
    name: 'extended-role',
    aliases: [],
    summary: "KVM's extended role",
    options: ['profile'],
    decode: (word, options) => decodeExtendedRole(word, options.profile ?? DEFAULT_PROFILE),
  },
  {
    name: 'cpu-role',
    aliases: [],
    summary: "KVM's CPU role: page role below, extended role above",
    options: ['profile'],
    decode: (word, options) => decodeCpuRole(word, options.profile ?? DEFAULT_PROFILE),
  },
  {
    name: 'spte',
    aliases: [],
    summary: "KVM's own entry; --ept for hosts with EPT",
    options: ['profile', 'ept', 'level'],
    decode: (word, options) =>
      decodeSpte(word, {
        profile: options.profile ?? DEFAULT_PROFILE,
        ept: options.ept ?? false,
        level: options.level ?? 1,
      }),
  },
];

/** The format of that name or alias. */
export function decodeFormat(name: string): DecodeFormat | undefined {
  return DECODE_FORMATS.find((format) => format.name === name || format.aliases.includes(name));
}
