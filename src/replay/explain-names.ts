/** What the parts of an emulated KVM are called in explanations. */

import { Tag } from '../mmu/hardware.ts';
import type { Mmu } from '../mmu/mmu.ts';
import type { Root } from '../mmu/root.ts';
import { Request, type Vcpu } from '../mmu/vcpu.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';

export function nameOfMmu(vcpu: Vcpu, mmu: Mmu): 'rootMmu' | 'guestMmu' {
  return mmu === vcpu.guestMmu ? 'guestMmu' : 'rootMmu';
}

export function nameOfWalk(vcpu: Vcpu, walk: KvmPageWalk): 'cpuWalk' | 'tdpWalk' | 'nestedCpuWalk' {
  if (walk === vcpu.tdpWalk) return 'tdpWalk';
  return walk === vcpu.cpuWalk ? 'cpuWalk' : 'nestedCpuWalk';
}

export function gfnText(gfn: number): string {
  return gfn < 0 ? 'no gfn' : `gfn 0x${gfn.toString(16)}`;
}

export function requestNames(bits: number): string {
  const names = Object.entries(Request).filter(([, bit]) => (bits & bit) !== 0);
  return names.map(([name]) => `KVM_REQ_${name}`).join(' and ');
}

/** What translations are tagged with: VPIDs, or an ASID. */
export function tagText(tag: number, vendor: string): string {
  if (vendor === 'amd') return "the VM's ASID";
  return tag === Tag.L2 ? "vpid02 (L2's)" : "vpid01 (L1's)";
}

export function rootText(root: Root | null): string {
  if (root === null) return 'no root';
  const pgd = `for the guest's root 0x${root.pgd.toString(16)}`;
  if (root.page === null) return `a PAE root ${pgd}`;
  return root.page.direct ? 'a direct root' : `the shadow of ${gfnText(root.page.gfn)} ${pgd}`;
}
