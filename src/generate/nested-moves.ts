/** What a hypervisor and its guest do next: transitions, edits of EPT and NPT, invalidations across levels. */

import type { Word64 } from '../bits/word64.ts';
import { Obs } from '../formats/observation.ts';
import { CR0_PG, GuestMode, Reg, SECONDARY_VPID } from '../formats/registers.ts';
import { Invalidation, NESTED_SVM, NESTED_TLB_CONTROL_SHIFT, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { changedEntry, randomEntry } from './entries.ts';
import { hostMove } from './host-moves.ts';
import {
  accesses,
  controlWrites,
  edits,
  invalidations,
  isBacked,
  type Move,
  rootSwitches,
  tableEdits,
  type Unit,
} from './moves.ts';
import { mayEnter, mayLeave, type PendingExit } from './nested-rules.ts';
import { frameAddress, type NestedScene } from './nested-scene.ts';
import {
  invalidateStep,
  invlpgStep,
  type ProgramStep,
  rareStep,
  setStep,
  step,
  storeStep,
  writeStep,
} from './program.ts';
import type { Random } from './random.ts';
import { addressOf } from './scene.ts';
import { changedSecond, indicesOf, soundEntry } from './second-stage.ts';
import { type SecondPlace, STATE, type World } from './world.ts';

type NestedMove = (random: Random, world: World) => Unit;

/** VPIDs and ASIDs of L2s. */
const TAGS = 3;
const PDPTES = [Reg.PDPTE0, Reg.PDPTE1, Reg.PDPTE2, Reg.PDPTE3] as const;
const ZERO: Word64 = { lo: 0, hi: 0 };
const LOG_ENTRIES = 512;
const PF = 1 << 14;

// Exit reasons (SDM vol. 3C, appendix C) and codes (APM vol. 2, appendix C).
const VMX_EXCEPTION = 0;
const VMX_EPT_VIOLATION = 48;
const VMX_EPT_MISCONFIG = 49;
const VMX_PML_FULL = 62;
const SVM_PF = 0x4e;
const SVM_NPF = 0x400;
/** CPUID, VMCALL, external interrupt; CPUID, VMMCALL, INTR. */
const VMX_OTHER = [10, 18, 1] as const;
const SVM_OTHER = [0x72, 0x81, 0x60] as const;

/** TLB_CONTROL: nothing, all, this ASID, this ASID's that are not global. */
const FLUSH_ALL = 1;
const FLUSH_ASID = 3;
const FLUSH_ASID_LOCAL = 7;

/** Into L2, with the state it was left in, under controls that L1 chooses anew. Nothing if that state does not exist. */
const entry: NestedMove = (random, world) => {
  const scene = world.scene!;
  const { machine } = world;
  if (!world.l1.paging) return [];
  const { l2 } = world.cpu;
  const target = l2.slice();
  const set = (register: number, lo: number, hi = 0): void => {
    target[2 * register] = lo >>> 0;
    target[2 * register + 1] = hi >>> 0;
  };
  const keep = (register: number): number => target[2 * register]!;
  const vmx = scene.mode === GuestMode.VMX;
  set(Reg.GUEST_MODE, scene.mode);
  const tag = keep(vmx ? Reg.VPID : Reg.ASID);
  const newTag = tag === 0 || random.chance(0.2) ? random.between(1, TAGS) : tag;
  const root = keep(vmx ? Reg.EPTP : Reg.NCR3);
  const newRoot = root === 0 || random.chance(0.12) ? (scene.roots.length > 0 ? random.pick(scene.roots) : 0) : root;
  const registers: number[] = [...STATE];
  // PKRU is nobody's own.
  if (random.chance(0.1)) set(Reg.EXCEPTION_BITMAP, random.chance(0.5) ? PF : 0);
  registers.push(Reg.EXCEPTION_BITMAP);
  if (vmx) {
    const vpids = scene.vpids && random.chance(0.85);
    set(Reg.SECONDARY_CONTROLS, (scene.controls & ~SECONDARY_VPID) | (vpids ? SECONDARY_VPID : 0));
    set(Reg.VPID, vpids ? newTag : 0);
    registers.push(Reg.SECONDARY_CONTROLS, Reg.VPID, Reg.PFEC_MASK_MATCH);
    if (random.chance(0.15)) {
      const mask = random.pick([0, 0, 1, 2, 3, 4, 0x10, 0x1f]);
      set(Reg.PFEC_MASK_MATCH, mask, random.chance(0.8) ? mask & random.below(0x20) : random.below(0x20));
    }
    if (scene.second !== null) registers.push(Reg.EPTP);
    if (scene.second !== null) set(Reg.EPTP, newRoot);
    if (scene.eptpList !== 0) {
      set(Reg.EPTP_LIST, frameAddress(scene.eptpList));
      set(Reg.VM_FUNCTION_CONTROLS, 1);
      registers.push(Reg.EPTP_LIST, Reg.VM_FUNCTION_CONTROLS);
    }
    if (scene.log !== 0) {
      set(Reg.PML_ADDRESS, frameAddress(scene.log));
      const full = keep(Reg.PML_INDEX) >= LOG_ENTRIES;
      if (full ? random.chance(0.9) : random.chance(0.3)) {
        set(Reg.PML_INDEX, random.chance(0.5) ? random.below(6) : LOG_ENTRIES - 1);
      }
      registers.push(Reg.PML_ADDRESS, Reg.PML_INDEX);
    }
  } else {
    set(Reg.NESTED_CONTROL, scene.controls);
    set(Reg.ASID, newTag);
    registers.push(Reg.NESTED_CONTROL, Reg.ASID);
    if (scene.second !== null) {
      set(Reg.NCR3, newRoot);
      set(Reg.HOST_CR0, machine.register(Reg.CR0));
      set(Reg.HOST_CR4, machine.register(Reg.CR4));
      set(Reg.HOST_EFER, machine.register(Reg.EFER));
      registers.push(Reg.NCR3, Reg.HOST_CR0, Reg.HOST_CR4, Reg.HOST_EFER);
    }
  }
  // With EPT the PDPTEs are fields of the VMCS, which L1 leaves alone or fills in; otherwise they are loaded.
  if (scene.second === null) world.loadPdptes(target);
  else if (vmx && random.chance(0.3)) loadHomePdptes(world, target);
  if (!mayEnter(machine, target)) return [];
  const control = vmx ? 0 : tlbControl(random, scene);
  const unit = [
    GuestModeFirst(target),
    ...registers.map((each) => setStep(each, target[2 * each]!, target[2 * each + 1])),
  ];
  const op = StepKind.NESTED_ENTRY | (vmx ? 0 : NESTED_SVM | (control << NESTED_TLB_CONTROL_SHIFT));
  return [...unit, step(op)];
};

function GuestModeFirst(target: Uint32Array): ProgramStep {
  return setStep(Reg.GUEST_MODE, target[2 * Reg.GUEST_MODE]!);
}

function tlbControl(random: Random, { flushByAsid }: NestedScene): number {
  return random.weighted([
    [70, 0],
    [12, FLUSH_ALL],
    [flushByAsid ? 12 : 0, FLUSH_ASID],
    [flushByAsid ? 6 : 0, FLUSH_ASID_LOCAL],
  ]);
}

/** The PDPTEs of L2's table where it stands in L1's memory, unless one is unsound. */
function loadHomePdptes(world: World, target: Uint32Array): void {
  const { home } = world.scene!.l2;
  const cr3 = target.slice(2 * Reg.CR3, 2 * Reg.CR3 + 2);
  target[2 * Reg.CR3] = (cr3[0]! + (home << 12)) >>> 0;
  const before = target.slice();
  world.loadPdptes(target);
  if (!mayLeave(world.machine, target)) target.set(before);
  target[2 * Reg.CR3] = cr3[0]!;
}

/** Out of L2: NESTED_EXIT, and L1's registers as they were; or, at times, L2 again at once. */
export function leave(random: Random, world: World, exit: PendingExit | null): Unit {
  const scene = world.scene!;
  const vmx = scene.mode === GuestMode.VMX;
  const { code, address } = vmx ? vmxExit(random, exit) : svmExit(random, exit);
  const first = step(StepKind.NESTED_EXIT | (vmx ? 0 : NESTED_SVM), address, { lo: code, hi: 0 });
  const target = world.cpu.l1.slice();
  world.loadPdptes(target);
  if (random.chance(0.25) || !mayLeave(world.machine, target)) return [first, ...reentered(world)];
  const sets = STATE.map((each) => setStep(each, target[2 * each]!, target[2 * each + 1]));
  return [first, setStep(Reg.GUEST_MODE, GuestMode.NONE), ...sets];
}

/** Without nested paging an entry loads the PDPTEs of PAE paging. */
function reentered(world: World): Unit {
  if (world.scene!.second !== null) return [];
  const target = world.machine.registers.slice();
  world.loadPdptes(target);
  return PDPTES.map((each) => setStep(each, target[2 * each]!, target[2 * each + 1]));
}

function vmxExit(random: Random, exit: PendingExit | null): { code: number; address: Word64 } {
  if (exit === null) return { code: random.pick(VMX_OTHER), address: ZERO };
  switch (exit.kind) {
    case Obs.EPT_VIOLATION:
      return { code: VMX_EPT_VIOLATION, address: { lo: exit.infoLo, hi: exit.infoHi } };
    case Obs.EPT_MISCONFIG:
      return { code: VMX_EPT_MISCONFIG, address: ZERO };
    case Obs.PML_FULL:
      return { code: VMX_PML_FULL, address: ZERO };
    default:
      return { code: VMX_EXCEPTION, address: { lo: exit.lo, hi: exit.hi } };
  }
}

function svmExit(random: Random, exit: PendingExit | null): { code: number; address: Word64 } {
  if (exit === null) return { code: random.pick(SVM_OTHER), address: ZERO };
  const code = exit.kind === Obs.NPF ? SVM_NPF : SVM_PF;
  return { code, address: { lo: exit.infoLo, hi: exit.infoHi } };
}

/** An entry of the second stage that L2's last accesses read, or any. */
function secondPlace(random: Random, world: World): SecondPlace {
  const second = world.scene!.second!;
  if (world.lastSecond.length > 0 && random.chance(0.75)) {
    const { table, index } = random.pick(world.lastSecond);
    return world.secondAt(table, index);
  }
  const table = random.pick(second.tables);
  return world.secondAt(table, random.pick(indicesOf(second, table)));
}

function storeSecond(world: World, { table, index }: SecondPlace, value: Word64): Unit {
  const { entryBytes } = world.scene!.second!;
  const { lo, hi } = addressOf(table.frame);
  return [storeStep({ lo: lo + entryBytes * index, hi }, value, entryBytes)];
}

const secondEdits: NestedMove = (random, world) => {
  const second = world.scene!.second!;
  const place = secondPlace(random, world);
  const value = changedSecond(random, second, place.table, place.index, place.value);
  return [...storeSecond(world, place, value), ...secondInvalidation(random, world)];
};

/** Whole tables of the second stage, emptied. */
const secondClears: NestedMove = (random, world) => {
  const second = world.scene!.second!;
  const table = random.pick(second.tables.filter(({ level }) => level < second.rootLevel));
  const refill = indicesOf(second, table).flatMap((index) => {
    const value = soundEntry(random, second, table, index);
    return storeSecond(world, { table, index, value }, value);
  });
  const cleared = step(StepKind.CLEAR_PAGE, addressOf(table.frame));
  return [cleared, ...refill, ...secondInvalidation(random, world)];
};

/** What L1 does when L2 has met a missing or a wrong entry: makes it right. */
const repairs: NestedMove = (random, world) => {
  const second = world.scene!.second!;
  world.faulted = false;
  const last = world.lastSecond.at(-1);
  if (last === undefined) return [];
  const value = soundEntry(random, second, last.table, last.index);
  return [...storeSecond(world, last, value), ...(random.chance(0.3) ? secondInvalidation(random, world) : [])];
};

function secondInvalidation(random: Random, world: World): Unit {
  const scene = world.scene!;
  if (scene.mode === GuestMode.SVM) return random.chance(0.2) ? [invlpgaStep(random, world)] : [];
  return random.weighted<() => Unit>([
    [45, () => [inveptStep(random, world, 1)]],
    [12, () => [inveptStep(random, world, 2)]],
    [6, () => [invvpidStep(random, world)]],
    [37, () => []],
  ])();
}

function inveptStep(random: Random, world: World, type: number): ProgramStep {
  const scene = world.scene!;
  const current = world.cpu.l2[2 * Reg.EPTP]!;
  const eptp = current !== 0 && random.chance(0.8) ? current : random.pick(scene.roots);
  return invalidateStep(Invalidation.INVEPT, type, ZERO, type === 1 ? { lo: eptp, hi: 0 } : ZERO);
}

function invvpidStep(random: Random, world: World): ProgramStep {
  const type = random.below(4);
  const current = world.cpu.l2[2 * Reg.VPID]!;
  const vpid = current !== 0 && random.chance(0.7) ? current : random.between(1, TAGS);
  const page = world.l2!.workingSet.length > 0 ? random.pick(world.l2!.workingSet) : ZERO;
  const canonical = page.hi >>> 31 === 0 ? page.hi >>> 15 === 0 : page.hi >> 15 === -1;
  return invalidateStep(
    Invalidation.INVVPID,
    type,
    type === 0 && canonical ? page : ZERO,
    type === 2 ? ZERO : { lo: vpid, hi: 0 },
  );
}

function invlpgaStep(random: Random, world: World): ProgramStep {
  const guest = random.chance(0.7) ? world.l2! : world.l1;
  const page = guest.workingSet.length > 0 ? random.pick(guest.workingSet) : ZERO;
  const current = world.cpu.l2[2 * Reg.ASID]!;
  const asid = guest === world.l1 ? 0 : current !== 0 && random.chance(0.8) ? current : random.between(1, TAGS);
  // Outside long mode rAX has 32 bits.
  const hi = world.l1.longMode ? page.hi : 0;
  return invalidateStep(Invalidation.INVLPGA, 0, { lo: page.lo, hi }, { lo: asid, hi: 0 });
}

const nestedInvalidations: NestedMove = (random, world) => {
  const scene = world.scene!;
  if (scene.mode === GuestMode.SVM) return [invlpgaStep(random, world)];
  return scene.second !== null && random.chance(0.6)
    ? [inveptStep(random, world, random.between(1, 2))]
    : [invvpidStep(random, world)];
};

/** L1 edits L2's tables, where they stand in its memory. */
const foreignEdits: NestedMove = (random, world) => {
  const { scene } = world.l2!;
  const { address, level, value } = world.entryOf(random, world.l2!);
  const next = random.chance(0.5) ? changedEntry(random, scene, level, value) : randomEntry(random, scene, level);
  const known = random.chance(0.5) ? nestedInvalidations(random, world) : [];
  return [storeStep(address, next, scene.entryBytes), ...known];
};

/** L2 switches to another EPTP of L1's list. */
const vmfunc: NestedMove = (random, world) => {
  const { roots } = world.scene!;
  const index = random.below(roots.length);
  const tag = { lo: roots[index]!, hi: 0 };
  return [invalidateStep(Invalidation.EPTP_SWITCH, 0, { lo: index, hi: 0 }, tag)];
};

const leaves: NestedMove = (random, world) => leave(random, world, null);

const host: NestedMove = (random, world) => (world.l1.scene.slots.length > 0 ? hostMove(random, world.l1) : []);

/** The other vCPU goes on. */
const otherCpu: NestedMove = (_random, world) => [vcpuStep(1 - world.rules.current)];

/** An edit that is made known on both vCPUs. */
const sharedEdits: NestedMove = (random, world) => {
  const { guest, rules } = world;
  const unit = random.chance(0.8) ? edits(random, guest) : tableEdits(random, guest);
  const page = guest.page(random);
  const there = random.weighted<() => Unit>([
    [5, () => unit.filter(({ op }) => (op & STEP_KIND_MASK) === StepKind.INVALIDATE)],
    [3, () => [invlpgStep(page)]],
    [2, () => []],
  ])();
  return [...unit, vcpuStep(1 - rules.current), ...there, ...(random.chance(0.5) ? [vcpuStep(rules.current)] : [])];
};

export function vcpuStep(number: number): ProgramStep {
  return step(StepKind.VCPU, ZERO, { lo: number, hi: 0 });
}

/** A move of whoever runs, without knowledge of nesting. */
function own(move: Move): NestedMove {
  return (random, world) => move(random, world.guest);
}

/** L1's or L2's next unit; none if that is not to be. */
export function nextNestedUnit(random: Random, world: World): Unit {
  const { guest, scene, rules } = world;
  if (rules.pending !== null) return leave(random, world, rules.pending);
  if (!guest.paging && random.chance(0.4)) {
    const on = writeStep(Reg.CR0, guest.register(Reg.CR0) | CR0_PG);
    if (rules.accepts(on)) return [on];
  }
  const two = world.cpus.length > 1;
  const second = scene?.second != null;
  const move = world.inL2
    ? random.weighted<NestedMove>([
        [52, own(accesses)],
        [13, own(edits)],
        [2, own(tableEdits)],
        [4, own(invalidations)],
        [6, own(rootSwitches)],
        [6, own(controlWrites)],
        [scene!.eptpList === 0 ? 0 : 5, vmfunc],
        [12, leaves],
        [5, host],
        [two ? 6 : 0, otherCpu],
        [two ? 5 : 0, sharedEdits],
      ])
    : random.weighted<NestedMove>([
        [scene === null ? 0 : 30, entry],
        [scene === null ? 50 : 12, own(accesses)],
        [scene === null ? 12 : 5, own(edits)],
        [scene === null ? 3 : 1, own(tableEdits)],
        [scene === null ? 5 : 1, own(invalidations)],
        [scene === null ? 8 : 2, own(rootSwitches)],
        [scene === null ? 7 : 2, own(controlWrites)],
        [second ? 18 : 0, secondEdits],
        [second ? 1 : 0, secondClears],
        [second ? (world.faulted ? 60 : 6) : 0, repairs],
        [scene === null ? 0 : 6, foreignEdits],
        [scene === null ? 0 : 5, nestedInvalidations],
        [scene === null ? 7 : 3, host],
        [two ? 12 : 0, otherCpu],
        [two ? 14 : 0, sharedEdits],
      ]);
  const unit = move(random, world);
  return unit.every((each) => isBacked(each, world.l1) && isApart(each, world)) ? unit : [];
}

/**
 * PDPTEs of NPT12 do not change below an L2 that runs on another vCPU: KVM takes them over at VMRUN, and ends the VM when
 * one that was not there is met later (facts/kvm-mmu.md §8.2, `load`: an empty slot of the PAE root).
 */
function isApart({ op, addressLo, stimulus }: ProgramStep, { scene, cpus }: World): boolean {
  const second = scene?.second;
  if (second == null || second.ept || second.rootLevel !== 3 || cpus.length === 1) return true;
  const kind = op & STEP_KIND_MASK;
  const stores = kind === StepKind.STORE || kind === StepKind.CLEAR_PAGE;
  const filled = stimulus?.kind === 'entry-fill' || stimulus?.kind === 'page-image';
  if (!stores && !filled) return true;
  const frame = (filled ? stimulus.address.lo : addressLo) >>> 12;
  return !second.tables.some((table) => table.level === 3 && table.frame === frame);
}

/** The list of EPTPs that VMFUNC reads, with one that is none. */
export function eptpList({ eptpList: frame, roots }: NestedScene): ProgramStep[] {
  if (frame === 0) return [];
  return [...roots, 0].map((eptp, index) =>
    storeStep({ lo: frameAddress(frame) + 8 * index, hi: 0 }, { lo: eptp, hi: 0 }, 8),
  );
}

/** What L1's log may hold from before. */
export function noise(random: Random, { log }: NestedScene): ProgramStep[] {
  if (log === 0 || random.chance(0.5)) return [];
  const fill = { lo: 0x1000 * random.below(64), hi: 0 };
  const address = addressOf(log);
  return [
    rareStep({ kind: 'entry-fill', address, count: LOG_ENTRIES, first: fill, increment: { lo: 0, hi: 0 }, size: 8 }),
  ];
}
