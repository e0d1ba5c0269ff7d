/** The history of a bare machine that shares what happens to memory, and what the guest invalidates, with another one. */

import { type EarlierRoot, History, type InvalidationScope } from '../machine/history.ts';

/** What does not come from an access is handed on to the other history. */
export class SharedHistory extends History {
  /** An access is being made: what it drops, it drops in this machine only. */
  ofAccess = false;
  private readonly other: History;

  constructor(other: History) {
    super();
    this.other = other;
  }

  override useVcpu(vcpu: number): void {
    super.useVcpu(vcpu);
    this.other.useVcpu(vcpu);
  }

  override wordChanges(addressLo: number, addressHi: number, oldLo: number, oldHi: number): void {
    super.wordChanges(addressLo, addressHi, oldLo, oldHi);
    this.other.wordChanges(addressLo, addressHi, oldLo, oldHi);
  }

  override rootChanges(root: Omit<EarlierRoot, 'until'>): void {
    super.rootChanges(root);
    this.other.rootChanges(root);
  }

  override invalidate(scope: InvalidationScope): void {
    super.invalidate(scope);
    if (!this.ofAccess) this.other.invalidate(scope);
  }
}
