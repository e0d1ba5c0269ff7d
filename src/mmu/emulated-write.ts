/** A guest's write to memory, made by the instruction emulator: tables that shadow it lose what it says (facts/kvm-6.1.md §4.9). */

import { has4ByteGpte, quadrant } from '../paging/kvm-roles.ts';
import type { ShadowPages } from './pages.ts';
import type { ShadowPage } from './shadow-page.ts';

/** Writes to an upper-level table without a fault through it, after which it is taken for no table any more. */
const FLOODING = 3;

/** A write that a table cannot be kept in step with: across entries, or of less than four bytes but an aligned one. */
function isMisaligned(sp: ShadowPage, offset: number, bytes: number): boolean {
  const size = has4ByteGpte(sp.role) ? 4 : 8;
  if ((offset & (size - 1)) === 0 && bytes === 1) return false;
  return bytes < 4 || ((offset ^ (offset + bytes - 1)) & ~(size - 1)) !== 0;
}

function isFlooded(sp: ShadowPage): boolean {
  if (sp.level === 1) return false;
  sp.writeFloodingCount++;
  return sp.writeFloodingCount >= FLOODING;
}

/** First SPTE that the entry at an offset was shadowed by and how many there are; null: another table's. */
function writtenSptes(sp: ShadowPage, offset: number): { readonly index: number; readonly count: number } | null {
  if (!has4ByteGpte(sp.role)) return { index: offset >>> 3, count: 1 };
  // Entries of 4 bytes map twice as much as SPTEs do; a page-directory entry is two of them.
  let at = offset << 1;
  const count = sp.level === 2 ? 2 : 1;
  if (sp.level === 2) at = (at & ~7) << 1;
  if (at >>> 12 !== quadrant(sp.role)) return null;
  return { index: (at & 0xfff) >>> 3, count };
}

/** kvm_mmu_pte_write. `pae`: CR4.PAE of whoever writes. */
export function emulatedWrite(pages: ShadowPages, gfn: number, offset: number, bytes: number, pae: boolean): void {
  if (pages.indirect === 0) return;
  let at = offset;
  let size = bytes;
  if (pae && size === 4) {
    at &= ~7;
    size = 8;
  }
  const zapped: ShadowPage[] = [];
  let flush = false;
  for (const sp of pages.shadowing(gfn)) {
    if (pages.isObsolete(sp)) continue;
    if (isMisaligned(sp, at, size) || isFlooded(sp)) {
      pages.prepareZap(sp, zapped);
      continue;
    }
    const written = writtenSptes(sp, at);
    if (written === null) continue;
    for (let i = 0; i < written.count; i++) {
      const sptep = sp.sptep(written.index + i);
      flush = pages.format.isPresent(pages.lo(sptep)) || flush;
      pages.zapSpte(sptep, null);
    }
  }
  if (zapped.length > 0) pages.commitZap(zapped);
  else if (flush) pages.flushRemoteTlbs();
}
