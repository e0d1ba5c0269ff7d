/** Tables of a hypervisor, made by hand: 4- and 5-level in x86 or EPT format, or four page directories of a PAE root. */

import type { RootState } from '../../../src/machine/kvm/processor.ts';
import { type Memory, TABLE_FRAMES } from '../../../src/mmu/table-memory.ts';
import { frameHi, frameLo } from '../../../src/paging/guest-memory.ts';

export interface Rights {
  readonly write: boolean;
  readonly execute: boolean;
  /** x86 format. */
  readonly user: boolean;
}

const LARGE = 1 << 7;
const NX_HI = 0x8000_0000 | 0;

export class HandTables {
  readonly root: RootState;
  private readonly memory: Memory;
  private readonly ept: boolean;
  private nextFrame: number;

  constructor(memory: Memory, level: 3 | 4 | 5, format: 'x86' | 'ept' | 'ept-ad', firstTable = 0) {
    this.memory = memory;
    this.nextFrame = TABLE_FRAMES + firstTable;
    this.ept = format !== 'x86';
    const pdptes = new Int32Array(8);
    const ad = format === 'ept-ad';
    this.root = { level, frame: this.nextFrame++, pdptes, nested: false, ad, splitsExecute: false };
    for (let i = 0; level === 3 && i < 4; i++) {
      pdptes[2 * i] = frameLo(this.nextFrame) | 1;
      pdptes[2 * i + 1] = frameHi(this.nextFrame++);
    }
  }

  /**
   * Maps page `page` (its number) to a frame by an entry of level 1 or 2; 1 where there is a table already. Rights that
   * it had stay.
   */
  map(page: number, frame: number, level: number, rights: Rights): void {
    let table = this.root.frame;
    let at = this.root.level as number;
    if (at === 3) {
      const index = Math.floor(page / 2 ** 18) & 3;
      table = Math.floor((this.root.pdptes[2 * index]! >>> 12) + this.root.pdptes[2 * index + 1]! * 2 ** 20);
      at = 2;
    }
    for (; at > level; at--) {
      const word = this.wordOf(table, page, at);
      const { words } = this.memory;
      const lo = words[word]!;
      if (lo === 0) {
        const child = this.nextFrame++;
        words[word] = frameLo(child) | 7;
        words[word + 1] = frameHi(child);
        table = child;
      } else if ((lo & LARGE) !== 0) {
        break;
      } else {
        table = (lo >>> 12) + (words[word + 1]! & 0xf_ffff) * 2 ** 20;
      }
    }
    const word = this.wordOf(table, page, at);
    const { words } = this.memory;
    if (at === 2 && words[word] !== 0 && (words[word]! & LARGE) === 0) {
      this.map(page, frame, 1, rights);
      return;
    }
    const first = frame - (frame % 512 ** (at - 1));
    // Nothing is flushed, so rights once given stay.
    const oldLo = words[word]!;
    const mayExecute = this.ept || rights.execute || (oldLo !== 0 && words[word + 1]! >= 0);
    words[word] = frameLo(first) | (at > 1 ? LARGE : 0) | this.rightsOf(rights) | (oldLo & 7);
    words[word + 1] = frameHi(first) | (mayExecute ? 0 : NX_HI);
  }

  private rightsOf(rights: Rights): number {
    const write = rights.write ? 2 : 0;
    // EPT: write-back, the guest's PAT ignored.
    if (this.ept) return 1 | write | (rights.execute ? 4 : 0) | (6 << 3) | (1 << 6);
    return 1 | write | (rights.user ? 4 : 0);
  }

  /** Empties the entry of level 1 that maps a page. */
  unmap(page: number): void {
    let table = this.root.frame;
    for (let at = this.root.level as number; at > 1; at--) {
      const word = this.wordOf(table, page, at);
      table = (this.memory.words[word]! >>> 12) + (this.memory.words[word + 1]! & 0xf_ffff) * 2 ** 20;
    }
    const word = this.wordOf(table, page, 1);
    this.memory.words.fill(0, word, word + 2);
  }

  private wordOf(table: number, page: number, level: number): number {
    return this.memory.pageOf(table) + 2 * (Math.floor(page / 512 ** (level - 1)) % 512);
  }
}
