/**
 * The observation row: one thing that can be observed of a step, as a 32-bit word and two 64-bit fields, `address`
 * and `value`. Machines write rows, trace files hold rows, and comparing a step is comparing two runs of rows.
 *
 * | bits  | meaning                                                                            |
 * | ----- | ---------------------------------------------------------------------------------- |
 * | 4:0   | kind, one of `Obs`                                                                 |
 * | 6:5   | dimension: whose tables, one of `Dim`                                              |
 * | 9:7   | level: 1 PTE … 5 PML5E; for PDPTE rows the index 0-3                               |
 * | 10    | entry of 4 bytes (32-bit paging)                                                   |
 * | 30:11 | by kind, see below                                                                 |
 * | 31    | machine only: the value was first learned in this very step, so it predicts nothing |
 */

import { namesByNumber } from './names.ts';

export const Obs = {
  NONE: 0,
  /** A paging-structure entry was read: `address` where, `value` what. */
  ELEMENT: 1,
  /** A PDPTE register was used: level = index, `value` = its contents. */
  PDPTE: 2,
  /** A second-stage translation begins: `address` = the guest-physical address. Bits 15:11 and 20:16, see below. */
  NESTED_WALK: 3,
  /** A paging-structure entry was written back with A and/or D set: `address`, `value`. */
  ENTRY_WRITE: 4,
  /** The access was translated: `address` physical, `value` guest-physical; bits 16:11 = log2 of the page size. */
  TRANSLATED: 5,
  /** The access went through, its physical address was not seen. Matches any TRANSLATED. */
  COMPLETED: 6,
  /** Exception: bits 18:11 = vector, `address` = CR2 (#PF only), `value` = error code. */
  EXCEPTION: 7,
  /** EPT violation: `address` = guest-physical address, `value` = exit qualification. */
  EPT_VIOLATION: 8,
  /** EPT misconfiguration: `address` = guest-physical address. */
  EPT_MISCONFIG: 9,
  /** Nested page fault: `address` = EXITINFO2, `value` = EXITINFO1. */
  NPF: 10,
  /** The guest-linear address that an EPT exit reported: `address`. Absent when the exit reports none. */
  EXIT_LINEAR: 11,
  /** PDPTE registers loaded (`value` = 1) or refused because of a reserved bit (`value` = 0). */
  PDPTE_LOADED: 12,
  /** A register after the step: bits 16:11 = register, `value` = contents. */
  REGISTER: 13,
  /** A paging-structure entry re-read after the step: `address`, `value`. */
  ENTRY_AFTER: 14,
  /** Machine only: the step needs something that the machine does not model; bits 18:11 = one of `NotModelled`. */
  NOT_MODELLED: 15,
  /** The access did not go through; how is not known. Matches any exception or exit: the twin of COMPLETED. */
  FAULTED: 16,
  /** A tracepoint of KVM's: see `kvm-event.ts`. */
  KVM_EVENT: 17,
  /** Further fields of the KVM_EVENT before it. */
  KVM_MORE: 18,
  /** The hypervisor's page-modification log is full: `address` = guest-physical address that could not be logged. */
  PML_FULL: 19,
} as const;

export type ObsKind = (typeof Obs)[keyof typeof Obs];

export const OBS_KIND_COUNT = 20;

/** Names by number, as the text form, the receipt and `--filter` spell them. */
export const OBS_NAMES = namesByNumber(Obs);

export const OBS_KIND_MASK = 0x1f;

/** Whose tables: those that CR3 points at, EPT, NPT, or sub-page permission tables. */
export const Dim = { GUEST: 0, EPT: 1, NPT: 2, SPP: 3 } as const;
export const DIM_NAMES = namesByNumber(Dim);
export const OBS_DIM_SHIFT = 5;
export const OBS_DIM_MASK = 3;
export const OBS_LEVEL_SHIFT = 7;
export const OBS_LEVEL_MASK = 7;
export const OBS_FOUR_BYTES = 1 << 10;

// NESTED_WALK
/** One of `AccessType`: what the second stage was asked for. */
export const OBS_NESTED_ACCESS_SHIFT = 11;
export const OBS_NESTED_ACCESS_MASK = 3;
/** Of a paging-structure entry (`p`); clear: of the final address (`f`). */
export const OBS_NESTED_OF_TABLE = 1 << 13;
/** No guest-linear address goes with this translation. */
export const OBS_NESTED_NO_LINEAR = 1 << 16;
/** User page, writable, no-execute as far as the guest's entries combined then; supervisor shadow stack. EPT only. */
export const OBS_NESTED_USER = 1 << 17;
export const OBS_NESTED_WRITABLE = 1 << 18;
export const OBS_NESTED_NX = 1 << 19;
export const OBS_NESTED_SHADOW_STACK = 1 << 20;

export const OBS_PAGE_SHIFT_SHIFT = 11;
export const OBS_PAGE_SHIFT_MASK = 0x3f;
export const OBS_VECTOR_SHIFT = 11;
export const OBS_VECTOR_MASK = 0xff;
/** EXCEPTION: the hypervisor of the running guest intercepts it: a VM exit, nothing reaches the guest. */
export const OBS_EXCEPTION_EXITS = 1 << 19;
export const OBS_REGISTER_SHIFT = 11;
export const OBS_REGISTER_MASK = 0x3f;
export const OBS_NOT_MODELLED_SHIFT = 11;
export const OBS_NOT_MODELLED_MASK = 0xff;

/** Set by the machine on a row whose value it learned in the same step. Never in a trace file. */
export const OBS_LEARNED = 0x8000_0000;

/** What the machine may meet and does not model, by number; reports and `--allow-unmodelled` use the names. */
export const NotModelled = {
  LASS: 1,
  SUB_PAGE_PERMISSIONS: 2,
  LAM: 3,
  PAGING_MODE: 4,
  NESTED: 5,
  REFUSED_ENTRY: 6,
} as const;
export const NOT_MODELLED_NAMES: Readonly<Record<number, string>> = {
  1: 'lass',
  2: 'sub-page-permissions',
  3: 'lam',
  4: 'paging-mode',
  5: 'nested',
  6: 'refused-entry',
};

export function elementRow(dim: number, level: number, fourBytes: boolean): number {
  return Obs.ELEMENT | (dim << OBS_DIM_SHIFT) | (level << OBS_LEVEL_SHIFT) | (fourBytes ? OBS_FOUR_BYTES : 0);
}

export function entryWriteRow(dim: number, level: number, fourBytes: boolean): number {
  return Obs.ENTRY_WRITE | (dim << OBS_DIM_SHIFT) | (level << OBS_LEVEL_SHIFT) | (fourBytes ? OBS_FOUR_BYTES : 0);
}

/** Kinds of observation as a mask, one bit each: what a recorder can see, or what can belong to a step. */
export function obsMask(...kinds: readonly ObsKind[]): number {
  return kinds.reduce<number>((mask, kind) => mask | (1 << kind), 0) >>> 0;
}

/** The ways in which an access does not go through: what FAULTED matches. */
export const OBS_FAULTS = obsMask(Obs.EXCEPTION, Obs.EPT_VIOLATION, Obs.EPT_MISCONFIG, Obs.NPF, Obs.PML_FULL);

/** Whether the row tells of an exception or exit that ended an access. */
export function isFault(op: number): boolean {
  return ((OBS_FAULTS >>> (op & OBS_KIND_MASK)) & 1) !== 0;
}

/** Whose tables a row is about, one of `Dim`. */
export function observationDim(op: number): number {
  return (op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK;
}

/** Level of the entry that a row is about. */
export function observationLevel(op: number): number {
  return (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
}
