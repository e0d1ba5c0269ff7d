/** EPT and NPT of a random L1, in the format of its own paging: tables and entries, mostly such that L2 gets somewhere. */

import type { Word64 } from '../bits/word64.ts';
import type { Random } from './random.ts';
import { addressOf, type Table } from './scene.ts';

/** L2's guest-physical frame f stands in frame f + HOME_OF_L2 of L1's memory, as far as the entries are sound. */
export const HOME_OF_L2 = 0x400;

/** A table of the second stage. */
export interface SecondTable extends Table {
  /** Level 1: the run of guest-physical frames that it is meant for, in units of a table's reach. */
  readonly block: number;
}

export interface SecondStage {
  readonly ept: boolean;
  readonly rootLevel: number;
  readonly entryBytes: 4 | 8;
  /** Frames of L1's memory. The first ones are roots. */
  readonly tables: readonly SecondTable[];
  /** Guest-physical frames that L2 uses: those of its tables, and the others. */
  readonly tableFrames: readonly number[];
  readonly dataFrames: readonly number[];
  /** Those of `tableFrames` that hold PDPTEs, which nothing else may be taken for. */
  readonly pdptFrames: readonly number[];
  /** Frames of L1's memory that L2 finds now and then in place of its own. */
  readonly foreignFrames: readonly number[];
  /** EPT: A and D bits, mode-based execute control, execute-only entries. */
  readonly ad: boolean;
  readonly mbec: boolean;
  readonly executeOnly: boolean;
  readonly maxphyaddr: number;
}

const READ = 1 << 0;
const WRITE = 1 << 1;
const EXECUTE = 1 << 2;
const MEMORY_WB = 6 << 3;
const MEMORY_RESERVED = [2 << 3, 3 << 3, 7 << 3] as const;
const LARGE = 1 << 7;
const EPT_ACCESSED = 1 << 8;
const EPT_DIRTY = 1 << 9;
const EXECUTE_USER = 1 << 10;
const IGNORED = 1 << 11;
const X86_USER = 1 << 2;
const X86_ACCESSED = 1 << 5;
const X86_DIRTY = 1 << 6;
const NX_HI = 0x8000_0000;
const PAE_ROOT = 3;

/** Guest-physical frames that a table of level 1 reaches. */
export function reachOf({ entryBytes }: { readonly entryBytes: 4 | 8 }): number {
  return entryBytes === 4 ? 0x400 : 0x200;
}

function framesOf(second: SecondStage): readonly number[] {
  return [...second.tableFrames, ...second.dataFrames];
}

/** Blocks that L2's frames are in. */
export function blocksOf(frames: readonly number[], reach: number): number[] {
  return [...new Set(frames.map((frame) => Math.floor(frame / reach)))];
}

/** Indices in use in a table. */
export function indicesOf(second: SecondStage, { level, block }: SecondTable): number[] {
  const reach = reachOf(second);
  if (level === 1) {
    const inside = framesOf(second).filter((frame) => Math.floor(frame / reach) === block);
    return [...new Set(inside.map((frame) => frame % reach))];
  }
  if (level === 2) return blocksOf(framesOf(second), reach);
  return level === PAE_ROOT && second.rootLevel === PAE_ROOT ? [0, 1, 2, 3] : [0, 1];
}

/** What the entry is for: the guest-physical frame, and whether L2's tables stand there. */
function meaning(
  second: SecondStage,
  { level, block }: SecondTable,
  index: number,
): { frame: number; tables: boolean } {
  const reach = reachOf(second);
  // A table that something else leads to than what it is meant for is taken for one of the first.
  const meant = block * reach + index;
  const frame = level === 1 ? (framesOf(second).includes(meant) ? meant : index) : level === 2 ? index * reach : 0;
  const tables = level === 1 ? second.tableFrames.includes(frame) : index === 0;
  return { frame, tables };
}

/** An entry at `index` of the table. */
export function secondEntry(random: Random, second: SecondStage, table: SecondTable, index: number): Word64 {
  const { frame, tables } = meaning(second, table, index);
  const leaf = table.level === 1 || random.chance(table.level === 2 ? 0.15 : table.level === 3 ? 0.01 : 0);
  const isPdpte = table.level === PAE_ROOT && second.rootLevel === PAE_ROOT;
  const large = leaf && table.level > 1 && !isPdpte;
  const target = large ? largeFrame(random, table.level, frame) : leafOrTable(random, second, table, frame, tables);
  if (isPdpte) return pdpte(random, target);
  const bits = second.ept
    ? eptBits(random, second, leaf && !isPdpte, tables)
    : nptBits(random, tables || table.level > 1);
  const { lo, hi } = addressOf(target);
  let entryLo = lo | bits | (large ? LARGE : 0);
  let entryHi = hi;
  // A bit of a large page's address that must be 0, a bit beyond MAXPHYADDR.
  if (large && random.chance(0.02)) entryLo |= 1 << random.between(13, 20);
  if (second.entryBytes === 4) return { lo: entryLo >>> 0, hi: 0 };
  if (random.chance(0.007)) entryHi |= 1 << random.between(second.maxphyaddr - 32, 19);
  if (!second.ept && random.chance(tables ? 0.02 : 0.1)) entryHi |= NX_HI;
  if (second.ept && random.chance(0.02)) entryHi |= NX_HI;
  return { lo: entryLo >>> 0, hi: entryHi >>> 0 };
}

/** The entry as it must be for L2 to go on. */
export function soundEntry(random: Random, second: SecondStage, table: SecondTable, index: number): Word64 {
  const { frame, tables } = meaning(second, table, index);
  const target = leafOrTable(random, { ...second, foreignFrames: [] }, table, frame, tables);
  const { lo, hi } = addressOf(target);
  if (table.level === PAE_ROOT && second.rootLevel === PAE_ROOT) return { lo: (lo | READ) >>> 0, hi };
  const leafType = table.level === 1 ? MEMORY_WB : 0;
  const bits = second.ept
    ? READ | WRITE | EXECUTE | (second.mbec ? EXECUTE_USER : 0) | leafType
    : READ | WRITE | X86_USER | (random.chance(0.5) ? X86_ACCESSED : 0);
  return { lo: (lo | bits) >>> 0, hi };
}

/** The entry as a hypervisor changes it. */
export function changedSecond(
  random: Random,
  second: SecondStage,
  table: SecondTable,
  index: number,
  { lo, hi }: Word64,
): Word64 {
  if (table.level === PAE_ROOT && second.rootLevel === PAE_ROOT) return secondEntry(random, second, table, index);
  const fresh = secondEntry(random, second, table, index);
  const { ept } = second;
  const present = ept ? (lo & (READ | WRITE | EXECUTE)) !== 0 : (lo & READ) !== 0;
  if (!present && random.chance(0.7)) return random.chance(0.5) ? fresh : soundEntry(random, second, table, index);
  const accessedDirty = ept ? EPT_ACCESSED | EPT_DIRTY : X86_ACCESSED | X86_DIRTY;
  switch (
    random.weighted([
      [14, 'write'],
      [8, 'execute'],
      [5, 'user'],
      [10, 'present'],
      [9, 'accessed'],
      [14, 'target'],
      [14, 'all'],
      [4, 'none'],
      [ept ? 4 : 0, 'type'],
      [12, 'sound'],
    ] as const)
  ) {
    case 'write':
      return { lo: (lo ^ WRITE) >>> 0, hi };
    case 'execute':
      return ept ? { lo: (lo ^ EXECUTE) >>> 0, hi } : { lo, hi: second.entryBytes === 4 ? 0 : (hi ^ NX_HI) >>> 0 };
    case 'user':
      return { lo: (lo ^ (ept ? EXECUTE_USER : X86_USER)) >>> 0, hi };
    case 'present':
      return { lo: (ept ? lo & ~(READ | WRITE | EXECUTE | EXECUTE_USER) : lo ^ READ) >>> 0, hi };
    case 'accessed':
      return {
        lo: (lo & ~(random.chance(0.5) ? accessedDirty : ept ? EPT_DIRTY : X86_DIRTY)) >>> 0,
        hi,
      };
    case 'target':
      return { lo: ((lo & 0xf7f) | (fresh.lo & ~0xf7f)) >>> 0, hi: ((hi & NX_HI) | (fresh.hi & ~NX_HI)) >>> 0 };
    case 'all':
      return fresh;
    case 'none':
      return { lo: 0, hi: 0 };
    case 'type':
      return { lo: ((lo & ~(7 << 3)) | random.pick(MEMORY_RESERVED)) >>> 0, hi };
    case 'sound':
      return soundEntry(random, second, table, index);
  }
}

function leafOrTable(
  random: Random,
  second: SecondStage,
  { level }: SecondTable,
  frame: number,
  tables: boolean,
): number {
  if (level > 1) {
    const below = second.tables.filter((each) => each.level === level - 1);
    const block = Math.floor(frame / reachOf(second));
    const meant = level === 2 ? below.filter((each) => each.block === block) : below;
    return random.pick(meant.length > 0 && random.chance(0.98) ? meant : below).frame;
  }
  // Tables stay in memory that there is: of a read from anywhere else KVM makes something of its own.
  if (tables) {
    const others = second.tableFrames.filter((each) => !second.pdptFrames.includes(each));
    const home = second.pdptFrames.includes(frame) || random.chance(0.97);
    return (home ? frame : random.pick(others)) + HOME_OF_L2;
  }
  if (second.foreignFrames.length > 0 && random.chance(0.08)) return random.pick(second.foreignFrames);
  return (random.chance(0.8) ? frame : random.pick(second.dataFrames)) + HOME_OF_L2;
}

function largeFrame(random: Random, level: number, frame: number): number {
  if (level > 2) return 0;
  return random.chance(0.85) ? frame + HOME_OF_L2 : random.pick([0, HOME_OF_L2]);
}

function pdpte(random: Random, target: number): Word64 {
  if (random.chance(0.03)) return { lo: 0, hi: 0 };
  const { lo, hi } = addressOf(target);
  // Sound: a processor refuses reserved bits, KVM does not look at them (facts/kvm-mmu.md §5.2).
  return { lo: (lo | READ) >>> 0, hi };
}

function nptBits(random: Random, needed: boolean): number {
  let bits = 0;
  if (random.chance(needed ? 0.995 : 0.95)) bits |= READ;
  if (random.chance(needed ? 0.985 : 0.8)) bits |= WRITE;
  if (random.chance(needed ? 0.993 : 0.96)) bits |= X86_USER;
  if (random.chance(0.6)) bits |= X86_ACCESSED;
  if (random.chance(0.5)) bits |= X86_DIRTY;
  return bits;
}

function eptBits(random: Random, second: SecondStage, leaf: boolean, tables: boolean): number {
  let bits = random.weighted([
    [tables || !leaf ? 1900 : 60, READ | WRITE | EXECUTE],
    [10, READ | EXECUTE],
    [10, READ | WRITE],
    [8, READ],
    [second.executeOnly ? 6 : 1, EXECUTE],
    [4, 0],
    [1, WRITE],
    [1, WRITE | EXECUTE],
  ]);
  if (second.mbec && random.chance(tables ? 0.95 : 0.7)) bits |= EXECUTE_USER;
  if (leaf) bits |= random.chance(0.985) ? (random.chance(0.9) ? MEMORY_WB : 0) : random.pick(MEMORY_RESERVED);
  if (random.chance(0.5)) bits |= EPT_ACCESSED;
  if (leaf && random.chance(0.4)) bits |= EPT_DIRTY;
  if (random.chance(0.05)) bits |= IGNORED;
  return bits;
}
