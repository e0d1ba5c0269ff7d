/**
 * Random worlds for the differential test: a processor, its registers, and page tables in which most walks go deep
 * (`layout.ts` says how).
 */

import { EFER_LMA, EFER_LME } from '../../src/formats/registers.ts';
import type { AccessKind, PlainMachine } from '../reference/plain-walker.ts';
import type { Random } from '../reference/random.ts';
import { Entries, type Format } from './entries.ts';
import { bit, GIB, Layout, levelsOf, PAGE, type Paging, type Processor } from './layout.ts';

export interface World {
  readonly processor: Processor;
  readonly paging: Paging;
  readonly machine: PlainMachine;
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

/** Builds one world and stores its tables. */
export class WorldBuilder {
  private readonly layout: Layout;
  private readonly entries: Entries;
  private readonly store: Store;

  /** `calm`: no table is at two places of one walk. */
  constructor(random: Random, processor: Processor, store: Store, calm: boolean) {
    this.layout = new Layout(random, processor, calm);
    this.entries = new Entries(this.layout);
    this.store = store;
  }

  build(): World {
    const { layout, entries } = this;
    const { random, processor } = layout;
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
      paging,
      nxe: (control.efer & bit(11)) !== 0n,
      shadowStacks: cet,
      second: false,
    };
    layout.pdptOffset = 32 * random.below(128);
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
      pdptes: [entries.pdpte(), entries.pdpte(), entries.pdpte(), entries.pdpte()],
      secondStage,
    };
    return { processor, paging, machine, indexes: layout.linearIndexes };
  }

  private controlRegisters(paging: Paging): { cr0: bigint; cr4: bigint; efer: bigint; pkru: bigint; pkrs: bigint } {
    const { layout } = this;
    const { random } = layout;
    const long = paging === '4-level' || paging === '5-level';
    let cr0 = bit(0) | bit(4) | layout.flags([0.6, 16]);
    if (paging !== 'off') cr0 |= bit(31);
    // PSE, PGE, SMEP, SMAP, PKE, CET, PKS; outside their modes they are ignored.
    let cr4 = layout.flags([0.6, 4], [0.4, 7], [0.35, 20], [0.35, 21], [0.35, 22], [0.3, 24]);
    if (paging !== 'off') cr4 |= layout.flags([0.3, 23]);
    if (paging === 'pae' || long || (paging === 'off' && random.chance(0.5))) cr4 |= bit(5);
    if (paging === '5-level' || (!long && random.chance(0.2))) cr4 |= bit(12);
    if (long) cr4 |= layout.flags([0.3, 17]);
    if ((cr4 & bit(23)) !== 0n) cr0 |= bit(16);
    let efer = layout.flags([0.75, 11], [0.5, 0]);
    if (long) efer |= BigInt(EFER_LME | EFER_LMA);
    // Mostly zero: a random register forbids three keys out of four.
    const keys = (): bigint =>
      random.chance(0.3) ? 0n : BigInt((random.uint32() & random.uint32() & random.uint32()) >>> 0);
    return { cr0, cr4, efer, pkru: keys(), pkrs: keys() };
  }

  private guestRoot(paging: Paging): bigint {
    const { layout } = this;
    const { random } = layout;
    const top = levelsOf(paging);
    const long = top >= 4;
    const frame = layout.tableFrame(top, Math.max(top, 1), !long);
    const low = paging === 'pae' ? layout.pdptOffset : random.below(PAGE);
    return BigInt(frame) * 0x1000n + BigInt(low) + layout.beyond32(long);
  }

  private fillGuestTables(format: Format, pdptesInMemory: boolean): void {
    const { layout, entries } = this;
    const top = levelsOf(format.paging);
    for (const gib of layout.gibs) {
      layout.keys.forEach((key, at) => {
        const base = (gib * GIB + key) * PAGE;
        const level = layout.levelOfKey(at, top);
        if (format.paging === '32-bit') {
          for (const index of layout.indexes10(layout.linearIndexes, level)) {
            this.store(base + 4 * index, entries.entry4(level), 4);
          }
        } else if (level === 3 && format.paging === 'pae') {
          if (!pdptesInMemory) return;
          for (let i = 0; i < 4; i++) this.store(base + layout.pdptOffset + 8 * i, entries.pdpteInMemory(false), 8);
        } else {
          for (const index of layout.linearIndexes) this.store(base + 8 * index, entries.entry8(format, level), 8);
        }
      });
    }
  }

  private buildEpt(): PlainMachine['secondStage'] {
    const { layout } = this;
    const { random, processor } = layout;
    const top = random.chance(0.3) ? 5 : 4;
    const root = layout.takeSecondFrames(top, false);
    const mbec = random.chance(0.4);
    const accessedDirty = random.chance(0.5);
    for (let level = top; level >= 1; level--) {
      for (const frame of layout.secondFrames[level]!) {
        for (const index of layout.allIndexes) {
          this.store(frame * PAGE + 8 * index, this.entries.entryEpt(level, index), 8);
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

  private buildNpt(): PlainMachine['secondStage'] {
    const { layout } = this;
    const { random } = layout;
    const paging = random.weighted<Paging>([
      [1, '32-bit'],
      [1, 'pae'],
      [3, '4-level'],
      [2, '5-level'],
    ]);
    const top = levelsOf(paging);
    const root = layout.takeSecondFrames(top, paging === '32-bit');
    // An entry of 4 bytes within one of 8 that the same walk writes back: only a processor's locked compare would tell.
    if (paging === '32-bit') layout.mayAlias = false;
    const nxe = random.chance(0.7);
    const format: Format = { paging, nxe, shadowStacks: false, second: true };
    const pdptOffset = 32 * random.below(128);
    for (let level = top; level >= 1; level--) {
      for (const frame of layout.secondFrames[level]!) this.fillNptTable(format, frame * PAGE, level, pdptOffset);
    }
    // Bits of the host's CR4 that play no part are there to show that they do not.
    let hostCr4 = layout.flags([0.6, 4], [0.4, 7], [0.4, 20], [0.4, 21], [0.3, 22]);
    if (paging !== '32-bit') hostCr4 |= bit(5);
    if (paging === '5-level') hostCr4 |= bit(12);
    let hostEfer = bit(12) | (nxe ? bit(11) : 0n);
    if (top >= 4) hostEfer |= BigInt(EFER_LME | EFER_LMA);
    const low = paging === 'pae' ? pdptOffset : random.below(PAGE);
    const ncr3 = BigInt(root) * 0x1000n + BigInt(low) + layout.beyond32(top >= 4);
    return { kind: 'npt', ncr3, hostCr4, hostEfer, gmet: random.chance(0.3) };
  }

  private fillNptTable(format: Format, base: number, level: number, pdptOffset: number): void {
    const { layout, entries } = this;
    const { random } = layout;
    if (format.paging === '32-bit') {
      for (const index of layout.indexes10(layout.allIndexes, level)) {
        let value = entries.entry4(level, true);
        if (level === 1) value = (value & 0xfffn) | (BigInt(layout.secondLeaf(1, index, true) % GIB) << 12n);
        if (level === 1) value |= (BigInt(random.pick(layout.gibs.slice(0, 2))) << 30n) & 0xffff_ffffn;
        this.store(base + 4 * index, value, 4);
      }
    } else if (level === 3 && format.paging === 'pae') {
      for (let i = 0; i < 4; i++) {
        const flags = entries.pdpteInMemory(false) & ~(bit(52) - bit(12));
        this.store(base + pdptOffset + 8 * i, flags | (BigInt(random.pick(layout.secondFrames[2]!)) << 12n), 8);
      }
    } else {
      for (const index of layout.allIndexes) {
        let value = entries.entry8(format, level);
        const large = (value & bit(7)) !== 0n;
        const to =
          level === 1 || large ? layout.secondLeaf(level, index, false) : random.pick(layout.secondFrames[level - 1]!);
        if (!layout.odd(0.02)) value = (value & ~(bit(52) - bit(12))) | (BigInt(to) << 12n);
        this.store(base + 8 * index, value, 8);
      }
    }
  }
}
