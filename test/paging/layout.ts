/**
 * Where a random world's tables stand in physical memory, and which entries lead where.
 *
 * Tables are few. All of a world's addresses, linear and physical, are put together from a handful of 9-bit table
 * indexes, and every table holds an entry at each of them, so that a walk finds an entry wherever it looks. The pages
 * of the guest's tables stand at (x << 30) | (k << 12), `k` saying which level they are for: second-stage pages of any
 * size then lead from one of them to another of the same level.
 */

import type { Random } from '../reference/random.ts';

/** What stays the same over many worlds: the machine under test takes it from a trace's header. */
export interface Processor {
  readonly vendor: 'intel' | 'amd';
  readonly maxphyaddr: number;
  readonly pse36: boolean;
  readonly page1g: boolean;
  readonly executeOnly: boolean;
  readonly ept2m: boolean;
  readonly ept1g: boolean;
  readonly advancedInfo: boolean;
  readonly afterTranslation: boolean;
}

export type Paging = 'off' | '32-bit' | 'pae' | '4-level' | '5-level';

export const PAGE = 0x1000;
/** Frames in 1 GiB. */
export const GIB = 0x4_0000;

export function bit(position: number): bigint {
  return 1n << BigInt(position);
}

export function levelsOf(paging: Paging): number {
  return { off: 0, '32-bit': 2, pae: 3, '4-level': 4, '5-level': 5 }[paging];
}

export class Layout {
  readonly random: Random;
  readonly processor: Processor;
  /** How much goes wrong: factor for every probability of something unusual. */
  readonly noise: number;
  /** Entries may point at tables of the other stage. */
  mayAlias: boolean;
  /** Gibibytes that hold pages of the guest's tables; the first two are below 4 GiB. */
  readonly gibs: readonly number[];
  /** Low 9 bits of the frames of the guest's tables; which level of table each is for. */
  readonly keys: readonly number[];
  private static readonly levelOfKey = [1, 2, 3, 4, 5, 1];
  readonly linearIndexes: readonly number[];
  readonly allIndexes: readonly number[];
  /** Frames of second-stage tables, by level. */
  readonly secondFrames: number[][] = [[], [], [], [], [], []];
  /** Bits 31:5 of CR3 under PAE paging, within a page. */
  pdptOffset = 0;

  /** `calm`: no table is at two places of one walk. */
  constructor(random: Random, processor: Processor, calm: boolean) {
    this.random = random;
    this.processor = processor;
    this.noise = random.weighted([
      [2, 0],
      [3, 0.3],
      [2, 1],
      [1, 3],
    ]);
    this.mayAlias = !calm && random.chance(0.15);
    const far = random.below(2 ** (processor.maxphyaddr - 30));
    this.gibs = [...new Set([random.below(2), 2 + random.below(2), far])];
    const keys = new Set<number>();
    while (keys.size < 6) keys.add(random.below(512));
    this.keys = [...keys];
    this.linearIndexes = [...new Set([0, ...this.keys])];
    const ofGibs = this.gibs.flatMap((gib) => [gib % 512, Math.floor(gib / 512) % 512, Math.floor(gib / 0x4_0000)]);
    this.allIndexes = [...new Set([...this.linearIndexes, ...ofGibs])];
  }

  /** By a probability scaled by the world's noise. */
  odd(probability: number): boolean {
    return this.noise !== 0 && this.random.chance(Math.min(0.5, probability * this.noise));
  }

  /** A word with each of these bits set by its own probability. */
  flags(...positions: readonly (readonly [probability: number, bit: number])[]): bigint {
    return positions.reduce((sum, [p, position]) => (this.random.chance(p) ? sum | bit(position) : sum), 0n);
  }

  /** The level that pages with the key number `at` are for, where the root's is `top`. */
  levelOfKey(at: number, top: number): number {
    return Math.min(Layout.levelOfKey[at]!, top);
  }

  /** A frame of a guest's table for `level`; `low`: below 4 GiB. */
  tableFrame(level: number, top: number, low: boolean): number {
    const { random } = this;
    const fitting = this.keys.filter((_, at) => this.levelOfKey(at, top) === level);
    const key = this.odd(0.02) || fitting.length === 0 ? random.pick(this.keys) : random.pick(fitting);
    return random.pick(low ? this.gibs.slice(0, 2) : this.gibs) * GIB + key;
  }

  /** Where a root has 32 bits, what stands above them is not part of it. */
  beyond32(long: boolean): bigint {
    return !long && this.random.chance(0.2) ? BigInt(this.random.uint32()) << 32n : 0n;
  }

  /** The 10-bit indexes that addresses made of 9-bit ones lead to. */
  indexes10(nine: readonly number[], level: number): number[] {
    if (level === 1) return [...new Set(nine.flatMap((index) => [index, index | 0x200]))];
    const upper = [...new Set(nine.map((index) => index >> 1))];
    return upper.flatMap((index) => [0, 1, 2, 3].map((top) => index | (top << 8)));
  }

  /** Where an entry of the guest's that maps a page leads. */
  someFrame(): number {
    const { random } = this;
    if (this.mayAlias && random.chance(0.3)) return random.pick(this.allFrames());
    const gib = random.pick(this.gibs) * GIB;
    if (random.chance(0.5)) return gib + random.pick(this.keys);
    return gib + random.pick(this.linearIndexes) * 512 + random.pick(this.linearIndexes);
  }

  /** Takes frames for second-stage tables; `low`: below 4 GiB. Returns the root's. */
  takeSecondFrames(top: number, low: boolean): number {
    const { random } = this;
    let next = 0;
    const take = (gibs: readonly number[]): number => random.pick(gibs) * GIB + 512 + next++;
    for (let level = 1; level < top; level++) {
      const gibs = low ? this.gibs.slice(0, 2) : this.gibs;
      this.secondFrames[level] = [take(gibs), take(gibs)];
    }
    const root = take(low || top === 3 ? this.gibs.slice(0, 2) : this.gibs);
    this.secondFrames[top] = [root];
    return root;
  }

  /**
   * Where an entry of a second-stage table leads that maps a page: what has `index` there keeps it, so that pages of
   * the guest's tables lead to pages for the same level.
   */
  secondLeaf(level: number, index: number, low: boolean): number {
    const { random } = this;
    if (this.mayAlias && random.chance(0.1) && !low) return random.pick(this.allFrames());
    const gib = random.pick(low ? this.gibs.slice(0, 2) : this.gibs) * GIB;
    if (level === 1) return gib + (this.odd(0.02) ? random.pick(this.keys) : index);
    return level === 2 ? gib + 512 * index : gib;
  }

  /** Frames of all pages that hold tables. */
  allFrames(): number[] {
    return [...this.gibs.flatMap((gib) => this.keys.map((key) => gib * GIB + key)), ...this.secondFrames.flat()];
  }
}
