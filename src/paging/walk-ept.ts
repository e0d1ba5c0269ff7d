/**
 * The walk of EPT: guest-physical to physical (SDM vol. 3C 29.3). Ends in a translation, an EPT violation with its
 * exit qualification, or an EPT misconfiguration.
 */

import { Dim, OBS_DIM_SHIFT, OBS_LEVEL_SHIFT, Obs } from '../formats/observation.ts';
import {
  FETCH,
  GUEST_NX,
  GUEST_USER,
  GUEST_WRITABLE,
  NESTED_WALK_BITS,
  NO_AD,
  NO_LINEAR,
  OF_TABLE,
  USER,
  WRITE,
} from './access.ts';
import { Check, entryOffset8, type PageWalk, Walk } from './page-walk.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from './row-log.ts';

const RWX = 7;
const USER_EXECUTE = 1 << 10;
const LARGE = 1 << 7;
const ACCESSED = 1 << 8;
const DIRTY = 1 << 9;

// Exit qualification of an EPT violation (SDM vol. 3C table 28-7).
const QUAL_READ = 1 << 0;
const QUAL_WRITE = 1 << 1;
const QUAL_FETCH = 1 << 2;
const QUAL_RWX_SHIFT = 3;
const QUAL_USER_EXECUTE = 1 << 6;
const QUAL_LINEAR = 1 << 7;
const QUAL_FINAL = 1 << 8;
const QUAL_GUEST_USER = 1 << 9;
const QUAL_GUEST_WRITABLE = 1 << 10;
const QUAL_GUEST_NX = 1 << 11;

const START_ROW = Obs.NESTED_WALK | (Dim.EPT << OBS_DIM_SHIFT);
const ELEMENT_ROW = Obs.ELEMENT | (Dim.EPT << OBS_DIM_SHIFT);
const WRITE_ROW = Obs.ENTRY_WRITE | (Dim.EPT << OBS_DIM_SHIFT);

/** Translates a guest-physical address; result in `walk`, returns a `Walk` status. */
export function walkEpt(walk: PageWalk, lo: number, hi: number, access: number): number {
  const { log, memory, format } = walk;
  const { words } = memory;
  const { reserved, badCombinations } = format;
  const reservedLo = reserved.lo;
  const reservedHi = reserved.hi;
  log.push(START_ROW | (access & NESTED_WALK_BITS), lo, hi, 0, 0);
  // Rows of entries are written here rather than pushed one by one: this loop is where replay spends its time.
  const rows = log.rows;
  const firstRow = log.count;
  let rowAt = firstRow * ROW;
  walk.firstRow = firstRow;

  // With A/D bits on, reading the guest's paging structures counts as writing them (SDM vol. 3C 29.3.5).
  const write = (access & WRITE) !== 0 || (walk.ad && (access & OF_TABLE) !== 0);
  const presentBits = walk.mbec ? RWX | USER_EXECUTE : RWX;
  let all = -1;
  let level = walk.rootLevel;
  let tableLo = walk.rootLo;
  let tableHi = walk.rootHi;
  let entryLo = 0;
  let entryHi = 0;

  // Bits beyond what the walk's depth translates play no part (SDM vol. 3C 29.3.2).
  for (;;) {
    const at = entryOffset8(level, lo, hi);
    const word = memory.pageIndex(tableLo, tableHi) + (at >>> 2);
    entryLo = words[word]!;
    entryHi = words[word + 1]!;
    rows[rowAt + ROW_VALUE_HI] = entryHi;
    rows[rowAt + ROW_VALUE_LO] = entryLo;
    rows[rowAt + ROW_ADDRESS_HI] = tableHi;
    rows[rowAt + ROW_ADDRESS_LO] = tableLo | at;
    rows[rowAt] = ELEMENT_ROW | (level << OBS_LEVEL_SHIFT);
    rowAt += ROW;

    all &= entryLo;
    if ((entryLo & presentBits) === 0) {
      log.count = firstRow + walk.rootLevel - level + 1;
      return violation(walk, lo, hi, access, write, all, level, Check.PRESENT);
    }
    const bad = level + ((entryLo >>> 7) & 1) * 6;
    if (
      ((entryLo & reservedLo[bad]!) | (entryHi & reservedHi[bad]!)) !== 0 ||
      badCombinations[combinationOf(entryLo)] !== 0
    ) {
      log.count = firstRow + walk.rootLevel - level + 1;
      setFault(walk, lo, hi, access);
      walk.qualificationValid = false;
      return walk.fault(Walk.EPT_MISCONFIG, level, Check.RESERVED);
    }
    if (level === 1 || (entryLo & LARGE) !== 0) break;
    tableLo = entryLo & ~0xfff;
    tableHi = entryHi & 0xf_ffff;
    level--;
  }
  log.count = firstRow + walk.rootLevel - level + 1;

  // R and W stand where READ and WRITE do; execute is split by mode-based execute control (SDM vol. 3C 29.3.3.2).
  const rights =
    (all & (ACC_READ | ACC_WRITE)) | ((all & 4) !== 0 ? ACC_EXEC : 0) | ((all & USER_EXECUTE) !== 0 ? ACC_USER : 0);
  const index = ((write ? WRITE : 0) | (access & FETCH) | ((access & GUEST_USER) !== 0 ? USER : 0)) >>> 1;
  const denied = ((format.permissions[index]! >>> rights) & 1) !== 0 || (walk.software && (rights & ACC_READ) === 0);
  if (denied) {
    return violation(walk, lo, hi, access, write, all, level, Check.PERMISSION);
  }

  const shift = 3 + 9 * level;
  const within = (1 << shift) - 1;
  walk.pageShift = shift;
  walk.lo = (entryLo & ~within) | (lo & within);
  walk.hi = entryHi & 0xf_ffff;
  walk.rights = rights;
  walk.leafLo = entryLo;
  walk.leafHi = entryHi;
  if (walk.ad && ((all & ACCESSED) === 0 || (write && (entryLo & DIRTY) === 0)) && (access & NO_AD) === 0) {
    writeAccessedDirty(walk, level, write);
  }
  return Walk.OK;
}

/** Bits 5:0 and 10 of an entry, which `badCombinations` is indexed by. */
function combinationOf(entryLo: number): number {
  return (entryLo & 0x3f) | ((entryLo >>> 4) & 0x40);
}

function setFault(walk: PageWalk, lo: number, hi: number, access: number): void {
  walk.faultLo = lo;
  walk.faultHi = hi;
  walk.faultAccess = access;
}

function violation(
  walk: PageWalk,
  lo: number,
  hi: number,
  access: number,
  write: boolean,
  all: number,
  level: number,
  check: number,
): number {
  const ofTable = (access & OF_TABLE) !== 0;
  let qualification = (access & FETCH) !== 0 ? QUAL_FETCH : write ? QUAL_WRITE | (ofTable ? QUAL_READ : 0) : QUAL_READ;
  qualification |= (all & RWX) << QUAL_RWX_SHIFT;
  if (walk.mbec && (all & USER_EXECUTE) !== 0) qualification |= QUAL_USER_EXECUTE;
  if ((access & NO_LINEAR) === 0) {
    qualification |= QUAL_LINEAR;
    if (!ofTable) {
      qualification |= QUAL_FINAL;
      if (walk.advancedInfo) {
        if ((access & GUEST_USER) !== 0) qualification |= QUAL_GUEST_USER;
        if ((access & GUEST_WRITABLE) !== 0) qualification |= QUAL_GUEST_WRITABLE;
        if ((access & GUEST_NX) !== 0) qualification |= QUAL_GUEST_NX;
      }
    }
  }
  walk.qualification = qualification;
  walk.qualificationValid = true;
  setFault(walk, lo, hi, access);
  return walk.fault(Walk.EPT_VIOLATION, level, check);
}

/** Accessed flags of all levels and the leaf's dirty flag, top down, onto the entries as read (SDM vol. 3C 29.3.5). */
function writeAccessedDirty(walk: PageWalk, leafLevel: number, write: boolean): void {
  const { log, memory, rootLevel, firstRow } = walk;
  for (let level = rootLevel; level >= leafLevel; level--) {
    const at = (firstRow + rootLevel - level) * ROW;
    const old = log.rows[at + ROW_VALUE_LO]!;
    const set = ACCESSED | (write && level === leafLevel ? DIRTY : 0);
    if ((old & set) === set) continue;
    const addressLo = log.rows[at + ROW_ADDRESS_LO]!;
    const addressHi = log.rows[at + ROW_ADDRESS_HI]!;
    memory.setEntryBits(addressLo, addressHi, old | set);
    log.push(WRITE_ROW | (level << OBS_LEVEL_SHIFT), addressLo, addressHi, old | set, log.rows[at + ROW_VALUE_HI]!);
  }
}
