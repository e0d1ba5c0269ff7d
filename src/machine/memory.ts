/**
 * Guest-physical (or, on a bare processor, physical) memory: 4 KiB pages of 1024 words, all in one array, taken when
 * first written. Pages below 16 GiB are found through a table of page numbers, the rest through a map.
 */

import { Problem } from '../bits/problem.ts';
import type { Word64 } from '../bits/word64.ts';
import type { PhysicalMemory } from '../paging/memory.ts';

const PAGE_WORDS = 1024;
/** Frames found through the table: 16 GiB. */
const NEAR_FRAMES = 1 << 22;
const NEAR_HI = 4;
/** Page number 0 is never written: what absent pages read as. */
const ABSENT = 0;
const FIRST_PAGES = 256;

/** Pages that one machine may hold: 1 GiB. Traces come from strangers. */
const MAXIMUM_PAGES = 1 << 18;

/** Is told of every change of an 8-byte word, before it happens. The address is 8-byte aligned. */
export interface MemoryWatcher {
  wordChanges(addressLo: number, addressHi: number, oldLo: number, oldHi: number): void;
}

/** Tables, all zero, of memories that are no longer used: making them is what a short replay spends its time on. */
const spare: { readonly words: Int32Array<ArrayBuffer>; readonly near: Int32Array }[] = [];
const MAXIMUM_SPARE = 4;

export class Memory implements PhysicalMemory {
  words: Int32Array<ArrayBuffer>;
  /** Page number by frame. */
  private readonly near: Int32Array;
  /** Frames that were given a place in `near`, some of them perhaps twice. */
  private readonly nearFrames: number[] = [];
  private readonly far = new Map<number, number>();
  private pages = 1;
  watcher: MemoryWatcher | null = null;

  constructor() {
    const { words, near } = spare.pop() ?? {
      words: new Int32Array(FIRST_PAGES * PAGE_WORDS),
      near: new Int32Array(NEAR_FRAMES),
    };
    this.words = words;
    this.near = near;
  }

  /** Leaves its tables to the next memory. It must not be used afterwards. */
  release(): void {
    if (spare.length >= MAXIMUM_SPARE || this.nearFrames.length > FIRST_PAGES * 16) return;
    for (const frame of this.nearFrames) this.near[frame] = ABSENT;
    const { near } = this;
    const grown = this.words.length > FIRST_PAGES * PAGE_WORDS;
    const words = grown ? new Int32Array(FIRST_PAGES * PAGE_WORDS) : this.words.fill(0, 0, this.pages * PAGE_WORDS);
    spare.push({ words, near });
  }

  pageIndex(lo: number, hi: number): number {
    return (hi >>> 0 < NEAR_HI ? this.near[(hi << 20) | (lo >>> 12)]! : this.farPage(lo, hi)) << 10;
  }

  private farPage(lo: number, hi: number): number {
    return this.far.get(frameNumber(lo, hi)) ?? ABSENT;
  }

  /** The same for writing: takes a page if there is none yet. */
  private pageForWrite(lo: number, hi: number): number {
    const index = this.pageIndex(lo, hi);
    return index === ABSENT ? this.takePage(lo, hi) : index;
  }

  /** Index in `words` of a frame's page, which is taken if nobody wrote it yet. May replace `words`. */
  pageOf(frame: number): number {
    const page = frame < NEAR_FRAMES ? this.near[frame]! : (this.far.get(frame) ?? ABSENT);
    return page === ABSENT ? this.takePage((frame % 0x10_0000) << 12, Math.floor(frame / 0x10_0000)) : page << 10;
  }

  /** Frames that somebody wrote, in no particular order. */
  *frames(): Generator<number> {
    const near = [...new Set(this.nearFrames)].sort((a, b) => a - b);
    for (const frame of near) if (this.near[frame] !== ABSENT) yield frame;
    yield* this.far.keys();
  }

  /** Gives the contents of frame `from` to frame `to`, which nobody may have written; `from` reads as zero afterwards. */
  movePage(from: number, to: number): void {
    const page = from < NEAR_FRAMES ? this.near[from]! : (this.far.get(from) ?? ABSENT);
    if (page === ABSENT) return;
    if (from < NEAR_FRAMES) this.near[from] = ABSENT;
    else this.far.delete(from);
    if (to < NEAR_FRAMES) {
      this.near[to] = page;
      this.nearFrames.push(to);
    } else this.far.set(to, page);
  }

  private takePage(lo: number, hi: number): number {
    if (this.pages === MAXIMUM_PAGES) {
      throw new Problem(
        'E_LIMIT',
        `the trace writes to more than ${MAXIMUM_PAGES - 1} pages of physical memory`,
        {},
        'a recording of page tables needs far fewer: check how it was made',
      );
    }
    const page = this.pages++;
    if (page * PAGE_WORDS === this.words.length) {
      const larger = new Int32Array(this.words.length * 2);
      larger.set(this.words);
      this.words = larger;
    }
    if (hi >>> 0 < NEAR_HI) {
      const frame = (hi << 20) | (lo >>> 12);
      this.near[frame] = page;
      this.nearFrames.push(frame);
    } else this.far.set(frameNumber(lo, hi), page);
    return page << 10;
  }

  /** May replace `words` if nobody wrote the page yet. */
  setEntryBits(addressLo: number, addressHi: number, lo: number): void {
    const page = this.pageForWrite(addressLo, addressHi);
    const { words } = this;
    if (this.watcher !== null) {
      const even = page + ((addressLo & 0xff8) >>> 2);
      this.watcher.wordChanges(addressLo & ~7, addressHi, words[even]!, words[even + 1]!);
    }
    words[page + ((addressLo & 0xffc) >>> 2)] = lo;
  }

  /** Puts an 8-byte word in place of another without telling the watcher; returns the old one. */
  exchange(addressLo: number, addressHi: number, lo: number, hi: number): Word64 {
    const word = this.pageForWrite(addressLo, addressHi) + ((addressLo & 0xff8) >>> 2);
    const { words } = this;
    const old = { lo: words[word]!, hi: words[word + 1]! };
    words[word] = lo;
    words[word + 1] = hi;
    return old;
  }

  /** Stores `size` (1, 2, 4, 8) bytes, at any address. */
  store(addressLo: number, addressHi: number, valueLo: number, valueHi: number, size: number): void {
    if ((addressLo & (size - 1)) !== 0) {
      this.storeBytes(addressLo, addressHi, valueLo, valueHi, size);
      return;
    }
    const word = this.pageForWrite(addressLo, addressHi) + ((addressLo & 0xff8) >>> 2);
    const { words } = this;
    const oldLo = words[word]!;
    const oldHi = words[word + 1]!;
    let lo = valueLo | 0;
    let hi = valueHi | 0;
    if (size !== 8) {
      const within = addressLo & 7;
      const mask = size === 4 ? -1 : (1 << (size * 8)) - 1;
      const shift = (within & 3) * 8;
      const inLow = within < 4;
      const old = inLow ? oldLo : oldHi;
      const merged = (old & ~(mask << shift)) | ((valueLo & mask) << shift);
      lo = inLow ? merged : oldLo;
      hi = inLow ? oldHi : merged;
    }
    if (lo === oldLo && hi === oldHi) return;
    this.watcher?.wordChanges(addressLo & ~7, addressHi, oldLo, oldHi);
    words[word] = lo;
    words[word + 1] = hi;
  }

  /** A store at an address that is no multiple of its size. */
  private storeBytes(addressLo: number, addressHi: number, valueLo: number, valueHi: number, size: number): void {
    for (let i = 0; i < size; i++) {
      const lo = (addressLo >>> 0) + i;
      const hi = lo > 0xffff_ffff ? addressHi + 1 : addressHi;
      const byte = (i < 4 ? valueLo >>> (8 * i) : valueHi >>> (8 * (i - 4))) & 0xff;
      this.store(lo | 0, hi & 0xf_ffff, byte, 0, 1);
    }
  }

  /** Replaces a whole page; `contents`: 1024 elements, or null for zeros. */
  setPage(lo: number, hi: number, contents: Uint32Array | null): void {
    // A page that nobody wrote is zero already.
    if (contents === null && this.pageIndex(lo, hi) === ABSENT) return;
    const page = this.pageForWrite(lo, hi);
    const { words } = this;
    for (let i = 0; i < PAGE_WORDS; i += 2) {
      const newLo = contents === null ? 0 : contents[i]! | 0;
      const newHi = contents === null ? 0 : contents[i + 1]! | 0;
      const oldLo = words[page + i]!;
      const oldHi = words[page + i + 1]!;
      if (newLo === oldLo && newHi === oldHi) continue;
      this.watcher?.wordChanges((lo & ~0xfff) | (i << 2), hi, oldLo, oldHi);
      words[page + i] = newLo;
      words[page + i + 1] = newHi;
    }
  }
}

/** Exact as a double: physical addresses have at most 52 bits. */
function frameNumber(lo: number, hi: number): number {
  return (hi >>> 0) * 0x10_0000 + (lo >>> 12);
}
