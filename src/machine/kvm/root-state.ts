/**
 * From a root of an MMU's to what the hardware is given: the root's frame and depth, PDPTEs where it has no frame, and
 * the tables that KVM puts above a PAE root for hardware that walks four or five levels (facts/kvm-mmu.md §8.2).
 */

import { EPTP_AD, NESTED_GMET, Reg, SECONDARY_MBEC } from '../../formats/registers.ts';
import { DUMMY_ROOT, type Root } from '../../mmu/root.ts';
import { frameHi, frameLo } from '../../mmu/spte.ts';
import { ZERO_FRAME } from '../../mmu/table-memory.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import type { Memory } from '../memory.ts';

/** How KVM has the hardware use a root. */
export interface RootUse {
  /** The addresses that it translates are L2's, not the guest's own: L1 has nested paging for L2. */
  readonly nested: boolean;
  /** EPT: hardware sets A and D bits. */
  readonly ad: boolean;
  /** Fetches of user pages have a right of their own: MBEC, GMET. */
  readonly splitsExecute: boolean;
}

/** How the vCPU's root in force is to be used. L2 gets the A and D bits of L1's EPT only where that has them, too. */
export function rootUseOf({ pages, registers, nested, guestMode }: Vcpu): RootUse {
  const { profile, vendor, eptAd } = pages.config;
  // What 6.1 does not know it offers to nobody.
  const controls = !nested || profile === '6.1' ? 0 : registers[2 * splitRegister[vendor].register]!;
  const splitsExecute = (controls & splitRegister[vendor].bit) !== 0;
  if (vendor === 'amd') return { nested, ad: true, splitsExecute };
  const adOfGuest = !guestMode || (nested && (registers[2 * Reg.EPTP]! & EPTP_AD) !== 0);
  return { nested, ad: eptAd && adOfGuest, splitsExecute };
}

/** Where L1 asks for it. */
const splitRegister = {
  amd: { register: Reg.NESTED_CONTROL, bit: NESTED_GMET },
  intel: { register: Reg.SECONDARY_CONTROLS, bit: SECONDARY_MBEC },
} as const;

/** The root that KVM has the hardware walk. */
export interface RootState extends RootUse {
  /** 5, 4; 3: PAE, whose four entries KVM keeps beside its tables. */
  readonly level: 3 | 4 | 5;
  /** Host frame of the root table, level 4 and 5. */
  readonly frame: number;
  /** Level 3: the entries, two halves each. */
  readonly pdptes: Int32Array;
}

/** Frames of the tables above PAE roots: one each for PDPTEs, PML4 and PML5, by vCPU and MMU. */
const SPECIAL_FRAMES = 0x800;
const FRAMES_PER_MMU = 4;
const MMUS_PER_VCPU = 2;

const PRESENT = 1;
/** P, W, U, A: what the entries above a PAE root give. */
const TABLE = 0x27;

export class RootStates {
  private readonly memory: Memory;
  private readonly firstFrame: number;

  /** `vcpu`: 0 to 63; `mmu`: 0 or 1. */
  constructor(memory: Memory, vcpu: number, mmu: number) {
    this.memory = memory;
    this.firstFrame = SPECIAL_FRAMES + (vcpu * MMUS_PER_VCPU + mmu) * FRAMES_PER_MMU;
  }

  /** `level`: of the MMU's root role. */
  of(root: Root, level: number, use: RootUse): RootState {
    const pdptes = new Int32Array(8);
    if (root.page !== null) return { ...use, level: root.page.level === 5 ? 5 : 4, frame: root.page.frame, pdptes };
    if (root === DUMMY_ROOT && level >= 4) return { ...use, level: level === 5 ? 5 : 4, frame: ZERO_FRAME, pdptes };
    const flags = level >= 4 ? TABLE : PRESENT;
    root.pae!.forEach((sp, i) => {
      if (sp === null) return;
      pdptes[2 * i] = frameLo(sp.frame) | flags;
      pdptes[2 * i + 1] = frameHi(sp.frame);
    });
    if (level < 4) return { ...use, level: 3, frame: 0, pdptes };
    const whole = level === 5 ? 5 : 4;
    return { ...use, level: whole, frame: this.tableAbove(pdptes, whole), pdptes };
  }

  /** Puts PDPTEs into a table and tables above it up to `level`; the frame of the topmost. */
  private tableAbove(pdptes: Int32Array, level: 4 | 5): number {
    const { memory, firstFrame } = this;
    for (let i = 0; i < 4; i++) memory.store((firstFrame << 12) | (8 * i), 0, pdptes[2 * i]!, pdptes[2 * i + 1]!, 8);
    for (let above = 1; above <= level - 3; above++) {
      memory.store((firstFrame + above) << 12, 0, ((firstFrame + above - 1) << 12) | TABLE, 0, 8);
    }
    return firstFrame + level - 3;
  }
}
