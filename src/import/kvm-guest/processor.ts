/** The guest's processor, from the CPUID that the VMM set and from what a guest hypervisor says of its VMX. */

import type { Word64 } from '../../bits/word64.ts';
import { fromBigInt, ZERO } from '../../bits/word64.ts';
import type { Processor, Vendor } from '../../trace/header.ts';
import { demand, type Mark, type MarkOf } from './marks.ts';

/** Features that paging depends on: name, leaf, register, bit (SDM vol. 2A CPUID; APM vol. 3 appendix E). */
const FEATURES: readonly (readonly [string, bigint, 'eax' | 'ebx' | 'ecx' | 'edx', number])[] = [
  ['pse', 1n, 'edx', 3],
  ['pae', 1n, 'edx', 6],
  ['pge', 1n, 'edx', 13],
  ['pse36', 1n, 'edx', 17],
  ['vmx', 1n, 'ecx', 5],
  ['pcid', 1n, 'ecx', 17],
  ['smep', 7n, 'ebx', 7],
  ['invpcid', 7n, 'ebx', 10],
  ['smap', 7n, 'ebx', 20],
  ['pku', 7n, 'ecx', 3],
  ['la57', 7n, 'ecx', 16],
  ['pks', 7n, 'ecx', 31],
  ['svm', 0x8000_0001n, 'ecx', 2],
  ['nx', 0x8000_0001n, 'edx', 20],
  ['pdpe1gb', 0x8000_0001n, 'edx', 26],
  ['lm', 0x8000_0001n, 'edx', 29],
  ['npt', 0x8000_000an, 'edx', 0],
];

/** Fallbacks where CPUID has no leaf 80000008H (SDM vol. 3A 4.1.4). */
const MAXPHYADDR_PAE = 36;

export function processorOf(marks: readonly Mark[]): Processor {
  const leaves = new Map<bigint, MarkOf<'cpuid'>>();
  let eptVpidCap: Word64 = ZERO;
  let secondaryControlsAllowed = 0;
  for (const mark of marks) {
    if (mark.kind === 'cpuid' && mark.subleaf === 0n) leaves.set(mark.leaf, mark);
    else if (mark.kind === 'l1Ept') eptVpidCap = fromBigInt(mark.capabilities);
    else if (mark.kind === 'l1Vmx') secondaryControlsAllowed = Number(mark.proc2 >> 32n);
  }
  const vendor = vendorOf(leaves.get(0n));
  const features = FEATURES.filter(([, leaf, register, bit]) => {
    const found = leaves.get(leaf);
    return found !== undefined && ((found[register] >> BigInt(bit)) & 1n) !== 0n;
  }).map(([name]) => name);
  const sizes = leaves.get(0x8000_0008n);
  const maxphyaddr = sizes === undefined ? MAXPHYADDR_PAE : Number(sizes.eax & 0xffn);
  demand(maxphyaddr >= 32 && maxphyaddr <= 52, sizes ?? { line: 0 }, `a physical-address width of ${maxphyaddr} bits`);
  return {
    vendor,
    model: `${vendor === 'amd' ? 'QEMU 7.2 (TCG)' : vendor === 'intel' ? 'Bochs' : 'unknown'}, as KVM shows it to its guest`,
    maxphyaddr,
    features,
    eptVpidCap,
    secondaryControlsAllowed,
  };
}

/** The vendor by the twelve letters of leaf 0. */
function vendorOf(leaf: MarkOf<'cpuid'> | undefined): Vendor {
  if (leaf === undefined) return 'unknown';
  const letters = [leaf.ebx, leaf.edx, leaf.ecx]
    .map((word) => String.fromCharCode(...[0n, 8n, 16n, 24n].map((shift) => Number((word >> shift) & 0xffn))))
    .join('');
  return letters === 'GenuineIntel' ? 'intel' : letters === 'AuthenticAMD' ? 'amd' : 'unknown';
}
