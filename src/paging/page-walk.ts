/**
 * A page walk: reads page tables, builds none. `cpuWalk` walks the tables that CR3 points at, `tdpWalk` those of EPT
 * or NPT; a `cpuWalk` with a `second` stage sends every address it meets through it.
 *
 * This file holds what a walk is (role, format, root, result); how one runs is in `walk-x86.ts` and `walk-ept.ts`.
 */

import { Dim } from '../formats/observation.ts';
import type { PhysicalMemory } from './memory.ts';
import { permissionBitmap } from './permissions.ts';
import type { ReservedMasks } from './reserved-bits.ts';
import { reservedLongMode } from './reserved-bits.ts';
import type { RowLog } from './row-log.ts';

/** How a walk ended. */
export const Walk = {
  OK: 0,
  /** #PF; for an NPT walk, what becomes a nested page fault. `errorCode` says which. */
  PAGE_FAULT: 1,
  /** The second stage faulted; its own fields say how. */
  SECOND_STAGE: 2,
  EPT_VIOLATION: 3,
  EPT_MISCONFIG: 4,
} as const;

/** The check that ended a walk. */
export const Check = { NONE: 0, PRESENT: 1, RESERVED: 2, PERMISSION: 3 } as const;

/** What entry bits mean to a walk: reserved bits and permissions, rebuilt when the role changes. */
export interface PageFormat {
  reserved: ReservedMasks;
  permissions: Uint16Array;
  /** Protection-key fields for user pages (PKRU) and supervisor pages (PKRS) together, 0 = keys off. */
  keyMask: number;
  /** EPT: combinations of bits 5:0 that are misconfigurations, two halves. */
  badLo: number;
  badHi: number;
}

export class PageWalk {
  readonly dim: number;
  readonly memory: PhysicalMemory;
  readonly log: RowLog;
  /** The walk that translates this one's addresses, or null. */
  second: PageWalk | null = null;

  // Role: under which mode bits the tables are walked.
  /** Level of the root: 5, 4, 3 (PAE), 2 (32-bit), 0 = no paging. */
  rootLevel = 0;
  rootFrame = 0;
  /** Byte offset of the root table within its frame: PAE tables of PDPTEs are 32-byte aligned. */
  rootOffset = 0;
  /** Entries of 4 bytes. */
  fourByte = false;
  /** CR4.PSE, for 32-bit paging. */
  pse = false;
  /** EPT format. */
  ept = false;
  /** PAE: PDPTEs are read from memory on each walk (NPT), not from the registers. */
  pdptesInMemory = false;
  /** A and D bits exist: always for x86 formats, by EPTP bit 6 for EPT. */
  ad = true;
  /** Write A/D only after the second stage translated the final address (KVM's software). */
  adAfterTranslation = false;
  /** Report fetches in the error code: (NXE and PAE) or SMEP. */
  fetchInErrorCode = false;
  /** EPT: mode-based execute control. */
  mbec = false;
  /** EPT: exit qualification bits 11:9 are available. */
  advancedInfo = false;
  /** NPT with GMET: accesses keep their user or supervisor nature. */
  gmet = false;
  readonly format: PageFormat = {
    reserved: reservedLongMode({ maxphyaddr: 52, nx: true, page1g: true, amd: false }),
    permissions: permissionBitmap({ tdp: false, ept: false, smep: false, smap: false, wp: false, nx: false }),
    keyMask: 0,
    badLo: 0,
    badHi: 0,
  };
  pkru = 0;
  pkrs = 0;
  /** PDPTE registers, 2 elements each. */
  readonly pdptes = new Uint32Array(8);

  // Result.
  /** OK: frame of the final physical address. */
  frame = 0;
  /** OK: frame before the second stage; equal to `frame` without one. */
  gpaFrame = 0;
  /** OK: log2 of the page size of this walk's leaf, 12, 21, 22 or 30; without paging 12. */
  pageShift = 12;
  /** OK: rights of all levels combined, `ACC_*`. */
  rights = 0;
  /** OK: the leaf's halves; 0 without paging. */
  leafLo = 0;
  leafHi = 0;
  /** PAGE_FAULT: the error code. */
  errorCode = 0;
  /** EPT_VIOLATION: the exit qualification. */
  qualification = 0;
  /** The fault was an EPT violation, not a misconfiguration. */
  qualificationValid = false;
  /** EPT and NPT faults: the address that was being translated, as frame and offset, and what was asked. */
  faultFrame = 0;
  faultOffset = 0;
  faultAccess = 0;
  /** Any fault: where the walk ended and which check it was. */
  faultLevel = 0;
  faultCheck: number = Check.NONE;

  /** Per level 1-5: frame and byte offset of the entry that was read, and what was read. */
  readonly entryFrame: number[] = [0, 0, 0, 0, 0, 0];
  /** The same frame before the second stage. */
  readonly entryGpaFrame: number[] = [0, 0, 0, 0, 0, 0];
  readonly entryOffset: number[] = [0, 0, 0, 0, 0, 0];
  readonly entryLo = new Uint32Array(6);
  readonly entryHi = new Uint32Array(6);

  constructor(dim: number, memory: PhysicalMemory, log: RowLog) {
    this.dim = dim;
    this.memory = memory;
    this.log = log;
    this.ept = dim === Dim.EPT;
  }

  fault(status: number, level: number, check: number): number {
    this.faultLevel = level;
    this.faultCheck = check;
    return status;
  }
}
