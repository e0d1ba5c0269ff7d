/** What VW and VMENTRY marks say of the guest's guest: the fields of the VMCS that paging depends on. */

import { Reg, SECONDARY_EPT, SECONDARY_PML, SECONDARY_VMFUNC, SECONDARY_VPID } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { Mark } from '../kvm-guest/marks.ts';
import type { EventReceipt } from './event-receipt.ts';
import {
  CONTROL_REGISTERS,
  type ControlRegisters,
  type NestedEntryEvent,
  type NestingKind,
  type Stated,
} from './nested-guest.ts';

/** SDM vol. 3D appendix B. */
const Field = {
  VPID: 0x0n,
  PML_INDEX: 0x812n,
  PML_ADDRESS: 0x200en,
  VM_FUNCTION_CONTROLS: 0x2018n,
  EPT_POINTER: 0x201an,
  EPTP_LIST: 0x2024n,
  GUEST_EFER: 0x2806n,
  HOST_EFER: 0x2c02n,
  PRIMARY_CONTROLS: 0x4002n,
  EXCEPTION_BITMAP: 0x4004n,
  PFEC_MASK: 0x4006n,
  PFEC_MATCH: 0x4008n,
  SECONDARY_CONTROLS: 0x401en,
  GUEST_CR0: 0x6800n,
  GUEST_CR3: 0x6802n,
  GUEST_CR4: 0x6804n,
  HOST_CR0: 0x6c00n,
  HOST_CR3: 0x6c02n,
  HOST_CR4: 0x6c04n,
} as const;

const GUEST_FIELDS = [Field.GUEST_CR0, Field.GUEST_CR3, Field.GUEST_CR4, Field.GUEST_EFER];
const HOST_FIELDS = [Field.HOST_CR0, Field.HOST_CR3, Field.HOST_CR4, Field.HOST_EFER];
const ACTIVATE_SECONDARY_CONTROLS = 1n << 31n;

export class VmxNesting implements NestingKind {
  readonly entryFlags = 0;
  readonly restored = Provenance.INFERRED;
  private readonly receipt: EventReceipt;
  private readonly fields = new Map<bigint, bigint>();
  /** L1 has written the index of its page-modification log, which the processor counts down otherwise. */
  private indexWritten = false;

  constructor(receipt: EventReceipt) {
    this.receipt = receipt;
  }

  take(mark: Mark): boolean {
    if (mark.kind === 'vmentry') return true;
    if (mark.kind !== 'vmwrite') return false;
    this.fields.set(mark.field, mark.value);
    if (mark.field === Field.PML_INDEX) this.indexWritten = true;
    return true;
  }

  private field(field: bigint): bigint {
    return this.fields.get(field) ?? 0n;
  }

  get eptpList(): bigint {
    return this.field(Field.EPTP_LIST);
  }

  /** VMFUNC has loaded another EPT pointer, which the VMCS holds from then on (SDM vol. 3C 26.5.6.3). */
  eptpSwitched(eptp: bigint): void {
    this.fields.set(Field.EPT_POINTER, eptp);
  }

  entered(_l1: ControlRegisters, event: NestedEntryEvent): Stated[] {
    const active = (this.field(Field.PRIMARY_CONTROLS) & ACTIVATE_SECONDARY_CONTROLS) !== 0n;
    const controls = active ? this.field(Field.SECONDARY_CONTROLS) : 0n;
    const on = (bit: number): boolean => (controls & BigInt(bit)) !== 0n;
    const eptp = on(SECONDARY_EPT) ? this.field(Field.EPT_POINTER) : 0n;
    const root = on(SECONDARY_EPT) ? eptp : this.field(Field.GUEST_CR3);
    if (root !== event.guestPgd) this.receipt.note('entry told otherwise');
    const log = on(SECONDARY_PML);
    const functions = on(SECONDARY_VMFUNC);
    const pfec = this.field(Field.PFEC_MASK) | (this.field(Field.PFEC_MATCH) << 32n);
    const stated: [(typeof Reg)[keyof typeof Reg], bigint][] = [
      [Reg.SECONDARY_CONTROLS, controls],
      [Reg.EPTP, eptp],
      [Reg.VPID, on(SECONDARY_VPID) ? this.field(Field.VPID) : 0n],
      [Reg.EXCEPTION_BITMAP, this.field(Field.EXCEPTION_BITMAP)],
      [Reg.PFEC_MASK_MATCH, pfec],
      [Reg.PML_ADDRESS, log ? this.field(Field.PML_ADDRESS) : 0n],
      [Reg.EPTP_LIST, functions ? this.field(Field.EPTP_LIST) : 0n],
      [Reg.VM_FUNCTION_CONTROLS, functions ? this.field(Field.VM_FUNCTION_CONTROLS) : 0n],
    ];
    CONTROL_REGISTERS.forEach((register, i) => {
      stated.push([register, this.field(GUEST_FIELDS[i]!)]);
    });
    const result: Stated[] = stated.map(([register, value]) => ({ register, value, provenance: Provenance.MARK }));
    if (log && this.indexWritten) {
      const value = this.field(Field.PML_INDEX);
      result.push({ register: Reg.PML_INDEX, value, provenance: Provenance.MARK, always: true });
      this.indexWritten = false;
    }
    return result;
  }

  /** A VM exit saves the guest's control registers and loads the host's (SDM vol. 3C 28.3, 28.5). */
  left(l1: ControlRegisters, l2: ControlRegisters): ControlRegisters {
    l2.forEach((value, i) => {
      this.fields.set(GUEST_FIELDS[i]!, value);
    });
    return HOST_FIELDS.map((field, i) => this.fields.get(field) ?? l1[i]!) as unknown as ControlRegisters;
  }
}
