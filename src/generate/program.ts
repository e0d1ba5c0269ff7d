/** A program: what a guest, and the host below it, do one step after the other, from a state of its own on. */

import type { Word64 } from '../bits/word64.ts';
import {
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  STEP_REGISTER_SHIFT,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Stimulus } from '../trace/stimulus.ts';

/** How the guest pages. */
export const PAGINGS = ['4-level', '5-level', 'pae', '32-bit'] as const;
export type Paging = (typeof PAGINGS)[number];

/**
 * Whether the guest is a hypervisor: with EPT or NPT for its guest, or `none`, without nested paging; `no`: it is none.
 */
export const NESTINGS = ['no', 'npt', 'ept', 'none'] as const;
export type Nesting = (typeof NESTINGS)[number];

/** A step as machines take it; halves as in the trace file. */
export interface ProgramStep {
  /** The step word (`formats/step.ts`). */
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  /** Of a RARE step. */
  readonly stimulus?: Stimulus;
}

export interface Program {
  readonly header: TraceHeader;
  readonly paging: Paging;
  readonly nested: Nesting;
  /** Its tables: those of the guest, of the guest's guest, and its EPT or NPT. */
  readonly tables: readonly ProgramTables[];
  /** Only KVMs of profile 7.3 offer what it makes use of. */
  readonly recent: boolean;
  /** The vCPU before the first step: 2 × REGISTER_COUNT elements. */
  readonly registers: Uint32Array;
  /** Steps that belong together: a smaller program has all of a unit or nothing. */
  readonly units: readonly (readonly ProgramStep[])[];
  /** So many units at the beginning that every smaller program needs, too. */
  readonly pinned: number;
}

/** Tables of one format. */
export interface ProgramTables {
  /** Guest frames. */
  readonly frames: readonly number[];
  readonly entryBytes: 4 | 8;
  /** Accessed and dirty bits of their entries' low halves; 0: a page that is no table, which must be the same. */
  readonly accessedDirty: number;
}

export const X86_ACCESSED_DIRTY = (1 << 5) | (1 << 6);
export const EPT_ACCESSED_DIRTY = (1 << 8) | (1 << 9);

const ZERO: Word64 = { lo: 0, hi: 0 };

export function step(op: number, address: Word64 = ZERO, operand: Word64 = ZERO): ProgramStep {
  return {
    op: op >>> 0,
    addressLo: address.lo >>> 0,
    addressHi: address.hi >>> 0,
    operandLo: operand.lo >>> 0,
    operandHi: operand.hi >>> 0,
  };
}

export function rareStep(stimulus: Stimulus): ProgramStep {
  return { ...step(StepKind.RARE), stimulus };
}

export function storeStep(address: Word64, value: Word64, size: 4 | 8): ProgramStep {
  return step(StepKind.STORE | (size << STORE_SIZE_SHIFT), address, size === 4 ? { lo: value.lo, hi: 0 } : value);
}

/** REGISTER_WRITE. */
export function writeStep(register: number, lo: number, hi = 0): ProgramStep {
  return step(StepKind.REGISTER_WRITE | (register << STEP_REGISTER_SHIFT), ZERO, { lo, hi });
}

/** REGISTER_SET. */
export function setStep(register: number, lo: number, hi = 0): ProgramStep {
  return step(StepKind.REGISTER_SET | (register << STEP_REGISTER_SHIFT), ZERO, { lo, hi });
}

/** INVEPT, INVVPID and INVLPGA; `type` 0 where there are none. */
export function invalidateStep(instruction: number, type: number, address: Word64, tag: Word64): ProgramStep {
  const op = (instruction << INVALIDATION_SHIFT) | (type << INVALIDATION_TYPE_SHIFT);
  return step(StepKind.INVALIDATE | op, address, tag);
}

export function invlpgStep(address: Word64): ProgramStep {
  return step(StepKind.INVALIDATE | (Invalidation.INVLPG << INVALIDATION_SHIFT), address);
}

/** `type` 0 to 3 (SDM vol. 2A, INVPCID). */
export function invpcidStep(type: number, pcid: number, address: Word64): ProgramStep {
  const op = (Invalidation.INVPCID << INVALIDATION_SHIFT) | (type << INVALIDATION_TYPE_SHIFT);
  return step(StepKind.INVALIDATE | op, type === 0 ? address : ZERO, { lo: type <= 1 ? pcid : 0, hi: 0 });
}

/** What machines have in common, as far as programs run on them. */
interface Runs {
  setRegister(register: number, lo: number, hi: number): void;
  apply(
    ordinal: number,
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
    stimuli: readonly Stimulus[],
  ): void;
}

const NO_STIMULI: readonly Stimulus[] = [];

export function applyStep(machine: Runs, ordinal: number, each: ProgramStep, extra = 0): void {
  const { op, addressLo, addressHi, operandLo, operandHi, stimulus } = each;
  const stimuli = stimulus === undefined ? NO_STIMULI : [stimulus];
  machine.apply(ordinal, op | extra, addressLo | 0, addressHi | 0, operandLo | 0, operandHi | 0, stimuli);
}

/** Puts the program's registers into a machine. */
export function loadRegisters(machine: Runs, registers: Uint32Array): void {
  for (let register = 0; 2 * register < registers.length; register++) {
    machine.setRegister(register, registers[2 * register]!, registers[2 * register + 1]!);
  }
}
