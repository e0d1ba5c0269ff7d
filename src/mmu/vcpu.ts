/**
 * A vCPU as the MMU sees it: on top of contexts (`contexts.ts`) and requests (`requests.ts`), what register writes and
 * invalidations do (facts/kvm-mmu.md §8.3, §8.4).
 */

import {
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
} from '../formats/registers.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { loadPdptes } from '../paging/software-walk.ts';
import type { HardwareExit } from './injection.ts';
import { Mutant } from './mutants.ts';
import { Request, Requests } from './requests.ts';
import type { Root } from './root.ts';

export type { VcpuParts } from './contexts.ts';
export type { Hardware } from './hardware.ts';
export { Request } from './requests.ts';

const CR0_ROLE_BITS = CR0_PG | CR0_WP;
const CR4_ROLE_BITS = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE;
const CR4_PDPTR_BITS = CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP;
const CR0_PDPTR_BITS = CR0_PG | (1 << 30) | (1 << 29);
/** Reads as 1 whatever is written (SDM vol. 3A 2.5). */
const CR0_ET = 1 << 4;
const PCID_MASK = 0xfff;
const CR3_NO_FLUSH_HI = 0x8000_0000 | 0;

export class Vcpu extends Requests {
  /** The exit being handled, as the processor reported it; who hands a fault to the MMU fills it first. */
  readonly exit: HardwareExit = { kind: 'none', lo: 0, hi: 0, infoLo: 0, infoHi: 0 };

  // Register writes (facts/kvm-mmu.md §8.3). False: #GP, nothing was written.

  private set(register: number, lo: number, hi: number): void {
    this.registers[2 * register] = lo;
    this.registers[2 * register + 1] = hi;
  }

  writeCr0(operand: number): boolean {
    const value = (operand | CR0_ET) >>> 0;
    const old = this.low(Reg.CR0);
    const efer = this.low(Reg.EFER);
    const changed = (old ^ value) >>> 0;
    const loads =
      (efer & EFER_LME) === 0 &&
      (value & CR0_PG) !== 0 &&
      (this.low(Reg.CR4) & CR4_PAE) !== 0 &&
      (changed & CR0_PDPTR_BITS) !== 0;
    if (loads && !this.loadPdptes(this.low(Reg.CR3), this.registers[2 * Reg.CR3 + 1]!)) return false;
    this.set(Reg.CR0, value, 0);
    if ((efer & EFER_LME) !== 0 && (changed & CR0_PG) !== 0) {
      this.set(Reg.EFER, (value & CR0_PG) !== 0 ? efer | EFER_LMA : efer & ~EFER_LMA, 0);
    }
    this.cr0Written(old, value);
    return true;
  }

  /** CR0 has been written (kvm_post_set_cr0). */
  cr0Written(old: number, value: number): void {
    const changed = (old ^ value) >>> 0;
    if (changed === CR0_WP) {
      // 6.1 resets the context for it even while the guest does not page.
      if ((value & CR0_PG) === 0 && this.pages.config.profile !== '6.1') return;
      if (this.pages.config.tdp) {
        if (!this.pages.mutants.has(Mutant.WP_TOGGLE_WITHOUT_INIT)) this.initMmu();
        return;
      }
    }
    if ((changed & CR0_PG) !== 0 && (value & CR0_PG) === 0) this.request(Request.TLB_FLUSH_GUEST);
    if ((changed & CR0_ROLE_BITS) !== 0) this.resetContext();
  }

  writeCr4(value: number): boolean {
    const old = this.low(Reg.CR4);
    const changed = old ^ value;
    const loads = !this.longMode && this.paging && (value & CR4_PAE) !== 0 && (changed & CR4_PDPTR_BITS) !== 0;
    if (loads && !this.loadPdptes(this.low(Reg.CR3), this.registers[2 * Reg.CR3 + 1]!)) return false;
    this.set(Reg.CR4, value >>> 0, 0);
    this.cr4Written(old, value);
    return true;
  }

  /** CR4 has been written (kvm_post_set_cr4). */
  cr4Written(old: number, value: number): void {
    const changed = old ^ value;
    const roleBits = this.pages.mutants.has(Mutant.SMAP_NOT_IN_ROLE) ? CR4_ROLE_BITS & ~CR4_SMAP : CR4_ROLE_BITS;
    if ((changed & roleBits) !== 0) this.resetContext();
    const pcideSet = (value & CR4_PCIDE) !== 0 && (old & CR4_PCIDE) === 0;
    if (pcideSet && !this.pages.config.tdp && !this.pages.mutants.has(Mutant.PCIDE_KEEPS_ROOTS)) this.unload();
    const pcideCleared = (value & CR4_PCIDE) === 0 && (old & CR4_PCIDE) !== 0;
    if ((changed & CR4_PGE) !== 0 || pcideCleared) this.request(Request.TLB_FLUSH_GUEST);
    else if ((changed & CR4_PAE) !== 0 || ((value & CR4_SMEP) !== 0 && (old & CR4_SMEP) === 0)) {
      this.request(Request.TLB_FLUSH_CURRENT);
    }
  }

  writeEfer(lo: number): void {
    const old = this.low(Reg.EFER);
    // LMA is the processor's, not the guest's.
    const value = (lo & ~EFER_LMA) | (old & EFER_LMA);
    this.set(Reg.EFER, value >>> 0, 0);
    this.eferWritten(old, value);
  }

  /** EFER has been written. */
  eferWritten(old: number, value: number): void {
    const bits = this.pages.mutants.has(Mutant.NX_SHARED) ? EFER_LME : EFER_LME | EFER_NXE;
    if (((old ^ value) & bits) !== 0) this.resetContext();
  }

  writeCr3(lo: number, hi: number): boolean {
    const pcid = (this.low(Reg.CR4) & CR4_PCIDE) !== 0;
    const noFlush = pcid && (hi & CR3_NO_FLUSH_HI) !== 0;
    const high = hi & ~(pcid ? CR3_NO_FLUSH_HI : 0) & 0x7fff_ffff;
    const same = this.low(Reg.CR3) === lo >>> 0 && this.registers[2 * Reg.CR3 + 1] === high >>> 0;
    if (!same || this.paePaging) {
      if (this.paePaging && !this.loadPdptes(lo, high)) return false;
      this.set(Reg.CR3, lo >>> 0, high >>> 0);
      if (!same) this.newPgd((lo >>> 0) + (high & 0xf_ffff) * 0x1_0000_0000);
    }
    if (!noFlush) this.invalidatePcid(pcid ? lo & PCID_MASK : 0);
    return true;
  }

  /** load_pdptrs; a changed PDPTE costs the current root under shadow paging. False: a reserved bit, nothing changed. */
  loadPdptes(lo: number, hi: number): boolean {
    const { gvaWalk } = this;
    const old = [this.low(Reg.CR3), this.registers[2 * Reg.CR3 + 1]!];
    this.set(Reg.CR3, lo >>> 0, hi >>> 0);
    const loaded = loadPdptes(gvaWalk);
    this.set(Reg.CR3, old[0]!, old[1]!);
    if (!loaded) return false;
    this.registers.set(gvaWalk.pdptes, 2 * Reg.PDPTE0);
    if (gvaWalk.pdptesChanged && !this.pages.config.tdp && !this.pages.mutants.has(Mutant.PDPTES_KEEP_ROOT)) {
      this.rootMmu.freeCurrent();
      if (this.mmu === this.rootMmu) this.hardware.useRoot(null);
    }
    this.request(Request.LOAD_MMU_PGD);
    return true;
  }

  private invalidatePcid(pcid: number): void {
    if (this.pages.config.tdp) {
      if (!this.pages.mutants.has(Mutant.TDP_PCID_NOT_FLUSHED)) this.request(Request.TLB_FLUSH_GUEST);
      return;
    }
    const enabled = (this.low(Reg.CR4) & CR4_PCIDE) !== 0;
    const active = enabled ? this.low(Reg.CR3) & PCID_MASK : 0;
    if (active === pcid) this.request(Request.MMU_SYNC | Request.TLB_FLUSH_CURRENT);
    if (enabled) this.mmu.freePrevious((root) => root.pgd % 4096 === pcid);
  }

  // Invalidation (facts/kvm-mmu.md §8.4).

  /** Outside long mode every address is, unless `whatever`: an operand of 64 bits in memory. `hi`: signed high half. */
  isCanonical(hi: number, whatever = false): boolean {
    const shift = (this.low(Reg.CR4) & CR4_LA57) !== 0 ? 56 - 32 : 47 - 32;
    if (!whatever && !this.longMode) return true;
    const top = hi >> shift;
    return top === 0 || top === -1;
  }

  /**
   * kvm_mmu_invalidate_addr: an address of the tables that `walk` reads, in some of the roots that shadow them. A linear
   * one goes from the TLB, too. `which`: for previous roots.
   */
  invalidateAddress(
    walk: KvmPageWalk,
    lo: number,
    hi: number,
    current: boolean,
    which: ((root: Root) => boolean) | null,
  ): void {
    if (!walk.ngpa) {
      if (this.nested && this.pages.mutants.has(Mutant.EARLY_RETURN_BEFORE_FLUSH)) return;
      if (!this.isCanonical(hi)) return;
      this.hardware.flushAddress(lo, hi);
    }
    const mmu = this.wiring.shadowOf(walk);
    if (mmu === null || mmu.direct || mmu.kind !== 'paging') return;
    this.mmioCache.clearAddress(lo, hi);
    if (current && mmu.root !== null) mmu.invalidateAddress(mmu.root, lo, hi);
    if (which === null) return;
    for (const root of mmu.previous) {
      if (root !== null && which(root)) mmu.invalidateAddress(root, lo, hi);
    }
  }

  invlpg(lo: number, hi: number): void {
    this.invalidateAddress(this.gvaWalk, lo, hi, true, () => true);
  }

  /** INVPCID, intercepted under shadow paging only. False: #GP. */
  invpcid(type: number, pcid: number, lo: number, hi: number): boolean {
    const enabled = (this.low(Reg.CR4) & CR4_PCIDE) !== 0;
    if (type > 3 || pcid > PCID_MASK) return false;
    if (type <= 1 && pcid !== 0 && !enabled) return false;
    if (type === 0) {
      if (!this.isCanonical(hi)) return false;
      const active = enabled ? this.low(Reg.CR3) & PCID_MASK : 0;
      this.invalidateAddress(this.gvaWalk, lo, hi, active === pcid, (root) => root.pgd % 4096 === pcid);
    } else if (type === 1) {
      this.invalidatePcid(pcid);
    } else {
      this.request(Request.TLB_FLUSH_GUEST);
    }
    return true;
  }
}
