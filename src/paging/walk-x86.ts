/**
 * The walk of the x86 formats: 32-bit, PAE, 4-level and 5-level paging, as processors do it for CR3's tables and, with
 * a few other mode bits, for NPT (SDM vol. 3A 4.3-4.7, APM vol. 2 5.2-5.6, 15.25). facts/kvm-mmu.md §5.2 numbers the
 * same steps for KVM's software.
 */

import { Dim, OBS_DIM_SHIFT, OBS_FOUR_BYTES, OBS_KIND_MASK, OBS_LEVEL_SHIFT, Obs } from '../formats/observation.ts';
import { AccessType } from '../formats/step.ts';
import {
  accessOfType,
  FETCH,
  NO_AD,
  OF_TABLE,
  PERMISSION_BITS,
  PFEC_P,
  PFEC_PK,
  PFEC_RSVD,
  PFEC_SS,
  SHADOW_STACK,
  TYPE_BITS,
  USER,
  WRITE,
} from './access.ts';
import { Check, entryOffset8, type PageWalk, Walk } from './page-walk.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_HI, ROW_VALUE_LO } from './row-log.ts';
import { walkEpt } from './walk-ept.ts';

// V8 folds a module's own constants into the code but loads and checks imported ones at each use: copies for the walk
// itself. What only faults and write-backs need is used as imported.
const OK = Walk.OK;
const ELEMENT = Obs.ELEMENT;
const DIM_SHIFT = OBS_DIM_SHIFT;
const LEVEL_SHIFT = OBS_LEVEL_SHIFT;
const FOUR_BYTES = OBS_FOUR_BYTES;
const ROW_SIZE = ROW;
const AT_OP = ROW_OP;
const AT_ADDRESS_LO = ROW_ADDRESS_LO;
const AT_ADDRESS_HI = ROW_ADDRESS_HI;
const AT_VALUE_LO = ROW_VALUE_LO;
const AT_VALUE_HI = ROW_VALUE_HI;
const READ_WRITE_USER = ACC_READ | ACC_WRITE | ACC_USER;
const RIGHT_USER = ACC_USER;
const RIGHT_WRITE = ACC_WRITE;
const RIGHT_EXECUTE = ACC_EXEC;
const WRITES = WRITE;
const OF_SHADOW_STACK = SHADOW_STACK;
const INDEX_BITS = PERMISSION_BITS;
const PRESENT = PFEC_P;
const TABLE = OF_TABLE;
const KEEPS_AD = NO_AD;
const BY_USER = USER;
/** What a final address's translation takes over from the access. */
const KEPT_BITS = WRITE | FETCH | TYPE_BITS | NO_AD;
const offsetOf = entryOffset8;
const eptWalk = walkEpt;

const ENTRY_P = 1 << 0;
const ENTRY_A = 1 << 5;
const ENTRY_D = 1 << 6;
const ENTRY_PS = 1 << 7;

/** What a processor asks NPT for when it reads a guest page table (APM vol. 2 15.25.5). */
const NPT_TABLE_ACCESS = OF_TABLE | USER | accessOfType(AccessType.RMW);
/** Writing a guest entry's A/D back. */
const WRITE_BACK = OF_TABLE | accessOfType(AccessType.WRITE);

/**
 * Translates one address. `access`: bits of `access.ts`. Leaves the result in `walk` and returns a `Walk` status.
 * The address is taken as it is: canonicality is the caller's business.
 */
export function walkX86(walk: PageWalk, linearLo: number, linearHi: number, access: number): number {
  const lo = linearLo | 0;
  const hi = linearHi | 0;
  let level = walk.rootLevel;
  if (level === 0) return translateUnpaged(walk, lo, hi, access);

  const { log, memory, format, second, fourByte, row } = walk;
  const { words } = memory;
  const { rows } = log;
  const reservedLo = format.reserved.lo;
  const reservedHi = format.reserved.hi;
  const rowBits = ELEMENT | (walk.dim << DIM_SHIFT) | (fourByte ? FOUR_BYTES : 0);
  let tableLo = walk.rootLo;
  let tableHi = walk.rootHi;
  // Bits that are set in every entry so far, and high halves of all of them together for NX.
  let allLo = -1;
  let anyHi = 0;
  let aboveLeafLo = -1;
  let entryLo = 0;
  let entryHi = 0;

  if (level === 3) {
    const status = readPdpte(walk, lo >>> 30, access);
    if (status !== OK) return status;
    tableLo = walk.leafLo & ~0xfff;
    tableHi = walk.leafHi & 0xf_ffff;
    level = 2;
  }
  const topLevel = level;

  for (;;) {
    const offset = fourByte ? (level === 2 ? lo >>> 20 : lo >>> 10) & 0xffc : offsetOf(level, lo, hi);
    let entryAt = (tableLo & ~0xfff) | offset;
    let entryAtHi = tableHi;
    if (second !== null) {
      const status = translateTable(walk, second, entryAt, tableHi, allLo, access & KEEPS_AD);
      if (status !== OK) return status;
      entryAt = second.lo;
      entryAtHi = second.hi;
    }
    const word = memory.pageIndex(entryAt, entryAtHi) + (offset >>> 2);
    entryLo = words[word]!;
    entryHi = fourByte ? 0 : words[word + 1]!;
    const rowIndex = log.count;
    const rowAt = rowIndex * ROW_SIZE;
    rows[rowAt + AT_OP] = rowBits | (level << LEVEL_SHIFT);
    rows[rowAt + AT_ADDRESS_LO] = entryAt;
    rows[rowAt + AT_ADDRESS_HI] = entryAtHi;
    rows[rowAt + AT_VALUE_LO] = entryLo;
    rows[rowAt + AT_VALUE_HI] = entryHi;
    log.count = rowIndex + 1;
    row[level] = rowIndex;

    if ((entryLo & ENTRY_P) === 0) return pageFault(walk, access, 0, level, Check.PRESENT);
    const bad = level + ((entryLo >>> 7) & 1) * 6;
    if (((entryLo & reservedLo[bad]!) | (entryHi & reservedHi[bad]!)) !== 0) {
      return pageFault(walk, access, PFEC_P | PFEC_RSVD, level, Check.RESERVED);
    }
    aboveLeafLo = allLo;
    allLo &= entryLo;
    anyHi |= entryHi;
    if (level === 1 || ((entryLo & ENTRY_PS) !== 0 && (!fourByte || walk.pse))) break;
    tableLo = entryLo;
    tableHi = entryHi & 0xf_ffff;
    level--;
  }

  // P, R/W and U/S stand where READ, WRITE and USER do; no-execute is turned round.
  const rights = (allLo & READ_WRITE_USER) | (anyHi < 0 ? 0 : RIGHT_EXECUTE);
  let denied =
    (access & OF_SHADOW_STACK) !== 0 && walk.dim === Dim.GUEST
      ? shadowStackDenied(access, aboveLeafLo, entryLo, rights)
      : (format.permissions[(access & INDEX_BITS) >>> 1]! >>> rights) & 1;
  let errorCode = PRESENT;
  if (format.keyMask !== 0 && keyDenied(walk, access, rights, entryHi)) {
    errorCode |= PFEC_PK;
    denied = 1;
  }
  if (denied !== 0) return pageFault(walk, access, errorCode, level, Check.PERMISSION);

  walk.rights = rights;
  walk.leafLo = entryLo;
  walk.leafHi = entryHi;
  // A 4 MB page takes 22 bits of the address; PSE-36 puts bits 39:32 into bits 20:13 (SDM vol. 3A table 4-4).
  const large4m = fourByte && level === 2;
  const shift = large4m ? 22 : 3 + 9 * level;
  const within = (1 << shift) - 1;
  walk.pageShift = shift;
  const gpaLo = (entryLo & ~within) | (lo & within);
  const gpaHi = large4m ? (entryLo >>> 13) & 0xff : entryHi & 0xf_ffff;
  walk.gpaLo = gpaLo;
  walk.gpaHi = gpaHi;

  // Without an effect there is still the question whether EPT without A/D bits lets the entries be written.
  const needsAd =
    ((allLo & ENTRY_A) === 0 || ((access & WRITES) !== 0 && (entryLo & ENTRY_D) === 0)) &&
    ((access & KEEPS_AD) === 0 || (second?.ept === true && !second.ad));
  if (needsAd && !(walk.adAfterTranslation || walk.software)) {
    const status = writeAccessedDirty(walk, topLevel, level, access, rights);
    if (status !== OK) return status;
  }
  if (second === null) {
    walk.lo = gpaLo;
    walk.hi = gpaHi;
  } else {
    const status = translateFinal(walk, second, gpaLo, gpaHi, access, rights);
    if (status !== OK) return status;
  }
  if (needsAd && (walk.adAfterTranslation || walk.software))
    return writeAccessedDirty(walk, topLevel, level, access, rights);
  return OK;
}

/** CR0.PG = 0: the linear address is the (guest-)physical one, with every right. */
function translateUnpaged(walk: PageWalk, lo: number, hi: number, access: number): number {
  walk.pageShift = 12;
  walk.rights = ACC_READ | ACC_WRITE | ACC_USER | ACC_EXEC;
  walk.leafLo = 0;
  walk.leafHi = 0;
  walk.gpaLo = lo;
  walk.gpaHi = hi & 0xf_ffff;
  if (walk.second !== null) return translateFinal(walk, walk.second, lo, walk.gpaHi, access, walk.rights);
  walk.lo = lo;
  walk.hi = walk.gpaHi;
  return Walk.OK;
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

/**
 * PAE: takes the PDPTE from its register, or under NPT from memory on each walk (APM vol. 2 15.25.10). Leaves it in
 * `leafLo` and `leafHi`.
 */
function readPdpte(walk: PageWalk, index: number, access: number): number {
  const { log, second } = walk;
  if (!walk.pdptesInMemory) {
    walk.leafLo = walk.pdptes[2 * index]!;
    walk.leafHi = walk.pdptes[2 * index + 1]!;
    log.push(Obs.PDPTE | (index << OBS_LEVEL_SHIFT), 0, 0, walk.leafLo, walk.leafHi);
    return (walk.leafLo & ENTRY_P) === 0 ? pageFault(walk, access, 0, 3, Check.PRESENT) : Walk.OK;
  }
  let at = (walk.rootLo & ~0x1f) | (8 * index);
  let atHi = walk.rootHi;
  if (second !== null) {
    const status = translateTable(walk, second, at, atHi, -1, access & NO_AD);
    if (status !== Walk.OK) return status;
    at = second.lo;
    atHi = second.hi;
  }
  const { memory } = walk;
  const word = memory.pageIndex(at, atHi) + ((at & 0xff8) >>> 2);
  walk.leafLo = memory.words[word]!;
  walk.leafHi = memory.words[word + 1]!;
  walk.row[3] = log.count;
  log.push(Obs.ELEMENT | (walk.dim << OBS_DIM_SHIFT) | (3 << OBS_LEVEL_SHIFT), at, atHi, walk.leafLo, walk.leafHi);
  if ((walk.leafLo & ENTRY_P) === 0) return pageFault(walk, access, 0, 3, Check.PRESENT);
  const { reserved } = walk.format;
  if (((walk.leafLo & reserved.lo[3]!) | (walk.leafHi & reserved.hi[3]!)) !== 0) {
    return pageFault(walk, access, PFEC_P | PFEC_RSVD, 3, Check.RESERVED);
  }
  return Walk.OK;
}

/** The guest's rights combined so far, as the second stage wants to know them (`GUEST_*`). */
function guestRights(allLo: number, noExecute: number): number {
  return ((allLo & RIGHT_USER) << 15) | ((allLo & RIGHT_WRITE) << 17) | (noExecute << 19);
}

/** The same from `ACC_*` rights. */
function guestRightsOf(rights: number): number {
  return guestRights(rights, (rights & RIGHT_EXECUTE) === 0 ? 1 : 0);
}

/**
 * Sends a table entry's address through the second stage. A processor asks NPT for a write (APM vol. 2 15.25.5) and
 * EPT for a read, which EPT itself takes as a write when its A/D bits are on (SDM vol. 3C 29.3.5).
 */
function translateTable(walk: PageWalk, second: PageWalk, lo: number, hi: number, allLo: number, noAd: number): number {
  if (second.ept) {
    const access = (walk.software ? WRITE_BACK : TABLE) | noAd | guestRights(allLo, 0);
    if (second.beforeTranslation !== null) second.beforeTranslation();
    return eptWalk(second, lo, hi, access) === OK ? OK : Walk.SECOND_STAGE;
  }
  return nptStage(second, lo, hi, NPT_TABLE_ACCESS | noAd);
}

function translateFinal(
  walk: PageWalk,
  second: PageWalk,
  lo: number,
  hi: number,
  access: number,
  rights: number,
): number {
  const kept = access & KEPT_BITS;
  if (second.ept) {
    second.software = walk.software;
    const asked = kept | guestRightsOf(rights) | (access & OF_SHADOW_STACK);
    if (second.beforeTranslation !== null) second.beforeTranslation();
    if (eptWalk(second, lo, hi, asked) !== OK) return Walk.SECOND_STAGE;
  } else {
    // A nested fault tells that the access was one to a shadow stack (APM vol. 2 15.25.6); NPT has no such pages.
    const user = second.gmet ? access & BY_USER : BY_USER;
    const status = nptStage(second, lo, hi, kept | user | (access & OF_SHADOW_STACK));
    if (status !== OK) return status;
  }
  walk.secondRights = second.rights;
  walk.secondPageShift = second.pageShift;
  walk.lo = second.lo;
  walk.hi = second.hi;
  return OK;
}

/** Translates one guest-physical address by itself, in whichever format the second stage has. */
export function secondStage(second: PageWalk, lo: number, hi: number, access: number): number {
  return second.ept ? walkEpt(second, lo, hi, access) : nptStage(second, lo, hi, access);
}

function nptStage(second: PageWalk, lo: number, hi: number, access: number): number {
  if (second.beforeTranslation !== null) second.beforeTranslation();
  second.log.push(Obs.NESTED_WALK | (Dim.NPT << OBS_DIM_SHIFT) | (access & (TYPE_BITS | OF_TABLE)), lo, hi, 0, 0);
  if (walkX86(second, lo, hi, access) === Walk.OK) return Walk.OK;
  second.faultLo = lo;
  second.faultHi = hi;
  second.faultAccess = access;
  return Walk.SECOND_STAGE;
}

/** What a walk must find set in the entry of `level`: A, and D in the leaf of a write. */
function adBits(level: number, leafLevel: number, access: number): number {
  return ENTRY_A | (level === leafLevel && (access & WRITE) !== 0 ? ENTRY_D : 0);
}

/**
 * Sets A in every entry and D in the leaf of a write, top down, onto the entries as read. Under EPT without A/D bits
 * the tables were only read, so each entry that changes must first be translated for writing.
 */
function writeAccessedDirty(
  walk: PageWalk,
  topLevel: number,
  leafLevel: number,
  access: number,
  rights: number,
): number {
  const { log, memory, second, row } = walk;
  if (second?.ept && !second.ad && !walk.software) {
    const status = checkWriteBack(walk, second, topLevel, leafLevel, access, rights);
    if (status !== Walk.OK) return status;
  }
  if ((access & NO_AD) !== 0) return Walk.OK;
  const rowBits = Obs.ENTRY_WRITE | (walk.dim << OBS_DIM_SHIFT) | (walk.fourByte ? OBS_FOUR_BYTES : 0);
  for (let level = topLevel; level >= leafLevel; level--) {
    const at = row[level]! * ROW;
    const old = log.rows[at + ROW_VALUE_LO]!;
    const set = adBits(level, leafLevel, access);
    if ((old & set) === set) continue;
    const addressLo = log.rows[at + ROW_ADDRESS_LO]!;
    const addressHi = log.rows[at + ROW_ADDRESS_HI]!;
    memory.setEntryBits(addressLo, addressHi, old | set);
    log.push(rowBits | (level << OBS_LEVEL_SHIFT), addressLo, addressHi, old | set, log.rows[at + ROW_VALUE_HI]!);
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
  const { log, row } = walk;
  for (let level = topLevel; level >= leafLevel; level--) {
    const set = adBits(level, leafLevel, access);
    if ((log.rows[row[level]! * ROW + ROW_VALUE_LO]! & set) === set) continue;
    // The entry's guest-physical address stands in the row that began its translation.
    let start = row[level]! - 1;
    while ((log.op(start) & OBS_KIND_MASK) !== Obs.NESTED_WALK) start--;
    const lo = log.rows[start * ROW + ROW_ADDRESS_LO]!;
    const hi = log.rows[start * ROW + ROW_ADDRESS_HI]!;
    second.beforeTranslation?.();
    if (walkEpt(second, lo, hi, WRITE_BACK | guestRightsOf(rights)) !== Walk.OK) return Walk.SECOND_STAGE;
  }
  return Walk.OK;
}
