/** Memory and registers at the beginning of a random program: tables full of entries, and a mode that goes with them. */

import type { Word64 } from '../bits/word64.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  REGISTER_COUNT,
  Reg,
} from '../formats/registers.ts';
import { randomEntry } from './entries.ts';
import { type ProgramStep, storeStep } from './program.ts';
import type { Random } from './random.ts';
import { addressOf, type Scene } from './scene.ts';

const CR0_ET = 1 << 4;
const ENTRY_PRESENT = 0.93;
/** Of a further root's entries, those that it has in common with the first. */
const ENTRY_SHARED = 0.7;

export function buildTables(random: Random, scene: Scene): ProgramStep[] {
  const { entryBytes, rootLevel, rootOffset } = scene;
  const ofFirstRoot = new Map<number, Word64>();
  return scene.tables.flatMap(({ frame, level }) =>
    scene.indices[level]!.flatMap((index) => {
      const isRoot = level === rootLevel;
      if (!random.chance(isRoot ? 0.95 : ENTRY_PRESENT)) return [];
      const offset = entryBytes * index + (isRoot ? rootOffset : 0);
      const { lo, hi } = addressOf(frame + scene.home);
      const shared = isRoot && random.chance(ENTRY_SHARED) ? ofFirstRoot.get(index) : undefined;
      const entry = shared ?? randomEntry(random, scene, level);
      if (isRoot && !ofFirstRoot.has(index)) ofFirstRoot.set(index, entry);
      return [storeStep({ lo: lo + offset, hi }, entry, entryBytes)];
    }),
  );
}

export function firstRegisters(random: Random, scene: Scene, tables: readonly ProgramStep[]): Uint32Array {
  const { rootLevel, rootOffset, keys } = scene;
  const registers = new Uint32Array(2 * REGISTER_COUNT);
  const set = (register: number, lo: number): void => {
    registers[2 * register] = lo;
  };
  const maybe = (bit: number, probability: number): number => (random.chance(probability) ? bit : 0);
  const long = rootLevel >= 4;
  const cr4 =
    (rootLevel === 2 ? maybe(CR4_PSE, 0.8) : CR4_PAE | maybe(CR4_PSE, 0.3)) |
    (rootLevel === 5 ? CR4_LA57 : 0) |
    maybe(CR4_PGE, 0.6) |
    maybe(CR4_SMEP, 0.4) |
    maybe(CR4_SMAP, 0.4) |
    (long ? maybe(CR4_PCIDE, 0.5) : 0) |
    (keys ? maybe(CR4_PKE, 0.8) : 0);
  const root = scene.tables.find(({ level }) => level === rootLevel)!;
  const cr3 = addressOf(root.frame).lo | rootOffset;
  set(Reg.CR0, CR0_PE | CR0_ET | maybe(CR0_WP, 0.7) | CR0_PG);
  set(Reg.CR3, cr3);
  set(Reg.CR4, cr4);
  set(Reg.EFER, (long ? EFER_LME | EFER_LMA : 0) | maybe(EFER_NXE, rootLevel === 2 ? 0.3 : 0.8));
  if (keys) set(Reg.PKRU, random.uint32());
  // PDPTE registers hold what memory holds.
  const table = cr3 + addressOf(scene.home).lo;
  for (const { addressLo, operandLo, operandHi } of rootLevel === 3 ? tables : []) {
    const index = (addressLo - table) / 8;
    if (index < 0 || index > 3) continue;
    registers[2 * (Reg.PDPTE0 + index)] = operandLo;
    registers[2 * (Reg.PDPTE0 + index) + 1] = operandHi;
  }
  return registers;
}
