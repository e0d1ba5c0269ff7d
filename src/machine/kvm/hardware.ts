/**
 * The hardware that an emulated KVM runs its guest on: a bare machine on host memory, in the state that KVM puts the
 * processor into.
 *
 * - Two-dimensional paging: the guest's registers as they are, in a guest mode whose second stage is KVM's root. Also
 *   for L2: the second stage is then what KVM made of L1's nested page tables, or, if L1 has none, as for L1.
 * - Shadow paging: KVM's root in the place of the guest's, in a paging mode that fits it, with what SPTEs rely on forced
 *   on and what they cannot express off (facts/kvm-mmu.md §2.5, §6.2).
 */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PKE,
  CR4_PKS,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EPTP_AD,
  GuestMode,
  NESTED_GMET,
  NESTED_NP_ENABLE,
  REGISTER_COUNT,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
  SECONDARY_VPID,
} from '../../formats/registers.ts';
import { configureWalks, type PagingFeatures } from '../../paging/configure.ts';
import { frameHi, frameLo } from '../../paging/guest-memory.ts';
import { PageWalk } from '../../paging/page-walk.ts';
import type { TraceHeader } from '../../trace/header.ts';
import { BareMachine } from '../bare.ts';
import { pagingFeatures } from '../features.ts';
import { History } from '../history.ts';
import type { Memory } from '../memory.ts';
import type { RootState } from './root-state.ts';
import { Tags } from './tags.ts';

/** VPID or ASID that a guest is entered with unless told: any number but 0, which is the host's own. */
const GUEST_TAG = 1;
/** EPTP bits 2:0: tables are write-back. */
const EPTP_WRITE_BACK = 6;
/** Registers that the guest under two-dimensional paging has to itself. */
const GUESTS_OWN = [
  Reg.CR0,
  Reg.CR3,
  Reg.CR4,
  Reg.EFER,
  Reg.PKRU,
  Reg.PKRS,
  Reg.PDPTE0,
  Reg.PDPTE1,
  Reg.PDPTE2,
  Reg.PDPTE3,
  Reg.SMM,
  Reg.PAT,
] as const;
/** What L1 wants of L2's exceptions. Under shadow paging a #PF is KVM's before it is anybody's, whatever L1 wants. */
const OF_L1 = [Reg.EXCEPTION_BITMAP, Reg.PFEC_MASK_MATCH] as const;
/** What SPTEs cannot express (keys), or the hardware must not do while the guest does not page. */
const HIDDEN_CR4 = CR4_PKE | CR4_PKS;
const PAGING_CR4 = CR4_SMEP | CR4_SMAP;

/** Nobody asks what this processor may still have cached, only whether tables have changed. */
class Epochs extends History {
  override wordChanges(_addressLo: number, _addressHi: number, oldLo: number, oldHi: number): void {
    // Not-present entries are never cached; the mask suits x86 and EPT formats alike.
    if ((oldLo & 0x407) !== 0 || (oldHi & 0x407) !== 0) this.epoch++;
  }

  override invalidate(): void {}

  override rootChanges(): void {}
}

export class Hardware extends BareMachine {
  private readonly config: KvmConfig;
  private readonly hostFeatures: PagingFeatures;
  private readonly scratchWalk: PageWalk;
  readonly tags: Tags;
  /** A root is loaded. */
  rooted = false;
  /** VPID or ASID in use. */
  tag = GUEST_TAG;

  constructor(header: TraceHeader, config: KvmConfig, memory: Memory) {
    super(config.tdp ? header : asHost(header, config), memory, new Epochs());
    this.config = config;
    this.hostFeatures = pagingFeatures(asHost(header, config));
    this.scratchWalk = new PageWalk(0, memory, this.log);
    this.tags = new Tags(this.tlb);
    if (config.vendor === 'amd') {
      this.setRegister(Reg.GUEST_MODE, GuestMode.SVM, 0);
      this.setRegister(Reg.NESTED_CONTROL, config.tdp ? NESTED_NP_ENABLE : 0, 0);
      this.setRegister(Reg.HOST_CR0, CR0_PG | CR0_WP | CR0_PE, 0);
      this.setRegister(Reg.HOST_CR4, CR4_PAE | (config.tdpLevel === 5 ? CR4_LA57 : 0), 0);
      this.setRegister(Reg.HOST_EFER, EFER_LME | EFER_LMA | EFER_NXE, 0);
    } else {
      this.setRegister(Reg.GUEST_MODE, GuestMode.VMX, 0);
      this.setRegister(Reg.SECONDARY_CONTROLS, SECONDARY_VPID | (config.tdp ? SECONDARY_EPT : 0), 0);
    }
    this.useTag(GUEST_TAG);
  }

  /** The guest is entered with this VPID or ASID from here on. */
  useTag(tag: number): void {
    this.tag = tag;
    this.setRegister(this.config.vendor === 'amd' ? Reg.ASID : Reg.VPID, tag, 0);
  }

  /** The second stage is the host's business, whose address width and page sizes it has. */
  override configure(): void {
    const { stale } = this;
    super.configure();
    if (!stale) return;
    this.tags.use(this.contexts);
    if (this.tdpWalk !== null) {
      configureWalks(this.registers, this.hostFeatures, this.scratchWalk, this.eptWalk, this.nptWalk);
    }
  }

  /** Puts the processor into the state in which KVM runs a guest with registers `guest` on `root`. */
  load(guest: Uint32Array, root: RootState | null): void {
    this.rooted = root !== null;
    const inGuestMode = guest[2 * Reg.GUEST_MODE] !== GuestMode.NONE;
    for (const register of OF_L1) {
      this.setRegister(register, inGuestMode ? guest[2 * register]! : 0, inGuestMode ? guest[2 * register + 1]! : 0);
    }
    if (!this.config.tdp) {
      if (root !== null) this.loadShadow(guest, root);
      return;
    }
    for (const register of GUESTS_OWN) this.setRegister(register, guest[2 * register]!, guest[2 * register + 1]!);
    if (root === null) return;
    if (this.config.vendor === 'amd') {
      this.setRegister(Reg.NESTED_CONTROL, NESTED_NP_ENABLE | (root.splitsExecute ? NESTED_GMET : 0), 0);
      this.setRegister(Reg.NCR3, frameLo(root.frame), frameHi(root.frame));
    } else {
      const mbec = root.splitsExecute ? SECONDARY_MBEC : 0;
      this.setRegister(Reg.SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_VPID | mbec, 0);
      const flags = EPTP_WRITE_BACK | ((root.level - 1) << 3) | (root.ad ? EPTP_AD : 0);
      this.setRegister(Reg.EPTP, frameLo(root.frame) | flags, frameHi(root.frame));
    }
  }

  /** Takes over what the guest's own instructions have changed. */
  store(guest: Uint32Array): void {
    for (const register of GUESTS_OWN) {
      guest[2 * register] = this.registers[2 * register]!;
      guest[2 * register + 1] = this.registers[2 * register + 1]!;
    }
  }

  private loadShadow(guest: Uint32Array, root: RootState): void {
    const paging = (guest[2 * Reg.CR0]! & CR0_PG) !== 0;
    const long = root.level >= 4;
    let cr4 = (guest[2 * Reg.CR4]! & ~(HIDDEN_CR4 | CR4_LA57)) | CR4_PAE;
    if (!paging) cr4 &= ~PAGING_CR4;
    if (!long) cr4 &= ~CR4_PCIDE;
    if (root.level === 5) cr4 |= CR4_LA57;
    const efer = (guest[2 * Reg.EFER]! & ~(EFER_LMA | EFER_LME)) | EFER_NXE | (long ? EFER_LMA | EFER_LME : 0);
    const pcid = (cr4 & CR4_PCIDE) !== 0 ? guest[2 * Reg.CR3]! & 0xfff : 0;
    this.setRegister(Reg.CR0, guest[2 * Reg.CR0]! | CR0_PG | CR0_WP | CR0_PE, 0);
    this.setRegister(Reg.CR4, cr4, guest[2 * Reg.CR4 + 1]!);
    this.setRegister(Reg.EFER, efer, guest[2 * Reg.EFER + 1]!);
    this.setRegister(Reg.CR3, long ? frameLo(root.frame) | pcid : 0, long ? frameHi(root.frame) : 0);
    for (let index = 0; index < 4; index++) {
      this.setRegister(Reg.PDPTE0 + index, long ? 0 : root.pdptes[2 * index]!, long ? 0 : root.pdptes[2 * index + 1]!);
    }
  }
}

/** The header of a trace that the host itself might have been recorded in. */
function asHost(header: TraceHeader, config: KvmConfig): TraceHeader {
  const { processor } = header;
  return {
    ...header,
    processor: {
      ...processor,
      vendor: config.vendor,
      maxphyaddr: config.hostMaxphyaddr,
      features: [...new Set([...processor.features, 'pse36', 'pdpe1gb'])],
      // Execute-only, 2 MB and 1 GB pages; advanced exit information as the recorded processor has it.
      eptVpidCap: { lo: (processor.eptVpidCap.lo | 0x3_0001) >>> 0, hi: processor.eptVpidCap.hi },
    },
  };
}

/** Elements of a register file. */
export const REGISTER_WORDS = 2 * REGISTER_COUNT;
