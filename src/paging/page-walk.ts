/**
 * A page walk: reads page tables, builds none. `cpuWalk` walks the tables that CR3 points at, `tdpWalk` those of EPT
 * or NPT; a `cpuWalk` with a `second` stage sends every address it meets through it.
 *
 * This file holds what a walk is (role, format, root, result); how one runs is in `walk-x86.ts` and `walk-ept.ts`.
 * Words are kept as two signed 32-bit halves, which the engine underneath holds without allocating.
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
  /** The page-modification log is full (SDM vol. 3C 29.3.6). */
  LOG_FULL: 5,
} as const;

/** The check that ended a walk. */
export const Check = { NONE: 0, PRESENT: 1, RESERVED: 2, PERMISSION: 3, LOG_FULL: 4 } as const;

/** What entry bits mean to a walk: reserved bits and permissions, rebuilt when the role changes. */
export interface PageFormat {
  reserved: ReservedMasks;
  permissions: Uint16Array;
  /** Protection-key fields for user pages (PKRU) and supervisor pages (PKRS) together, 0 = keys off. */
  keyMask: number;
  /** EPT: where the kinds of entries under the rules in force begin in `EPT_ENTRY_KINDS`. */
  kindsAt: number;
  /** EPT: reserved bits of the high half, the same at all levels. */
  reservedHi: number;
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
  /** Address of the root table; bits 11:5 count for PAE's table of PDPTEs only. */
  rootLo = 0;
  rootHi = 0;
  /** Entries of 4 bytes. */
  fourByte = false;
  /** CR4.PSE, for 32-bit paging. */
  pse = false;
  /** EPT format. */
  readonly ept: boolean;
  /** PAE: PDPTEs are read from memory on each walk (NPT), not from the registers. */
  pdptesInMemory = false;
  /** A and D bits exist: always for x86 formats, by EPTP bit 6 for EPT. */
  ad = true;
  /** Write A/D only after the second stage translated the final address. */
  adAfterTranslation = false;
  /** Of a second stage: called before each translation within one walk, which may meet other cached translations. */
  beforeTranslation: (() => void) | null = null;
  /** A hypervisor's software walks (`machine/software.ts`): A/D last, tables read with write intent, R always needed. */
  software = false;
  /** Report fetches in the error code: (NXE and PAE) or SMEP. */
  fetchInErrorCode = false;
  /** EPT: mode-based execute control. */
  mbec = false;
  /** EPT: the registers with the page-modification log's address and index, the latter counting down; null: no log. */
  modificationLog: Uint32Array | null = null;
  /** EPT: a full log keeps dirty flags from being set, accessed ones not: KVM's way, not a processor's. */
  logsDirtyOnly = false;
  /** EPT: exit qualification bits 11:9 are available. */
  advancedInfo = false;
  /** NPT with GMET: accesses keep their user or supervisor nature. */
  gmet = false;
  readonly format: PageFormat = {
    reserved: reservedLongMode({ maxphyaddr: 52, nx: true, page1g: true, amd: false }),
    permissions: permissionBitmap({ tdp: false, ept: false, smep: false, smap: false, wp: false, nx: false }),
    keyMask: 0,
    kindsAt: 0,
    reservedHi: 0,
  };
  pkru = 0;
  pkrs = 0;
  /** PDPTE registers, 2 elements each. */
  readonly pdptes = new Int32Array(8);

  // Result.
  /** OK: the physical address. */
  lo = 0;
  hi = 0;
  /** OK: the address before the second stage; the same without one. */
  gpaLo = 0;
  gpaHi = 0;
  /** OK: log2 of the page size of this walk's leaf, 12, 21, 22 or 30; without paging 12. */
  pageShift = 12;
  /** OK, with a second stage: rights and log2 of the page size that it gave the final address. */
  secondRights = 0;
  secondPageShift = 12;
  /** OK: rights of all levels combined, `ACC_*`. */
  rights = 0;
  /** OK: the leaf; 0 without paging. */
  leafLo = 0;
  leafHi = 0;
  /** PAGE_FAULT: the error code. */
  errorCode = 0;
  /** EPT_VIOLATION: the exit qualification. */
  qualification = 0;
  /** The fault was an EPT violation, not a misconfiguration. */
  qualificationValid = false;
  /** EPT and NPT faults: the address that was being translated, and what was asked. */
  faultLo = 0;
  faultHi = 0;
  faultAccess = 0;
  /** Any fault: where the walk ended and which check it was. */
  faultLevel = 0;
  faultCheck: number = Check.NONE;
  /** EPT: the row of the log that holds the root's entry; the other levels' rows follow. */
  firstRow = 0;
  /** x86 formats, per level 1-5: the row of the log that holds the entry read there, with its address and value. */
  readonly row = new Int32Array(6);

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

/** Byte offset within its table of the 8-byte entry of `level` that translates an address. */
export function entryOffset8(level: number, lo: number, hi: number): number {
  switch (level) {
    case 1:
      return (lo >>> 9) & 0xff8;
    case 2:
      return (lo >>> 18) & 0xff8;
    case 3:
      return ((lo >>> 27) & 0x18) | ((hi << 5) & 0xfe0);
    case 4:
      return (hi >>> 4) & 0xff8;
    default:
      return (hi >>> 13) & 0xff8;
  }
}
