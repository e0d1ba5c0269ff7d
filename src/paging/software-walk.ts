/**
 * KVM's walk of guest tables in software (walk_addr_generic, facts/kvm-mmu.md §5): one loop for 32-bit, PAE, 4- and
 * 5-level tables and EPT, with the tracepoints it fires as rows. Rights are judged once, at the leaf; A and D are set
 * last, after the second stage translated the final address, and never by a walk that faults.
 */

import { KVM_EVENT_SHIFT, KvmEvent } from '../formats/kvm-event.ts';
import { OBS_LEVEL_SHIFT, Obs } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import { FETCH, PFEC_P, PFEC_RSVD, USER, WRITE } from './access.ts';
import {
  accessedBit,
  accessOfBits,
  dirtyBit,
  gpteFrame,
  isLastGpte,
  isPresentGpte,
  isReservedGpte,
  protectCleanGpte,
} from './guest-entry.ts';
import { frameHi, frameLo, frameOf } from './guest-memory.ts';
import { GUEST_FINAL, GUEST_PAGE, type KvmPageWalk, PdpteSource, PteFormat } from './kvm-page-walk.ts';
import { ACC_ALL } from './kvm-roles.ts';
import { entryOffset8 } from './page-walk.ts';
import { permissionFault } from './permission-fault.ts';
import { ACC_USER } from './permissions.ts';
import { WalkBug } from './walk-bugs.ts';

const FAULT = 0;
const OK = 1;
/** An entry changed under the A/D update: once more from the top. */
const AGAIN = 2;

/** Bits of an access that tracepoints print. */
const PFEC_BITS = 0xffff;
const EVENT = Obs.KVM_EVENT;
const PAGETABLE_WALK = EVENT | (KvmEvent.PAGETABLE_WALK << KVM_EVENT_SHIFT);
const PAGING_ELEMENT = EVENT | (KvmEvent.PAGING_ELEMENT << KVM_EVENT_SHIFT);
const SET_ACCESSED_BIT = EVENT | (KvmEvent.SET_ACCESSED_BIT << KVM_EVENT_SHIFT);
const SET_DIRTY_BIT = EVENT | (KvmEvent.SET_DIRTY_BIT << KVM_EVENT_SHIFT);
const WALKER_ERROR = EVENT | (KvmEvent.WALKER_ERROR << KVM_EVENT_SHIFT);

// EPT exit qualification (facts/kvm-mmu.md §6.1).
const QUAL_READ = 1 << 0;
const QUAL_WRITE = 1 << 1;
const QUAL_FETCH = 1 << 2;
const QUAL_RIGHTS_SHIFT = 3;
const QUAL_USER_EXECUTE = 1 << 6;
const QUAL_LINEAR_VALID = 1 << 7;
const QUAL_FINAL = 1 << 8;

/**
 * Translates an address: linear for a walk of CR3's tables, guest-physical (nGPA) for one of the second stage. `access`:
 * see `kvm-page-walk.ts`. True: the result stands on the walk; false: `walk.fault` says why.
 */
export function softwareWalk(walk: KvmPageWalk, lo: number, hi: number, access: number): boolean {
  if (walk.format === PteFormat.NONE) return walkUnpaged(walk, lo, hi, access);
  walk.log.push(PAGETABLE_WALK, lo, hi, access & PFEC_BITS, 0);
  let status = walkOnce(walk, lo, hi, access);
  while (status === AGAIN) status = walkOnce(walk, lo, hi, access);
  return status === OK;
}

/** CR0.PG = 0: every right; nothing is looked up, nothing is traced. */
function walkUnpaged(walk: KvmPageWalk, lo: number, hi: number, access: number): boolean {
  walk.fault.errorCode = 0;
  walk.fault.errorCodeHi = 0;
  walk.level = 0;
  walk.maxLevel = 0;
  walk.pteAccess = ACC_ALL;
  return translateGpa(walk, lo, hi, access | GUEST_FINAL, ACC_ALL);
}

/**
 * Takes a guest-physical address through the second stage, if there is one, and leaves the frame in `walk.gfn`
 * (kvm_translate_gpa). `pteAccess`: rights of the guest's own tables. False: `walk.fault` is the second stage's.
 */
export function translateGpa(walk: KvmPageWalk, lo: number, hi: number, access: number, pteAccess: number): boolean {
  const { second } = walk;
  if (second === null) {
    walk.gfn = frameOf(lo, hi);
    return true;
  }
  if (!softwareWalk(second, lo, hi, secondStageAccess(second, access, pteAccess))) return false;
  walk.gfn = second.gfn;
  return true;
}

/**
 * Second-stage accesses are user accesses (facts/kvm-mmu.md §5.3), but where the second stage tells user from
 * supervisor: under EPT (7.3) the final page's own U/S decides, under GMET the access stays what it was.
 */
function secondStageAccess(second: KvmPageWalk, access: number, pteAccess: number): number {
  if (second.profile === '6.1') return access | USER;
  if (!second.ept) return second.smep ? access : access | USER;
  const byUser = (access & GUEST_FINAL) !== 0 && (pteAccess & ACC_USER) !== 0;
  return byUser ? access | USER : access & ~USER;
}

function walkOnce(walk: KvmPageWalk, lo: number, hi: number, access: number): number {
  const { log, memory } = walk;
  const fourByte = walk.format === PteFormat.PAGING32;
  const nxExists = walk.format === PteFormat.PAGING64;
  const rootRegister = 2 * rootRegisterOf(walk);
  let entryLo = walk.registers[rootRegister]! | 0;
  let entryHi = fourByte ? 0 : walk.registers[rootRegister + 1]! | 0;
  let level = walk.rootLevel;
  // Low bits of all entries ANDed, their NX bits ORed.
  let allLo = -1;
  let noExecute = 0;

  if (level === 3 && nxExists) {
    const index = lo >>> 30;
    readPdpte(walk, index);
    entryLo = walk.entryLo[3]!;
    entryHi = walk.entryHi[3]!;
    log.push(PAGING_ELEMENT | (3 << OBS_LEVEL_SHIFT), 0, 0, entryLo, entryHi);
    if ((entryLo & 1) === 0) return fail(walk, lo, hi, access, 0, allLo);
    level = 2;
  }
  walk.maxLevel = level;
  const setsAccessed = walk.haveAd && (walk.bugs & WalkBug.L2_TABLES_ONLY_READ) === 0;
  const tableAccess = USER | (setsAccessed ? WRITE : 0) | GUEST_PAGE;

  for (; ; level--) {
    const aboveLo = allLo;
    const aboveNx = noExecute;
    const offset = fourByte ? (lo >>> (10 * level)) & 0xffc : entryOffset8(level, lo, hi);
    const table = fourByte ? entryLo >>> 12 : frameOf(entryLo, entryHi);
    walk.level = level;
    walk.tableGfn[level] = table;
    walk.entryOffset[level] = offset;
    if (!translateGpa(walk, frameLo(table), frameHi(table), tableAccess, ACC_ALL)) return FAULT;
    const frame = walk.gfn;
    const page = memory.pageIndexOf(frame);
    if (page < 0) return fail(walk, lo, hi, access, 0, allLo);
    walk.tableRealGfn[level] = frame;
    walk.tableWritable[level] = memory.isWritable(frame) ? 1 : 0;

    const { words } = memory;
    const at = page + (offset >>> 2);
    entryLo = words[at]!;
    entryHi = fourByte ? 0 : words[at + 1]!;
    const place = frameLo(table) | offset;
    log.push(PAGING_ELEMENT | (level << OBS_LEVEL_SHIFT), place, frameHi(table), entryLo, entryHi);
    allLo &= entryLo;
    if (nxExists) noExecute |= entryHi >>> 31;
    if (!isPresentGpte(walk, entryLo)) return fail(walk, lo, hi, access, 0, allLo);
    if (isReservedGpte(walk, level, entryLo, entryHi)) return fail(walk, lo, hi, access, PFEC_RSVD | PFEC_P, allLo);
    walk.entryLo[level] = entryLo;
    walk.entryHi[level] = entryHi;
    walk.ptAccess[level] = accessOfBits(walk, aboveLo, aboveNx);
    if (isLastGpte(walk, level, entryLo)) break;
  }

  const key = nxExists ? (entryHi >>> 27) & 0xf : 0;
  const pteAccess = accessOfBits(walk, allLo, noExecute);
  walk.pteAccess = pteAccess;
  const denied = permissionFault(walk, pteAccess, key, access);
  if (denied !== 0) {
    if ((walk.bugs & WalkBug.ACCESSED_BEFORE_RIGHTS) !== 0) setAccessedDirty(walk, lo, hi, false);
    return fail(walk, lo, hi, access, denied, allLo);
  }

  // Within a large page the address selects the frame.
  const within = (fourByte ? 1 << (2 + 10 * level) : 1 << (3 + 9 * level)) - 1;
  const gfn = gpteFrame(walk, level, entryLo, entryHi) + ((lo & within) >>> 12);
  if (!translateGpa(walk, frameLo(gfn), frameHi(gfn), access | GUEST_FINAL, pteAccess)) return FAULT;

  const write = (access & WRITE) !== 0;
  if (!write) walk.pteAccess = protectCleanGpte(walk, pteAccess, entryLo);
  if (!walk.haveAd || ((allLo & accessedBit(walk)) !== 0 && (!write || (entryLo & dirtyBit(walk)) !== 0))) return OK;
  const status = setAccessedDirty(walk, lo, hi, write);
  return status === FAULT ? fail(walk, lo, hi, access, 0, allLo) : status;
}

function rootRegisterOf(walk: KvmPageWalk): number {
  if (!walk.ngpa) return Reg.CR3;
  return walk.ept ? Reg.EPTP : Reg.NCR3;
}

/** PDPTE `index` into `entryLo[3]`, `entryHi[3]`; 0 where NPT12's table has no memslot. */
export function readPdpte(walk: KvmPageWalk, index: number): void {
  if (walk.pdpteSource === PdpteSource.MEMORY) {
    const { memory, registers } = walk;
    const rootLo = registers[2 * Reg.NCR3]!;
    const page = memory.pageIndexOf(frameOf(rootLo, registers[2 * Reg.NCR3 + 1]!));
    const at = page + ((rootLo & 0xfe0) >>> 2) + 2 * index;
    walk.entryLo[3] = page < 0 ? 0 : memory.words[at]!;
    walk.entryHi[3] = page < 0 ? 0 : memory.words[at + 1]!;
    return;
  }
  if (walk.pdpteSource === PdpteSource.LAZY && walk.pdptesStale) {
    // Also when loading fails, the registers count as loaded: what they held stays.
    walk.pdptesStale = false;
    loadPdptes(walk);
  }
  walk.entryLo[3] = walk.pdptes[2 * index]!;
  walk.entryHi[3] = walk.pdptes[2 * index + 1]!;
}

/**
 * Loads PAE's PDPTEs from the table at CR3 (load_pdptrs): all four, or none when the table cannot be reached or a present
 * one has a reserved bit; `pdptesChanged` then tells whether they differ from those before. Nothing is traced but the
 * second stage's walk.
 */
export function loadPdptes(walk: KvmPageWalk): boolean {
  const { memory, registers, pdptes } = walk;
  const cr3 = registers[2 * Reg.CR3]!;
  const table = frameOf(cr3, 0);
  walk.pdptesChanged = false;
  if (!translateGpa(walk, frameLo(table), 0, USER | WRITE | GUEST_PAGE, ACC_ALL)) return false;
  const page = memory.pageIndexOf(walk.gfn);
  if (page < 0) return false;
  const { words } = memory;
  const at = page + ((cr3 & 0xfe0) >>> 2);
  const reservedHi = highBits(walk.features.maxphyaddr);
  for (let i = 0; i < 8; i += 2) {
    const lo = words[at + i]!;
    if ((lo & 1) !== 0 && ((lo & PDPTE_RESERVED) | (words[at + i + 1]! & reservedHi)) !== 0) return false;
  }
  for (let i = 0; i < 8; i++) {
    if (pdptes[i] !== words[at + i]!) walk.pdptesChanged = true;
    pdptes[i] = words[at + i]!;
  }
  return true;
}

/** Bits 8:5 and 2:1. */
const PDPTE_RESERVED = 0x1e6;

/** Bits MAXPHYADDR (32 at least) to 63, as a high half. */
function highBits(maxphyaddr: number): number {
  return -1 << (maxphyaddr - 32);
}

/** Bug 2: a mapped file of 1 MiB has the tables; the page in the file is taken for the frame. */
const FILE_PAGES = 0xff;

/** Top-down; traced even where the memslot then forbids the write. */
function setAccessedDirty(walk: KvmPageWalk, lo: number, hi: number, write: boolean): number {
  const { log, memory } = walk;
  const accessed = accessedBit(walk);
  const dirty = dirtyBit(walk);
  const size = walk.format === PteFormat.PAGING32 ? 4 : 8;
  for (let level = walk.maxLevel; level >= walk.level; level--) {
    const oldLo = walk.entryLo[level]!;
    const entryHi = walk.entryHi[level]!;
    const table = walk.tableGfn[level]!;
    const offset = walk.entryOffset[level]!;
    let newLo = oldLo;
    if ((oldLo & accessed) === 0) {
      log.push(SET_ACCESSED_BIT, frameLo(table) | offset, frameHi(table), 0, 0);
      newLo |= accessed;
    }
    if (write && level === walk.level && (oldLo & dirty) === 0) {
      log.push(SET_DIRTY_BIT, frameLo(table) | offset, frameHi(table), 0, 0);
      if (walk.ept && walk.writeLogDirty !== null && !walk.writeLogDirty(lo, hi)) return FAULT;
      newLo |= dirty;
    }
    if (newLo === oldLo || walk.tableWritable[level] === 0) continue;

    const frame = walk.tableRealGfn[level]!;
    const at = memory.pageIndexOf(frame) + (offset >>> 2);
    const { words } = memory;
    // Compare and exchange: a table that is its own parent's child has just got its A bit.
    if (words[at] !== oldLo || (size === 8 && words[at + 1] !== entryHi)) return AGAIN;
    const written = (walk.bugs & WalkBug.AD_ELSEWHERE) !== 0 ? frame & FILE_PAGES : frame;
    memory.writeEntry(written, offset, newLo, entryHi, size);
    memory.markDirty(table);
    walk.entryLo[level] = newLo;
  }
  return OK;
}

/** The walk's own fault (facts/kvm-mmu.md §5.4). `code`: P, RSVD, PK; `allLo`: low bits of the entries, ANDed. */
function fail(walk: KvmPageWalk, lo: number, hi: number, access: number, code: number, allLo: number): number {
  const { fault } = walk;
  const tellsFetch = walk.pferrFetch || (walk.bugs & WalkBug.FETCH_ALWAYS) !== 0;
  fault.errorCode = code | (access & (WRITE | USER)) | (tellsFetch ? access & FETCH : 0);
  // FINAL and PAGE of an NPT12 walk; 6.1 has no such bits.
  const tells = walk.ngpa && !walk.ept && walk.profile !== '6.1';
  fault.errorCodeHi = tells ? (access & (GUEST_FINAL | GUEST_PAGE)) >>> 16 : 0;
  if (walk.ept && (code & PFEC_RSVD) === 0) fault.qualification = qualificationOf(walk, access, allLo);
  fault.addressLo = lo;
  fault.addressHi = hi;
  fault.nested = fault.gvaWalk === null ? walk.ngpa : walk !== fault.gvaWalk;
  walk.log.push(WALKER_ERROR, 0, 0, fault.errorCode, 0);
  return FAULT;
}

/** 6.1 keeps bits 8:7 of whatever violation came last and knows reads by U; 7.3 makes all bits anew. */
function qualificationOf(walk: KvmPageWalk, access: number, allLo: number): number {
  const swapped = (walk.bugs & WalkBug.QUALIFICATION_ACC_ORDER) !== 0;
  const bits = swapped ? ((allLo & 1) << 2) | (allLo & 2) | ((allLo >>> 2) & 1) : allLo & 7;
  const rights = bits << QUAL_RIGHTS_SHIFT;
  if (walk.profile === '6.1') {
    let qualification = (walk.fault.qualification & (QUAL_LINEAR_VALID | QUAL_FINAL)) | rights;
    if ((access & WRITE) !== 0) qualification |= QUAL_WRITE;
    if ((access & USER) !== 0) qualification |= QUAL_READ;
    if ((access & FETCH) !== 0) qualification |= QUAL_FETCH;
    return qualification;
  }
  let qualification = QUAL_LINEAR_VALID | rights;
  if ((access & WRITE) !== 0) qualification |= QUAL_WRITE;
  else if ((access & FETCH) !== 0) qualification |= QUAL_FETCH;
  else qualification |= QUAL_READ;
  qualification |= (access & GUEST_PAGE) !== 0 ? QUAL_READ : QUAL_FINAL;
  if (walk.smep) qualification |= (allLo >>> 4) & QUAL_USER_EXECUTE;
  return qualification;
}
