/** From the word of an ACCESS step to an access as walks take it (`paging/access.ts`). */

import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_SHADOW_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
} from '../formats/step.ts';
import { accessOfType, NOT_SMAP, SHADOW_STACK, USER } from '../paging/access.ts';

// V8 folds a module's own constants into the code but loads and checks imported ones at each use; this runs on every
// access.
const BY_TYPE = Array.from({ length: ACCESS_TYPE_MASK + 1 }, (_, type) => accessOfType(type));
const TYPE_SHIFT = ACCESS_TYPE_SHIFT;
const TYPE_MASK = ACCESS_TYPE_MASK;
const CPL_3 = 3 << ACCESS_CPL_SHIFT;
const CPL_BITS = ACCESS_CPL_MASK << ACCESS_CPL_SHIFT;
const STEP_USER = ACCESS_USER;
const STEP_SHADOW_STACK = ACCESS_SHADOW_STACK;
const STEP_AC = ACCESS_AC;
const BY_USER = USER;
const OF_SHADOW_STACK = SHADOW_STACK;
const SMAP_OFF = NOT_SMAP;

/** The access of a step word in the form that walks take. */
export function accessBits(op: number): number {
  let access = BY_TYPE[(op >>> TYPE_SHIFT) & TYPE_MASK]!;
  if ((op & STEP_USER) !== 0) access |= BY_USER;
  if ((op & STEP_SHADOW_STACK) !== 0) access |= OF_SHADOW_STACK;
  // RFLAGS.AC suspends SMAP for explicit accesses only (SDM vol. 3A 4.6.1); with CPL 3 a supervisor access is implicit.
  const implicit = (op & (STEP_USER | CPL_BITS)) === CPL_3;
  if ((op & STEP_AC) !== 0 && !implicit) access |= SMAP_OFF;
  return access;
}
