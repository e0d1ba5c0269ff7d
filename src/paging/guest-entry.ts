/**
 * What an entry of a guest's table means to a KVM page walk: its bits by the walk's format (facts/kvm-mmu.md §4, §5.2).
 * Entries are two signed halves; those of 4 bytes have a high half of 0.
 */

import { frameOf } from './guest-memory.ts';
import { type KvmPageWalk, PteFormat } from './kvm-page-walk.ts';
import { ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';
import { reservedIndex } from './reserved-bits.ts';
import { WalkBug } from './walk-bugs.ts';

const X86_PRESENT = 1 << 0;
const X86_ACCESSED = 1 << 5;
const X86_DIRTY = 1 << 6;
const PAGE_SIZE = 1 << 7;
const EPT_RWX = 7;
const EPT_USER_EXECUTE = 1 << 10;
const EPT_ACCESSED = 1 << 8;
const EPT_DIRTY = 1 << 9;

export function accessedBit(walk: KvmPageWalk): number {
  return walk.ept ? EPT_ACCESSED : X86_ACCESSED;
}

export function dirtyBit(walk: KvmPageWalk): number {
  return walk.ept ? EPT_DIRTY : X86_DIRTY;
}

export function isPresentGpte(walk: KvmPageWalk, lo: number): boolean {
  if (!walk.ept) return (lo & X86_PRESENT) !== 0;
  const countsUser = walk.smep === ((walk.bugs & WalkBug.XU_PRESENCE) === 0);
  return (lo & (countsUser ? EPT_RWX | EPT_USER_EXECUTE : EPT_RWX)) !== 0;
}

/** Asked of present entries only. */
export function isReservedGpte(walk: KvmPageWalk, level: number, lo: number, hi: number): boolean {
  const { reserved } = walk;
  const index = reservedIndex(level, lo);
  if (((lo & reserved.lo[index]!) | (hi & reserved.hi[index]!)) !== 0) return true;
  return walk.ept && walk.badCombinations[(lo & 0x3f) | ((lo >>> 4) & 0x40)] !== 0;
}

/** Without A/D bits every entry counts as accessed. */
export function isAccessedGpte(walk: KvmPageWalk, lo: number): boolean {
  return !walk.haveAd || (lo & accessedBit(walk)) !== 0;
}

/** Whether the walk ends here: bit 7 where it is reserved has ended it before. */
export function isLastGpte(walk: KvmPageWalk, level: number, lo: number): boolean {
  if (level === 1) return true;
  if ((lo & PAGE_SIZE) === 0) return false;
  return walk.format !== PteFormat.PAGING32 || walk.pse;
}

/** Rights of one entry as `ACC_*`. */
export function gpteAccess(walk: KvmPageWalk, lo: number, hi: number): number {
  return accessOfBits(walk, lo, walk.format === PteFormat.PAGING64 ? hi >>> 31 : 0);
}

/** The same of the low halves of several entries, ANDed, and of their NX bits, ORed (0 or 1). */
export function accessOfBits(walk: KvmPageWalk, lo: number, noExecute: number): number {
  if (!walk.ept) return (lo & (ACC_READ | ACC_WRITE | ACC_USER)) | ((noExecute ^ 1) << 3);
  const writeExecute = (lo & ACC_WRITE) | ((lo & 4) << 1);
  const read = (walk.bugs & WalkBug.EPT_READ_IMPLIED) !== 0 ? ACC_READ : lo & ACC_READ;
  // 6.1 has R in the place of USER; READ is then implied.
  return writeExecute | (walk.profile === '6.1' ? ACC_READ | (read << 2) : read | ((lo >>> 8) & ACC_USER));
}

/** Drops WRITE for a clean leaf, so that the first write faults and sets D. */
export function protectCleanGpte(walk: KvmPageWalk, access: number, lo: number): number {
  return walk.haveAd && (lo & dirtyBit(walk)) === 0 ? access & ~ACC_WRITE : access;
}

/** The first 4 KiB frame of the page that an entry maps at `level`; level 1 also: the frame of the next table. */
export function gpteFrame(walk: KvmPageWalk, level: number, lo: number, hi: number): number {
  if (walk.format !== PteFormat.PAGING32) return frameOf(lo & ~((1 << (3 + 9 * level)) - 1), hi);
  if (level === 1) return lo >>> 12;
  // Bits 16:13 of a 4 MB page's entry are address bits 35:32.
  return ((lo & ~0x3f_ffff) >>> 12) + ((lo >>> 13) & 0xf) * 0x10_0000;
}
