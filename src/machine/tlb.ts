/**
 * A vCPU's translation-lookaside buffer: one array of entries per page size, direct-mapped, tagged.
 *
 * Any replacement is lawful, so a colliding entry is simply overwritten. Every entry carries a *context*, a small
 * number that stands for (space, PCID): a space is what global translations are shared within, (VPID or ASID, EP4TA).
 * Invalidation follows SDM vol. 3A 4.10.4, vol. 3C 29.4 and APM vol. 2 15.16; it may drop more than asked, never less.
 */

const SHIFTS = [12, 21, 22, 30] as const;
const INDEX_BITS = [11, 9, 7, 6] as const;

// Per-entry word `meta`.
export const TLB_RIGHTS_MASK = 0xf;
/** Rights of the second stage, `ACC_*`, shifted. */
export const TLB_SECOND_SHIFT = 4;
export const TLB_DIRTY = 1 << 12;
/** log2 of the size of the guest's page, in the topmost bits; the entry itself may hold a part of it. */
export const TLB_PAGE_SHIFT_SHIFT = 16;

/** Elements per entry, and what stands where: together, so that an entry lies in one cache line. */
const ENTRY = 8;
const PAGE_LO = 0;
const PAGE_HI = 1;
/** Physical and guest-physical address of the page. */
const BASE_LO = 2;
const BASE_HI = 3;
const GPA_LO = 4;
const GPA_HI = 5;
const META = 6;
/** Epoch of the tables under which the entry was last known to agree with them. */
const EPOCH = 7;

class SizeClass {
  readonly shift: number;
  readonly mask: number;
  /** Low-half mask of the page number; all of the high half counts. */
  readonly pageMask: number;
  /** Context of each entry, or `~space` for a global one; 0 = empty. Apart, since flushes touch nothing else. */
  readonly tag: Int32Array;
  readonly entries: Int32Array;
  used = false;

  constructor(shift: number, indexBits: number) {
    const size = 1 << indexBits;
    this.shift = shift;
    this.mask = size - 1;
    this.pageMask = (-1 << shift) | 0;
    this.tag = new Int32Array(size);
    this.entries = new Int32Array(size * ENTRY);
  }

  index(lo: number, hi: number): number {
    return ((lo >>> this.shift) ^ Math.imul(hi, 0x9e5)) & this.mask;
  }
}

/** All that one TLB holds. */
export interface TlbContents {
  readonly classes: readonly SizeClass[];
  readonly fractured: boolean;
}

function emptyClasses(): readonly SizeClass[] {
  return SHIFTS.map((shift, i) => new SizeClass(shift, INDEX_BITS[i]!));
}

export class Tlb {
  private classes = emptyClasses();

  // Result of the last `find`.
  lo = 0;
  hi = 0;
  gpaLo = 0;
  gpaHi = 0;
  meta = 0;
  epoch = 0;
  /** Some entries hold a part of a larger guest page. */
  fractured = false;
  private foundClass = this.classes[0]!;
  private foundIndex = 0;

  /** Looks for a translation of the address usable in `context` of `space`; fills the result fields. */
  find(lo: number, hi: number, context: number, space: number): boolean {
    const { classes } = this;
    for (let i = 0; i < 4; i++) {
      const c = classes[i]!;
      if (!c.used) continue;
      const index = c.index(lo, hi);
      const { entries, pageMask } = c;
      const at = index * ENTRY;
      const tag = c.tag[index]!;
      const samePage = entries[at + PAGE_LO] === (lo & pageMask) && entries[at + PAGE_HI] === hi;
      if (samePage && (tag === context || tag === ~space)) {
        this.lo = entries[at + BASE_LO]! | (lo & ~pageMask);
        this.hi = entries[at + BASE_HI]!;
        this.gpaLo = entries[at + GPA_LO]! | (lo & ~pageMask);
        this.gpaHi = entries[at + GPA_HI]!;
        this.meta = entries[at + META]!;
        this.epoch = entries[at + EPOCH]!;
        this.foundClass = c;
        this.foundIndex = index;
        return true;
      }
    }
    return false;
  }

  /** The entry just found agrees with the tables as they are in `epoch`. */
  refresh(epoch: number): void {
    this.foundClass.entries[this.foundIndex * ENTRY + EPOCH] = epoch;
  }

  /**
   * Remembers that linear `lo`:`hi` translates to physical `toLo`:`toHi`, guest-physical `gpaLo`:`gpaHi`.
   * `pageShift`: of the smaller page of the two stages.
   */
  insert(
    lo: number,
    hi: number,
    tag: { readonly context: number; readonly space: number },
    global: boolean,
    pageShift: number,
    to: { readonly lo: number; readonly hi: number; readonly gpaLo: number; readonly gpaHi: number },
    meta: number,
    epoch: number,
  ): void {
    const c = this.classes[pageShift === 12 ? 0 : pageShift === 21 ? 1 : pageShift === 22 ? 2 : 3]!;
    c.used = true;
    const index = c.index(lo, hi);
    const { entries, pageMask } = c;
    const at = index * ENTRY;
    c.tag[index] = global ? ~tag.space : tag.context;
    entries[at + PAGE_LO] = lo & pageMask;
    entries[at + PAGE_HI] = hi;
    entries[at + BASE_LO] = to.lo & pageMask;
    entries[at + BASE_HI] = to.hi;
    entries[at + GPA_LO] = to.gpaLo & pageMask;
    entries[at + GPA_HI] = to.gpaHi;
    entries[at + META] = meta;
    entries[at + EPOCH] = epoch;
  }

  /** Takes other contents, those of another vCPU, in the place of its own, which are returned; null: none. */
  exchange(contents: TlbContents | null): TlbContents {
    const { classes, fractured } = this;
    this.classes = contents?.classes ?? emptyClasses();
    this.fractured = contents?.fractured ?? false;
    return { classes, fractured };
  }

  clear(): void {
    this.fractured = false;
    for (const c of this.classes) {
      if (!c.used) continue;
      c.tag.fill(0);
      c.used = false;
    }
  }

  /** Drops every translation of the page that the address is in, of whatever context; more than INVLPG asks for. */
  /** A page of one context, and what is global in its space. Not for a TLB that has parts of pages (`fractured`). */
  dropPageOf(lo: number, hi: number, context: number, space: number): void {
    while (this.find(lo, hi, context, space)) this.foundClass.tag[this.foundIndex] = 0;
  }

  dropPage(lo: number, hi: number): void {
    if (this.fractured) {
      this.clear();
      return;
    }
    for (const c of this.classes) {
      if (!c.used) continue;
      const index = c.index(lo, hi);
      const { entries } = c;
      const at = index * ENTRY;
      if (entries[at + PAGE_LO] === (lo & c.pageMask) && entries[at + PAGE_HI] === hi) c.tag[index] = 0;
    }
  }

  /** Drops every non-global translation of `context`. */
  dropContext(context: number): void {
    for (const c of this.classes) {
      if (!c.used) continue;
      const { tag } = c;
      for (let i = 0; i < tag.length; i++) if (tag[i] === context) tag[i] = 0;
    }
  }
}
