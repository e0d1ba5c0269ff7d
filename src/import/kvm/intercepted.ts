/**
 * Register writes and INVLPG that come to the hypervisor: by an exit or an event that tells them, or through the
 * emulator, where a mark has announced them.
 */

import { CR0_PG, Reg, type RegId } from '../../formats/registers.ts';
import { Invalidation, PROVENANCE_MASK, PROVENANCE_SHIFT, Provenance } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { Conclusions } from './conclusions.ts';
import type { ExitEvent } from './exit-units.ts';
import { svmControlRegister } from './guest-actions.ts';
import type { NestedGuest } from './nested-guest.ts';
import type { Parts } from './parts.ts';

const EFER_MSR = 0xc000_0080;
/** Type of INVEPT (SDM vol. 3C 31.3). */
const SINGLE_CONTEXT = 1;
/** Entries of eight bytes in a page. */
const EPTP_LIST_LENGTH = 512n;
const CONTROL_REGISTERS: Readonly<Record<number, RegId>> = { 0: Reg.CR0, 3: Reg.CR3, 4: Reg.CR4 };

export class Intercepted {
  private readonly parts: Parts;
  private readonly nested: NestedGuest;
  private readonly concluded: Conclusions | undefined;

  /** `concluded`: of a stranger's trace. */
  constructor(parts: Parts, nested: NestedGuest, concluded: Conclusions | undefined) {
    this.parts = parts;
    this.nested = nested;
    this.concluded = concluded;
  }

  /** VMX tells the address with the exit. */
  invlpgExit(exit: ExitEvent): void {
    this.parts.actions.takeInvlpg();
    this.invlpg(exit.info1, exit.position, Provenance.RECORDED);
  }

  private invlpg(address: bigint, position: number, provenance: number): void {
    const step = this.parts.steps.invlpg(address, position, provenance);
    this.concluded?.entriesOfInvlpg(step);
  }

  /** An instruction of a hypervisor's, or of its guest's, that the exit brings. */
  instructionExit(exit: ExitEvent): void {
    const { actions, memory, now, receipt, registers, steps } = this.parts;
    const action = actions.takeInstruction(exit.reason);
    const { position } = exit;
    if (action === undefined) {
      if (this.concluded !== undefined && exit.reason === 'INVEPT') this.unknownInvept(position);
      else receipt.note(`${exit.reason} of which no mark tells`);
      return;
    }
    const { type, address, operand } = action;
    if (exit.reason === 'VMFUNC') {
      const list = registers.get(Reg.EPTP_LIST);
      const eptp = address < EPTP_LIST_LENGTH ? memory.read(list + 8n * address, 8) : undefined;
      steps.invalidate(Invalidation.EPTP_SWITCH, 0, address, eptp ?? 0n, position);
      const refused = now.unit.events.some((event) => event.name === 'kvm_nested_vmexit_inject');
      if (!refused && eptp === undefined) receipt.note('EPT pointer that VMFUNC took is not known');
      if (!refused && eptp !== undefined) {
        registers.set(Reg.EPTP, eptp);
        this.nested.kind.eptpSwitched(eptp);
      }
    } else {
      const kind = exit.reason === 'INVEPT' ? Invalidation.INVEPT : Invalidation.INVVPID;
      steps.invalidate(kind, type, address, operand, position);
    }
  }

  /** Of a stranger's trace: taken to be of the EPT pointer that L1 used last, which is what KVM keeps tables for. */
  private unknownInvept(position: number): void {
    const { receipt, registers, steps } = this.parts;
    receipt.note('INVEPT concluded to be of the EPT pointer used last');
    const step = steps.invalidate(Invalidation.INVEPT, SINGLE_CONTEXT, 0n, registers.get(Reg.EPTP), position);
    step.op = (step.op & ~(PROVENANCE_MASK << PROVENANCE_SHIFT)) | (Provenance.INFERRED << PROVENANCE_SHIFT);
  }

  invlpga(event: Extract<TraceEvent, { name: 'kvm_invlpga' }>): void {
    const { actions, steps } = this.parts;
    actions.takeInstruction('invlpga');
    const step = steps.invalidate(Invalidation.INVLPGA, 0, event.address, BigInt(event.asid), event.position);
    step.op &= ~(PROVENANCE_MASK << PROVENANCE_SHIFT);
    steps.row(event);
  }

  /** The emulator begins an instruction: what the exit or the access under test says that it is. */
  emulated(position: number): void {
    const { actions, now, receipt, steps, told } = this.parts;
    if (now.sameInstruction) return;
    const reason = now.unit.exit?.reason ?? '';
    const register = svmControlRegister(reason);
    if (register !== undefined) {
      const action = actions.takeRegister(register);
      if (action === undefined) receipt.note('register write whose value is not known');
      else steps.writeRegister(register, action.value, position, action.provenance);
    } else if (reason === 'invlpg') {
      const address = actions.takeInvlpg() ?? this.concluded?.invlpgAddress;
      if (address === undefined) receipt.note('INVLPG whose address is not known');
      else this.invlpg(address, position, this.concluded === undefined ? Provenance.MARK : Provenance.INFERRED);
    } else if (told.access?.access === 'fep-invlpg' && !steps.walk?.failed) {
      this.invlpg(told.access.va, position, Provenance.MARK);
    }
  }

  controlRegister(event: Extract<TraceEvent, { name: 'kvm_cr' }>): void {
    const { actions, receipt, steps } = this.parts;
    const register = CONTROL_REGISTERS[event.cr];
    if (!event.write || register === undefined) {
      receipt.count(event.name, 'not ours');
      return;
    }
    receipt.count(event.name, 'stimulus');
    const announced = actions.takeRegister(register);
    if (announced !== undefined && announced.value !== event.value) receipt.note('register write announced otherwise');
    if (register === Reg.CR0 && (event.value & BigInt(CR0_PG)) !== 0n) this.pagingTurnedOn(event.position);
    steps.writeRegister(register, event.value, event.position, Provenance.RECORDED);
  }

  /** A guest that tells its first CR3 only afterwards: no exit shows that write under EPT. */
  private pagingTurnedOn(position: number): void {
    const { registers, steps, told } = this.parts;
    if (told.bootRoot !== undefined && registers.get(Reg.CR3) === 0n) {
      steps.setRegister(Reg.CR3, told.bootRoot, Provenance.MARK, position);
    }
    told.bootRoot = undefined;
  }

  msr(event: Extract<TraceEvent, { name: 'kvm_msr' }>): void {
    const { actions, now, receipt, steps } = this.parts;
    if (!event.write || event.msr !== EFER_MSR || now.sameInstruction) {
      receipt.count(event.name, 'not ours');
      return;
    }
    receipt.count(event.name, 'stimulus');
    actions.takeRegister(Reg.EFER);
    steps.writeRegister(Reg.EFER, event.value, event.position, Provenance.RECORDED);
  }
}
