/**
 * What an importer knows of physical memory so far, word by word; tells whether an entry that was read is news.
 */

interface KnownPage {
  readonly words: Uint32Array;
  /** 1 for each 32-bit word whose value is known. */
  readonly known: Uint8Array;
}

/** Pages kept; beyond that everything is forgotten, which only makes the importer state more than it had to. */
const MAXIMUM_PAGES = 1 << 18;

export class KnownMemory {
  private readonly pages = new Map<number, KnownPage>();

  private page(frame: number): KnownPage {
    let page = this.pages.get(frame);
    if (page === undefined) {
      if (this.pages.size >= MAXIMUM_PAGES) this.pages.clear();
      page = { words: new Uint32Array(1024), known: new Uint8Array(1024) };
      this.pages.set(frame, page);
    }
    return page;
  }

  /** Whether the entry of `size` (4 or 8) bytes is known to hold the value. */
  holds(lo: number, hi: number, valueLo: number, valueHi: number, size: number): boolean {
    const { words, known } = this.page((hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12));
    const word = (lo & 0xffc) >>> 2;
    if (known[word] === 0 || words[word] !== valueLo) return false;
    return size === 4 || (known[word + 1] === 1 && words[word + 1] === valueHi);
  }

  set(lo: number, hi: number, valueLo: number, valueHi: number, size: number): void {
    const { words, known } = this.page((hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12));
    const word = (lo & 0xffc) >>> 2;
    words[word] = valueLo;
    known[word] = 1;
    if (size === 8) {
      words[word + 1] = valueHi;
      known[word + 1] = 1;
    }
  }
}
