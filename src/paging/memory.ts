/**
 * Physical memory as paging sees it; the machine implements it. Addresses are two halves, `hi` below 2^20.
 *
 * All pages lie in one array. A walk may keep `words` while it runs: it only writes to pages that it read from.
 */
export interface PhysicalMemory {
  readonly words: Int32Array;
  /** Index in `words` of the 1024 words of the page that an address is in; a page that nobody wrote reads as zero. */
  pageIndex(lo: number, hi: number): number;
  /** A walk writes the low half of the entry at an address, with accessed or dirty bits set. */
  setEntryBits(addressLo: number, addressHi: number, lo: number): void;
}
