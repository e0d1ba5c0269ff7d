/**
 * VM entry and VM exit of an L2, its EPT faults, and the instructions by which L1 tells of changes to its EPT and
 * switches it (facts/kvm-mmu.md §7.3, §7.4, §8.5).
 */

import { EPTP_AD, Reg, SECONDARY_EPT, SECONDARY_MBEC, SECONDARY_PML, SECONDARY_VPID } from '../formats/registers.ts';
import { type Hardware, Tag } from '../mmu/hardware.ts';
import { type HardwareExit, Inject, type Injection } from '../mmu/injection.ts';
import { Mutant, type Mutants } from '../mmu/mutants.ts';
import type { Root } from '../mmu/root.ts';
import { Request, type Vcpu } from '../mmu/vcpu.ts';
import { PFEC_RSVD } from '../paging/access.ts';
import { frameOf } from '../paging/guest-memory.ts';
import {
  CAP_EXECUTE_ONLY,
  CAP_HI_INVVPID,
  CAP_HI_INVVPID_TYPES_SHIFT,
  CAP_INVEPT,
  CAP_INVEPT_TYPES_SHIFT,
  type EptVpidCap,
  ep4taOf,
  isValidEptp,
} from './eptp.ts';
import { logDirty } from './pml.ts';
import { leave, loadCr3, type NestedVendor, translatesAnyway } from './transition.ts';

const PF_BIT = 1 << 14;
/** Bits of an exit qualification that are of the linear address: 8:7, and with advanced information 11:9. */
const QUAL_LINEAR = 3 << 7;
const QUAL_ADVANCED = 7 << 9;
const QUAL_NMI_UNBLOCKING = 1 << 12;

/** Basic exit reasons (SDM vol. 3D, appendix C). */
const REASON_EXCEPTION = 0;
const REASON_EPT_VIOLATION = 48;
const REASON_EPT_MISCONFIG = 49;
const REASON_PML_FULL = 62;
/** Interruption information of a #PF: valid, with error code, hardware exception, vector 14 (SDM vol. 3C 25.9.2). */
const INT_INFO_PAGE_FAULT = 0x8000_0b0e | 0;
const INT_INFO_ERROR_CODE = 1 << 11;

const INVEPT_SINGLE = 1;
const INVEPT_GLOBAL = 2;
/** There are no other types. */
const INVEPT_TYPES = (1 << INVEPT_SINGLE) | (1 << INVEPT_GLOBAL);
const INVVPID_ADDRESS = 0;
const INVVPID_ALL = 2;
const INVVPID_TYPES = 0xf;

const EPTP_SWITCHING = 1 << 0;
const EPTP_LIST_ENTRIES = 512;

/** The root is one of the tables at frame `tables`, whatever the other bits of its EPTP. */
function isRootOf(root: Root, tables: number): boolean {
  return Math.floor(root.pgd / 0x1000) === tables;
}

export class NestedVmx implements NestedVendor {
  private readonly vcpu: Vcpu;
  private readonly hardware: Hardware;
  private readonly cap: EptVpidCap;
  /** L2 has a VPID. */
  private vpid = false;
  /** L2's VPID as of the last entry that had one; 0: none yet. */
  private lastVpid = 0;
  private nestedTdp = false;
  /** The entry failed after KVM had begun it. */
  private entryFailed = false;
  /** L1's log had no room, which is not told yet (nested.pml_full): until an exit because of L1's EPT tells it, whichever. */
  private pmlFull = false;
  /** VM-exit interruption error code as L1 would read it; L1 is taken to have one VMCS. */
  private interruptionError = 0;

  constructor(vcpu: Vcpu, hardware: Hardware, cap: EptVpidCap) {
    this.vcpu = vcpu;
    this.hardware = hardware;
    this.cap = cap;
    vcpu.tdpWalk.writeLogDirty = (lo, hi) => this.logDirty(lo, hi);
  }

  private get mutants(): Mutants {
    return this.vcpu.pages.mutants;
  }

  private low(register: number): number {
    return this.vcpu.registers[2 * register]!;
  }

  private high(register: number): number {
    return this.vcpu.registers[2 * register + 1]!;
  }

  // Entry and exit.

  enter(): boolean {
    const { vcpu } = this;
    this.flushBeforeSwitch();
    const secondary = this.low(Reg.SECONDARY_CONTROLS);
    this.vpid = (secondary & SECONDARY_VPID) !== 0;
    this.nestedTdp = vcpu.pages.config.tdp && (secondary & SECONDARY_EPT) !== 0;
    vcpu.useTag(this.vpid ? Tag.L2 : Tag.L1);
    this.flushOnTransition(true);
    if (this.nestedTdp) {
      vcpu.useNestedTdp(true);
      this.newEptp(this.low(Reg.EPTP));
    } else if (translatesAnyway(vcpu)) {
      this.initTables(this.low(Reg.EPTP));
      vcpu.wiring.switched(true);
    }
    this.entryFailed = !loadCr3(vcpu, this.nestedTdp);
    return !this.entryFailed;
  }

  /** What a failed entry had asked for waits until L1 runs on: nobody serves it in L2's context. */
  exit(): void {
    const { vcpu } = this;
    if (!this.entryFailed) this.flushBeforeSwitch();
    this.entryFailed = false;
    vcpu.useTag(Tag.L1);
    vcpu.useNestedTdp(false);
    leave(vcpu);
    this.flushOnTransition(false);
  }

  /**
   * nested_vmx_transition_tlb_flush. Without a VPID of its own L2 shares L1's, which transitions flush; a VPID that the
   * last entry did not have is taken for one that was never used. Entries of L1's EPT are not synchronised: INVEPT's job.
   */
  private flushOnTransition(entry: boolean): void {
    if (!this.vpid) {
      this.requestGuestFlush();
      return;
    }
    if (!entry || this.low(Reg.VPID) === this.lastVpid) return;
    this.lastVpid = this.low(Reg.VPID);
    if (!this.mutants.has(Mutant.NEW_VPID_NOT_FLUSHED)) this.requestGuestFlush();
  }

  private requestGuestFlush(): void {
    const { vcpu } = this;
    const currentOnly = !vcpu.pages.config.tdp && this.mutants.has(Mutant.TRANSITION_KEEPS_PREVIOUS_ROOTS);
    vcpu.request(currentOnly ? Request.MMU_SYNC | Request.TLB_FLUSH_CURRENT : Request.TLB_FLUSH_GUEST);
  }

  /** What was asked for in the context that is about to be left. */
  private flushBeforeSwitch(): void {
    if (!this.mutants.has(Mutant.FLUSHES_AFTER_SWITCH)) this.vcpu.serveLocalFlushes();
  }

  /** nested_ept_new_eptp; the low half tells levels and A/D bits. */
  private newEptp(lo: number): void {
    this.initTables(lo);
    this.vcpu.newPgd();
  }

  private initTables(eptpLo: number): void {
    const mbec = (this.low(Reg.SECONDARY_CONTROLS) & SECONDARY_MBEC) !== 0;
    this.vcpu.initShadowEpt(eptpLo, (this.cap.lo & CAP_EXECUTE_ONLY) !== 0, mbec);
  }

  // Faults.

  /** nested_ept_inject_page_fault. */
  reflect(fromHardware: boolean, exit: HardwareExit, injection: Injection): void {
    const { vcpu } = this;
    const { walkFault } = vcpu;
    const old = vcpu.pages.config.profile === '6.1';
    injection.lo = walkFault.addressLo;
    injection.hi = walkFault.addressHi;
    injection.infoHi = 0;
    if (this.pmlFull) {
      this.pmlFull = false;
      injection.kind = Inject.PML_FULL;
      injection.infoLo = (old ? walkFault.qualification : exit.infoLo) & QUAL_NMI_UNBLOCKING;
      return;
    }
    const misconfig = (walkFault.errorCode & PFEC_RSVD) !== 0;
    injection.kind = misconfig ? Inject.EPT_MISCONFIG : Inject.EPT_VIOLATION;
    injection.infoLo = walkFault.qualification;
    if (!old && misconfig) {
      if (!this.mutants.has(Mutant.MISCONFIG_KEEPS_QUALIFICATION)) injection.infoLo = 0;
    } else if (!old) {
      const advanced = vcpu.features.eptAdvancedInfo ? QUAL_ADVANCED : 0;
      const linear = QUAL_LINEAR | advanced;
      const ofExit = fromHardware || this.mutants.has(Mutant.QUALIFICATION_OF_OTHER_EXIT);
      injection.infoLo =
        (walkFault.qualification & ~linear) | ((ofExit ? exit.infoLo : walkFault.qualification) & linear);
    }
    this.syncOtherRoots(walkFault.addressLo, walkFault.addressHi);
  }

  /** The processor tags by the address of the tables alone: other roots of the same tables are brought in step, too. */
  private syncOtherRoots(lo: number, hi: number): void {
    const { guestMmu } = this.vcpu;
    const tables = ep4taOf(this.low(Reg.EPTP), this.high(Reg.EPTP));
    for (const root of guestMmu.previous) {
      if (root !== null && isRootOf(root, tables)) guestMmu.invalidateAddress(root, lo, hi);
    }
  }

  interceptsPageFault(errorCode: number): boolean {
    const intercepted = (this.low(Reg.EXCEPTION_BITMAP) & PF_BIT) !== 0;
    if (this.mutants.has(Mutant.PFEC_MASK_IGNORED)) return intercepted;
    const differs = (errorCode & 0xffff & this.low(Reg.PFEC_MASK_MATCH)) >>> 0 !== this.high(Reg.PFEC_MASK_MATCH);
    return differs !== intercepted;
  }

  traceInjection(injection: Injection): void {
    const { kind, lo, hi, infoLo, infoHi } = injection;
    if (kind === Inject.PAGE_FAULT_EXIT) {
      this.traceExit(REASON_EXCEPTION, lo, hi, INT_INFO_PAGE_FAULT, infoLo & 0xffff);
      return;
    }
    const ept = kind === Inject.EPT_MISCONFIG ? REASON_EPT_MISCONFIG : REASON_EPT_VIOLATION;
    this.traceExit(kind === Inject.PML_FULL ? REASON_PML_FULL : ept, infoLo, infoHi, 0, 0);
  }

  /** Any exit to L1. An exit without an error code leaves the field what it was. */
  traceExit(reason: number, qualificationLo: number, qualificationHi: number, intInfo: number, intErr: number): void {
    if ((intInfo & INT_INFO_ERROR_CODE) !== 0) this.interruptionError = intErr;
    const { trace } = this.vcpu.pages;
    trace.nestedVmexitInject(reason, qualificationLo, qualificationHi, 0, 0, intInfo, this.interruptionError);
  }

  /**
   * nested_vmx_write_pml_buffer. Once the log had no room nothing is logged before L1 has been told, whatever becomes of
   * the log or of PML meanwhile: a walk whose failure nobody told of (a fetch of the emulator's) leaves that behind.
   */
  private logDirty(lo: number, hi: number): boolean {
    if (!this.vcpu.nested) return true;
    if (this.pmlFull) return false;
    if ((this.low(Reg.SECONDARY_CONTROLS) & SECONDARY_PML) === 0) return true;
    const { registers, memory } = this.vcpu;
    this.pmlFull = !logDirty(registers, memory, lo, hi);
    return !this.pmlFull;
  }

  // Instructions.

  invept(type: number, lo: number, hi: number): boolean {
    const { cap, vcpu } = this;
    const types = (cap.lo >>> CAP_INVEPT_TYPES_SHIFT) & INVEPT_TYPES;
    if ((cap.lo & CAP_INVEPT) === 0 || type >= 32 || ((1 << type) & types) === 0) return false;
    if (type === INVEPT_SINGLE && !isValidEptp(lo, hi, cap, vcpu.features.maxphyaddr)) return false;
    const tables = ep4taOf(lo, hi);
    vcpu.guestMmu.free((root) => type === INVEPT_GLOBAL || isRootOf(root, tables));
    if (vcpu.nested && vcpu.mmu.root === null) this.hardware.useRoot(null);
    return true;
  }

  /** Whatever VPID is named, L2's goes: that KVM has one for all of L1's. Nobody asks for L1's. */
  invvpid(type: number, vpid: number, lo: number, hi: number): boolean {
    const { cap, vcpu } = this;
    const types = (cap.hi >>> CAP_HI_INVVPID_TYPES_SHIFT) & INVVPID_TYPES;
    if ((cap.hi & CAP_HI_INVVPID) === 0 || type >= 32 || ((1 << type) & types) === 0) return false;
    if (vpid > 0xffff || (type !== INVVPID_ALL && vpid === 0)) return false;
    const anyAddress = this.mutants.has(Mutant.INVVPID_ANY_ADDRESS);
    if (type === INVVPID_ADDRESS && !anyAddress && !vcpu.isCanonical(hi, true)) return false;
    const { tag } = vcpu;
    vcpu.useTag(Tag.L2);
    if (type === INVVPID_ADDRESS) this.hardware.flushAddress(lo, hi);
    else this.hardware.flushGuest();
    vcpu.useTag(tag);
    // Without TDP L2's roots are root_mmu's, and which VPID they belong to is not known.
    if (!vcpu.pages.config.tdp) vcpu.rootMmu.freeGuestModeRoots();
    return true;
  }

  /** VMFUNC leaf 0 with `index`, executed by L2. */
  vmfunc(index: number): boolean {
    const { memory } = this.vcpu;
    if (!this.nestedTdp || (this.low(Reg.VM_FUNCTION_CONTROLS) & EPTP_SWITCHING) === 0) return false;
    if (index >>> 0 >= EPTP_LIST_ENTRIES) return false;
    const page = memory.pageIndexOf(frameOf(this.low(Reg.EPTP_LIST), this.high(Reg.EPTP_LIST)));
    if (page < 0) return false;
    const at = page + 2 * index;
    return this.switchEptp(memory.words[at]! >>> 0, memory.words[at + 1]! >>> 0);
  }

  /** The list says this EPTP; the one in force is no change. */
  switchEptp(lo: number, hi: number): boolean {
    const { vcpu } = this;
    if (lo >>> 0 === this.low(Reg.EPTP) && hi >>> 0 === this.high(Reg.EPTP)) return true;
    if (!isValidEptp(lo, hi, this.cap, vcpu.features.maxphyaddr)) return false;
    const before = this.low(Reg.EPTP);
    vcpu.registers[2 * Reg.EPTP] = lo;
    vcpu.registers[2 * Reg.EPTP + 1] = hi;
    const keepsAd = this.mutants.has(Mutant.EPTP_SWITCH_KEEPS_AD);
    this.newEptp(keepsAd ? (lo & ~EPTP_AD) | (before & EPTP_AD) : lo);
    if (!this.vpid) vcpu.request(Request.TLB_FLUSH_GUEST);
    return true;
  }
}
