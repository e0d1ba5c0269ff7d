/**
 * The walk of EPT: guest-physical to physical (SDM vol. 3C 29.3). Ends in a translation, an EPT violation with its
 * exit qualification, an EPT misconfiguration, or, where a flag had to be set, in a full page-modification log.
 */

import { Dim, OBS_DIM_SHIFT, OBS_LEVEL_SHIFT, Obs } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import {
  AS_READ,
  FETCH,
  GUEST_NX,
  GUEST_USER,
  GUEST_WRITABLE,
  NESTED_WALK_BITS,
  NO_AD,
  NO_LINEAR,
  OF_TABLE,
  SHADOW_STACK,
  USER,
  WRITE,
} from './access.ts';
import { Check, entryOffset8, type PageWalk, Walk } from './page-walk.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';
import { EPT_ENTRY_KINDS, EptEntry } from './reserved-bits.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_HI, ROW_VALUE_LO } from './row-log.ts';

const RWX = 7;
const USER_EXECUTE = 1 << 10;
const ACCESSED = 1 << 8;
const DIRTY = 1 << 9;
/** Of the page-modification log. */
const LOG_ENTRIES = 512;

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
const QUAL_SHADOW_STACK = 1 << 13;

// V8 folds a module's own constants into the code but loads and checks imported ones at each use: the loop below and
// what surrounds it use copies.
const OK = Walk.OK;
const ROW_SIZE = ROW;
const AT_OP = ROW_OP;
const AT_ADDRESS_LO = ROW_ADDRESS_LO;
const AT_ADDRESS_HI = ROW_ADDRESS_HI;
const AT_VALUE_LO = ROW_VALUE_LO;
const AT_VALUE_HI = ROW_VALUE_HI;
const LEVEL_SHIFT = OBS_LEVEL_SHIFT;
const START_BITS = NESTED_WALK_BITS;
const WRITES = WRITE;
const FETCHES = FETCH;
const OF_TABLES = OF_TABLE;
const AS_READS = AS_READ;
const KEEPS_AD = NO_AD;
const FROM_USER_PAGE = GUEST_USER;
const INDEX_USER = USER;
const READ_WRITE = ACC_READ | ACC_WRITE;
const EXECUTE = ACC_EXEC;
const EXECUTE_FROM_USER = ACC_USER;
const offsetOf = entryOffset8;
const kinds = EPT_ENTRY_KINDS;
const TABLE = EptEntry.TABLE;
const ABSENT = EptEntry.ABSENT;
const MISCONFIGURED = EptEntry.MISCONFIGURED;

const START_ROW = Obs.NESTED_WALK | (Dim.EPT << OBS_DIM_SHIFT);
const ELEMENT_ROW = Obs.ELEMENT | (Dim.EPT << OBS_DIM_SHIFT);
const WRITE_ROW = Obs.ENTRY_WRITE | (Dim.EPT << OBS_DIM_SHIFT);

/** Translates a guest-physical address; result in `walk`, returns a `Walk` status. */
export function walkEpt(walk: PageWalk, gpaLo: number, gpaHi: number, access: number): number {
  const lo = gpaLo | 0;
  const hi = gpaHi | 0;
  const { log, memory, format, rootLevel } = walk;
  const { words } = memory;
  const { kindsAt, reservedHi } = format;
  // Rows are written here rather than pushed one by one: this loop is where replay spends its time.
  const { rows } = log;
  const startRow = log.count;
  let rowAt = startRow * ROW_SIZE;
  rows[rowAt + AT_OP] = START_ROW | (access & START_BITS);
  rows[rowAt + AT_ADDRESS_LO] = lo;
  rows[rowAt + AT_ADDRESS_HI] = hi;
  rows[rowAt + AT_VALUE_LO] = 0;
  rows[rowAt + AT_VALUE_HI] = 0;
  rowAt += ROW_SIZE;
  walk.firstRow = startRow + 1;

  // With A/D bits on, reading the guest's paging structures counts as writing them (SDM vol. 3C 29.3.5).
  const ad = walk.ad === true;
  const write = (access & WRITES) !== 0 || (ad && (access & (OF_TABLES | AS_READS)) === OF_TABLES);
  let all = -1;
  let level = rootLevel;
  let tableLo = walk.rootLo;
  let tableHi = walk.rootHi;
  let entryLo = 0;
  let entryHi = 0;
  let kind = 0;

  // Bits beyond what the walk's depth translates play no part (SDM vol. 3C 29.3.2).
  for (;;) {
    const at = offsetOf(level, lo, hi);
    const word = memory.pageIndex(tableLo, tableHi) + (at >>> 2);
    entryLo = words[word]!;
    entryHi = words[word + 1]!;
    rows[rowAt + AT_OP] = ELEMENT_ROW | (level << LEVEL_SHIFT);
    rows[rowAt + AT_ADDRESS_LO] = tableLo | at;
    rows[rowAt + AT_ADDRESS_HI] = tableHi;
    rows[rowAt + AT_VALUE_LO] = entryLo;
    rows[rowAt + AT_VALUE_HI] = entryHi;
    rowAt += ROW_SIZE;

    all &= entryLo;
    kind = kinds[kindsAt + ((level << 9) | (entryLo & 0xff) | ((entryLo >>> 2) & 0x100))]!;
    if (kind !== TABLE || (entryHi & reservedHi) !== 0) break;
    tableLo = entryLo & ~0xfff;
    tableHi = entryHi & 0xf_ffff;
    level--;
  }
  log.count = startRow + rootLevel - level + 2;

  if (kind === ABSENT) return violation(walk, lo, hi, access, write, all, level, Check.PRESENT);
  const shift = 3 + 9 * level;
  const within = (1 << shift) - 1;
  // Address bits below a large page are reserved.
  if (kind === MISCONFIGURED || ((entryHi & reservedHi) | (entryLo & within & ~0xfff)) !== 0) {
    setFault(walk, lo, hi, access);
    walk.qualificationValid = false;
    return walk.fault(Walk.EPT_MISCONFIG, level, Check.RESERVED);
  }

  // R and W stand where READ and WRITE do; execute is split by mode-based execute control (SDM vol. 3C 29.3.3.2).
  const rights =
    (all & READ_WRITE) | ((all & 4) !== 0 ? EXECUTE : 0) | ((all & USER_EXECUTE) !== 0 ? EXECUTE_FROM_USER : 0);
  const index = ((write ? WRITES : 0) | (access & FETCHES) | ((access & FROM_USER_PAGE) !== 0 ? INDEX_USER : 0)) >>> 1;
  const denied = ((format.permissions[index]! >>> rights) & 1) !== 0 || (walk.software && (rights & ACC_READ) === 0);
  if (denied) {
    return violation(walk, lo, hi, access, write, all, level, Check.PERMISSION);
  }

  walk.pageShift = shift;
  walk.lo = (entryLo & ~within) | (lo & within);
  walk.hi = entryHi & 0xf_ffff;
  walk.rights = rights;
  walk.leafLo = entryLo;
  walk.leafHi = entryHi;
  if (ad && ((all & ACCESSED) === 0 || (write && (entryLo & DIRTY) === 0)) && (access & KEEPS_AD) === 0) {
    if (walk.modificationLog === null) writeAccessedDirty(walk, level, write);
    else return writeLogged(walk, walk.modificationLog, lo, hi, access, level, write);
  }
  return OK;
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
      if ((access & SHADOW_STACK) !== 0) qualification |= QUAL_SHADOW_STACK;
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

/**
 * The same with page-modification logging (SDM vol. 3C 29.3.6): if a flag has to be set and the log has no room, none is
 * and the access does not happen; a page whose leaf becomes dirty is logged.
 */
function writeLogged(
  walk: PageWalk,
  registers: Uint32Array,
  lo: number,
  hi: number,
  access: number,
  leafLevel: number,
  write: boolean,
): number {
  const index = registers[2 * Reg.PML_INDEX]! & 0xffff;
  const becomesDirty = write && (walk.leafLo & DIRTY) === 0;
  if (index >= LOG_ENTRIES && (becomesDirty || !walk.logsDirtyOnly)) {
    setFault(walk, lo, hi, access);
    walk.qualificationValid = false;
    return walk.fault(Walk.LOG_FULL, leafLevel, Check.LOG_FULL);
  }
  writeAccessedDirty(walk, leafLevel, write);
  if (!becomesDirty) return OK;
  const at = (registers[2 * Reg.PML_ADDRESS]! & ~0xfff) | (index << 3);
  const atHi = registers[2 * Reg.PML_ADDRESS + 1]! & 0xf_ffff;
  walk.memory.setEntryBits(at, atHi, lo & ~0xfff);
  walk.memory.setEntryBits(at + 4, atHi, hi);
  registers[2 * Reg.PML_INDEX] = (index - 1) & 0xffff;
  return OK;
}
