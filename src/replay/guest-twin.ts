/**
 * A twin of the bare machine, on which it is tried how an access would have ended otherwise: the same memory, registers of
 * its own, and a history of its own, in which translations go only when the guest on KVM gave a reason for it.
 */

import type { Word64 } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  Dim,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  Obs,
  observationDim,
  observationLevel,
  obsMask,
} from '../formats/observation.ts';
import { CR4_PSE, REGISTER_COUNT, Reg } from '../formats/registers.ts';
import { ACCESS_SOFTWARE } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import type { History } from '../machine/history.ts';
import { LawfulOutcomes } from '../machine/lawful.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { GuestOutcome } from './guest-outcome.ts';
import type { GuestView } from './legal-differences.ts';
import type { UnderKvm } from './under-kvm.ts';

const ENTRY_P = 1 << 0;
const ENTRY_PS = 1 << 7;
const EXITS = obsMask(Obs.EPT_VIOLATION, Obs.EPT_MISCONFIG, Obs.NPF, Obs.PML_FULL);

/** An access, and how it ended for the guest on KVM. */
export interface SeenAccess {
  /** Word of the ACCESS step. */
  readonly op: number;
  readonly lo: number;
  readonly hi: number;
  readonly seen: GuestOutcome;
}

export class GuestTwin {
  readonly machine: BareMachine;
  readonly lawful: LawfulOutcomes;
  private readonly bare: BareMachine;
  private readonly config: KvmConfig;
  private readonly kvm: UnderKvm;
  /** Frames of EPT12 and NPT12. */
  private readonly secondStageTables = new Set<number>();
  /** PML_INDEX before the step. */
  private logIndex = 0;
  /** Entries that the processor's own walk has read, where KVM's emulator made the access after it. */
  private readonly readBefore: { readonly row: number; readonly addressLo: number; readonly addressHi: number }[] = [];

  /** `history`: what the guest on KVM may still have cached. `kvm`: the machine that it runs on. */
  constructor(header: TraceHeader, config: KvmConfig, bare: BareMachine, history: History, kvm: UnderKvm) {
    this.kvm = kvm;
    this.bare = bare;
    this.config = config;
    this.machine = new BareMachine(header, bare.memory, history);
    this.lawful = new LawfulOutcomes(this.machine);
  }

  /** The bare machine is about to make a step: every one, so that no table is missed. */
  begin(): void {
    this.logIndex = this.bare.register(Reg.PML_INDEX);
    this.noteTables();
  }

  /** The bare machine's log of its last step has rows of tables that KVM has to shadow. */
  noteTables(): void {
    const { log, tdpWalk } = this.bare;
    if (tdpWalk === null) return;
    for (let at = 0; at < log.count * ROW; at += ROW) {
      const row = log.rows[at]!;
      if ((row & OBS_KIND_MASK) !== Obs.ELEMENT || ((row >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.GUEST) continue;
      this.secondStageTables.add(frameOf(log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!));
    }
  }

  /** Where the second stage, as it stands, has a guest-physical address; undefined: nowhere. */
  physicalOf(lo: number, hi: number): Word64 | undefined {
    const { machine } = this;
    const { log } = machine;
    machine.probeGpa(0, lo, hi);
    const last = (log.count - 1) * ROW;
    if (last < 0 || (log.rows[last]! & OBS_KIND_MASK) !== Obs.TRANSLATED) return undefined;
    return { lo: log.rows[last + ROW_ADDRESS_LO]!, hi: log.rows[last + ROW_ADDRESS_HI]! };
  }

  /** Another access, which the bare machine has just made, is to be explained. */
  forget(): void {
    this.noteTables();
    this.readBefore.length = 0;
  }

  /** With the entries that the bare machine's step has set A or D in as they were before it. */
  asBefore<T>(find: () => T): T {
    const { log, memory } = this.bare;
    const undone: [lo: number, hi: number, word: Word64][] = [];
    for (let i = log.count - 1; i >= 0; i--) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      const at = i * ROW;
      const [lo, hi] = [log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!];
      const [isLo, isHi] = this.bare.readEntry(Obs.ENTRY_AFTER, lo & ~7, hi);
      const [oldLo, oldHi] = [log.rows[at + ROW_VALUE_LO]!, log.rows[at + ROW_VALUE_HI]!];
      const fourBytes = (log.op(i) & OBS_FOUR_BYTES) !== 0;
      const upper = fourBytes && (lo & 4) !== 0;
      const wordLo = upper ? isLo : oldLo >>> 0;
      const wordHi = upper ? oldLo >>> 0 : fourBytes ? isHi : oldHi >>> 0;
      if (wordLo === isLo && wordHi === isHi) continue;
      undone.push([lo & ~7, hi, memory.exchange(lo, hi, wordLo, wordHi)]);
    }
    const result = find();
    for (const [lo, hi, word] of undone.reverse()) memory.exchange(lo, hi, word.lo, word.hi);
    return result;
  }

  view(access: SeenAccess): GuestView {
    const { op, seen } = access;
    const registers = this.bare.registers.slice();
    registers[2 * Reg.PML_INDEX] = this.logIndex;
    return {
      op,
      registers,
      config: this.config,
      reportsFetches: false,
      reportedByKvm: false,
      emulated: false,
      untold: false,
      logsDirtyOnly: false,
      eitherPse: false,
      fetchesWithoutRead: false,
      untrackedFlags: false,
      pdptesIn: undefined,
      exited: ((EXITS >>> seen.kind) & 1) !== 0,
      translated: seen.kind === Obs.TRANSLATED,
      reachesDevice: () => this.reachesDevice(access),
      pdptesOfKvm: this.kvm.pdptes,
    };
  }

  /** Puts the machine into the view's state. */
  set(view: GuestView): void {
    const { machine } = this;
    const { registers, reportsFetches, logsDirtyOnly, emulated, exited, untrackedFlags } = view;
    for (let register = 0; register < REGISTER_COUNT; register++) {
      machine.setRegister(register, registers[2 * register]!, registers[2 * register + 1]!);
    }
    machine.configure();
    if (reportsFetches) (exited ? machine.nptWalk : machine.cpuWalk).fetchInErrorCode = true;
    machine.eptWalk.logsDirtyOnly = logsDirtyOnly;
    machine.reportsFailedFetches = emulated;
    this.lawful.untrackedFlags = untrackedFlags;
    if (view.pdptesIn !== undefined) machine.cpuWalk.pdptesInMemory = view.pdptesIn === 'memory';
  }

  /** Whether something holds of the machine's walk, with the tables as they stand or with what may be cached of them. */
  isPossible({ op, lo, hi }: SeenAccess, holds: () => boolean): boolean {
    this.machine.probe(op, lo, hi);
    const possible = holds() || this.lawful.judge(op, lo, hi, holds).kind === 'allowed';
    if (possible)
      this.forEachReadNow((row, addressLo, addressHi) => this.readBefore.push({ row, addressLo, addressHi }));
    return possible;
  }

  /** With the tables as they stand, or with what may be cached of them; on KVM no accessed flag wants room in the log. */
  private reachesDevice(access: SeenAccess): boolean {
    this.set({ ...this.view(access), logsDirtyOnly: true });
    return this.isPossible(access, () => this.walkReachesDevice(access.lo));
  }

  /**
   * Whether the last walk, of an address with low half `lo`, has read a table outside of slots, or one that is a table of the
   * second stage as well and therefore shadowed, or led out of slots.
   */
  private walkReachesDevice(lo: number): boolean {
    const { log, tdpWalk } = this.machine;
    const { rows } = log;
    let addressLo = lo;
    for (let at = 0; at < log.count * ROW; at += ROW) {
      const row = rows[at]!;
      const kind = row & OBS_KIND_MASK;
      if (kind === Obs.NESTED_WALK) addressLo = rows[at + ROW_ADDRESS_LO]!;
      if (kind !== Obs.ELEMENT) continue;
      if (observationDim(row) === Dim.GUEST) {
        const stands = frameOf(rows[at + ROW_ADDRESS_LO]!, rows[at + ROW_ADDRESS_HI]!);
        if (this.secondStageTables.has(stands) || this.kvm.backing(stands) !== 'writable') return true;
        if (tdpWalk !== null || (rows[at + ROW_VALUE_LO]! & ENTRY_P) === 0) continue;
      }
      if (this.leadsOutOfSlots(row, rows[at + ROW_VALUE_LO]!, rows[at + ROW_VALUE_HI]!, addressLo)) return true;
    }
    return false;
  }

  /** An entry that maps a page without a slot, or one that cannot be written to. `addressLo`: low half of what is translated. */
  private leadsOutOfSlots(row: number, entryLo: number, entryHi: number, addressLo: number): boolean {
    const level = observationLevel(row);
    const fourBytes = (row & OBS_FOUR_BYTES) !== 0;
    const large =
      (entryLo & ENTRY_PS) !== 0 && !(fourBytes && !this.machine.cpuWalk.pse && this.machine.tdpWalk === null);
    if (level > 1 && !large) return false;
    const within = (1 << (fourBytes ? 2 + 10 * level : 3 + 9 * level)) - 1;
    const frame = frameOf((entryLo & ~within) | (addressLo & within), fourBytes ? 0 : entryHi & 0xf_ffff);
    return this.kvm.backing(frame) !== 'writable';
  }

  /**
   * Whether it explains when some of the walk's translations by NPT are those of the other CR4.PSE. An exit comes from
   * KVM's own walk for the last translation, which knows the present one.
   */
  withEitherPse(view: GuestView, explains: () => boolean): boolean {
    const { op, registers, exited } = view;
    // What KVM's emulator translates it walks for.
    if ((op & ACCESS_SOFTWARE) !== 0) return explains();
    const { machine } = this;
    this.set(view);
    const { nptWalk } = machine;
    const { format } = nptWalk;
    const own = registers[2 * Reg.HOST_CR4]!;
    const reserved = [own, own ^ CR4_PSE].map((cr4) => {
      machine.setRegister(Reg.HOST_CR4, cr4 >>> 0, 0);
      machine.configure();
      return format.reserved;
    });
    const pse = (own & CR4_PSE) !== 0;
    const translations = machine.cpuWalk.rootLevel + 1;
    let others = 0;
    let count = 0;
    nptWalk.beforeTranslation = () => {
      // A walk's first translation stands first in its log.
      count = machine.log.count === 0 ? 0 : count + 1;
      const other = (others >>> count) & 1;
      nptWalk.pse = pse !== (other !== 0);
      format.reserved = reserved[other]!;
    };
    try {
      for (others = 1; others < 1 << translations; others++) {
        if (explains() && !(exited && ((others >>> count) & 1) !== 0)) return true;
      }
    } finally {
      nptWalk.beforeTranslation = null;
    }
    return false;
  }

  /** Calls `each` for the entries, of all tables, that the walks read which the last explanation rests on. */
  forEachRead(each: (row: number, addressLo: number, addressHi: number) => void): void {
    for (const { row, addressLo, addressHi } of this.readBefore) each(row, addressLo, addressHi);
    this.forEachReadNow(each);
  }

  private forEachReadNow(each: (row: number, addressLo: number, addressHi: number) => void): void {
    const { log } = this.machine;
    for (let i = 0; i < log.count; i++) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      each(log.op(i), log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }
}
