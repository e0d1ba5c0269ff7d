/**
 * Accessed and dirty bits, and what is logged of them, of a guest on KVM against those on a bare processor, while a
 * program runs on both. Where tables are remapped without everybody's knowledge these lawfully come to be apart, and later
 * walks depend on them: once they are, the bare machine takes over what the guest on KVM has.
 */

import { hexText } from '../bits/word64.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import type { FlagBits } from '../replay/entry-flags.ts';
import type { GuestEntries } from '../replay/guest-entries.ts';
import type { GuestExplanations } from '../replay/guest-explanation.ts';
import type { GuestOutcome } from '../replay/guest-outcome.ts';
import { type Program, type ProgramStep, type ProgramTables, X86_ACCESSED_DIRTY } from './program.ts';
import type { Specification } from './specification.ts';

const PAGE = 0x1000;
const SHAPE = 'accessed and dirty bits';

/** What is wrong, and its shape: the same in words without addresses. */
export interface Wrong {
  readonly shape: string;
  readonly text: string;
}

export interface Sides {
  readonly bare: Specification;
  readonly kvm: KvmMachine;
  readonly entries: GuestEntries;
  readonly explanations: GuestExplanations;
}

export class AccessedDirty {
  private readonly sides: Sides;
  private readonly tables: readonly ProgramTables[];
  /** Somebody's second stage may be remapped: bits are compared at every step, not at the end. */
  readonly followed: boolean;

  constructor(sides: Sides, { tables, nested }: Program) {
    this.sides = sides;
    this.tables = tables;
    this.followed = nested === 'npt' || nested === 'ept';
  }

  /**
   * The tables at the end: KVM has set no A or D bit that a processor that walks for every access has not, and they
   * differ in nothing else. With EPT or NPT of L1's either may have set bits in tables where L2's were mapped before, by
   * what it had cached.
   */
  atTheEnd(): Wrong | undefined {
    for (const tables of this.tables) {
      const wrong = this.wrongIn(tables);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  private wrongIn({ frames, entryBytes, accessedDirty }: ProgramTables): Wrong | undefined {
    const { bare, kvm } = this.sides;
    for (const frame of frames) {
      for (let offset = 0; offset < PAGE; offset += 4) {
        const address = frame * PAGE + offset;
        const [expected] = bare.readEntry(0, address, 0);
        const [seen] = kvm.readEntry(0, address, 0);
        const bits = entryBytes === 4 || offset % 8 === 0 ? accessedDirty : 0;
        if (((expected ^ seen) & ~bits) === 0 && (this.followed || (seen & ~expected) === 0)) continue;
        const [is, was] = [hexText(seen, 0), hexText(expected, 0)];
        const text = `the entry at ${hexText(address, 0)} ends as ${was} on a bare processor, ${is} under KVM`;
        return { shape: SHAPE, text };
      }
    }
    return undefined;
  }

  /**
   * After a step that ended alike for both, with `seen`: the bare machine has set bits that KVM need not, if a translation
   * with them may be cached, and KVM's walker has on the way of such a translation.
   */
  afterEqual(each: ProgramStep, seen: GuestOutcome): Wrong | undefined {
    const [byBare, ofBare] = this.writtenByBare(each, seen);
    if (ofBare !== undefined) return ofBare;
    const [byKvm, ofKvm] = this.writtenByKvm(each, seen);
    return ofKvm ?? this.logged(byBare || byKvm);
  }

  /** The same where bits are compared at the end only: those that KVM's walker may have set, the bare machine takes over. */
  takeOverSetByKvm(each: ProgramStep, seen: GuestOutcome): void {
    this.writtenByKvm(each, seen);
  }

  private writtenByBare(each: ProgramStep, seen: GuestOutcome): [followed: boolean, wrong?: Wrong] {
    const { addressLo, addressHi } = each;
    const { bare, kvm, entries } = this.sides;
    let followed = false;
    let wrong: Wrong | undefined;
    this.forEachWrittenByBare((row, lo, hi) => {
      const want = bare.readEntry(row, lo, hi);
      const have = kvm.readEntry(row, lo, hi);
      if (wrong !== undefined || (want[0] === have[0] && want[1] === have[1])) return;
      followed = true;
      const entry = { row, addressLo: lo, addressHi: hi, want, whose: 'on a bare processor' };
      const difference = entries.compare(entry, addressLo | 0, addressHi | 0);
      const unset = { addressLo: lo, addressHi: hi, bits: want[0] ^ have[0] };
      if (difference !== undefined && !this.mayBeApart(each, seen, unset, (want[0] & ~have[0]) !== 0))
        wrong = { shape: SHAPE, text: difference.cause };
      else this.takeOver(lo & ~7, hi, -1);
    });
    return wrong === undefined ? [followed] : [followed, wrong];
  }

  private forEachWrittenByBare(each: (row: number, lo: number, hi: number) => void): void {
    const { log } = this.sides.bare;
    for (let i = 0; i < log.count; i++) {
      const row = log.op(i);
      if ((row & OBS_KIND_MASK) !== Obs.ENTRY_WRITE) continue;
      each(row, log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }

  /** Bits that KVM's walker has set where the bare machine's walk has not been. */
  private writtenByKvm(each: ProgramStep, seen: GuestOutcome): [followed: boolean, wrong?: Wrong] {
    const { bare, kvm, explanations } = this.sides;
    let followed = false;
    let wrong: Wrong | undefined;
    const access = { op: each.op, lo: each.addressLo | 0, hi: each.addressHi | 0, seen };
    explanations.flags.forEachSetByKvm(access, kvm.log, (lo, hi) => {
      const [want] = bare.readEntry(Obs.ENTRY_AFTER, lo, hi);
      const [have] = kvm.readEntry(Obs.ENTRY_AFTER, lo, hi);
      if (want === have || wrong !== undefined) return;
      followed = true;
      if (this.mayBeApart(each, seen, { addressLo: lo, addressHi: hi, bits: want ^ have }, (want & ~have) !== 0)) {
        this.takeOver(lo & ~7, hi, -1);
        return;
      }
      const [is, was] = [hexText(have, 0), hexText(want, 0)];
      const text = `the entry at ${hexText(lo, hi)} is ${is} under KVM, ${was} on a bare processor, and nothing leads there`;
      wrong = { shape: SHAPE, text };
    });
    return wrong === undefined ? [followed] : [followed, wrong];
  }

  /** Whether what is cached explains the bits: those that KVM `lacks`, or those that it has in excess. */
  private mayBeApart(
    { op, addressLo, addressHi }: ProgramStep,
    seen: GuestOutcome,
    bits: FlagBits,
    lacks: boolean,
  ): boolean {
    const { flags } = this.sides.explanations;
    const access = { op, lo: addressLo | 0, hi: addressHi | 0, seen };
    return lacks ? flags.avoids(access, bits) : flags.maySet(access, bits);
  }

  /**
   * After a step that lawfully went another way: A and D bits of all tables may be apart, in those of EPT also the ones of
   * L2's own tables, which may be the same pages; and those that the bare machine has just set, in whatever page.
   */
  afterOther(): void {
    this.forEachWrittenByBare((_row, lo, hi) => this.takeOver(lo & ~7, hi, -1));
    for (const { frames, entryBytes, accessedDirty: own } of this.tables) {
      const accessedDirty = own === 0 ? 0 : own | X86_ACCESSED_DIRTY;
      for (const frame of frames) {
        for (let offset = 0; offset < PAGE; offset += 8)
          this.takeOver(frame * PAGE + offset, 0, accessedDirty, entryBytes);
      }
    }
    this.logged(true);
  }

  /** Takes over the word if it differs in these bits only. */
  private takeOver(lo: number, hi: number, bits: number, entryBytes = 4): void {
    const { bare, kvm } = this.sides;
    const want = bare.readEntry(Obs.ENTRY_AFTER, lo, hi);
    const have = kvm.readEntry(Obs.ENTRY_AFTER, lo, hi);
    const differs = ((want[0] ^ have[0]) & ~bits) !== 0 || ((want[1] ^ have[1]) & ~(entryBytes === 4 ? bits : 0)) !== 0;
    if (!differs) bare.memory.exchange(lo | 0, hi, have[0], have[1]);
  }

  /** What has been logged lies apart only where dirty bits do. */
  logged(apart: boolean): Wrong | undefined {
    const { bare, kvm } = this.sides;
    const want = bare.register(Reg.PML_INDEX);
    const have = kvm.registers[2 * Reg.PML_INDEX]!;
    if (want === have) return undefined;
    if (!apart) {
      const text = `the log's index is ${hexText(have, 0)} under KVM, ${hexText(want, 0)} on a bare processor`;
      return { shape: 'page-modification log', text };
    }
    bare.setRegister(Reg.PML_INDEX, have, 0);
    return undefined;
  }
}
