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
import { GuestExplanations } from '../replay/guest-explanation.ts';
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
  return { ...chosen, tdp: variant !== 'shadow', tdpMmu: variant === 'tdp' };
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

  constructor(program: Program, host: Host, tally: Tally, options: KvmMachineOptions) {
    this.config = configOf(program, host);
    this.bare = new Specification(program.header);
    this.explanations = new GuestExplanations(program.header, this.config, this.bare, this.bare.history);
    this.kvm = new KvmMachine(program.header, this.config, {
      ...(host.wiring === undefined ? {} : { wiring: host.wiring }),
      ...options,
    });
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
      if ((each.op & STEP_KIND_MASK) === StepKind.ACCESS) return this.access(ordinal, each);
      bare.applyWalking(ordinal, each);
      applyStep(kvm, ordinal, each);
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
   * Whether the page fault has dropped what could translate its address. One that KVM injects does so under shadow
   * paging, and only if the page is present and no reserved bit is set (facts/kvm-mmu.md §8.4).
   */
  private dropsStale({ op }: ProgramStep): boolean {
    if (this.config.tdp) return (op & ACCESS_SOFTWARE) === 0;
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

  /** After a register write: refused by both or neither, and with the same result. */
  private afterWrite(): { shape: string; text: string } | undefined {
    const { bare, kvm, seen, expected } = this;
    expected.ofLog(bare.log);
    seen.ofLog(kvm.log);
    if (expected.kind !== Obs.NONE || seen.kind !== Obs.NONE) {
      if (expected.kind === seen.kind && expected.number === seen.number) return undefined;
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
