/**
 * SPTEs: the entries that KVM writes into its own tables, in the format of the hardware underneath (x86 for NPT and
 * shadow paging, EPT) with KVM's software bits (facts/kvm-mmu.md §6.11, facts/kvm-6.1.md §0 and §6).
 *
 * An SPTE is two signed halves. What `make*` build is left in `lo` and `hi`: nothing is allocated.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { ACC_ALL, cr4SmepOfPage } from '../paging/kvm-roles.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE, permissionBitmap } from '../paging/permissions.ts';
import type { Fault } from './fault.ts';

/** KVM's own "present": bit 11. */
export const SPTE_MMU_PRESENT = 1 << 11;
export const SPTE_W = 1 << 1;
export const SPTE_LARGE = 1 << 7;
const X86_P = 1 << 0;
const X86_U = 1 << 2;
const X86_A = 1 << 5;
const X86_D = 1 << 6;
const X86_NX_HI = 0x8000_0000 | 0;
const BIT_63_HI = 0x8000_0000 | 0;
const EPT_R = 1 << 0;
const EPT_X = 1 << 2;
const EPT_XU = 1 << 10;
const EPT_A = 1 << 8;
const EPT_D = 1 << 9;
/** Write-back, and the guest's PAT does not count. */
const EPT_WB_IGNORE_PAT = (6 << 3) | (1 << 6);
/** Bits 51:12 as halves. */
const FRAME_LO = ~0xfff;
const FRAME_HI = 0xf_ffff;
/** An entry of two lists of MMIO generation bits; widths differ by profile. */
const MMIO_GEN_SHIFT = 3;

/** Halves of the address of a frame (frame numbers are exact doubles below 2^40). */
export function frameLo(frame: number): number {
  return (frame * 4096) | 0;
}

export function frameHi(frame: number): number {
  return Math.floor(frame / 0x10_0000) | 0;
}

/** Frame number in bits 51:12 of an entry. */
export function frameOf(lo: number, hi: number): number {
  return (hi & FRAME_HI) * 0x10_0000 + (lo >>> 12);
}

export class SpteFormat {
  readonly ept: boolean;
  readonly profile: '6.1' | '7.3';
  // Masks; `Hi` ones stand in the high half.
  readonly accessed: number;
  readonly dirty: number;
  private readonly hostWritableLo: number;
  private readonly hostWritableHi: number;
  private readonly mmuWritableLo: number;
  private readonly mmuWritableHi: number;
  private readonly adTypeShift: number;
  private readonly mmioLo: number;
  private readonly mmioHi: number;
  private readonly mmioAccess: number;
  private readonly mmioLowBits: number;
  private readonly l1tf: number;
  /** High half of an entry that is empty, whose low half is 0; 7.3 sets bit 63 in every table (facts/kvm-mmu.md §6.11). */
  readonly emptyHi: number;
  /** What all present entries have in the high half: 7.3's EPT entries suppress #VE (§6.11). */
  readonly presentHi: number;
  /** Rights that access tracking takes away, and those of them that it saves, so much higher up in the entry. */
  private readonly tracked: number;
  private readonly saved: number;
  private readonly savedShift: number;
  /** 7.3: which rights let an access through, without and with SMEP (GMET) in the root's role. */
  private readonly bitmaps: readonly Uint16Array[];
  /** A removed SPTE of the TDP MMU while others may still see it. */
  readonly frozenLo: number;
  readonly frozenHi: number;
  readonly adEnabled: boolean;
  readonly mmioCaching: boolean;
  private readonly nxHugePages: boolean;

  /** What the last `make*` or `*Track` built. */
  lo = 0;
  hi = 0;

  constructor(config: KvmConfig) {
    this.profile = config.profile;
    this.ept = config.tdp && config.vendor === 'intel';
    this.adEnabled = !this.ept || config.eptAd;
    const old = config.profile === '6.1';
    // Where the hardware does not use EPT's A and D bits, 7.3 does.
    const hasAd = this.adEnabled || !old;
    this.accessed = !hasAd ? 0 : this.ept ? EPT_A : X86_A;
    this.dirty = !hasAd ? 0 : this.ept ? EPT_D : X86_D;
    this.emptyHi = old ? 0 : BIT_63_HI;
    this.presentHi = old || !this.ept ? 0 : BIT_63_HI;
    // Bits 54 and 56 in 6.1, 52, 54 and 62 in 7.3.
    this.saved = EPT_R | EPT_X | (old ? 0 : EPT_XU);
    this.tracked = this.saved | SPTE_W;
    this.savedShift = old ? 54 - 32 : 52 - 32;
    this.bitmaps = [false, true].map((smep) =>
      permissionBitmap({ tdp: config.tdp, ept: this.ept, smep, smap: false, wp: true, nx: true }),
    );
    // Bits 57 and 58 in 6.1's EPT format, 53 and 55 in 7.3's; 9 and 10 elsewhere.
    this.hostWritableLo = this.ept ? 0 : 1 << 9;
    this.mmuWritableLo = this.ept ? 0 : 1 << 10;
    this.hostWritableHi = !this.ept ? 0 : old ? 1 << 25 : 1 << 21;
    this.mmuWritableHi = !this.ept ? 0 : old ? 1 << 26 : 1 << 23;
    this.adTypeShift = old ? 20 : 28;
    this.frozenLo = old ? 0x5a0 : 0x1a0;
    this.frozenHi = old ? 0 : 0x8000_0000 | 0;
    // EPT: write and execute without read is a misconfiguration; else bit 51 is reserved, if the host has not 52 bits.
    this.mmioLo = this.ept ? 6 : X86_P;
    this.mmioHi = this.ept ? 0 : 1 << 19;
    this.mmioAccess = this.ept ? 0 : ACC_WRITE | ACC_USER;
    this.mmioLowBits = old ? 8 : 7;
    this.mmioCaching = config.mmioCaching && (this.ept || config.hostMaxphyaddr < 52);
    this.l1tf = config.l1tfBits;
    this.nxHugePages = config.nxHugePages;
  }

  isPresent(lo: number): boolean {
    return (lo & SPTE_MMU_PRESENT) !== 0;
  }

  /** Whether a present SPTE of a table of `level` maps memory. */
  isLeaf(lo: number, level: number): boolean {
    return level === 1 || (lo & SPTE_LARGE) !== 0;
  }

  isMmio(lo: number, hi: number): boolean {
    if (!this.mmioCaching || (lo & SPTE_MMU_PRESENT) !== 0) return false;
    return this.ept ? (lo & 7) === 6 : (lo & X86_P) !== 0 && (hi & this.mmioHi) !== 0;
  }

  isFrozen(lo: number, hi: number): boolean {
    return lo === this.frozenLo && hi === this.frozenHi;
  }

  isMmuWritable(lo: number, hi: number): boolean {
    return (lo & this.mmuWritableLo) !== 0 || (hi & this.mmuWritableHi) !== 0;
  }

  isHostWritable(lo: number, hi: number): boolean {
    return (lo & this.hostWritableLo) !== 0 || (hi & this.hostWritableHi) !== 0;
  }

  /** Executable, without regard to who executes. */
  isExecutable(lo: number, hi: number): boolean {
    return this.ept ? (lo & EPT_X) !== 0 : hi >= 0;
  }

  /** EPT: rights that give nothing, of which no SPTE is made; elsewhere P alone lets a supervisor read. */
  isEmptyAccess(access: number): boolean {
    // 6.1's READ is always there; its USER stands for EPT's R.
    return this.ept && (access & (this.profile === '6.1' ? ACC_WRITE | ACC_USER | ACC_EXEC : ACC_ALL)) === 0;
  }

  /** 0: A and D bits are the hardware's; 1: they are not used; 2: used, but D is known by write protection. */
  adTypeOf(hi: number): number {
    return (hi >>> this.adTypeShift) & 3;
  }

  /** This SPTE's A and D bits are the hardware's to set. */
  adEnabledFor(hi: number): boolean {
    return this.adEnabled && this.adTypeOf(hi) !== 1;
  }

  isAccessTracked(lo: number, hi: number): boolean {
    return this.ept && !this.adEnabledFor(hi) && (lo & this.tracked) === 0;
  }

  isAccessed(lo: number, hi: number): boolean {
    if (this.adEnabledFor(hi) || this.profile !== '6.1') return (lo & this.accessed) !== 0;
    return !this.isAccessTracked(lo, hi);
  }

  isDirty(lo: number, hi: number): boolean {
    return this.adEnabledFor(hi) ? (lo & this.dirty) !== 0 : (lo & SPTE_W) !== 0;
  }

  /** The SPTE prepared to notice the next access: A cleared, or, without A/D bits, all rights put aside. */
  track(lo: number, hi: number): void {
    this.lo = lo;
    this.hi = hi;
    if (this.adEnabledFor(hi)) {
      this.lo &= ~this.accessed;
    } else if (this.ept && !this.isAccessTracked(lo, hi)) {
      this.hi = hi | ((lo & this.saved) << this.savedShift);
      this.lo &= ~(this.tracked | this.accessed);
    }
  }

  /** Rights put aside come back. */
  restore(lo: number, hi: number): void {
    this.lo = lo | ((hi >>> this.savedShift) & this.saved);
    this.hi = hi & ~(this.saved << this.savedShift);
  }

  /** A table (facts/kvm-6.1.md §6). */
  makeTable(frame: number, adDisabled: boolean): void {
    const userExecute = this.profile === '6.1' ? 0 : EPT_XU;
    const rights = this.ept ? EPT_R | SPTE_W | EPT_X | userExecute : X86_P | SPTE_W | X86_U;
    this.lo = SPTE_MMU_PRESENT | rights | frameLo(frame);
    this.hi = frameHi(frame) | this.presentHi;
    if (adDisabled || !this.adEnabled) this.hi |= 1 << this.adTypeShift;
    else this.lo |= this.accessed;
  }

  /**
   * A leaf without regard to write protection, which `leaf.ts` decides. `access`: `ACC_*`. `prefetch`: nobody asked.
   * W and MMU-writable are set if `access` and the host allow it; D is not.
   */
  makeLeaf(
    level: number,
    access: number,
    frame: number,
    flags: { adDisabled: boolean; writeProtectOnly: boolean; prefetch: boolean; hostWritable: boolean },
  ): void {
    const old = this.profile === '6.1';
    let lo = SPTE_MMU_PRESENT;
    let hi = this.presentHi;
    const type = flags.adDisabled || !this.adEnabled ? 1 : flags.writeProtectOnly ? 2 : 0;
    hi |= type << this.adTypeShift;
    if ((type !== 1 || !old) && !flags.prefetch) lo |= this.accessed;
    // NX huge pages: no large page may be executed from.
    const isLargeNx = level > 1 && this.nxHugePages;
    const execute = (access & ACC_EXEC) !== 0 && !isLargeNx;
    if (this.ept) {
      // In 6.1 USER stands for readable (facts/kvm-mmu.md §3.1), in 7.3 for what a user may execute.
      if ((access & (old ? ACC_USER : ACC_READ)) !== 0) lo |= EPT_R;
      if (execute) lo |= EPT_X;
      if (!old && (access & ACC_USER) !== 0 && !isLargeNx) lo |= EPT_XU;
      lo |= EPT_WB_IGNORE_PAT;
    } else {
      lo |= X86_P;
      if (!execute) hi |= X86_NX_HI;
      if ((access & ACC_USER) !== 0) lo |= X86_U;
    }
    if (level > 1) lo |= SPTE_LARGE;
    if (flags.hostWritable) {
      lo |= this.hostWritableLo;
      hi |= this.hostWritableHi;
      if ((access & ACC_WRITE) !== 0) {
        lo |= SPTE_W | this.mmuWritableLo;
        hi |= this.mmuWritableHi;
      }
    }
    this.lo = lo | frameLo(frame);
    this.hi = hi | frameHi(frame);
  }

  /** The SPTE in `lo` and `hi` loses its right to be written. */
  dropWrite(): void {
    this.lo &= ~(SPTE_W | this.mmuWritableLo);
    this.hi &= ~this.mmuWritableHi;
  }

  /** The SPTE in `lo` and `hi` is dirty from the start. */
  addDirty(): void {
    if (this.adTypeOf(this.hi) !== 1 || this.profile !== '6.1') this.lo |= this.dirty;
  }

  /** A large SPTE in `lo`, `hi` becomes the small one for its part `index`. `access`: rights of the new table. */
  splitPart(lo: number, hi: number, level: number, index: number, access: number): void {
    this.lo = lo;
    this.hi = hi;
    const frame = frameOf(lo, hi) + index * 512 ** (level - 2);
    this.lo = (lo & 0xfff) | frameLo(frame);
    this.hi = (hi & ~FRAME_HI) | frameHi(frame);
    if (level === 2) {
      this.lo &= ~SPTE_LARGE;
      // NX was only put on because the page was large.
      if (!this.nxHugePages) return;
      if (this.profile !== '6.1') this.setExecutable(access);
      else if ((access & ACC_EXEC) === 0) return;
      else if (this.ept) this.lo |= EPT_X;
      else this.hi &= ~X86_NX_HI;
    }
  }

  /** The SPTE in `lo` and `hi` may be executed as `access` says; one that is access-tracked stays so (7.3). */
  setExecutable(access: number): void {
    if (!this.ept) {
      this.hi = (access & ACC_EXEC) !== 0 ? this.hi & ~X86_NX_HI : this.hi | X86_NX_HI;
      return;
    }
    const isTracked = this.isAccessTracked(this.lo, this.hi);
    if (isTracked) this.restore(this.lo, this.hi);
    this.lo &= ~(EPT_X | EPT_XU);
    this.lo |= ((access & ACC_EXEC) !== 0 ? EPT_X : 0) | ((access & ACC_USER) !== 0 ? EPT_XU : 0);
    if (isTracked) this.track(this.lo, this.hi);
  }

  /** Another frame under the same rights, not writable, as the host's change-of-PTE notifier leaves it. */
  withFrame(lo: number, hi: number, frame: number): void {
    this.lo = (lo & ~FRAME_LO & ~SPTE_W & ~this.hostWritableLo & ~this.mmuWritableLo) | frameLo(frame);
    this.hi = (hi & ~FRAME_HI & ~this.hostWritableHi & ~this.mmuWritableHi) | frameHi(frame);
    this.track(this.lo, this.hi);
  }

  /** MMIO: no memory there; `generation` as the memslots have it (masked here). Returns the generation as stored. */
  makeMmio(gfn: number, access: number, generation: number): number {
    const gen = this.mmioGenerationMask(generation);
    const low = gen & ((1 << this.mmioLowBits) - 1);
    const high = gen >>> this.mmioLowBits;
    let lo = this.mmioLo | (access & this.mmioAccess) | (low << MMIO_GEN_SHIFT) | frameLo(gfn);
    let hi = this.mmioHi | (high << 20) | frameHi(gfn);
    if (this.l1tf > 0) {
      // Five address bits are set, what they hid moves up by five (facts/kvm-6.1.md §6).
      const shift = this.l1tf - 32;
      const mask = 0x1f << shift;
      const hidden = frameHi(gfn) & mask;
      hi = hi | mask | (hidden << 5) | 0;
    }
    this.lo = lo = lo | 0;
    this.hi = hi;
    return gen;
  }

  /** The memslot generation as MMIO SPTEs can hold it. */
  mmioGenerationMask(generation: number): number {
    return generation & ((1 << (this.mmioLowBits + 11)) - 1);
  }

  mmioGenerationOf(lo: number, hi: number): number {
    const low = (lo >>> MMIO_GEN_SHIFT) & ((1 << this.mmioLowBits) - 1);
    return low | (((hi >>> 20) & 0x7ff) << this.mmioLowBits);
  }

  mmioGfnOf(lo: number, hi: number): number {
    let high = hi & FRAME_HI & ~(this.ept ? 0 : this.mmioHi);
    if (this.l1tf > 0) {
      const mask = 0x1f << (this.l1tf - 32);
      const moved = (high >>> 5) & mask;
      high = (high & ~mask & ~(mask << 5)) | moved;
    }
    return frameOf(lo & FRAME_LO, high);
  }

  mmioAccessOf(lo: number): number {
    return lo & this.mmioAccess;
  }

  /** Access that is cached with an MMIO address. */
  cachedMmioAccess(access: number): number {
    return access & this.mmioAccess;
  }

  /**
   * Whether a present leaf lets the access through. 6.1 asks for execute, write, or else bit 0 (facts/kvm-6.1.md §5);
   * 7.3 decodes its rights and asks a bitmap with the fault's own W, U and F (facts/kvm-mmu.md §3.1, §6.5). `role`: of
   * the root, or of any table below it.
   */
  allows(lo: number, hi: number, fault: Fault, role: number): boolean {
    if (this.profile === '6.1') {
      if (fault.exec) return this.isExecutable(lo, hi);
      return (lo & (fault.write ? SPTE_W : 1)) !== 0;
    }
    const bitmap = this.bitmaps[cr4SmepOfPage(role, this.profile) ? 1 : 0]!;
    const index = (fault.write ? 1 : 0) | (fault.user ? 2 : 0) | (fault.exec ? 8 : 0);
    return ((bitmap[index]! >>> this.accessOf(lo, hi)) & 1) === 0;
  }

  /** Rights of a present leaf, `ACC_*`, as 7.3 means them: EPT's USER is that a user may execute. */
  private accessOf(lo: number, hi: number): number {
    const user = this.userExecute(lo) ? ACC_USER : 0;
    return (lo & (ACC_READ | ACC_WRITE)) | user | (this.isExecutable(lo, hi) ? ACC_EXEC : 0);
  }

  /** U; EPT: execute in user mode (MBEC). */
  userExecute(lo: number): boolean {
    return this.ept ? (lo & EPT_XU) !== 0 : (lo & X86_U) !== 0;
  }
}
