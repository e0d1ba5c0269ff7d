/**
 * The walk of the x86 formats: 32-bit, PAE, 4-level and 5-level paging, as processors do it for CR3's tables and, with
 * a few other mode bits, for NPT (SDM vol. 3A 4.3-4.7, APM vol. 2 5.2-5.6, 15.25). facts/kvm-mmu.md §5.2 numbers the
 * same steps for KVM's software.
 */

import {
  Dim,
  elementRow,
  entryWriteRow,
  OBS_DIM_SHIFT,
  OBS_LEVEL_SHIFT,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_OF_TABLE,
  Obs,
} from '../formats/observation.ts';
import { AccessType } from '../formats/step.ts';
import {
  FETCH,
  NO_AD,
  OF_TABLE,
  PERMISSION_BITS,
  PFEC_P,
  PFEC_PK,
  PFEC_RSVD,
  PFEC_SS,
  RMW,
  SHADOW_STACK,
  USER,
  WRITE,
} from './access.ts';
import { Check, type PageWalk, Walk } from './page-walk.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';
import { walkEpt } from './walk-ept.ts';

const ENTRY_P = 1 << 0;
const ENTRY_A = 1 << 5;
const ENTRY_D = 1 << 6;
const ENTRY_PS = 1 << 7;

/** Byte offset of the entry of `level` that translates the address, for 8-byte entries. */
function entryOffset8(level: number, lo: number, hi: number): number {
  switch (level) {
    case 1:
      return (lo >>> 9) & 0xff8;
    case 2:
      return (lo >>> 18) & 0xff8;
    case 3:
      return ((lo >>> 27) & 0x18) | ((hi << 5) & 0xfe0);
    case 4:
      return (hi >>> 4) & 0xff8;
    default:
      return (hi >>> 13) & 0xff8;
  }
}

/**
 * Translates one address. `access`: bits of `access.ts`. Leaves the result in `walk` and returns a `Walk` status.
 * The address is taken as it is: canonicality is the caller's business.
 */
export function walkX86(walk: PageWalk, lo: number, hi: number, access: number): number {
  let level = walk.rootLevel;
  if (level === 0) return translateUnpaged(walk, lo, hi, access);

  const { log, memory, format, dim, second, fourByte } = walk;
  const { reserved } = format;
  let tableFrame = walk.rootFrame;
  // Bits that are set in every entry so far, and no-execute of any.
  let allLo = -1;
  let anyHi = 0;
  let aboveLeafLo = -1;
  let entryLo = 0;
  let entryHi = 0;

  if (level === 3) {
    const index = lo >>> 30;
    if (walk.pdptesInMemory) {
      const status = readMemoryPdpte(walk, index, access);
      if (status !== Walk.OK) return status;
      entryLo = walk.leafLo;
      entryHi = walk.leafHi;
    } else {
      entryLo = walk.pdptes[2 * index]!;
      entryHi = walk.pdptes[2 * index + 1]!;
      log.push(Obs.PDPTE | (index << OBS_LEVEL_SHIFT), 0, 0, entryLo, entryHi);
    }
    if ((entryLo & ENTRY_P) === 0) return pageFault(walk, access, 0, 3, Check.PRESENT);
    tableFrame = (entryHi & 0xf_ffff) * 0x10_0000 + (entryLo >>> 12);
    level = 2;
  }
  const topLevel = level;

  for (;;) {
    const offset = fourByte ? (level === 2 ? (lo >>> 20) & 0xffc : (lo >>> 10) & 0xffc) : entryOffset8(level, lo, hi);
    let frame = tableFrame;
    if (second !== null) {
      const status = translateTable(walk, second, tableFrame, offset, allLo, access & NO_AD);
      if (status !== Walk.OK) return status;
      frame = second.frame;
    }
    const page = memory.page(frame);
    const word = offset >>> 2;
    entryLo = page[word]!;
    entryHi = fourByte ? 0 : page[word + 1]!;
    walk.entryFrame[level] = frame;
    walk.entryGpaFrame[level] = tableFrame;
    walk.entryOffset[level] = offset;
    walk.entryLo[level] = entryLo;
    walk.entryHi[level] = entryHi;
    log.pushAt(elementRow(dim, level, fourByte), frame, offset, entryLo, entryHi);

    if ((entryLo & ENTRY_P) === 0) return pageFault(walk, access, 0, level, Check.PRESENT);
    const bad = level + ((entryLo >>> 7) & 1) * 6;
    if (((entryLo & reserved.lo[bad]!) | (entryHi & reserved.hi[bad]!)) !== 0) {
      return pageFault(walk, access, PFEC_P | PFEC_RSVD, level, Check.RESERVED);
    }
    aboveLeafLo = allLo;
    allLo &= entryLo;
    anyHi |= entryHi;
    if (level === 1 || ((entryLo & ENTRY_PS) !== 0 && (!fourByte || walk.pse))) break;
    tableFrame = (entryHi & 0xf_ffff) * 0x10_0000 + (entryLo >>> 12);
    level--;
  }

  // P, R/W and U/S stand where READ, WRITE and USER do; no-execute is turned round.
  const rights = (allLo & (ACC_READ | ACC_WRITE | ACC_USER)) | (anyHi >>> 31 === 0 ? ACC_EXEC : 0);
  let denied =
    (access & SHADOW_STACK) !== 0
      ? shadowStackDenied(access, aboveLeafLo, entryLo, rights)
      : (format.permissions[(access & PERMISSION_BITS) >>> 1]! >>> rights) & 1;
  let errorCode = PFEC_P;
  if (format.keyMask !== 0 && keyDenied(walk, access, rights, entryHi)) {
    errorCode |= PFEC_PK;
    denied = 1;
  }
  if (denied !== 0) return pageFault(walk, access, errorCode, level, Check.PERMISSION);

  walk.rights = rights;
  walk.leafLo = entryLo;
  walk.leafHi = entryHi;
  let gpaFrame = (entryHi & 0xf_ffff) * 0x10_0000;
  if (level === 1) {
    walk.pageShift = 12;
    gpaFrame += entryLo >>> 12;
  } else if (fourByte) {
    // PSE-36: bits 20:13 of the entry are bits 39:32 of the address (SDM vol. 3A table 4-4).
    walk.pageShift = 22;
    gpaFrame = ((entryLo >>> 13) & 0xff) * 0x10_0000 + ((entryLo >>> 22) << 10) + ((lo >>> 12) & 0x3ff);
  } else if (level === 2) {
    walk.pageShift = 21;
    gpaFrame += ((entryLo >>> 21) << 9) + ((lo >>> 12) & 0x1ff);
  } else {
    walk.pageShift = 30;
    gpaFrame += ((entryLo >>> 30) << 18) + ((lo >>> 12) & 0x3_ffff);
  }
  walk.gpaFrame = gpaFrame;

  const needsAd = (allLo & ENTRY_A) === 0 || ((access & WRITE) !== 0 && (entryLo & ENTRY_D) === 0);
  if (needsAd && !walk.adAfterTranslation && (access & NO_AD) === 0) {
    const status = writeAccessedDirty(walk, topLevel, level, access, rights);
    if (status !== Walk.OK) return status;
  }
  if (second === null) {
    walk.frame = gpaFrame;
  } else {
    const status = translateFinal(walk, second, gpaFrame, lo & 0xfff, access, rights);
    if (status !== Walk.OK) return status;
  }
  if (needsAd && walk.adAfterTranslation && (access & NO_AD) === 0) {
    return writeAccessedDirty(walk, topLevel, level, access, rights);
  }
  return Walk.OK;
}

/** CR0.PG = 0: the linear address is the (guest-)physical one, with every right. */
function translateUnpaged(walk: PageWalk, lo: number, hi: number, access: number): number {
  const frame = (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);
  walk.pageShift = 12;
  walk.rights = ACC_READ | ACC_WRITE | ACC_USER | ACC_EXEC;
  walk.leafLo = 0;
  walk.leafHi = 0;
  walk.gpaFrame = frame;
  walk.frame = frame;
  return walk.second === null ? Walk.OK : translateFinal(walk, walk.second, frame, lo & 0xfff, access, walk.rights);
}

/** Error code bits beyond `base` come from the access itself (SDM vol. 3A 4.7). */
function pageFault(walk: PageWalk, access: number, base: number, level: number, check: number): number {
  walk.errorCode =
    base |
    (access & (WRITE | USER)) |
    (walk.fetchInErrorCode ? access & FETCH : 0) |
    ((access & SHADOW_STACK) !== 0 ? PFEC_SS : 0);
  return walk.fault(Walk.PAGE_FAULT, level, check);
}

/**
 * A shadow-stack access wants a shadow-stack page of its own privilege: R/W clear and D set in the leaf, R/W set
 * above (SDM vol. 3A 4.6.1).
 */
function shadowStackDenied(access: number, aboveLeafLo: number, leafLo: number, rights: number): number {
  const page = (aboveLeafLo & ACC_WRITE) !== 0 && (leafLo & ACC_WRITE) === 0 && (leafLo & ENTRY_D) !== 0;
  const samePrivilege = ((rights & ACC_USER) !== 0) === ((access & USER) !== 0);
  return page && samePrivilege ? 0 : 1;
}

/** Protection keys (SDM vol. 3A 4.6.2): PKRU judges user pages, PKRS supervisor pages. */
function keyDenied(walk: PageWalk, access: number, rights: number, leafHi: number): boolean {
  const userPage = (rights & ACC_USER) !== 0;
  const key = (leafHi >>> 27) & 0xf;
  const offset = (access & (WRITE | USER | FETCH)) | (userPage ? 8 : 0);
  const keyRights = ((userPage ? walk.pkru : walk.pkrs) >>> (2 * key)) & 3;
  return (keyRights & (walk.format.keyMask >>> offset)) !== 0;
}

/** PAE under NPT: the PDPTE is read from memory on each walk (APM vol. 2 15.25.10); leaves it in `leafLo/Hi`. */
function readMemoryPdpte(walk: PageWalk, index: number, access: number): number {
  const offset = walk.rootOffset + 8 * index;
  let frame = walk.rootFrame;
  if (walk.second !== null) {
    const status = translateTable(walk, walk.second, frame, offset, -1, access & NO_AD);
    if (status !== Walk.OK) return status;
    frame = walk.second.frame;
  }
  const page = walk.memory.page(frame);
  const lo = page[offset >>> 2]!;
  const hi = page[(offset >>> 2) + 1]!;
  walk.entryFrame[3] = frame;
  walk.entryOffset[3] = offset;
  walk.log.pushAt(elementRow(walk.dim, 3, false), frame, offset, lo, hi);
  const { reserved } = walk.format;
  if ((lo & ENTRY_P) !== 0 && ((lo & reserved.lo[3]!) | (hi & reserved.hi[3]!)) !== 0) {
    return pageFault(walk, access, PFEC_P | PFEC_RSVD, 3, Check.RESERVED);
  }
  walk.leafLo = lo;
  walk.leafHi = hi;
  return Walk.OK;
}

/** The guest's rights combined so far, as the second stage wants to know them (`GUEST_*`). */
function guestRights(allLo: number, anyHi: number): number {
  return ((allLo & ACC_USER) << 10) | ((allLo & ACC_WRITE) << 12) | ((anyHi >>> 31) << 14);
}

/**
 * Sends a table's address through the second stage. A processor asks NPT for a write (APM vol. 2 15.25.5) and EPT for
 * a read, which EPT itself takes as a write when its A/D bits are on (SDM vol. 3C 29.3.3.2).
 */
function translateTable(
  walk: PageWalk,
  second: PageWalk,
  frame: number,
  offset: number,
  allLo: number,
  noAd: number,
): number {
  if (second.ept) return eptStage(walk, second, frame, offset, OF_TABLE | noAd | guestRights(allLo, 0));
  return nptStage(walk, second, frame, offset, OF_TABLE | WRITE | USER | RMW | noAd);
}

function translateFinal(
  walk: PageWalk,
  second: PageWalk,
  frame: number,
  offset: number,
  access: number,
  rights: number,
): number {
  const kept = access & (WRITE | FETCH | RMW | NO_AD);
  if (second.ept) {
    return eptStage(walk, second, frame, offset, kept | guestRightsOf(rights));
  }
  return nptStage(walk, second, frame, offset, kept | (second.gmet ? access & USER : USER));
}

/** The same from `ACC_*` rights. */
function guestRightsOf(rights: number): number {
  return guestRights(rights, (rights & ACC_EXEC) === 0 ? 0x8000_0000 : 0);
}

function eptStage(walk: PageWalk, second: PageWalk, frame: number, offset: number, access: number): number {
  const status = walkEpt(second, frame, offset, access);
  if (status !== Walk.OK) return Walk.SECOND_STAGE;
  walk.frame = second.frame;
  return Walk.OK;
}

function nptStage(walk: PageWalk, second: PageWalk, frame: number, offset: number, access: number): number {
  const type =
    (access & RMW) !== 0
      ? AccessType.RMW
      : (access & WRITE) !== 0
        ? AccessType.WRITE
        : (access & FETCH) !== 0
          ? AccessType.FETCH
          : AccessType.READ;
  second.log.pushAt(
    Obs.NESTED_WALK |
      (Dim.NPT << OBS_DIM_SHIFT) |
      (type << OBS_NESTED_ACCESS_SHIFT) |
      ((access & OF_TABLE) !== 0 ? OBS_NESTED_OF_TABLE : 0),
    frame,
    offset,
    0,
    0,
  );
  const status = walkX86(second, ((frame << 12) | offset) >>> 0, (frame / 0x10_0000) >>> 0, access);
  if (status !== Walk.OK) {
    second.faultFrame = frame;
    second.faultOffset = offset;
    second.faultAccess = access;
    return Walk.SECOND_STAGE;
  }
  walk.frame = second.frame;
  return Walk.OK;
}

/**
 * Sets A in every entry and D in the leaf of a write, top down, each entry that changes once. Under EPT without A/D
 * bits the tables were read only, so each changed entry must first be translated for writing.
 */
function writeAccessedDirty(
  walk: PageWalk,
  topLevel: number,
  leafLevel: number,
  access: number,
  rights: number,
): number {
  const { second, fourByte } = walk;
  if (second?.ept && !second.ad) {
    const status = checkWriteBack(walk, second, topLevel, leafLevel, access, rights);
    if (status !== Walk.OK) return status;
  }
  for (let level = topLevel; level >= leafLevel; level--) {
    const frame = walk.entryFrame[level]!;
    const offset = walk.entryOffset[level]!;
    const old = walk.entryLo[level]!;
    const set = adBits(level, leafLevel, access);
    if ((old & set) === set) continue;
    walk.memory.setEntryBits(frame, offset >>> 2, old | set);
    walk.log.pushAt(entryWriteRow(walk.dim, level, fourByte), frame, offset, (old | set) >>> 0, walk.entryHi[level]!);
  }
  return Walk.OK;
}

/** EPT without A/D: writing the guest's A/D back needs write permission of each table page (SDM vol. 3C 29.3.3.2). */
function checkWriteBack(
  walk: PageWalk,
  second: PageWalk,
  topLevel: number,
  leafLevel: number,
  access: number,
  rights: number,
): number {
  for (let level = topLevel; level >= leafLevel; level--) {
    const offset = walk.entryOffset[level]!;
    const set = adBits(level, leafLevel, access);
    if ((walk.entryLo[level]! & set) === set) continue;
    const gpaFrame = walk.entryGpaFrame[level]!;
    const status = eptStage(walk, second, gpaFrame, offset, OF_TABLE | WRITE | guestRightsOf(rights));
    if (status !== Walk.OK) return status;
  }
  return Walk.OK;
}

/** What a walk must find set in the entry of `level`: A, and D in the leaf of a write. */
function adBits(level: number, leafLevel: number, access: number): number {
  return ENTRY_A | (level === leafLevel && (access & WRITE) !== 0 ? ENTRY_D : 0);
}
