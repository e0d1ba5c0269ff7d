/**
 * The steps that the last one of a list depends on, by what an MMU depends on: words and frames of the tables that walks
 * read and KVM builds from, registers, linear addresses that TLB entries and SPTEs are for, transitions, host memory.
 *
 * A slice is a proposal: what a machine really depends on (a frame reused, a list's order) can be more. Whoever slices
 * tries whether it serves, and takes a wider one if not.
 */

import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs, obsMask } from '../formats/observation.ts';
import {
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import {
  ROW,
  ROW_ADDRESS_HI,
  ROW_ADDRESS_LO,
  ROW_OP,
  ROW_VALUE_HI,
  ROW_VALUE_LO,
  type RowLog,
} from '../paging/row-log.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { columnsOf, type ListedStep, type StepList } from './minimise-steps.ts';

/**
 * `near`: what puts a value into a word that a kept step reads, or is about its linear page. `far`: what touches a frame
 * that a kept step touches, with all invalidations and transitions.
 */
export type SliceWidth = 'near' | 'far';
export const SLICE_WIDTHS = ['near', 'far'] as const satisfies readonly SliceWidth[];

/** Rows whose address is one of a paging-structure entry. */
const ENTRY_ROWS = obsMask(Obs.ELEMENT, Obs.ENTRY_WRITE, Obs.ENTRY_AFTER);

/** Guest-physical places that a step has to do with. */
interface Touched {
  /** 8-byte words that hold entries, by number: address / 8. */
  readonly words: readonly number[];
  readonly frames: readonly number[];
  /** The step made rows at all. */
  readonly isLogged: boolean;
}

function wordNumber(lo: number, hi: number): number {
  return (hi & 0xf_ffff) * 0x2000_0000 + (lo >>> 3);
}

const WORDS_PER_FRAME = 512;

function frameOfWord(word: number): number {
  return Math.floor(word / WORDS_PER_FRAME);
}

/** The guest frame that an event of KVM's names, or -1. */
function frameOfEvent(op: number, addressLo: number, addressHi: number): number {
  switch (kvmEventOf(op)) {
    case KvmEvent.GET_PAGE:
    case KvmEvent.SYNC_PAGE:
    case KvmEvent.UNSYNC_PAGE:
    case KvmEvent.PREPARE_ZAP_PAGE:
    case KvmEvent.MARK_MMIO_SPTE:
    case KvmEvent.SET_SPTE:
    case KvmEvent.SPTE_REQUESTED:
    case KvmEvent.TDP_SPTE_CHANGED:
    case KvmEvent.SPLIT_HUGE_PAGE:
      return (addressHi >>> 0) * 0x1_0000_0000 + (addressLo >>> 0);
    default:
      return -1;
  }
}

function touchedBy({ rows, count }: RowLog): Touched {
  const words = new Set<number>();
  const frames = new Set<number>();
  for (let at = 0; at < count * ROW; at += ROW) {
    const op = rows[at + ROW_OP]!;
    const [lo, hi] = [rows[at + ROW_ADDRESS_LO]!, rows[at + ROW_ADDRESS_HI]!];
    const kind = op & OBS_KIND_MASK;
    const event = kind === Obs.KVM_EVENT ? kvmEventOf(op) : -1;
    if (
      ((ENTRY_ROWS >>> kind) & 1) !== 0 ||
      event === KvmEvent.PAGING_ELEMENT ||
      event === KvmEvent.SET_ACCESSED_BIT ||
      event === KvmEvent.SET_DIRTY_BIT
    ) {
      words.add(wordNumber(lo, hi));
    } else if (kind === Obs.TRANSLATED) {
      frames.add(frameOfWord(wordNumber(lo, hi)));
      frames.add(frameOfWord(wordNumber(rows[at + ROW_VALUE_LO]!, rows[at + ROW_VALUE_HI]!)));
    } else if (event >= 0) {
      const frame = frameOfEvent(op, lo, hi);
      if (frame >= 0) frames.add(frame);
    }
  }
  for (const word of words) frames.add(frameOfWord(word));
  return { words: [...words], frames: [...frames], isLogged: count > 0 };
}

/** Words that a step or a stimulus writes: the first, and how many; none: 0. */
function written({ op, addressLo, addressHi, stimulus }: ListedStep): { first: number; count: number } {
  const place = (lo: number, hi: number, bytes: number): { first: number; count: number } => ({
    first: wordNumber(lo, hi),
    count: Math.ceil(((lo & 7) + bytes) / 8),
  });
  switch (op & STEP_KIND_MASK) {
    case StepKind.STORE:
      return place(addressLo, addressHi, 8);
    case StepKind.CLEAR_PAGE:
      return place(addressLo, addressHi, 0x1000);
    default:
      break;
  }
  if (stimulus?.kind === 'page-image') return place(stimulus.address.lo, stimulus.address.hi, 0x1000);
  if (stimulus?.kind === 'entry-fill') {
    return place(stimulus.address.lo, stimulus.address.hi, stimulus.count * stimulus.size);
  }
  return { first: 0, count: 0 };
}

/** The page that a step is about: linear, of a fault under two-dimensional paging guest-physical; -1: none. */
function pageOf({ op, addressLo, addressHi }: ListedStep): number {
  switch (op & STEP_KIND_MASK) {
    case StepKind.ACCESS:
    case StepKind.FAULT_EXIT:
    case StepKind.SOFTWARE_WALK:
    case StepKind.GPA_ACCESS:
    case StepKind.INVALIDATE:
      return addressHi * 0x10_0000 + (addressLo >>> 12);
    default:
      return -1;
  }
}

/** Whether an invalidation is about one linear address. */
function namesAddress(op: number): boolean {
  const which = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
  const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
  if (which === Invalidation.INVLPG || which === Invalidation.INVLPGA) return true;
  return (which === Invalidation.INVPCID || which === Invalidation.INVVPID) && type === 0;
}

const REPEATED: readonly Stimulus['kind'][] = ['note', 'page-image', 'entry-fill'];

/** What the machine touches in each step of a list. */
export function touchedPlaces(list: StepList, machine: Machine): Touched[] {
  const { registers, op, address, operand, stimuli, stepCount } = columnsOf(list, false);
  for (let register = 0; 2 * register < registers.length; register++) {
    machine.setRegister(register, registers[2 * register]!, registers[2 * register + 1]!);
  }
  const all: Touched[] = [];
  for (let i = 0; i < stepCount; i++) {
    const at = 2 * i;
    machine.apply(i, op[i]!, address[at]! | 0, address[at + 1]! | 0, operand[at]! | 0, operand[at + 1]! | 0, stimuli);
    if ((op[i]! & STEP_KIND_MASK) !== StepKind.VCPU) all.push(touchedBy(machine.log));
  }
  return all;
}

/** The list without what its last step does not depend on. `touched`: from `touchedPlaces` of the same list. */
export function slice(list: StepList, touched: readonly Touched[], width: SliceWidth): StepList {
  const slicing = new Slicing(width);
  const { steps } = list;
  const kept = steps.map(() => false);
  for (let i = steps.length - 1; i >= 0; i--) {
    kept[i] = slicing.keeps(steps[i]!, touched[i]!, i === steps.length - 1);
  }
  if (width === 'near') restoreTransitions(steps, kept);
  return { ...list, steps: steps.filter((_, i) => kept[i]) };
}

/** Goes backwards; knows what the steps kept so far need. */
class Slicing {
  private readonly isFar: boolean;
  private readonly words = new Set<number>();
  private readonly frames = new Set<number>();
  private readonly pages = new Set<number>();
  /** By vCPU: registers that are needed, and whether a transition and a VM entry are. */
  private readonly registers = new Map<number, Set<number>>();
  private readonly transition = new Set<number>();
  private readonly entry = new Set<number>();

  constructor(width: SliceWidth) {
    this.isFar = width === 'far';
  }

  keeps(step: ListedStep, touched: Touched, isLast: boolean): boolean {
    const kind = step.op & STEP_KIND_MASK;
    if (kind === StepKind.REGISTER_SET || kind === StepKind.REGISTER_WRITE) {
      return this.keepsRegister(step, touched) || isLast;
    }
    if (!isLast && !this.isNeeded(step, touched, kind)) return false;
    this.need(step, touched, kind);
    return true;
  }

  /** The last one of its register before a kept step; `far`: also one that does something. */
  private keepsRegister(step: ListedStep, touched: Touched): boolean {
    const register = (step.op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    const wanted = this.registers.get(step.vcpu)?.delete(register) === true;
    const isWrite = (step.op & STEP_KIND_MASK) === StepKind.REGISTER_WRITE;
    if (!wanted && !(this.isFar && (isWrite || touched.isLogged))) return false;
    if (isWrite) this.need(step, touched, StepKind.REGISTER_WRITE);
    return true;
  }

  private isNeeded(step: ListedStep, touched: Touched, kind: number): boolean {
    const { isFar } = this;
    switch (kind) {
      case StepKind.STORE:
      case StepKind.CLEAR_PAGE:
        return this.writesNeeded(step);
      case StepKind.RARE:
        if (step.stimulus?.kind === 'note') return false;
        return REPEATED.includes(step.stimulus!.kind) ? this.writesNeeded(step) : true;
      case StepKind.NESTED_ENTRY:
      case StepKind.NESTED_EXIT:
        return isFar || this.transition.has(step.vcpu);
      case StepKind.VM_ENTRY:
        return this.entry.has(step.vcpu) || (touched.isLogged && (isFar || this.touches(touched)));
      case StepKind.INVALIDATE:
        return isFar || !namesAddress(step.op) || this.pages.has(pageOf(step));
      case StepKind.ACCESS:
      case StepKind.FAULT_EXIT:
      case StepKind.SOFTWARE_WALK:
      case StepKind.GPA_ACCESS:
        return this.pages.has(pageOf(step)) || (isFar && this.touches(touched));
      default:
        return true;
    }
  }

  private touches({ frames }: Touched): boolean {
    return frames.some((frame) => this.frames.has(frame));
  }

  private writesNeeded(step: ListedStep): boolean {
    const { first, count } = written(step);
    if (this.isFar) {
      for (let frame = frameOfWord(first); frame <= frameOfWord(first + count - 1); frame++) {
        if (this.frames.has(frame)) return true;
      }
      return false;
    }
    for (let word = first; word < first + count; word++) if (this.words.has(word)) return true;
    return false;
  }

  private need(step: ListedStep, { words, frames }: Touched, kind: number): void {
    const { vcpu } = step;
    for (const word of words) this.words.add(word);
    for (const frame of frames) this.frames.add(frame);
    const page = pageOf(step);
    if (page >= 0) this.pages.add(page);
    const all = this.registers.get(vcpu) ?? new Set<number>();
    for (let register = 0; register <= STEP_REGISTER_MASK; register++) all.add(register);
    this.registers.set(vcpu, all);
    if (kind === StepKind.NESTED_ENTRY || kind === StepKind.NESTED_EXIT) this.transition.delete(vcpu);
    else this.transition.add(vcpu);
    if (kind === StepKind.VM_ENTRY) this.entry.delete(vcpu);
    else if (page >= 0) this.entry.add(vcpu);
  }
}

/** Between two entries kept an exit, between two exits an entry: the last that there is. */
function restoreTransitions(steps: readonly ListedStep[], kept: boolean[]): void {
  const later = new Map<number, { kind: number; other: number }>();
  for (let i = steps.length - 1; i >= 0; i--) {
    const { op, vcpu } = steps[i]!;
    const kind = op & STEP_KIND_MASK;
    if (kind !== StepKind.NESTED_ENTRY && kind !== StepKind.NESTED_EXIT) continue;
    const next = later.get(vcpu);
    if (!kept[i]) {
      if (next !== undefined && next.kind !== kind && next.other < 0) next.other = i;
      continue;
    }
    if (next !== undefined && next.kind === kind && next.other >= 0) kept[next.other] = true;
    later.set(vcpu, { kind, other: -1 });
  }
}
