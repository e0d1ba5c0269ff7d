/** Random paging-structure entries: mostly such that walks go on, with everything that can be wrong mixed in. */

import type { Word64 } from '../bits/word64.ts';
import type { Random } from './random.ts';
import { addressOf, type Scene, type Table } from './scene.ts';

const P = 1 << 0;
const W = 1 << 1;
const U = 1 << 2;
const PCD = 1 << 4;
const A = 1 << 5;
const D = 1 << 6;
const PS = 1 << 7;
const G = 1 << 8;
const AVAILABLE = 1 << 9;
const LARGE_PAT = 1 << 12;
const NX_HI = 0x8000_0000;
const PAE_PDPTE = 3;

/** An entry for a table of `level`. */
export function randomEntry(random: Random, scene: Scene, level: number): Word64 {
  const { rootLevel } = scene;
  if (rootLevel === PAE_PDPTE && level === PAE_PDPTE) return randomPdpte(random, scene);
  let bits = 0;
  if (random.chance(0.97)) bits |= P;
  if (random.chance(level === 1 ? 0.75 : 0.88)) bits |= W;
  if (random.chance(level === 1 ? 0.75 : 0.88)) bits |= U;
  if (random.chance(0.6)) bits |= A;
  if (random.chance(0.5)) bits |= D;
  if (random.chance(0.25)) bits |= G;
  if (random.chance(0.05)) bits |= PCD;
  if (random.chance(0.05)) bits |= AVAILABLE;
  const leaf = level === 1 || random.chance(level <= 3 ? 0.2 : 0.02);
  if (level > 1 && leaf) bits |= PS;
  const frame = leaf ? leafFrame(random, scene, level) : tableFrame(random, scene, level);
  let { lo, hi } = addressOf(frame);
  lo |= bits;
  if (level > 1 && leaf && random.chance(0.1)) lo |= LARGE_PAT;
  // A bit of a large page's address that must be 0, a bit beyond MAXPHYADDR.
  if (level > 1 && leaf && random.chance(0.02)) lo |= 1 << random.between(13, 12 + 9 * (level - 1) > 31 ? 31 : 20);
  if (scene.entryBytes === 4) return { lo: lo >>> 0, hi: 0 };
  if (random.chance(0.01)) hi |= 1 << random.between(scene.maxphyaddr - 32, 19);
  if (random.chance(level === 1 ? 0.12 : 0.05)) hi |= NX_HI;
  if (scene.keys && random.chance(0.4)) hi |= random.below(4) << 27;
  return { lo: lo >>> 0, hi: hi >>> 0 };
}

/** Present and sound, or absent: loading others is refused, which is a case of its own. */
function randomPdpte(random: Random, scene: Scene): Word64 {
  if (random.chance(0.1)) return { lo: 0, hi: 0 };
  const { lo, hi } = addressOf(tableFrame(random, scene, PAE_PDPTE));
  return { lo: (lo | P | (random.chance(0.1) ? AVAILABLE : 0)) >>> 0, hi };
}

/** Now and then with a reserved bit, which is found when it is loaded. */
function changedPdpte(random: Random, scene: Scene): Word64 {
  const { lo, hi } = randomPdpte(random, scene);
  const reserved =
    scene.header.processor.vendor === 'intel' && !scene.soundPdptes && random.chance(0.1)
      ? random.pick([W, U, A, D, PS, G])
      : 0;
  return { lo: (lo | reserved) >>> 0, hi };
}

/** A table that an entry of `level` leads to: meant for the level below, or, seldom, any that is no table of PDPTEs. */
function tableFrame(random: Random, { tables, rootLevel }: Scene, level: number): number {
  const below = tables.filter((table) => table.level === level - 1);
  const any = rootLevel === PAE_PDPTE ? tables.filter((table) => table.level < PAE_PDPTE) : tables;
  return random.pick(random.chance(0.88) ? below : any).frame;
}

function leafFrame(random: Random, scene: Scene, level: number): number {
  const { dataFrames, rootLevel } = scene;
  if (level === 1) return random.chance(0.15) ? random.pick(selfMapped(scene)).frame : random.pick(dataFrames);
  const pages = rootLevel === 2 ? 0x400 : level === 2 ? 0x200 : 0x4_0000;
  return random.chance(0.6) ? 0 : pages * random.below(level === 2 ? 8 : 3);
}

/**
 * Tables that guest pages may be. NPT reads PDPTEs whenever it walks (APM vol. 2 15.25.10), so that their table must hold
 * nothing but PDPTEs there, and a page table's entry for it might one day be taken for a directory's.
 */
function selfMapped({ tables, rootLevel, header }: Scene): readonly Table[] {
  const anyTable = rootLevel !== PAE_PDPTE || header.processor.vendor === 'intel';
  return anyTable ? tables : tables.filter(({ level }) => level < PAE_PDPTE);
}

/** The entry as a kernel changes it: rights, presence, A and D, or what it leads to. */
export function changedEntry(random: Random, scene: Scene, level: number, { lo, hi }: Word64): Word64 {
  if (scene.rootLevel === PAE_PDPTE && level === PAE_PDPTE) return changedPdpte(random, scene);
  const fresh = randomEntry(random, scene, level);
  // What is not there comes, more often than not.
  if ((lo & P) === 0 && random.chance(0.7)) return random.chance(0.5) ? fresh : { lo: (lo | P) >>> 0, hi };
  switch (
    random.weighted([
      [6, 'write'],
      [4, 'user'],
      [3, 'execute'],
      [4, 'present'],
      [4, 'accessed'],
      [3, 'dirty'],
      [2, 'global'],
      [8, 'target'],
      [4, 'all'],
      [1, 'none'],
    ] as const)
  ) {
    case 'write':
      return { lo: (lo ^ W) >>> 0, hi };
    case 'user':
      return { lo: (lo ^ U) >>> 0, hi };
    case 'execute':
      return scene.entryBytes === 8 ? { lo, hi: (hi ^ NX_HI) >>> 0 } : { lo: (lo ^ W) >>> 0, hi };
    case 'present':
      return { lo: (lo ^ P) >>> 0, hi };
    case 'accessed':
      return { lo: (lo & ~(A | D)) >>> 0, hi };
    case 'dirty':
      return { lo: (lo & ~D) >>> 0, hi };
    case 'global':
      return { lo: (lo ^ G) >>> 0, hi };
    case 'target':
      return { lo: ((lo & 0xf7f) | (fresh.lo & ~0xf7f)) >>> 0, hi: ((hi & NX_HI) | (fresh.hi & ~NX_HI)) >>> 0 };
    case 'all':
      return fresh;
    case 'none':
      return { lo: 0, hi: 0 };
  }
}
