/**
 * In the survey of a stranger's trace: whether the guest's guest runs on tables of its hypervisor's. Then walks are of
 * two dimensions, and only those of the second stage say anything of the guest's own frames.
 */

import type { TableFormat } from './second-stage.ts';
import { WalkShape } from './walk-shape.ts';

/** Enough of either format to tell entries from leaves. */
const EITHER: TableFormat = { root: 0n, levels: 4, entrySize: 8, present: 7n, accessed: 0n, dirty: 0n };

export class SurveyedNesting {
  /** The guest's guest runs, on nested page tables or EPT of its hypervisor's. */
  active = false;
  /** A walk that has read nothing yet: one that follows is its second stage's. */
  private begun: bigint | undefined;
  private shape: WalkShape | undefined;

  entered(tdp: boolean): void {
    this.active = tdp;
    this.end();
  }

  left(): void {
    this.active = false;
    this.end();
  }

  /** An exit: what follows is no walk's. */
  end(): void {
    this.begun = undefined;
    this.shape = undefined;
  }

  walk(address: bigint): void {
    if (!this.active || this.shape?.takesWalk(address) === true) return;
    this.shape = this.begun === undefined ? undefined : new WalkShape(this.begun, address, 8, EITHER);
    if (this.shape?.takesWalk(address) === true) this.begun = undefined;
    else this.begun = address;
  }

  /** Whether the entry's frame is one of the guest's guest, which says nothing of the guest's. */
  isOfL2(level: number, pte: bigint): boolean {
    this.begun = undefined;
    return this.active && this.shape !== undefined && !this.shape.isInner(level, pte);
  }
}
