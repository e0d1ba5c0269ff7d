/** What the first chunk of a segment says: who was recorded, by whom, and what the recorder was able to see. */

import type { Word64 } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { Obs } from '../formats/observation.ts';

/** The format that this version writes; older ones are upgraded on reading, newer ones refused. */
export const FORMAT_VERSION = 1;

export type Vendor = 'unknown' | 'intel' | 'amd';

/** When the recorded processor writes accessed and dirty bits; see `AdPolicy` in `proto/rewalk/trace.proto`. */
export type AdPolicy = 'unspecified' | 'after-permissions' | 'after-translation';

export interface Processor {
  vendor: Vendor;
  model: string;
  /** Bits. */
  maxphyaddr: number;
  /** Lower-case CPUID names: pse, pse36, pae, pge, nx, pdpe1gb, smep, smap, pcid, pku, pks, la57, cet, vmx, svm … */
  features: readonly string[];
  eptVpidCap: Word64;
  secondaryControlsAllowed: number;
}

export interface Hypervisor {
  name: string;
  version: string;
  tdp: boolean;
  parameters: readonly string[];
  /** What its MMU depends on; undefined for a bare processor and in traces that hold the guest's view only. */
  mmu: KvmConfig | undefined;
}

export interface Source {
  name: string;
  /** Bytes. */
  size: number;
  sha256: Uint8Array;
}

export interface TraceHeader {
  formatVersion: number;
  featureFlags: number;
  recorder: string;
  writer: string;
  title: string;
  processor: Processor;
  adPolicy: AdPolicy;
  /** Bit n: observations of kind n (`Obs`) were visible to the recorder. */
  observable: number;
  /** Equal accesses were dropped: each step stands for itself, the file is no history. */
  independent: boolean;
  sources: readonly Source[];
  knownFaults: readonly string[];
  hypervisor: Hypervisor | undefined;
  omissions: readonly { readonly what: string; readonly count: number }[];
  /**
   * State that the recording depends on and does not tell: `memory`, `memslots`, `registers`, `host pages`, `stimuli`, ….
   * Where it is not empty the trace is partial: what differs and can be due to it is undetermined, not diverged.
   */
  unknown?: readonly string[];
}

/** Whether the trace is a recording of a KVM, with its events: what came to KVM is among the steps. */
export function isKvmRecording({ hypervisor, observable }: TraceHeader): boolean {
  return hypervisor?.mmu !== undefined && ((observable >>> Obs.KVM_EVENT) & 1) !== 0;
}
