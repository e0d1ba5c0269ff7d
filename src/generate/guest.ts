/** The guest while its program is being made: what is where, which a bare machine tells. */

import type { Word64 } from '../bits/word64.ts';
import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { CR0_PG, CR4_PCIDE, EFER_LMA, Reg } from '../formats/registers.ts';
import { StepKind } from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import { applyStep, type ProgramStep } from './program.ts';
import type { Random } from './random.ts';
import { accepts } from './rules.ts';
import { addressOf, type Scene, type Table } from './scene.ts';

/** A paging-structure entry in memory. */
export interface Place {
  readonly address: Word64;
  readonly level: number;
  readonly value: Word64;
}

const WORKING_SET = 8;
const TRIES = 16;

export class Guest {
  readonly scene: Scene;
  readonly machine: BareMachine;
  /** Linear addresses of pages that are used again and again. */
  readonly workingSet: Word64[] = [];
  private next = 0;

  constructor(scene: Scene, machine: BareMachine) {
    this.scene = scene;
    this.machine = machine;
  }

  register(register: number): number {
    return this.machine.register(register);
  }

  get paging(): boolean {
    return (this.register(Reg.CR0) & CR0_PG) !== 0;
  }

  get longMode(): boolean {
    return (this.register(Reg.EFER) & EFER_LMA) !== 0;
  }

  get pcide(): boolean {
    return (this.register(Reg.CR4) & CR4_PCIDE) !== 0;
  }

  accepts(each: ProgramStep): boolean {
    return accepts(this.machine.registers, each);
  }

  apply(each: ProgramStep): void {
    applyStep(this.machine, this.next++, each);
  }

  /** Where in L1's memory the table stands. */
  addressOf({ frame }: Table): Word64 {
    return addressOf(frame + this.scene.home);
  }

  entryAt(table: Table, index: number): Place {
    const { entryBytes, rootLevel, rootOffset } = this.scene;
    const base = this.addressOf(table);
    const offset = entryBytes * index + (table.level === rootLevel ? rootOffset : 0);
    const address = { lo: (base.lo + offset) >>> 0, hi: base.hi };
    const [lo, hi] = this.machine.readEntry(0, address.lo | 0, address.hi);
    return { address, level: table.level, value: { lo, hi: entryBytes === 4 ? 0 : hi } };
  }

  /** The entries that a walk for the address reads now. */
  path(address: Word64): Place[] {
    const { machine } = this;
    const { log } = machine;
    machine.configure();
    machine.probe(StepKind.ACCESS, address.lo | 0, address.hi | 0);
    const places: Place[] = [];
    for (let i = 0; i < log.count; i++) {
      const op = log.op(i);
      if ((op & OBS_KIND_MASK) !== Obs.ELEMENT || ((op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) !== Dim.GUEST) continue;
      const at = i * ROW;
      places.push({
        address: { lo: log.rows[at + ROW_ADDRESS_LO]! >>> 0, hi: log.rows[at + ROW_ADDRESS_HI]! >>> 0 },
        level: (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK,
        value: { lo: log.rows[at + ROW_VALUE_LO]! >>> 0, hi: log.rows[at + ROW_VALUE_HI]! >>> 0 },
      });
    }
    return places;
  }

  /** Whether a supervisor's read would go through. */
  isMapped(address: Word64): boolean {
    const { machine } = this;
    this.path(address);
    return (machine.log.op(machine.log.count - 1) & OBS_KIND_MASK) === Obs.TRANSLATED;
  }

  /** Chooses the working set: pages that are mapped, as far as they are found, and some that are not. */
  chooseWorkingSet(random: Random): void {
    for (let i = 0; i < WORKING_SET; i++) {
      let address = randomPage(random, this.scene);
      for (let tries = 0; tries < TRIES && i % 8 !== 7 && !this.isMapped(address); tries++) {
        address = randomPage(random, this.scene);
      }
      this.workingSet.push(address);
    }
  }

  /** A page's linear address. */
  page(random: Random): Word64 {
    if (!this.paging) return addressOf(random.pick(this.scene.dataFrames));
    return random.chance(0.92) ? random.pick(this.workingSet) : randomPage(random, this.scene);
  }
}

/** Linear address of a page that indices of the scene lead to. */
function randomPage(random: Random, { rootLevel, indices }: Scene): Word64 {
  const at = indices.map((choices) => (choices.length === 0 ? 0 : random.pick(choices)));
  if (rootLevel === 2) return { lo: ((at[1]! << 12) | (at[2]! << 22)) >>> 0, hi: 0 };
  const lo = ((at[1]! << 12) | (at[2]! << 21) | ((at[3]! & 3) << 30)) >>> 0;
  if (rootLevel === 3) return { lo, hi: 0 };
  let hi = (at[3]! >>> 2) | (at[4]! << 7) | ((at[5] ?? 0) << 16);
  const top = rootLevel === 5 ? 24 : 15;
  // Canonical: the bits above are copies of the highest that is translated. A few are not.
  if (((hi >>> top) & 1) !== 0) hi |= -1 << top;
  if (random.chance(0.01)) hi ^= 0x4000_0000;
  return { lo, hi: hi >>> 0 };
}
