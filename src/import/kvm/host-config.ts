/** What the emulated MMU depends on, out of the module parameters, the guest's CPUID and what the trace shows. */

import type { KvmProfile } from '../../formats/decode/kvm-role.ts';
import { defaultKvmConfig, type KvmConfig } from '../../formats/kvm-config.ts';
import type { Processor } from '../../trace/header.ts';

/** What only the trace shows. */
export interface Seen {
  vendor: 'amd' | 'intel' | undefined;
  /** EPT violations or nested page faults arrive. */
  tdp: boolean | undefined;
  /** Level of the root of direct tables. */
  directRootLevel: number | undefined;
  /** `kvm_tdp_mmu_spte_changed` appears. */
  tdpMmu: boolean;
  /** An MMIO SPTE and the frame that it stands for. */
  mmio: { readonly spte: bigint; readonly gfn: bigint } | undefined;
  /** Tables without accessed and dirty bits appear. */
  adDisabled: boolean;
  /** Largest host frame, where it says how wide physical addresses are. */
  highestPfn: bigint;
}

/** Physical-address width of a host of which nobody tells it, if its frames are not wider. Bits. */
const USUAL_WIDTH = 40;

/** Of a trace that does not tell: as wide as the frames need, and with room for the bits that L1TF takes. */
function widthOf(processor: Processor, seen: Seen): number {
  if (processor.vendor !== 'unknown') return processor.maxphyaddr;
  const frames = 12 + seen.highestPfn.toString(2).length;
  const l1tf = l1tfBits(seen.mmio);
  return Math.min(51, Math.max(USUAL_WIDTH, frames, l1tf === 0 ? 0 : l1tf + 5));
}

export function nothingSeen(): Seen {
  return {
    vendor: undefined,
    tdp: undefined,
    directRootLevel: undefined,
    tdpMmu: false,
    mmio: undefined,
    adDisabled: false,
    highestPfn: 0n,
  };
}

/** `parameters`: `module.name=value`; `processor`: as the guest is shown it, whose width is the host's. */
export function kvmConfigOf(
  parameters: readonly string[],
  processor: Processor,
  seen: Seen,
  profile: KvmProfile,
): KvmConfig {
  const values = new Map(parameters.map((each) => [each.split('=')[0]!, each.slice(each.indexOf('=') + 1)]));
  const on = (name: string, otherwise: boolean): boolean => {
    const value = values.get(name);
    return value === undefined ? otherwise : value === 'Y' || value === '1';
  };
  const known = values.has('kvm_intel.ept') || seen.vendor === 'intel' ? 'intel' : 'amd';
  const vendor = processor.vendor === 'unknown' ? known : processor.vendor;
  const intel = vendor === 'intel';
  const tdp = on(intel ? 'kvm_intel.ept' : 'kvm_amd.npt', seen.tdp ?? false);
  const gigabytePages = tdp || processor.features.includes('pdpe1gb');
  return defaultKvmConfig({
    profile,
    vendor,
    tdp,
    tdpMmu: tdp && on('kvm.tdp_mmu', seen.tdpMmu),
    tdpLevel: seen.directRootLevel === 5 ? 5 : 4,
    hostMaxphyaddr: widthOf(processor, seen),
    eptAd: intel && tdp && on('kvm_intel.eptad', !seen.adDisabled),
    pml: intel && tdp && on('kvm_intel.pml', false),
    maxLevel: gigabytePages ? 3 : 2,
    nxHugePages: on('kvm.nx_huge_pages', false),
    mmioCaching: on('kvm.mmio_caching', true),
    eagerPageSplit: on('kvm.eager_page_split', true),
    l1tfBits: intel ? l1tfBits(seen.mmio) : 0,
  });
}

/** The generation in an MMIO SPTE: bits 10:3 and 62:52 (facts/kvm-6.1.md §0); type and access are below and between. */
const FRAME_AND_ABOVE = 0x7_ffff_ffff_f000n;

/**
 * Lowest of the five bits that are kept set above the address, 0 if there are none (facts/kvm-6.1.md §6). Seen at an
 * MMIO SPTE whose frame is below them.
 */
export function l1tfBits(mmio: Seen['mmio']): number {
  if (mmio === undefined) return 0;
  const extra = (mmio.spte & FRAME_AND_ABOVE) ^ (mmio.gfn << 12n);
  for (let bit = 12; bit <= 46; bit++) if (extra === 0x1fn << BigInt(bit)) return bit;
  return 0;
}
