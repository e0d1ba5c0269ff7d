/** Roots: who holds which, and that each belongs to its MMU (facts/kvm-mmu.md §2.5, §8.2). */

import { guestMode, has4ByteGpte, isInvalid, quadrant } from '../paging/kvm-roles.ts';
import { type Look, nameOf } from './invariants-look.ts';
import type { Mmu } from './mmu.ts';
import type { Root } from './root.ts';
import type { ShadowPage } from './shadow-page.ts';
import { Request } from './vcpu.ts';

export function checkRoots(look: Look): void {
  const holders = new Map<ShadowPage, number>();
  const hold = (sp: ShadowPage): void => void holders.set(sp, (holders.get(sp) ?? 0) + 1);
  for (const vcpu of look.vcpus) {
    const obsoleteWillGo = (vcpu.requests & Request.FREE_OBSOLETE_ROOTS) !== 0;
    for (const mmu of [vcpu.rootMmu, vcpu.guestMmu]) {
      for (const root of [mmu.root, ...mmu.previous]) {
        if (root === null) continue;
        for (const sp of tablesOf(root)) {
          hold(sp);
          if (look.pages.isObsolete(sp) && !obsoleteWillGo) look.say(`${nameOf(sp)} is obsolete, and still a root`);
        }
        if (!mmu.direct) checkShadowRoot(look, root, mmu === vcpu.guestMmu);
      }
      checkRole(look, mmu);
    }
  }
  for (const sp of look.tdpMmu?.allRoots ?? []) if (look.tdpMmu!.holds(sp)) hold(sp);
  for (const sp of look.all) {
    const count = holders.get(sp) ?? 0;
    if (sp.rootCount !== count) look.say(`${nameOf(sp)} counts ${sp.rootCount} holders and has ${count}`);
    holders.delete(sp);
  }
  for (const sp of holders.keys()) look.say(`${nameOf(sp)} is a root, and freed`);
}

function checkRole(look: Look, mmu: Mmu): void {
  const page = mmu.root?.page;
  if (!page || isInvalid(page.role, look.pages.config.profile) || page.role === mmu.rootRole) return;
  look.say(`the root in force, ${nameOf(page)}, has not the role ${mmu.rootRole.toString(16)} of its MMU`);
}

/** It is for the table that CR3, L1's EPTP or nCR3 named; guest_mmu's are L2's alone. */
function checkShadowRoot(look: Look, root: Root, ofGuestMmu: boolean): void {
  const gfn = Math.floor(root.pgd / 4096);
  const name = `the root for ${root.pgd.toString(16)}`;
  if (root.page !== null && root.page.gfn !== gfn) look.say(`${name} is ${nameOf(root.page)}`);
  for (const [i, sp] of (root.pae ?? []).entries()) {
    // A PDPTE's table is the business of the PDPTE as it was loaded; a page directory of 4-byte entries is the root.
    if (sp === null || !has4ByteGpte(sp.role)) continue;
    if (sp.gfn !== gfn || quadrant(sp.role) !== i) look.say(`${name} has ${nameOf(sp)} as its quarter ${i}`);
  }
  if (!ofGuestMmu) return;
  for (const sp of tablesOf(root)) {
    if (!guestMode(sp.role) || sp.direct) look.say(`${name} of guest_mmu is ${nameOf(sp)}, which is none of L2's`);
  }
}

function tablesOf(root: Root): ShadowPage[] {
  return root.page === null ? root.pae!.filter((sp) => sp !== null) : [root.page];
}
