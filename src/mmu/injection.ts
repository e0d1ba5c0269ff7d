/**
 * What KVM gives to its guest because a software walk failed (facts/kvm-mmu.md §7): an exception, or, if the guest is a
 * hypervisor and its guest runs, an exit to it.
 */

export const Inject = {
  /** #PF into whoever runs: `lo`, `hi` = CR2, `infoLo` = error code. */
  PAGE_FAULT: 0,
  /** L2's #PF, which L1 intercepts: fields as above. */
  PAGE_FAULT_EXIT: 1,
  /** Nested page fault: address = EXITINFO2, info = EXITINFO1. */
  NPF: 2,
  /** EPT violation: address = guest-physical address (nGPA), `infoLo` = exit qualification. */
  EPT_VIOLATION: 3,
  /** EPT misconfiguration: address = nGPA. */
  EPT_MISCONFIG: 4,
  /** L1's page-modification log is full: address = nGPA; `infoLo`: qualification. */
  PML_FULL: 5,
} as const;

export interface Injection {
  /** One of `Inject`. */
  kind: number;
  lo: number;
  hi: number;
  infoLo: number;
  infoHi: number;
}

/**
 * The exit of the processor's that KVM is handling, as the hardware reported it: what is reflected to L1 takes some of
 * its bits over (facts/kvm-mmu.md §7.2, §7.3).
 */
export interface HardwareExit {
  /** `none`: KVM does something of its own accord, or an exit that has nothing to do with paging. */
  kind: 'none' | 'npf' | 'ept-violation' | 'ept-misconfig' | 'page-fault';
  /** EXITINFO2, guest-physical address, CR2. */
  lo: number;
  hi: number;
  /** EXITINFO1, exit qualification, error code. */
  infoLo: number;
  infoHi: number;
}

/** What L1 is asked when something of L2's fails; implemented by `nested/`, which knows VMX and SVM. */
export interface NestedHypervisor {
  /** L2 runs. */
  readonly active: boolean;
  /** L1's second stage failed for L2: fills `injection` with the exit that L1 gets. `fromHardware`: `exit` was its cause. */
  reflect(fromHardware: boolean, exit: HardwareExit, injection: Injection): void;
  /** L2 is to get a #PF with this error code: whether L1 intercepts it (facts/kvm-mmu.md §7.4). */
  interceptsPageFault(errorCode: number): boolean;
  /** L1 gets the exit that `injection` says: its event (kvm_nested_vmexit_inject). */
  traceInjection(injection: Injection): void;
}
