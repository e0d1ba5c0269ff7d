/**
 * The guest's guest on SVM where no mark tells its VMCB: the fields of a dump, what KVM's events print, and what the
 * last exit left in it. What L1 changes in between nobody tells.
 */

import { NESTED_NP_ENABLE, Reg } from '../../formats/registers.ts';
import { NESTED_TLB_CONTROL_MASK, NESTED_TLB_CONTROL_SHIFT, Provenance } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import type { Dump } from '../kvm-guest/dump.ts';
import type { EventReceipt } from './event-receipt.ts';
import {
  CONTROL_REGISTERS,
  type ControlRegisters,
  type NestedEntryEvent,
  type NestingKind,
  type Stated,
} from './nested-guest.ts';

export class DumpedVmcbNesting implements NestingKind {
  readonly restored = Provenance.INFERRED;
  private readonly receipt: EventReceipt;
  private readonly following: () => Iterable<TraceEvent>;
  private readonly asid: bigint;
  /** What the VMCB holds of the guest's guest, and how that is known. */
  private saved: ControlRegisters;
  private savedFrom: number = Provenance.DUMP;
  private control = 0;

  /** `dump`: one that was written while the guest's guest ran. `following`: the unit's events behind the one at hand. */
  constructor(receipt: EventReceipt, dump: Dump, following: () => Iterable<TraceEvent>) {
    this.receipt = receipt;
    this.following = following;
    const register = (name: string): bigint => dump.registers.get(name) ?? 0n;
    this.saved = [register('cr0'), register('cr3'), register('cr4'), register('efer')];
    this.asid = dump.vmcb?.asid ?? 0n;
  }

  get entryFlags(): number {
    return (this.control & NESTED_TLB_CONTROL_MASK) << NESTED_TLB_CONTROL_SHIFT;
  }

  /** TLB_CONTROL of the next VMRUN. */
  tlbControl(value: number): void {
    this.control = value;
  }

  take(): boolean {
    return false;
  }

  entered([cr0, , cr4, efer]: ControlRegisters, event: NestedEntryEvent): Stated[] {
    this.receipt.note('guest state of an entry concluded');
    const [dumped, recorded, inferred] = [Provenance.DUMP, Provenance.RECORDED, Provenance.INFERRED];
    const control = [...this.saved];
    if (!event.tdp) control[1] = event.guestPgd;
    return [
      { register: Reg.HOST_CR0, value: cr0, provenance: inferred },
      { register: Reg.HOST_CR4, value: cr4, provenance: inferred },
      { register: Reg.HOST_EFER, value: efer, provenance: inferred },
      { register: Reg.NESTED_CONTROL, value: event.tdp ? BigInt(NESTED_NP_ENABLE) : 0n, provenance: recorded },
      { register: Reg.NCR3, value: event.tdp ? event.guestPgd : 0n, provenance: recorded },
      { register: Reg.ASID, value: this.asid, provenance: dumped },
      { register: Reg.EXCEPTION_BITMAP, value: interceptedExceptions(this.following()), provenance: recorded },
      ...CONTROL_REGISTERS.map((register, i) => ({ register, value: control[i]!, provenance: this.savedFrom })),
    ];
  }

  /** SVM has no such function. */
  eptpSwitched(): void {}

  /** #VMEXIT saves the guest's registers in the VMCB; L1 goes on with what VMRUN saved. */
  left(l1: ControlRegisters, l2: ControlRegisters): ControlRegisters {
    this.saved = l2;
    this.savedFrom = Provenance.INFERRED;
    this.control = 0;
    return l1;
  }
}

/** The exceptions that L1 intercepts, which KVM prints right behind the entry. */
export function interceptedExceptions(following: Iterable<TraceEvent>): bigint {
  for (const event of following) {
    if (event.name === 'kvm_nested_intercepts') return BigInt(event.exceptions >>> 0);
  }
  return 0n;
}
