/** What an access asks for, and the error code that it comes to where it is refused. */

import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_SHADOW_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
} from '../formats/step.ts';
import type { Asked, RightsMode } from './explain-rules.ts';
import type { ExplainedCheck } from './explanation.ts';

/** What an ACCESS or GPA_ACCESS step asks for. */
export function askedOf(op: number): Asked {
  const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
  const user = (op & ACCESS_USER) !== 0;
  return {
    write: type === AccessType.WRITE || type === AccessType.RMW,
    fetch: type === AccessType.FETCH,
    user,
    implicit: !user && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3,
    ac: (op & ACCESS_AC) !== 0,
    shadowStack: (op & ACCESS_SHADOW_STACK) !== 0,
  };
}

/** The error code that rights which forbid come to. */
export function expectedCode(checks: readonly ExplainedCheck[], asked: Asked, mode: RightsMode): number {
  const key = checks.some(({ name, outcome }) => name === 'key' && outcome === 'fail');
  return 1 | askedCode(asked, mode) | (key ? 0x20 : 0);
}

/** W, U, F and SS of an error code. */
export function askedCode(asked: Asked, mode: RightsMode): number {
  const tellsFetch = mode.nxe || mode.smep;
  return (
    (asked.write ? 2 : 0) |
    (asked.user ? 4 : 0) |
    (asked.fetch && tellsFetch ? 0x10 : 0) |
    (asked.shadowStack ? 0x40 : 0)
  );
}
