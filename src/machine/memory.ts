/**
 * Guest-physical (or, on a bare processor, physical) memory: 4 KiB pages of 1024 words, made when first written.
 *
 * Frames below 2^22 (16 GiB) are found through two array look-ups, the rest through a map.
 */

import { Problem } from '../bits/problem.ts';
import type { PhysicalMemory } from '../paging/memory.ts';

/** Never written: what absent frames read as. */
const ZERO_PAGE = new Uint32Array(1024);
const DIRECTORY_BITS = 10;
const NEAR_FRAMES = 1 << 22;
const EMPTY_DIRECTORY: readonly Uint32Array[] = new Array<Uint32Array>(1 << DIRECTORY_BITS).fill(ZERO_PAGE);

/** Pages that one machine may hold: 2 GiB. Traces come from strangers. */
const MAXIMUM_PAGES = 1 << 19;

/** Is told of every change of a word, before it happens. */
export interface MemoryWatcher {
  wordChanges(frame: number, wordIndex: number, oldLo: number, oldHi: number): void;
}

export class Memory implements PhysicalMemory {
  private near: (readonly Uint32Array[])[] = new Array(NEAR_FRAMES >>> DIRECTORY_BITS).fill(EMPTY_DIRECTORY);
  private far = new Map<number, Uint32Array>();
  private pages = 0;
  watcher: MemoryWatcher | null = null;

  page(frame: number): Uint32Array {
    if (frame < NEAR_FRAMES) return this.near[frame >>> DIRECTORY_BITS]![frame & ((1 << DIRECTORY_BITS) - 1)]!;
    return this.far.get(frame) ?? ZERO_PAGE;
  }

  private pageForWrite(frame: number): Uint32Array {
    const page = this.page(frame);
    return page === ZERO_PAGE ? this.makePage(frame) : page;
  }

  /** True once somebody wrote to the frame. */
  has(frame: number): boolean {
    return this.page(frame) !== ZERO_PAGE;
  }

  private makePage(frame: number): Uint32Array {
    if (this.pages === MAXIMUM_PAGES) {
      throw new Problem(
        'E_LIMIT',
        `the trace writes to more than ${MAXIMUM_PAGES} pages of physical memory`,
        {},
        'a recording of page tables needs far fewer: check how it was made',
      );
    }
    this.pages++;
    const page = new Uint32Array(1024);
    if (frame < NEAR_FRAMES) {
      const at = frame >>> DIRECTORY_BITS;
      if (this.near[at] === EMPTY_DIRECTORY) this.near[at] = EMPTY_DIRECTORY.slice();
      (this.near[at] as Uint32Array[])[frame & ((1 << DIRECTORY_BITS) - 1)] = page;
    } else {
      this.far.set(frame, page);
    }
    return page;
  }

  setEntryBits(frame: number, wordIndex: number, lo: number): void {
    const page = this.pageForWrite(frame);
    if (this.watcher !== null) {
      const even = wordIndex & ~1;
      this.watcher.wordChanges(frame, even, page[even]!, page[even + 1]!);
    }
    page[wordIndex] = lo;
  }

  /** Stores `size` (1, 2, 4, 8) bytes; a store may not cross an 8-byte boundary. Returns false if it would. */
  store(addressLo: number, addressHi: number, valueLo: number, valueHi: number, size: number): boolean {
    const within = addressLo & 7;
    if (within + size > 8) return false;
    const frame = (addressHi & 0xf_ffff) * 0x10_0000 + (addressLo >>> 12);
    const page = this.pageForWrite(frame);
    const word = (addressLo & 0xff8) >>> 2;
    const oldLo = page[word]!;
    const oldHi = page[word + 1]!;
    let lo = valueLo;
    let hi = valueHi;
    if (size !== 8) {
      const bits = size * 8;
      const mask = size === 4 ? -1 : (1 << bits) - 1;
      const shift = (within & 3) * 8;
      const inLow = within < 4;
      const old = inLow ? oldLo : oldHi;
      const merged = (old & ~(mask << shift)) | ((valueLo & mask) << shift);
      lo = inLow ? merged >>> 0 : oldLo;
      hi = inLow ? oldHi : merged >>> 0;
    }
    if (lo === oldLo && hi === oldHi) return true;
    this.watcher?.wordChanges(frame, word, oldLo, oldHi);
    page[word] = lo;
    page[word + 1] = hi;
    return true;
  }

  /** Replaces a whole page; `words`: 1024 elements, or null for zeros. */
  setPage(frame: number, words: Uint32Array | null): void {
    const page = this.pageForWrite(frame);
    if (this.watcher !== null) {
      for (let word = 0; word < 1024; word += 2) {
        const lo = words === null ? 0 : words[word]!;
        const hi = words === null ? 0 : words[word + 1]!;
        if (page[word] !== lo || page[word + 1] !== hi) {
          this.watcher.wordChanges(frame, word, page[word]!, page[word + 1]!);
        }
      }
    }
    if (words === null) page.fill(0);
    else page.set(words);
  }
}
