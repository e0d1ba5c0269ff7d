/**
 * Which bits of a present entry are reserved, by level and by the entry's bit 7 (facts/kvm-mmu.md §4; SDM vol. 3A
 * tables 4-5 to 4-20, vol. 3C tables 29-1 to 29-7; APM vol. 2 5.3-5.4).
 */

/** Masks as [bit 7 × 6 + level], level 1-5; low and high halves apart. */
export interface ReservedMasks {
  readonly lo: Int32Array;
  readonly hi: Int32Array;
}

/** Index of the mask for an entry of `level` whose low half is `lo`. */
export function reservedIndex(level: number, lo: number): number {
  return level + ((lo >>> 7) & 1) * 6;
}

function emptyMasks(): ReservedMasks {
  return { lo: new Int32Array(12), hi: new Int32Array(12) };
}

/** Bits `low`..`high` of a 64-bit word, both within one half; empty when low > high. */
function bits(low: number, high: number): number {
  let mask = 0;
  for (let bit = low; bit <= high; bit++) mask |= 1 << (bit & 31);
  return mask;
}

function set(masks: ReservedMasks, bit7: 0 | 1 | 'both', level: number, lo: number, hi: number): void {
  for (const b of bit7 === 'both' ? [0, 1] : [bit7]) {
    masks.lo[b * 6 + level] = lo;
    masks.hi[b * 6 + level] = hi;
  }
}

/** Bits MAXPHYADDR..`top` as a high half; MAXPHYADDR is at least 32. */
function highBits(maxphyaddr: number, top: number): number {
  return bits(maxphyaddr, top);
}

const BIT_63 = 0x8000_0000 | 0;

export interface ReservedRules {
  readonly maxphyaddr: number;
  /** EFER.NXE; when clear, bit 63 is reserved. */
  readonly nx: boolean;
  /** 1 GB pages are supported. */
  readonly page1g: boolean;
  /** AMD: bit 8 of PML4E and PML5E is reserved. */
  readonly amd: boolean;
}

/** 4- and 5-level paging. */
export function reservedLongMode(rules: ReservedRules): ReservedMasks {
  const masks = emptyMasks();
  const hi = highBits(rules.maxphyaddr, 51) | (rules.nx ? 0 : BIT_63);
  const top = bits(7, 7) | (rules.amd ? bits(8, 8) : 0);
  const no1g = rules.page1g ? 0 : bits(7, 7);
  set(masks, 'both', 5, top, hi);
  set(masks, 'both', 4, top, hi);
  set(masks, 0, 3, 0, hi);
  set(masks, 1, 3, bits(13, 29) | no1g, hi);
  set(masks, 0, 2, 0, hi);
  set(masks, 1, 2, bits(13, 20), hi);
  set(masks, 'both', 1, 0, hi);
  return masks;
}

/** PAE paging: levels 2 and 1, and at level 3 what loading a PDPTE register checks. */
export function reservedPae(rules: ReservedRules): ReservedMasks {
  const masks = emptyMasks();
  const hi = highBits(rules.maxphyaddr, 62) | (rules.nx ? 0 : BIT_63);
  set(masks, 'both', 3, bits(1, 2) | bits(5, 8), highBits(rules.maxphyaddr, 63));
  set(masks, 0, 2, 0, hi);
  set(masks, 1, 2, bits(13, 20), hi);
  set(masks, 'both', 1, 0, hi);
  return masks;
}

/**
 * 32-bit paging. A 4 MB page reserves bit 21 down to M-19 for M = min(40, MAXPHYADDR) with PSE-36, bits 21:13
 * without (SDM vol. 3A table 4-4). Without CR4.PSE bit 7 of a PDE is ignored.
 */
export function reserved32(maxphyaddr: number, pse: boolean, pse36: boolean): ReservedMasks {
  const masks = emptyMasks();
  if (pse) set(masks, 1, 2, pse36 ? bits(Math.min(40, maxphyaddr) - 19, 21) : bits(13, 21), 0);
  return masks;
}

/** EPT entries. The memory type and the RWX combinations are judged apart, see `badEptCombinations`. */
export function reservedEpt(maxphyaddr: number, page2m: boolean, page1g: boolean): ReservedMasks {
  const masks = emptyMasks();
  const hi = highBits(maxphyaddr, 51);
  set(masks, 'both', 5, bits(3, 7), hi);
  set(masks, 'both', 4, bits(3, 7), hi);
  set(masks, 0, 3, bits(3, 6), hi);
  set(masks, 1, 3, page1g ? bits(12, 29) : bits(3, 7) | bits(12, 29), hi);
  set(masks, 0, 2, bits(3, 6), hi);
  set(masks, 1, 2, page2m ? bits(12, 20) : bits(3, 7) | bits(12, 20), hi);
  set(masks, 'both', 1, 0, hi);
  return masks;
}

/**
 * 64 bits, two halves: bit n set when an EPT entry whose bits 5:0 are n is a misconfiguration: memory type 2, 3 or 7,
 * writable but not readable, or execute-only where that is not supported (SDM vol. 3C 29.3.3.1).
 */
export function badEptCombinations(executeOnly: boolean): readonly [lo: number, hi: number] {
  const halves: [number, number] = [0, 0];
  for (let n = 0; n < 64; n++) {
    const type = n >>> 3;
    const rights = n & 7;
    const bad =
      type === 2 || type === 3 || type === 7 || rights === 2 || rights === 6 || (rights === 4 && !executeOnly);
    if (bad) halves[n >>> 5]! |= 1 << (n & 31);
  }
  return [halves[0] >>> 0, halves[1] >>> 0];
}

/**
 * The same as a table of 128: index bits 5:0 are the entry's, bit 6 is its bit 10, which with mode-based execute
 * control counts as a right to execute (facts/kvm-mmu.md §4).
 */
export function badCombinationTable(executeOnly: boolean, mbec: boolean): Uint8Array {
  const [lo, hi] = badEptCombinations(executeOnly);
  return Uint8Array.from({ length: 128 }, (_, index) => {
    const n = (index & 0x3f) | (mbec && index >= 64 ? 4 : 0);
    return ((n < 32 ? lo : hi) >>> (n & 31)) & 1;
  });
}

/** What an EPT entry is, as far as its bits 7:0 and 10 and its level tell. */
export const EptEntry = { TABLE: 0, LEAF: 1, ABSENT: 2, MISCONFIGURED: 3 } as const;

/** What decides about EPT entries beside their bits. */
export interface EptEntryRules {
  readonly executeOnly: boolean;
  /** Mode-based execute control: bit 10 is a right to execute, too. */
  readonly mbec: boolean;
  readonly page2m: boolean;
  readonly page1g: boolean;
}

const KINDS_PER_RULES = 6 << 9;

/**
 * `EptEntry` by [`eptKindsAt` + level × 512 + bit 10 × 256 + bits 7:0]. One array for all rules, so that V8 compiles
 * its address into the walk.
 */
export const EPT_ENTRY_KINDS = new Uint8Array(16 * KINDS_PER_RULES);

const filled = new Set<number>();

/** Where in `EPT_ENTRY_KINDS` the kinds under these rules begin. */
export function eptKindsAt(rules: EptEntryRules): number {
  const { executeOnly, mbec, page2m, page1g } = rules;
  const at = ((executeOnly ? 1 : 0) | (mbec ? 2 : 0) | (page2m ? 4 : 0) | (page1g ? 8 : 0)) * KINDS_PER_RULES;
  if (!filled.has(at)) {
    filled.add(at);
    fillEptKinds(at, rules);
  }
  return at;
}

function fillEptKinds(at: number, rules: EptEntryRules): void {
  const presentBits = rules.mbec ? 0x407 : 7;
  const badCombinations = badCombinationTable(rules.executeOnly, rules.mbec);
  const reserved = reservedEpt(52, rules.page2m, rules.page1g);
  const kindOf = (level: number, lo: number): number => {
    if ((lo & presentBits) === 0) return EptEntry.ABSENT;
    const combination = (lo & 0x3f) | ((lo >>> 4) & 0x40);
    if (badCombinations[combination] === 1 || (lo & reserved.lo[reservedIndex(level, lo)]!) !== 0) {
      return EptEntry.MISCONFIGURED;
    }
    return level === 1 || (lo & 0x80) !== 0 ? EptEntry.LEAF : EptEntry.TABLE;
  };
  for (let level = 1; level <= 5; level++) {
    for (let n = 0; n < 512; n++) {
      EPT_ENTRY_KINDS[at + (level << 9) + n] = kindOf(level, (n & 0xff) | ((n & 0x100) << 2));
    }
  }
}
