/** What a fault handler asks of the vCPU that it works for. */

import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import type { Fault } from './fault.ts';
import type { Slot } from './host.ts';

export interface FaultSupport {
  /** The tables that `walk`, or its second stage, reads forbid it: the guest or its hypervisor gets what `walk.fault` says. */
  injectWalkFault(walk: KvmPageWalk): void;
  slotOf(gfn: number): Slot | null;
  /** A present entry is written to, and its frame is write-tracked. */
  hitsWriteTrackedFrame(fault: Fault): boolean;
  /** Resolves the fault's frame and deals with what is no memory. CONTINUE: `pfn` is there. */
  faultIn(fault: Fault, access: number): number;
  /** Roots that are of no use go before the guest runs again. */
  freeObsoleteRoots(): void;
  /** What was looked up is no longer so. */
  isStale(fault: Fault): boolean;
}
