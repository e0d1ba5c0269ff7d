/** What the replay engine wants of a machine: apply a step, leave what was observed. */

import type { KvmConfig } from '../formats/kvm-config.ts';
import type { RowLog } from '../paging/row-log.ts';
import type { Stimulus } from '../trace/stimulus.ts';

/** A frame of the emulated KVM's own tables changes hands. */
export interface TableUse {
  /** `log.count` at that moment: rows from there on mean the new owner. */
  readonly row: number;
  readonly frame: number;
  /** True: taken for a new table. False: given back; nothing refers to it any more, but rows already logged. */
  readonly taken: boolean;
}

/** What the comparison of KVM's events has to know of an emulated KVM. */
export interface KvmView {
  /** As replayed, which options may have changed from what was recorded. */
  readonly config: KvmConfig;
  /** Table frames taken and given back in the last step, in order. The frames of all others keep their names. */
  readonly tableUses: readonly TableUse[];
  /**
   * Whether the error code of PAGE_FAULT rows is the machine's own: what its tables say of the access (present, reserved
   * bit, rights). If not, it repeats the stimulus.
   */
  readonly predictsFaults: boolean;
  /** What the invariants of KVM's tables found, if they are checked (`mmu/invariants.ts`). */
  readonly invariantFindings: readonly { readonly step: number; readonly sentence: string }[];
  /** The recording says that the last access faulted, the machine let it through: its A and D bits are taken back. */
  takeBackAd(): void;
  /** The recording says whether KVM itself gave L1 an exit in the last step, on which the NESTED_EXIT to come depends. */
  takeReflected(reflected: boolean): void;
}

export interface Machine {
  /**
   * Observations of the last applied step, in order. KVM's events name host frames as the machine numbers them and
   * places of SPTEs by physical address; a PAGING_ELEMENT row may say in `address` where the entry stands.
   */
  readonly log: RowLog;
  /** Registers that paging depends on, 2 elements each, in the order of `Reg`. */
  readonly registers: Uint32Array;
  /** The last access was served by a TLB entry that memory does not support any more. */
  readonly staleHit: boolean;
  /** The last access was served by a TLB entry. */
  readonly servedByTlb: boolean;
  /** The translation that `serves` found: signed halves of the address that the access goes to. */
  readonly tlb: { readonly lo: number; readonly hi: number };
  /** The emulated KVM, null for a bare processor. */
  readonly kvm: KvmView | null;
  /** Applies one step (`formats/step.ts`). `ordinal` counts steps from the beginning of the segment. */
  apply(
    ordinal: number,
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
    stimuli: readonly Stimulus[],
  ): void;
  /**
   * Whether the TLB serves an ACCESS step by an entry that agrees with the tables, so that applying it would do nothing;
   * the translation is then in `tlb`. No effect. False is always right.
   */
  serves(op: number, addressLo: number, addressHi: number): boolean;
  /** Makes an access without any effect but on the log: what would happen with memory as it stands. */
  probe(op: number, addressLo: number, addressHi: number): void;
  /** Makes an access that the TLB had served once more, as if it had not. */
  rewalk(op: number, addressLo: number, addressHi: number): void;
  setRegister(register: number, lo: number, hi: number): void;
  /** The entry at a physical address as memory stands now, low half first; `row`: an observation word with its size. */
  readEntry(row: number, addressLo: number, addressHi: number): readonly [lo: number, hi: number];
  /** Takes an entry's value over from a recording. */
  adoptEntry(row: number, addressLo: number, addressHi: number, lo: number, hi: number): void;
}
