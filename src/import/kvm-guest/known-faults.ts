/**
 * Deviations of the recorded systems from the architecture that may show in these recordings, by name. Each is
 * described in the README beside this file.
 */

import type { Processor } from '../../trace/header.ts';

export interface RecordedSystem {
  readonly processor: Processor;
  /** KVM used two-dimensional paging. */
  readonly tdp: boolean;
  /** The recorded processor had several CPUs. */
  readonly several: boolean;
  /** The guest is a hypervisor. */
  readonly nested: boolean;
}

export function knownFaults({ processor, tdp, several, nested }: RecordedSystem): string[] {
  const faults = ['kvm-emulated-fetch-fault-is-ud'];
  if (processor.vendor === 'amd') {
    if (tdp) faults.push('qemu-rsvd-without-p');
    if (!several) faults.push('qemu-rmw-is-read-then-write');
    if (nested && tdp) faults.push('kvm-6.1-emulated-npf-always-final');
  }
  if (processor.vendor === 'intel' && nested && tdp) {
    faults.push('kvm-6.1-emulated-qualification', 'kvm-6.1-emulated-linear-address');
  }
  if (!tdp) faults.push('kvm-shadow-stale');
  return faults;
}
