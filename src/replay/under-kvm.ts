/** What explaining a guest on KVM needs to know of the machine that it runs on. */

import { KvmMachine } from '../machine/kvm/machine.ts';
import type { Machine } from '../machine/machine.ts';

/** What a frame of the guest's memory has behind it: a slot that can be written to, one that cannot, or none. */
export type Backing = 'writable' | 'read-only' | 'none';

/** What is asked of the machine with KVM. */
export interface UnderKvm {
  readonly backing: (frame: number) => Backing;
  /** The PDPTEs that KVM has loaded last, two halves each. */
  readonly pdptes: () => Int32Array;
}

export function underKvm(guest: Machine): UnderKvm {
  if (!(guest instanceof KvmMachine)) return { backing: () => 'writable', pdptes: () => new Int32Array(8) };
  return {
    backing: (frame) => {
      const slot = guest.host.slotOf(frame, 0);
      return slot === null ? 'none' : slot.readOnly ? 'read-only' : 'writable';
    },
    pdptes: () => guest.vcpu.gvaWalk.pdptes,
  };
}
