/**
 * What the guest has announced and not yet done: stores, register writes, invalidations. A mark stands in the trace
 * before the guest is entered again; when the thing happens shows only in the exits that follow. Exits that bring the
 * action itself to the hypervisor are left to the caller; whatever no exit shows happened before the exit that does not
 * belong to it.
 */

import { Reg, type RegId } from '../../formats/registers.ts';
import { emulated, isInterrupt, isOfL2, type PageFaultEvent, pageFaultOf, type Unit } from './exit-units.ts';
import type { GuestStores } from './guest-stores.ts';
import type { StepList } from './step-list.ts';

export type GuestAction =
  | { readonly kind: 'stores'; readonly stores: GuestStores }
  | RegisterAction
  | { readonly kind: 'invlpg'; readonly address: bigint }
  | InstructionOfHypervisor;

/** `provenance`: how the value is known, by default from a mark ahead. */
export interface RegisterAction {
  readonly kind: 'register';
  readonly register: RegId;
  readonly value: bigint;
  readonly provenance?: number;
}

/** Of a hypervisor in the guest, or VMFUNC of its guest: always brought to KVM by an exit of its own. */
export interface InstructionOfHypervisor {
  readonly kind: 'instruction';
  /** The exit. */
  readonly reason: 'invlpga' | 'INVEPT' | 'INVVPID' | 'VMFUNC';
  /** Of INVEPT and INVVPID. */
  readonly type: number;
  readonly address: bigint;
  /** ASID, EPTP or VPID. */
  readonly operand: bigint;
}

const PFEC_W = 2n;
const EFER_MSR = 0xc000_0080;
const CR_NUMBERS: ReadonlyMap<RegId, number> = new Map([
  [Reg.CR0, 0],
  [Reg.CR3, 3],
  [Reg.CR4, 4],
]);

/** What the guest has under an address that is physical to whoever runs; `undefined`: nothing. */
export type Physical = (address: bigint) => bigint | undefined;

export class GuestActions {
  private readonly tdp: boolean;
  private readonly physical: Physical;
  /** What the guest announced, and what its guest did. */
  private readonly queues: readonly GuestAction[][] = [[], []];
  /** The guest's guest runs: it announces for itself, and a fault of its may let its hypervisor act first. */
  inL2 = false;
  /** Stores of which the next is made by the emulator in the unit under way. */
  emulated: GuestStores | undefined;

  constructor(tdp: boolean, physical: Physical) {
    this.tdp = tdp;
    this.physical = physical;
  }

  private get queue(): GuestAction[] {
    return this.queues[this.inL2 ? 1 : 0]!;
  }

  announce(action: GuestAction): void {
    this.queue.push(action);
  }

  /** Does what has been done by the time of this unit's exit. `next`: the units that follow, as far as they matter. */
  async before(unit: Unit, next: AsyncIterable<Unit>, steps: StepList): Promise<void> {
    this.emulated = undefined;
    if (isInterrupt(unit.exit)) return;
    const position = unit.exit?.position ?? 0;
    while (this.queue.length > 0) {
      const action = this.queue[0]!;
      if (action.kind === 'stores') {
        if (!(await this.storesDone(action.stores, unit, next, steps))) return;
        steps.add(action.stores.rest(position));
      } else if (this.comesUp(action, unit)) {
        return;
      } else if (action.kind === 'register') {
        steps.writeRegister(action.register, action.value, position);
      } else if (action.kind === 'instruction') {
        // Brought by an exit, and by none that we know: it did not get that far.
      } else {
        steps.invlpg(action.address, position);
      }
      this.queue.shift();
    }
  }

  /** False while some of the stores are still to come. */
  private async storesDone(
    stores: GuestStores,
    unit: Unit,
    next: AsyncIterable<Unit>,
    steps: StepList,
  ): Promise<boolean> {
    const fault = pageFaultOf(unit);
    if (fault === undefined) return true;
    if (this.reaches(stores, fault)) {
      const address = this.addressOf(fault);
      if (address !== undefined) steps.add(stores.upTo(address, fault.position));
      if (emulated(unit)) this.emulated = stores;
      return false;
    }
    // The fetch of the instruction behind the mark, or a fault before one on the table itself.
    if (fault.rip === unit.resumedAt) return false;
    for await (const later of next) {
      if (isInterrupt(later.exit) || isOfL2(later) !== this.inL2) continue;
      const other = pageFaultOf(later);
      if (other === undefined) return true;
      if (this.reaches(stores, other)) return false;
    }
    return true;
  }

  /** Where the guest has what the fault is about. Under shadow paging faults tell linear addresses, which are the same. */
  private addressOf(fault: PageFaultEvent): bigint | undefined {
    return this.tdp ? this.physical(fault.address) : fault.address;
  }

  /** The fault is that of one of the stores. */
  private reaches(stores: GuestStores, fault: PageFaultEvent): boolean {
    if ((fault.errorCode & PFEC_W) === 0n) return false;
    const address = this.addressOf(fault);
    // Where nothing is yet, L1 will see to it: only the place within the page tells.
    return address === undefined ? stores.mayBeAt(fault.address) : stores.touches(address);
  }

  /** The action is still ahead: this exit brings it to the hypervisor, or is a fault on the way to it. */
  private comesUp(action: Exclude<GuestAction, { kind: 'stores' }>, unit: Unit): boolean {
    const fault = pageFaultOf(unit);
    if (fault !== undefined) return !this.tdp || fault.rip === unit.resumedAt;
    if (action.kind === 'invlpg') return unit.exit?.reason.toLowerCase() === 'invlpg';
    if (action.kind === 'instruction') return unit.exit?.reason === action.reason;
    return bringsWrite(unit, action.register);
  }

  /** Takes the announced write of `register` that an exit brings, or `undefined`. */
  takeRegister(register: RegId): RegisterAction | undefined {
    const action = this.queue[0];
    if (action?.kind !== 'register' || action.register !== register) return undefined;
    this.queue.shift();
    return action;
  }

  takeInvlpg(): bigint | undefined {
    const action = this.queue[0];
    if (action?.kind !== 'invlpg') return undefined;
    this.queue.shift();
    return action.address;
  }

  /** Takes the announced instruction that an exit brings, or `undefined`. */
  takeInstruction(reason: string): InstructionOfHypervisor | undefined {
    const action = this.queue[0];
    if (action?.kind !== 'instruction' || action.reason !== reason) return undefined;
    this.queue.shift();
    return action;
  }

  /** The emulator has made the last of the stores at the head of the queue. */
  dropFinishedStores(): void {
    const action = this.queue[0];
    if (action?.kind === 'stores' && action.stores.done) this.queue.shift();
  }
}

/** The exit brings a write of `register`. */
function bringsWrite(unit: Unit, register: RegId): boolean {
  const reason = unit.exit?.reason ?? '';
  const number = CR_NUMBERS.get(register);
  if (number !== undefined && (reason === `write_cr${number}` || (number === 0 && reason === 'cr0_sel_write'))) {
    return true;
  }
  return unit.events.some(
    (event) =>
      (event.name === 'kvm_cr' && event.write && event.cr === number) ||
      (event.name === 'kvm_msr' && event.write && event.msr === EFER_MSR && register === Reg.EFER),
  );
}

/** The control register that an SVM exit writes, or `undefined`; its value only a mark tells. */
export function svmControlRegister(reason: string): RegId | undefined {
  switch (reason) {
    case 'write_cr0':
    case 'cr0_sel_write':
      return Reg.CR0;
    case 'write_cr3':
      return Reg.CR3;
    case 'write_cr4':
      return Reg.CR4;
    default:
      return undefined;
  }
}
