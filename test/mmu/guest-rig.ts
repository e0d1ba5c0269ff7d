/** A guest that is a hypervisor: L1's EPT or NPT in its memory, which guest_mmu shadows while L2 runs. */

import { GuestMode, Reg } from '../../src/formats/registers.ts';
import { Request } from '../../src/mmu/vcpu.ts';
import { ALL, type Mode, type RigOptions, ShadowRig } from './shadow-rig.ts';

// Bits of EPT entries.
export const ER = 1;
export const EW = 2;
export const EX = 4;
export const EPT_PS = 0x80;
export const EPT_A = 0x100;
export const EPT_D = 0x200;
export const EXU = 0x400;
const WB = 6 << 3;
/** A leaf that L2 uses freely; tables are EPT_TABLE. */
export const EPT_ALL = ER | EW | EX | WB | EPT_A | EPT_D;
export const EPT_TABLE = ER | EW | EX | EPT_A;
/** An EPT leaf with some of R, W and X. */
export function leaf(rights: number): number {
  return rights | WB | EPT_A | EPT_D;
}

export interface GuestOptions extends RigOptions {
  /** What L1 uses; its NPT has the format of L1's own paging. */
  readonly stage: 'npt' | 'ept';
  readonly mode?: Mode;
}

const EPTP = WB >>> 3;

export class GuestRig extends ShadowRig {
  private readonly stage: 'npt' | 'ept';

  constructor(options: GuestOptions) {
    const { stage, config, ...rest } = options;
    const vendor = stage === 'ept' ? 'intel' : 'amd';
    super({ ...rest, config: { tdp: true, tdpMmu: true, vendor, tdpLevel: stage === 'npt' ? 5 : 4, ...config } });
    this.stage = stage;
  }

  /** L1 enters L2 with its tables at frame `root`; roots are there afterwards. */
  enterL2(root = 1, change: { ad?: boolean; levels?: 4 | 5; mbec?: boolean; gmet?: boolean } = {}): void {
    const { vcpu } = this;
    const { ad = true, levels = 4, mbec = false, gmet = false } = change;
    if (this.stage === 'ept') {
      const eptp = root * 4096 + (EPTP | ((levels - 1) << 3) | (ad ? 1 << 6 : 0));
      this.set(Reg.EPTP, eptp);
      this.set(Reg.GUEST_MODE, GuestMode.VMX);
      vcpu.useNestedTdp(true);
      vcpu.initShadowEpt(eptp, true, mbec);
    } else {
      const [cr4, efer] = [this.registers[2 * Reg.CR4]!, this.registers[2 * Reg.EFER]!];
      this.set(Reg.NCR3, root * 4096);
      this.set(Reg.GUEST_MODE, GuestMode.SVM);
      vcpu.useNestedTdp(true);
      vcpu.initShadowNpt({ cr4, efer }, gmet);
      vcpu.request(Request.MMU_SYNC);
    }
    vcpu.newPgd();
    vcpu.serveRequests();
  }

  exitL2(): void {
    this.set(Reg.GUEST_MODE, GuestMode.NONE);
    this.vcpu.useNestedTdp(false);
    this.vcpu.initMmu();
  }

  /** L1's tables 1 -> 2 -> 3 -> 4 for L2's first 2 MiB, and what they are made of. */
  fourLevelEpt(flags = EPT_TABLE): void {
    this.put(1, 0, ShadowRig.entry(2, flags));
    this.put(2, 0, ShadowRig.entry(3, flags));
    this.put(3, 0, ShadowRig.entry(4, flags));
  }

  /** L1 writes to some frames of its own first, so that the TDP MMU maps them writable. */
  l1Touches(...gfns: number[]): void {
    for (const gfn of gfns) this.fault(gfn * 4096, 6);
    this.take();
  }

  /** What the TDP MMU has for a frame of L1's. */
  tdpSpte(gfn: number): string {
    this.tdpMmu!.lastSpte(this.vcpu.rootMmu.root!.page!, gfn);
    return this.spte(this.tdpMmu!.sp, this.tdpMmu!.index);
  }
}

/** L2 with an identity-mapped page 0x100 at its address 0, all of whose tables L1 has touched. */
export function nptGuest(options: Partial<GuestOptions> = {}): GuestRig {
  const rig = new GuestRig({ stage: 'npt', ...options });
  rig.fourLevels();
  rig.put(4, 0, ShadowRig.entry(0x100, ALL));
  rig.l1Touches(1, 2, 3, 4);
  rig.enterL2();
  return rig;
}

export function eptGuest(
  options: Partial<GuestOptions> = {},
  entry: Parameters<GuestRig['enterL2']>[1] = {},
): GuestRig {
  const rig = new GuestRig({ stage: 'ept', ...options });
  rig.fourLevelEpt();
  rig.put(4, 0, ShadowRig.entry(0x100, EPT_ALL));
  rig.l1Touches(1, 2, 3, 4);
  rig.enterL2(1, entry);
  return rig;
}
