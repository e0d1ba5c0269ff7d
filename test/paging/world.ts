/**
 * Random worlds for the differential test: a processor, its registers, and page tables in which most walks go deep.
 *
 * Tables are few. All of a world's addresses, linear and physical, are put together from a handful of 9-bit table
 * indexes, and every table holds an entry at each of them, so that a walk finds an entry wherever it looks. The pages
 * of the guest's tables stand at (x << 30) | (k << 12), `k` saying which level they are for: second-stage pages of any
 * size then lead from one of them to another of the same level.
 */

import { EFER_LMA, EFER_LME } from '../../src/formats/registers.ts';
import type { AccessKind, PlainMachine } from '../reference/plain-walker.ts';
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

export interface World {
  readonly processor: Processor;
  readonly paging: Paging;
  readonly machine: PlainMachine;
  /** Frames of all pages that hold tables. */
  readonly frames: readonly number[];
  /** 9-bit indexes that linear addresses are put together from. */
  readonly indexes: readonly number[];
}

/** An access by the plain walker's terms, and RFLAGS.AC. */
export interface Access {
  readonly address: bigint;
  readonly kind: AccessKind;
  readonly user: boolean;
  readonly implicit: boolean;
  readonly shadowStack: boolean;
  readonly ac: boolean;
}

/** Puts an entry into the memories of both walkers. */
export type Store = (address: number, value: bigint, size: 4 | 8) => void;

const PAGE = 0x1000;
/** Frames in 1 GiB. */
const GIB = 0x4_0000;

export function randomProcessor(random: Random): Processor {
  return {
    vendor: random.chance(0.5) ? 'intel' : 'amd',
    maxphyaddr: random.pick([36, 37, 39, 40, 41, 45, 46, 48, 51, 52]),
    pse36: random.chance(0.8),
    page1g: random.chance(0.7),
    executeOnly: random.chance(0.6),
    ept2m: random.chance(0.85),
    ept1g: random.chance(0.7),
    advancedInfo: random.chance(0.7),
    afterTranslation: random.chance(0.25),
  };
}

function bit(position: number): bigint {
  return 1n << BigInt(position);
}

/** A table format: of the guest's, of NPT (both `x86`), or of EPT. */
interface Format {
  readonly kind: 'x86' | 'ept';
  readonly paging: Paging;
  readonly nxe: boolean;
  readonly shadowStacks: boolean;
  readonly second: boolean;
}

function levelsOf(paging: Paging): number {
  return { off: 0, '32-bit': 2, pae: 3, '4-level': 4, '5-level': 5 }[paging];
}

/** Builds one world and stores its tables. */
export class WorldBuilder {
  private readonly random: Random;
  private readonly processor: Processor;
  private readonly store: Store;
  /** How much goes wrong: factor for every probability of something unusual. */
  private readonly noise: number;
  /** Entries may point at tables of the other stage. */
  private mayAlias: boolean;
  /** Gibibytes that hold pages of the guest's tables; the first two are below 4 GiB. */
  private readonly gibs: readonly number[];
  /** Low 9 bits of the frames of the guest's tables; which level of table each is for. */
  private readonly keys: readonly number[];
  private static readonly levelOfKey = [1, 2, 3, 4, 5, 1];
  private readonly linearIndexes: readonly number[];
  private readonly allIndexes: readonly number[];
  /** Frames of second-stage tables, by level. */
  private readonly secondFrames: number[][] = [[], [], [], [], [], []];
  /** Bits 31:5 of CR3 under PAE paging, within a page. */
  private pdptOffset = 0;

  /** `calm`: no table is at two places of one walk. */
  constructor(random: Random, processor: Processor, store: Store, calm: boolean) {
    this.random = random;
    this.processor = processor;
    this.store = store;
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

  build(): World {
    const { random, processor } = this;
    const paging = random.weighted<Paging>([
      [1, 'off'],
      [3, '32-bit'],
      [3, 'pae'],
      [6, '4-level'],
      [4, '5-level'],
    ]);
    const second = random.weighted(
      processor.vendor === 'intel'
        ? ([
            [2, 'none'],
            [5, 'ept'],
          ] as const)
        : ([
            [2, 'none'],
            [5, 'npt'],
          ] as const),
    );
    const control = this.controlRegisters(paging);
    const npt = second === 'npt' ? this.buildNpt() : undefined;
    const secondStage = npt ?? (second === 'ept' ? this.buildEpt() : undefined);
    const cet = (control.cr4 & bit(23)) !== 0n;
    const format: Format = {
      kind: 'x86',
      paging,
      nxe: (control.efer & bit(11)) !== 0n,
      shadowStacks: cet,
      second: false,
    };
    this.pdptOffset = 32 * random.below(128);
    const pdptesInMemory = npt !== undefined && paging === 'pae';
    if (paging !== 'off') this.fillGuestTables(format, pdptesInMemory);
    const machine: PlainMachine = {
      vendor: processor.vendor,
      maxphyaddr: processor.maxphyaddr,
      features: { pse36: processor.pse36, pdpe1gb: processor.page1g, neverDirtyReadOnly: false },
      afterTranslation: processor.afterTranslation,
      ...control,
      cr3: this.guestRoot(paging),
      ac: false,
      pdptes: [this.pdpte(), this.pdpte(), this.pdpte(), this.pdpte()],
      secondStage,
    };
    return { processor, paging, machine, frames: this.allFrames(), indexes: this.linearIndexes };
  }

  /** Scaled by the world's noise. */
  private odd(probability: number): boolean {
    return this.noise !== 0 && this.random.chance(Math.min(0.5, probability * this.noise));
  }

  private flags(...positions: readonly (readonly [probability: number, bit: number])[]): bigint {
    return positions.reduce((sum, [p, position]) => (this.random.chance(p) ? sum | bit(position) : sum), 0n);
  }

  private controlRegisters(paging: Paging): { cr0: bigint; cr4: bigint; efer: bigint; pkru: bigint; pkrs: bigint } {
    const { random } = this;
    const long = paging === '4-level' || paging === '5-level';
    let cr0 = bit(0) | bit(4) | this.flags([0.6, 16]);
    if (paging !== 'off') cr0 |= bit(31);
    // PSE, PGE, SMEP, SMAP, PKE, CET, PKS; outside their modes they are ignored.
    let cr4 = this.flags([0.6, 4], [0.4, 7], [0.35, 20], [0.35, 21], [0.35, 22], [0.3, 24]);
    if (paging !== 'off') cr4 |= this.flags([0.3, 23]);
    if (paging === 'pae' || long || (paging === 'off' && random.chance(0.5))) cr4 |= bit(5);
    if (paging === '5-level' || (!long && random.chance(0.2))) cr4 |= bit(12);
    if (long) cr4 |= this.flags([0.3, 17]);
    if ((cr4 & bit(23)) !== 0n) cr0 |= bit(16);
    let efer = this.flags([0.75, 11], [0.5, 0]);
    if (long) efer |= BigInt(EFER_LME | EFER_LMA);
    // Mostly zero: a random register forbids three keys out of four.
    const keys = (): bigint =>
      random.chance(0.3) ? 0n : BigInt((random.uint32() & random.uint32() & random.uint32()) >>> 0);
    return { cr0, cr4, efer, pkru: keys(), pkrs: keys() };
  }

  // ---------------------------------------------------------------------------------------------- guest's tables

  private levelOfKey(at: number, top: number): number {
    return Math.min(WorldBuilder.levelOfKey[at]!, top);
  }

  /** A frame of a guest's table for `level`; `low`: below 4 GiB. */
  private tableFrame(level: number, top: number, low: boolean): number {
    const { random } = this;
    const fitting = this.keys.filter((_, at) => this.levelOfKey(at, top) === level);
    const key = this.odd(0.02) || fitting.length === 0 ? random.pick(this.keys) : random.pick(fitting);
    return random.pick(low ? this.gibs.slice(0, 2) : this.gibs) * GIB + key;
  }

  private guestRoot(paging: Paging): bigint {
    const { random } = this;
    const top = levelsOf(paging);
    const long = top >= 4;
    const frame = this.tableFrame(top, Math.max(top, 1), !long);
    const low = paging === 'pae' ? this.pdptOffset : random.below(PAGE);
    return BigInt(frame) * 0x1000n + BigInt(low);
  }

  /** A PDPTE register: it holds nothing that loading would have refused. */
  private pdpte(): bigint {
    const { random } = this;
    const low = (random.chance(0.05) ? 0n : 1n) | this.flags([0.1, 3], [0.1, 4], [0.2, 9], [0.2, 10], [0.2, 11]);
    return low | (BigInt(this.tableFrame(2, 3, false)) << 12n);
  }

  /** A PDPTE in memory: nobody has checked it. */
  private pdpteInMemory(low: boolean): bigint {
    const { random, processor } = this;
    let value = this.pdpte();
    if (low) value &= 0xffff_ffffn;
    if (this.odd(0.1)) value |= bit(random.pick([1, 2, 5, 6, 7, 8, processor.maxphyaddr, 63, 52]));
    return value;
  }

  private fillGuestTables(format: Format, pdptesInMemory: boolean): void {
    const top = levelsOf(format.paging);
    for (const gib of this.gibs) {
      this.keys.forEach((key, at) => {
        const base = (gib * GIB + key) * PAGE;
        const level = this.levelOfKey(at, top);
        if (format.paging === '32-bit') {
          for (const index of this.indexes10(this.linearIndexes, level)) {
            this.store(base + 4 * index, this.entry4(level), 4);
          }
        } else if (level === 3 && format.paging === 'pae') {
          if (!pdptesInMemory) return;
          for (let i = 0; i < 4; i++) this.store(base + this.pdptOffset + 8 * i, this.pdpteInMemory(false), 8);
        } else {
          for (const index of this.linearIndexes) this.store(base + 8 * index, this.entry8(format, level), 8);
        }
      });
    }
  }

  /** The 10-bit indexes that addresses made of 9-bit ones lead to. */
  private indexes10(nine: readonly number[], level: number): number[] {
    if (level === 1) return [...new Set(nine.flatMap((index) => [index, index | 0x200]))];
    const upper = [...new Set(nine.map((index) => index >> 1))];
    return upper.flatMap((index) => [0, 1, 2, 3].map((top) => index | (top << 8)));
  }

  private someFrame(): number {
    const { random } = this;
    if (this.mayAlias && random.chance(0.3)) return random.pick(this.allFrames());
    const gib = random.pick(this.gibs) * GIB;
    if (random.chance(0.5)) return gib + random.pick(this.keys);
    return gib + random.pick(this.linearIndexes) * 512 + random.pick(this.linearIndexes);
  }

  /** An entry of 8 bytes, of an ordinary table. */
  private entry8(format: Format, level: number): bigint {
    const { random, processor } = this;
    const top = levelsOf(format.paging);
    const long = top >= 4;
    const wild = format.second ? 0.003 : 0.01;
    // Bit 8 is G in a leaf, and reserved at the top on AMD.
    let value = this.commonBits(
      format,
      level,
      level < 4 ? 0.1 : processor.vendor === 'intel' ? 0.05 : 0.01 * this.noise,
    );
    const mayBeLarge = level === 2 || (level === 3 && processor.page1g);
    const large = level === 1 ? random.chance(0.2) : mayBeLarge ? random.chance(0.14) : this.odd(0.02);
    if (large) value |= bit(7);
    if (large && level > 1) {
      value |= BigInt(random.pick(this.gibs) * GIB) << 12n;
      if (level === 2 && random.chance(0.5)) value |= BigInt(random.pick(this.linearIndexes)) << 21n;
      if (random.chance(0.1)) value |= bit(12);
      if (this.odd(0.05)) value |= bit(13 + random.below(level === 2 ? 8 : 17));
    } else {
      const alias = this.mayAlias && random.chance(0.1);
      value |= BigInt(level === 1 || alias ? this.someFrame() : this.tableFrame(level - 1, top, false)) << 12n;
    }
    if (random.chance(format.nxe ? 0.1 : 0) || this.odd(wild)) value |= bit(63);
    if (long && random.chance(0.5)) value |= BigInt(random.below(16)) << 59n;
    if (long && random.chance(0.2)) value |= BigInt(random.below(128)) << 52n;
    if (this.odd(wild)) value |= bit(processor.maxphyaddr - 1 + random.below(3));
    if (this.odd(wild)) value ^= bit(random.below(64));
    return value;
  }

  /** An entry of 32-bit paging. */
  private entry4(level: number, second = false): bigint {
    const { random } = this;
    let value = this.commonBits({ kind: 'x86', paging: '32-bit', nxe: false, shadowStacks: false, second }, level, 0.1);
    if (random.chance(0.2)) value |= bit(7);
    if (level === 2 && (value & bit(7)) !== 0n && random.chance(0.8)) {
      value |= BigInt(random.pick(this.gibs.slice(0, 2)) * GIB) << 12n;
      if (random.chance(0.5)) value |= BigInt(random.pick(this.linearIndexes) >> 1) << 22n;
      if (random.chance(0.1)) value |= bit(12);
      if (random.chance(0.3)) value |= BigInt(random.below(16)) << 13n;
      if (this.odd(0.1)) value |= bit(13 + random.below(9));
    } else if (second && level === 2) {
      value |= BigInt(random.pick(this.secondFrames[1]!)) << 12n;
    } else {
      const frame = level === 1 ? this.someFrame() : this.tableFrame(1, 2, true);
      value |= (BigInt(frame) << 12n) & 0xffff_ffffn;
    }
    if (this.odd(0.01)) value ^= bit(random.below(32));
    return value;
  }

  /** Bits 11:0 but PS, and the frame left out. */
  private commonBits(format: Format, level: number, global: number): bigint {
    const { random } = this;
    const { second } = format;
    let value = this.flags([0.1, 3], [0.1, 4], [global, 8], [0.2, 9], [0.2, 10], [0.2, 11]);
    // A 2-D walk reads far more entries of the second stage than of the first.
    if (!this.odd(second ? 0.005 : 0.03)) value |= bit(0);
    if (second ? !this.odd(0.015) : !random.chance(0.1)) value |= bit(1);
    if (second ? !this.odd(0.01) : !random.chance(0.15)) value |= bit(2);
    if (random.chance(0.75)) value |= bit(5);
    if (random.chance(0.7)) value |= bit(6);
    // A shadow-stack page: R/W clear, D set in the leaf.
    if (format.shadowStacks && level <= 3 && random.chance(0.35)) value = (value & ~bit(1)) | bit(6);
    return value;
  }

  // ------------------------------------------------------------------------------------------------ second stages

  /** Takes frames for second-stage tables; `low`: below 4 GiB. Returns the root's. */
  private takeSecondFrames(top: number, low: boolean): number {
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

  private buildEpt(): PlainMachine['secondStage'] {
    const { random, processor } = this;
    const top = random.chance(0.3) ? 5 : 4;
    const root = this.takeSecondFrames(top, false);
    const mbec = random.chance(0.4);
    const accessedDirty = random.chance(0.5);
    for (let level = top; level >= 1; level--) {
      for (const frame of this.secondFrames[level]!) {
        for (const index of this.allIndexes) {
          this.store(frame * PAGE + 8 * index, this.entryEpt(level, index), 8);
        }
      }
    }
    return {
      kind: 'ept',
      eptp: BigInt(root) * 0x1000n + BigInt((top - 1) << 3) + (accessedDirty ? 64n : 0n) + 6n,
      mbec,
      executeOnly: processor.executeOnly,
      page2m: processor.ept2m,
      page1g: processor.ept1g,
      advancedInfo: processor.advancedInfo,
    };
  }

  /**
   * Where an entry of a second-stage table leads that maps a page: what has `index` there keeps it, so that pages of
   * the guest's tables lead to pages for the same level.
   */
  private secondLeaf(level: number, index: number, low: boolean): number {
    const { random } = this;
    if (this.mayAlias && random.chance(0.1) && !low) return random.pick(this.allFrames());
    const gib = random.pick(low ? this.gibs.slice(0, 2) : this.gibs) * GIB;
    if (level === 1) return gib + (this.odd(0.02) ? random.pick(this.keys) : index);
    return level === 2 ? gib + 512 * index : gib;
  }

  private entryEpt(level: number, index: number): bigint {
    const { random, processor } = this;
    let value = this.flags([0.7, 8], [0.7, 9], [0.85, 10], [0.1, 11]);
    if (!this.odd(0.002)) value |= bit(0);
    if (!this.odd(0.02)) value |= bit(1);
    if (!this.odd(0.03)) value |= bit(2);
    if (this.odd(0.01)) value = (value & ~7n) | 4n;
    if (this.odd(0.002)) value &= ~(7n | bit(10));
    if (this.odd(0.004)) value &= ~7n;
    if (this.odd(0.002)) value &= ~1n;
    const large = (level === 2 && processor.ept2m) || (level === 3 && processor.ept1g);
    const leaf = level === 1 || (level <= 3 && (large ? random.chance(0.15) : this.odd(0.02)));
    if (leaf) {
      if (level > 1 || random.chance(0.2)) value |= bit(7);
      value |= BigInt(random.pick([0, 1, 4, 5, 6, 6, 6])) << 3n;
      if (this.odd(0.01)) value |= BigInt(random.pick([2, 3, 7])) << 3n;
      if (random.chance(0.2)) value |= bit(6);
      value |= BigInt(this.secondLeaf(level, index, false)) << 12n;
      if (level > 1 && this.odd(0.02)) value |= bit(12 + random.below(level === 2 ? 9 : 18));
    } else {
      value |= BigInt(random.pick(this.secondFrames[level - 1]!)) << 12n;
      if (this.odd(0.003)) value |= bit(3 + random.below(5));
    }
    if (random.chance(0.3)) value |= BigInt(random.below(4096)) << 52n;
    if (this.odd(0.003)) value |= bit(processor.maxphyaddr - 1 + random.below(3));
    if (this.odd(0.003)) value ^= bit(random.below(64));
    return value;
  }

  private buildNpt(): PlainMachine['secondStage'] {
    const { random } = this;
    const paging = random.weighted<Paging>([
      [1, '32-bit'],
      [1, 'pae'],
      [3, '4-level'],
      [2, '5-level'],
    ]);
    const top = levelsOf(paging);
    const root = this.takeSecondFrames(top, paging === '32-bit');
    // An entry of 4 bytes within one of 8 that the same walk writes back: only a processor's locked compare would tell.
    if (paging === '32-bit') this.mayAlias = false;
    const nxe = random.chance(0.7);
    const format: Format = { kind: 'x86', paging, nxe, shadowStacks: false, second: true };
    const pdptOffset = 32 * random.below(128);
    for (let level = top; level >= 1; level--) {
      for (const frame of this.secondFrames[level]!) this.fillNptTable(format, frame * PAGE, level, pdptOffset);
    }
    // Bits of the host's CR4 that play no part are there to show that they do not.
    let hostCr4 = this.flags([0.6, 4], [0.4, 7], [0.4, 20], [0.4, 21], [0.3, 22]);
    if (paging !== '32-bit') hostCr4 |= bit(5);
    if (paging === '5-level') hostCr4 |= bit(12);
    let hostEfer = bit(12) | (nxe ? bit(11) : 0n);
    if (top >= 4) hostEfer |= BigInt(EFER_LME | EFER_LMA);
    const low = paging === 'pae' ? pdptOffset : random.below(PAGE);
    return { kind: 'npt', ncr3: BigInt(root) * 0x1000n + BigInt(low), hostCr4, hostEfer, gmet: random.chance(0.3) };
  }

  private fillNptTable(format: Format, base: number, level: number, pdptOffset: number): void {
    const { random } = this;
    if (format.paging === '32-bit') {
      for (const index of this.indexes10(this.allIndexes, level)) {
        let value = this.entry4(level, true);
        if (level === 1) value = (value & 0xfffn) | (BigInt(this.secondLeaf(1, index, true) % GIB) << 12n);
        if (level === 1) value |= (BigInt(random.pick(this.gibs.slice(0, 2))) << 30n) & 0xffff_ffffn;
        this.store(base + 4 * index, value, 4);
      }
    } else if (level === 3 && format.paging === 'pae') {
      for (let i = 0; i < 4; i++) {
        const flags = this.pdpteInMemory(false) & ~(bit(52) - bit(12));
        this.store(base + pdptOffset + 8 * i, flags | (BigInt(random.pick(this.secondFrames[2]!)) << 12n), 8);
      }
    } else {
      for (const index of this.allIndexes) {
        let value = this.entry8(format, level);
        const large = (value & bit(7)) !== 0n;
        const to =
          level === 1 || large ? this.secondLeaf(level, index, false) : random.pick(this.secondFrames[level - 1]!);
        if (!this.odd(0.02)) value = (value & ~(bit(52) - bit(12))) | (BigInt(to) << 12n);
        this.store(base + 8 * index, value, 8);
      }
    }
  }

  private allFrames(): number[] {
    return [...this.gibs.flatMap((gib) => this.keys.map((key) => gib * GIB + key)), ...this.secondFrames.flat()];
  }
}
