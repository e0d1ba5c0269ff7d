/**
 * Runs a program on the bare machine and on one with an emulated KVM below the guest, and tells the first thing that a
 * guest would notice and must not.
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { defaultKvmConfig, type KvmConfig } from '../formats/kvm-config.ts';
import { Obs, obsMask } from '../formats/observation.ts';
import { Reg } from '../formats/registers.ts';
import { ACCESS_TYPE_MASK, ACCESS_TYPE_SHIFT, AccessType, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { KvmMachine, type KvmMachineOptions } from '../machine/kvm/machine.ts';
import type { WiringName } from '../mmu/wiring.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { GuestEntries } from '../replay/guest-entries.ts';
import { type GuestExplanation, GuestExplanations } from '../replay/guest-explanation.ts';
import { GuestOutcome } from '../replay/guest-outcome.ts';
import { underKvm } from '../replay/under-kvm.ts';
import { AccessedDirty, type Wrong } from './accessed-dirty.ts';
import { applyStep, loadRegisters, type Program, type ProgramStep } from './program.ts';
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
/** Registers that must be the guest's on both machines. */
const COMPARED = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER] as const;

function isExit({ kind }: GuestOutcome): boolean {
  return ((EXITS >>> kind) & 1) !== 0;
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
  private readonly explanations: GuestExplanations;
  private readonly seen = new GuestOutcome();
  private readonly expected = new GuestOutcome();
  private passedOtherwise = false;
  /** The machines went different ways, lawfully. */
  private parted = false;
  private readonly accessedDirty: AccessedDirty;

  constructor(program: Program, host: Host, tally: Tally, options: KvmMachineOptions) {
    this.config = configOf(program, host);
    this.bare = new Specification(program.header);
    this.kvm = new KvmMachine(program.header, this.config, {
      ...(host.wiring === undefined ? {} : { wiring: host.wiring }),
      ...options,
    });
    const { history } = this.bare;
    this.explanations = new GuestExplanations(program.header, this.config, this.bare, history, underKvm(this.kvm));
    const entries = new GuestEntries(this.bare, this.kvm, this.bare.history);
    const { bare, kvm, explanations } = this;
    this.accessedDirty = new AccessedDirty({ bare, kvm, entries, explanations }, program);
    this.tally = tally;
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
    const wrong = this.passedOtherwise ? undefined : this.accessedDirty.atTheEnd();
    return wrong && { step: ordinal - 1, unit: units.length - 1, ...wrong };
  }

  private step(ordinal: number, each: ProgramStep): Wrong | undefined {
    const { bare, kvm } = this;
    const kind = each.op & STEP_KIND_MASK;
    try {
      this.explanations.begin();
      if (kind === StepKind.ACCESS) return this.access(ordinal, each);
      bare.applyWalking(ordinal, each);
      applyStep(kvm, ordinal, each);
      if (kind === StepKind.REGISTER_WRITE) return this.afterWrite(each);
    } catch (error) {
      const { message, stack } = error as Error;
      return { shape: `error: ${message.replaceAll(/[0-9a-f]{3,}/g, 'n')}`, text: stack ?? message };
    }
    return undefined;
  }

  private access(ordinal: number, each: ProgramStep): Wrong | undefined {
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
    if (this.explanations.dropsTranslations(op, seen)) bare.pageFaulted(each);
    const otherPdptes = this.readsOtherPdptes();
    if (this.accessedDirty.followed) {
      if (verdict === 'equal' && !otherPdptes) {
        const wrong = this.accessedDirty.afterEqual(each, seen);
        if (wrong !== undefined) return wrong;
      } else if (verdict !== undefined) this.accessedDirty.afterOther();
    } else if (verdict === 'equal') this.accessedDirty.takeOverSetByKvm(each, seen);
    if (otherPdptes) this.passedOtherwise = true;
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
  private unlogged({ op }: ProgramStep, { lo, hi }: GuestOutcome): Wrong | undefined {
    const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
    if (this.config.pml || (type !== AccessType.WRITE && type !== AccessType.RMW)) return undefined;
    const gfn = frameOf(lo, hi);
    const slot = this.kvm.host.slotOf(gfn, 0);
    if (slot === null || !slot.dirtyLog || slot.readOnly || slot.isDirty(gfn)) return undefined;
    return { shape: 'dirty log', text: `the dirty log of slot ${slot.id} lacks guest frame 0x${gfn.toString(16)}` };
  }

  /** What explains the outcome under KVM, by name, or undefined. */
  private judge({ op, addressLo, addressHi }: ProgramStep): string | undefined {
    const { seen, expected } = this;
    if (seen.equals(expected)) return 'equal';
    if (seen.kind === Obs.NOT_MODELLED || expected.kind === Obs.NOT_MODELLED) return 'not-modelled';
    return nameOf(this.explanations.explain({ op, lo: addressLo | 0, hi: addressHi | 0, seen }, expected));
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

  /** After a register write: refused by both or neither, and with the same result. */
  private afterWrite({ op, operandLo }: ProgramStep): Wrong | undefined {
    const { bare, kvm, seen, expected } = this;
    expected.ofLog(bare.log);
    seen.ofLog(kvm.log);
    if (!seen.equals(expected)) {
      const name = nameOf(this.explanations.explainWrite(op, operandLo, seen, expected));
      if (name === undefined) return { shape: 'write refused', text: `bare: ${expected.text}, KVM: ${seen.text}` };
      // One has the new registers, the other has not: there is nothing more to compare.
      this.tally.count(name);
      this.parted = true;
      return undefined;
    }
    if (seen.kind !== Obs.NONE) return undefined;
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
    return this.accessedDirty.followed ? this.accessedDirty.logged(false) : undefined;
  }
}

/** What explains, by name, or undefined. */
function nameOf(explanation: GuestExplanation): string | undefined {
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
