/**
 * KVM's own page-table entries (SPTEs): the hardware format, x86 or EPT, plus KVM's software bits, which moved between
 * kernels (7.3: facts/kvm-mmu.md §6.7 and §6.11; 6.1: facts/kvm-6.1.md §0 and §6).
 *
 * On hosts with the L1TF mitigation, MMIO SPTEs carry five gfn bits elsewhere; those are not put back here.
 */

import type { Word64 } from '../../bits/word64.ts';
import { memoryTypeName } from './ept.ts';
import type { KvmProfile } from './kvm-role.ts';
import { pageSizeName } from './page-table-entry.ts';
import { bitOf, bitsOf, type DecodedWord, decodeWord, type FieldSpec, field, flag, hex, ignored } from './word.ts';

export interface SpteContext {
  readonly profile: KvmProfile;
  /** Whether the host's tables are EPT; else x86 (NPT or shadow paging). */
  readonly ept: boolean;
  /** Level of the table that the entry stands in, 1 to 5. Tells tables from pages. */
  readonly level: number;
}

/** What an SPTE is; every word is exactly one of these. */
export type SpteKind = 'empty' | 'frozen' | 'mmio' | 'leaf' | 'table' | 'not-present';

/** The value of an SPTE that the TDP MMU is removing. */
const FROZEN: Readonly<Record<KvmProfile, Word64>> = {
  '6.1': { lo: 0x5a0, hi: 0 },
  '7.3': { lo: 0x1a0, hi: 0x8000_0000 },
};

export function spteKind(word: Word64, context: SpteContext): SpteKind {
  const frozen = FROZEN[context.profile];
  if (word.lo === frozen.lo && word.hi === frozen.hi) return 'frozen';
  if (bitOf(word, 11)) return context.level === 1 || bitOf(word, 7) ? 'leaf' : 'table';
  if (context.ept ? bitsOf(word, 2, 0) === 6 : bitOf(word, 0) && bitOf(word, 51)) return 'mmio';
  const initial = context.profile === '7.3' ? word.hi % 0x8000_0000 : word.hi;
  return word.lo === 0 && initial === 0 ? 'empty' : 'not-present';
}

const AD_TYPES = ['A/D bits in use', 'A/D bits disabled', 'write-protect only (PML while L2 runs)', 'undefined'];
const AD_TOKENS = ['', 'ad-disabled', 'ad-wrprot-only', 'ad-type-3'];

function adType(low: number): FieldSpec {
  return field(
    'ad-type',
    low + 1,
    low,
    (v) => AD_TYPES[v] ?? '',
    (v) => AD_TOKENS[v] ?? '',
  );
}

function hostWritable(bit: number): FieldSpec {
  return flag('host-writable', bit, 'host-w', 'the host maps the page writable', 'the host maps the page read-only');
}

function mmuWritable(bit: number): FieldSpec {
  return flag(
    'mmu-writable',
    bit,
    'mmu-w',
    'the MMU may make it writable without the slow path',
    'not to be made writable by the fast path',
  );
}

/** Rights of an access-tracked entry, parked above while the real ones are clear. */
function saved(name: string, bit: number): FieldSpec {
  return flag(
    `saved-${name}`,
    bit,
    `saved-${name.toUpperCase()}`,
    `right ${name} saved by access tracking`,
    `no right ${name} saved`,
  );
}

const mmuPresent = flag('mmu-present', 11, '', "present in KVM's own sense", "not present in KVM's own sense");

function frame(low: number): FieldSpec {
  const unit = 2 ** (low - 12);
  return field(
    'pfn',
    51,
    low,
    (v) => `host-physical address ${hex(v * unit * 4096)}`,
    (v) => `pfn ${hex(v * unit)}`,
  );
}

/** Software bits above the frame: which are what depends on kernel and format. */
function highFields({ profile, ept }: SpteContext, leaf: boolean): FieldSpec[] {
  if (profile === '6.1') {
    if (!ept) return [adType(52), ...ignored(62, 54)];
    if (!leaf) return [adType(52), ...ignored(63, 54)];
    return [
      hostWritable(57),
      mmuWritable(58),
      adType(52),
      saved('r', 54),
      ...ignored(55, 55),
      saved('x', 56),
      ...ignored(63, 59),
    ];
  }
  if (!ept) return [...ignored(59, 52), adType(60), ...ignored(62, 62)];
  const suppressVe = flag('sve', 63, '', '#VE suppressed', '#VE not suppressed');
  if (!leaf) return [...ignored(59, 52), adType(60), ...ignored(62, 62), suppressVe];
  return [
    hostWritable(53),
    mmuWritable(55),
    adType(60),
    saved('r', 52),
    saved('x', 54),
    saved('xu', 62),
    ...ignored(59, 56),
    suppressVe,
  ];
}

function size(level: number, leaf: boolean): FieldSpec[] {
  if (level === 1) return ignored(7, 7, 'PAT or ignored');
  const words = leaf ? `maps a page of ${pageSizeName(12 + 9 * (level - 1))}` : 'points at a table';
  return [{ ...flag('ps', 7, '', words, words), short: () => (leaf ? pageSizeName(12 + 9 * (level - 1)) : '') }];
}

function x86Fields(context: SpteContext, leaf: boolean): FieldSpec[] {
  const rights = [
    flag('p', 0, '', 'present, readable', 'not present'),
    flag('w', 1, '', 'writable', 'read-only'),
    flag('u', 2, '', 'user', 'supervisor'),
    ...ignored(4, 3, 'PWT, PCD'),
    flag('a', 5, 'A', 'accessed', 'not accessed'),
  ];
  const nx = flag('nx', 63, '', 'not executable', 'executable');
  if (!leaf) {
    return [
      ...rights,
      ...ignored(6, 6),
      ...size(context.level, false),
      ...ignored(10, 8),
      mmuPresent,
      nx,
      ...highFields(context, false),
      frame(12),
    ];
  }
  const shift = 12 + 9 * (context.level - 1);
  return [
    ...rights,
    flag('d', 6, 'D', 'dirty', 'not dirty'),
    ...size(context.level, true),
    ...ignored(8, 8, 'global'),
    hostWritable(9),
    mmuWritable(10),
    mmuPresent,
    ...ignored(shift - 1, 12, 'PAT or reserved'),
    nx,
    ...highFields(context, true),
    frame(shift),
  ];
}

function eptFields(context: SpteContext, leaf: boolean): FieldSpec[] {
  const userExecute =
    context.profile === '6.1'
      ? ignored(10, 10)
      : [flag('xu', 10, '', 'executable for user pages (MBEC)', 'not executable for user pages (MBEC)')];
  const rights = [
    flag('r', 0, '', 'readable', 'not readable'),
    flag('w', 1, '', 'writable', 'not writable'),
    flag('x', 2, '', 'executable', 'not executable'),
  ];
  const a = flag('a', 8, 'A', 'accessed', 'not accessed');
  if (!leaf) {
    return [
      ...rights,
      ...ignored(6, 3),
      ...size(context.level, false),
      a,
      ...ignored(9, 9),
      ...userExecute,
      mmuPresent,
      ...highFields(context, false),
      frame(12),
    ];
  }
  const shift = 12 + 9 * (context.level - 1);
  return [
    ...rights,
    field('memory-type', 5, 3, (v) => `memory type ${memoryTypeName(v)}`, memoryTypeName),
    flag('ipat', 6, 'IPAT', 'guest PAT ignored', 'combined with the guest PAT'),
    ...size(context.level, true),
    a,
    flag('d', 9, 'D', 'dirty', 'not dirty'),
    ...userExecute,
    mmuPresent,
    ...ignored(shift - 1, 12, 'reserved'),
    ...highFields(context, true),
    frame(shift),
  ];
}

/** Generation bits: 6.1 has 19 (0-7 in bits 10:3, 8-18 in 62:52), 7.3 has 18 (0-6 in bits 9:3, 7-17 in 62:52). */
function mmioGeneration(word: Word64, profile: KvmProfile): number {
  const top = profile === '6.1' ? 10 : 9;
  return bitsOf(word, top, 3) + bitsOf(word, 62, 52) * 2 ** (top - 2);
}

function mmioFields(context: SpteContext): FieldSpec[] {
  const top = context.profile === '6.1' ? 10 : 9;
  const gfnTop = context.ept ? 51 : 50;
  const low = context.ept
    ? [field('marker', 2, 0, () => 'write and execute without read: always a misconfiguration')]
    : [
        flag('p', 0, '', 'present, so that the reserved bit is looked at', ''),
        flag('w', 1, '', 'writable for the guest', 'read-only for the guest'),
        flag('u', 2, '', 'user for the guest', 'supervisor for the guest'),
      ];
  return [
    ...low,
    field('generation-low', top, 3, (v) => `low bits of the memslot generation: ${hex(v)}`),
    ...ignored(11, top + 1),
    field('gfn', gfnTop, 12, (v) => `guest-physical address ${hex(v * 4096)}`),
    ...(context.ept ? [] : [flag('marker', 51, '', 'reserved bit: always a #PF with RSVD', '')]),
    field('generation-high', 62, 52, (v) => `high bits of the memslot generation: ${hex(v)}`),
    ...ignored(63, 63),
  ];
}

/** Rights the kernel's way, `rwxu` (facts/kvm-mmu.md §9.1, kvm_mmu_set_spte). EPT in 6.1 has no user bit. */
function rightsText(word: Word64, context: SpteContext): string {
  const letter = (on: boolean, name: string): string => (on ? name : '-');
  const rw = letter(bitOf(word, 0), 'r') + letter(bitOf(word, 1), 'w');
  if (!context.ept) return rw + letter(!bitOf(word, 63), 'x') + letter(bitOf(word, 2), 'u');
  const x = letter(bitOf(word, 2), 'x');
  return context.profile === '6.1' ? rw + x : rw + x + letter(bitOf(word, 10), 'u');
}

/** The fields of an SPTE as this word and context select them. */
export function spteFields(word: Word64, context: SpteContext): FieldSpec[] {
  const kind = spteKind(word, context);
  if (kind === 'mmio') return mmioFields(context);
  if (kind === 'leaf' || kind === 'table') {
    return context.ept ? eptFields(context, kind === 'leaf') : x86Fields(context, kind === 'leaf');
  }
  return [...ignored(10, 0), mmuPresent, ...ignored(31, 12), ...ignored(63, 32)];
}

/** `leaf rwxu A D host-w mmu-w pfn 0x29ed`, `table rwxu pfn 0x10350`, `MMIO gfn 0xe0000 -wu generation 8`, `frozen`. */
export function decodeSpte(word: Word64, context: SpteContext): DecodedWord {
  const title = `KVM ${context.profile} ${context.ept ? 'EPT' : 'x86'} SPTE, level ${context.level}`;
  const fields = spteFields(word, context);
  const kind = spteKind(word, context);
  switch (kind) {
    case 'empty':
      return decodeWord(title, word, fields, 'empty');
    case 'frozen':
      return decodeWord(title, word, fields, 'frozen (being removed)');
    case 'not-present':
      return decodeWord(title, word, fields, 'not present');
    case 'mmio': {
      const rights = context.ept ? '' : ` ${bitOf(word, 1) ? 'w' : '-'}${bitOf(word, 2) ? 'u' : '-'}`;
      const gfn = bitsOf(word, context.ept ? 51 : 50, 12);
      return decodeWord(
        title,
        word,
        fields,
        `MMIO gfn ${hex(gfn)}${rights} generation ${mmioGeneration(word, context.profile)}`,
      );
    }
    case 'leaf':
    case 'table': {
      const plain = decodeWord(title, word, fields);
      return { ...plain, short: `${kind} ${rightsText(word, context)} ${plain.short}` };
    }
  }
}
