/**
 * A vCPU as the MMU sees it: `mmu` and the contexts that it may point at, the walks, the requests that are served before
 * the guest is entered, and what register writes and invalidations do (facts/kvm-mmu.md §1, §8).
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
  GuestMode,
  Reg,
} from '../formats/registers.ts';
import type { PagingFeatures } from '../paging/configure.ts';
import type { GuestMemory } from '../paging/guest-memory.ts';
import { KvmPageWalk, PdpteSource, WalkFault } from '../paging/kvm-page-walk.ts';
import {
  type CpuRole,
  cpuRole,
  eptCpuRole,
  nptCpuRole,
  shadowEptRootRole,
  shadowNptRootRole,
  shadowRootRole,
  tdpRootRole,
} from '../paging/kvm-roles.ts';
import { loadPdptes } from '../paging/software-walk.ts';
import { MmioCache } from './mmio-cache.ts';
import { Mmu } from './mmu.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import type { Root } from './root.ts';
import type { TdpMmu } from './tdp-mmu.ts';

/** Requests, in the order in which they are served (facts/kvm-mmu.md §8.1). */
export const Request = {
  FREE_OBSOLETE_ROOTS: 1 << 0,
  MMU_SYNC: 1 << 1,
  LOAD_MMU_PGD: 1 << 2,
  TLB_FLUSH: 1 << 3,
  TLB_FLUSH_CURRENT: 1 << 4,
  TLB_FLUSH_GUEST: 1 << 5,
} as const;

const CR0_ROLE_BITS = CR0_PG | CR0_WP;
const CR4_ROLE_BITS = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE;
const CR4_PDPTR_BITS = CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP;
const CR0_PDPTR_BITS = CR0_PG | (1 << 30) | (1 << 29);
/** Reads as 1 whatever is written (SDM vol. 3A 2.5). */
const CR0_ET = 1 << 4;
const PCID_MASK = 0xfff;
const CR3_NO_FLUSH_HI = 0x8000_0000 | 0;

/** The processor, as far as KVM tells it what to forget and which tables to use. */
export interface Hardware {
  flushAll(): void;
  flushContext(): void;
  flushAddress(lo: number, hi: number): void;
  /** The root in force has changed. */
  useRoot(root: Root | null): void;
}

export interface VcpuParts {
  readonly pages: ShadowPages;
  readonly tdpMmu: TdpMmu | null;
  readonly registers: Uint32Array;
  readonly memory: GuestMemory;
  readonly features: PagingFeatures;
  readonly hardware: Hardware;
}

export class Vcpu {
  readonly pages: ShadowPages;
  readonly registers: Uint32Array;
  private readonly hardware: Hardware;
  readonly walkFault = new WalkFault();
  readonly cpuWalk: KvmPageWalk;
  readonly nestedCpuWalk: KvmPageWalk;
  readonly tdpWalk: KvmPageWalk;
  readonly rootMmu: Mmu;
  readonly guestMmu: Mmu;
  /** The MMU in force. */
  mmu: Mmu;
  readonly mmioCache = new MmioCache();
  requests = 0;
  /** The guest's root is in no memslot: the vCPU cannot run. */
  tripleFault = false;

  constructor(parts: VcpuParts) {
    const { pages, registers, memory, features } = parts;
    this.pages = pages;
    this.registers = registers;
    this.hardware = parts.hardware;
    const { profile, tdp, vendor } = pages.config;
    const { log } = pages.trace;
    const bugs = pages.mutants.walkBugs;
    const common = { profile, tdp, memory, log, registers, features, fault: this.walkFault, bugs };
    this.cpuWalk = new KvmPageWalk({ ...common, ngpa: false, ept: false });
    this.nestedCpuWalk = new KvmPageWalk({ ...common, ngpa: false, ept: false });
    this.tdpWalk = new KvmPageWalk({ ...common, ngpa: true, ept: vendor === 'intel' });
    this.nestedCpuWalk.second = this.tdpWalk;
    this.rootMmu = new Mmu(pages, this.cpuWalk, parts.tdpMmu);
    this.guestMmu = new Mmu(pages, this.tdpWalk, parts.tdpMmu);
    this.mmu = this.rootMmu;
    this.initMmu();
  }

  private low(register: number): number {
    return this.registers[2 * register]!;
  }

  get addressSpace(): number {
    return this.low(Reg.SMM) !== 0 ? 1 : 0;
  }

  get paging(): boolean {
    return (this.low(Reg.CR0) & CR0_PG) !== 0;
  }

  private get longMode(): boolean {
    return (this.low(Reg.EFER) & EFER_LMA) !== 0;
  }

  private get paePaging(): boolean {
    return !this.longMode && this.paging && (this.low(Reg.CR4) & CR4_PAE) !== 0;
  }

  /** Brings what software walks read live up to date: RFLAGS.AC, and PDPTEs, which under TDP the processor loads. */
  prepareWalk(ac: boolean): void {
    const { cpuWalk, pages } = this;
    cpuWalk.ac = ac;
    if (!pages.config.tdp || !this.paePaging) return;
    if (pages.config.vendor === 'intel') {
      cpuWalk.pdptes.set(this.registers.subarray(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8));
    } else {
      cpuWalk.pdpteSource = PdpteSource.LAZY;
      cpuWalk.pdptesStale = true;
    }
  }

  // Roles.

  private cpuRole(): CpuRole {
    return cpuRole(this.pages.config.profile, {
      cr0: this.low(Reg.CR0),
      cr4: this.low(Reg.CR4),
      efer: this.low(Reg.EFER),
      smm: this.addressSpace === 1,
      guestMode: this.low(Reg.GUEST_MODE) !== GuestMode.NONE,
    });
  }

  /**
   * kvm_init_mmu: the cpu role from the registers as they are, then the MMU in force: TDP or shadow. While guest_mmu is
   * in force only the walk is set up. Frees no root.
   */
  initMmu(): void {
    const role = this.cpuRole();
    if (this.mmu === this.guestMmu) {
      // Until 7.2 L2's tables have a walk of their own; 7.3 has one for whoever runs.
      (this.pages.config.profile === '7.3' ? this.cpuWalk : this.nestedCpuWalk).init(role);
      return;
    }
    this.cpuWalk.init(role);
    if (this.pages.config.tdp) this.initTdp(role);
    else this.initShadow(role);
  }

  private initTdp(role: CpuRole): void {
    const { config, format } = this.pages;
    const root = tdpRootRole(config.profile, role.base, { level: config.tdpLevel, adDisabled: !format.adEnabled });
    this.rootMmu.init('tdp', root);
  }

  private initShadow(role: CpuRole): void {
    const root = shadowRootRole(this.pages.config.profile, role.base);
    this.rootMmu.init(this.paging ? 'paging' : 'nonpaging', root);
  }

  /**
   * guest_mmu is to shadow L1's nested page tables (kvm_init_shadow_npt_mmu): their format is that of L1's own CR4 and
   * EFER, whatever L2 runs with.
   */
  initShadowNpt(l1: { readonly cr4: number; readonly efer: number }, gmet: boolean): void {
    const { profile, tdpLevel } = this.pages.config;
    const role = nptCpuRole(profile, { ...l1, smm: this.addressSpace === 1 }, gmet);
    this.tdpWalk.init(role);
    this.guestMmu.init('paging', shadowNptRootRole(role.base, tdpLevel));
  }

  /** guest_mmu is to shadow L1's EPT (kvm_init_shadow_ept_mmu): the EPTP says how many levels and whether there are A/D bits. */
  initShadowEpt(eptpLo: number, executeOnly: boolean, mbec: boolean): void {
    const role = eptCpuRole(this.pages.config.profile, eptpLo, executeOnly, mbec);
    this.tdpWalk.init(role);
    this.guestMmu.init('paging', shadowEptRootRole(role.base));
  }

  /**
   * L2 runs with nested paging, or no longer: which MMU is in force, and whose addresses the second stage translates
   * (facts/kvm-mmu.md §1.3). Until 7.2 L2's tables have a walk of their own, which always goes through the second stage.
   */
  useNestedTdp(on: boolean): void {
    this.mmu = on ? this.guestMmu : this.rootMmu;
    if (this.pages.config.profile === '7.3') this.cpuWalk.second = on ? this.tdpWalk : null;
    this.hardware.useRoot(this.mmu.root);
  }

  /** kvm_mmu_reset_context. */
  resetContext(): void {
    this.unload();
    this.initMmu();
  }

  /** kvm_mmu_unload: all roots of both MMUs. */
  unload(): void {
    this.rootMmu.unload();
    this.guestMmu.unload();
    this.mmioCache.clear();
    this.hardware.useRoot(null);
  }

  /** KVM_SET_CPUID: nothing that was built or set up before may be taken for right. */
  afterSetCpuid(features: PagingFeatures): void {
    for (const walk of [this.cpuWalk, this.nestedCpuWalk, this.tdpWalk]) {
      walk.features = features;
      walk.invalidate();
    }
    this.rootMmu.rootRole = 0;
    this.guestMmu.rootRole = 0;
    this.resetContext();
  }

  // Requests.

  request(what: number): void {
    this.requests |= what;
  }

  private take(what: number): boolean {
    const asked = (this.requests & what) !== 0;
    this.requests &= ~what;
    return asked;
  }

  /** Serves the requests and sees to it that there is a root. */
  serveRequests(): void {
    this.tripleFault = false;
    if (this.take(Request.FREE_OBSOLETE_ROOTS)) {
      this.rootMmu.freeObsolete();
      this.guestMmu.freeObsolete();
      if (this.mmu.root === null) this.hardware.useRoot(null);
    }
    if (this.take(Request.MMU_SYNC)) this.syncRoots();
    if (this.take(Request.LOAD_MMU_PGD)) this.hardware.useRoot(this.mmu.root);
    if (this.take(Request.TLB_FLUSH)) {
      this.hardware.flushAll();
      this.take(Request.TLB_FLUSH_CURRENT);
    }
    this.serveLocalFlushes();
    if (this.mmu.root === null) this.load();
  }

  /** Those that must be served in the context in which they were made, also before a nested transition. */
  private serveLocalFlushes(): void {
    if (this.take(Request.TLB_FLUSH_CURRENT)) this.hardware.flushContext();
    if (this.take(Request.TLB_FLUSH_GUEST)) this.flushGuest();
  }

  private flushGuest(): void {
    if (!this.pages.config.tdp) {
      this.syncRoots();
      const { mmu } = this;
      mmu.freePrevious((root) => mmu.isUnsync(root));
    }
    this.hardware.flushContext();
  }

  /** kvm_mmu_sync_roots. */
  private syncRoots(): void {
    if (this.mmu.direct || this.mmu.root === null) return;
    this.mmioCache.clear();
    this.mmu.syncRoots();
  }

  /** kvm_mmu_load. */
  private load(): void {
    if (!this.mmu.load()) {
      this.tripleFault = true;
      return;
    }
    this.syncRoots();
    this.hardware.useRoot(this.mmu.root);
    this.hardware.flushContext();
  }

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
      if (!same) this.newPgd();
    }
    if (!noFlush) this.invalidatePcid(pcid ? lo & PCID_MASK : 0);
    return true;
  }

  /** kvm_mmu_new_pgd for the CR3 in force. */
  newPgd(): void {
    if (this.mmu.newPgd(this.mmu.direct ? 0 : this.mmu.guestPgd())) {
      this.request(Request.LOAD_MMU_PGD);
      this.mmioCache.clear();
    } else {
      this.hardware.useRoot(null);
    }
  }

  /** load_pdptrs; a changed PDPTE costs the current root under shadow paging. False: a reserved bit, nothing changed. */
  loadPdptes(lo: number, hi: number): boolean {
    const old = [this.low(Reg.CR3), this.registers[2 * Reg.CR3 + 1]!];
    this.set(Reg.CR3, lo >>> 0, hi >>> 0);
    const loaded = loadPdptes(this.cpuWalk);
    this.set(Reg.CR3, old[0]!, old[1]!);
    if (!loaded) return false;
    const { pdptes, pdptesChanged } = this.cpuWalk;
    this.registers.set(pdptes, 2 * Reg.PDPTE0);
    if (pdptesChanged && !this.pages.config.tdp && !this.pages.mutants.has(Mutant.PDPTES_KEEP_ROOT)) {
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

  /** Outside long mode every address is. `hi`: signed high half. */
  isCanonical(hi: number): boolean {
    const shift = (this.low(Reg.CR4) & CR4_LA57) !== 0 ? 56 - 32 : 47 - 32;
    if (!this.longMode) return true;
    const top = hi >> shift;
    return top === 0 || top === -1;
  }

  /** An address in some of the roots of the MMU that shadows CR3's tables; `which` for previous roots. */
  invalidateAddress(lo: number, hi: number, current: boolean, which: ((root: Root) => boolean) | null): void {
    if (!this.isCanonical(hi)) return;
    this.hardware.flushAddress(lo, hi);
    const { rootMmu } = this;
    if (this.pages.config.tdp || rootMmu.kind !== 'paging') return;
    this.mmioCache.clearAddress(lo, hi);
    if (current && rootMmu.root !== null) rootMmu.invalidateAddress(rootMmu.root, lo, hi);
    if (which === null) return;
    for (const root of rootMmu.previous) {
      if (root !== null && which(root)) rootMmu.invalidateAddress(root, lo, hi);
    }
  }

  invlpg(lo: number, hi: number): void {
    this.invalidateAddress(lo, hi, true, () => true);
  }

  /** INVPCID, intercepted under shadow paging only. False: #GP. */
  invpcid(type: number, pcid: number, lo: number, hi: number): boolean {
    const enabled = (this.low(Reg.CR4) & CR4_PCIDE) !== 0;
    if (type > 3 || pcid > PCID_MASK) return false;
    if (type <= 1 && pcid !== 0 && !enabled) return false;
    if (type === 0) {
      if (!this.isCanonical(hi)) return false;
      const active = enabled ? this.low(Reg.CR3) & PCID_MASK : 0;
      this.invalidateAddress(lo, hi, active === pcid, (root) => root.pgd % 4096 === pcid);
    } else if (type === 1) {
      this.invalidatePcid(pcid);
    } else {
      this.request(Request.TLB_FLUSH_GUEST);
    }
    return true;
  }
}
