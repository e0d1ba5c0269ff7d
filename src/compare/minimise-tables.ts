/**
 * Several tables in one page, as a table that refers to itself has several levels in one: each entry keeps its index if
 * that is free, or else gets another, and the address in question changes with it.
 *
 * Such tables are harder to read than others, so this is for traces that are long without it.
 */

import type { Word64 } from '../bits/word64.ts';
import { Reg } from '../formats/registers.ts';
import { STEP_KIND_MASK, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import type { PageImage } from '../trace/stimulus.ts';
import { asStore, plus } from './minimise-memory.ts';
import { joinedFrom, pagePrepared, storeSize } from './minimise-pages.ts';
import type { ListedStep, Reducible, StepList } from './minimise-steps.ts';

/** Where the indices of the levels are in an address. */
const INDEX_SHIFTS = [39, 30, 21, 12] as const;
const ENTRIES = 512;

/** Registers with the frame of a table. */
const ROOTS: readonly number[] = [Reg.CR3, Reg.EPTP, Reg.NCR3];

/** Kinds with an address that is translated. */
const TRANSLATED: readonly number[] = [
  StepKind.ACCESS,
  StepKind.FAULT_EXIT,
  StepKind.SOFTWARE_WALK,
  StepKind.GPA_ACCESS,
  StepKind.INVALIDATE,
];

/** A table `from` that goes into the page `to`; its entries' new indices by old ones; the level that it has. */
interface Move {
  readonly from: number;
  readonly to: number;
  readonly indices: ReadonlyMap<number, number>;
  readonly shift: number;
}

/** Fewer pages for tables, as long as fewer steps come of it; yields after every attempt. */
export function* joinTables(list: Reducible): Generator<void, void, void> {
  for (const { from, to } of pairsOf(list.best.steps)) {
    const { best } = list;
    const indices = newIndices(best.steps, from, to);
    if (indices === undefined) continue;
    const isMoved = [...indices].some(([index, other]) => index !== other);
    for (const shift of isMoved ? INDEX_SHIFTS : [0]) {
      if (list.best !== best || list.isOver()) break;
      const moved = withMove(best, { from, to, indices, shift });
      if (moved.steps.length >= best.steps.length) continue;
      list.attemptList(moved);
      yield;
    }
  }
}

function pairsOf(steps: readonly ListedStep[]): { from: number; to: number }[] {
  const pages = [...new Set(steps.map(pagePrepared))].filter((page) => page >= 0);
  return pages.flatMap((to) => pages.filter((from) => from !== to).map((from) => ({ from, to })));
}

/** Indices of the entries that stores and images write in a page; undefined: some are of 4 bytes. */
function entriesOf(steps: readonly ListedStep[], page: number): Set<number> | undefined {
  const stores = steps.filter((step) => pagePrepared(step) === page).flatMap(asStores);
  if (stores.some((step) => storeSize(step) !== 8)) return undefined;
  return new Set(stores.map(({ addressLo }) => (addressLo & 0xfff) >>> 3));
}

/** Of all entries in page `from`, where in page `to` there is room for them; undefined: there is none. */
function newIndices(steps: readonly ListedStep[], from: number, to: number): Map<number, number> | undefined {
  const [taken, moving] = [entriesOf(steps, to), entriesOf(steps, from)];
  if (taken === undefined || moving === undefined) return undefined;
  const indices = new Map<number, number>();
  for (const index of moving) if (!taken.has(index)) indices.set(index, index);
  let free = 0;
  for (const index of moving) {
    if (indices.has(index)) continue;
    while (taken.has(free) || moving.has(free)) free++;
    if (free >= ENTRIES) return undefined;
    indices.set(index, free++);
  }
  return indices;
}

/** The words of a page image that are not 0 as stores; another step as it is. */
function asStores(step: ListedStep): ListedStep[] {
  const { stimulus } = step;
  if (stimulus?.kind !== 'page-image') return [step];
  const { address, words } = stimulus;
  return Array.from({ length: ENTRIES }, (_, index) => ({ index, lo: words[2 * index]!, hi: words[2 * index + 1]! }))
    .filter(({ lo, hi }) => (lo | hi) !== 0)
    .map(({ index, lo, hi }) => asStore(step, plus(address, 8 * index), { lo, hi }, 8));
}

const PAGE = 0x1000;
/** Bits of an entry's frame in its high half. */
const FRAME_HI = 0xf_ffff;

/** An entry or a root that names page `from` names page `to`. */
function renamed({ lo, hi }: Word64, { from, to }: Move): Word64 {
  if ((hi & FRAME_HI) * 0x10_0000 + (lo >>> 12) !== from) return { lo, hi };
  return plus({ lo, hi }, (to - from) * PAGE);
}

function withMove(list: StepList, move: Move): StepList {
  const registers = list.registers.slice();
  for (const root of ROOTS) {
    const { lo, hi } = renamed({ lo: registers[2 * root]!, hi: registers[2 * root + 1]! }, move);
    registers[2 * root] = lo;
    registers[2 * root + 1] = hi;
  }
  const page = pageOf(list.steps.at(-1)!);
  const isInvolved = (step: ListedStep): boolean => [move.from, move.to].includes(pagePrepared(step));
  const steps = list.steps
    .flatMap((step) => (isInvolved(step) ? asStores(step) : [step]))
    .map((step) => movedStep(step, move, page));
  return { ...list, registers, steps: joinedPage(steps, move.to) };
}

function joinedPage(steps: readonly ListedStep[], page: number): ListedStep[] {
  let joined = [...steps];
  for (let i = 0; i < joined.length; i++) {
    if (pagePrepared(joined[i]!) === page) joined = joinedFrom(joined, i) ?? joined;
  }
  return joined;
}

/** Page that an address to be translated is in; -1: none. */
function pageOf({ op, addressLo, addressHi }: ListedStep): number {
  return TRANSLATED.includes(op & STEP_KIND_MASK) ? addressHi * 0x10_0000 + (addressLo >>> 12) : -1;
}

/** `page`: where the address in question is. */
function movedStep(step: ListedStep, move: Move, page: number): ListedStep {
  const kind = step.op & STEP_KIND_MASK;
  const address = { lo: step.addressLo, hi: step.addressHi };
  const operand = { lo: step.operandLo, hi: step.operandHi };
  const register = (step.op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
  if (kind === StepKind.STORE) {
    return with64(step, pagePrepared(step) === move.from ? newPlace(address, move) : address, renamed(operand, move));
  }
  if (step.stimulus?.kind === 'page-image') return { ...step, stimulus: movedImage(step.stimulus, move) };
  if ((kind === StepKind.REGISTER_SET || kind === StepKind.REGISTER_WRITE) && ROOTS.includes(register)) {
    return with64(step, address, renamed(operand, move));
  }
  return page >= 0 && pageOf(step) === page ? with64(step, withIndex(address, move), operand) : step;
}

/** An image of another page with what it says of this one. */
function movedImage(image: PageImage, move: Move): PageImage {
  const words = image.words.slice();
  for (let at = 0; at < words.length; at += 2) {
    const { lo, hi } = renamed({ lo: words[at]!, hi: words[at + 1]! }, move);
    words[at] = lo;
    words[at + 1] = hi;
  }
  return { ...image, words };
}

function with64(step: ListedStep, address: Word64, operand: Word64): ListedStep {
  return { ...step, addressLo: address.lo, addressHi: address.hi, operandLo: operand.lo, operandHi: operand.hi };
}

/** Where a word of the page that moves is afterwards. */
function newPlace(address: Word64, { from, to, indices }: Move): Word64 {
  const index = (address.lo & 0xfff) >>> 3;
  return plus(address, (to - from) * PAGE + ((indices.get(index) ?? index) - index) * 8);
}

/** The address that is translated by the entry in its new place. */
function withIndex(address: Word64, { indices, shift }: Move): Word64 {
  if (shift === 0) return address;
  const page = address.hi * 0x10_0000 + (address.lo >>> 12);
  const index = Math.floor(page / 2 ** (shift - 12)) % ENTRIES;
  return plus(address, ((indices.get(index) ?? index) - index) * 2 ** shift);
}
