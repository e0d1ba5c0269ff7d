/** Going down the tables that an MMU built, by address (facts/kvm-6.1.md §2; KVM's shadow walk iterator). */

import type { ShadowPages } from './pages.ts';
import type { Root } from './root.ts';
import type { ShadowPage } from './shadow-page.ts';

/** Index of the SPTE of `level` for an address: 9 bits per level. */
export function spteIndex(lo: number, hi: number, level: number): number {
  switch (level) {
    case 1:
      return (lo >>> 12) & 0x1ff;
    case 2:
      return (lo >>> 21) & 0x1ff;
    case 3:
      return ((lo >>> 30) & 3) | ((hi << 2) & 0x1fc);
    case 4:
      return (hi >>> 7) & 0x1ff;
    default:
      return (hi >>> 16) & 0x1ff;
  }
}

export class ShadowWalk {
  private readonly pages: ShadowPages;
  lo = 0;
  hi = 0;
  /** Level of the entry; 0: the end. */
  level = 0;
  sp: ShadowPage | null = null;
  sptep = 0;

  constructor(pages: ShadowPages) {
    this.pages = pages;
  }

  /** Starts at a root; false if there is no table for the address. */
  begin(root: Root, lo: number, hi: number): boolean {
    this.lo = lo;
    this.hi = hi;
    this.sp = root.pae === null ? root.page : root.pae[(lo >>> 30) & 3]!;
    this.level = this.sp === null ? 0 : this.sp.level;
    this.place();
    return this.level > 0;
  }

  private place(): void {
    if (this.sp !== null && this.level > 0) this.sptep = this.sp.sptep(spteIndex(this.lo, this.hi, this.level));
  }

  /** To the next level; false behind a leaf or an entry that is not present. */
  next(): boolean {
    const { pages } = this;
    const lo = pages.lo(this.sptep);
    if (!pages.format.isPresent(lo) || pages.format.isLeaf(lo, this.level)) {
      this.level = 0;
      return false;
    }
    this.sp = pages.childOf(lo, pages.hi(this.sptep));
    this.level--;
    this.place();
    return true;
  }
}
