/**
 * A first look through a stranger's trace, whose VM nobody describes: which guest frames are backed by a slot and when,
 * where CR3 points, what host and MMU it was. Frames and walks have files of their own.
 */

import type { TraceEvent } from '../ftrace/event.ts';
import { FrameHistory, type SurveyedSlot } from './frame-history.ts';
import { isEptMmio, mmioFrame } from './mmio-spte.ts';
import { Role } from './role-bits.ts';
import { SurveyedNesting } from './surveyed-nesting.ts';
import { SurveyedWalks } from './surveyed-walks.ts';

/** What a whole trace shows of its VM. */
export interface Survey {
  /** Names of the events that occur. */
  readonly names: ReadonlySet<string>;
  /** Exits and entries are there: the steps that they make need not be concluded. */
  readonly hasExits: boolean;
  readonly slots: readonly SurveyedSlot[];
  /** Addresses of root tables, which bits set in them gave away, by the position of the walk. */
  readonly roots: ReadonlyMap<number, bigint>;
  /** A guest frame beyond all that occur, for a root table whose place is never told. */
  readonly spareFrame: number;
  readonly tdp: boolean;
  readonly tdpMmu: boolean;
  readonly ept: boolean;
  readonly adDisabled: boolean;
  readonly directRootLevel: number | undefined;
  /** The task most of whose events are the MMU's: of an events-only trace the one that is imported. */
  readonly task: number | undefined;
  /** Largest host frame. */
  readonly highestPfn: bigint;
  /** An MMIO SPTE and its frame. */
  readonly mmio: { readonly spte: bigint; readonly gfn: bigint } | undefined;
  /** Features of the guest's processor that entries show, by CPUID name. */
  readonly features: readonly string[];
  /** Width of the guest's physical addresses in bits, as far as reserved bits tell it. */
  readonly maxphyaddr: number;
  /** Bits of role words that the trace tells. */
  readonly roleMask: number;
  /** The EPT pointers that L1 uses, ORed; 0: none. */
  readonly eptps: bigint;
}

const ERROR_PFN = 1n << 63n;
/** Bit 11 of SPTEs: present for the MMU. */
const MMU_PRESENT = 1n << 11n;
/** EPT's memory type, bits 5:3, is write-back (6); the other format has PWT and PCD there, which KVM leaves clear. */
const EPT_TYPE_BIT = 1n << 4n;
/** Collects a survey, event by event. */
export class Surveyor {
  private readonly names = new Set<string>();
  private readonly frames = new FrameHistory();
  private readonly walks = new SurveyedWalks(this.frames);
  private readonly nesting = new SurveyedNesting();
  private readonly tasks = new Map<number, number>();
  private requested = false;
  private highestPfn = 0n;
  private tdp = false;
  private shadow = false;
  private tdpMmu = false;
  private ept = 0;
  private x86 = 0;
  private adDisabled = false;
  private directRootLevel: number | undefined;
  private mmio: Survey['mmio'];
  private exits = false;
  /** The fault under way, if its guest-physical page is known: what the host does then, it does to that. */
  private faultFrame: bigint | undefined;
  private secondStage = false;
  private roleMask = 0xffff_ffff;
  private upperCase: boolean | undefined;
  private eptps = 0n;

  add(event: TraceEvent): void {
    this.names.add(event.name === 'other' ? event.event : event.name);
    switch (event.name) {
      case 'kvm_exit':
        this.exits = true;
        this.upperCase ??= event.reason === event.reason.toUpperCase();
        this.secondStage = /^(npf|EPT_VIOLATION|EPT_MISCONFIG)$/.test(event.reason);
        if (this.secondStage) this.tdp = true;
        this.faultFrame = undefined;
        this.walks.end();
        this.nesting.end();
        break;
      case 'kvm_nested_vmenter':
        this.nesting.entered(event.tdp);
        if (event.tdp) this.eptps |= event.guestPgd;
        break;
      case 'kvm_nested_vmenter_failed':
      case 'kvm_nested_vmexit_inject':
        this.nesting.left();
        break;
      case 'kvm_page_fault':
        this.faultFrame = this.secondStage && !this.nesting.active ? event.address >> 12n : undefined;
        break;
      case 'kvm_unmap_hva_range':
        this.hostAddress(event.start, event.end);
        break;
      case 'kvm_mmu_walker_error':
        this.walks.failed(event.pferr);
        break;
      case 'kvm_entry':
        this.exits = true;
        break;
      case 'kvm_mmu_pagetable_walk':
        this.nesting.walk(event.addr);
        this.walks.begin(event.addr, event.position);
        break;
      case 'kvm_mmu_paging_element':
        if (this.nesting.isOfL2(event.level, event.pte)) this.walks.end();
        else this.walks.element(event.level, event.pte, event.position);
        break;
      case 'kvm_mmu_set_accessed_bit':
      case 'kvm_mmu_set_dirty_bit':
        if (!this.nesting.active) this.walks.bitSet(event.gpa, event.position);
        break;
      case 'kvm_mmu_spte_requested':
        this.task(event.pid);
        this.request(event);
        break;
      case 'kvm_mmu_set_spte':
        this.task(event.pid);
        if ((event.spte & MMU_PRESENT) === 0n) break;
        this.frames.show(event.gfn, event.position, true, event.level);
        if (event.level === 1) {
          if ((event.spte & EPT_TYPE_BIT) !== 0n) this.ept++;
          else this.x86++;
        }
        break;
      case 'kvm_mmu_get_page':
        this.task(event.pid);
        this.page(event);
        break;
      case 'kvm_tdp_mmu_spte_changed':
        this.tdpMmu = true;
        this.tdp = true;
        if (isEptMmio(event.newSpte)) this.mmio ??= { spte: event.newSpte, gfn: event.gfn };
        break;
      case 'mark_mmio_spte':
      case 'handle_mmio_page_fault':
        this.frames.show(event.gfn, event.position, false);
        break;
      case 'check_mmio_spte':
        this.mmio ??= { spte: event.spte, gfn: mmioFrame(event.spte) };
        break;
      case 'kvm_mmio':
        if (event.type === 'write') this.frames.mmioWritten(event.gpa >> 12n);
        break;
      case 'kvm_mmu_zap_all_fast':
        this.frames.zapped(event.position);
        break;
    }
  }

  /** A page that is copied while a fault is handled is the one that faulted. */
  private hostAddress(start: bigint, end: bigint): void {
    const leaf = this.secondStage && !this.nesting.active ? undefined : this.walks.page;
    const frame = this.faultFrame ?? leaf;
    if (frame !== undefined && end - start === 0x1000n) this.frames.mappedAt(frame, start);
  }

  private task(pid: number): void {
    this.tasks.set(pid, (this.tasks.get(pid) ?? 0) + 1);
  }

  private request(event: {
    readonly gfn: bigint;
    readonly pfn: bigint;
    readonly level: number;
    readonly position: number;
  }): void {
    if (event.pfn >= ERROR_PFN) {
      this.frames.show(event.gfn, event.position, false);
      return;
    }
    if (event.pfn > this.highestPfn) this.highestPfn = event.pfn;
    this.frames.show(event.gfn, event.position, true, event.level);
    this.requested = true;
  }

  private page(event: Extract<TraceEvent, { name: 'kvm_mmu_get_page' }>): void {
    const level = event.role & Role.LEVEL;
    const direct = (event.role & Role.DIRECT) !== 0;
    this.roleMask = (this.roleMask & event.roleMask) >>> 0;
    if (direct && level >= 4) {
      this.tdp = true;
      this.directRootLevel ??= level;
    }
    if (!direct) {
      this.shadow = true;
      this.frames.show(event.gfn, event.position, true);
    }
    // Tables that stand for an EPT of L1's follow that.
    if (!this.nesting.active && (event.role & event.roleMask & Role.AD_DISABLED) !== 0) this.adDisabled = true;
  }

  survey(): Survey {
    let task: number | undefined;
    for (const [pid, count] of this.tasks) if (task === undefined || count > this.tasks.get(task)!) task = pid;
    return {
      names: this.names,
      hasExits: this.exits,
      slots: this.frames.slots(),
      roots: this.walks.roots,
      spareFrame: this.frames.spareFrame,
      tdp: this.tdp || (!this.shadow && this.requested),
      tdpMmu: this.tdpMmu,
      ept: this.upperCase ?? this.ept > this.x86,
      adDisabled: this.adDisabled,
      directRootLevel: this.directRootLevel,
      task,
      highestPfn: this.highestPfn,
      mmio: this.mmio,
      features: ['pse', 'pae', 'nx', ...(this.walks.gigabytePages ? ['pdpe1gb'] : [])],
      maxphyaddr: this.walks.maxphyaddr,
      roleMask: this.roleMask,
      eptps: this.upperCase === true ? this.eptps : 0n,
    };
  }
}
