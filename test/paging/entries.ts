/** Random entries of page tables, most of them sound. */

import { bit, GIB, type Layout, levelsOf, type Paging } from './layout.ts';

/** What the entries of an ordinary table depend on. */
export interface Format {
  readonly paging: Paging;
  readonly nxe: boolean;
  readonly shadowStacks: boolean;
  readonly second: boolean;
}

export class Entries {
  private readonly layout: Layout;

  constructor(layout: Layout) {
    this.layout = layout;
  }

  /** A PDPTE register: it holds nothing that loading would have refused. */
  pdpte(): bigint {
    const { layout } = this;
    const { random } = layout;
    const low = (random.chance(0.05) ? 0n : 1n) | layout.flags([0.1, 3], [0.1, 4], [0.2, 9], [0.2, 10], [0.2, 11]);
    return low | (BigInt(layout.tableFrame(2, 3, false)) << 12n);
  }

  /** A PDPTE in memory: nobody has checked it. */
  pdpteInMemory(low: boolean): bigint {
    const { layout } = this;
    const { random } = layout;
    let value = this.pdpte();
    if (low) value &= 0xffff_ffffn;
    if (layout.odd(0.1)) value |= bit(random.pick([1, 2, 5, 6, 7, 8, this.layout.processor.maxphyaddr, 63, 52]));
    return value;
  }

  /** An entry of 8 bytes, of an ordinary table. */
  entry8(format: Format, level: number): bigint {
    const { layout } = this;
    const { random, processor } = layout;
    const top = levelsOf(format.paging);
    const long = top >= 4;
    const wild = format.second ? 0.003 : 0.01;
    // Bit 8 is G in a leaf, and reserved at the top on AMD.
    let value = this.commonBits(
      format,
      level,
      level < 4 ? 0.1 : processor.vendor === 'intel' ? 0.05 : 0.01 * layout.noise,
    );
    const mayBeLarge = level === 2 || (level === 3 && processor.page1g);
    const large = level === 1 ? random.chance(0.2) : mayBeLarge ? random.chance(0.14) : layout.odd(0.02);
    if (large) value |= bit(7);
    if (large && level > 1) {
      value |= BigInt(random.pick(layout.gibs) * GIB) << 12n;
      if (level === 2 && random.chance(0.5)) value |= BigInt(random.pick(layout.linearIndexes)) << 21n;
      if (random.chance(0.1)) value |= bit(12);
      if (layout.odd(0.05)) value |= bit(13 + random.below(level === 2 ? 8 : 17));
    } else {
      const alias = layout.mayAlias && random.chance(0.1);
      value |= BigInt(level === 1 || alias ? layout.someFrame() : layout.tableFrame(level - 1, top, false)) << 12n;
    }
    if (random.chance(format.nxe ? 0.1 : 0) || layout.odd(wild)) value |= bit(63);
    if (long && random.chance(0.5)) value |= BigInt(random.below(16)) << 59n;
    if (long && random.chance(0.2)) value |= BigInt(random.below(128)) << 52n;
    if (layout.odd(wild)) value |= bit(processor.maxphyaddr - 1 + random.below(3));
    if (layout.odd(wild)) value ^= bit(random.below(64));
    return value;
  }

  /** An entry of 32-bit paging. */
  entry4(level: number, second = false): bigint {
    const { layout } = this;
    const { random } = layout;
    let value = this.commonBits({ paging: '32-bit', nxe: false, shadowStacks: false, second }, level, 0.1);
    if (random.chance(0.2)) value |= bit(7);
    if (level === 2 && (value & bit(7)) !== 0n && random.chance(0.8)) {
      value |= BigInt(random.pick(layout.gibs.slice(0, 2)) * GIB) << 12n;
      if (random.chance(0.5)) value |= BigInt(random.pick(layout.linearIndexes) >> 1) << 22n;
      if (random.chance(0.1)) value |= bit(12);
      if (random.chance(0.3)) value |= BigInt(random.below(16)) << 13n;
      if (layout.odd(0.1)) value |= bit(13 + random.below(9));
    } else if (second && level === 2) {
      value |= BigInt(random.pick(layout.secondFrames[1]!)) << 12n;
    } else {
      const frame = level === 1 ? layout.someFrame() : layout.tableFrame(1, 2, true);
      value |= (BigInt(frame) << 12n) & 0xffff_ffffn;
    }
    if (layout.odd(0.01)) value ^= bit(random.below(32));
    return value;
  }

  /** Bits 11:0 but PS, and the frame left out. */
  private commonBits(format: Format, level: number, global: number): bigint {
    const { layout } = this;
    const { random } = layout;
    const { second } = format;
    let value = layout.flags([0.1, 3], [0.1, 4], [global, 8], [0.2, 9], [0.2, 10], [0.2, 11]);
    // A 2-D walk reads far more entries of the second stage than of the first.
    if (!layout.odd(second ? 0.005 : 0.03)) value |= bit(0);
    if (second ? !layout.odd(0.015) : !random.chance(0.1)) value |= bit(1);
    if (second ? !layout.odd(0.01) : !random.chance(0.15)) value |= bit(2);
    if (random.chance(0.75)) value |= bit(5);
    if (random.chance(0.7)) value |= bit(6);
    // A shadow-stack page: R/W clear, D set in the leaf.
    if (format.shadowStacks && random.chance(level === 1 ? 0.4 : 0.05)) value = (value & ~bit(1)) | bit(6);
    return value;
  }

  /** An entry of an EPT table that stands at `index`. */
  entryEpt(level: number, index: number): bigint {
    const { layout } = this;
    const { random, processor } = layout;
    let value = layout.flags([0.7, 8], [0.7, 9], [0.85, 10], [0.1, 11]);
    if (!layout.odd(0.002)) value |= bit(0);
    if (!layout.odd(0.02)) value |= bit(1);
    if (!layout.odd(0.03)) value |= bit(2);
    if (layout.odd(0.01)) value = (value & ~7n) | 4n;
    if (layout.odd(0.002)) value &= ~(7n | bit(10));
    if (layout.odd(0.004)) value &= ~7n;
    if (layout.odd(0.002)) value &= ~1n;
    const large = (level === 2 && processor.ept2m) || (level === 3 && processor.ept1g);
    const leaf = level === 1 || (level <= 3 && (large ? random.chance(0.15) : layout.odd(0.02)));
    if (leaf) {
      if (level > 1 || random.chance(0.2)) value |= bit(7);
      value |= BigInt(random.pick([0, 1, 4, 5, 6, 6, 6])) << 3n;
      if (layout.odd(0.01)) value |= BigInt(random.pick([2, 3, 7])) << 3n;
      if (random.chance(0.2)) value |= bit(6);
      value |= BigInt(layout.secondLeaf(level, index, false)) << 12n;
      if (level > 1 && layout.odd(0.02)) value |= bit(12 + random.below(level === 2 ? 9 : 18));
    } else {
      value |= BigInt(random.pick(layout.secondFrames[level - 1]!)) << 12n;
      if (layout.odd(0.003)) value |= bit(3 + random.below(5));
    }
    if (random.chance(0.3)) value |= BigInt(random.below(4096)) << 52n;
    if (layout.odd(0.003)) value |= bit(processor.maxphyaddr - 1 + random.below(3));
    if (layout.odd(0.003)) value ^= bit(random.below(64));
    return value;
  }
}
