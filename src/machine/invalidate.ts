/**
 * What register writes, invalidation instructions and nested transitions do to the machine's own TLB and registers
 * (SDM vol. 3A 4.10.4, vol. 3C 29.4.3; APM vol. 2 15.16). The machine may drop more than the architecture asks for;
 * what it *must* be free of is the business of `lawful.ts`, which is told of the same events.
 */

import {
  CR0_CD,
  CR0_NW,
  CR0_PG,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PSE,
  CR4_SMEP,
  EFER_LMA,
  EFER_LME,
  Reg,
} from '../formats/registers.ts';
import {
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  REGISTER_WRITE_TASK_SWITCH,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
} from '../formats/step.ts';
import type { BareMachine } from './bare.ts';
import { loadPdptes } from './pdpte.ts';

const CR0_ET = 1 << 4;
/** CR4 bits whose change drops every translation (SDM vol. 3A 4.10.4.1); more than needed for some directions. */
const CR4_FLUSHING = CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP;

/** A register written by an instruction of the guest. */
export function writeRegister(machine: BareMachine, op: number, lo: number, hi: number): void {
  const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
  switch (register) {
    case Reg.CR0:
      writeCr0(machine, lo);
      break;
    case Reg.CR3:
      writeCr3(machine, lo, hi, (op & REGISTER_WRITE_TASK_SWITCH) !== 0);
      break;
    case Reg.CR4:
      writeCr4(machine, lo, hi);
      break;
    case Reg.EFER:
      // LMA is read-only (SDM vol. 3A 2.2.1).
      machine.setRegister(Reg.EFER, ((lo & ~EFER_LMA) | (machine.register(Reg.EFER) & EFER_LMA)) >>> 0, hi);
      machine.tlb.clear();
      break;
    default:
      machine.setRegister(register, lo, hi);
  }
}

function writeCr0(machine: BareMachine, value: number): void {
  const old = machine.register(Reg.CR0);
  const next = (value | CR0_ET) >>> 0;
  const pagingChanges = ((old ^ next) & CR0_PG) !== 0;
  const efer = machine.register(Reg.EFER);
  const longModeNext = (next & CR0_PG) !== 0 && (efer & EFER_LME) !== 0;
  if ((next & CR0_PG) !== 0 && !longModeNext && ((old ^ next) & (CR0_PG | CR0_CD | CR0_NW)) !== 0) {
    reloadPdptes(machine);
  }
  machine.setRegister(Reg.CR0, next, 0);
  if (!pagingChanges) return;
  const lma = longModeNext ? efer | EFER_LMA : efer & ~EFER_LMA;
  machine.setRegister(Reg.EFER, lma >>> 0, machine.registers[2 * Reg.EFER + 1]!);
  if (longModeNext || (next & CR0_PG) === 0) clearPdptes(machine);
  machine.tlb.clear();
}

function writeCr3(machine: BareMachine, lo: number, hi: number, taskSwitch: boolean): void {
  const pcide = (machine.register(Reg.CR4) & CR4_PCIDE) !== 0;
  const keep = pcide && hi >>> 31 !== 0 && !taskSwitch;
  machine.setRegister(Reg.CR3, lo, pcide ? (hi & 0x7fff_ffff) >>> 0 : hi);
  if ((machine.register(Reg.CR0) & CR0_PG) !== 0 && (machine.register(Reg.EFER) & EFER_LMA) === 0) {
    reloadPdptes(machine);
  }
  machine.configure();
  if (!keep) machine.tlb.dropContext(machine.contexts.context);
}

function writeCr4(machine: BareMachine, lo: number, hi: number): void {
  const old = machine.register(Reg.CR4);
  machine.setRegister(Reg.CR4, lo, hi);
  const changed = old ^ lo;
  const paging = (machine.register(Reg.CR0) & CR0_PG) !== 0;
  if (paging && (machine.register(Reg.EFER) & EFER_LMA) === 0) {
    if ((lo & CR4_PAE) === 0) clearPdptes(machine);
    else if ((changed & (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP)) !== 0) reloadPdptes(machine);
  }
  if ((changed & CR4_FLUSHING) !== 0) machine.tlb.clear();
}

/** The register write that loads PDPTEs is one event: what it reads on the way is not observed by itself. */
function reloadPdptes(machine: BareMachine): void {
  if ((machine.register(Reg.CR4) & CR4_PAE) === 0) return;
  machine.configure();
  loadPdptes(machine, machine.register(Reg.CR3), 0);
  machine.log.count = 0;
}

function clearPdptes(machine: BareMachine): void {
  for (let index = 0; index < 4; index++) machine.setRegister(Reg.PDPTE0 + index, 0, 0);
}

/** INVLPG, INVPCID, INVEPT, INVVPID, INVLPGA, EPTP switching. */
export function invalidate(
  machine: BareMachine,
  op: number,
  lo: number,
  hi: number,
  tagLo: number,
  tagHi: number,
): void {
  const instruction = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
  machine.configure();
  if (instruction === Invalidation.INVLPG || instruction === Invalidation.INVLPGA) {
    machine.tlb.dropPage(lo, hi);
    return;
  }
  if (instruction === Invalidation.EPTP_SWITCH) machine.setRegister(Reg.EPTP, tagLo, tagHi);
  else machine.tlb.clear();
}

/** VM entry and exit, VMRUN and #VMEXIT: untagged guests share the host's tag, so its translations go. */
export function nestedTransition(machine: BareMachine, op: number): void {
  machine.configure();
  if ((op & NESTED_SVM) !== 0) {
    if (((op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK) !== 0) machine.tlb.clear();
  } else if (machine.contexts.asid === 0) {
    machine.tlb.clear();
  }
}
