/**
 * A table of SPTEs and what KVM remembers of it (`struct kvm_mmu_page`; facts/kvm-mmu.md §6.12, facts/kvm-6.1.md §2).
 *
 * An SPTE is named by a number, its `sptep`: index of the page in host memory times 512 plus its own index, so that its
 * halves are `words[2 * sptep]` and `words[2 * sptep + 1]`.
 */

/** Entries of a table. */
export const ENTRIES = 512;

export class ShadowPage {
  /** Index of the page in host memory: `words` index / 1024. */
  readonly page: number;
  /** Host frame of the table. */
  readonly frame: number;
  /** Guest frame: of the table that is shadowed, or the first one that is mapped. */
  readonly gfn: number;
  /** Role word of the profile's layout. */
  role: number;
  readonly level: number;
  readonly direct: boolean;
  /** A page of the TDP MMU. */
  readonly tdp: boolean;
  /** mmu_valid_gen when it was made. */
  readonly generation: number;
  /** Holders: vCPU roots; for a TDP root all references. */
  rootCount = 0;
  unsync = false;
  unsyncChildren = 0;
  /** Bit per entry: unsync below. */
  readonly unsyncBits = new Uint32Array(ENTRIES / 32);
  /** sptep of every entry that points here. */
  readonly parents: number[] = [];
  writeFloodingCount = 0;
  /** Executable small pages inside what could have been a huge page. */
  nxHugePageDisallowed = false;
  /** Indirect tables: guest frame and rights of each entry as last mapped. */
  readonly gfns: Float64Array | null;
  readonly accesses: Uint8Array | null;
  // Neighbours in the list of active pages.
  newer: ShadowPage | null = null;
  older: ShadowPage | null = null;
  listed = false;

  constructor(
    page: number,
    frame: number,
    gfn: number,
    role: number,
    shape: { level: number; direct: boolean; tdp: boolean; generation: number },
  ) {
    this.page = page;
    this.frame = frame;
    this.gfn = gfn;
    this.role = role;
    this.level = shape.level;
    this.direct = shape.direct;
    this.tdp = shape.tdp;
    this.generation = shape.generation;
    this.gfns = shape.direct ? null : new Float64Array(ENTRIES);
    this.accesses = shape.direct ? null : new Uint8Array(ENTRIES);
  }

  /** sptep of an entry. */
  sptep(index: number): number {
    return this.page * ENTRIES + index;
  }

  /** Guest frame that entry `index` maps or, above level 1, begins with. */
  gfnAt(index: number): number {
    return this.gfns === null ? this.gfn + index * pagesOf(this.level) : this.gfns[index]!;
  }

  testAndSetUnsyncBit(index: number): boolean {
    const word = index >>> 5;
    const bit = 1 << (index & 31);
    const was = (this.unsyncBits[word]! & bit) !== 0;
    this.unsyncBits[word]! |= bit;
    return was;
  }

  clearUnsyncBit(index: number): void {
    this.unsyncChildren--;
    this.unsyncBits[index >>> 5]! &= ~(1 << (index & 31));
  }

  hasUnsyncBit(index: number): boolean {
    return (this.unsyncBits[index >>> 5]! & (1 << (index & 31))) !== 0;
  }
}

/** 4 KiB pages that an entry of `level` covers: 1, 512, 2^18, ... */
export function pagesOf(level: number): number {
  return 512 ** (level - 1);
}

/** Index of the entry of a table of `level` that covers a guest frame. */
export function indexOf(gfn: number, level: number): number {
  return Math.floor(gfn / pagesOf(level)) % ENTRIES;
}

/** The frame rounded down to the first that an entry of `level` covers. */
export function roundGfn(gfn: number, level: number): number {
  const pages = pagesOf(level);
  return gfn - (gfn % pages);
}
