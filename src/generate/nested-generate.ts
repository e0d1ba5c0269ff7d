/** Makes random programs of a hypervisor and its guest, and such of two vCPUs. */

import { EFER_SVME, GuestMode, Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { buildTables, firstRegisters } from './first-state.ts';
import type { ProgramOptions } from './generate.ts';
import { eptpList, nextNestedUnit, noise, vcpuStep } from './nested-moves.ts';
import { makeNestedScene, type NestedScene } from './nested-scene.ts';
import {
  EPT_ACCESSED_DIRTY,
  loadRegisters,
  NESTINGS,
  PAGINGS,
  type Program,
  type ProgramStep,
  type ProgramTables,
  rareStep,
  setStep,
  storeStep,
  X86_ACCESSED_DIRTY,
} from './program.ts';
import { Random } from './random.ts';
import { addressOf, creation, makeScene, type Scene } from './scene.ts';
import { indicesOf, secondEntry } from './second-stage.ts';
import { World } from './world.ts';

/** Steps of a nested program after its tables are there, unless told. */
const DEFAULT_STEPS = 200;
const CR4_VMXE = 1 << 13;
const SECOND_PRESENT = 0.97;
/** Units tried in a row of which nothing came. */
const MAXIMUM_TRIES = 200;

export function worldProgram(options: ProgramOptions): Program {
  const { seed, index, paging, steps = DEFAULT_STEPS, nested = 'no', vcpus = 1 } = options;
  const kind = 16 + NESTINGS.indexOf(nested) + 4 * vcpus;
  const random = new Random(seed, index, PAGINGS.indexOf(paging) + 16 * kind);
  const { vendor = random.chance(0.5) ? 'intel' : 'amd' } = options;
  const what = `${nested === 'no' ? '' : `nested ${nested}, `}${vcpus === 1 ? '' : `${vcpus} vCPUs, `}`;
  const title = `random program: seed ${seed}, number ${index}, ${paging}, ${what}${steps} steps`;
  const scene = nested === 'no' ? null : makeNestedScene(random, { nested, vendor, paging, title });
  const l1 = scene?.l1 ?? makeScene(random, paging, title);

  const tables = buildTables(random, l1);
  const registers = modeOf(scene, firstRegisters(random, l1, tables));
  const world = new World(l1, scene);
  loadRegisters(world.machine, registers);
  const pinned = [...l1.slots.map((slot) => [rareStep(creation(slot))])];
  for (let number = 1; number < vcpus; number++) pinned.push(furtherCpu(number, registers));
  const nestedSteps = scene === null ? [] : nestedTables(random, scene);
  const units: ProgramStep[][] = [...pinned, ...[...tables, ...nestedSteps].map((each) => [each])];
  const l2 = scene === null ? new Uint32Array(registers.length) : firstOfL2(random, scene, nestedSteps);
  for (let number = 0; number < vcpus; number++) world.addCpu(l2);
  for (const unit of units) for (const each of unit) world.apply(each);
  world.l1.chooseWorkingSet(random);
  play(random, world, steps, units);
  world.machine.memory.release();
  return {
    header: l1.header,
    paging,
    nested,
    tables: allTables(l1, scene),
    recent: scene?.recent ?? false,
    registers,
    units,
    pinned: pinned.length,
  };
}

function play(random: Random, world: World, steps: number, units: ProgramStep[][]): void {
  for (let made = 0, idle = 0; (made < steps || world.exitFollows) && idle < MAXIMUM_TRIES; ) {
    if (world.inL2 && world.l2!.workingSet.length === 0) world.l2!.chooseWorkingSet(random);
    const unit: ProgramStep[] = [];
    for (const each of nextNestedUnit(random, world)) {
      if (!world.apply(each)) break;
      unit.push(each);
      // What comes next is the exit.
      if (world.rules.pending !== null) break;
    }
    idle = unit.length === 0 ? idle + 1 : 0;
    if (unit.length === 0) continue;
    made += unit.filter(({ op }) => (op & STEP_KIND_MASK) !== StepKind.REGISTER_SET).length;
    // An exit goes with what it ended.
    const follows = world.exitFollows;
    world.exitFollows = world.rules.pending !== null;
    if (follows) units.at(-1)!.push(...unit);
    else units.push(unit);
  }
}

/** EFER.SVME or CR4.VMXE, without which there are no guests. */
function modeOf(scene: NestedScene | null, registers: Uint32Array): Uint32Array {
  if (scene?.mode === GuestMode.SVM) registers[2 * Reg.EFER]! |= EFER_SVME;
  if (scene?.mode === GuestMode.VMX) registers[2 * Reg.CR4]! |= CR4_VMXE;
  return registers;
}

/** A vCPU begins with all registers 0: it gets those of the first. */
function furtherCpu(number: number, registers: Uint32Array): ProgramStep[] {
  const sets: ProgramStep[] = [];
  for (let register = 0; 2 * register < registers.length; register++) {
    const [lo, hi] = [registers[2 * register]!, registers[2 * register + 1]!];
    if (lo !== 0 || hi !== 0) sets.push(setStep(register, lo, hi));
  }
  return [vcpuStep(number), ...sets, vcpuStep(0)];
}

function nestedTables(random: Random, scene: NestedScene): ProgramStep[] {
  const { l2, second } = scene;
  const steps = [...buildTables(random, l2)];
  if (second === null) return steps;
  for (const table of second.tables) {
    for (const index of indicesOf(second, table)) {
      if (!random.chance(SECOND_PRESENT)) continue;
      const { lo, hi } = addressOf(table.frame);
      const value = secondEntry(random, second, table, index);
      steps.push(storeStep({ lo: lo + second.entryBytes * index, hi }, value, second.entryBytes));
    }
  }
  return [...steps, ...eptpList(scene), ...noise(random, scene)];
}

function firstOfL2(random: Random, scene: NestedScene, tables: readonly ProgramStep[]): Uint32Array {
  return modeOf(scene, firstRegisters(random, scene.l2, tables));
}

function allTables(l1: Scene, scene: NestedScene | null): ProgramTables[] {
  const own = (each: Scene): ProgramTables => ({
    frames: each.tables.map(({ frame }) => frame + each.home),
    entryBytes: each.entryBytes,
    accessedDirty: X86_ACCESSED_DIRTY,
  });
  if (scene === null) return [own(l1)];
  const { l2, second } = scene;
  if (second === null) return [own(l1), own(l2)];
  const accessedDirty = second.ept ? EPT_ACCESSED_DIRTY : X86_ACCESSED_DIRTY;
  const frames = second.tables.map(({ frame }) => frame);
  return [own(l1), own(l2), { frames, entryBytes: second.entryBytes, accessedDirty }];
}
