/** What a VMRUN mark says of the guest's guest: the fields of the VMCB that paging depends on. */

import { Reg } from '../../formats/registers.ts';
import { NESTED_TLB_CONTROL_MASK, NESTED_TLB_CONTROL_SHIFT, Provenance } from '../../formats/step.ts';
import type { Mark, MarkOf } from '../kvm-guest/marks.ts';
import type { EventReceipt } from './event-receipt.ts';
import {
  CONTROL_REGISTERS,
  type ControlRegisters,
  type NestedEntryEvent,
  type NestingKind,
  type Stated,
} from './nested-guest.ts';

export class SvmNesting implements NestingKind {
  readonly restored = Provenance.INFERRED;
  private readonly receipt: EventReceipt;
  private vmrun: MarkOf<'vmrun'> | undefined;

  constructor(receipt: EventReceipt) {
    this.receipt = receipt;
  }

  get entryFlags(): number {
    return ((this.vmrun?.tlb ?? 0) & NESTED_TLB_CONTROL_MASK) << NESTED_TLB_CONTROL_SHIFT;
  }

  take(mark: Mark): boolean {
    if (mark.kind !== 'vmrun') return false;
    this.vmrun = mark;
    return true;
  }

  entered([cr0, , cr4, efer]: ControlRegisters, event: NestedEntryEvent): Stated[] {
    const { vmrun } = this;
    if (vmrun === undefined) {
      this.receipt.note('entry of a guest of which no mark tells');
      return [];
    }
    if ((vmrun.np !== 0 ? vmrun.ncr3 : vmrun.cr3) !== event.guestPgd) this.receipt.note('entry told otherwise');
    const mark = Provenance.MARK;
    const control = [vmrun.cr0, vmrun.cr3, vmrun.cr4, vmrun.efer];
    return [
      // L1's own, which shape its nested tables.
      { register: Reg.HOST_CR0, value: cr0, provenance: Provenance.INFERRED },
      { register: Reg.HOST_CR4, value: cr4, provenance: Provenance.INFERRED },
      { register: Reg.HOST_EFER, value: efer, provenance: Provenance.INFERRED },
      { register: Reg.NESTED_CONTROL, value: BigInt(vmrun.np), provenance: mark },
      { register: Reg.NCR3, value: vmrun.ncr3, provenance: mark },
      { register: Reg.ASID, value: BigInt(vmrun.asid), provenance: mark },
      { register: Reg.EXCEPTION_BITMAP, value: BigInt(vmrun.exc), provenance: mark },
      ...CONTROL_REGISTERS.map((register, i) => ({ register, value: control[i]!, provenance: mark })),
    ];
  }

  /** SVM has no such function. */
  eptpSwitched(): void {}

  /** #VMEXIT: L1 goes on with what VMRUN saved. */
  left(l1: ControlRegisters): ControlRegisters {
    return l1;
  }
}
