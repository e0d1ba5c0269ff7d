/**
 * Guest memory as KVM's software walk reads and writes it: by guest frame, through the memslots of the vCPU's address
 * space. The machine implements it. Frame numbers are plain numbers, below 2^40.
 */

export interface GuestMemory {
  /** Any call here may replace it by a larger array: read it anew after each. */
  readonly words: Int32Array;
  /** Index in `words` of the frame's 1024 words (brought in as a host read does); -1 without a visible memslot. */
  pageIndexOf(gfn: number): number;
  /** The memslot is not read-only. Asked for frames that have one. */
  isWritable(gfn: number): boolean;
  /** Writes the entry of `size` (4 or 8) bytes at byte `offset` of a writable frame, as user space would write it. */
  writeEntry(gfn: number, offset: number, lo: number, hi: number, size: number): void;
  /** Notes the frame in the dirty log of its memslot, if it has one. */
  markDirty(gfn: number): void;
}

/** Low half of a frame's address, as a signed number. */
export function frameLo(gfn: number): number {
  return ((gfn % 0x10_0000) << 12) | 0;
}

/** High half of a frame's address. */
export function frameHi(gfn: number): number {
  return Math.floor(gfn / 0x10_0000);
}

/** The frame of an address; bits above 51 do not count. */
export function frameOf(lo: number, hi: number): number {
  return (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);
}
