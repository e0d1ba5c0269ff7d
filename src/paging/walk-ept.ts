/**
 * The walk of EPT: guest-physical to physical (SDM vol. 3C 29.3). Ends in a translation, an EPT violation with its
 * exit qualification, or an EPT misconfiguration.
 */

import {
  Dim,
  elementRow,
  entryWriteRow,
  OBS_DIM_SHIFT,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_NO_LINEAR,
  OBS_NESTED_NX,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
  Obs,
} from '../formats/observation.ts';
import { AccessType } from '../formats/step.ts';
import { FETCH, GUEST_NX, GUEST_USER, GUEST_WRITABLE, NO_AD, NO_LINEAR, OF_TABLE, RMW, USER, WRITE } from './access.ts';
import { Check, type PageWalk, Walk } from './page-walk.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';

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

/** Translates byte `offset` of guest-physical `frame`; result in `walk`, returns a `Walk` status. */
export function walkEpt(walk: PageWalk, frame: number, offset: number, access: number): number {
  const { log, memory, format } = walk;
  const { reserved } = format;
  logStart(walk, frame, offset, access);

  // Bits beyond what the walk's depth translates play no part (SDM vol. 3C 29.3.2).
  const gpaLo = (frame << 12) >>> 0;
  const gpaHi = (frame / 0x10_0000) | 0;
  // With A/D bits on, reading the guest's paging structures counts as writing them (SDM vol. 3C 29.3.5).
  const write = (access & WRITE) !== 0 || (walk.ad && (access & OF_TABLE) !== 0);
  const presentBits = walk.mbec ? RWX | USER_EXECUTE : RWX;
  let all = -1;
  let level = walk.rootLevel;
  let tableFrame = walk.rootFrame;
  let entryLo = 0;
  let entryHi = 0;

  for (;;) {
    let at: number;
    switch (level) {
      case 1:
        at = (gpaLo >>> 9) & 0xff8;
        break;
      case 2:
        at = (gpaLo >>> 18) & 0xff8;
        break;
      case 3:
        at = ((gpaLo >>> 27) & 0x18) | ((gpaHi << 5) & 0xfe0);
        break;
      case 4:
        at = (gpaHi >>> 4) & 0xff8;
        break;
      default:
        at = (gpaHi >>> 13) & 0xff8;
    }
    const page = memory.page(tableFrame);
    entryLo = page[at >>> 2]!;
    entryHi = page[(at >>> 2) + 1]!;
    walk.entryFrame[level] = tableFrame;
    walk.entryOffset[level] = at;
    walk.entryLo[level] = entryLo;
    walk.entryHi[level] = entryHi;
    log.pushAt(elementRow(Dim.EPT, level, false), tableFrame, at, entryLo, entryHi);

    all &= entryLo;
    if ((entryLo & presentBits) === 0) return violation(walk, frame, offset, access, write, all, level);
    const bad = level + ((entryLo >>> 7) & 1) * 6;
    if (((entryLo & reserved.lo[bad]!) | (entryHi & reserved.hi[bad]!)) !== 0 || badCombination(walk, entryLo)) {
      walk.faultFrame = frame;
      walk.faultOffset = offset;
      walk.faultAccess = access;
      walk.qualificationValid = false;
      return walk.fault(Walk.EPT_MISCONFIG, level, Check.RESERVED);
    }
    if (level === 1 || (entryLo & LARGE) !== 0) break;
    tableFrame = (entryHi & 0xf_ffff) * 0x10_0000 + (entryLo >>> 12);
    level--;
  }

  // R and W stand where READ and WRITE do; execute is split by mode-based execute control (SDM vol. 3C 29.3.3.2).
  const rights =
    (all & (ACC_READ | ACC_WRITE)) | ((all & 4) !== 0 ? ACC_EXEC : 0) | ((all & USER_EXECUTE) !== 0 ? ACC_USER : 0);
  const index = ((write ? WRITE : 0) | (access & FETCH) | ((access & GUEST_USER) !== 0 ? USER : 0)) >>> 1;
  if (((format.permissions[index]! >>> rights) & 1) !== 0) {
    return violation(walk, frame, offset, access, write, all, level, Check.PERMISSION);
  }

  let base = (entryHi & 0xf_ffff) * 0x10_0000;
  if (level === 1) {
    walk.pageShift = 12;
    base += entryLo >>> 12;
  } else if (level === 2) {
    walk.pageShift = 21;
    base += ((entryLo >>> 21) << 9) + ((gpaLo >>> 12) & 0x1ff);
  } else {
    walk.pageShift = 30;
    base += ((entryLo >>> 30) << 18) + ((gpaLo >>> 12) & 0x3_ffff);
  }
  walk.frame = base;
  walk.rights = rights;
  walk.leafLo = entryLo;
  walk.leafHi = entryHi;
  if (walk.ad && ((all & ACCESSED) === 0 || (write && (entryLo & DIRTY) === 0)) && (access & NO_AD) === 0) {
    writeAccessedDirty(walk, level, write);
  }
  return Walk.OK;
}

function logStart(walk: PageWalk, frame: number, offset: number, access: number): void {
  const type =
    (access & RMW) !== 0
      ? AccessType.RMW
      : (access & WRITE) !== 0
        ? AccessType.WRITE
        : (access & FETCH) !== 0
          ? AccessType.FETCH
          : AccessType.READ;
  let op = Obs.NESTED_WALK | (Dim.EPT << OBS_DIM_SHIFT) | (type << OBS_NESTED_ACCESS_SHIFT);
  if ((access & OF_TABLE) !== 0) op |= OBS_NESTED_OF_TABLE;
  if ((access & NO_LINEAR) !== 0) op |= OBS_NESTED_NO_LINEAR;
  if ((access & GUEST_USER) !== 0) op |= OBS_NESTED_USER;
  if ((access & GUEST_WRITABLE) !== 0) op |= OBS_NESTED_WRITABLE;
  if ((access & GUEST_NX) !== 0) op |= OBS_NESTED_NX;
  walk.log.pushAt(op, frame, offset, 0, 0);
}

/** Memory type and RWX combination; with MBEC user-execute counts as execute (facts/kvm-mmu.md §4). */
function badCombination(walk: PageWalk, entryLo: number): boolean {
  let low6 = entryLo & 0x3f;
  if (walk.mbec && (entryLo & USER_EXECUTE) !== 0) low6 |= 4;
  const half = low6 < 32 ? walk.format.badLo : walk.format.badHi;
  return ((half >>> (low6 & 31)) & 1) !== 0;
}

function violation(
  walk: PageWalk,
  frame: number,
  offset: number,
  access: number,
  write: boolean,
  all: number,
  level: number,
  check: number = Check.PRESENT,
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
  walk.faultFrame = frame;
  walk.faultOffset = offset;
  walk.faultAccess = access;
  return walk.fault(Walk.EPT_VIOLATION, level, check);
}

/** Accessed flags of all levels and the leaf's dirty flag, top down (SDM vol. 3C 29.3.5). */
function writeAccessedDirty(walk: PageWalk, leafLevel: number, write: boolean): void {
  for (let level = walk.rootLevel; level >= leafLevel; level--) {
    const frame = walk.entryFrame[level]!;
    const at = walk.entryOffset[level]!;
    const old = walk.entryLo[level]!;
    const set = ACCESSED | (write && level === leafLevel ? DIRTY : 0);
    if ((old & set) === set) continue;
    walk.memory.setEntryBits(frame, at >>> 2, old | set);
    walk.log.pushAt(entryWriteRow(Dim.EPT, level, false), frame, at, (old | set) >>> 0, walk.entryHi[level]!);
  }
}
