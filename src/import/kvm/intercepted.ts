/**
 * Register writes and INVLPG that come to the hypervisor: by an exit or an event that tells them, or through the
 * emulator, where a mark has announced them.
 */

import { CR0_PG, Reg, type RegId } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { Conclusions } from './conclusions.ts';
import type { ExitEvent } from './exit-units.ts';
import { svmControlRegister } from './guest-actions.ts';
import type { Parts } from './parts.ts';

const EFER_MSR = 0xc000_0080;
const CONTROL_REGISTERS: Readonly<Record<number, RegId>> = { 0: Reg.CR0, 3: Reg.CR3, 4: Reg.CR4 };

export class Intercepted {
  private readonly parts: Parts;
  private readonly concluded: Conclusions | undefined;

  /** `concluded`: of a stranger's trace. */
  constructor(parts: Parts, concluded: Conclusions | undefined) {
    this.parts = parts;
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

  /** The emulator begins an instruction: what the exit or the access under test says that it is. */
  emulated(position: number): void {
    const { actions, now, receipt, steps, told } = this.parts;
    if (now.sameInstruction) return;
    const reason = now.unit.exit?.reason ?? '';
    const register = svmControlRegister(reason);
    if (register !== undefined) {
      const action = actions.takeRegister(register);
      if (action === undefined) receipt.note('register write whose value is not known');
      else steps.writeRegister(register, action.value, position);
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
