/**
 * The contexts of a vCPU: root_mmu and guest_mmu, of which one is in force, the walks, and the roles that follow from the
 * guest's registers (facts/kvm-mmu.md §1, §2.3 to §2.5).
 */

import { CR0_PG, CR4_PAE, EFER_LMA, GuestMode, Reg } from '../formats/registers.ts';
import type { PagingFeatures } from '../paging/configure.ts';
import type { GuestMemory } from '../paging/guest-memory.ts';
import { KvmPageWalk, PdpteSource, WalkFault } from '../paging/kvm-page-walk.ts';
import {
  type CpuRole,
  cpuRole,
  eptCpuRole,
  nptCpuRole,
  roleLevel,
  shadowEptRootRole,
  shadowNptRootRole,
  shadowRootRole,
  tdpRootRole,
  withoutPassthrough,
} from '../paging/kvm-roles.ts';
import { type Hardware, Tag } from './hardware.ts';
import { MmioCache } from './mmio-cache.ts';
import { Mmu } from './mmu.ts';
import { Mutant } from './mutants.ts';
import type { ShadowPages } from './pages.ts';
import type { TdpMmu } from './tdp-mmu.ts';
import { createWiring, defaultWiring, type RootSetup, type Wiring, type WiringName } from './wiring.ts';

export interface VcpuParts {
  readonly pages: ShadowPages;
  readonly tdpMmu: TdpMmu | null;
  readonly registers: Uint32Array;
  readonly memory: GuestMemory;
  readonly features: PagingFeatures;
  readonly hardware: Hardware;
  /** Usual: the profile's own. */
  readonly wiring?: WiringName;
}

export class Contexts {
  readonly pages: ShadowPages;
  readonly registers: Uint32Array;
  readonly memory: GuestMemory;
  readonly hardware: Hardware;
  features: PagingFeatures;
  readonly walkFault = new WalkFault();
  /** L1's walk of CR3's tables. */
  readonly cpuWalk: KvmPageWalk;
  /** The walk of L1's second stage. */
  readonly tdpWalk: KvmPageWalk;
  readonly rootMmu: Mmu;
  readonly guestMmu: Mmu;
  readonly wiring: Wiring;
  /** The MMU in force. */
  mmu: Mmu;
  readonly mmioCache = new MmioCache();
  /** One of `Tag`: what the hardware was last told. */
  tag: number = Tag.L1;

  constructor(parts: VcpuParts) {
    const { pages, registers, memory, features } = parts;
    this.pages = pages;
    this.registers = registers;
    this.memory = memory;
    this.features = features;
    this.hardware = parts.hardware;
    const { profile, tdp, vendor } = pages.config;
    const { log } = pages.trace;
    const bugs = pages.mutants.walkBugs;
    const common = { profile, tdp, memory, log, registers, features, fault: this.walkFault, bugs };
    this.cpuWalk = new KvmPageWalk({ ...common, ngpa: false, ept: false });
    this.tdpWalk = new KvmPageWalk({ ...common, ngpa: true, ept: vendor === 'intel' });
    this.rootMmu = new Mmu(pages, this.cpuWalk, parts.tdpMmu);
    this.guestMmu = new Mmu(pages, this.tdpWalk, parts.tdpMmu);
    this.mmu = this.rootMmu;
    const newCpuWalk = (): KvmPageWalk => {
      const walk = new KvmPageWalk({ ...common, ngpa: false, ept: false });
      // Since 7.3 a vCPU has one array of PDPTEs; before it was each MMU's own.
      if (profile !== '6.1') walk.pdptes = this.cpuWalk.pdptes;
      return walk;
    };
    const { rootMmu, guestMmu } = this;
    this.wiring = createWiring(parts.wiring ?? defaultWiring(profile), { rootMmu, guestMmu, newCpuWalk });
    this.walkFault.gvaWalk = this.gvaWalk;
    this.initMmu();
  }

  protected low(register: number): number {
    return this.registers[2 * register]!;
  }

  /** The walk of CR3's tables of whoever runs. */
  get gvaWalk(): KvmPageWalk {
    return this.wiring.gvaWalk;
  }

  /** L2 runs with nested paging: guest_mmu is in force (mmu_is_nested). */
  get nested(): boolean {
    return this.mmu === this.guestMmu;
  }

  /** L2 runs. */
  get guestMode(): boolean {
    return this.low(Reg.GUEST_MODE) !== GuestMode.NONE;
  }

  get addressSpace(): number {
    return this.low(Reg.SMM) !== 0 ? 1 : 0;
  }

  get paging(): boolean {
    return (this.low(Reg.CR0) & CR0_PG) !== 0;
  }

  get longMode(): boolean {
    return (this.low(Reg.EFER) & EFER_LMA) !== 0;
  }

  get paePaging(): boolean {
    return !this.longMode && this.paging && (this.low(Reg.CR4) & CR4_PAE) !== 0;
  }

  /** Brings what software walks read live up to date: RFLAGS.AC, and PDPTEs, which under TDP the processor loads. */
  prepareWalk(ac: boolean): void {
    const { gvaWalk, pages } = this;
    gvaWalk.ac = ac;
    if (!pages.config.tdp || !this.paePaging) return;
    if (pages.config.vendor === 'intel') {
      gvaWalk.pdptes.set(this.registers.subarray(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8));
    } else {
      gvaWalk.pdpteSource = PdpteSource.LAZY;
      gvaWalk.pdptesStale = true;
    }
  }

  private cpuRole(): CpuRole {
    return cpuRole(this.pages.config.profile, {
      cr0: this.low(Reg.CR0),
      cr4: this.low(Reg.CR4),
      efer: this.low(Reg.EFER),
      smm: this.addressSpace === 1,
      guestMode: this.guestMode && !this.pages.mutants.has(Mutant.GUEST_MODE_NOT_IN_ROLE),
    });
  }

  /** kvm_init_mmu: roles from the registers as they are, for the walk of whoever runs and for root_mmu. Frees no root. */
  initMmu(): void {
    const role = this.cpuRole();
    this.wiring.initMmu(this.nested, role, this.rootSetup(role));
  }

  /** The half of it that is root_mmu's. */
  initRoot(): void {
    const { kind, role } = this.rootSetup(this.cpuRole());
    this.rootMmu.init(kind, role);
  }

  private rootSetup(cpu: CpuRole): RootSetup {
    return this.pages.config.tdp ? this.tdpRoot(cpu) : this.shadowRoot(cpu);
  }

  private tdpRoot(cpu: CpuRole): RootSetup {
    const { config, format } = this.pages;
    const root = { level: config.tdpLevel, adDisabled: !format.adEnabled };
    return { kind: 'tdp', role: tdpRootRole(config.profile, cpu.base, root) };
  }

  private shadowRoot(cpu: CpuRole): RootSetup {
    return { kind: this.paging ? 'paging' : 'nonpaging', role: shadowRootRole(this.pages.config.profile, cpu.base) };
  }

  /**
   * guest_mmu is to shadow L1's nested page tables (kvm_init_shadow_npt_mmu): their format is that of L1's own CR4 and
   * EFER, whatever L2 runs with.
   */
  initShadowNpt(l1: { readonly cr4: number; readonly efer: number }, gmet: boolean): void {
    const { mutants } = this.pages;
    const { profile, tdpLevel } = this.pages.config;
    const role = nptCpuRole(profile, { ...l1, smm: this.addressSpace === 1 }, gmet);
    const own = roleLevel(role.base);
    const level = mutants.has(Mutant.NPT_ROOT_LEVEL_OF_L1) && own >= 4 ? own : tdpLevel;
    const root = shadowNptRootRole(role.base, level);
    const passes = !mutants.has(Mutant.NO_PASSTHROUGH);
    this.wiring.initGuestMmu(role, { kind: 'paging', role: passes ? root : withoutPassthrough(root) });
  }

  /** guest_mmu is to shadow L1's EPT (kvm_init_shadow_ept_mmu): the EPTP says how many levels and whether there are A/D bits. */
  initShadowEpt(eptpLo: number, executeOnly: boolean, mbec: boolean): void {
    const role = eptCpuRole(this.pages.config.profile, eptpLo, executeOnly, mbec);
    this.wiring.initGuestMmu(role, { kind: 'paging', role: shadowEptRootRole(role.base) });
  }

  /** L2 runs with nested paging, or no longer: guest_mmu comes into force, or root_mmu (facts/kvm-mmu.md §1.3). */
  useNestedTdp(on: boolean): void {
    this.mmu = on ? this.guestMmu : this.rootMmu;
    this.wiring.switched(on);
    this.walkFault.gvaWalk = this.gvaWalk;
    this.hardware.useRoot(this.mmu.root);
  }

  /** The guest is entered with this tag from now on. */
  useTag(tag: number): void {
    this.tag = tag;
    this.hardware.useTag(tag);
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
    this.features = features;
    for (const walk of [...this.wiring.cpuWalks, this.tdpWalk]) {
      walk.features = features;
      walk.invalidate();
    }
    this.rootMmu.rootRole = 0;
    this.guestMmu.rootRole = 0;
    this.resetContext();
  }
}
