/** Entries of EPT and the EPT pointer: SDM vol. 3C 28.3 (29.3 and 31.3 in newer editions), tables 28-1 to 28-6 and 24-9. */

import type { Word64 } from '../../bits/word64.ts';
import { entryName, pageSizeName } from './page-table-entry.ts';
import {
  bitOf,
  bitsOf,
  type DecodedWord,
  decodeWord,
  type FieldSpec,
  field,
  flag,
  hex,
  ignored,
  reserved,
} from './word.ts';

export interface EptContext {
  /** Physical-address width in bits; default 52: no address bit is reserved. */
  readonly maxphyaddr?: number | undefined;
  /** Mode-based execute control: bit 10 is the right to execute at user-mode linear addresses. Unknown by default. */
  readonly mbec?: boolean | undefined;
  /** EPTP bit 6: bits 8 and 9 are accessed and dirty. Unknown by default: shown when set. */
  readonly accessedDirty?: boolean | undefined;
  /** Execute-only translations (IA32_VMX_EPT_VPID_CAP bit 0). Default: supported. */
  readonly executeOnly?: boolean | undefined;
}

const MEMORY_TYPES: Readonly<Record<number, string>> = { 0: 'UC', 1: 'WC', 4: 'WT', 5: 'WP', 6: 'WB' };

/** `UC`, `WC`, `WT`, `WP`, `WB`, or `type 2` for a reserved one. */
export function memoryTypeName(type: number): string {
  return MEMORY_TYPES[type] ?? `type ${type}`;
}

/** `R-X`; with a fourth place for user-execute if `user` is given. */
export function eptRights(read: boolean, write: boolean, execute: boolean, user?: boolean): string {
  const letters = `${read ? 'R' : '-'}${write ? 'W' : '-'}${execute ? 'X' : '-'}`;
  return user === undefined ? letters : `${letters}${user ? 'U' : '-'}`;
}

/** Bits 2:0, and bit 10 under mode-based execute control (SDM vol. 3C 28.3.2). */
export function isEptPresent(word: Word64, context: EptContext = {}): boolean {
  return bitsOf(word, 2, 0) !== 0 || (context.mbec === true && bitOf(word, 10));
}

/** Whether a present entry of `level` maps a page. */
function mapsPage(word: Word64, level: number): boolean {
  return level === 1 || ((level === 2 || level === 3) && bitOf(word, 7));
}

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

function rightsFields(context: EptContext): { low: FieldSpec[]; user: FieldSpec[] } {
  const mode = context.mbec === true ? ' (supervisor-mode linear addresses)' : '';
  const low = [
    flag('r', 0, '', 'readable', 'not readable'),
    flag('w', 1, '', 'writable', 'not writable'),
    flag('x', 2, '', `executable${mode}`, `not executable${mode}`),
  ];
  if (context.mbec === false) return { low, user: ignored(10, 10, 'ignored without mode-based execute control') };
  const unknown = context.mbec === undefined ? ', with mode-based execute control' : '';
  const user = flag(
    'xu',
    10,
    '',
    `executable at user-mode linear addresses${unknown}`,
    `not executable at user-mode linear addresses${unknown}`,
  );
  return { low, user: [user] };
}

/** The fields of an EPT entry of `level` as this word and context select them. */
export function eptEntryFields(word: Word64, level: number, context: EptContext = {}): FieldSpec[] {
  const { low, user } = rightsFields(context);
  const suppressVe = flag('sve', 63, 'SVE', 'suppress #VE', '#VE not suppressed');
  if (!isEptPresent(word, context))
    return [...low, ...ignored(9, 3), ...user, ...ignored(31, 11), ...ignored(62, 32), suppressVe];
  const width = context.maxphyaddr ?? 52;
  const a = context.accessedDirty === false ? ignored(8, 8) : [flag('a', 8, 'A', 'accessed', 'not accessed')];
  const d = context.accessedDirty === false ? ignored(9, 9) : [flag('d', 9, 'D', 'dirty', 'not dirty')];
  if (!mapsPage(word, level)) {
    const ps = level <= 3 ? [...reserved(6, 3), flag('ps', 7, '', '', 'points at a table')] : reserved(7, 3);
    return [
      ...low,
      ...ps,
      ...a,
      ...ignored(9, 9),
      ...user,
      ...ignored(11, 11),
      ...reserved(51, width),
      ...ignored(62, 52),
      ...ignored(63, 63),
      frame(width - 1, 12),
    ];
  }
  const shift = 12 + 9 * (level - 1);
  const size: FieldSpec[] =
    level === 1
      ? ignored(7, 7)
      : [{ ...flag('ps', 7, '', `maps a page of ${pageSizeName(shift)}`, ''), short: () => pageSizeName(shift) }];
  return [
    ...low,
    ...a,
    ...d,
    ...size,
    field(
      'memory-type',
      5,
      3,
      (type) => `memory type ${memoryTypeName(type)}${type in MEMORY_TYPES ? '' : ' (reserved)'}`,
      memoryTypeName,
    ),
    flag('ipat', 6, 'IPAT', 'guest PAT ignored', 'combined with the guest PAT'),
    ...user,
    ...ignored(11, 11),
    ...reserved(shift - 1, 12),
    ...reserved(51, width),
    ...ignored(56, 52),
    flag('vgp', 57, 'VGP', 'verify guest paging, if enabled', 'no guest-paging verification'),
    flag('pw', 58, 'PW', 'paging-write access, if enabled', 'no paging-write access'),
    ...ignored(59, 59),
    flag('sss', 60, 'SSS', 'supervisor shadow-stack page, if EPTP bit 7', 'no supervisor shadow-stack page'),
    ...(level === 1
      ? [flag('spp', 61, 'SPP', 'sub-page write permissions, if enabled', 'no sub-page write permissions')]
      : ignored(61, 61)),
    ...ignored(62, 62),
    suppressVe,
    frame(width - 1, shift),
  ];
}

/** Why an entry is an EPT misconfiguration (SDM vol. 3C 28.3.3.1), or `undefined` if it is none. */
export function eptMisconfiguration(word: Word64, level: number, context: EptContext = {}): string | undefined {
  if (!isEptPresent(word, context)) return undefined;
  const [read, write, execute] = [bitOf(word, 0), bitOf(word, 1), bitOf(word, 2)];
  if (write && !read) return 'write without read';
  // With mode-based execute control, bit 10 counts as a right to execute here (facts/kvm-mmu.md §4).
  const someExecute = execute || (context.mbec === true && bitOf(word, 10));
  if (someExecute && !read && context.executeOnly === false) return 'execute without read';
  const bad = eptEntryFields(word, level, context).find(
    (spec) => spec.name === 'reserved' && bitsOf(word, spec.high, spec.low) !== 0,
  );
  if (bad !== undefined) return 'reserved bit set';
  if (mapsPage(word, level) && !(bitsOf(word, 5, 3) in MEMORY_TYPES)) return 'reserved memory type';
  return undefined;
}

/** An EPT entry of `level` in words: `RWX A D WB gfn 0x209`, `R-X gfn 0x40d`, `not present`. */
export function decodeEptEntry(word: Word64, level: number, context: EptContext = {}): DecodedWord {
  const title = `EPT ${entryName(level)}`;
  const fields = eptEntryFields(word, level, context);
  if (!isEptPresent(word, context)) return decodeWord(title, word, fields, 'not present');
  const user = context.mbec === true || (context.mbec === undefined && bitOf(word, 10)) ? bitOf(word, 10) : undefined;
  const rights = eptRights(bitOf(word, 0), bitOf(word, 1), bitOf(word, 2), user);
  const plain = decodeWord(title, word, fields);
  const wrong = eptMisconfiguration(word, level, context);
  return { ...plain, short: `${rights} ${plain.short}${wrong === undefined ? '' : ` MISCONFIGURED (${wrong})`}` };
}

/** SDM vol. 3C 24.6.11, table 24-9. */
export function eptpFields(context: EptContext = {}): FieldSpec[] {
  const width = context.maxphyaddr ?? 52;
  return [
    field(
      'memory-type',
      2,
      0,
      (type) => `EPT structures are ${memoryTypeName(type)}${type === 0 || type === 6 ? '' : ' (reserved)'}`,
      memoryTypeName,
    ),
    field(
      'walk-length',
      5,
      3,
      (n) => `page walk of ${n + 1} levels${n === 3 || n === 4 ? '' : ' (reserved)'}`,
      (n) => `${n + 1}-level`,
    ),
    flag('ad', 6, 'A/D', 'accessed and dirty flags enabled', 'no accessed and dirty flags'),
    flag('sss', 7, 'SSS', 'supervisor shadow-stack control', 'no supervisor shadow-stack control'),
    ...reserved(11, 8),
    ...reserved(63, width),
    frame(width - 1, 12),
  ];
}

/** `WB 4-level A/D gfn 0x600`. */
export function decodeEptp(word: Word64, context: EptContext = {}): DecodedWord {
  return decodeWord('EPTP', word, eptpFields(context));
}
