/**
 * A nested random program, or one of two vCPUs, while it is being made: who runs where, which a bare machine that walks
 * for every access tells.
 */

import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { GuestMode, REGISTER_COUNT, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import { ROW, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import { Guest, type Place } from './guest.ts';
import { exitOf, isPae, NestedRules } from './nested-rules.ts';
import type { NestedScene } from './nested-scene.ts';
import type { ProgramStep } from './program.ts';
import type { Random } from './random.ts';
import type { Scene } from './scene.ts';
import type { SecondTable } from './second-stage.ts';
import { Specification } from './specification.ts';

/** Registers that change hands at transitions; PKRU does not. */
export const STATE = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER, Reg.PDPTE0, Reg.PDPTE1, Reg.PDPTE2, Reg.PDPTE3] as const;

/** An entry of EPT or NPT. */
export interface SecondPlace {
  readonly table: SecondTable;
  readonly index: number;
  readonly value: { readonly lo: number; readonly hi: number };
}

export interface WorldCpu {
  /** Registers of whoever does not run: L1's while L2 does, and the other way round. */
  readonly l1: Uint32Array;
  readonly l2: Uint32Array;
}

export class World {
  readonly machine: Specification;
  readonly rules: NestedRules;
  readonly l1: Guest;
  readonly l2: Guest | null;
  readonly scene: NestedScene | null;
  readonly cpus: WorldCpu[] = [];
  /** Entries of the second stage that L2's last accesses read. */
  lastSecond: SecondPlace[] = [];
  /** The last unit ended with a step that an exit has to follow. */
  exitFollows = false;
  /** L2's last exit was due to the second stage, which L1 has not looked at yet. */
  faulted = false;
  private next = 0;

  constructor(l1: Scene, scene: NestedScene | null) {
    this.machine = new Specification(l1.header);
    this.machine.memory.watcher = null;
    this.rules = new NestedRules(this.machine);
    this.l1 = new Guest(l1, this.machine);
    this.scene = scene;
    this.l2 = scene === null ? null : new Guest(scene.l2, this.machine);
  }

  /** One more vCPU, whose L2 begins with `l2`. */
  addCpu(l2: Uint32Array): void {
    this.cpus.push({ l1: new Uint32Array(2 * REGISTER_COUNT), l2: l2.slice() });
  }

  get cpu(): WorldCpu {
    return this.cpus[this.rules.current]!;
  }

  get inL2(): boolean {
    return this.rules.inL2;
  }

  get guest(): Guest {
    return this.inL2 && this.l2 !== null ? this.l2 : this.l1;
  }

  /** Applies the step if a processor goes through it. */
  apply(each: ProgramStep): boolean {
    if (!this.rules.accepts(each)) return false;
    const kind = each.op & STEP_KIND_MASK;
    if (kind === StepKind.REGISTER_SET && ((each.op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK) === Reg.GUEST_MODE) {
      // Who stops running.
      (each.operandLo === GuestMode.NONE ? this.cpu.l2 : this.cpu.l1).set(this.machine.registers);
    }
    this.machine.applyWalking(this.next++, each);
    if (kind === StepKind.ACCESS && this.inL2) this.rememberSecond();
    this.rules.applied(each, exitOf(this.machine));
    const { pending } = this.rules;
    if (pending !== null && pending.kind !== Obs.EXCEPTION) this.faulted = true;
    return true;
  }

  private rememberSecond(): void {
    const { scene, machine } = this;
    if (scene?.second == null) return;
    const { tables, entryBytes } = scene.second;
    const { log } = machine;
    const found: SecondPlace[] = [];
    for (let i = 0; i < log.count; i++) {
      const op = log.op(i);
      if ((op & OBS_KIND_MASK) !== Obs.ELEMENT || ((op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST) continue;
      const lo = log.rows[i * ROW + ROW_ADDRESS_LO]! >>> 0;
      const level = (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
      const table = tables.find((each) => each.frame === lo >>> 12 && each.level === level);
      if (table === undefined) continue;
      const value = { lo: log.rows[i * ROW + ROW_VALUE_LO]! >>> 0, hi: log.rows[i * ROW + ROW_VALUE_HI]! >>> 0 };
      found.push({ table, index: (lo & 0xfff) / entryBytes, value });
    }
    if (found.length > 0) this.lastSecond = found;
  }

  secondAt(table: SecondTable, index: number): SecondPlace {
    const { entryBytes } = this.scene!.second!;
    const [lo, hi] = this.machine.readEntry(0, (table.frame << 12) + entryBytes * index, 0);
    return { table, index, value: { lo, hi: entryBytes === 4 ? 0 : hi } };
  }

  entryOf(random: Random, guest: Guest): Place {
    const table = random.pick(guest.scene.tables);
    return guest.entryAt(table, random.pick(guest.scene.indices[table.level]!));
  }

  /** PDPTE registers that go with the state in `registers`: what memory holds, or 0 without PAE paging. */
  loadPdptes(registers: Uint32Array): void {
    const pae = isPae(registers);
    for (let index = 0; index < 4; index++) {
      const at = (registers[2 * Reg.CR3]! & ~0x1f) + 8 * index;
      const [lo, hi] = pae ? this.machine.readEntry(0, at, 0) : [0, 0];
      registers[2 * (Reg.PDPTE0 + index)] = lo;
      registers[2 * (Reg.PDPTE0 + index) + 1] = hi;
    }
  }
}
