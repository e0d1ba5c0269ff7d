/** The KVM below the guest: its module parameters, and whether it used two-dimensional paging. */

import type { Hypervisor } from '../../trace/header.ts';

/**
 * `parameters`: the text of `kvm_params.txt`, lines `/sys/module/<module>/parameters/<name> <value>`.
 * `commandLine`: the text of `cmdline.txt`, kept whole.
 */
export function hypervisorOf(parameters: string, commandLine: string): Hypervisor {
  const list: string[] = [];
  let tdp = false;
  for (const line of parameters.split('\n')) {
    const match = /^\/sys\/module\/(kvm|kvm_amd|kvm_intel)\/parameters\/(\w+) (.*)$/.exec(line);
    if (match === null) continue;
    list.push(`${match[1]}.${match[2]}=${match[3]}`);
    if ((match[2] === 'npt' || match[2] === 'ept') && (match[3] === 'Y' || match[3] === '1')) tdp = true;
  }
  if (commandLine.trim() !== '') list.push(`cmdline=${commandLine.trim()}`);
  return { name: 'kvm', version: '6.1.192', tdp, parameters: list, mmu: undefined };
}
