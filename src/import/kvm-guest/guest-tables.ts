/**
 * Page tables as the guests themselves walk them to find an entry: level by level through present entries, without any
 * check of rights. Only used to know *where* an entry is that a mark names by address and level.
 */

import type { KnownMemory } from '../known-memory.ts';

/** How a tree of tables is laid out. */
export interface TableShape {
  readonly levels: 2 | 3 | 4 | 5;
  /** Any of these bits set: the entry refers to something. */
  readonly present: bigint;
}

export const LONG_MODE: TableShape = { levels: 4, present: 1n };
export const PAE: TableShape = { levels: 3, present: 1n };
export const TWO_LEVEL: TableShape = { levels: 2, present: 1n };
export const NPT: TableShape = LONG_MODE;
export const EPT: TableShape = { levels: 4, present: 7n };

/** Bits 51:12 of an entry: the address that it refers to. */
export const FRAME_MASK = 0xf_ffff_ffff_f000n;
/** The entry maps a large page, in all formats. */
export const LARGE = 1n << 7n;

export function entrySize(shape: TableShape): 4 | 8 {
  return shape.levels === 2 ? 4 : 8;
}

function indexAt(shape: TableShape, address: bigint, level: number): bigint {
  if (shape.levels === 2) return (address >> BigInt(12 + 10 * (level - 1))) & 0x3ffn;
  if (shape.levels === 3 && level === 3) return (address >> 30n) & 3n;
  return (address >> BigInt(12 + 9 * (level - 1))) & 0x1ffn;
}

/** A table's physical address when it is named by `frame`, the address in an entry; identity where there is no second stage. */
export type TableAddress = (address: bigint) => bigint | undefined;

const identity: TableAddress = (address) => address;

/**
 * Where the entry of `level` for `address` is, or `undefined` if an entry above it is absent or not known.
 */
export function entryAddress(
  memory: KnownMemory,
  shape: TableShape,
  root: bigint,
  address: bigint,
  level: number,
  translate: TableAddress = identity,
): bigint | undefined {
  const size = entrySize(shape);
  let table = translate(root & (shape.levels === 3 ? 0xffff_ffe0n : FRAME_MASK));
  for (let at: number = shape.levels; table !== undefined; at--) {
    const place: bigint = table + indexAt(shape, address, at) * BigInt(size);
    if (at === level) return place;
    const entry = memory.read(place, size);
    if (entry === undefined || (entry & shape.present) === 0n) return undefined;
    table = translate(entry & FRAME_MASK);
  }
  return undefined;
}

/** Translates `address` through 4 KiB, 2 MiB and 1 GiB pages, or `undefined`. */
export function translateThrough(
  memory: KnownMemory,
  shape: TableShape,
  root: bigint,
  address: bigint,
): bigint | undefined {
  for (let level: number = Math.min(3, shape.levels); level >= 1; level--) {
    const place = entryAddress(memory, shape, root, address, level);
    const entry = place === undefined ? undefined : memory.read(place, entrySize(shape));
    if (entry === undefined || (entry & shape.present) === 0n) return undefined;
    if (level > 1 && (entry & LARGE) === 0n) continue;
    const offset = (1n << BigInt(12 + 9 * (level - 1))) - 1n;
    return (entry & FRAME_MASK & ~offset) | (address & offset);
  }
  return undefined;
}

/** The tables of a guest that `mode`, the VMM's own argument, asks for: the number of paging levels. */
export function shapeOfMode(mode: number): TableShape {
  switch (mode) {
    case 2:
      return TWO_LEVEL;
    case 3:
      return PAE;
    case 5:
      return { levels: 5, present: 1n };
    default:
      return LONG_MODE;
  }
}

/**
 * The linear address that entry `index` of the level-1 table at `table` translates, found by looking through all that
 * is known of the tree below `root`; `undefined` if the table is not in it. `table`: the address as entries name it.
 */
export function addressBelow(
  memory: KnownMemory,
  shape: TableShape,
  root: bigint,
  table: bigint,
  index: number,
  translate: TableAddress = identity,
): bigint | undefined {
  const size = entrySize(shape);
  const bits = BigInt(size === 4 ? 10 : 9);
  const search = (named: bigint, level: number, above: bigint): bigint | undefined => {
    if (level === 1) return named === table ? (above << bits) | BigInt(index) : undefined;
    const at = translate(named);
    if (at === undefined) return undefined;
    for (let i = 0; i < 0x1000 / size; i++) {
      const entry = memory.read(at + BigInt(i * size), size);
      if (entry === undefined || (entry & shape.present) === 0n || (entry & LARGE) !== 0n) continue;
      const found = search(entry & FRAME_MASK, level - 1, (above << bits) | BigInt(i));
      if (found !== undefined) return found;
    }
    return undefined;
  };
  const page = search(root & FRAME_MASK, shape.levels, 0n);
  if (page === undefined) return undefined;
  const linear = page << 12n;
  return shape.levels >= 4 ? BigInt.asUintN(64, BigInt.asIntN(12 + 9 * shape.levels, linear)) : linear;
}
