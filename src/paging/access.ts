/**
 * An access as walks see it: one small integer. The low bits stand where the page-fault error code has them
 * (SDM vol. 3A 4.7), the upper ones where the NESTED_WALK observation has them, so that error code, permission index
 * and observation all fall out by masking.
 */

import {
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_NO_LINEAR,
  OBS_NESTED_NX,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
} from '../formats/observation.ts';
import { AccessType } from '../formats/step.ts';

export const WRITE = 1 << 1;
/** User-mode access. */
export const USER = 1 << 2;
/** SMAP does not apply: RFLAGS.AC is set and the access is explicit. Takes the place of RSVD, never an input. */
export const NOT_SMAP = 1 << 3;
export const FETCH = 1 << 4;
export const SHADOW_STACK = 1 << 6;
/** The walk must not write accessed and dirty bits: judging what could have been. */
export const NO_AD = 1 << 8;

/** One of `AccessType`, shifted. */
export const TYPE_SHIFT = OBS_NESTED_ACCESS_SHIFT;
export const TYPE_BITS = OBS_NESTED_ACCESS_MASK << OBS_NESTED_ACCESS_SHIFT;

// What a second-stage translation is asked for, beside the above:
/** A paging-structure entry, not the final address. */
export const OF_TABLE = OBS_NESTED_OF_TABLE;
/** No guest-linear address goes with it. */
export const NO_LINEAR = OBS_NESTED_NO_LINEAR;
/** Rights of the guest's own entries combined so far: user page, writable, no-execute. */
export const GUEST_USER = OBS_NESTED_USER;
export const GUEST_WRITABLE = OBS_NESTED_WRITABLE;
export const GUEST_NX = OBS_NESTED_NX;

/** A paging-structure entry that is only read, also with EPT's A/D bits on: loading PDPTEs (SDM vol. 3C 29.3.5). */
export const AS_READ = 1 << 21;

/** Bits that an EPT walk's NESTED_WALK observation takes over. */
export const NESTED_WALK_BITS = TYPE_BITS | OF_TABLE | NO_LINEAR | GUEST_USER | GUEST_WRITABLE | GUEST_NX;

/** Bits that index the permission bitmap once shifted right by one. */
export const PERMISSION_BITS = WRITE | USER | NOT_SMAP | FETCH;

// Page-fault error code bits beyond those above.
export const PFEC_P = 1 << 0;
export const PFEC_RSVD = 1 << 3;
export const PFEC_PK = 1 << 5;
export const PFEC_SS = 1 << 6;

/** The bits of an access of one of `AccessType`. */
export function accessOfType(type: number): number {
  const typeBits = type << TYPE_SHIFT;
  if (type === AccessType.FETCH) return FETCH | typeBits;
  return type === AccessType.READ ? typeBits : WRITE | typeBits;
}
