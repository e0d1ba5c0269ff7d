/**
 * The processor above an emulated KVM: makes the guest's accesses on the tables that KVM built, and says how each
 * ended: it reached guest memory, the guest itself gets a fault, or KVM does (an exit). What happens then, and how
 * often the access is made again, is the business of the machine that owns it.
 */

import type { KvmConfig } from '../../formats/kvm-config.ts';
import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_EXCEPTION_EXITS,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_NOT_MODELLED_MASK,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_MASK,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../formats/observation.ts';
import { Reg } from '../../formats/registers.ts';
import { frameHi, frameLo, frameOf } from '../../paging/guest-memory.ts';
import type { RowLog } from '../../paging/row-log.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_HI, ROW_VALUE_LO } from '../../paging/row-log.ts';
import type { TraceHeader } from '../../trace/header.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import { invalidate, writeRegister } from '../invalidate.ts';
import { TLB_PAGE_SHIFT_SHIFT } from '../tlb.ts';
import { unmodelledFeature } from '../unmodelled.ts';
import { Hardware, REGISTER_WORDS } from './hardware.ts';
import type { HostMemory } from './host-memory.ts';
import type { RootState } from './root-state.ts';

export type { RootState } from './root-state.ts';

/** How an access, or a register write, ended. */
export const Outcome = {
  OK: 0,
  /** The guest gets an exception, of which KVM learns nothing: `vector`, `errorCode`. */
  GUEST_FAULT: 1,
  /** KVM gets a fault: `faultLo`, `faultHi`, `exitLo`, `exitHi`, `misconfig`. */
  EXIT: 2,
  /** The machine does not model what the access needs: `unmodelled`. */
  NOT_MODELLED: 3,
} as const;

const PAGE_FAULT = 14;
const NO_STIMULI: readonly Stimulus[] = [];

export class Processor {
  /** The guest's registers as the guest sees them, 2 elements each, in the order of `Reg`. */
  readonly registers = new Uint32Array(REGISTER_WORDS);
  readonly hardware: Hardware;
  /** Ordinal of the step being applied. */
  now = 0;

  // OK:
  hpaLo = 0;
  hpaHi = 0;
  /** What the host frame reached means to the guest, with the offset; -1, -1 if it is no guest memory. */
  gpaLo = 0;
  gpaHi = 0;
  gfn = 0;
  /** Two-dimensional paging: the guest-physical address that the guest's own tables gave; L2's, if it has nested paging. */
  meantLo = 0;
  meantHi = 0;
  /** log2 of the size of the guest's page, with shadow paging of the SPTE's. */
  pageShift = 12;
  servedByTlb = false;
  /** Served by an entry that tables no longer support. */
  staleHit = false;

  /** `loadPdptes`: the registers were loaded; false: refused. */
  loaded = false;

  // GUEST_FAULT:
  vector = 0;
  errorCode = 0;
  /** The guest's hypervisor intercepts it: an exit to that, of which KVM is but the messenger. */
  intercepted = false;

  // EXIT:
  /** Guest-physical address; with shadow paging CR2. */
  faultLo = 0;
  faultHi = 0;
  /** EXITINFO1 (APM vol. 2 15.25.6), exit qualification (SDM vol. 3C 28.2.1), with shadow paging #PF's error code. */
  exitLo = 0;
  exitHi = 0;
  /** EPT misconfiguration, which has neither. */
  misconfig = false;

  /** NOT_MODELLED: one of `NotModelled`. */
  unmodelled = 0;

  private readonly host: HostMemory;
  private readonly tdp: boolean;
  private readonly ept: boolean;
  private root: RootState | null = null;
  /** Registers or root have changed since the hardware was loaded. */
  private changed = true;

  /** `header`: of the trace, for the processor that the guest was told of. */
  constructor(header: TraceHeader, config: KvmConfig, host: HostMemory) {
    this.host = host;
    this.tdp = config.tdp;
    this.ept = config.tdp && config.vendor === 'intel';
    this.hardware = new Hardware(header, config, host.memory);
    // Independent accesses have no history that could make one stale.
    if (!header.independent) host.watch(this.hardware.history);
  }

  /** Rows of the last walk; physical addresses in them are the host's. */
  get log(): RowLog {
    return this.hardware.log;
  }

  // ---------------------------------------------------------------------------------------------------------- state

  /** A register is known to hold a value, or KVM has given it one: cached translations stay. */
  setRegister(register: number, lo: number, hi: number): void {
    this.registers[2 * register] = lo;
    this.registers[2 * register + 1] = hi;
    this.changed = true;
  }

  /** Somebody has written `registers`. */
  registersChanged(): void {
    this.changed = true;
  }

  /** The guest is entered with another VPID or ASID. Cached translations stay. */
  useTag(tag: number): void {
    this.hardware.useTag(tag);
  }

  /** The root that KVM loads; entries of a PAE root are taken over as they are now. Cached translations stay. */
  setRoot(root: RootState | null): void {
    this.root = root === null ? null : { ...root, pdptes: root.pdptes.slice() };
    this.changed = true;
  }

  /**
   * The guest writes a register by an instruction that does not exit. With two-dimensional paging: what the architecture
   * makes of it, cached translations and PDPTE registers included; unless the outcome is OK nothing has changed.
   * With shadow paging only registers that paging does not depend on can be written like that.
   */
  writeRegister(op: number, lo: number, hi: number): number {
    const { hardware } = this;
    this.prepare();
    hardware.log.count = 0;
    writeRegister(hardware, op, lo, hi);
    if (hardware.log.count !== 0) return this.fault(0, 0);
    if (this.tdp) hardware.store(this.registers);
    return Outcome.OK;
  }

  /** An invalidation instruction that does not exit. Operands as in the step (`formats/step.ts`). */
  invalidate(op: number, addressLo: number, addressHi: number, tagLo: number, tagHi: number): void {
    this.prepare();
    invalidate(this.hardware, op, addressLo, addressHi, tagLo, tagHi);
  }

  /** The PDPTE registers are loaded from CR3's table by the guest itself, under EPT. `loaded`: no reserved bit was set. */
  loadPdptes(op: number, lo: number, hi: number): number {
    this.prepare();
    const { hardware } = this;
    hardware.apply(this.now, op, lo, hi, 0, 0, NO_STIMULI);
    const last = hardware.log.count - 1;
    if ((hardware.log.op(last) & OBS_KIND_MASK) !== Obs.PDPTE_LOADED) return this.fault(lo, hi);
    this.loaded = hardware.log.rows[last * ROW + ROW_VALUE_LO] === 1;
    hardware.store(this.registers);
    return Outcome.OK;
  }

  // What KVM flushes.

  /** Every cached translation goes. */
  flushAll(): void {
    this.hardware.tags.drop();
  }

  /** What was translated through the EPT root in force, of which there may be none; otherwise all of the ASID or VPID. */
  flushCurrent(): void {
    const { hardware, root } = this;
    if (!this.ept) hardware.tags.dropAsid(hardware.tag);
    else if (root !== null) hardware.tags.dropEp4ta(root.frame);
  }

  /** Linear and combined translations of the VPID or ASID in force. */
  flushGuest(): void {
    this.hardware.tags.dropAsid(this.hardware.tag);
  }

  /** One guest-linear address of the VPID or ASID in force. */
  flushAddress(lo: number, hi: number): void {
    this.hardware.tags.dropPage(this.hardware.tag, lo, hi);
  }

  private prepare(): void {
    if (!this.changed) return;
    this.changed = false;
    this.hardware.load(this.registers, this.root);
  }

  // -------------------------------------------------------------------------------------------------------- accesses

  /**
   * Whether the TLB serves the access by an entry that agrees with the tables, so that making it would do nothing else.
   * Result as for OK.
   */
  serves(op: number, lo: number, hi: number): boolean {
    if (this.changed) return false;
    const { hardware } = this;
    if (!hardware.serves(op, lo, hi)) return false;
    const { tlb } = hardware;
    this.servedByTlb = true;
    this.staleHit = false;
    this.arrive(tlb.lo, tlb.hi, tlb.gpaLo, tlb.gpaHi, tlb.meta >>> TLB_PAGE_SHIFT_SHIFT);
    return true;
  }

  /** Makes the access of an ACCESS step with word `op` to linear address `lo`:`hi`. Returns one of `Outcome`. */
  translate(op: number, lo: number, hi: number): number {
    this.prepare();
    if (this.serves(op, lo, hi)) return Outcome.OK;
    const { hardware } = this;
    if (!hardware.rooted) throw new Error(`step ${this.now}: the guest runs without a root`);
    hardware.apply(this.now, op, lo, hi, 0, 0, NO_STIMULI);
    const outcome = this.conclude(lo, hi);
    // What faults drops what could translate its address (SDM vol. 3A 4.10.4.1, vol. 3C 29.4.3.1).
    if (outcome === Outcome.EXIT) hardware.tags.dropPage(hardware.tag, lo, hi);
    return outcome;
  }

  /** A GPA_ACCESS step with word `op`: the second stage alone. There is one with two-dimensional paging only. */
  translateGpa(op: number, lo: number, hi: number): number {
    this.prepare();
    const { hardware } = this;
    if (!hardware.rooted) throw new Error(`step ${this.now}: the guest runs without a root`);
    hardware.apply(this.now, op, lo, hi, 0, 0, NO_STIMULI);
    return this.conclude(lo, hi);
  }

  /** How the access would end with tables as they are, without any effect. */
  probe(op: number, lo: number, hi: number): number {
    this.prepare();
    const { hardware } = this;
    hardware.configure();
    hardware.servedByTlb = false;
    hardware.staleHit = false;
    hardware.probe(op, lo, hi);
    return this.conclude(lo, hi);
  }

  /**
   * The second stage alone, for a guest-physical address, without any effect: whether KVM's tables let an access of
   * error-code bits W, F through. Result as for EXIT.
   */
  probeGpa(access: number, lo: number, hi: number): number {
    this.prepare();
    const { hardware } = this;
    hardware.configure();
    hardware.probeGpa(access, lo, hi);
    return (hardware.log.op(hardware.log.count - 1) & OBS_KIND_MASK) === Obs.TRANSLATED
      ? Outcome.OK
      : this.fault(lo, hi);
  }

  /** Guest entries that the last walk wrote A or D bits into are again what it read. */
  takeBackAd(): void {
    const { log } = this.hardware;
    const { rows } = log;
    for (let i = log.count - 1; i >= 0; i--) {
      const at = i * ROW;
      const guest = ((rows[at]! >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST;
      if ((rows[at]! & OBS_KIND_MASK) !== Obs.ELEMENT || !guest) continue;
      const size = (rows[at]! & OBS_FOUR_BYTES) !== 0 ? 4 : 8;
      this.host.memory.store(
        rows[at + ROW_ADDRESS_LO]!,
        rows[at + ROW_ADDRESS_HI]!,
        rows[at + ROW_VALUE_LO]!,
        rows[at + ROW_VALUE_HI]!,
        size,
      );
    }
  }

  private conclude(lo: number, hi: number): number {
    const { hardware } = this;
    this.servedByTlb = hardware.servedByTlb;
    this.staleHit = hardware.staleHit;
    const at = this.outcomeRow();
    const { rows } = hardware.log;
    const op = rows[at + ROW_OP]!;
    if ((op & OBS_KIND_MASK) !== Obs.TRANSLATED) return this.fault(lo, hi);
    if (!this.tdp) {
      // The guest uses something that its own paging would have to do, and which is not modelled.
      this.unmodelled = unmodelledFeature(this.registers, null);
      if (this.unmodelled !== 0) return Outcome.NOT_MODELLED;
    }
    const shift = (op >>> OBS_PAGE_SHIFT_SHIFT) & OBS_PAGE_SHIFT_MASK;
    this.arrive(
      rows[at + ROW_ADDRESS_LO]!,
      rows[at + ROW_ADDRESS_HI]!,
      rows[at + ROW_VALUE_LO]!,
      rows[at + ROW_VALUE_HI]!,
      shift,
    );
    return Outcome.OK;
  }

  /** Where in `log.rows` the row begins that says how the access ended. */
  private outcomeRow(): number {
    const { log } = this.hardware;
    const last = log.count - 1;
    return ((log.op(last) & OBS_KIND_MASK) === Obs.EXIT_LINEAR ? last - 1 : last) * ROW;
  }

  private fault(lo: number, hi: number): number {
    const at = this.outcomeRow();
    const { rows } = this.hardware.log;
    const op = rows[at + ROW_OP]!;
    const kind = op & OBS_KIND_MASK;
    const valueLo = rows[at + ROW_VALUE_LO]!;
    if (kind === Obs.NOT_MODELLED) {
      this.unmodelled = (op >>> OBS_NOT_MODELLED_SHIFT) & OBS_NOT_MODELLED_MASK;
      return Outcome.NOT_MODELLED;
    }
    this.misconfig = kind === Obs.EPT_MISCONFIG;
    if (kind !== Obs.EXCEPTION) {
      this.faultLo = rows[at + ROW_ADDRESS_LO]!;
      this.faultHi = rows[at + ROW_ADDRESS_HI]!;
      this.exitLo = valueLo;
      this.exitHi = rows[at + ROW_VALUE_HI]!;
      return Outcome.EXIT;
    }
    this.vector = (op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
    this.errorCode = valueLo;
    this.intercepted = (op & OBS_EXCEPTION_EXITS) !== 0;
    if (this.tdp || this.vector !== PAGE_FAULT) return Outcome.GUEST_FAULT;
    this.faultLo = lo;
    this.faultHi = hi;
    this.exitLo = valueLo;
    this.exitHi = 0;
    return Outcome.EXIT;
  }

  /** The access reached a host-physical address; the guest's own walk, if there was one, took it for a guest-physical one. */
  private arrive(hpaLo: number, hpaHi: number, meantLo: number, meantHi: number, pageShift: number): void {
    const { host } = this;
    this.hpaLo = hpaLo;
    this.hpaHi = hpaHi;
    this.pageShift = pageShift;
    const frame = frameOf(hpaLo, hpaHi);
    // Several guest frames may share a host frame: the one that was meant, if it is among them.
    const meant = frameOf(meantLo, meantHi);
    this.meantLo = meantLo;
    this.meantHi = meantHi;
    const isMeant =
      this.tdp && this.root?.nested !== true && host.frameOf(meant, this.registers[2 * Reg.SMM]! & 1) === frame;
    this.gfn = isMeant ? meant : host.gfnOf(frame);
    this.gpaLo = this.gfn < 0 ? -1 : frameLo(this.gfn) | (hpaLo & 0xfff);
    this.gpaHi = this.gfn < 0 ? -1 : frameHi(this.gfn);
  }
}
