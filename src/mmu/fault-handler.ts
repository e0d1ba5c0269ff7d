/** From a fault that the processor reports to tables that serve it (facts/kvm-mmu.md §6, facts/kvm-6.1.md §4 and §5). */

import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { ACC_ALL } from '../paging/kvm-roles.ts';
import { softwareWalk } from '../paging/software-walk.ts';
import { directMap } from './direct-fault.ts';
import { Fault, PFERR_HI_GUEST_PAGE, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W, RetPf } from './fault.ts';
import type { FaultSupport } from './fault-support.ts';
import { FaultIn, isPrivate, type Slot } from './host.ts';
import { indirectFault } from './indirect-fault.ts';
import { Inject, type Injection, type NestedHypervisor } from './injection.ts';
import { writeProtected } from './leaf.ts';
import type { Mmu } from './mmu.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import { ENTRIES, type ShadowPage } from './shadow-page.ts';
import { SPTE_W } from './spte.ts';
import type { TdpMmu } from './tdp-mmu.ts';
import { Request, type Vcpu } from './vcpu.ts';

const PF_VECTOR = 14;
const MAX_FRAME_BITS = 52;

export class FaultHandler implements FaultSupport {
  private readonly vcpu: Vcpu;
  private readonly pages: ShadowPages;
  private readonly tdpMmu: TdpMmu | null;
  private readonly fault = new Fault();
  private readonly nested: NestedHypervisor | null;
  /** What the guest, or its hypervisor, got while the last fault or software access was handled, or null. */
  injected: Injection | null = null;
  /** The guest is at CPL 3. */
  cpl3 = false;
  private readonly injection: Injection = { kind: Inject.PAGE_FAULT, lo: 0, hi: 0, infoLo: 0, infoHi: 0 };

  /** `nested`: for a guest that runs guests of its own. */
  constructor(vcpu: Vcpu, tdpMmu: TdpMmu | null, nested: NestedHypervisor | null = null) {
    this.vcpu = vcpu;
    this.nested = nested;
    this.pages = vcpu.pages;
    this.tdpMmu = tdpMmu;
  }

  /**
   * kvm_mmu_page_fault. `errorCode` and `errorHi`: of an EPT violation as KVM makes them of the qualification.
   * `duringEvent`: an event was being delivered. Returns `RetPf`; EMULATE goes on to the instruction emulator.
   */
  handle(lo: number, hi: number, errorCode: number, duringEvent: boolean, errorHi = 0): number {
    const { vcpu, pages } = this;
    const { mmu } = vcpu;
    this.injected = null;
    vcpu.mmioCache.current = pages.host.generation;
    const old = pages.config.profile === '6.1';
    // 6.1 has one qualification per vCPU, which walks update in place.
    if (old && vcpu.exit.kind === 'ept-violation') vcpu.walkFault.qualification = vcpu.exit.infoLo;
    if (old && duringEvent && !pages.config.tdp) this.unprotectAddress(lo, hi, 0);
    if (mmu.root === null) return RetPf.RETRY;
    if ((errorCode & PFERR_RSVD) !== 0) {
      const done = this.mmio(mmu, lo, hi);
      if (done !== RetPf.INVALID) return done;
    }
    const { fault } = this;
    fault.begin(lo, hi, errorCode, mmu.kind === 'tdp');
    fault.stage = !old && mmu.walk.ngpa ? (errorHi & 3) << 16 : 0;
    fault.nxHugePageWorkaround = pages.config.nxHugePages;
    const done = mmu.direct ? this.directFault(mmu, fault) : indirectFault(mmu, fault, this);
    const byWalk = (errorHi & PFERR_HI_GUEST_PAGE) !== 0;
    if (old && done === RetPf.EMULATE && mmu.direct && byWalk && fault.present && fault.write) {
      // The processor sets a bit in one of the guest's own tables: no instruction would do that if it were emulated.
      pages.unprotect(fault.gfn);
      return RetPf.RETRY;
    }
    if (done !== RetPf.WRITE_PROTECTED) return done;
    return this.writeProtectFault(mmu, fault, duringEvent, byWalk);
  }

  /** The address that was last unprotected for the guest to try again. */
  private retried = false;
  private retriedLo = 0;
  private retriedHi = 0;

  /**
   * kvm_mmu_write_protect_fault (7.3; facts/kvm-mmu.md §6.6): what was written to is shadowed. Where emulation would be
   * wrong or wasted the shadows go and the guest tries again, though not twice in a row. KVM asks for the same RIP, too;
   * traces have none, so that here the same address is emulated.
   */
  private writeProtectFault(mmu: Mmu, fault: Fault, duringEvent: boolean, byWalk: boolean): number {
    const { lo, hi } = fault;
    if (this.retried && lo === this.retriedLo && hi === this.retriedHi) return RetPf.EMULATE;
    this.retried = false;
    const unprotects = mmu.direct ? byWalk && fault.present && fault.write : duringEvent;
    if (!unprotects || this.pages.indirect === 0) return RetPf.EMULATE;
    if (!(mmu.direct ? this.pages.unprotect(fault.gfn) : this.unprotectAddress(lo, hi, PFERR_W))) return RetPf.EMULATE;
    this.retried = true;
    this.retriedLo = lo;
    this.retriedHi = hi;
    return RetPf.RETRY;
  }

  /**
   * Whoever is delivering an event must be able to write there (6.1: kvm_mmu_unprotect_page_virt). `access`: with which
   * the address is walked, besides U; as a linear one, which the address of an L2's fault with nested paging is not
   * (7.3, too). Whether anything had shadowed the frame.
   */
  private unprotectAddress(lo: number, hi: number, access: number): boolean {
    const { mmu, gvaWalk } = this.vcpu;
    if (mmu.direct) return false;
    return softwareWalk(gvaWalk, lo, hi, (this.cpl3 ? PFERR_U : 0) | access) && this.pages.unprotect(gvaWalk.gfn);
  }

  private directFault(mmu: Mmu, fault: Fault): number {
    const { pages } = this;
    fault.slot = this.slotOf(fault.gfn);
    // Without paging the tables are PAE's: 2 MiB at most.
    if (mmu.kind === 'nonpaging') fault.maxLevel = 2;
    if (this.hitsWriteTrackedFrame(fault)) return writeProtected(pages);
    const fast = this.fastPageFault(mmu, fault);
    if (fast !== RetPf.INVALID) return fast;
    const found = this.faultIn(fault, ACC_ALL);
    if (found !== RetPf.CONTINUE) return found;
    if (this.tdpMmu !== null && mmu.kind === 'tdp') {
      return this.isStale(fault) ? RetPf.RETRY : this.tdpMmu.map(fault, mmu.root!.page!);
    }
    if (!pages.makeAvailable()) throw new Error('no shadow page is left');
    return this.isStale(fault) ? RetPf.RETRY : directMap(mmu, fault);
  }

  // FaultSupport.

  /** kvm_inject_emulated_page_fault. */
  injectWalkFault(walk: KvmPageWalk): void {
    const { vcpu, injection } = this;
    const { errorCode, addressLo, addressHi, nested } = walk.fault;
    // What forbids may be out of date in the tables: the guest must not meet it again after it has handled the fault.
    if ((errorCode & PFERR_P) !== 0 && (errorCode & PFERR_RSVD) === 0) {
      const faulted = nested ? vcpu.mmu.walk : vcpu.gvaWalk;
      vcpu.invalidateAddress(faulted, addressLo, addressHi, true, null);
    }
    // A walk that began in the second stage is of what the hardware met there; a software walk only gets there.
    if (nested) this.nested!.reflect(walk.ngpa, vcpu.exit, injection);
    else this.injectPageFault(errorCode, addressLo, addressHi);
    this.injected = injection;
    if (injection.kind === Inject.PAGE_FAULT) this.pages.trace.injectException(PF_VECTOR, errorCode);
    else this.nested!.traceInjection(injection);
  }

  private injectPageFault(errorCode: number, lo: number, hi: number): void {
    const { injection, nested } = this;
    const exits = nested?.active === true && nested.interceptsPageFault(errorCode);
    injection.kind = exits ? Inject.PAGE_FAULT_EXIT : Inject.PAGE_FAULT;
    injection.lo = lo;
    injection.hi = hi;
    injection.infoLo = errorCode;
    injection.infoHi = 0;
  }

  slotOf(gfn: number): Slot | null {
    return this.pages.host.slotOf(gfn, this.vcpu.addressSpace);
  }

  hitsWriteTrackedFrame(fault: Fault): boolean {
    if (fault.rsvd || !fault.present || !fault.write) return false;
    return this.pages.slotState.isWriteTracked(fault.gfn, this.vcpu.addressSpace);
  }

  faultIn(fault: Fault, access: number): number {
    const { host, format, config } = this.pages;
    fault.invalidations = host.invalidations;
    if (fault.slot?.invalid === true) return RetPf.RETRY;
    if (fault.slot !== null && isPrivate(fault.slot) && this.vcpu.guestMode) fault.slot = null;
    const { slot } = fault;
    if (slot === null) {
      this.cacheMmio(fault.isTdp, fault.lo, fault.hi, fault.gfn, format.cachedMmioAccess(access));
      const bits = config.tdp ? config.hostMaxphyaddr : MAX_FRAME_BITS;
      if (!format.mmioCaching || fault.gfn >= 2 ** (bits - 12)) return RetPf.EMULATE;
      return RetPf.CONTINUE;
    }
    if (host.faultIn(slot, fault.gfn, fault.write) === FaultIn.READ_ONLY) return RetPf.EMULATE;
    // 7.3 looks before it takes the lock, too, and makes no room in vain (facts/kvm-mmu.md §6.8 step 9).
    if (config.profile !== '6.1' && fault.invalidations !== host.invalidations) return RetPf.RETRY;
    fault.pfn = host.pfn;
    fault.mapWritable = host.writable;
    return RetPf.CONTINUE;
  }

  freeObsoleteRoots(): void {
    this.vcpu.request(Request.FREE_OBSOLETE_ROOTS);
  }

  isStale(fault: Fault): boolean {
    const root = this.vcpu.mmu.root!;
    if (root.page !== null && this.pages.isObsolete(root.page)) return true;
    if (root.page === null && (this.vcpu.requests & Request.FREE_OBSOLETE_ROOTS) !== 0) return true;
    return fault.slot !== null && fault.invalidations !== this.pages.host.invalidations;
  }

  // The fast page fault (facts/kvm-6.1.md §5).

  /** The deepest SPTE for an address: table and index are left in `last`. */
  private findLast(mmu: Mmu, fault: Fault): void {
    this.last = null;
    if (mmu.root === null) return;
    if (this.tdpMmu !== null && mmu.kind === 'tdp') {
      this.tdpMmu.lastSpte(mmu.root.page!, fault.gfn);
      this.last = this.tdpMmu.sp;
      this.lastIndex = this.tdpMmu.index;
      return;
    }
    this.findLastShadow(mmu, fault.lo, fault.hi);
  }

  private findLastShadow(mmu: Mmu, lo: number, hi: number): void {
    const { shadowWalk } = mmu;
    this.last = null;
    for (let on = shadowWalk.begin(mmu.root!, lo, hi); on; on = shadowWalk.next()) {
      this.last = shadowWalk.sp;
      this.lastIndex = shadowWalk.sptep % ENTRIES;
    }
  }

  private last: ShadowPage | null = null;
  private lastIndex = 0;

  private fastPageFault(mmu: Mmu, fault: Fault): number {
    const { pages } = this;
    const { format } = pages;
    if (fault.rsvd) return RetPf.INVALID;
    if (fault.present ? !fault.write : format.adEnabled) return RetPf.INVALID;
    this.findLast(mmu, fault);
    const sp = this.last;
    if (sp === null) {
      pages.trace.fastPageFault(fault.lo, fault.hi, fault.errorCode, null, 0, 0, 0, 0, 0, 'other');
      return RetPf.INVALID;
    }
    const sptep = sp.sptep(this.lastIndex);
    const oldLo = pages.lo(sptep);
    const oldHi = pages.hi(sptep);
    const result = this.fixFast(mmu, fault, sp, sptep, oldLo, oldHi);
    const newLo = pages.lo(sptep);
    const newHi = pages.hi(sptep);
    const ended = result === RetPf.SPURIOUS ? 'spurious' : result === RetPf.FIXED ? 'fixed' : 'other';
    const { lo, hi, errorCode } = fault;
    pages.trace.fastPageFault(lo, hi, errorCode, sp, this.lastIndex, oldLo, oldHi, newLo, newHi, ended);
    return result;
  }

  private fixFast(mmu: Mmu, fault: Fault, sp: ShadowPage, sptep: number, oldLo: number, oldHi: number): number {
    const { pages } = this;
    const { format } = pages;
    if (!format.isPresent(oldLo) || !format.isLeaf(oldLo, sp.level)) return RetPf.INVALID;
    if (format.allows(oldLo, oldHi, fault, mmu.rootRole)) return RetPf.SPURIOUS;
    format.lo = oldLo;
    format.hi = oldHi;
    if (!format.adEnabled && format.isAccessTracked(oldLo, oldHi)) {
      format.restore(oldLo, oldHi);
      format.lo |= format.accessed;
    }
    let { lo } = format;
    const { hi } = format;
    if (fault.write && format.isMmuWritable(oldLo, oldHi)) {
      if (sp.level > 1 && fault.slot?.dirtyLog === true) return RetPf.INVALID;
      lo |= SPTE_W;
    }
    const unchanged = lo === oldLo && hi === oldHi;
    if (unchanged || !format.allows(lo, hi, fault, mmu.rootRole)) return RetPf.INVALID;
    pages.set(sptep, lo, hi);
    const becameWritable = (lo & SPTE_W) !== 0 && (oldLo & SPTE_W) === 0;
    if (becameWritable && fault.slot !== null) pages.host.markDirty(fault.slot, sp.gfnAt(this.lastIndex));
    return RetPf.FIXED;
  }

  // MMIO (facts/kvm-mmu.md §6.7).

  private mmio(mmu: Mmu, lo: number, hi: number): number {
    const { vcpu, pages } = this;
    const { format, host, trace } = pages;
    const { direct } = mmu;
    const cached = direct ? vcpu.mmioCache.matchesGpa(lo, hi) : vcpu.mmioCache.matchesGva(lo, hi);
    if (cached && (!vcpu.nested || pages.mutants.has(Mutant.NESTED_MMIO_CACHE))) return RetPf.EMULATE;
    this.fault.begin(lo, hi, PFERR_RSVD, mmu.kind === 'tdp');
    this.findLast(mmu, this.fault);
    if (this.last === null) return RetPf.RETRY;
    const sptep = this.last.sptep(this.lastIndex);
    const spteLo = pages.lo(sptep);
    const spteHi = pages.hi(sptep);
    if (!format.isMmio(spteLo, spteHi)) return RetPf.RETRY;
    const kvmGeneration = format.mmioGenerationMask(host.generation);
    const spteGeneration = format.mmioGenerationOf(spteLo, spteHi);
    trace.checkMmioSpte(spteLo, spteHi, kvmGeneration, spteGeneration);
    if (kvmGeneration !== spteGeneration) return RetPf.INVALID;
    const gfn = format.mmioGfnOf(spteLo, spteHi);
    const access = format.mmioAccessOf(spteLo);
    const knownLo = direct ? 0 : lo;
    const knownHi = direct ? 0 : hi;
    trace.handleMmioPageFault(knownLo, knownHi, gfn, access);
    this.cacheMmio(direct, lo, hi, gfn, access);
    return RetPf.EMULATE;
  }

  /** The linear page is known only where faults have linear addresses: neither under TDP nor under nested TDP. */
  private cacheMmio(physical: boolean, lo: number, hi: number, gfn: number, access: number): void {
    const unknown = physical || (this.vcpu.nested && !this.pages.mutants.has(Mutant.NESTED_MMIO_CACHE));
    this.vcpu.mmioCache.set(unknown ? 0 : lo, unknown ? 0 : hi, gfn, access);
  }
}
