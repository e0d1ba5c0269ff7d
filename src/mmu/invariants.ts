/**
 * What must hold of an MMU's tables between any two steps, whatever the guest, the host and the hypervisor did
 * (facts/kvm-mmu.md §6.11, §6.12, §8.2; facts/kvm-6.1.md §2): of the tables for a guest, and of those that shadow its
 * own EPT or NPT while it is a hypervisor. Looked at only under a debug switch; nothing is changed.
 *
 * What pages know of each other is read anew each time. Entries are read again only where a table, the guest's table
 * that it shadows, or the host has changed since they were found in order: a comparison of memory says so, not those
 * whom the check is to supervise.
 */

import { smm } from '../paging/kvm-roles.ts';
import { type Inspected, Look } from './invariants-look.ts';
import { checkEntry } from './invariants-of-entries.ts';
import { checkParents, checkUnsync, ReverseMapCheck } from './invariants-of-links.ts';
import { checkCounters, checkLists } from './invariants-of-lists.ts';
import { checkProtection } from './invariants-of-protection.ts';
import { checkRoots } from './invariants-of-roots.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';

/** Every invariant that does not hold, as a sentence; empty: all hold. */
export function checkInvariants(inspected: Inspected): string[] {
  return new InvariantChecker(inspected).check();
}

/** Leaves, and entries that lead to tables. */
interface Counts {
  readonly leaves: number;
  readonly links: number;
}

/** A table as it was when its entries were found in order. */
interface Snapshot extends Counts {
  readonly words: Buffer;
  /** The guest's table and rights as last mapped; null for direct tables. */
  readonly guest: Buffer | null;
  readonly accesses: Buffer | null;
  readonly excused: boolean;
  readonly generation: number;
  readonly invalidations: number;
}

const PAGE_BYTES = 4096;

/** Checks the same tables again and again. */
export class InvariantChecker {
  private readonly inspected: Inspected;
  private readonly snapshots = new Map<ShadowPage, Snapshot>();
  private readonly reverseMap = new ReverseMapCheck();
  /** All of memory as bytes; `words` may have been replaced since. */
  private bytes: Buffer = Buffer.alloc(0);

  constructor(inspected: Inspected) {
    this.inspected = inspected;
  }

  /** Every invariant that does not hold now, as a sentence. */
  check(): string[] {
    const look = new Look(this.inspected);
    checkLists(look);
    checkRoots(look);
    const { leaves, links } = this.entries(look);
    this.reverseMap.check(look, leaves);
    checkParents(look, links);
    checkUnsync(look);
    checkProtection(look);
    checkCounters(look);
    return look.found;
  }

  /** Counts those of all tables; leaves of the legacy MMU's only. */
  private entries(look: Look): Counts {
    const { words } = look.host.memory;
    if (this.bytes.buffer !== words.buffer) this.bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength);
    const present = new Set(look.all);
    for (const sp of this.snapshots.keys()) if (!present.has(sp)) this.snapshots.delete(sp);
    let leaves = 0;
    let links = 0;
    for (const sp of look.all) {
      const counts = this.stillInOrder(look, sp) ?? this.entriesOf(look, sp);
      leaves += sp.tdp ? 0 : counts.leaves;
      links += counts.links;
    }
    return { leaves, links };
  }

  private stillInOrder(look: Look, sp: ShadowPage): Snapshot | null {
    const then = this.snapshots.get(sp);
    const { generation, invalidations } = look.host;
    if (then === undefined || then.generation !== generation || then.invalidations !== invalidations) return null;
    if (then.excused !== isExcused(look, sp) || !this.isSame(then.words, sp.page * PAGE_BYTES)) return null;
    if (then.accesses !== null && then.accesses.compare(sp.accesses!) !== 0) return null;
    const guest = guestTable(look, sp);
    if (then.guest === null ? guest >= 0 : guest < 0 || !this.isSame(then.guest, guest)) return null;
    return then;
  }

  private isSame(then: Buffer, at: number): boolean {
    return this.bytes.compare(then, 0, PAGE_BYTES, at, at + PAGE_BYTES) === 0;
  }

  private copy(at: number): Buffer {
    return Buffer.from(this.bytes.subarray(at, at + PAGE_BYTES));
  }

  private entriesOf(look: Look, sp: ShadowPage): Counts {
    const { pages, host, found } = look;
    const { words } = host.memory;
    const before = found.length;
    const first = sp.page << 10;
    let leaves = 0;
    let links = 0;
    for (let index = 0; index < ENTRIES; index++) {
      const lo = words[first + 2 * index]!;
      const hi = words[first + 2 * index + 1]!;
      if (lo === 0 && hi === pages.format.emptyHi) continue;
      const kind = checkEntry(look, sp, index, lo, hi);
      if (kind === 'leaf') leaves++;
      else if (kind === 'link') links++;
    }
    if (found.length > before) this.snapshots.delete(sp);
    else this.remember(look, sp, { leaves, links });
    return { leaves, links };
  }

  private remember(look: Look, sp: ShadowPage, counts: Counts): void {
    const guest = guestTable(look, sp);
    this.snapshots.set(sp, {
      ...counts,
      words: this.copy(sp.page * PAGE_BYTES),
      guest: guest < 0 ? null : this.copy(guest),
      accesses: sp.accesses === null ? null : Buffer.from(sp.accesses),
      excused: isExcused(look, sp),
      generation: look.host.generation,
      invalidations: look.host.invalidations,
    });
  }
}

/** Byte offset of the guest's table that a page shadows; -1: it shadows none, or none that can be read. */
function guestTable(look: Look, sp: ShadowPage): number {
  return look.pages.hasGptes(sp) ? look.host.pageIndexOf(sp.gfn, smm(sp.role)) * 4 : -1;
}

function isExcused(look: Look, sp: ShadowPage): boolean {
  return sp.unsync || look.unnoticed(sp.gfn);
}
