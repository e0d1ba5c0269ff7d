/**
 * What the guest has announced and not yet done: stores, register writes, invalidations. A mark stands in the trace
 * before the guest is entered again; when the thing happens shows only in the exits that follow. Exits that bring the
 * action itself to the hypervisor are left to the caller; whatever no exit shows happened before the exit that does not
 * belong to it.
 */

import { Reg, type RegId } from '../../formats/registers.ts';
import { emulated, isInterrupt, pageFaultOf, type Unit } from './exit-units.ts';
import type { GuestStores } from './guest-stores.ts';
import type { StepList } from './step-list.ts';

export type GuestAction =
  | { readonly kind: 'stores'; readonly stores: GuestStores }
  | { readonly kind: 'register'; readonly register: RegId; readonly value: bigint }
  | { readonly kind: 'invlpg'; readonly address: bigint };

const PFEC_W = 2n;
const EFER_MSR = 0xc000_0080;
const CR_NUMBERS: ReadonlyMap<RegId, number> = new Map([
  [Reg.CR0, 0],
  [Reg.CR3, 3],
  [Reg.CR4, 4],
]);

export class GuestActions {
  private readonly tdp: boolean;
  private readonly queue: GuestAction[] = [];
  /** Stores of which the next is made by the emulator in the unit under way. */
  emulated: GuestStores | undefined;

  constructor(tdp: boolean) {
    this.tdp = tdp;
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
    if ((fault.errorCode & PFEC_W) !== 0n && stores.touches(fault.address)) {
      steps.add(stores.upTo(fault.address, fault.position));
      if (emulated(unit)) this.emulated = stores;
      return false;
    }
    // The fetch of the instruction behind the mark, or a fault before one on the table itself.
    if (fault.rip === unit.resumedAt) return false;
    for await (const later of next) {
      if (isInterrupt(later.exit)) continue;
      const other = pageFaultOf(later);
      if (other === undefined) return true;
      if ((other.errorCode & PFEC_W) !== 0n && stores.touches(other.address)) return false;
    }
    return true;
  }

  /** The action is still ahead: this exit brings it to the hypervisor, or is a fault on the way to it. */
  private comesUp(action: Exclude<GuestAction, { kind: 'stores' }>, unit: Unit): boolean {
    const fault = pageFaultOf(unit);
    if (fault !== undefined) return !this.tdp || fault.rip === unit.resumedAt;
    if (action.kind === 'invlpg') return unit.exit?.reason.toLowerCase() === 'invlpg';
    return bringsWrite(unit, action.register);
  }

  /** Takes the announced write of `register` that an exit brings, or `undefined`. */
  takeRegister(register: RegId): { readonly register: RegId; readonly value: bigint } | undefined {
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
