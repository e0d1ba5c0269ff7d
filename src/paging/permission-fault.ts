/** Whether an access faults on an entry's rights: KVM's permission_fault (facts/kvm-mmu.md §3.3). */

import { Reg } from '../formats/registers.ts';
import { FETCH, NOT_SMAP, PFEC_P, PFEC_PK, USER, WRITE } from './access.ts';
import { IMPLICIT_ACCESS, type KvmPageWalk } from './kvm-page-walk.ts';
import { ACC_USER } from './permissions.ts';
import { WalkBug } from './walk-bugs.ts';

const PERMISSION_INPUTS = WRITE | USER | FETCH;

/**
 * 0, or the part of the error code that rights decide: P, and PK if the key forbids. `pteAccess`: rights as `ACC_*` (6.1:
 * with READ); `key`: protection key, 0 of a cached MMIO access. Paging must be on. Takes over CR0.WP first.
 */
export function permissionFault(walk: KvmPageWalk, pteAccess: number, key: number, access: number): number {
  walk.refreshWp();
  const asked = access & PERMISSION_INPUTS;
  const implicit = (access & IMPLICIT_ACCESS) !== 0 && (walk.bugs & WalkBug.AC_EXCUSES_IMPLICIT) === 0;
  const notSmap = walk.ac && !implicit ? NOT_SMAP : 0;
  const fault = (walk.permissions[(asked | notSmap) >>> 1]! >>> pteAccess) & 1;
  if (walk.keyMask !== 0) {
    const offset = asked | ((pteAccess & ACC_USER) << 1);
    const keyRights = (walk.registers[2 * Reg.PKRU]! >>> (2 * key)) & 3;
    if ((keyRights & (walk.keyMask >>> offset)) !== 0) return PFEC_P | PFEC_PK;
  }
  if (fault === 0) return 0;
  return (walk.bugs & WalkBug.FETCH_IN_RIGHTS_FAULT) !== 0 ? PFEC_P | asked : PFEC_P;
}
