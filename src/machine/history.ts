/**
 * What a processor may still have cached: the values that paging-structure entries held before, and the
 * invalidations since (SDM vol. 3A 4.10, vol. 3C 29.4; APM vol. 2 5.5, 15.16).
 *
 * Both are bounded. What had to be forgotten is remembered as such, so that a judgement can say "undetermined"
 * instead of guessing.
 */

import type { MemoryWatcher } from './memory.ts';

/** A value that a word held until `replacedAt`. */
export interface Version {
  readonly lo: number;
  readonly hi: number;
  /** Ordinal of the step that replaced it. */
  readonly replacedAt: number;
}

/** A cached translation, or a part of one, as far as invalidations tell them apart. */
export interface CachedEntry {
  /** Of EPT or NPT, not of the guest's own tables. */
  readonly secondStage: boolean;
  readonly leaf: boolean;
  readonly global: boolean;
  /** VPID or ASID. */
  readonly asid: number;
  readonly pcid: number;
  readonly ep4ta: number;
  /** The linear address, and log2 of the page size, for leaves. */
  readonly lo: number;
  readonly hi: number;
  readonly pageShift: number;
}

/** What one event removes; `undefined` = whatever it is. */
export interface InvalidationScope {
  readonly what: 'everything' | 'linear' | 'page' | 'guest-physical' | 'asid';
  readonly asid?: number;
  readonly pcid?: number;
  readonly ep4ta?: number;
  readonly lo?: number;
  readonly hi?: number;
  readonly keepGlobal?: boolean;
  /** INVVPID type 2 spares VPID 0. */
  readonly exceptAsid?: number;
}

interface Invalidation extends InvalidationScope {
  readonly step: number;
}

interface Past {
  /** Distinct values, oldest first. */
  readonly versions: Version[];
  /** There were more than can be kept. */
  lost: boolean;
}

const MAXIMUM_VERSIONS_PER_WORD = 64;
const MAXIMUM_WORDS = 1 << 17;
const MAXIMUM_INVALIDATIONS = 1 << 14;

function samePage(scope: InvalidationScope, entry: CachedEntry): boolean {
  const mask = -1 << entry.pageShift;
  return (((scope.lo ?? 0) ^ entry.lo) & mask) === 0 && scope.hi === entry.hi;
}

/** Whether an invalidation removes the cached entry. */
export function removes(scope: InvalidationScope, entry: CachedEntry): boolean {
  const { asid, pcid, keepGlobal } = scope;
  const tagged =
    (asid === undefined || asid === entry.asid) &&
    scope.exceptAsid !== entry.asid &&
    (pcid === undefined || pcid === entry.pcid || (entry.leaf && entry.global && !keepGlobal));
  const spared = keepGlobal === true && entry.leaf && entry.global;
  switch (scope.what) {
    case 'everything':
      return true;
    case 'asid':
      // AMD tags second-stage translations by ASID as well (APM vol. 2 15.16).
      return tagged && !spared;
    case 'linear':
      return !entry.secondStage && tagged && !spared;
    case 'page':
      // INVLPG drops the paging-structure caches of the PCID whatever the address (SDM vol. 3A 4.10.4.1).
      return !entry.secondStage && tagged && !spared && (!entry.leaf || samePage(scope, entry));
    case 'guest-physical':
      return scope.ep4ta === undefined ? entry.ep4ta !== 0 : scope.ep4ta === entry.ep4ta;
  }
}

export class History implements MemoryWatcher {
  /** Ordinal of the step being applied. */
  now = 0;
  /** Grows with every change of an entry that could be cached. */
  epoch = 0;
  private versions = new Map<number, Past>();
  private invalidations: Invalidation[] = [];
  /** Words, or invalidations, have been forgotten. */
  private forgotten = false;

  wordChanges(addressLo: number, addressHi: number, oldLo: number, oldHi: number): void {
    // Not-present entries are never cached (SDM vol. 3A 4.10.2.3); the mask suits x86 and EPT formats alike.
    if ((oldLo & 0x407) === 0 && (oldHi & 0x407) === 0) return;
    this.epoch++;
    const key = wordNumber(addressLo, addressHi);
    let past = this.versions.get(key);
    if (past === undefined) {
      if (this.versions.size >= MAXIMUM_WORDS) {
        this.versions.clear();
        this.forgotten = true;
      }
      past = { versions: [], lost: false };
      this.versions.set(key, past);
    }
    const { versions } = past;
    // The same value again: what matters is when it was last there.
    const same = versions.findIndex((each) => each.lo === oldLo && each.hi === oldHi);
    if (same >= 0) versions.splice(same, 1);
    else if (versions.length >= MAXIMUM_VERSIONS_PER_WORD) {
      versions.shift();
      past.lost = true;
    }
    versions.push({ lo: oldLo, hi: oldHi, replacedAt: this.now });
  }

  invalidate(scope: InvalidationScope): void {
    if (scope.what === 'everything') {
      // Nothing older can matter any more.
      this.versions.clear();
      this.invalidations = [];
      this.forgotten = false;
      return;
    }
    if (this.versions.size === 0) return;
    if (this.invalidations.length >= MAXIMUM_INVALIDATIONS) {
      this.invalidations = this.invalidations.slice(MAXIMUM_INVALIDATIONS / 2);
      this.forgotten = true;
    }
    this.invalidations.push({ ...scope, step: this.now });
  }

  /** Earlier values of the 8-byte word that an address is in, newest first. */
  earlier(addressLo: number, addressHi: number): readonly Version[] {
    return this.versions.get(wordNumber(addressLo, addressHi))?.versions.toReversed() ?? [];
  }

  /** Something that could decide about the word's past has been forgotten. */
  isIncomplete(addressLo: number, addressHi: number): boolean {
    return this.forgotten || this.versions.get(wordNumber(addressLo, addressHi))?.lost === true;
  }

  /** Step of the first invalidation since `version` was replaced that removes the entry, or undefined. */
  invalidatedAt(version: Version, entry: CachedEntry): number | undefined {
    return this.invalidations.find((each) => each.step >= version.replacedAt && removes(each, entry))?.step;
  }
}

/** An 8-byte word's number, exact as a double. */
function wordNumber(lo: number, hi: number): number {
  return (hi >>> 0) * 0x2000_0000 + (lo >>> 3);
}
