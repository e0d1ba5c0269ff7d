/**
 * What an importer knows of physical memory so far, in words of 32 bits. It answers two questions: what an entry holds,
 * e.g. to find the tables below it; and whether an entry that the guest was seen to read is news.
 */

const WORDS = 1024;

interface KnownPage {
  readonly words: Uint32Array;
  /** 1 for each word whose value is known. */
  readonly known: Uint8Array;
}

/** Pages kept; beyond that everything is forgotten, which only makes an importer state more than it had to. */
const MAXIMUM_PAGES = 1 << 18;

export class KnownMemory {
  private readonly pages = new Map<number, KnownPage>();

  private page(frame: number): KnownPage {
    let page = this.pages.get(frame);
    if (page === undefined) {
      if (this.pages.size >= MAXIMUM_PAGES) this.pages.clear();
      page = { words: new Uint32Array(WORDS), known: new Uint8Array(WORDS) };
      this.pages.set(frame, page);
    }
    return page;
  }

  /** The entry of 4 or 8 bytes at `address`, or `undefined` while it is not wholly known. */
  read(address: bigint, size: 4 | 8): bigint | undefined {
    const page = this.pages.get(frameNumber(address));
    if (page === undefined) return undefined;
    const word = wordIndex(address);
    if (page.known[word] === 0) return undefined;
    const low = BigInt(page.words[word]!);
    if (size === 4) return low;
    return page.known[word + 1] === 0 ? undefined : low | (BigInt(page.words[word + 1]!) << 32n);
  }

  /** `size`: 1, 2, 4 or 8 bytes. Less than a word makes no word known; of a known one it changes its part. */
  write(address: bigint, size: number, value: bigint): void {
    const page = this.page(frameNumber(address));
    const word = wordIndex(address);
    if (size < 4) {
      const shift = Number(address & 3n) * 8;
      const mask = (size === 1 ? 0xff : 0xffff) << shift;
      page.words[word] = (page.words[word]! & ~mask) | ((Number(value) << shift) & mask);
      return;
    }
    page.words[word] = Number(value & 0xffff_ffffn);
    page.known[word] = 1;
    if (size === 8) {
      page.words[word + 1] = Number((value >> 32n) & 0xffff_ffffn);
      page.known[word + 1] = 1;
    }
  }

  /** The page at `address` holds nothing but zeros. */
  clear(address: bigint): void {
    const page = this.page(frameNumber(address));
    page.words.fill(0);
    page.known.fill(1);
  }

  /** `words`: 1024 elements. */
  setPage(frame: number, words: Uint32Array): void {
    const page = this.page(frame);
    page.words.set(words);
    page.known.fill(1);
  }
}

export function frameNumber(address: bigint): number {
  return Number(address >> 12n);
}

function wordIndex(address: bigint): number {
  return Number((address & 0xfffn) >> 2n);
}
