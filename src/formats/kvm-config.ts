/** What an emulated KVM's MMU depends on beside the guest: the kernel, its host and its module parameters. */

import type { KvmProfile } from './decode/kvm-role.ts';

export interface KvmConfig {
  readonly profile: KvmProfile;
  /** The host's hardware: SVM with NPT, or VMX with EPT. */
  readonly vendor: 'amd' | 'intel';
  /** Two-dimensional paging in use; off: shadow paging. */
  readonly tdp: boolean;
  /** Direct tables are built by the TDP MMU (kvm.tdp_mmu). */
  readonly tdpMmu: boolean;
  /** Level of the TDP root that the host uses: SVM: the host's own paging level. */
  readonly tdpLevel: 4 | 5;
  /** Bits. */
  readonly hostMaxphyaddr: number;
  /** EPT: accessed and dirty bits. NPT and shadow paging always have them. */
  readonly eptAd: boolean;
  /** EPT: page-modification logging. */
  readonly pml: boolean;
  /** Large pages that the hardware's tables may have: 1 none, 2: 2 MiB, 3: 1 GiB. */
  readonly maxLevel: 1 | 2 | 3;
  readonly nxHugePages: boolean;
  readonly mmioCaching: boolean;
  readonly eagerPageSplit: boolean;
  /** SPTE bits that hold the address of an MMIO SPTE away from the L1 cache (L1TF), lowest bit; 0 = not needed. */
  readonly l1tfBits: number;
}

/** A host like those that the recordings were made on. */
export function defaultKvmConfig(change: Partial<KvmConfig> = {}): KvmConfig {
  return {
    profile: '6.1',
    vendor: 'amd',
    tdp: true,
    tdpMmu: true,
    tdpLevel: 4,
    hostMaxphyaddr: 40,
    eptAd: true,
    pml: false,
    maxLevel: 3,
    nxHugePages: false,
    mmioCaching: true,
    eagerPageSplit: true,
    l1tfBits: 0,
    ...change,
  };
}
