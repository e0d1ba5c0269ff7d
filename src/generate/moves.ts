/** What a random program does next: a unit of steps that belong together. */

import type { Word64 } from '../bits/word64.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_NXE,
  Reg,
} from '../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_SHIFT,
  ACCESS_SOFTWARE,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  STEP_KIND_MASK,
  StepKind,
} from '../formats/step.ts';
import { changedEntry, randomEntry } from './entries.ts';
import type { Guest, Place } from './guest.ts';
import { hostMove } from './host-moves.ts';
import { invlpgStep, invpcidStep, type ProgramStep, rareStep, step, storeStep, writeStep } from './program.ts';
import type { Random } from './random.ts';
import { addressOf } from './scene.ts';

export type Unit = ProgramStep[];
export type Move = (random: Random, guest: Guest) => Unit;

const PCIDS = 3;
/** Pages looked at for one that is mapped: most accesses should get somewhere. */
const TRIES = 3;
const NO_FLUSH_HI = 0x8000_0000;

/** An access to a page, at any offset that is a multiple of 8. */
export function accessTo(random: Random, guest: Guest, page: Word64): ProgramStep {
  const user = random.chance(0.5);
  const implicit = !user && random.chance(0.06);
  const type = random.weighted([
    [45, AccessType.READ],
    [30, AccessType.WRITE],
    [15, AccessType.FETCH],
    [10, AccessType.RMW],
  ]);
  const software = !implicit && random.chance(0.05) ? ACCESS_SOFTWARE : 0;
  // An implicit supervisor access with AC set is one that KVM cannot tell from an explicit one (facts/kvm-mmu.md §3.3).
  const ac = !implicit && (guest.register(Reg.CR4) & CR4_SMAP) !== 0 && random.chance(0.3) ? ACCESS_AC : 0;
  const cpl = user || implicit ? 3 << ACCESS_CPL_SHIFT : 0;
  const op = StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT) | cpl | (user ? ACCESS_USER : 0) | ac | software;
  return step(op, { lo: (page.lo | (8 * random.below(512))) >>> 0, hi: page.hi });
}

export const accesses: Move = (random, guest) => {
  let page = guest.page(random);
  for (let tries = 0; tries < TRIES && guest.paging && !guest.isMapped(page); tries++) page = guest.page(random);
  return [accessTo(random, guest, page)];
};

/** An entry of the path to a page that is in use, or any. */
function place(random: Random, guest: Guest, page: Word64): Place {
  const path = guest.paging ? guest.path(page) : [];
  // A page that is not there: the entry that is missing, in most cases.
  const last = path.at(-1);
  if (last !== undefined && (last.value.lo & 1) === 0 && random.chance(0.6)) return last;
  if (last !== undefined && random.chance(0.8)) return random.pick(path);
  const table = random.pick(guest.scene.tables);
  return guest.entryAt(table, random.pick(guest.scene.indices[table.level]!));
}

function store({ address }: Place, value: Word64, guest: Guest, random: Random): Unit {
  if (guest.scene.entryBytes === 4) return [storeStep(address, value, 4)];
  if (random.chance(0.9)) return [storeStep(address, value, 8)];
  // As a guest with 32-bit words does it.
  const upper = { lo: (address.lo + 4) >>> 0, hi: address.hi };
  const halves = [storeStep(address, value, 4), storeStep(upper, { lo: value.hi, hi: 0 }, 4)];
  return random.chance(0.5) ? halves : halves.toReversed();
}

/** How a kernel makes a change known; missing in a third of all cases. */
function invalidation(random: Random, guest: Guest, page: Word64): Unit {
  switch (
    random.weighted([
      [45, 'page'],
      [8, 'root'],
      [6, 'pcid'],
      [6, 'global'],
      [35, 'none'],
    ] as const)
  ) {
    case 'page':
      return [invlpgStep(page)];
    case 'root':
      return reload(guest);
    case 'pcid':
      return invpcid(random, guest, page);
    case 'global':
      return toggledTwice(guest, CR4_PGE);
    case 'none':
      return [];
  }
}

/** MOV to CR3 of what it holds. */
function reload(guest: Guest): Unit {
  return [writeStep(Reg.CR3, guest.register(Reg.CR3), guest.machine.registers[2 * Reg.CR3 + 1])];
}

function toggledTwice(guest: Guest, bit: number): Unit {
  const cr4 = guest.register(Reg.CR4);
  return [writeStep(Reg.CR4, cr4 ^ bit), writeStep(Reg.CR4, cr4)];
}

function invpcid(random: Random, guest: Guest, page: Word64): Unit {
  if (!guest.longMode) return [invlpgStep(page)];
  return [invpcidStep(random.below(4), guest.pcide ? random.below(PCIDS) : 0, page)];
}

export const edits: Move = (random, guest) => {
  const page = guest.page(random);
  const at = place(random, guest, page);
  const { scene } = guest;
  const stores = store(at, changedEntry(random, scene, at.level, at.value), guest, random);
  // NPT has no PDPTE registers (APM vol. 2 15.25.10): there a change counts at once, so it is made known at once.
  const pdpte = scene.rootLevel === 3 && at.level === 3 && scene.header.processor.vendor === 'amd';
  const known = pdpte && guest.paging ? reload(guest) : invalidation(random, guest, page);
  return [...stores, ...known];
};

/** Whole tables: cleared, filled, or copied, as by a fork. Tables of PDPTEs are left alone. */
export const tableEdits: Move = (random, guest) => {
  const { tables, rootLevel, entryBytes } = guest.scene;
  const table = random.pick(tables.filter(({ level }) => rootLevel !== 3 || level < 3));
  const address = guest.addressOf(table);
  const page = guest.page(random);
  const known = random.chance(0.6) ? reload(guest) : invalidation(random, guest, page);
  if (random.chance(0.25)) return [step(StepKind.CLEAR_PAGE, address), ...known];
  if (random.chance(0.5)) {
    const first = randomEntry(random, guest.scene, table.level);
    const start = random.pick(guest.scene.indices[table.level]!);
    const count = Math.min(random.between(2, 20), 4096 / entryBytes - start);
    const fill = rareStep({
      kind: 'entry-fill',
      address: { lo: (address.lo + entryBytes * start) >>> 0, hi: address.hi },
      count,
      first,
      increment: { lo: random.pick([0, 0x1000]), hi: 0 },
      size: entryBytes,
    });
    return [fill, ...known];
  }
  const others = tables.filter(({ level }) => level === table.level);
  const { lo } = guest.addressOf(random.pick(others));
  const words = Uint32Array.from({ length: 1024 }, (_, i) => guest.machine.readEntry(0, lo + 4 * i, 0)[0]);
  return [rareStep({ kind: 'page-image', address, words }), ...known];
};

export const invalidations: Move = (random, guest) => {
  const page = guest.page(random);
  return random.chance(0.5) ? [invlpgStep(page)] : invpcid(random, guest, page);
};

/** MOV to CR3: one of the roots, with a PCID if there are any. */
export const rootSwitches: Move = (random, guest) => {
  const { tables, rootLevel, rootOffset } = guest.scene;
  const { frame } = random.pick(tables.filter(({ level }) => level === rootLevel));
  const pcid = guest.pcide ? random.below(PCIDS) : 0;
  const noFlush = guest.pcide && random.chance(0.5) ? NO_FLUSH_HI : 0;
  return [writeStep(Reg.CR3, addressOf(frame).lo | rootOffset | pcid, noFlush)];
};

export const controlWrites: Move = (random, guest) => {
  const cr4 = guest.register(Reg.CR4);
  const long = guest.longMode;
  const keys = guest.scene.keys;
  return random.weighted<() => Unit>([
    [8, () => [writeStep(Reg.CR0, guest.register(Reg.CR0) ^ CR0_WP)]],
    [4, () => [writeStep(Reg.CR4, cr4 ^ CR4_SMEP)]],
    [4, () => [writeStep(Reg.CR4, cr4 ^ CR4_SMAP)]],
    [3, () => [writeStep(Reg.CR4, cr4 ^ CR4_PGE)]],
    [2, () => [writeStep(Reg.CR4, cr4 ^ CR4_PSE)]],
    [long ? 8 : 0, () => [writeStep(Reg.CR4, cr4 ^ CR4_PCIDE)]],
    [keys ? 3 : 0, () => [writeStep(Reg.CR4, cr4 ^ CR4_PKE)]],
    [keys ? 4 : 0, () => [writeStep(Reg.PKRU, random.uint32())]],
    [guest.scene.rootLevel === 2 ? 1 : 3, () => [writeStep(Reg.EFER, guest.register(Reg.EFER) ^ EFER_NXE)]],
    [3, () => [writeStep(Reg.CR0, guest.register(Reg.CR0) ^ (CR0_PG | 0))]],
  ])();
};

const MOVES: readonly (readonly [number, Move])[] = [
  [50, accesses],
  [22, edits],
  [3, tableEdits],
  [5, invalidations],
  [9, rootSwitches],
  [8, controlWrites],
];

const HOST_MOVES: readonly (readonly [number, Move])[] = [...MOVES, [9, hostMove]];

/** Stores go to memory that both machines have and that KVM may write A and D bits to. */
export function isBacked({ op, addressLo, addressHi }: ProgramStep, { scene }: Guest): boolean {
  if ((op & STEP_KIND_MASK) !== StepKind.STORE || scene.slots.length === 0) return true;
  const frame = addressHi * 0x10_0000 + (addressLo >>> 12);
  return scene.slots.some((slot) => !slot.readOnly && frame >= slot.frame && frame < slot.frame + slot.pages);
}

/** The next unit, none if that is not to be; every step of it is one that a processor accepts. */
export function nextUnit(random: Random, guest: Guest): Unit {
  // Nothing much happens while the guest does not page: it soon goes on.
  if (!guest.paging && random.chance(0.3)) {
    const on = writeStep(Reg.CR0, guest.register(Reg.CR0) | CR0_PG);
    if (guest.accepts(on)) return [on];
  }
  const unit = random.weighted(guest.scene.slots.length > 0 ? HOST_MOVES : MOVES)(random, guest);
  return unit.every((each) => isBacked(each, guest)) ? unit : [];
}
