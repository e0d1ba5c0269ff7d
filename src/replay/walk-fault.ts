/**
 * Names the check that ended a walk, out of the walk's own rows: which level, which bit, which rule. For sentences in
 * reports; the walk itself decides by tables.
 */

import { hex64, hexText } from '../bits/word64.ts';
import { entryName } from '../formats/decode/page-table-entry.ts';
import {
  DIM_NAMES,
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_OF_TABLE,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { CR0_WP, CR4_PAE, CR4_SMAP, CR4_SMEP, EFER_LMA, Reg } from '../formats/registers.ts';
import { ACCESS_NAMES, ACCESS_TYPE_MASK, ACCESS_TYPE_SHIFT, ACCESS_USER, AccessType } from '../formats/step.ts';
import { PFEC_P, PFEC_PK, PFEC_RSVD } from '../paging/access.ts';
import type { Row } from './result.ts';

export function rowKind(row: Row): number {
  return row.op & OBS_KIND_MASK;
}

/** `guest PDE at 0x409010`, `EPT PTE at 0x10a5818`. */
export function entryPlace(row: Row): string {
  const level = (row.op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
  const address = hexText(row.addressLo, row.addressHi);
  if (rowKind(row) === Obs.PDPTE) return `PDPTE${level} register`;
  if (level === 0) return `entry at ${address}`;
  const dim = (row.op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK;
  const whose = dim === Dim.GUEST ? 'guest' : DIM_NAMES[dim]!.toUpperCase();
  return `${whose} ${entryName(level)} at ${address}`;
}

function elements(rows: readonly Row[], dim: number): Row[] {
  return rows.filter((row) => {
    const kind = rowKind(row);
    const entry = kind === Obs.ELEMENT && ((row.op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === dim;
    return entry || (kind === Obs.PDPTE && dim === Dim.GUEST);
  });
}

/** The first entry for which `lacks` holds. */
function firstLacking(entries: readonly Row[], lacks: (row: Row) => boolean): string {
  const row = entries.find(lacks);
  return row === undefined ? 'the entries combined' : `the ${entryPlace(row)}`;
}

/** Why a guest walk ended in #PF with this error code. */
function pageFaultReason(entries: readonly Row[], stepOp: number, errorCode: number, registers: Uint32Array): string {
  const last = entries[entries.length - 1];
  const at = last === undefined ? unseenEntry(registers) : `the ${entryPlace(last)}`;
  if ((errorCode & PFEC_P) === 0) return `${at} is not present`;
  if ((errorCode & PFEC_RSVD) !== 0) return `${at} has a reserved bit set`;
  if ((errorCode & PFEC_PK) !== 0) return `the protection key of ${at} denies the access`;
  return permissionReason(withRights(entries, registers), at, stepOp, registers);
}

/** The entry that a walk ended at of which no entry was told: an emulated KVM's processor has no rows for them. */
function unseenEntry(registers: Uint32Array): string {
  const pae = (registers[2 * Reg.CR4]! & CR4_PAE) !== 0 && (registers[2 * Reg.EFER]! & EFER_LMA) === 0;
  return pae ? 'a PDPTE register or an entry' : 'an entry';
}

/** Entries that have rights: the PDPTEs of PAE paging have none (SDM vol. 3A 4.4.1). */
function withRights(entries: readonly Row[], registers: Uint32Array): Row[] {
  const longMode = (registers[2 * Reg.EFER]! & EFER_LMA) !== 0;
  return entries.filter(
    (row) => rowKind(row) === Obs.ELEMENT && (longMode || ((row.op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK) < 3),
  );
}

/** Which right was missing. `at`: where the walk ended, in words. */
function permissionReason(entries: readonly Row[], at: string, stepOp: number, registers: Uint32Array): string {
  const type = (stepOp >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
  const user = (stepOp & ACCESS_USER) !== 0;
  const userPage = entries.every((row) => (row.valueLo & 4) !== 0);
  if (user && !userPage)
    return `${firstLacking(entries, (row) => (row.valueLo & 4) === 0)} has U/S clear for a user access`;
  if (type === AccessType.FETCH) {
    if (!user && userPage && (registers[2 * Reg.CR4]! & CR4_SMEP) !== 0) {
      return 'CR4.SMEP forbids a supervisor fetch from a user page';
    }
    return `${firstLacking(entries, (row) => row.valueHi >>> 31 !== 0)} has NX set for a fetch`;
  }
  const write = type === AccessType.WRITE || type === AccessType.RMW;
  const readOnly = entries.some((row) => (row.valueLo & 2) === 0);
  if (write && readOnly && (user || (registers[2 * Reg.CR0]! & CR0_WP) !== 0)) {
    return `${firstLacking(entries, (row) => (row.valueLo & 2) === 0)} has R/W clear for a write${user ? '' : ' with CR0.WP set'}`;
  }
  if (!user && userPage && (registers[2 * Reg.CR4]! & CR4_SMAP) !== 0) {
    return 'CR4.SMAP forbids a supervisor access to a user page';
  }
  return `the rights of the walk, ending at ${at}, do not allow the access`;
}

/** Why the second stage stopped; `rows` end with the exit. */
function secondStageReason(rows: readonly Row[], dim: number): string {
  const start = rows.findLastIndex((row) => rowKind(row) === Obs.NESTED_WALK);
  const walk = rows[start];
  const entries = elements(rows.slice(start + 1), dim);
  const last = entries[entries.length - 1];
  const what =
    walk === undefined
      ? 'the second stage'
      : `${(walk.op & OBS_NESTED_OF_TABLE) !== 0 ? 'the translation of a guest page-table page' : 'the final translation'}` +
        ` (${ACCESS_NAMES[(walk.op >>> OBS_NESTED_ACCESS_SHIFT) & OBS_NESTED_ACCESS_MASK]})`;
  return `${what} of guest-physical 0x${walk === undefined ? '?' : hex64(walk.addressLo, walk.addressHi)} ended at ${last === undefined ? 'its root' : `the ${entryPlace(last)}`}`;
}

/** In words, how the run of rows ended: a translation, or which check failed where. */
export function outcomeReason(rows: readonly Row[], stepOp: number, registers: Uint32Array): string {
  const outcome = rows.find(
    (row) => (rowKind(row) >= Obs.TRANSLATED && rowKind(row) <= Obs.NPF) || rowKind(row) === Obs.PML_FULL,
  );
  if (outcome === undefined) return 'no outcome';
  switch (rowKind(outcome)) {
    case Obs.TRANSLATED:
      return 'every check passes';
    case Obs.COMPLETED:
      return 'the access completed';
    case Obs.EPT_VIOLATION:
      return `EPT violation: ${secondStageReason(rows, Dim.EPT)}`;
    case Obs.EPT_MISCONFIG:
      return `EPT misconfiguration: ${secondStageReason(rows, Dim.EPT)}`;
    case Obs.PML_FULL:
      return `the page-modification log is full: ${secondStageReason(rows, Dim.EPT)}`;
    case Obs.NPF:
      return `nested page fault: ${secondStageReason(rows, Dim.NPT)}`;
    default: {
      const vector = (outcome.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
      if (vector === 14) {
        return `#PF: ${pageFaultReason(elements(rows, Dim.GUEST), stepOp, outcome.valueLo, registers)}`;
      }
      return vector === 12 || vector === 13 ? 'the linear address is not canonical' : `exception ${vector}`;
    }
  }
}
