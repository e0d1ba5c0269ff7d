/**
 * Which outcomes the architecture allows when the tables changed and not everything was invalidated: for each entry of
 * the walk any value that it had since its last invalidation, mixed across levels (design §4, TLB truth).
 *
 * The walk itself is the one and only: memory is dressed with the earlier values and walked again, without A/D.
 */

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
import { Check } from '../paging/page-walk.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import type { BareMachine } from './bare.ts';
import type { CachedEntry, Version } from './history.ts';

/** Entries of one walk that may be out of date together: more than any walk reads. */
const MAXIMUM_DEPTH = 35;

/** Walks that one judgement may take. */
const MAXIMUM_WALKS = 4096;

export type Lawful =
  | { readonly kind: 'none' }
  | { readonly kind: 'allowed'; readonly level: number; readonly replacedAt: number }
  | { readonly kind: 'invalidated'; readonly invalidatedAt: number; readonly level: number }
  | { readonly kind: 'undetermined'; readonly why: string };

const X86_AD = (1 << 5) | (1 << 6);
const EPT_AD = (1 << 8) | (1 << 9);

interface Alternative {
  /** Physical address of the 8-byte word. */
  readonly addressLo: number;
  readonly addressHi: number;
  readonly level: number;
  readonly version: Version;
  readonly invalidatedAt: number | undefined;
}

/** An entry of the walk just made, taken from its observation row. */
interface Read {
  /** Physical address of the 8-byte word. */
  readonly addressLo: number;
  readonly addressHi: number;
  readonly level: number;
  readonly secondStage: boolean;
  readonly fourBytes: boolean;
}

export class LawfulOutcomes {
  private readonly machine: BareMachine;
  private walks = 0;

  constructor(machine: BareMachine) {
    this.machine = machine;
  }

  /**
   * Looks for a lawful mixture of earlier values under which `wanted` holds of the machine's log. Leaves the machine
   * as it was but for its log.
   */
  judge(op: number, lo: number, hi: number, wanted: () => boolean): Lawful {
    this.walks = 0;
    const allowed = this.search(op, lo, hi, wanted, [], 0, (each) => each.invalidatedAt === undefined, MAXIMUM_DEPTH);
    if (allowed === 'too many') return { kind: 'undetermined', why: 'too many mixtures of earlier values' };
    if (allowed !== undefined) {
      const last = allowed[allowed.length - 1]!;
      return { kind: 'allowed', level: last.level, replacedAt: last.version.replacedAt };
    }
    // Not lawful. Would one value more, which was invalidated, explain it? That makes a better report.
    const late = this.search(op, lo, hi, wanted, [], 0, () => true, 1);
    if (late !== undefined && late !== 'too many') {
      const [{ invalidatedAt, level }] = late as [Alternative];
      if (invalidatedAt !== undefined) return { kind: 'invalidated', invalidatedAt, level };
    }
    this.machine.probe(op, lo, hi);
    const { history } = this.machine;
    if (this.readsOfLog().some((read) => history.isIncomplete(read.addressLo, read.addressHi))) {
      return { kind: 'undetermined', why: 'the history of entries and invalidations was too long to be kept' };
    }
    return { kind: 'none' };
  }

  /** Depth-first through mixtures of at most `depth` values that `usable` admits; the first that is wanted. */
  private search(
    op: number,
    lo: number,
    hi: number,
    wanted: () => boolean,
    chosen: readonly Alternative[],
    from: number,
    usable: (alternative: Alternative) => boolean,
    depth: number,
  ): readonly Alternative[] | 'too many' | undefined {
    if (++this.walks > MAXIMUM_WALKS) return 'too many';
    const { reads, lawful } = this.walkWith(chosen, op, lo, hi);
    if (lawful && chosen.length > 0 && wanted()) return chosen;
    if (chosen.length === depth) return undefined;
    for (let i = from; i < reads.length; i++) {
      for (const alternative of this.alternatives(reads[i]!, lo, hi)) {
        if (!usable(alternative) || chosen.some((each) => sameWord(each, alternative))) continue;
        const found = this.search(op, lo, hi, wanted, [...chosen, alternative], i + 1, usable, depth);
        if (found !== undefined) return found;
      }
    }
    return undefined;
  }

  /** Walks with the chosen values in place. Not lawful: it ended at a chosen entry that could never be cached. */
  private walkWith(
    chosen: readonly Alternative[],
    op: number,
    lo: number,
    hi: number,
  ): { reads: Read[]; lawful: boolean } {
    const { machine } = this;
    const { memory } = machine;
    const kept = chosen.map((each) =>
      memory.exchange(each.addressLo, each.addressHi, each.version.lo, each.version.hi),
    );
    machine.probe(op, lo, hi);
    for (let i = chosen.length - 1; i >= 0; i--) {
      memory.exchange(chosen[i]!.addressLo, chosen[i]!.addressHi, kept[i]!.lo, kept[i]!.hi);
    }
    const reads = this.readsOfLog();
    const failed = machine.failedWalk();
    let lawful = true;
    if (failed !== null && failed.faultCheck !== Check.PERMISSION) {
      const last = reads[reads.length - 1];
      lawful = last === undefined || !chosen.some((each) => sameWord(each, last));
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
      });
    }
    return reads;
  }

  private alternatives(read: Read, lo: number, hi: number): Alternative[] {
    const { contexts, history } = this.machine;
    const ad = read.secondStage && this.machine.tdpWalk?.ept ? EPT_AD : X86_AD;
    const seen: Version[] = [];
    for (const version of history.earlier(read.addressLo, read.addressHi)) {
      // Accessed and dirty bits decide about no outcome: the latest of values that differ in nothing else will do.
      const known = seen.some((each) => each.hi === version.hi && ((each.lo ^ version.lo) & ~ad) === 0);
      if (!known) seen.push(version);
    }
    return seen.map((version) => {
      const large = (version.lo & (1 << 7)) !== 0 && read.level > 1;
      const leaf = read.level === 1 || large;
      const entry: CachedEntry = {
        secondStage: read.secondStage,
        leaf,
        global: leaf && (version.lo & (1 << 8)) !== 0,
        asid: contexts.asid,
        pcid: contexts.pcid,
        ep4ta: contexts.ep4ta,
        lo,
        hi,
        pageShift: read.level === 1 ? 12 : read.fourBytes ? 22 : read.level === 2 ? 21 : 30,
      };
      return {
        addressLo: read.addressLo,
        addressHi: read.addressHi,
        level: read.level,
        version,
        invalidatedAt: history.invalidatedAt(version, entry),
      };
    });
  }
}

function sameWord(
  a: { readonly addressLo: number; readonly addressHi: number },
  b: { readonly addressLo: number; readonly addressHi: number },
): boolean {
  return a.addressLo === b.addressLo && a.addressHi === b.addressHi;
}
