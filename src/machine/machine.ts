/** What the replay engine wants of a machine: apply a step, leave what was observed. */

import type { RowLog } from '../paging/row-log.ts';
import type { Stimulus } from '../trace/stimulus.ts';

export interface Machine {
  /** Observations of the last applied step, in order. */
  readonly log: RowLog;
  /** Registers that paging depends on, 2 elements each, in the order of `Reg`. */
  readonly registers: Uint32Array;
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
  /** The entry at a physical address as memory stands now, low half first; `row`: an observation word with its size. */
  readEntry(row: number, addressLo: number, addressHi: number): readonly [lo: number, hi: number];
}
