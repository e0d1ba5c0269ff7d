/**
 * What register writes, invalidation instructions and nested transitions do to the machine's own TLB and registers
 * (SDM vol. 3A 4.10.4, vol. 3C 29.4.3; APM vol. 2 15.16). The machine may drop more than the architecture asks for;
 * what it *must* be free of is the business of `lawful.ts`, which is told of the same events.
 */

import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
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
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  REGISTER_WRITE_TASK_SWITCH,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { BareMachine } from './bare.ts';
import { switchByList } from './eptp-list.ts';
import type { InvalidationScope } from './history.ts';
import { loadPdptes } from './pdpte.ts';

const CR0_ET = 1 << 4;
const GENERAL_PROTECTION = 13;
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
    const pae = (machine.register(Reg.CR4) & CR4_PAE) !== 0;
    machine.configure();
    const inMemory = machine.tdpWalk?.ept === false;
    if (pae && !inMemory && !reloadPdptes(machine, machine.register(Reg.CR3))) return;
  }
  machine.setRegister(Reg.CR0, next, 0);
  if (!pagingChanges) return;
  const lma = longModeNext ? efer | EFER_LMA : efer & ~EFER_LMA;
  machine.setRegister(Reg.EFER, lma >>> 0, machine.registers[2 * Reg.EFER + 1]!);
  machine.configure();
  if ((old & CR0_PG) !== 0) machine.history.invalidate({ what: 'linear', asid: machine.contexts.asid });
  if (longModeNext || (next & CR0_PG) === 0) clearPdptes(machine);
  machine.tlb.clear();
}

function writeCr3(machine: BareMachine, lo: number, hi: number, taskSwitch: boolean): void {
  const pcide = (machine.register(Reg.CR4) & CR4_PCIDE) !== 0;
  const keep = pcide && hi >>> 31 !== 0 && !taskSwitch;
  machine.configure();
  const root = machine.root();
  if (legacyPaging(machine) && (machine.register(Reg.CR4) & CR4_PAE) !== 0 && !reloadPdptes(machine, lo)) return;
  machine.history.rootChanges(root);
  machine.setRegister(Reg.CR3, lo, pcide ? (hi & 0x7fff_ffff) >>> 0 : hi);
  machine.configure();
  if (keep) return;
  const { context, asid, pcid } = machine.contexts;
  // Combined translations of the PCID go for every EPT, not just the one in force (SDM vol. 3C 29.4.3.1).
  if (machine.contexts.ep4ta !== 0) machine.tlb.clear();
  else machine.tlb.dropContext(context);
  machine.history.invalidate({ what: 'linear', asid, pcid, keepGlobal: true });
}

function writeCr4(machine: BareMachine, lo: number, hi: number): void {
  const old = machine.register(Reg.CR4);
  const changed = old ^ lo;
  if (legacyPaging(machine)) {
    const reload = (lo & CR4_PAE) !== 0 && (changed & (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP)) !== 0;
    if (reload && !reloadPdptes(machine, machine.register(Reg.CR3))) return;
    if ((lo & CR4_PAE) === 0) clearPdptes(machine);
  }
  machine.setRegister(Reg.CR4, lo, hi);
  if ((changed & CR4_FLUSHING) !== 0) machine.tlb.clear();
  machine.configure();
  const { asid, pcid } = machine.contexts;
  if ((changed & CR4_PGE) !== 0 || (changed & old & CR4_PCIDE) !== 0) {
    machine.history.invalidate({ what: 'linear', asid });
  } else if ((changed & CR4_PAE) !== 0 || (changed & lo & CR4_SMEP) !== 0) {
    machine.history.invalidate({ what: 'linear', asid, pcid });
  }
}

/** Paging is on, not that of long mode, and PDPTE registers are in use: under NPT they are not (APM vol. 2 15.25.10). */
function legacyPaging(machine: BareMachine): boolean {
  machine.configure();
  if (machine.tdpWalk?.ept === false) return false;
  return (machine.register(Reg.CR0) & CR0_PG) !== 0 && (machine.register(Reg.EFER) & EFER_LMA) === 0;
}

/**
 * A register write that loads PDPTEs is one event: what it reads on the way is not observed by itself. Returns false,
 * with the exception or exit in the log, if the load is refused; the register must then stay as it was.
 */
function reloadPdptes(machine: BareMachine, cr3: number): boolean {
  const { log } = machine;
  machine.configure();
  const loaded = loadPdptes(machine, cr3, 0);
  const last = log.op(log.count - 1);
  const kind = last & OBS_KIND_MASK;
  const at = (log.count - 1) * ROW;
  const [lo, hi, qualification] = [
    log.rows[at + ROW_ADDRESS_LO]!,
    log.rows[at + ROW_ADDRESS_HI]!,
    log.rows[at + ROW_VALUE_LO]!,
  ];
  log.count = 0;
  if (kind === Obs.EPT_VIOLATION || kind === Obs.EPT_MISCONFIG || kind === Obs.PML_FULL)
    log.push(last, lo, hi, qualification, 0);
  else if (!loaded) machine.pushException(GENERAL_PROTECTION, 0, 0, 0);
  return loaded;
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
  machine.configure();
  const instruction = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
  const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
  const { tlb, history, contexts } = machine;
  switch (instruction) {
    case Invalidation.INVLPG:
      tlb.dropPage(lo, hi);
      history.invalidate({ what: 'page', asid: contexts.asid, pcid: contexts.pcid, lo, hi });
      break;
    case Invalidation.INVLPGA:
      tlb.dropPage(lo, hi);
      history.invalidate({ what: 'address', asid: tagLo, lo, hi });
      break;
    case Invalidation.EPTP_SWITCH:
      if (tagLo !== 0 || tagHi !== 0) machine.setRegister(Reg.EPTP, tagLo, tagHi);
      else switchByList(machine, lo, hi);
      break;
    case Invalidation.INVPCID:
      tlb.clear();
      history.invalidate(invpcidScope(type, contexts.asid, tagLo & 0xfff, lo, hi));
      break;
    case Invalidation.INVVPID:
      tlb.clear();
      history.invalidate(invvpidScope(type, tagLo, lo, hi));
      break;
    case Invalidation.INVEPT: {
      tlb.clear();
      const ep4ta = (tagHi & 0xf_ffff) * 0x10_0000 + (tagLo >>> 12);
      history.invalidate(type === 1 ? { what: 'guest-physical', ep4ta } : { what: 'guest-physical' });
      break;
    }
  }
}

/** INVPCID types 0 to 3 (SDM vol. 3A 4.10.4.1). */
function invpcidScope(type: number, asid: number, pcid: number, lo: number, hi: number): InvalidationScope {
  switch (type) {
    case 0:
      return { what: 'address', asid, pcid, lo, hi, keepGlobal: true };
    case 1:
      return { what: 'linear', asid, pcid, keepGlobal: true };
    case 2:
      return { what: 'linear', asid };
    default:
      return { what: 'linear', asid, keepGlobal: true };
  }
}

/** INVVPID types 0 to 3 (SDM vol. 3C 29.4.3.1). */
function invvpidScope(type: number, vpid: number, lo: number, hi: number): InvalidationScope {
  switch (type) {
    case 0:
      return { what: 'address', asid: vpid, lo, hi };
    case 1:
      return { what: 'linear', asid: vpid };
    case 2:
      return { what: 'linear', exceptAsid: 0 };
    default:
      return { what: 'linear', asid: vpid, keepGlobal: true };
  }
}

/** VM entry and exit, VMRUN and #VMEXIT. */
export function nestedTransition(machine: BareMachine, op: number): void {
  machine.configure();
  const { tlb, history, contexts } = machine;
  // What the guest's guest goes on with may be another root, also after an exit and entry at once.
  if ((op & STEP_KIND_MASK) === StepKind.NESTED_EXIT) history.rootChanges(machine.root());
  if ((op & NESTED_SVM) === 0) {
    // Without VPIDs guest and host share VPID 0, which transitions invalidate (SDM vol. 3C 29.4.3.1).
    if (contexts.asid !== 0) return;
    tlb.clear();
    history.invalidate({ what: 'linear', asid: 0 });
    return;
  }
  // TLB_CONTROL (APM vol. 2 15.16.2).
  switch ((op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK) {
    case 0:
      return;
    case 1:
      history.invalidate({ what: 'everything' });
      break;
    case 3:
      history.invalidate({ what: 'asid', asid: contexts.asid });
      break;
    case 7:
      history.invalidate({ what: 'asid', asid: contexts.asid, keepGlobal: true });
      break;
  }
  tlb.clear();
}
