/**
 * A TDP MMU over a host that is told what to say, and its events as short text: tables by level and frame, SPTEs
 * without bits 51:12, which are the host's choice.
 */

import { defaultKvmConfig, type KvmConfig } from '../../src/formats/kvm-config.ts';
import { KVM_MORE_ROWS, KvmEvent, kvmEventOf, SP_CREATED } from '../../src/formats/kvm-event.ts';
import { OBS_LEVEL_SHIFT } from '../../src/formats/observation.ts';
import { Memory } from '../../src/machine/memory.ts';
import { Fault, NO_SLOT_PFN } from '../../src/mmu/fault.ts';
import { FaultIn, type Host, type Slot } from '../../src/mmu/host.ts';
import { Mutants } from '../../src/mmu/mutants.ts';
import { ShadowPages } from '../../src/mmu/pages.ts';
import { ENTRIES, pagesOf, type ShadowPage } from '../../src/mmu/shadow-page.ts';
import { SpteFormat } from '../../src/mmu/spte.ts';
import { TdpMmu } from '../../src/mmu/tdp-mmu.ts';
import { MmuTrace } from '../../src/mmu/trace.ts';
import { tdpRootRole } from '../../src/paging/kvm-roles.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO, RowLog } from '../../src/paging/row-log.ts';

export const SMM_CPU_ROLE = 1 << 24;

/** Guest frame g is host frame g + `offset`, mapped by the host at `level`. */
export class PlainHost implements Host {
  readonly memory = new Memory();
  offset = 0x8_0000;
  level = 1;
  generation = 8;
  pfn = 0;
  writable = true;
  invalidations = 0;
  dirty: number[] = [];
  slotList: Slot[] = [plainSlot(0, 0, 0x4_0000_0000)];

  slotOf(gfn: number, addressSpace: number): Slot | null {
    const has = (slot: Slot): boolean => gfn >= slot.baseGfn && gfn < slot.baseGfn + slot.pages;
    return this.slotList.find((slot) => slot.addressSpace === addressSpace && has(slot)) ?? null;
  }
  slots(addressSpace: number): readonly Slot[] {
    return this.slotList.filter((slot) => slot.addressSpace === addressSpace);
  }
  faultIn(_slot: Slot, gfn: number, _write: boolean): number {
    this.pfn = gfn + this.offset;
    return FaultIn.OK;
  }
  lookUp(slot: Slot, gfn: number): number {
    return this.faultIn(slot, gfn, false);
  }
  mappingLevel(): number {
    return this.level;
  }
  frameForRead(gfn: number): number {
    return gfn + this.offset;
  }
  frameForWrite(gfn: number): number {
    return gfn + this.offset;
  }
  gfnOf(pfn: number): number {
    return pfn - this.offset;
  }
  markDirty(_slot: Slot, gfn: number): void {
    this.dirty.push(gfn);
  }
}

export function plainSlot(addressSpace: number, baseGfn: number, pages: number, change: Partial<Slot> = {}): Slot {
  const userspace = baseGfn * 4096;
  const plain = { id: 0, addressSpace, baseGfn, pages, readOnly: false, dirtyLog: false, invalid: false, userspace };
  return { ...plain, ...change };
}

export class TdpRig {
  readonly config: KvmConfig;
  readonly host = new PlainHost();
  readonly log = new RowLog();
  readonly pages: ShadowPages;
  readonly tdp: TdpMmu;
  flushes = 0;

  constructor(change: Partial<KvmConfig> = {}, mutants: number[] = []) {
    this.config = defaultKvmConfig(change);
    const format = new SpteFormat(this.config);
    this.pages = new ShadowPages({
      config: this.config,
      host: this.host,
      format,
      trace: new MmuTrace(this.log, format),
      mutants: new Mutants(mutants),
      flushTarget: {
        flushRemoteTlbs: () => {
          this.flushes++;
        },
        freeObsoleteRoots: () => {},
      },
    });
    this.tdp = new TdpMmu(this.pages);
  }

  /** Role word of the root; `cpuBase`: `SMM_CPU_ROLE` or 0. */
  role(cpuBase = 0): number {
    const { profile, tdpLevel } = this.config;
    return tdpRootRole(profile, cpuBase, { level: tdpLevel, adDisabled: !this.pages.format.adEnabled });
  }

  root(cpuBase = 0): ShadowPage {
    return this.tdp.getRoot(this.role(cpuBase));
  }

  /** A fault on a frame; the kinds are `r`, `w`, `x`. */
  fault(root: ShadowPage, gfn: number, kind: 'r' | 'w' | 'x' = 'r', change: Partial<Fault> = {}): number {
    const fault = new Fault();
    const code = kind === 'w' ? 2 : kind === 'x' ? 16 : 0;
    fault.begin((gfn * 4096) | 0, Math.floor(gfn / 0x10_0000), code, true);
    fault.slot = this.host.slotOf(gfn, root.role >>> 24);
    fault.pfn = fault.slot === null ? NO_SLOT_PFN : gfn + this.host.offset;
    fault.mapWritable = this.host.writable;
    fault.nxHugePageWorkaround = this.config.nxHugePages;
    Object.assign(fault, change);
    return this.tdp.map(fault, root);
  }

  /** The events since the last call. */
  take(): string[] {
    const { log } = this;
    const texts: string[] = [];
    for (let row = 0; row < log.count; row += 1 + KVM_MORE_ROWS[kvmEventOf(log.op(row))]!) texts.push(this.text(row));
    log.count = 0;
    return texts;
  }

  private text(row: number): string {
    const { log } = this;
    const at = (index: number, field: number): number => log.rows[index * ROW + field]!;
    const op = log.op(row);
    const level = (op >>> OBS_LEVEL_SHIFT) & 7;
    const number = (index: number, low: number, high: number): string =>
      ((at(index, high) >>> 0) * 2 ** 32 + (at(index, low) >>> 0)).toString(16);
    const address = number(row, ROW_ADDRESS_LO, ROW_ADDRESS_HI);
    const value = bits(at(row, ROW_VALUE_LO), at(row, ROW_VALUE_HI));
    const tableLevel = at(row, ROW_VALUE_LO) & 0xf;
    switch (kvmEventOf(op)) {
      case KvmEvent.GET_PAGE:
        return `get l${tableLevel} ${address}${(op & SP_CREATED) !== 0 ? '' : ' existing'}`;
      case KvmEvent.PREPARE_ZAP_PAGE:
        return `zap l${tableLevel} ${address}`;
      case KvmEvent.TDP_SPTE_CHANGED:
        return `chg l${level} ${address} ${value} ${bits(at(row + 1, ROW_VALUE_LO), at(row + 1, ROW_VALUE_HI))}`;
      case KvmEvent.SET_SPTE:
        return `set l${level} ${address} ${value}`;
      case KvmEvent.SPTE_REQUESTED:
        return `req l${level} ${address} ${number(row, ROW_VALUE_LO, ROW_VALUE_HI)}`;
      case KvmEvent.SPLIT_HUGE_PAGE:
        return `split l${level} ${address} ${value}`;
      case KvmEvent.MARK_MMIO_SPTE:
        return `mmio ${address} access ${at(row + 1, ROW_ADDRESS_LO)} gen ${at(row + 1, ROW_VALUE_LO)}`;
      default:
        return `event ${kvmEventOf(op)}`;
    }
  }

  /** The SPTE that decides about a frame, like those of the events; with its level. */
  spte(root: ShadowPage, gfn: number): string {
    const { tdp, pages } = this;
    tdp.lastSpte(root, gfn);
    const sptep = tdp.sp.sptep(tdp.index);
    return `l${tdp.sp.level} ${bits(pages.lo(sptep), pages.hi(sptep))}`;
  }
}

/** An SPTE without its frame. */
export function bits(lo: number, hi: number): string {
  return ((BigInt((hi & 0xfff0_0000) >>> 0) << 32n) | BigInt(lo & 0xfff)).toString(16);
}

/** The events of a table that goes: its own and one for each entry; `present`: old values that are not `empty`. */
export function removal(
  level: number,
  gfn: number,
  frozen: string,
  present: Readonly<Record<number, string>> = {},
  empty = '0',
): string[] {
  const texts = [`zap l${level} ${gfn.toString(16)}`];
  for (let index = 0; index < ENTRIES; index++) {
    const first = (gfn + index * pagesOf(level)).toString(16);
    texts.push(`chg l${level} ${first} ${present[index] ?? empty} ${frozen}`);
  }
  return texts;
}
