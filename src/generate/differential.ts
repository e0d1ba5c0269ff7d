/**
 * Runs a program on the bare machine and on one with an emulated KVM below the guest, and tells the first thing that a
 * guest would notice and must not.
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { defaultKvmConfig, type KvmConfig } from '../formats/kvm-config.ts';
import { OBS_DIM_MASK, OBS_DIM_SHIFT, OBS_KIND_MASK, Obs, obsMask } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import {
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  AccessType,
  STEP_KIND_MASK,
  StepKind,
} from '../formats/step.ts';
import { KvmMachine, type KvmMachineOptions } from '../machine/kvm/machine.ts';
import type { WiringName } from '../mmu/wiring.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO } from '../paging/row-log.ts';
import { GuestEntries } from '../replay/guest-entries.ts';
import { GuestExplanations, type UnsetBits } from '../replay/guest-explanation.ts';
import { GuestOutcome } from '../replay/guest-outcome.ts';
import { applyStep, loadRegisters, type Program, type ProgramStep, type ProgramTables } from './program.ts';
import { Specification } from './specification.ts';

/** Which tables KVM builds. */
export const VARIANTS = ['tdp', 'tdp-legacy', 'shadow'] as const;
export type Variant = (typeof VARIANTS)[number];

/** A KVM to compare with; what is left out is as the program's header, or the profile, says. */
export interface Host {
  readonly variant: Variant;
  readonly profile?: KvmProfile;
  readonly wiring?: WiringName;
}

export function hostName({ variant, profile, wiring }: Host): string {
  return [variant, profile, wiring].filter((part) => part !== undefined).join(' ');
}

/** Whether a KVM of that kind offers what the program makes use of: nested paging needs its own. */
export function offers({ variant, profile }: Host, { nested, recent }: Program): boolean {
  if (variant === 'shadow' && (nested === 'npt' || nested === 'ept')) return false;
  return !recent || profile !== '6.1';
}

export interface Finding {
  /** Ordinal of the step, and its unit. */
  readonly step: number;
  readonly unit: number;
  /** What kind of thing it is: without addresses, so that the same fault has the same shape in other programs. */
  readonly shape: string;
  readonly text: string;
}

/** What came of comparing: counts add up over programs. */
export class Tally {
  programs = 0;
  accesses = 0;
  equal = 0;
  translated = 0;
  /** Accesses of L2 that ended in an exit to L1. */
  exits = 0;
  /** By name of a legal difference, `stale` among them. */
  readonly legal = new Map<string, number>();
  undetermined = 0;
  notModelled = 0;

  count(name: string): void {
    this.legal.set(name, (this.legal.get(name) ?? 0) + 1);
  }
}

const EXITS = obsMask(Obs.EPT_VIOLATION, Obs.EPT_MISCONFIG, Obs.NPF, Obs.PML_FULL);
const PAGE = 0x1000;
const PFERR_P = 1 << 0;
const PFERR_RSVD = 1 << 3;
const GENERAL_PROTECTION = 13;
const PAGE_FAULT = 14;
/** Registers that must be the guest's on both machines. */
const COMPARED = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER] as const;

function isExit({ kind }: GuestOutcome): boolean {
  return ((EXITS >>> kind) & 1) !== 0;
}

function isPageFault({ kind, number }: GuestOutcome): boolean {
  return kind === Obs.EXCEPTION && number === PAGE_FAULT;
}

export function configOf({ header }: Program, { variant, profile }: Host): KvmConfig {
  const { vendor } = header.processor;
  const base =
    header.hypervisor?.mmu ??
    defaultKvmConfig(vendor === 'intel' ? { vendor: 'intel' } : { vendor: 'amd', tdpLevel: 5 });
  const chosen = profile === undefined ? base : { ...base, profile };
  const tdp = variant !== 'shadow';
  // Without EPT, or without its A and D bits, KVM turns PML off.
  return { ...chosen, tdp, tdpMmu: variant === 'tdp', pml: chosen.pml && chosen.eptAd && tdp };
}

class Differential {
  private readonly bare: Specification;
  private readonly kvm: KvmMachine;
  private readonly config: KvmConfig;
  private readonly tally: Tally;
  private readonly tables: Program['tables'];
  private readonly explanations: GuestExplanations;
  private readonly seen = new GuestOutcome();
  private readonly expected = new GuestOutcome();
  private passedOtherwise = false;
  private readonly remapped: boolean;
  /** The machines went different ways, lawfully. */
  private parted = false;
  private readonly entries: GuestEntries;

  constructor(program: Program, host: Host, tally: Tally, options: KvmMachineOptions) {
    this.config = configOf(program, host);
    this.bare = new Specification(program.header);
    this.kvm = new KvmMachine(program.header, this.config, {
      ...(host.wiring === undefined ? {} : { wiring: host.wiring }),
      ...options,
    });
    const isBacked = (frame: number): boolean => this.kvm.host.slotOf(frame, 0)?.readOnly === false;
    this.explanations = new GuestExplanations(program.header, this.config, this.bare, this.bare.history, isBacked);
    this.entries = new GuestEntries(this.bare, this.kvm, this.bare.history);
    this.tally = tally;
    this.tables = program.tables;
    this.remapped = program.nested === 'npt' || program.nested === 'ept';
    loadRegisters(this.bare, program.registers);
    loadRegisters(this.kvm, program.registers);
  }

  release(): void {
    this.bare.memory.release();
    this.kvm.host.memory.release();
  }

  run({ units }: Program): Finding | undefined {
    let ordinal = 0;
    for (const [unit, steps] of units.entries()) {
      for (const each of steps) {
        const found = this.step(ordinal, each);
        if (found !== undefined) return { step: ordinal, unit, ...found };
        if (this.parted) return undefined;
        ordinal++;
      }
    }
    const wrong = this.accessedAndDirty();
    return wrong && { step: ordinal - 1, unit: units.length - 1, ...wrong };
  }

  /**
   * The tables at the end: KVM has set no A or D bit that a processor that walks for every access has not, and they
   * differ in nothing else. Not asked once KVM has legally let something pass that a processor would not. With EPT or NPT
   * of L1's either may have set bits in tables where L2's were mapped before, by what it had cached.
   */
  private accessedAndDirty(): { shape: string; text: string } | undefined {
    if (this.passedOtherwise) return undefined;
    for (const tables of this.tables) {
      const wrong = this.wrongIn(tables);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  private wrongIn({ frames, entryBytes, accessedDirty }: ProgramTables): { shape: string; text: string } | undefined {
    const { bare, kvm } = this;
    for (const frame of frames) {
      for (let offset = 0; offset < PAGE; offset += 4) {
        const address = frame * PAGE + offset;
        const [expected] = bare.readEntry(0, address, 0);
        const [seen] = kvm.readEntry(0, address, 0);
        const bits = entryBytes === 4 || offset % 8 === 0 ? accessedDirty : 0;
        if (((expected ^ seen) & ~bits) === 0 && (this.remapped || (seen & ~expected) === 0)) continue;
        const at = `0x${address.toString(16)}`;
        const text = `the entry at ${at} ends as 0x${expected.toString(16)} on a bare processor, 0x${seen.toString(16)} under KVM`;
        return { shape: 'accessed and dirty bits', text };
      }
    }
    return undefined;
  }

  private step(ordinal: number, each: ProgramStep): { shape: string; text: string } | undefined {
    const { bare, kvm } = this;
    try {
      this.explanations.begin();
      if ((each.op & STEP_KIND_MASK) === StepKind.ACCESS) return this.access(ordinal, each);
      bare.applyWalking(ordinal, each);
      applyStep(kvm, ordinal, each);
      if (this.remapped && (each.op & STEP_KIND_MASK) === StepKind.REGISTER_WRITE) {
        const wrong = this.afterWrite() ?? this.followEqual(each);
        return wrong;
      }
    } catch (error) {
      const { message, stack } = error as Error;
      return { shape: `error: ${message.replaceAll(/[0-9a-f]{3,}/g, 'n')}`, text: stack ?? message };
    }
    if ((each.op & STEP_KIND_MASK) === StepKind.REGISTER_WRITE) return this.afterWrite();
    return undefined;
  }

  private access(ordinal: number, each: ProgramStep): { shape: string; text: string } | undefined {
    const { bare, kvm, tally, seen, expected } = this;
    const { op, addressLo, addressHi } = each;
    tally.accesses++;
    const served = kvm.serves(op, addressLo | 0, addressHi | 0);
    const { lo, hi } = kvm.tlb;
    applyStep(kvm, ordinal, each);
    seen.ofLog(kvm.log);
    if (served && (seen.kind !== Obs.TRANSLATED || seen.lo !== lo >>> 0 || seen.hi !== hi >>> 0)) {
      return {
        shape: 'serves',
        text: `the TLB was said to serve the access, which ended otherwise: ${seen.text}`,
      };
    }
    const translated = seen.kind === Obs.TRANSLATED;
    if (translated) tally.translated++;
    if (isExit(seen)) tally.exits++;
    const unlogged = translated ? this.unlogged(each, seen) : undefined;
    if (unlogged !== undefined) return unlogged;
    bare.applyWalking(ordinal, each);
    expected.ofLog(bare.log);
    const verdict = this.judge(each);
    if (isPageFault(seen) && this.dropsStale(each)) bare.pageFaulted(each);
    if (this.remapped) {
      const wrong = verdict === 'equal' ? this.followEqual(each) : verdict && this.followOther();
      if (wrong !== undefined && wrong !== '') return wrong;
    }
    if (this.readsOtherPdptes()) this.passedOtherwise = true;
    if (verdict === 'equal') tally.equal++;
    else if (verdict === 'undetermined') tally.undetermined++;
    else if (verdict === 'not-modelled') tally.notModelled++;
    else if (verdict !== undefined) {
      tally.count(verdict);
      if (verdict !== 'stale') this.passedOtherwise = true;
    } else {
      return {
        shape: `${expected.shape} -> ${seen.shape}`,
        text: `a bare processor: ${expected.text}; under KVM: ${seen.text}`,
      };
    }
    return undefined;
  }

  /**
   * Where a second stage is remapped without everybody's knowledge, A and D bits lawfully come to be apart, and later
   * walks depend on them: once they are, the bare machine takes over what the guest on KVM has. Here after a step that
   * ended alike: the bare machine has set bits that KVM need not, if a translation with them may be cached.
   */
  private followEqual(each: ProgramStep): { shape: string; text: string } | undefined {
    const { addressLo, addressHi } = each;
    const { bare, kvm, entries } = this;
    const { log } = bare;
    let followed = false;
    for (let i = 0; i < log.count; i++) {
      const row = log.op(i);
      if ((row & OBS_KIND_MASK) !== Obs.ENTRY_WRITE) continue;
      const lo = log.rows[i * ROW + ROW_ADDRESS_LO]!;
      const hi = log.rows[i * ROW + ROW_ADDRESS_HI]!;
      const want = bare.readEntry(row, lo, hi);
      const have = kvm.readEntry(row, lo, hi);
      if (want[0] === have[0] && want[1] === have[1]) continue;
      const entry = { row, addressLo: lo, addressHi: hi, want, whose: 'on a bare processor' };
      const difference = entries.compare(entry, addressLo | 0, addressHi | 0);
      const unset = { addressLo: lo, addressHi: hi, bits: want[0] ^ have[0] };
      if (difference !== undefined && !this.mayBeApart(each, unset, (want[0] & ~have[0]) !== 0))
        return { shape: 'accessed and dirty bits', text: difference.cause };
      followed = true;
      this.takeOver(lo & ~7, hi, -1);
    }
    return this.followLog(followed);
  }

  /** Whether what is cached explains the bits: those that KVM `lacks`, or those that it has in excess. */
  private mayBeApart({ op, addressLo, addressHi }: ProgramStep, bits: UnsetBits, lacks: boolean): boolean {
    const { explanations, seen } = this;
    const [lo, hi] = [addressLo | 0, addressHi | 0];
    return lacks ? explanations.avoids(op, lo, hi, seen, bits) : explanations.touches(op, lo, hi, seen, bits);
  }

  /** The same after a step that lawfully ended otherwise: A and D bits of all tables may be apart. */
  private followOther(): { shape: string; text: string } | undefined {
    for (const { frames, entryBytes, accessedDirty } of this.tables) {
      for (const frame of frames) {
        for (let offset = 0; offset < PAGE; offset += 8)
          this.takeOver(frame * PAGE + offset, 0, accessedDirty, entryBytes);
      }
    }
    return this.followLog(true);
  }

  /** Takes over the word if it differs in these bits only. */
  private takeOver(lo: number, hi: number, bits: number, entryBytes = 4): void {
    const { bare, kvm } = this;
    const want = bare.readEntry(Obs.ENTRY_AFTER, lo, hi);
    const have = kvm.readEntry(Obs.ENTRY_AFTER, lo, hi);
    const differs = ((want[0] ^ have[0]) & ~bits) !== 0 || ((want[1] ^ have[1]) & ~(entryBytes === 4 ? bits : 0)) !== 0;
    if (!differs) bare.memory.exchange(lo | 0, hi, have[0], have[1]);
  }

  /** What has been logged lies apart only where dirty bits do. */
  private followLog(apart: boolean): { shape: string; text: string } | undefined {
    const { bare, kvm } = this;
    const want = bare.register(Reg.PML_INDEX);
    const have = kvm.registers[2 * Reg.PML_INDEX]!;
    if (want === have) return undefined;
    if (!apart) {
      const text = `the log's index is 0x${have.toString(16)} under KVM, 0x${want.toString(16)} on a bare processor`;
      return { shape: 'page-modification log', text };
    }
    bare.setRegister(Reg.PML_INDEX, have, 0);
    return undefined;
  }

  /** A write to a slot with a dirty log must be in it. What PML logs is the hardware's business, which does not keep it. */
  private unlogged({ op }: ProgramStep, { lo, hi }: GuestOutcome): { shape: string; text: string } | undefined {
    const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
    if (this.config.pml || (type !== AccessType.WRITE && type !== AccessType.RMW)) return undefined;
    const gfn = frameOf(lo, hi);
    const slot = this.kvm.host.slotOf(gfn, 0);
    if (slot === null || !slot.dirtyLog || slot.readOnly || slot.isDirty(gfn)) return undefined;
    return { shape: 'dirty log', text: `the dirty log of slot ${slot.id} lacks guest frame 0x${gfn.toString(16)}` };
  }

  /**
   * Whether the page fault has dropped what could translate its address. One that KVM injects does so only if the page
   * is present and no reserved bit is set (facts/kvm-mmu.md §8.4).
   */
  private dropsStale({ op }: ProgramStep): boolean {
    if (this.config.tdp && (op & ACCESS_SOFTWARE) === 0) return true;
    return (this.seen.valueLo & (PFERR_P | PFERR_RSVD)) === PFERR_P;
  }

  /** What explains the outcome under KVM, by name, or undefined. */
  private judge({ op, addressLo, addressHi }: ProgramStep): string | undefined {
    const { seen, expected } = this;
    if (seen.equals(expected)) return 'equal';
    if (seen.kind === Obs.NOT_MODELLED || expected.kind === Obs.NOT_MODELLED) return 'not-modelled';
    if (seen.kind === Obs.NONE && this.triesForEver()) return 'read-only-table';
    const explanation = this.explanations.explain(op, addressLo | 0, addressHi | 0, seen, expected);
    switch (explanation.kind) {
      case 'fresh':
        return 'equal';
      case 'stale':
      case 'undetermined':
        return explanation.kind;
      case 'legal':
        return explanation.by.map(({ name }) => name).join(' and ');
      case 'none':
        return undefined;
    }
  }

  /**
   * 6.1 lets a processor that wants to set a bit in one of the guest's tables try again (kvm_mmu_page_fault: what is
   * shadowed is unprotected and nothing emulated), also if the table is in a read-only slot: the guest hangs.
   */
  private triesForEver(): boolean {
    const { bare, kvm, config } = this;
    if (!config.tdp || config.profile !== '6.1') return false;
    const { log } = bare;
    for (let i = 0; i < log.count; i++) {
      const isTable =
        (log.op(i) & OBS_KIND_MASK) === Obs.ELEMENT && ((log.op(i) >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === 0;
      const gfn = frameOf(log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!);
      if (isTable && kvm.host.slotOf(gfn, 0)?.readOnly === true) return true;
    }
    return false;
  }

  /** L2's table of PDPTEs was reached by what EPT said earlier, which KVM may have kept (SDM vol. 3C 29.4.3). */
  private reachedBefore(): boolean {
    const { bare } = this;
    const { log, history } = bare;
    bare.probeGpa(0, bare.register(Reg.CR3) & ~0x1f, 0);
    for (let i = 0; i < log.count; i++) {
      if ((log.op(i) & OBS_KIND_MASK) !== Obs.ELEMENT) continue;
      const at = i * ROW;
      if (history.earlier(log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!).length > 0) return true;
    }
    return false;
  }

  /** Under NPT KVM's processor reads PDPTEs from memory, the bare one has others in its registers (legal difference 10). */
  private readsOtherPdptes(): boolean {
    const { bare, config } = this;
    const pae = bare.cpuWalk.rootLevel === 3 && !bare.cpuWalk.pdptesInMemory;
    if (!config.tdp || config.vendor !== 'amd' || !pae) return false;
    const table = bare.register(Reg.CR3) & ~0x1f;
    return [0, 1, 2, 3].some((index) => {
      const [lo, hi] = bare.readEntry(Obs.ENTRY_AFTER, table + 8 * index, 0);
      const at = 2 * (Reg.PDPTE0 + index);
      return bare.registers[at] !== lo || bare.registers[at + 1] !== hi;
    });
  }

  /** The write is refused because of PDPTEs, nothing else, which under NPT nobody reads for it (APM vol. 2 15.25.10). */
  private readsPdptesLater(): boolean {
    const { config, expected } = this;
    return (
      config.tdp && config.vendor === 'amd' && expected.kind === Obs.EXCEPTION && expected.number === GENERAL_PROTECTION
    );
  }

  /** After a register write: refused by both or neither, and with the same result. */
  private afterWrite(): { shape: string; text: string } | undefined {
    const { bare, kvm, seen, expected } = this;
    expected.ofLog(bare.log);
    seen.ofLog(kvm.log);
    if (expected.kind !== Obs.NONE || seen.kind !== Obs.NONE) {
      if (expected.kind === seen.kind && expected.number === seen.number) return undefined;
      if (seen.kind === Obs.NONE && this.readsPdptesLater()) {
        this.tally.count('pdptes-on-demand');
        this.parted = true;
        return undefined;
      }
      // PDPTEs are read: the flags that found no room in the log are accessed ones, which KVM does not log.
      if (expected.kind === Obs.PML_FULL && !isExit(seen)) {
        this.tally.count('accessed-set-with-full-log');
        this.parted = true;
        return undefined;
      }
      if (isExit(expected) && seen.kind === Obs.NONE && this.reachedBefore()) {
        // One has the new registers, the other has not: there is nothing more to compare.
        this.tally.count('stale');
        this.parted = true;
        return undefined;
      }
      return { shape: 'write refused', text: `bare: ${expected.text}, KVM: ${seen.text}` };
    }
    for (const register of COMPARED) {
      const differ =
        bare.registers[2 * register] !== kvm.registers[2 * register] ||
        bare.registers[2 * register + 1] !== kvm.registers[2 * register + 1];
      if (!differ) continue;
      const [is, was] = [kvm.registers[2 * register]!.toString(16), bare.registers[2 * register]!.toString(16)];
      return {
        shape: `register ${register}`,
        text: `register ${register} is ${was} on a bare processor, ${is} under KVM`,
      };
    }
    return undefined;
  }
}

/** Runs the program on both machines; the first finding, or undefined. Counts into `tally`. */
export function compareOn(
  program: Program,
  host: Host,
  tally = new Tally(),
  options: KvmMachineOptions = {},
): Finding | undefined {
  tally.programs++;
  const differential = new Differential(program, host, tally, options);
  const finding = differential.run(program);
  differential.release();
  return finding;
}
