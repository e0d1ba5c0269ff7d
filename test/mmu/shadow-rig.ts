/**
 * A vCPU whose KVM shadows its guest's tables, or builds direct ones without the TDP MMU, over host memory with slots
 * that tests lay out; its events as short text. Addresses and frames are plain numbers.
 */

import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import {
  FPF_FIXED,
  FPF_SPURIOUS,
  INJ_VECTOR_MASK,
  INJ_VECTOR_SHIFT,
  KVM_MORE_ROWS,
  KvmEvent,
  kvmEventOf,
  SP_CREATED,
  SP_UNSYNC,
} from '../../src/formats/kvm-event.ts';
import { OBS_LEVEL_SHIFT } from '../../src/formats/observation.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PSE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  Reg,
} from '../../src/formats/registers.ts';
import { HostPage } from '../../src/formats/step.ts';
import { HostMemory } from '../../src/machine/kvm/host-memory.ts';
import { emulatedWrite } from '../../src/mmu/emulated-write.ts';
import { RetPf } from '../../src/mmu/fault.ts';
import { FaultHandler } from '../../src/mmu/fault-handler.ts';
import { checkInvariants } from '../../src/mmu/invariants.ts';
import { Mutants } from '../../src/mmu/mutants.ts';
import { ShadowPages } from '../../src/mmu/pages.ts';
import type { Root } from '../../src/mmu/root.ts';
import { pagesOf, type ShadowPage } from '../../src/mmu/shadow-page.ts';
import { SpteFormat } from '../../src/mmu/spte.ts';
import { TdpMmu } from '../../src/mmu/tdp-mmu.ts';
import { MmuTrace } from '../../src/mmu/trace.ts';
import { Request, Vcpu } from '../../src/mmu/vcpu.ts';
import { VmMmu } from '../../src/mmu/vm.ts';
import { isDirect, isInvalid, quadrant, roleLevel } from '../../src/paging/kvm-roles.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO, RowLog } from '../../src/paging/row-log.ts';
import type { Memslot } from '../../src/trace/stimulus.ts';
import { bits } from './tdp-rig.ts';

export const P = 1;
export const W = 2;
export const U = 4;
export const A = 0x20;
export const D = 0x40;
export const PS = 0x80;
/** An entry that a guest uses freely. */
export const ALL = P | W | U | A | D;
/** A table entry. */
export const TABLE = P | W | U | A;

export type Mode = 'long' | 'la57' | 'pae' | '32bit' | 'real';

/** Every guest has it: it is hard-wired. */
export const CR0_ET = 1 << 4;
const PAGING = CR0_PG | CR0_WP | CR0_ET | CR0_PE;

const CR0: Readonly<Record<Mode, number>> = {
  long: PAGING,
  la57: PAGING,
  pae: PAGING,
  '32bit': PAGING,
  real: CR0_ET,
};
const CR4: Readonly<Record<Mode, number>> = {
  long: CR4_PAE,
  la57: CR4_PAE | CR4_LA57,
  pae: CR4_PAE,
  '32bit': CR4_PSE,
  real: 0,
};
const EFER_LONG = EFER_LMA | EFER_LME | EFER_NXE;

/** Guest frames of memory slot 0, from 0 on. */
export const SLOT_PAGES = 0x4_0000;

export interface RigOptions {
  readonly config?: Partial<KvmConfig>;
  readonly mode?: Mode;
  readonly mutants?: readonly number[];
  /** Level of the host's mappings. */
  readonly hostLevel?: 1 | 2 | 3;
  /** Shadow pages that there may be. */
  readonly maximum?: number;
}

export class ShadowRig {
  readonly config: KvmConfig;
  readonly host: HostMemory;
  readonly log = new RowLog();
  readonly registers = new Uint32Array(64);
  readonly pages: ShadowPages;
  readonly tdpMmu: TdpMmu | null;
  readonly vcpu: Vcpu;
  readonly handler: FaultHandler;
  readonly vm: VmMmu;
  /** What the hardware was told since the last look, in order. */
  told: string[] = [];
  private mode: Mode = 'real';

  constructor(options: RigOptions = {}) {
    this.config = defaultKvmConfig({ tdp: false, tdpMmu: false, ...options.config });
    this.host = new HostMemory({ mode: 'recorded', profile: this.config.profile, hostMaxphyaddr: 40 });
    const format = new SpteFormat(this.config);
    this.pages = new ShadowPages({
      config: this.config,
      host: this.host,
      format,
      trace: new MmuTrace(this.log, format),
      mutants: new Mutants(options.mutants),
      flushTarget: {
        flushRemoteTlbs: () => void this.told.push('remote'),
        freeObsoleteRoots: () => this.vcpu.request(Request.FREE_OBSOLETE_ROOTS),
      },
    });
    this.tdpMmu = this.config.tdp && this.config.tdpMmu ? new TdpMmu(this.pages) : null;
    this.vcpu = new Vcpu({
      pages: this.pages,
      tdpMmu: this.tdpMmu,
      registers: this.registers,
      memory: this.host.guestMemory(0),
      features: {
        amd: this.config.vendor === 'amd',
        maxphyaddr: 40,
        pse36: true,
        page1g: true,
        eptExecuteOnly: true,
        ept2m: true,
        ept1g: true,
        eptAdvancedInfo: false,
      },
      hardware: {
        flushAll: () => void this.told.push('all'),
        flushCurrent: () => void this.told.push('context'),
        flushGuest: () => void this.told.push('context'),
        flushAddress: (lo) => void this.told.push(`address ${(lo >>> 0).toString(16)}`),
        useTag: () => undefined,
        useRoot: (root) => void this.told.push(root === null ? 'no root' : `root ${rootName(root)}`),
      },
    });
    this.handler = new FaultHandler(this.vcpu, this.tdpMmu);
    this.vm = new VmMmu(this.pages, this.tdpMmu, () => this.vcpu.request(Request.FREE_OBSOLETE_ROOTS));
    this.slot({ size: SLOT_PAGES });
    this.host.hostPages(0, 0, SLOT_PAGES, HostPage.WRITABLE, options.hostLevel ?? 1);
    if (options.maximum !== undefined) this.pages.maximum = options.maximum;
    this.enter(options.mode ?? 'long');
  }

  get mmu(): Vcpu['mmu'] {
    return this.vcpu.mmu;
  }

  /** Creates or changes a slot; frames in pages. */
  slot(change: Partial<Omit<Memslot, 'address' | 'size' | 'userspace'>> & { base?: number; size?: number }): void {
    const { base = 0, size = SLOT_PAGES, ...rest } = change;
    const word = (page: number): { lo: number; hi: number } => ({
      lo: (page * 4096) >>> 0,
      hi: Math.floor(page / 0x10_0000),
    });
    const slot: Memslot = {
      kind: 'memslot',
      what: 'create',
      slot: 0,
      addressSpace: 0,
      address: word(base),
      size: word(size),
      userspace: word(0x7f00_0000 + base),
      readOnly: false,
      dirtyLog: false,
      ...rest,
    };
    this.host.slotTable.update(slot, { invalidated: () => this.vm.zapAllFast() });
    this.vm.slotsChanged(this.host.slotTable.totalPages);
  }

  // The guest.

  set(register: number, value: number, hi = 0): void {
    this.registers[2 * register] = value;
    this.registers[2 * register + 1] = hi;
  }

  /** Another paging mode, with CR3 at frame `root`; everything anew. `change`: bits added to CR4. */
  enter(mode: Mode, root = 1, change: { cr0?: number; cr4?: number; efer?: number } = {}): void {
    this.mode = mode;
    this.set(Reg.CR0, change.cr0 ?? CR0[mode]);
    this.set(Reg.CR4, CR4[mode] | (change.cr4 ?? 0));
    const long = mode === 'long' || mode === 'la57';
    this.set(Reg.EFER, change.efer ?? (long ? EFER_LONG : mode === 'pae' ? EFER_NXE : 0));
    this.set(Reg.CR3, root * 4096);
    this.vcpu.resetContext();
    this.vcpu.requests = 0;
    this.told = [];
  }

  /** Puts an entry, of 4 or 8 bytes by mode, into the guest's memory; `noExecute`: its bit 63. Nobody is told. */
  put(gfn: number, index: number, value: number, noExecute = false): void {
    const size = this.mode === '32bit' ? 4 : 8;
    const hi = Math.floor(value / 2 ** 32) + (noExecute ? 0x8000_0000 : 0);
    this.host.store((gfn * 4096 + index * size) | 0, Math.floor(gfn / 0x10_0000), value | 0, hi | 0, size);
  }

  /** Entries for a frame: `entry(5, ALL)`. */
  static entry(gfn: number, flags: number): number {
    return gfn * 4096 + flags;
  }

  /** The four-level tables 1 -> 2 -> 3 -> 4; the last one shadows the first 2 MiB of linear addresses. */
  fourLevels(flags = TABLE): void {
    this.put(1, 0, ShadowRig.entry(2, flags));
    this.put(2, 0, ShadowRig.entry(3, flags));
    this.put(3, 0, ShadowRig.entry(4, flags));
  }

  /** A guest's store to a table: whoever shadows it hears of it as of a guest's write through a writable mapping. */
  guestWrites(gfn: number, index: number, value: number): void {
    this.pages.tryToUnsync(gfn, 0, true, false);
    this.put(gfn, index, value);
  }

  emulatedWrite(gfn: number, offset: number, bytes: number): void {
    emulatedWrite(this.pages, gfn, offset, bytes, (this.registers[2 * Reg.CR4]! & CR4_PAE) !== 0);
  }

  /** A fault on an address, after requests were served; the name of how it ended. */
  fault(address: number, code: number): string {
    if (this.vcpu.requests !== 0 || this.mmu.root === null) this.vcpu.serveRequests();
    const done = this.handler.handle(address | 0, Math.floor(address / 2 ** 32) | 0, code, false);
    return Object.keys(RetPf).find((name) => RetPf[name as keyof typeof RetPf] === done)!;
  }

  /** The page for a guest frame and level, direct or not; newest first. */
  page(gfn: number, level: number, direct = false): ShadowPage {
    const found = this.pages.hashed.get(gfn)?.find((sp) => sp.level === level && sp.direct === direct);
    if (found === undefined) throw new Error(`no level-${level} table for ${gfn.toString(16)}`);
    return found;
  }

  /** An SPTE without its frame. */
  spte(sp: ShadowPage, index: number): string {
    const sptep = sp.sptep(index);
    return bits(this.pages.lo(sptep), this.pages.hi(sptep));
  }

  broken(): string[] {
    const { pages, vcpu, tdpMmu, host } = this;
    return checkInvariants({ pages, vcpu, tdpMmu, host });
  }

  /** What the hardware was told since the last call. */
  takeTold(): string[] {
    const { told } = this;
    this.told = [];
    return told;
  }

  /** The events since the last call. Walks and their elements are left out unless `walks`. */
  take(walks = false): string[] {
    const { log } = this;
    const texts: string[] = [];
    for (let row = 0; row < log.count; row += 1 + KVM_MORE_ROWS[kvmEventOf(log.op(row))]!) {
      if (walks || kvmEventOf(log.op(row)) > KvmEvent.SET_DIRTY_BIT) texts.push(this.text(row));
    }
    log.count = 0;
    return texts;
  }

  private text(row: number): string {
    const { log } = this;
    const at = (index: number, field: number): number => log.rows[index * ROW + field]!;
    const hex = (index: number, lo: number, hi: number): string =>
      ((at(index, hi) >>> 0) * 2 ** 32 + (at(index, lo) >>> 0)).toString(16);
    const op = log.op(row);
    const level = (op >>> OBS_LEVEL_SHIFT) & 7;
    const address = hex(row, ROW_ADDRESS_LO, ROW_ADDRESS_HI);
    const value = hex(row, ROW_VALUE_LO, ROW_VALUE_HI);
    const spte = bits(at(row, ROW_VALUE_LO), at(row, ROW_VALUE_HI));
    switch (kvmEventOf(op)) {
      case KvmEvent.PAGETABLE_WALK:
        return `walk ${address} ${value}`;
      case KvmEvent.PAGING_ELEMENT:
        return `element l${level}`;
      case KvmEvent.SET_ACCESSED_BIT:
        return `accessed ${address}`;
      case KvmEvent.SET_DIRTY_BIT:
        return `dirty ${address}`;
      case KvmEvent.WALKER_ERROR:
        return `walker error ${value}`;
      case KvmEvent.GET_PAGE:
        return `get ${this.pageText(row)}${(op & SP_CREATED) !== 0 ? '' : ' existing'}`;
      case KvmEvent.SYNC_PAGE:
        return `sync ${this.pageText(row)}`;
      case KvmEvent.UNSYNC_PAGE:
        return `unsync ${this.pageText(row)}`;
      case KvmEvent.PREPARE_ZAP_PAGE:
        return `zap ${this.pageText(row)}`;
      case KvmEvent.MARK_MMIO_SPTE:
        return `mmio ${address} access ${at(row + 1, ROW_ADDRESS_LO)} gen ${at(row + 1, ROW_VALUE_LO).toString(16)}`;
      case KvmEvent.HANDLE_MMIO_PAGE_FAULT:
        return `handle mmio ${address} ${value} access ${at(row + 1, ROW_ADDRESS_LO)}`;
      case KvmEvent.CHECK_MMIO_SPTE:
        return `check mmio ${at(row + 1, ROW_ADDRESS_LO).toString(16)} ${at(row + 1, ROW_VALUE_LO).toString(16)}`;
      case KvmEvent.FAST_PAGE_FAULT: {
        const now = bits(at(row + 1, ROW_VALUE_LO), at(row + 1, ROW_VALUE_HI));
        const ended = (op & FPF_SPURIOUS) !== 0 ? 'spurious' : (op & FPF_FIXED) !== 0 ? 'fixed' : 'no';
        return `fast ${address} ${spte} ${now} ${ended}`;
      }
      case KvmEvent.ZAP_ALL_FAST:
        return `zap all ${at(row, ROW_VALUE_LO)} used ${at(row, ROW_VALUE_HI)}`;
      case KvmEvent.SET_SPTE:
        return `set l${level} ${address} ${spte}`;
      case KvmEvent.SPTE_REQUESTED:
        return `req l${level} ${address}`;
      case KvmEvent.TDP_SPTE_CHANGED:
        return `chg l${level} ${address} ${spte} ${bits(at(row + 1, ROW_VALUE_LO), at(row + 1, ROW_VALUE_HI))}`;
      case KvmEvent.INJ_EXCEPTION:
        return `inject ${(op >>> INJ_VECTOR_SHIFT) & INJ_VECTOR_MASK} ${value}`;
      default:
        return `event ${kvmEventOf(op)}`;
    }
  }

  /** `l1 4`, with `direct`, a quadrant other than 0, `invalid`, `unsync` and a root count other than 0. */
  private pageText(row: number): string {
    const { log, config } = this;
    const role = log.rows[row * ROW + ROW_VALUE_LO]! >>> 0;
    const parts = [`l${roleLevel(role)} ${(log.rows[row * ROW + ROW_ADDRESS_LO]! >>> 0).toString(16)}`];
    if (isDirect(role)) parts.push('direct');
    if (quadrant(role) !== 0) parts.push(`q${quadrant(role)}`);
    if (isInvalid(role, config.profile)) parts.push('invalid');
    if ((log.op(row) & SP_UNSYNC) !== 0) parts.push('unsync');
    const count = log.rows[row * ROW + ROW_VALUE_HI]!;
    if (count !== 0) parts.push(`root ${count}`);
    return parts.join(' ');
  }
}

function rootName(root: Root): string {
  if (root.page !== null) return root.page.gfn.toString(16);
  return root.pae!.map((sp) => (sp === null ? '-' : sp.gfn.toString(16))).join(',');
}

/** First linear address that entry `index` of a table of `level` covers, the other indices being 0. */
export function addressOf(index: number, level: number): number {
  return index * pagesOf(level) * 4096;
}
