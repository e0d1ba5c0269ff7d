/**
 * Which outcomes the architecture allows when the tables changed and not everything was invalidated: for each entry of
 * the walk any value that it had since its last invalidation, mixed across levels (design §4, TLB truth).
 *
 * The walk itself is the one and only: memory is dressed with the earlier values and walked again, without A/D.
 */

import type { Word64 } from '../bits/word64.ts';
import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { CR4_PGE, CR4_PSE, Reg } from '../formats/registers.ts';
import { Check } from '../paging/page-walk.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { BareMachine } from './bare.ts';
import type { CachedEntry, EarlierRoot } from './history.ts';
import type { Memory } from './memory.ts';

/** Walks that one judgement may take. */
const MAXIMUM_WALKS = 4096;

export type Lawful =
  | { readonly kind: 'none' }
  | { readonly kind: 'allowed'; readonly level: number; readonly replacedAt: number }
  | { readonly kind: 'invalidated'; readonly invalidatedAt: number; readonly level: number }
  | { readonly kind: 'undetermined'; readonly why: string };

const LEAF_GLOBAL = 1 << 8;
const ACCESSED = 1 << 5;
const ENTRY_PS = 1 << 7;
const X86_AD = (1 << 5) | (1 << 6);
const EPT_AD = (1 << 8) | (1 << 9);

/** An entry of the walk just made, taken from its observation row. */
interface Read {
  /** Physical address of the 8-byte word that it is or is in. */
  readonly addressLo: number;
  readonly addressHi: number;
  readonly level: number;
  readonly secondStage: boolean;
  readonly fourBytes: boolean;
  /** An entry of 4 bytes in the upper half of its word. */
  readonly upper: boolean;
  /** The entry as read; of 4 bytes, `valueHi` means nothing. */
  readonly valueLo: number;
  readonly valueHi: number;
}

interface Alternative {
  readonly read: Read;
  /** Low and high half of the entry; only the low one counts for entries of 4 bytes. */
  readonly lo: number;
  readonly hi: number;
  readonly since: number;
  readonly replacedAt: number;
}

/** What a judgement looks for, with how many earlier values at once. */
interface Question {
  /** Word of the access; null: PDPTEs are loaded, from the table at `lo`:`hi`. */
  readonly op: number | null;
  readonly lo: number;
  readonly hi: number;
  readonly wanted: () => boolean;
  readonly depth: number;
  /** The root that the translation was made with, if it is not the one in force. */
  readonly root?: EarlierRoot;
}

/** Whether a mixture may still be cached: always so far, or until an invalidation. */
type Lifetime = 'alive' | { readonly invalidatedAt: number } | 'never';

export class LawfulOutcomes {
  private readonly machine: BareMachine;
  /** Accessed and dirty flags of the guest's own that a walk has set in an entry of EPT are not noticed by any invalidation. */
  untrackedFlags = false;
  private walks = 0;
  /** Translations by the second stage in the last walk made. */
  private translations = 0;
  /** The simplest mixture found that an invalidation has ended, and how many values it takes. */
  private late: Lawful | undefined;
  private lateSize = 0;

  constructor(machine: BareMachine) {
    this.machine = machine;
  }

  /**
   * Looks for a lawful mixture of earlier values under which `wanted` holds of the machine's log. Leaves the machine
   * as it was but for its log.
   */
  judge(op: number, lo: number, hi: number, wanted: () => boolean): Lawful {
    this.walks = 0;
    this.late = undefined;
    const question = { op, lo, hi, wanted, depth: Number.POSITIVE_INFINITY };
    const allowed = this.search(question, [], 0);
    if (allowed === 'too many') {
      this.walks = 0;
      // Earlier roots by themselves are soon tried.
      const byRoot = this.searchEarlierRoots({ ...question, depth: 0 });
      return byRoot ?? { kind: 'undetermined', why: 'too many mixtures of earlier values' };
    }
    if (allowed !== undefined) {
      const last = allowed[allowed.length - 1]!;
      return { kind: 'allowed', level: last.read.level, replacedAt: last.replacedAt };
    }
    const older = this.searchEarlierRoots(question);
    if (older !== undefined) return older;
    // Not lawful. Would one value, or two, that were invalidated explain it? That makes a better report.
    this.walks = 0;
    this.search({ op, lo, hi, wanted, depth: 2 }, [], 0);
    if (this.late !== undefined) return this.late;
    this.machine.probe(op, lo, hi);
    const { history } = this.machine;
    if (this.readsOfLog().some((read) => history.isIncomplete(read.addressLo, read.addressHi))) {
      return { kind: 'undetermined', why: 'the history of entries and invalidations was too long to be kept' };
    }
    return { kind: 'none' };
  }

  /** The same of loading PDPTEs, whose table the second stage may have mapped elsewhere before: what it holds is read anew. */
  allowsPdptes(lo: number, hi: number, wanted: () => boolean): boolean {
    this.walks = 0;
    const found = this.search({ op: null, lo, hi, wanted, depth: Number.POSITIVE_INFINITY }, [], 0);
    return found !== undefined && found !== 'too many';
  }

  /** Translations that were made with a root that is no longer in force, and outlived it (SDM vol. 3A 4.10.2.4, 4.10.4.1). */
  private searchEarlierRoots(question: Question): Lawful | undefined {
    const { machine } = this;
    const { history, registers } = machine;
    const now = registers.slice();
    const { pcid } = machine.contexts;
    try {
      const { asid, ep4ta } = machine.contexts;
      for (const root of history.roots()) {
        if (root.asid !== asid || root.ep4ta !== ep4ta) continue;
        this.useRoot(root.lo, root.hi, root.pdptes);
        const samePcid = machine.contexts.pcid === pcid;
        const allowed = this.search({ ...question, root }, [], 0);
        if (allowed === 'too many') return { kind: 'undetermined', why: 'too many mixtures of earlier values' };
        if (allowed === undefined) continue;
        // Of another PCID, only what is global serves.
        const leaf = this.walkWith(allowed, question).reads.findLast((each) => !each.secondStage);
        const global = leaf !== undefined && this.cached(leaf, leaf.valueLo, true, question.lo, question.hi).global;
        if (samePcid || global) return { kind: 'allowed', level: leaf?.level ?? 0, replacedAt: root.until };
      }
    } finally {
      this.useRoot(now[2 * Reg.CR3]!, now[2 * Reg.CR3 + 1]!, now.subarray(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8));
    }
    return undefined;
  }

  private useRoot(lo: number, hi: number, pdptes: Uint32Array): void {
    const { machine } = this;
    machine.setRegister(Reg.CR3, lo, hi);
    for (let i = 0; i < 4; i++) machine.setRegister(Reg.PDPTE0 + i, pdptes[2 * i]!, pdptes[2 * i + 1]!);
    machine.configure();
  }

  /** Depth-first through mixtures of earlier values; the first lawful one that is wanted. */
  private search(
    question: Question,
    chosen: readonly Alternative[],
    from: number,
  ): readonly Alternative[] | 'too many' | undefined {
    const { lo, hi, wanted, depth, root } = question;
    if (++this.walks > MAXIMUM_WALKS) return 'too many';
    const { reads, lawful } = this.walkWith(chosen, question);
    const mixed = chosen.length > 0 || root !== undefined;
    const found = lawful && mixed && wanted() ? reads : this.readsOfOtherTranslations(question, chosen);
    if (found !== undefined) {
      const lifetime = this.lifetimeOf(found, chosen, lo, hi, root);
      if (lifetime === 'alive') return chosen;
      // The simplest explanation that came too late makes the better report.
      if (lifetime !== 'never' && chosen.length > 0 && (this.late === undefined || chosen.length < this.lateSize)) {
        const { level } = chosen[chosen.length - 1]!.read;
        this.late = { kind: 'invalidated', invalidatedAt: lifetime.invalidatedAt, level };
        this.lateSize = chosen.length;
      }
    }
    if (chosen.length === depth) return undefined;
    for (let i = from; i < reads.length; i++) {
      if (question.op === null && !reads[i]!.secondStage) continue;
      for (const alternative of this.alternatives(reads[i]!)) {
        if (chosen.some((each) => sameEntry(each.read, alternative.read))) continue;
        if (depth > 2 && this.isGone(alternative, lo, hi)) continue;
        const deeper = this.search(question, [...chosen, alternative], i + 1);
        if (deeper !== undefined) return deeper;
      }
    }
    return undefined;
  }

  /**
   * Within one walk the second stage translates more than one address: what served the first ones may be gone for the
   * others. Entries read so where that gives what is wanted.
   */
  private readsOfOtherTranslations(question: Question, chosen: readonly Alternative[]): readonly Read[] | undefined {
    if (!chosen.some(({ read }) => read.secondStage)) return undefined;
    const all = this.translations;
    for (let served = 1; served < all; served++) {
      const { reads, lawful } = this.walkWith(chosen, question, served);
      if (lawful && question.wanted()) return reads;
    }
    return undefined;
  }

  /** Whether the value is in no lawful mixture any more: dropped, whatever leaf a translation with it had. */
  private isGone(alternative: Alternative, lo: number, hi: number): boolean {
    const { history } = this.machine;
    const { read, lo: entryLo, replacedAt } = alternative;
    // Without CR4.PSE bit 7 means nothing to 32-bit paging (SDM vol. 3A, table 4-5).
    const large = (entryLo & ENTRY_PS) !== 0 && !(read.fourBytes && (this.machine.register(Reg.CR4) & CR4_PSE) === 0);
    if (this.isUntracked(alternative)) return false;
    if (read.secondStage || read.level === 1 || large) {
      return history.firstRemoval(replacedAt, this.cached(read, entryLo, true, lo, hi)) !== undefined;
    }
    const end = history.firstRemoval(replacedAt, this.cached(read, entryLo, false, lo, hi));
    if (end === undefined) return false;
    // The longest-lived leaf is a small global one.
    const leaf = { ...this.cached(read, LEAF_GLOBAL, true, lo, hi), pageShift: 12 };
    return history.firstRemoval(end, leaf) !== undefined;
  }

  private isUntracked({ read, lo, hi }: Alternative): boolean {
    if (!this.untrackedFlags || !read.secondStage || this.machine.tdpWalk?.ept !== true) return false;
    return ((lo ^ read.valueLo) & ~X86_AD) === 0 && hi === read.valueHi;
  }

  /**
   * Whether a processor may still hold the mixture. It may have put it together at any moment when every entry had
   * its value in memory or, above the leaf, in a paging-structure cache; since then it lives in the TLB as a whole
   * (SDM vol. 3A 4.10.2.2), until something drops the leaf's page.
   */
  private lifetimeOf(
    reads: readonly Read[],
    chosen: readonly Alternative[],
    lo: number,
    hi: number,
    root: EarlierRoot | undefined,
  ): Lifetime {
    const { history } = this.machine;
    const leaf = reads.findLast((each) => !each.secondStage) ?? reads[reads.length - 1];
    // A PDPTE register that is not present: nothing was read, and nothing cached.
    if (leaf === undefined) return 'never';
    // The two stages have caches and invalidations of their own: their entries are not held against each other.
    let earliest = -1;
    for (const read of reads) {
      if (read.secondStage) continue;
      const earlier = chosen.find((each) => sameEntry(each.read, read));
      earliest = Math.max(earliest, earlier?.since ?? this.presentSince(read));
    }
    let latest = root?.until ?? Number.POSITIVE_INFINITY;
    let dropped: number | undefined;
    for (const each of chosen) {
      if (each.read.secondStage) {
        if (this.isUntracked(each)) continue;
        dropped ??= history.firstRemoval(each.replacedAt, this.cached(each.read, each.lo, true, lo, hi));
      } else if (sameEntry(each.read, leaf)) {
        latest = Math.min(latest, each.replacedAt);
        if (earliest >= latest) return 'never';
      } else {
        const end = history.firstRemoval(each.replacedAt, this.cached(each.read, each.lo, false, lo, hi));
        if (end !== undefined) latest = Math.min(latest, end);
      }
    }
    if (earliest >= latest) return { invalidatedAt: latest };
    if (dropped === undefined && latest !== Number.POSITIVE_INFINITY) {
      dropped = history.firstRemoval(latest, this.cached(leaf, leaf.valueLo, true, lo, hi));
    }
    return dropped === undefined ? 'alive' : { invalidatedAt: dropped };
  }

  /** Step since which the entry has said what it says now, A and D and the other half of its word apart. */
  private presentSince(read: Read): number {
    const { history } = this.machine;
    const ad = read.secondStage && this.machine.tdpWalk?.ept ? EPT_AD : X86_AD;
    let since = history.presentSince(read.addressLo, read.addressHi);
    for (const version of history.earlier(read.addressLo, read.addressHi)) {
      if (version.replacedAt !== since) break;
      const sameLow = (((read.upper ? version.hi : version.lo) ^ read.valueLo) & ~ad) === 0;
      if (!sameLow || (!read.fourBytes && version.hi !== read.valueHi)) break;
      since = version.since;
    }
    return since;
  }

  /**
   * Walks with the chosen values in place, those of the second stage for the first `served` translations only. Not
   * lawful: it ended at a chosen entry that could never be cached.
   */
  private walkWith(
    chosen: readonly Alternative[],
    { op, lo, hi }: Question,
    served = Number.POSITIVE_INFINITY,
  ): { reads: Read[]; lawful: boolean } {
    const { machine } = this;
    const { memory, tdpWalk } = machine;
    const kept = chosen.map((each) => dress(memory, each));
    const putBack = (all: boolean): void => {
      for (let i = chosen.length - 1; i >= 0; i--) {
        const { addressLo, addressHi, secondStage } = chosen[i]!.read;
        if (all || secondStage) memory.exchange(addressLo, addressHi, kept[i]!.lo, kept[i]!.hi);
      }
    };
    this.translations = 0;
    // Somebody else may watch them, too.
    const before = tdpWalk?.beforeTranslation ?? null;
    if (tdpWalk !== null) {
      tdpWalk.beforeTranslation = () => {
        before?.();
        if (this.translations++ === served) putBack(false);
      };
    }
    if (op === null) machine.probePdptes(lo, hi);
    else machine.probe(op, lo, hi);
    if (tdpWalk !== null) tdpWalk.beforeTranslation = before;
    putBack(true);
    const reads = this.readsOfLog();
    const failed = machine.failedWalk();
    let lawful = true;
    if (failed !== null && failed.faultCheck !== Check.PERMISSION) {
      const last = reads[reads.length - 1];
      lawful = last === undefined || !chosen.some((each) => sameEntry(each.read, last) && each.lo === last.valueLo);
    }
    return { reads, lawful };
  }

  private readsOfLog(): Read[] {
    const { log } = this.machine;
    const reads: Read[] = [];
    for (let i = 0; i < log.count; i++) {
      const op = log.op(i);
      if ((op & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      reads.push({
        addressLo: log.rows[i * ROW + ROW_ADDRESS_LO]! & ~7,
        addressHi: log.rows[i * ROW + ROW_ADDRESS_HI]!,
        level: (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK,
        secondStage: ((op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) !== Dim.GUEST,
        fourBytes: (op & OBS_FOUR_BYTES) !== 0,
        upper: (op & OBS_FOUR_BYTES) !== 0 && (log.rows[i * ROW + ROW_ADDRESS_LO]! & 4) !== 0,
        valueLo: log.rows[i * ROW + ROW_VALUE_LO]!,
        valueHi: log.rows[i * ROW + ROW_VALUE_HI]!,
      });
    }
    return reads;
  }

  /** What else the entry may have been when it was cached. */
  private alternatives(read: Read): Alternative[] {
    const { machine } = this;
    const ad = read.secondStage && machine.tdpWalk?.ept ? EPT_AD : X86_AD;
    const decides = this.adDecides(read);
    const found: Alternative[] = [];
    for (const { lo, hi, since, replacedAt } of machine.history.earlier(read.addressLo, read.addressHi)) {
      const entryLo = read.upper ? hi : lo;
      const entryHi = read.fourBytes ? 0 : hi;
      // A processor caches no entry before it has set its accessed bit (SDM vol. 3A 4.10.2.3); EPT may have none.
      if (ad === X86_AD && (entryLo & ACCESSED) === 0 && !this.isPdpte(read)) continue;
      // What differs from the present value in bits that it lacks leaves no less to be set.
      const lacks = decides && entryHi === (read.fourBytes ? 0 : read.valueHi) && (entryLo & ~read.valueLo) === 0;
      if (lacks && ((entryLo ^ read.valueLo) & ~ad) === 0) continue;
      // Mostly accessed and dirty bits decide about no outcome: the latest of values that differ in nothing else will do.
      const same = found.findIndex((each) => each.hi === entryHi && ((each.lo ^ entryLo) & ~(decides ? 0 : ad)) === 0);
      if (same >= 0) found[same] = { ...found[same]!, since: Math.min(found[same]!.since, since) };
      else found.push({ read, lo: entryLo, hi: entryHi, since, replacedAt });
    }
    return found;
  }

  /** Bits that are still to be set may not find room in the page-modification log, or the entry not writable in EPT. */
  private adDecides({ secondStage }: Read): boolean {
    const second = this.machine.tdpWalk;
    if (second?.ept !== true) return false;
    return secondStage ? second.modificationLog !== null : !second.ad;
  }

  /** PAE's entries of level 3, which have no accessed bit. */
  private isPdpte({ level, secondStage }: Read): boolean {
    const { cpuWalk, tdpWalk } = this.machine;
    const walk = secondStage ? tdpWalk : cpuWalk;
    return level === 3 && walk?.rootLevel === 3 && !walk.ept;
  }

  /** An entry as invalidations see it: as the leaf of a translation in the TLB, or in a paging-structure cache. */
  private cached(read: Read, entryLo: number, leaf: boolean, lo: number, hi: number): CachedEntry {
    const { contexts } = this.machine;
    return {
      secondStage: read.secondStage,
      leaf,
      // G counts while CR4.PGE is set, and every change of PGE drops everything.
      global: leaf && (entryLo & LEAF_GLOBAL) !== 0 && (this.machine.register(Reg.CR4) & CR4_PGE) !== 0,
      asid: contexts.asid,
      pcid: contexts.pcid,
      ep4ta: contexts.ep4ta,
      lo,
      hi,
      pageShift: read.fourBytes && read.level === 2 ? 22 : 3 + 9 * read.level,
    };
  }
}

/** Puts the earlier value in place; returns the word as it was. */
function dress(memory: Memory, { read, lo, hi }: Alternative): Word64 {
  const { addressLo, addressHi, fourBytes, upper } = read;
  if (!fourBytes) return memory.exchange(addressLo, addressHi, lo, hi);
  const word = memory.pageIndex(addressLo, addressHi) + ((addressLo & 0xff8) >>> 2);
  const { words } = memory;
  return upper
    ? memory.exchange(addressLo, addressHi, words[word]!, lo)
    : memory.exchange(addressLo, addressHi, lo, words[word + 1]!);
}

function sameEntry(a: Read, b: Read): boolean {
  return a.addressLo === b.addressLo && a.addressHi === b.addressHi && a.upper === b.upper;
}
