/** What the marks say of the moment, for those who read the events that follow. `trace-marks.ts` sets it. */

import type { Announcement } from '../kvm-guest/attempt.ts';
import type { GuestStores } from './guest-stores.ts';

/** An access between its T and its R mark. */
export interface AccessUnderTest extends Announcement {
  readonly n: number;
}

export class ToldByMarks {
  /** KVM_TRANSLATE is under way. */
  translating = false;
  access: AccessUnderTest | undefined;
  /** Its last #PF was an exit to the hypervisor in the guest, which may hand it on. */
  pageFaultExited = false;
  /** Number of the last access under test that was the processor's but ended in the emulator, e.g. at MMIO. */
  emulatedAccess = -1;
  /** Guest frames in which the guest has announced stores. */
  readonly tablePages = new Set<bigint>();
  /** The access under test stores into a table. */
  storeOfAccess: GuestStores | undefined;
  /** CR3 of a guest that tells it only after it has turned paging on, until it has. */
  bootRoot: bigint | undefined;
}
