/**
 * Which steps of a nested program, or of one of several vCPUs, a processor goes through: exits follow what L1's tables
 * or intercepts end, transitions load states that exist. Programs keep to it also when a part of them is taken away.
 */

import {
  OBS_EXCEPTION_EXITS,
  OBS_KIND_MASK,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
  obsMask,
} from '../formats/observation.ts';
import {
  CR0_PG,
  CR4_PAE,
  CR4_PCIDE,
  EFER_LMA,
  EFER_LME,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
} from '../formats/registers.ts';
import {
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_WALKED,
  AccessType,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  Invalidation,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { BareMachine } from '../machine/bare.ts';
import { WRITE } from '../paging/access.ts';
import { reservedPae } from '../paging/reserved-bits.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_OP, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { ProgramStep } from './program.ts';
import { accepts } from './rules.ts';

const EXITS = obsMask(Obs.EPT_VIOLATION, Obs.EPT_MISCONFIG, Obs.NPF, Obs.PML_FULL);
const PF_VECTOR = 14;
const PDPTES = 4;

/** An exit that a step of L2's ended in. */
export interface PendingExit {
  /** One of `Obs`. */
  readonly kind: number;
  readonly lo: number;
  readonly hi: number;
  readonly infoLo: number;
  readonly infoHi: number;
}

/** Where a vCPU is; after NESTED_EXIT it is not known yet who goes on, `left`: L1 does, whose registers are being set. */
type Phase = 'l1' | 'entering' | 'l2' | 'leaving' | 'left';

interface Cpu {
  phase: Phase;
  pending: PendingExit | null;
}

/** The exit that the machine's last step ended in, or null. */
export function exitOf({ log }: BareMachine): PendingExit | null {
  for (let at = (log.count - 1) * ROW; at >= 0; at -= ROW) {
    const { rows } = log;
    const op = rows[at + ROW_OP]!;
    const kind = op & OBS_KIND_MASK;
    const pageFault = kind === Obs.EXCEPTION && ((op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK) === PF_VECTOR;
    if (((EXITS >>> kind) & 1) === 0 && !(pageFault && (op & OBS_EXCEPTION_EXITS) !== 0)) continue;
    return {
      kind,
      lo: rows[at + ROW_ADDRESS_LO]! >>> 0,
      hi: rows[at + ROW_ADDRESS_HI]! >>> 0,
      infoLo: rows[at + ROW_VALUE_LO]! >>> 0,
      infoHi: rows[at + ROW_VALUE_HI]! >>> 0,
    };
  }
  return null;
}

export class NestedRules {
  private readonly machine: BareMachine;
  private readonly cpus: Cpu[] = [{ phase: 'l1', pending: null }];
  current = 0;

  constructor(machine: BareMachine) {
    this.machine = machine;
  }

  private get cpu(): Cpu {
    return this.cpus[this.current]!;
  }

  get inL2(): boolean {
    return this.mode() === 'l2';
  }

  /** The exit that has to come next, or null. */
  get pending(): PendingExit | null {
    return this.cpu.pending;
  }

  /** How many vCPUs have been seen. */
  get count(): number {
    return this.cpus.length;
  }

  private low(register: number): number {
    return this.machine.register(register);
  }

  /** Whether the processor goes through the step, before it is applied. */
  accepts(each: ProgramStep): boolean {
    const { cpu } = this;
    const kind = each.op & STEP_KIND_MASK;
    const register = (each.op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    if (cpu.pending !== null && kind !== StepKind.NESTED_EXIT) return false;
    if (cpu.phase === 'entering')
      return kind === StepKind.REGISTER_SET || (kind === StepKind.NESTED_ENTRY && this.mayEnter());
    const sets = kind === StepKind.REGISTER_SET;
    const enters = sets && register === Reg.GUEST_MODE && each.operandLo !== GuestMode.NONE;
    const goesOn = !sets || (cpu.phase === 'left' && enters);
    if ((cpu.phase === 'leaving' || cpu.phase === 'left') && goesOn && !this.hasLeft()) return false;
    switch (kind) {
      case StepKind.NESTED_ENTRY:
        return false;
      case StepKind.NESTED_EXIT:
        return this.mode() === 'l2';
      case StepKind.REGISTER_SET:
        return true;
      case StepKind.REGISTER_WRITE:
        return accepts(this.machine.registers, each) && !(register === Reg.CR0 && this.mustPage(each.operandLo));
      case StepKind.INVALIDATE:
        return accepts(this.machine.registers, each) && this.mayInvalidate(each);
      case StepKind.ACCESS:
        return (
          ((each.op & ACCESS_SOFTWARE) === 0 || this.hasPdptes()) &&
          this.isWithinReach(each) &&
          !this.isQuietlyLogged(each)
        );
      default:
        return true;
    }
  }

  /**
   * Under NPT a processor reads the one PDPTE of PAE paging that it needs at each access. KVM's emulator loads all four,
   * and goes on with older ones where it cannot (facts/kvm-mmu.md §5.1): programs do not ask that of it.
   */
  private hasPdptes(): boolean {
    const { machine } = this;
    machine.configure();
    if (this.mode() !== 'l2' || !isPae(machine.registers) || machine.tdpWalk?.ept !== false) return true;
    machine.probeGpa(WRITE, machine.register(Reg.CR3) & ~0x1f, 0);
    const { log } = machine;
    if ((log.op(log.count - 1) & OBS_KIND_MASK) !== Obs.TRANSLATED) return false;
    const at = (log.count - 1) * ROW;
    return isLoadable(machine, log.rows[at + ROW_ADDRESS_LO]!, log.rows[at + ROW_ADDRESS_HI]!);
  }

  /**
   * NPT of a legacy mode reaches 4 GiB. L2 asks for nothing beyond (PSE-36): KVM, which shadows such tables by larger ones,
   * lets it try for ever.
   */
  private isWithinReach({ op, addressLo, addressHi }: ProgramStep): boolean {
    const { machine } = this;
    machine.configure();
    const second = machine.tdpWalk;
    if (this.mode() !== 'l2' || second === null || second.ept || second.rootLevel > 3) return true;
    machine.probe(op | ACCESS_WALKED, addressLo | 0, addressHi | 0);
    const { log } = machine;
    for (let i = 0; i < log.count; i++) {
      const walks = (log.op(i) & OBS_KIND_MASK) === Obs.NESTED_WALK;
      if (walks && log.rows[i * ROW + ROW_ADDRESS_HI] !== 0) return false;
    }
    return true;
  }

  /**
   * A fetch that KVM's emulator cannot make ends in #UD, whatever it met. If that was a full page-modification log, KVM
   * tells of it with the next exit because of EPT (nested.pml_full stays set): programs do not ask that of it.
   */
  private isQuietlyLogged({ op }: ProgramStep): boolean {
    const fetch = ((op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK) === AccessType.FETCH;
    this.machine.configure();
    return fetch && (op & ACCESS_SOFTWARE) !== 0 && this.machine.tdpWalk?.modificationLog != null;
  }

  /** Where the vCPU is once the registers after an exit have been set. */
  private mode(): Phase {
    const { phase } = this.cpu;
    return phase === 'leaving' ? 'l2' : phase === 'left' ? 'l1' : phase;
  }

  /** The step has been applied. `exit`: what it ended in, as memory stands. */
  applied(each: ProgramStep, exit: PendingExit | null): void {
    const kind = each.op & STEP_KIND_MASK;
    const register = (each.op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    if (kind === StepKind.VCPU) {
      this.current = each.operandLo;
      while (this.cpus.length <= this.current) this.cpus.push({ phase: 'l1', pending: null });
      return;
    }
    const { cpu } = this;
    const setsMode = kind === StepKind.REGISTER_SET && register === Reg.GUEST_MODE;
    if (kind !== StepKind.REGISTER_SET) cpu.phase = this.mode();
    const ends = kind === StepKind.ACCESS || kind === StepKind.REGISTER_WRITE;
    cpu.pending = cpu.phase === 'l2' && ends ? exit : null;
    if (kind === StepKind.NESTED_ENTRY) cpu.phase = 'l2';
    else if (kind === StepKind.NESTED_EXIT) cpu.phase = 'leaving';
    else if (setsMode && each.operandLo === GuestMode.NONE) cpu.phase = 'left';
    else if (setsMode && this.mode() === 'l1') cpu.phase = 'entering';
  }

  /** Without EPT the guest of VMX pages (SDM vol. 3C 26.6.2: unrestricted guest needs EPT). */
  private mustPage(cr0: number): boolean {
    const vmx = this.low(Reg.GUEST_MODE) === GuestMode.VMX;
    return vmx && (this.low(Reg.SECONDARY_CONTROLS) & SECONDARY_EPT) === 0 && (cr0 & CR0_PG) === 0;
  }

  private mayInvalidate(each: ProgramStep): boolean {
    const inL2 = this.mode() === 'l2';
    switch ((each.op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK) {
      case Invalidation.INVEPT:
      case Invalidation.INVVPID:
      case Invalidation.INVLPGA:
        return !inL2;
      case Invalidation.EPTP_SWITCH:
        return inL2;
      default:
        return true;
    }
  }

  private mayEnter(): boolean {
    return mayEnter(this.machine, this.machine.registers);
  }

  /** After an exit: L1's state is whole, or L2 goes on. */
  private hasLeft(): boolean {
    const { machine } = this;
    return this.mode() === 'l2' ? mayEnter(machine, machine.registers) : mayLeave(machine, machine.registers);
  }
}

function isLong(registers: Uint32Array): boolean {
  return (registers[2 * Reg.EFER]! & EFER_LMA) !== 0;
}

function pages(registers: Uint32Array): boolean {
  return (registers[2 * Reg.CR0]! & CR0_PG) !== 0;
}

/** Whether PAE paging is in force. */
export function isPae(registers: Uint32Array): boolean {
  return pages(registers) && !isLong(registers) && (registers[2 * Reg.CR4]! & CR4_PAE) !== 0;
}

function isState(registers: Uint32Array): boolean {
  const lme = (registers[2 * Reg.EFER]! & EFER_LME) !== 0;
  const cr4 = registers[2 * Reg.CR4]!;
  if (isLong(registers) !== (pages(registers) && lme)) return false;
  if (isLong(registers)) return (cr4 & CR4_PAE) !== 0;
  return (cr4 & CR4_PCIDE) === 0;
}

/** Whether L2 can be entered with these registers. */
export function mayEnter(machine: BareMachine, registers: Uint32Array): boolean {
  const mode = registers[2 * Reg.GUEST_MODE];
  if (mode === GuestMode.NONE || !isState(registers)) return false;
  if (mode === GuestMode.VMX) {
    if ((registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_EPT) !== 0) return true;
    // An unrestricted guest needs EPT (SDM vol. 3C 26.6.2).
    return pages(registers) && pdptesLoaded(machine, registers);
  }
  // VMRUN with nested paging needs a host that pages (APM vol. 2 15.25.3).
  if ((registers[2 * Reg.NESTED_CONTROL]! & NESTED_NP_ENABLE) !== 0)
    return (registers[2 * Reg.HOST_CR0]! & CR0_PG) !== 0;
  return pdptesLoaded(machine, registers);
}

/** Whether L1 can go on after an exit with these registers. */
export function mayLeave(machine: BareMachine, registers: Uint32Array): boolean {
  return isState(registers) && pdptesLoaded(machine, registers);
}

/** PDPTE registers hold what memory holds, which can be loaded. */
function pdptesLoaded(machine: BareMachine, registers: Uint32Array): boolean {
  if (!isPae(registers)) return true;
  const table = registers[2 * Reg.CR3]! & ~0x1f;
  for (let index = 0; index < PDPTES; index++) {
    const [lo, hi] = machine.readEntry(0, table + 8 * index, 0);
    const at = 2 * (Reg.PDPTE0 + index);
    if (registers[at] !== lo || registers[at + 1] !== hi) return false;
  }
  return isLoadable(machine, table, 0);
}

/** Whether no present PDPTE of the table has a reserved bit. */
function isLoadable(machine: BareMachine, tableLo: number, tableHi: number): boolean {
  const reserved = reservedPae({ maxphyaddr: machine.features.maxphyaddr, nx: true, page1g: false, amd: false });
  for (let index = 0; index < PDPTES; index++) {
    const [lo, hi] = machine.readEntry(0, tableLo + 8 * index, tableHi);
    if ((lo & 1) !== 0 && ((lo & reserved.lo[3]!) | (hi & reserved.hi[3]!)) !== 0) return false;
  }
  return true;
}
