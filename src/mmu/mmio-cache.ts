/** The vCPU's memory of the last MMIO access (facts/kvm-mmu.md §6.7). */

import { frameHi, frameLo } from './spte.ts';

const NOTHING = -1;

export class MmioCache {
  /** Linear page that was accessed, as halves; 0 when only the physical one is known. */
  private gvaLo = 0;
  private gvaHi = 0;
  gfn = NOTHING;
  /** Rights, `ACC_*`. */
  access = 0;
  private generation = 0;

  /** Current memslot generation, set by the owner before any question. */
  current = 0;

  set(lo: number, hi: number, gfn: number, access: number): void {
    this.gvaLo = lo & ~0xfff;
    this.gvaHi = hi;
    this.gfn = gfn;
    this.access = access;
    this.generation = this.current;
  }

  clear(): void {
    this.gvaLo = 0;
    this.gvaHi = 0;
  }

  /** Forgets the linear page if it is this one. */
  clearAddress(lo: number, hi: number): void {
    if ((lo & ~0xfff) === this.gvaLo && (hi | 0) === this.gvaHi) this.clear();
  }

  private get valid(): boolean {
    return this.gfn !== NOTHING && this.generation === this.current;
  }

  matchesGva(lo: number, hi: number): boolean {
    if (!this.valid || (this.gvaLo === 0 && this.gvaHi === 0)) return false;
    return (lo & ~0xfff) === this.gvaLo && (hi | 0) === this.gvaHi;
  }

  matchesGpa(lo: number, hi: number): boolean {
    return this.valid && (lo & ~0xfff) === frameLo(this.gfn) && (hi | 0) === frameHi(this.gfn);
  }
}
