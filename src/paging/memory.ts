/**
 * Physical memory as paging sees it; the machine implements it. Addresses are two halves, `hi` below 2^20.
 *
 * All pages lie in one array. A walk may keep `words` while it runs: it only writes to pages that it read from, or
 * that somebody has made sure of (a log).
 */
export interface PhysicalMemory {
  readonly words: Int32Array;
  /** Index in `words` of the 1024 words of the page that an address is in; a page that nobody wrote reads as zero. */
  pageIndex(lo: number, hi: number): number;
  /** A walk writes a half of the entry at an address: the low one with accessed or dirty bits set, or one it logs. */
  setEntryBits(addressLo: number, addressHi: number, lo: number): void;
}
