/** Physical memory as paging sees it; the machine implements it. */
export interface PhysicalMemory {
  /** The 1024 words of a frame for reading; a frame that nobody wrote reads as zero. */
  page(frame: number): Uint32Array;
  /** A walk writes the low half of an entry back with accessed or dirty bits set. */
  setEntryBits(frame: number, wordIndex: number, lo: number): void;
}
