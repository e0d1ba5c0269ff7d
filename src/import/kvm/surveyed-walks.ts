/**
 * What the walks of a stranger's trace show, taken together: where root tables are, which frames hold tables, how wide
 * addresses are, whether pages of 1 GiB are allowed.
 */

import type { FrameHistory } from './frame-history.ts';

const FRAME = 0xf_ffff_ffff_f000n;
const LARGE = 0x80n;
const PFEC_RSVD = 8;

interface SurveyedWalk {
  readonly position: number;
  readonly addr: bigint;
  /** What the entries name. */
  readonly tables: bigint[];
  /** Level of the first entry, and of the last; 0 before them. */
  first: number;
  level: number;
  /** What the last entry names. */
  last: bigint;
  /** There is an entry for a page of 1 GiB. */
  gigabyte: boolean;
}

export class SurveyedWalks {
  private readonly frames: FrameHistory;
  private walk: SurveyedWalk | undefined;
  /** Addresses of root tables by the position of the walk. */
  readonly roots = new Map<number, bigint>();
  /** A walk went through such a page. */
  gigabytePages = false;
  /** Width of the guest's physical addresses in bits, as far as reserved bits tell it. */
  maxphyaddr = 52;

  /** `frames`: learns which frames hold tables. */
  constructor(frames: FrameHistory) {
    this.frames = frames;
  }

  begin(addr: bigint, position: number): void {
    // What goes on behind it shows that such a page is allowed.
    if (this.walk?.gigabyte === true) this.gigabytePages = true;
    this.walk = { position, addr, tables: [], first: 0, level: 0, last: 0n, gigabyte: false };
  }

  /** What follows is no walk's. */
  end(): void {
    this.walk = undefined;
  }

  element(level: number, pte: bigint, position: number): void {
    const { walk } = this;
    if (walk === undefined) return;
    // That the next level was read shows that the table is there.
    if (walk.tables.length > 0) this.frames.show(walk.last >> 12n, position, true);
    if (walk.first === 0) walk.first = level;
    if (level === 3 && walk.first > 3 && (pte & LARGE) !== 0n) walk.gigabyte = true;
    walk.level = level;
    walk.last = pte & FRAME;
    walk.tables.push(pte & FRAME);
  }

  /** An entry with reserved bits: the lowest of those above all frames gives the width of addresses. */
  failed(pferr: number): void {
    const { walk } = this;
    if (walk === undefined || (pferr & PFEC_RSVD) === 0) return;
    if (walk.first >= 3) {
      const high = ((walk.last >> 12n) & 0xff_ffff_ffffn) >> 24n;
      for (let bit = 36; bit < this.maxphyaddr; bit++) if (((high << 36n) >> BigInt(bit)) & 1n) this.maxphyaddr = bit;
    }
    this.walk = undefined;
  }

  /** Bits are set in tables that the entries name, or in the root, whose place this tells. */
  bitSet(gpa: bigint, position: number): void {
    this.frames.show(gpa >> 12n, position, true);
    const { walk } = this;
    if (walk === undefined || walk.first < 2) return;
    const table = gpa & ~0xfffn;
    if (walk.tables.slice(0, -1).includes(table)) return;
    const [bits, size] = walk.first === 2 ? [10n, 4n] : [9n, 8n];
    const index = (walk.addr >> (12n + bits * BigInt(walk.first - 1))) & ((1n << bits) - 1n);
    if (walk.first !== 3 && (gpa & 0xfffn) === index * size) this.roots.set(walk.position, table);
  }

  /** The guest frame that the walk under way leads to, if it has come to one of 4 KiB. */
  get page(): bigint | undefined {
    return this.walk?.level === 1 ? this.walk.last >> 12n : undefined;
  }
}
