/**
 * How MMUs and software walks are wired: who reads CR3's tables of whoever runs, whose addresses the second stage
 * translates, and what kvm_init_mmu sets up anew (facts/kvm-mmu.md §1.3, §1.4). The kernel had three ways in turn; each
 * is one class here, and all give the same outcomes under either profile.
 *
 * | wiring | kernel | walk of an L2 with nested TDP | second stage applies to | MMU and walk are set up anew |
 * | --- | --- | --- | --- | --- |
 * | `walk-mmu` | up to 7.2 | nested_mmu's walk half | nested_mmu's walk | together, if either role changed |
 * | `nested-cpu-walk` | the series, patch 15/22 | nested_cpu_walk | nested_cpu_walk | together, if either role changed |
 * | `gva-walk` | 7.3 | gva_walk, which is L1's, too | gva_walk while guest_mmu is in force | each if its own role changed |
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import type { CpuRole } from '../paging/kvm-roles.ts';
import { Mmu, type MmuKind } from './mmu.ts';

export type WiringName = 'walk-mmu' | 'nested-cpu-walk' | 'gva-walk';

export const WIRING_NAMES: readonly WiringName[] = ['walk-mmu', 'nested-cpu-walk', 'gva-walk'];

/** The kernel's own. */
export function defaultWiring(profile: KvmProfile): WiringName {
  return profile === '6.1' ? 'walk-mmu' : 'gva-walk';
}

/** What every wiring has to do with. */
export interface WiredParts {
  readonly rootMmu: Mmu;
  readonly guestMmu: Mmu;
  /** One more walk of CR3's tables. */
  newCpuWalk(): KvmPageWalk;
}

/** A root role, and what tables it is of. */
export interface RootSetup {
  readonly kind: MmuKind;
  readonly role: number;
}

export interface Wiring {
  readonly name: WiringName;
  /** All that walk CR3's tables. */
  readonly cpuWalks: readonly KvmPageWalk[];
  /** The walk of the tables of whoever runs. */
  readonly gvaWalk: KvmPageWalk;
  /** guest_mmu is in force now, or no longer. */
  switched(nested: boolean): void;
  /** kvm_init_mmu: `cpu` is the role of whoever runs; `root` what root_mmu is to become if it is in force. */
  initMmu(nested: boolean, cpu: CpuRole, root: RootSetup): void;
  /** guest_mmu is to shadow tables of role `cpu`. */
  initGuestMmu(cpu: CpuRole, root: RootSetup): void;
  /** The MMU whose tables shadow what a walk reads, or null: kvm_mmu_invalidate_addr has nothing to do there. */
  shadowOf(walk: KvmPageWalk): Mmu | null;
}

export function createWiring(name: WiringName, parts: WiredParts): Wiring {
  switch (name) {
    case 'walk-mmu':
      return new WalkMmuWiring(parts);
    case 'nested-cpu-walk':
      return new NestedCpuWalkWiring(parts);
    default:
      return new GvaWalkWiring(parts);
  }
}

/** Before MMU and walk were told apart: one test for both, and both halves are set up anew. */
function initTogether(mmu: Mmu, cpu: CpuRole, root: RootSetup): void {
  const { walk } = mmu;
  if (walk.hasRole(cpu) && mmu.hasRole(root.kind, root.role)) return;
  walk.setUp(cpu);
  mmu.init(root.kind, root.role);
}

/** `vcpu.walk_mmu` points at an MMU: nested_mmu is one of which nothing but the walk is used. */
class WalkMmuWiring implements Wiring {
  readonly name = 'walk-mmu';
  private readonly parts: WiredParts;
  private readonly nestedMmu: Mmu;
  private walkMmu: Mmu;

  constructor(parts: WiredParts) {
    const { rootMmu, guestMmu } = parts;
    this.parts = parts;
    this.nestedMmu = new Mmu(rootMmu.pages, parts.newCpuWalk(), null);
    this.nestedMmu.walk.second = guestMmu.walk;
    this.walkMmu = rootMmu;
  }

  get cpuWalks(): readonly KvmPageWalk[] {
    return [this.parts.rootMmu.walk, this.nestedMmu.walk];
  }

  get gvaWalk(): KvmPageWalk {
    return this.walkMmu.walk;
  }

  switched(nested: boolean): void {
    this.walkMmu = nested ? this.nestedMmu : this.parts.rootMmu;
  }

  /** Exactly one of the two: root_mmu's walk keeps L1's role while L2 runs. */
  initMmu(nested: boolean, cpu: CpuRole, root: RootSetup): void {
    if (nested) this.nestedMmu.walk.init(cpu);
    else initTogether(this.parts.rootMmu, cpu, root);
  }

  initGuestMmu(cpu: CpuRole, root: RootSetup): void {
    initTogether(this.parts.guestMmu, cpu, root);
  }

  /** An MMU is named, and nested_mmu has no hook. */
  shadowOf(walk: KvmPageWalk): Mmu | null {
    const { guestMmu } = this.parts;
    const mmu = walk === guestMmu.walk ? guestMmu : this.walkMmu;
    return mmu === this.nestedMmu ? null : mmu;
  }
}

/** `vcpu.cpu_walk` points at a walk: nested_cpu_walk belongs to no MMU. */
class NestedCpuWalkWiring implements Wiring {
  readonly name = 'nested-cpu-walk';
  private readonly parts: WiredParts;
  private readonly nestedCpuWalk: KvmPageWalk;
  /** The pointer. */
  gvaWalk: KvmPageWalk;

  constructor(parts: WiredParts) {
    this.parts = parts;
    this.nestedCpuWalk = parts.newCpuWalk();
    this.nestedCpuWalk.second = parts.guestMmu.walk;
    this.gvaWalk = parts.rootMmu.walk;
  }

  get cpuWalks(): readonly KvmPageWalk[] {
    return [this.parts.rootMmu.walk, this.nestedCpuWalk];
  }

  switched(nested: boolean): void {
    this.gvaWalk = nested ? this.nestedCpuWalk : this.parts.rootMmu.walk;
  }

  initMmu(nested: boolean, cpu: CpuRole, root: RootSetup): void {
    if (nested) this.nestedCpuWalk.init(cpu);
    else initTogether(this.parts.rootMmu, cpu, root);
  }

  initGuestMmu(cpu: CpuRole, root: RootSetup): void {
    initTogether(this.parts.guestMmu, cpu, root);
  }

  shadowOf(walk: KvmPageWalk): Mmu | null {
    if (walk === this.nestedCpuWalk) return null;
    const { rootMmu, guestMmu } = this.parts;
    return walk === guestMmu.walk ? guestMmu : rootMmu;
  }
}

/** One walk for L1 and L2, without a pointer: every transition has to compute its role anew. */
class GvaWalkWiring implements Wiring {
  readonly name = 'gva-walk';
  private readonly parts: WiredParts;
  readonly gvaWalk: KvmPageWalk;

  constructor(parts: WiredParts) {
    this.parts = parts;
    this.gvaWalk = parts.rootMmu.walk;
  }

  get cpuWalks(): readonly KvmPageWalk[] {
    return [this.gvaWalk];
  }

  /** "mmu_is_nested, and not the walk of the second stage itself". */
  switched(nested: boolean): void {
    this.gvaWalk.second = nested ? this.parts.guestMmu.walk : null;
  }

  initMmu(nested: boolean, cpu: CpuRole, root: RootSetup): void {
    this.gvaWalk.init(cpu);
    if (!nested) this.parts.rootMmu.init(root.kind, root.role);
  }

  initGuestMmu(cpu: CpuRole, root: RootSetup): void {
    const { guestMmu } = this.parts;
    guestMmu.walk.init(cpu);
    guestMmu.init(root.kind, root.role);
  }

  shadowOf(walk: KvmPageWalk): Mmu | null {
    const { rootMmu, guestMmu } = this.parts;
    return walk === guestMmu.walk ? guestMmu : rootMmu;
  }
}
