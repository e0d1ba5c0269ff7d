/** Makes random programs: the same seed and number, the same program. */

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
import { Guest } from './guest.ts';
import { nextUnit } from './moves.ts';
import { PAGINGS, type Paging, type Program, type ProgramStep, rareStep, storeStep } from './program.ts';
import { Random } from './random.ts';
import { addressOf, creation, makeScene, type Scene } from './scene.ts';

/** Steps of a program after its tables are there, unless told. */
export const DEFAULT_STEPS = 150;

const CR0_ET = 1 << 4;
const ENTRY_PRESENT = 0.93;
/** Of a further root's entries, those that it has in common with the first. */
const ENTRY_SHARED = 0.7;

export interface ProgramOptions {
  readonly seed: number;
  /** Number of the program under its seed. */
  readonly index: number;
  readonly paging: Paging;
  /** Steps after the tables are there; the last unit may go a few steps beyond. Default 150. */
  readonly steps?: number;
}

export function generateProgram({ seed, index, paging, steps = DEFAULT_STEPS }: ProgramOptions): Program {
  const random = new Random(seed, index, PAGINGS.indexOf(paging));
  const scene = makeScene(random, paging, `random program: seed ${seed}, number ${index}, ${paging}, ${steps} steps`);
  const slots: ProgramStep[][] = scene.slots.map((slot) => [rareStep(creation(slot))]);
  const tables = buildTables(random, scene);
  const registers = firstRegisters(random, scene, tables);
  const guest = new Guest(scene, registers);
  const units = [...slots, ...tables.map((each) => [each])];
  for (const unit of units) for (const each of unit) guest.apply(each);
  guest.chooseWorkingSet(random);
  for (let made = 0; made < steps; ) {
    const unit = nextUnit(random, guest);
    if (!tryUnit(guest, unit)) continue;
    units.push(unit);
    made += unit.length;
  }
  guest.machine.memory.release();
  const { header, entryBytes } = scene;
  const frames = scene.tables.map(({ frame }) => frame);
  return { header, paging, tables: { frames, entryBytes }, registers, units, pinned: slots.length };
}

/** Applies the unit if a processor accepts each of its steps. */
function tryUnit(guest: Guest, unit: readonly ProgramStep[]): boolean {
  if (unit[0] === undefined || !unit.every((each) => guest.accepts(each))) return false;
  for (const each of unit) guest.apply(each);
  return true;
}

function buildTables(random: Random, scene: Scene): ProgramStep[] {
  const { entryBytes, rootLevel, rootOffset } = scene;
  const ofFirstRoot = new Map<number, Word64>();
  return scene.tables.flatMap(({ frame, level }) =>
    scene.indices[level]!.flatMap((index) => {
      const isRoot = level === rootLevel;
      if (!random.chance(isRoot ? 0.95 : ENTRY_PRESENT)) return [];
      const offset = entryBytes * index + (isRoot ? rootOffset : 0);
      const { lo, hi } = addressOf(frame);
      const shared = isRoot && random.chance(ENTRY_SHARED) ? ofFirstRoot.get(index) : undefined;
      const entry = shared ?? randomEntry(random, scene, level);
      if (isRoot && !ofFirstRoot.has(index)) ofFirstRoot.set(index, entry);
      return [storeStep({ lo: lo + offset, hi }, entry, entryBytes)];
    }),
  );
}

function firstRegisters(random: Random, scene: Scene, tables: readonly ProgramStep[]): Uint32Array {
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
  for (const { addressLo, operandLo, operandHi } of rootLevel === 3 ? tables : []) {
    const index = (addressLo - cr3) / 8;
    if (index < 0 || index > 3) continue;
    registers[2 * (Reg.PDPTE0 + index)] = operandLo;
    registers[2 * (Reg.PDPTE0 + index) + 1] = operandHi;
  }
  return registers;
}
