/**
 * A first look through a stranger's trace, whose VM nobody describes: which guest frames are backed by a slot and when,
 * where CR3 points, what host and MMU it was. What an event shows holds before it, too, as far as nothing else is shown.
 */

import type { TraceEvent } from '../ftrace/event.ts';
import { Role } from './role-bits.ts';

/** A run of guest frames that are backed together. */
export interface SurveyedSlot {
  readonly first: number;
  /** Exclusive. */
  readonly end: number;
  /** Position from which it is there; 0: from the beginning. */
  readonly from: number;
  /** Position from which it is gone; Infinity: never. */
  readonly to: number;
  /** Writes to it end in MMIO, though it is backed. */
  readonly readOnly: boolean;
  /** Host-virtual minus guest-physical address, 0 if no event tells both. */
  readonly offset: bigint;
}

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
  /** Largest level of a mapping. */
  readonly highestLevel: number;
  /** An MMIO SPTE and its frame. */
  readonly mmio: { readonly spte: bigint; readonly gfn: bigint } | undefined;
  /** Features of the guest's processor that entries show, by CPUID name. */
  readonly features: readonly string[];
  /** Width of the guest's physical addresses in bits, as far as reserved bits tell it. */
  readonly maxphyaddr: number;
  /** Bits of role words that the trace tells. */
  readonly roleMask: number;
  /** Level of the first entry of the first walk; 0 without walks. */
  readonly firstLevel: number;
}

const ERROR_PFN = 1n << 63n;
const FRAME = 0xf_ffff_ffff_f000n;
const LARGE = 0x80n;
const PFEC_RSVD = 8;
/** Bit 11 of SPTEs: present for the MMU. */
const MMU_PRESENT = 1n << 11n;
/** EPT's memory type, bits 5:3, is write-back (6); the other format has PWT and PCD there, which KVM leaves clear. */
const EPT_TYPE_BIT = 1n << 4n;
/** Frames between two known ones that are taken to be backed alike, at most: 1 GiB. */
const MAXIMUM_GAP = 1 << 18;
/** Guest frames looked at; a stranger's trace may hold anything. */
const MAXIMUM_FRAMES = 1 << 22;

interface Change {
  readonly position: number;
  readonly present: boolean;
}

/** Collects a survey, event by event. */
export class Surveyor {
  private readonly names = new Set<string>();
  private readonly changes = new Map<number, Change[]>();
  private readonly roots = new Map<number, bigint>();
  private readonly tasks = new Map<number, number>();
  /** Positions at which the VMM zapped everything: a slot may have gone there. */
  private readonly zaps: number[] = [];
  private walk:
    | { position: number; addr: bigint; tables: bigint[]; level: number; last: bigint; first: number }
    | undefined;
  private requested = false;
  private highestPfn = 0n;
  private highestLevel = 1;
  private tdp = false;
  private shadow = false;
  private tdpMmu = false;
  private ept = 0;
  private x86 = 0;
  private adDisabled = false;
  private directRootLevel: number | undefined;
  private mmio: Survey['mmio'];
  private exits = false;
  private readonly mmioWrites = new Set<number>();
  private readonly offsets = new Map<number, bigint>();
  /** The fault under way, if its guest-physical page is known: what the host does then, it does to that. */
  private faultFrame = -1n;
  private secondStage = false;
  /** A walk that ends at a page of 1 GiB, if it has not failed. */
  private largeWalk: unknown;
  private gigabytePages = false;
  private maxphyaddr = 52;
  private firstLevel = 0;
  private roleMask = 0xffff_ffff;
  private upperCase: boolean | undefined;

  add(event: TraceEvent): void {
    this.names.add(event.name === 'other' ? event.event : event.name);
    switch (event.name) {
      case 'kvm_exit':
        this.exits = true;
        this.upperCase ??= event.reason === event.reason.toUpperCase();
        this.secondStage = /^(npf|EPT_VIOLATION|EPT_MISCONFIG)$/.test(event.reason);
        if (this.secondStage) this.tdp = true;
        this.faultFrame = -1n;
        this.walk = undefined;
        break;
      case 'kvm_page_fault':
        this.faultFrame = this.secondStage ? event.address >> 12n : -1n;
        break;
      case 'kvm_unmap_hva_range':
        this.hostAddress(event.start, event.end);
        break;
      case 'kvm_mmu_walker_error':
        this.walkFailed(event.pferr);
        break;
      case 'kvm_entry':
        this.exits = true;
        break;
      case 'kvm_mmu_pagetable_walk':
        if (this.largeWalk !== undefined && this.largeWalk === this.walk) this.gigabytePages = true;
        this.largeWalk = undefined;
        this.walk = { position: event.position, addr: event.addr, tables: [], level: 0, last: 0n, first: 0 };
        break;
      case 'kvm_mmu_paging_element':
        this.element(event.level, event.pte, event.position);
        break;
      case 'kvm_mmu_set_accessed_bit':
      case 'kvm_mmu_set_dirty_bit':
        this.bitSet(event.gpa, event.position);
        break;
      case 'kvm_mmu_spte_requested':
        this.task(event.pid);
        this.request(event);
        break;
      case 'kvm_mmu_set_spte':
        this.task(event.pid);
        if ((event.spte & MMU_PRESENT) === 0n) break;
        this.show(event.gfn, event.position, true, event.level);
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
        if ((event.newSpte & 0x807n) === 6n) this.mmio ??= { spte: event.newSpte, gfn: event.gfn };
        break;
      case 'mark_mmio_spte':
      case 'handle_mmio_page_fault':
        this.show(event.gfn, event.position, false);
        break;
      case 'check_mmio_spte':
        this.mmio ??= { spte: event.spte, gfn: (event.spte >> 12n) & 0x3ff_ffffn };
        break;
      case 'kvm_mmio':
        if (event.type === 'write') this.mmioWrites.add(Number(event.gpa >> 12n));
        break;
      case 'kvm_mmu_zap_all_fast':
        this.zaps.push(event.position);
        break;
    }
  }

  /** A page that is copied while a fault is handled is the one that faulted. */
  private hostAddress(start: bigint, end: bigint): void {
    const { walk } = this;
    const leaf = !this.secondStage && walk !== undefined && walk.level === 1 ? walk.last >> 12n : -1n;
    const frame = this.faultFrame >= 0n ? this.faultFrame : leaf;
    if (frame >= 0n && end - start === 0x1000n) this.offsets.set(Number(frame), start - (frame << 12n));
  }

  /** An entry with reserved bits: the lowest of those above all frames gives the width of addresses. */
  private walkFailed(pferr: number): void {
    const { walk } = this;
    if (walk === undefined || (pferr & PFEC_RSVD) === 0) return;
    if (walk.first >= 3) {
      const high = ((walk.last >> 12n) & 0xff_ffff_ffffn) >> 24n;
      for (let bit = 36; bit < this.maxphyaddr; bit++) if (((high << 36n) >> BigInt(bit)) & 1n) this.maxphyaddr = bit;
    }
    this.walk = undefined;
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
      this.show(event.gfn, event.position, false);
      return;
    }
    if (event.pfn > this.highestPfn) this.highestPfn = event.pfn;
    if (event.level > this.highestLevel) this.highestLevel = event.level;
    this.show(event.gfn, event.position, true, event.level);
    this.requested = true;
  }

  private page(event: Extract<TraceEvent, { name: 'kvm_mmu_get_page' }>): void {
    const level = event.role & 0xf;
    const direct = (event.role & Role.DIRECT) !== 0;
    this.roleMask = (this.roleMask & event.roleMask) >>> 0;
    if (direct && level >= 4) {
      this.tdp = true;
      this.directRootLevel ??= level;
    }
    if (!direct) {
      this.shadow = true;
      this.show(event.gfn, event.position, true);
    }
    if ((event.role & event.roleMask & Role.AD_DISABLED) !== 0) this.adDisabled = true;
  }

  private element(level: number, pte: bigint, position: number): void {
    const { walk } = this;
    if (walk === undefined) return;
    // That the next level was read shows that the table is there.
    if (walk.tables.length > 0) this.show(walk.last >> 12n, position, true);
    if (walk.first === 0) walk.first = level;
    if (this.firstLevel === 0) this.firstLevel = level;
    // What goes on behind it shows that such a page is allowed.
    if (level === 3 && walk.first > 3 && (pte & LARGE) !== 0n) this.largeWalk = walk;
    walk.level = level;
    walk.last = pte & FRAME;
    walk.tables.push(pte & FRAME);
  }

  /** Bits are set in tables that the entries name, or in the root, whose place this tells. */
  private bitSet(gpa: bigint, position: number): void {
    this.show(gpa >> 12n, position, true);
    const { walk } = this;
    if (walk === undefined || walk.first < 2) return;
    const table = gpa & ~0xfffn;
    if (walk.tables.slice(0, -1).includes(table)) return;
    const [bits, size] = walk.first === 2 ? [10n, 4n] : [9n, 8n];
    const index = (walk.addr >> (12n + bits * BigInt(walk.first - 1))) & ((1n << bits) - 1n);
    if (walk.first !== 3 && (gpa & 0xfffn) === index * size) this.roots.set(walk.position, table);
  }

  private show(gfn: bigint, position: number, present: boolean, level = 1): void {
    const shift = 9 * (level - 1);
    const first = Number((gfn >> BigInt(shift)) << BigInt(shift));
    // Of a large page its ends do: what lies between is joined to them.
    for (const frame of level > 1 ? [first, first + 2 ** shift - 1] : [Number(gfn)])
      this.showFrame(frame, position, present);
  }

  private showFrame(frame: number, position: number, present: boolean): void {
    const changes = this.changes.get(frame);
    if (changes === undefined) {
      if (this.changes.size < MAXIMUM_FRAMES) this.changes.set(frame, [{ position, present }]);
    } else if (changes.at(-1)!.present !== present) {
      changes.push({ position, present });
    }
  }

  survey(): Survey {
    let task: number | undefined;
    for (const [pid, count] of this.tasks) if (task === undefined || count > this.tasks.get(task)!) task = pid;
    return {
      names: this.names,
      hasExits: this.exits,
      slots: this.slots(),
      roots: this.roots,
      spareFrame: this.spareFrame(),
      tdp: this.tdp || (!this.shadow && this.requested),
      tdpMmu: this.tdpMmu,
      ept: this.upperCase ?? this.ept > this.x86,
      adDisabled: this.adDisabled,
      directRootLevel: this.directRootLevel,
      task,
      highestPfn: this.highestPfn,
      highestLevel: this.highestLevel,
      mmio: this.mmio,
      features: ['pse', 'pae', 'nx', ...(this.gigabytePages ? ['pdpe1gb'] : [])],
      maxphyaddr: this.maxphyaddr,
      roleMask: this.roleMask,
      firstLevel: this.firstLevel,
    };
  }

  /** 2 GiB behind the last known frame of RAM, clear of everything. */
  private spareFrame(): number {
    let highest = 0;
    for (const frame of this.changes.keys()) highest = Math.max(highest, frame);
    return (Math.ceil(highest / 2 ** 19) + 1) * 2 ** 19;
  }

  /** Frames with the same history, neighbours but for frames of which nothing is known, make a slot. */
  private slots(): SurveyedSlot[] {
    const frames = [...this.changes.keys()].sort((a, b) => a - b);
    const slots: {
      first: number;
      end: number;
      spans: { from: number; to: number }[];
      key: string;
      offset: bigint;
      readOnly: boolean;
    }[] = [];
    let last: (typeof slots)[number] | undefined;
    for (const frame of frames) {
      const spans = this.spans(this.changes.get(frame)!);
      if (spans.length === 0) {
        last = undefined;
        continue;
      }
      const readOnly = this.mmioWrites.has(frame) && this.changes.get(frame)!.every(({ present }) => present);
      const key = `${readOnly} ${spans.map(({ from, to }) => `${from}-${to}`).join()}`;
      const offset = this.offsets.get(frame) ?? 0n;
      const differs = last !== undefined && offset !== 0n && last.offset !== 0n && offset !== last.offset;
      if (last !== undefined && last.key === key && frame - last.end < MAXIMUM_GAP && !differs) {
        last.end = frame + 1;
        if (offset !== 0n) last.offset = offset;
        continue;
      }
      // Slots begin at round addresses rather than at the first page that is used.
      const first = differs ? roundest(last!.end, frame) : frame;
      last = { first, end: frame + 1, spans, key, offset, readOnly };
      slots.push(last);
    }
    return slots.flatMap(({ first, end, spans, offset, readOnly }) =>
      spans.map((span) => ({ first, end, offset, readOnly, ...span })),
    );
  }

  /** When a frame is backed. It goes where everything is zapped, and comes as late as that can be. */
  private spans(changes: readonly Change[]): { from: number; to: number }[] {
    const spans: { from: number; to: number }[] = [];
    changes.forEach(({ position, present }, i) => {
      if (!present) return;
      const next = changes[i + 1];
      const from = i === 0 ? 0 : position;
      const zap = next === undefined ? undefined : this.zaps.findLast((at) => at > position && at <= next.position);
      spans.push({ from, to: next === undefined ? Number.POSITIVE_INFINITY : (zap ?? next.position) });
    });
    return spans;
  }
}

/** The number from `low` to `high`, both included, that most zeros end. */
function roundest(low: number, high: number): number {
  for (let step = 2 ** 30; step > 1; step /= 2) {
    const number = Math.floor(high / step) * step;
    if (number >= low) return number;
  }
  return high;
}
