/**
 * What a processor may still have cached: the values that paging-structure entries held before, and the
 * invalidations since (SDM vol. 3A 4.10, vol. 3C 29.4; APM vol. 2 5.5, 15.16).
 *
 * Values are everybody's; what is cached, and invalidated, is each vCPU's own. All of it is bounded. What had to be
 * forgotten is remembered as such, so that a judgement can say "undetermined" instead of guessing.
 */

import type { MemoryWatcher } from './memory.ts';

/** A value that a word held from the end of step `since` until `replacedAt`. */
export interface Version {
  readonly lo: number;
  readonly hi: number;
  /** -1: from the beginning. */
  readonly since: number;
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
  /** The linear address, and log2 of the size of what the entry maps: a page, or a region if it is no leaf. */
  readonly lo: number;
  readonly hi: number;
  readonly pageShift: number;
}

/** What one event removes; `undefined` = whatever it is. */
export interface InvalidationScope {
  readonly what: 'everything' | 'linear' | 'page' | 'address' | 'guest-physical' | 'asid';
  readonly asid?: number;
  readonly pcid?: number;
  readonly ep4ta?: number;
  readonly lo?: number;
  readonly hi?: number;
  readonly keepGlobal?: boolean;
  /** INVVPID type 2 spares VPID 0. */
  readonly exceptAsid?: number;
}

/** A root of the guest's tables that was in force before: global translations outlive it, others with its PCID. */
export interface EarlierRoot {
  /** VPID or ASID, and EP4TA: what translations made with it are tagged with. */
  readonly asid: number;
  readonly ep4ta: number;
  /** CR3. */
  readonly lo: number;
  readonly hi: number;
  /** PDPTE registers, 8 elements. */
  readonly pdptes: Uint32Array;
  /** Ordinal of the step that put another in its place. */
  readonly until: number;
}

interface Invalidation {
  readonly scope: InvalidationScope;
  readonly step: number;
}

interface Past {
  /** Distinct values, oldest first. */
  readonly versions: Version[];
  /** There were more than can be kept. */
  lost: boolean;
  /** Step that made the present value, -1: none that is known. */
  since: number;
}

/** What one vCPU may still have cached, as far as it is not told by the values of words. */
class Cached {
  invalidations: Invalidation[] = [];
  /** Distinct, newest first. */
  earlierRoots: EarlierRoot[] = [];
  /** Words, or invalidations, have been forgotten. */
  forgotten = false;
}

const MAXIMUM_VERSIONS_PER_WORD = 64;
const MAXIMUM_WORDS = 1 << 18;
const MAXIMUM_INVALIDATIONS = 1 << 14;
/** Of all vCPUs together. */
const MAXIMUM_ALL_INVALIDATIONS = 1 << 16;
const MAXIMUM_ROOTS = 16;

function samePage(scope: InvalidationScope, entry: CachedEntry): boolean {
  const lo = (scope.lo ?? 0) ^ entry.lo;
  const hi = (scope.hi ?? 0) ^ entry.hi;
  if (entry.pageShift >= 32) return hi >>> (entry.pageShift - 32) === 0;
  return hi === 0 && lo >>> entry.pageShift === 0;
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
    case 'address':
      // A page fault, INVPCID and INVVPID of one address: of the paging-structure caches only what would be used for it.
      return !entry.secondStage && tagged && !spared && samePage(scope, entry);
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
  /** That of the vCPU whose steps come now. */
  private cached = new Cached();
  /** Of all vCPUs seen so far, by number. */
  private readonly vcpus = new Map<number, Cached>([[0, this.cached]]);

  /** The steps from here on are those of vCPU `vcpu`. One that was not seen before has nothing cached. */
  useVcpu(vcpu: number): void {
    let cached = this.vcpus.get(vcpu);
    if (cached === undefined) {
      cached = new Cached();
      this.vcpus.set(vcpu, cached);
      this.cached = cached;
      this.invalidate({ what: 'everything' });
    }
    this.cached = cached;
  }

  wordChanges(addressLo: number, addressHi: number, oldLo: number, oldHi: number): void {
    const key = wordNumber(addressLo, addressHi);
    let past = this.versions.get(key);
    if (past === undefined) {
      if (this.versions.size >= MAXIMUM_WORDS) {
        this.versions.clear();
        for (const each of this.vcpus.values()) each.forgotten = true;
      }
      past = { versions: [], lost: false, since: -1 };
      this.versions.set(key, past);
    }
    const { versions, since } = past;
    past.since = this.now;
    // Not-present entries are never cached (SDM vol. 3A 4.10.2.3); the mask suits x86 and EPT formats alike.
    if ((oldLo & 0x407) === 0 && (oldHi & 0x407) === 0) return;
    this.epoch++;
    // The same value again: what matters is when it was last there.
    const same = versions.findIndex((each) => each.lo === oldLo && each.hi === oldHi);
    let first = since;
    if (same >= 0) first = versions.splice(same, 1)[0]!.since;
    else if (versions.length >= MAXIMUM_VERSIONS_PER_WORD) {
      versions.shift();
      past.lost = true;
    }
    versions.push({ lo: oldLo, hi: oldHi, since: first, replacedAt: this.now });
  }

  invalidate(scope: InvalidationScope): void {
    const { cached } = this;
    if (scope.what === 'everything') {
      // Nothing older can matter to this vCPU any more; to others it can.
      const isOnly = this.vcpus.size === 1;
      if (isOnly) this.versions.clear();
      cached.invalidations = isOnly ? [] : [{ scope, step: this.now }];
      cached.earlierRoots = [];
      cached.forgotten = false;
      return;
    }
    if (this.versions.size === 0 && cached.earlierRoots.length === 0) return;
    const maximum = Math.min(MAXIMUM_INVALIDATIONS, MAXIMUM_ALL_INVALIDATIONS / this.vcpus.size);
    if (cached.invalidations.length >= maximum) {
      cached.invalidations = cached.invalidations.slice(-maximum / 2);
      cached.forgotten = true;
    }
    cached.invalidations.push({ scope, step: this.now });
  }

  /** The guest's root is replaced, or its PDPTE registers are. The oldest of many roots is forgotten. */
  rootChanges(root: Omit<EarlierRoot, 'until'>): void {
    const { cached } = this;
    const others = cached.earlierRoots.filter((each) => !isSameRoot(each, root));
    cached.earlierRoots = [{ ...root, until: this.now }, ...others.slice(0, MAXIMUM_ROOTS - 1)];
  }

  roots(): readonly EarlierRoot[] {
    return this.cached.earlierRoots;
  }

  /** Earlier values of the 8-byte word that an address is in, newest first. */
  earlier(addressLo: number, addressHi: number): readonly Version[] {
    return this.versions.get(wordNumber(addressLo, addressHi))?.versions.toReversed() ?? [];
  }

  /** Something that could decide about the word's past has been forgotten. */
  isIncomplete(addressLo: number, addressHi: number): boolean {
    return this.cached.forgotten || this.versions.get(wordNumber(addressLo, addressHi))?.lost === true;
  }

  /** Step that gave the word its present value, -1 if none that is known did. */
  presentSince(addressLo: number, addressHi: number): number {
    return this.versions.get(wordNumber(addressLo, addressHi))?.since ?? -1;
  }

  /** Step of the first invalidation at or after step `from` that removes the entry, or undefined. */
  firstRemoval(from: number, entry: CachedEntry): number | undefined {
    return this.cached.invalidations.find((each) => each.step >= from && removes(each.scope, entry))?.step;
  }
}

function isSameRoot(a: Omit<EarlierRoot, 'until'>, b: Omit<EarlierRoot, 'until'>): boolean {
  if (a.lo !== b.lo || a.hi !== b.hi || a.asid !== b.asid || a.ep4ta !== b.ep4ta) return false;
  return a.pdptes.every((word, i) => word === b.pdptes[i]);
}

/** An 8-byte word's number, exact as a double. */
export function wordNumber(lo: number, hi: number): number {
  return (hi >>> 0) * 0x2000_0000 + (lo >>> 3);
}
