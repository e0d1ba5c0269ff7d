/**
 * Deviations of the recorded systems from the architecture, by name, as they may show in a recording of this kind. The
 * README beside this file tells each.
 */

import type { Processor } from '../../trace/header.ts';

export interface RecordedSystem {
  readonly processor: Processor;
  /** KVM used two-dimensional paging: the processor walked the guest's tables itself. */
  readonly tdp: boolean;
  /** Several guests ran at once, on several processors. */
  readonly together: boolean;
  /** The guest runs a guest of its own under EPT or NPT. */
  readonly secondStage: boolean;
  /** Levels of the guest's paging: the VMM's `mode`. */
  readonly levels: number;
}

export function knownFaults({ processor, tdp, together, secondStage, levels }: RecordedSystem): string[] {
  const { vendor, features } = processor;
  const faults = ['kvm-emulated-fetch-fault-is-ud'];
  const add = (list: readonly string[], when: boolean): void => {
    if (when) faults.push(...list);
  };
  if (vendor === 'amd') {
    add(['qemu-rsvd-without-p'], tdp);
    add(['qemu-accessed-in-reserved-1g'], tdp && levels >= 4);
    add(['qemu-rmw-is-read-then-write'], !together);
    add(['kvm-emulated-npf-always-final', 'kvm-emulated-exit-without-offset'], secondStage);
  }
  if (vendor === 'intel') {
    add(['bochs-keys-by-non-leaf-entries'], features.includes('pku'));
    add(
      [
        'bochs-ept-ad-table-access-without-read',
        'kvm-emulated-exit-without-offset',
        'kvm-emulated-qualification',
        'kvm-emulated-access-needs-ept-read',
      ],
      secondStage,
    );
  }
  add(['kvm-shadow-keeps-large-page'], !tdp && levels === 2);
  return faults;
}
