/**
 * Entries of the ordinary page tables (those that CR3 points at) and of nested page tables, which share their formats:
 * SDM vol. 3A 4.3-4.5, tables 4-4 to 4-20; APM vol. 2 5.2-5.3 and 15.25.
 */

import type { Word64 } from '../../bits/word64.ts';
import { bitOf, type DecodedWord, decodeWord, type FieldSpec, field, flag, hex, ignored, reserved } from './word.ts';

export const PAGING_MODES = ['32-bit', 'pae', '4-level', '5-level'] as const;
export type PagingMode = (typeof PAGING_MODES)[number];

export interface EntryContext {
  /** Default: 5-level, whose entries of the lower levels are those of 4-level paging. */
  readonly paging?: PagingMode | undefined;
  /** Default: Intel. Differs in bit 8 of PML4E and PML5E. */
  readonly vendor?: 'intel' | 'amd' | undefined;
  /** Physical-address width in bits; default 52: no address bit is reserved. */
  readonly maxphyaddr?: number | undefined;
  /** CR4.PSE, for 32-bit PDEs. Default: on. */
  readonly pse?: boolean | undefined;
}

/** The highest level of a paging mode. */
export const TOP_LEVEL: Readonly<Record<PagingMode, number>> = { '32-bit': 2, pae: 3, '4-level': 4, '5-level': 5 };

const LEVEL_NAMES = ['', 'PTE', 'PDE', 'PDPTE', 'PML4E', 'PML5E'];

/** `PTE`, `PDE`, `PDPTE`, `PML4E`, `PML5E`; `level 7 entry` for what is none. */
export function entryName(level: number): string {
  return LEVEL_NAMES[level] || `level ${level} entry`;
}

/** `4K`, `2M`, `4M`, `1G`; other sizes (never architectural) as a power of two. */
export function pageSizeName(shift: number): string {
  return { 12: '4K', 21: '2M', 22: '4M', 30: '1G' }[shift] ?? `2^${shift} bytes`;
}

const present = flag('p', 0, 'P', 'present', 'not present');
const writable = flag('w', 1, 'W', 'writable', 'read-only');
const user = flag('u', 2, 'U', 'user', 'supervisor');
const cacheBits = [
  flag('pwt', 3, 'PWT', 'write-through, by PAT', 'not write-through, by PAT'),
  flag('pcd', 4, 'PCD', 'cache disabled, by PAT', 'cache not disabled, by PAT'),
];
const accessed = flag('a', 5, 'A', 'accessed', 'not accessed');
const dirty = flag('d', 6, 'D', 'dirty', 'not dirty');
const global = flag('g', 8, 'G', 'global if CR4.PGE', 'not global');
const executeDisable = flag('xd', 63, 'NX', 'execute-disable (reserved if EFER.NXE=0)', 'executable');
const protectionKey = field(
  'key',
  62,
  59,
  (key) => `protection key ${key}`,
  (key) => (key === 0 ? '' : `key ${key}`),
);

/** The page-size bit of a large page; `shift` = log2 of its size. */
function large(shift: number): FieldSpec {
  return { ...flag('ps', 7, '', `maps a page of ${pageSizeName(shift)}`, ''), short: () => pageSizeName(shift) };
}

const table = flag('ps', 7, '', '', 'points at a table');

/** The frame, bits `high`:`low`, told as number of 4 KiB frames whatever the page's size. */
function frame(high: number, low: number): FieldSpec {
  const unit = 2 ** (low - 12);
  return field(
    'frame',
    high,
    low,
    (value) => `physical address ${hex(value * unit * 4096)}`,
    (value) => `gfn ${hex(value * unit)}`,
  );
}

const NOT_PRESENT = [present, ...ignored(31, 1), ...ignored(63, 32)];

/** SDM vol. 3A tables 4-4 (4-MByte page), 4-5 (table), 4-6 (4-KByte page). Entries have 4 bytes. */
function twoLevelFields(word: Word64, level: number, context: EntryContext): FieldSpec[] {
  const above = ignored(63, 32, 'beyond a 4-byte entry');
  if (level === 2 && bitOf(word, 7) && context.pse !== false) {
    // PSE-36: bits 20:13 are bits 39:32 of the address, as far as MAXPHYADDR goes (SDM vol. 3A 4.3).
    const width = Math.min(40, context.maxphyaddr ?? 40);
    const top = Math.max(0, width - 32);
    const frame36: FieldSpec = field(
      'frame',
      31,
      22,
      (value) => `physical address bits 31:22 = ${hex(value)}`,
      (value) => {
        const high = top === 0 ? 0 : Math.floor(word.lo / 2 ** 13) % 2 ** top;
        return `gfn ${hex(high * 2 ** 20 + value * 1024)}`;
      },
    );
    const high36 =
      top === 0 ? [] : [field('frame-high', 12 + top, 13, (v) => `physical address bits ${31 + top}:32 = ${hex(v)}`)];
    return [
      present,
      writable,
      user,
      ...cacheBits,
      accessed,
      dirty,
      global,
      large(22),
      ...ignored(11, 9),
      flag('pat', 12, 'PAT', 'PAT index bit 2 set', 'PAT index bit 2 clear'),
      ...high36,
      ...reserved(21, 13 + top),
      frame36,
      ...above,
    ];
  }
  if (level === 2) {
    const size = context.pse === false ? ignored(7, 7, 'ignored, since CR4.PSE=0') : [table];
    return [
      present,
      writable,
      user,
      ...cacheBits,
      accessed,
      ...ignored(6, 6),
      ...size,
      ...ignored(11, 8),
      frame(31, 12),
      ...above,
    ];
  }
  return [
    present,
    writable,
    user,
    ...cacheBits,
    accessed,
    dirty,
    flag('pat', 7, 'PAT', 'PAT index bit 2 set', 'PAT index bit 2 clear'),
    global,
    ...ignored(11, 9),
    frame(31, 12),
    ...above,
  ];
}

/** SDM vol. 3A table 4-8; bit 63 and all above MAXPHYADDR are reserved, and there is no W, U or A. */
function paePdpteFields(width: number): FieldSpec[] {
  return [
    present,
    ...reserved(2, 1),
    ...cacheBits,
    ...reserved(8, 5),
    ...ignored(11, 9),
    ...reserved(63, width),
    frame(width - 1, 12),
  ];
}

/** SDM vol. 3A tables 4-9 to 4-11 (PAE) and 4-14 to 4-20 (4-level and 5-level). Entries have 8 bytes. */
function eightByteFields(word: Word64, level: number, context: EntryContext): FieldSpec[] {
  const width = context.maxphyaddr ?? 52;
  const pae = context.paging === 'pae';
  if (pae && level === 3) return paePdpteFields(width);
  const rights = [present, writable, user, ...cacheBits, accessed];
  // PAE paging has no protection keys and reserves every bit between the address and NX (SDM vol. 3A 4.4.2).
  const highTable = pae ? reserved(62, width) : [...reserved(51, width), ...ignored(62, 52)];
  const highLeaf = pae ? reserved(62, width) : [...reserved(51, width), ...ignored(58, 52), protectionKey];
  if (level >= 4) {
    // Bit 8 is reserved on AMD only (APM vol. 2 figures 5-20, 5-26), bit 7 everywhere.
    const low =
      context.vendor === 'amd' ? [...reserved(8, 7), ...ignored(11, 9)] : [...reserved(7, 7), ...ignored(11, 8)];
    return [...rights, ...ignored(6, 6), ...low, executeDisable, ...highTable, frame(width - 1, 12)];
  }
  if (level === 1) {
    const pat = flag('pat', 7, 'PAT', 'PAT index bit 2 set', 'PAT index bit 2 clear');
    return [...rights, dirty, pat, global, ...ignored(11, 9), executeDisable, ...highLeaf, frame(width - 1, 12)];
  }
  if (!bitOf(word, 7)) {
    return [...rights, ...ignored(6, 6), table, ...ignored(11, 8), executeDisable, ...highTable, frame(width - 1, 12)];
  }
  const shift = level === 2 ? 21 : 30;
  return [
    ...rights,
    dirty,
    global,
    large(shift),
    ...ignored(11, 9),
    flag('pat', 12, 'PAT', 'PAT index bit 2 set', 'PAT index bit 2 clear'),
    executeDisable,
    ...reserved(shift - 1, 13),
    ...highLeaf,
    frame(width - 1, shift),
  ];
}

/** The fields of an entry of `level` (1 PTE … 5 PML5E) as this word and context select them. */
export function pageTableEntryFields(word: Word64, level: number, context: EntryContext = {}): FieldSpec[] {
  if (!bitOf(word, 0)) return NOT_PRESENT;
  return context.paging === '32-bit' ? twoLevelFields(word, level, context) : eightByteFields(word, level, context);
}

/** An entry of `level` in words: `P W U A D gfn 0x209`; `not present`, whatever else its bits hold. */
export function decodePageTableEntry(word: Word64, level: number, context: EntryContext = {}): DecodedWord {
  const fields = pageTableEntryFields(word, level, context);
  return decodeWord(entryName(level), word, fields, bitOf(word, 0) ? undefined : 'not present');
}
