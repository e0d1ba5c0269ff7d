/**
 * Accessed and dirty bits of a guest on KVM against those of the same guest on a bare processor: in its own tables and,
 * if it is a hypervisor itself, in the EPT or NPT tables that it made for its guest (`same-guest.ts`). They may be apart
 * where an access lawfully went another way on KVM, or where a translation with them could be cached, so that nobody
 * walked.
 */

import { hexText } from '../bits/word64.ts';
import { Dim, OBS_FOUR_BYTES, OBS_KIND_MASK, Obs, observationDim, observationLevel } from '../formats/observation.ts';
import { CR4_PGE, Reg } from '../formats/registers.ts';
import type { BareMachine } from '../machine/bare.ts';
import { type History, wordNumber } from '../machine/history.ts';
import type { Machine } from '../machine/machine.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { EntryFlags, FlagBits } from './entry-flags.ts';
import type { SeenAccess } from './guest-twin.ts';

/** Accessed and dirty: in guest and NPT entries of every format, in EPT entries. */
const X86_AD = (1 << 5) | (1 << 6);
const EPT_AD = (1 << 8) | (1 << 9);
const PML_ENTRIES = 512;
const ENTRY_PS = 1 << 7;
const ENTRY_GLOBAL = 1 << 8;

/** An entry that the guest on KVM should have as it is elsewhere. */
export interface ComparedEntry {
  /** An observation word that gives the entry's size, level and dimension. */
  readonly row: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly want: readonly [lo: number, hi: number];
  /** `on the bare machine`. */
  readonly whose: string;
}

/** A difference in words, and the part of its group's name after the step's. */
export interface EntryDifference {
  readonly cause: string;
  readonly group: string;
}

export class GuestEntries {
  private readonly bare: BareMachine;
  private readonly guest: Machine;
  private readonly history: History;
  /** Accessed and dirty bits that a legal difference has left apart, by number of the word that they are in. */
  private readonly apart = new Map<number, number>();
  /** Entries that the bare machine set A or D in. */
  compared = 0;
  /** Of them those that KVM did not set A or D in: a translation with these bits could still be cached. */
  stale = 0;
  /** In this step bits have been left apart, or entries were used whose bits were. */
  private apartNow = false;
  /** 8-byte words compared, and those that differ in A and D, for reasons that were given before. */
  words = 0;
  wordsInAd = 0;

  /** `history`: what the guest on KVM may still have cached. */
  constructor(bare: BareMachine, guest: Machine, history: History) {
    this.bare = bare;
    this.guest = guest;
    this.history = history;
  }

  /** A step is being compared. */
  begin(): void {
    this.apartNow = false;
  }

  /** Of the entry that observation word `row` tells of, A and D may be set on one side alone from here on. */
  leaveApart(row: number, lo: number, hi: number): void {
    this.leaveBitsApart(lo, hi, adBits(row));
  }

  private leaveBitsApart(lo: number, hi: number, bits: number): void {
    const word = wordNumber(lo, hi);
    this.apart.set(word, (this.apart.get(word) ?? 0) | bits);
    this.apartNow = true;
  }

  /**
   * Where KVM's walker has set A or D in the last step and the bare machine has not: lawful if the access may set them. If not, the difference stays one, which the comparison at the end will find.
   */
  noteKvmWrites(access: SeenAccess, flags: EntryFlags): void {
    flags.forEachSetByKvm(access, this.guest.log, (addressLo, addressHi) => {
      if (this.apart.has(wordNumber(addressLo, addressHi))) this.apartNow = true;
      const [have] = this.guest.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
      const bits = have & ~this.bare.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi)[0] & (X86_AD | EPT_AD);
      if (bits !== 0 && flags.maySet(access, { addressLo, addressHi, bits })) {
        this.leaveBitsApart(addressLo, addressHi, bits);
      }
    });
  }

  /**
   * What is logged of dirty flags lies apart only where these do: then the guest on KVM takes over the log as it is on the
   * bare machine, `indexBefore` being PML_INDEX before the step. Otherwise what is wrong with the index, or undefined.
   */
  followLog(indexBefore: number): string | undefined {
    const { bare, guest } = this;
    const [want, have] = [bare.registers[2 * Reg.PML_INDEX]!, guest.registers[2 * Reg.PML_INDEX]!];
    if (want === have && !this.apartNow) return undefined;
    if (!this.apartNow) {
      return `the page-modification log's index is ${hexText(have, 0)} on KVM, ${hexText(want, 0)} on the bare machine`;
    }
    for (const end of [want, have]) this.takeLogged(indexBefore, end);
    if (want !== have) guest.setRegister(Reg.PML_INDEX, want, 0);
    return undefined;
  }

  /** The guest on KVM takes over what the bare machine has in its log from index `from` down to `end`, which is not in it. */
  takeLogged(from: number, end: number): void {
    const { bare, guest } = this;
    const [baseLo, baseHi] = [bare.registers[2 * Reg.PML_ADDRESS]!, bare.registers[2 * Reg.PML_ADDRESS + 1]!];
    for (let index = from; index !== end && index < PML_ENTRIES; index = (index - 1) & 0xffff) {
      const lo = baseLo | (index << 3);
      guest.adoptEntry(Obs.ENTRY_AFTER, lo, baseHi, ...bare.readEntry(Obs.ENTRY_AFTER, lo, baseHi));
    }
  }

  /** The same for what the bare machine wrote in the last step: it is none of the way that the access took on KVM. */
  leaveBareWrites(): void {
    this.forEachWrite((row, lo, hi) => this.leaveApart(row, lo, hi));
  }

  /**
   * Where the bare machine has set A and D bits in the last step, an access of `lo`, `hi`, the guest on KVM must have
   * them, too, unless it `avoids` to set them.
   */
  compareWrites(
    lo: number,
    hi: number,
    avoids: (entry: FlagBits) => boolean,
    differs: (difference: EntryDifference) => void,
  ): void {
    this.forEachWrite((row, addressLo, addressHi) => {
      const want = this.bare.readEntry(row, addressLo, addressHi);
      this.compared++;
      const [have] = this.guest.readEntry(row, addressLo, addressHi);
      const difference = this.compare({ row, addressLo, addressHi, want, whose: 'on the bare machine' }, lo, hi);
      if (difference === undefined) return;
      if (!avoids({ addressLo, addressHi, bits: have ^ want[0] })) differs(difference);
      else this.stale++;
    });
  }

  private forEachWrite(each: (row: number, addressLo: number, addressHi: number) => void): void {
    const { log } = this.bare;
    for (let i = 0; i < log.count; i++) {
      const row = log.op(i);
      if ((row & OBS_KIND_MASK) !== Obs.ENTRY_WRITE) continue;
      each(row, log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }

  /** What is wrong with an entry that the access of `lo`, `hi` used, or undefined. */
  compare(entry: ComparedEntry, lo: number, hi: number): EntryDifference | undefined {
    const { row, addressLo, addressHi, want, whose } = entry;
    const have = this.guest.readEntry(row, addressLo, addressHi);
    const word = wordNumber(addressLo, addressHi);
    if (this.apart.has(word)) this.apartNow = true;
    const differing = (have[0] ^ want[0]) >>> 0;
    if (differing === 0 && have[1] === want[1]) {
      this.apart.delete(word);
      return undefined;
    }
    if ((differing & ~adBits(row)) === 0 && have[1] === want[1]) {
      if ((differing & ~(this.apart.get(word) ?? 0)) === 0) return undefined;
      const lacks = (differing & have[0]) === 0;
      if (lacks && (this.mayBeCached(entry, differing, lo, hi) || this.isAboveGlobal(row))) {
        this.stale++;
        this.leaveApart(row, addressLo, addressHi);
        return undefined;
      }
    }
    const [at, value, other] = [hexText(addressLo, addressHi), hexText(...have), hexText(...want)];
    this.leaveApart(row, addressLo, addressHi);
    const name = NAMES[observationDim(row)] ?? 'entry';
    return {
      cause: `the guest's ${name} at ${at} is ${value} on KVM, ${other} ${whose}`,
      group: `guest ${name} differs`,
    };
  }

  /**
   * Whether the entry had these bits when a translation through it could be cached that nothing has invalidated: then
   * nobody walked, and nobody set them again (SDM vol. 3A 4.10.2.3, 4.10.4.3, vol. 3C 29.4.2).
   */
  private mayBeCached({ row, addressLo, addressHi }: ComparedEntry, bits: number, lo: number, hi: number): boolean {
    const { history } = this;
    const { asid, pcid, ep4ta } = this.bare.contexts;
    const level = observationLevel(row);
    const secondStage = observationDim(row) !== Dim.GUEST;
    const fourBytes = (row & OBS_FOUR_BYTES) !== 0;
    const upper = fourBytes && (addressLo & 4) !== 0;
    const pge = (this.bare.register(Reg.CR4) & CR4_PGE) !== 0;
    return history.earlier(addressLo, addressHi).some((version) => {
      const value = upper ? version.hi : version.lo;
      if ((value & bits) !== bits) return false;
      const leaf = level === 1 || (value & ENTRY_PS) !== 0;
      const global = !secondStage && leaf && pge && (value & ENTRY_GLOBAL) !== 0;
      const pageShift = fourBytes && level === 2 ? 22 : 3 + 9 * level;
      const cached = { secondStage, leaf, global, asid, pcid, ep4ta, lo, hi, pageShift };
      return history.firstRemoval(version.replacedAt, cached) === undefined;
    });
  }

  /**
   * KVM's TLB served the access by a global translation: it may have been cached under another root, and no entry above
   * the leaf was read for it (SDM vol. 3A 4.10.2.4).
   */
  private isAboveGlobal(row: number): boolean {
    if (observationDim(row) !== Dim.GUEST) return false;
    if (!this.guest.servedByTlb || (this.bare.register(Reg.CR4) & CR4_PGE) === 0) return false;
    const { log } = this.bare;
    for (let i = log.count - 1; i >= 0; i--) {
      const op = log.op(i);
      if ((op & OBS_KIND_MASK) !== Obs.ELEMENT || observationDim(op) !== Dim.GUEST) continue;
      return observationLevel(row) > observationLevel(op) && (log.rows[i * ROW + ROW_VALUE_LO]! & ENTRY_GLOBAL) !== 0;
    }
    return false;
  }

  /** All that anybody ever wrote to the guest's memory, at the end. `differs` gets the address and the cause. */
  compareMemory(differs: (addressLo: number, addressHi: number, cause: string) => void): void {
    for (const frame of this.bare.memory.frames()) {
      const hi = Math.floor(frame / 0x10_0000);
      const base = (frame % 0x10_0000) << 12;
      for (let at = 0; at < 0x1000; at += 8) {
        const cause = this.wordDifference(base | at, hi);
        if (cause !== undefined) differs(base | at, hi, cause);
      }
    }
  }

  private wordDifference(addressLo: number, addressHi: number): string | undefined {
    const [lo, hi] = this.bare.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
    const [kvmLo, kvmHi] = this.guest.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
    this.words++;
    if (lo === kvmLo && hi === kvmHi) return undefined;
    const apart = this.apart.get(wordNumber(addressLo, addressHi)) ?? 0;
    // Two entries of 4 bytes share a word; those of EPT have 8.
    if (((lo ^ kvmLo) & ~apart) === 0 && ((hi ^ kvmHi) & ~(apart & X86_AD)) === 0) {
      this.wordsInAd++;
      return undefined;
    }
    const at = hexText(addressLo, addressHi);
    return `at the end guest memory at ${at} is ${hexText(kvmLo, kvmHi)} on KVM, ${hexText(lo, hi)} on the bare machine`;
  }
}

const NAMES: Readonly<Record<number, string>> = {
  [Dim.GUEST]: 'entry',
  [Dim.EPT]: 'EPT entry',
  [Dim.NPT]: 'NPT entry',
};

/** The accessed and dirty bits of the entry that an observation word tells of. */
function adBits(row: number): number {
  return observationDim(row) === Dim.EPT ? EPT_AD : X86_AD;
}
