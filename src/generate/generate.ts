/** Makes random programs: the same seed and number, the same program. */

import { BareMachine } from '../machine/bare.ts';
import { buildTables, firstRegisters } from './first-state.ts';
import { Guest } from './guest.ts';
import { nextUnit } from './moves.ts';
import { worldProgram } from './nested-generate.ts';
import {
  loadRegisters,
  type Nesting,
  PAGINGS,
  type Paging,
  type Program,
  type ProgramStep,
  rareStep,
  X86_ACCESSED_DIRTY,
} from './program.ts';
import { Random } from './random.ts';
import { creation, makeScene } from './scene.ts';

/** Steps of a program after its tables are there, unless told. */
export const DEFAULT_STEPS = 150;

export interface ProgramOptions {
  readonly seed: number;
  /** Number of the program under its seed. */
  readonly index: number;
  readonly paging: Paging;
  /** Steps after the tables are there; the last unit may go a few steps beyond. Default 150. */
  readonly steps?: number;
  /** Default `no`. */
  readonly nested?: Nesting;
  /** Of a hypervisor without nested paging; by chance unless told. */
  readonly vendor?: 'amd' | 'intel';
  /** 1 (default) or 2. */
  readonly vcpus?: 1 | 2;
}

export function generateProgram(options: ProgramOptions): Program {
  const { nested = 'no', vcpus = 1 } = options;
  return nested === 'no' && vcpus === 1 ? simpleProgram(options) : worldProgram(options);
}

function simpleProgram({ seed, index, paging, steps = DEFAULT_STEPS }: ProgramOptions): Program {
  const random = new Random(seed, index, PAGINGS.indexOf(paging));
  const scene = makeScene(random, paging, `random program: seed ${seed}, number ${index}, ${paging}, ${steps} steps`);
  const slots: ProgramStep[][] = scene.slots.map((slot) => [rareStep(creation(slot))]);
  const tables = buildTables(random, scene);
  const registers = firstRegisters(random, scene, tables);
  const machine = new BareMachine(scene.header);
  // Nobody asks what may be stale here.
  machine.memory.watcher = null;
  loadRegisters(machine, registers);
  const guest = new Guest(scene, machine);
  const units = [...slots, ...tables.map((each) => [each])];
  for (const unit of units) for (const each of unit) guest.apply(each);
  guest.chooseWorkingSet(random);
  for (let made = 0; made < steps; ) {
    const unit = nextUnit(random, guest);
    if (!tryUnit(guest, unit)) continue;
    units.push(unit);
    made += unit.length;
  }
  machine.memory.release();
  const { header, entryBytes } = scene;
  const frames = scene.tables.map(({ frame }) => frame);
  const all = [{ frames, entryBytes, accessedDirty: X86_ACCESSED_DIRTY }];
  return { header, paging, nested: 'no', tables: all, recent: false, registers, units, pinned: slots.length };
}

/** Applies the unit if a processor accepts each of its steps. */
function tryUnit(guest: Guest, unit: readonly ProgramStep[]): boolean {
  if (unit[0] === undefined || !unit.every((each) => guest.accepts(each))) return false;
  for (const each of unit) guest.apply(each);
  return true;
}
