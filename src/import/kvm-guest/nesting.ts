/**
 * Entries into the guest's guest and exits from it. Registers are set explicitly, before an entry and after an exit:
 * the steps say what is in force, and the entry and exit themselves happen under the guest's tags.
 *
 * Exits are not announced: the first word of the hypervisor after an entry tells of one.
 */

import { GuestMode, Reg, type RegId, SECONDARY_EPT, SECONDARY_VPID } from '../../formats/registers.ts';
import { Invalidation, Provenance } from '../../formats/step.ts';
import type { MarkOf } from './marks.ts';
import type { StepWriter } from './step-writer.ts';

/** Why the guest's guest stopped; codes as in VMCB and VMCS. */
export interface ExitCause {
  readonly reason: bigint;
  /** EXITINFO1 or exit qualification. */
  readonly information: bigint;
  readonly provenance: number;
}

const CR: readonly RegId[] = [Reg.CR0, Reg.CR3, Reg.CR4, Reg.EFER];

/** Guest or host values of CR0, CR3, CR4 and EFER, in this order. */
type ControlRegisters = readonly [bigint, bigint, bigint, bigint];

export interface Nesting {
  readonly svm: boolean;
  /** Exit cause when the log does not tell: the guest's guest called its hypervisor. */
  readonly call: bigint;
  leave(cause: ExitCause): void;
}

function current(writer: StepWriter): ControlRegisters {
  return CR.map((register) => writer.registers.get(register)) as unknown as ControlRegisters;
}

function setControlRegisters(writer: StepWriter, values: ControlRegisters, provenance: number): void {
  CR.forEach((register, i) => {
    writer.setRegister(register, values[i]!, provenance);
  });
}

/** What a VMRUN uses of its VMCB. */
export interface VmrunState {
  readonly np: number;
  readonly ncr3: bigint;
  readonly asid: number;
  readonly tlb: number;
  readonly guest: ControlRegisters;
}

export function vmrunState(mark: MarkOf<'vmrun'>): VmrunState {
  return {
    np: mark.np,
    ncr3: mark.ncr3,
    asid: mark.asid,
    tlb: mark.tlb,
    guest: [mark.cr0, mark.cr3, mark.cr4, mark.efer],
  };
}

export class SvmNesting implements Nesting {
  readonly svm = true;
  readonly call = 0x81n;
  private readonly writer: StepWriter;
  /** What VMRUN saved of the host. */
  private host: ControlRegisters = [0n, 0n, 0n, 0n];
  /** TLB_CONTROL of the next VMRUN, where the log tells it before. */
  tlbControl = 0;

  constructor(writer: StepWriter) {
    this.writer = writer;
  }

  enter(state: VmrunState, provenance: number): void {
    const { writer } = this;
    this.host = current(writer);
    writer.setRegister(Reg.HOST_CR0, this.host[0], Provenance.INFERRED);
    writer.setRegister(Reg.HOST_CR4, this.host[2], Provenance.INFERRED);
    writer.setRegister(Reg.HOST_EFER, this.host[3], Provenance.INFERRED);
    writer.setRegister(Reg.NESTED_CONTROL, BigInt(state.np), provenance);
    writer.setRegister(Reg.NCR3, state.ncr3, provenance);
    writer.setRegister(Reg.ASID, BigInt(state.asid), provenance);
    writer.setRegister(Reg.GUEST_MODE, BigInt(GuestMode.SVM), provenance);
    setControlRegisters(writer, state.guest, provenance);
    writer.nestedEntry(true, state.tlb, provenance);
  }

  leave(cause: ExitCause): void {
    const { writer } = this;
    writer.nestedExit(true, cause.reason, cause.information, cause.provenance);
    writer.setRegister(Reg.GUEST_MODE, BigInt(GuestMode.NONE), Provenance.INFERRED);
    setControlRegisters(writer, this.host, Provenance.INFERRED);
    this.tlbControl = 0;
  }
}

/** VMCS fields that paging depends on (SDM vol. 3D appendix B). */
const Field = {
  VPID: 0x0n,
  SECONDARY_CONTROLS: 0x401en,
  PRIMARY_CONTROLS: 0x4002n,
  EPT_POINTER: 0x201an,
  EPTP_LIST: 0x2024n,
  GUEST_CR0: 0x6800n,
  GUEST_CR3: 0x6802n,
  GUEST_CR4: 0x6804n,
  GUEST_EFER: 0x2806n,
  HOST_CR0: 0x6c00n,
  HOST_CR3: 0x6c02n,
  HOST_CR4: 0x6c04n,
  HOST_EFER: 0x2c02n,
} as const;

const GUEST_FIELDS = [Field.GUEST_CR0, Field.GUEST_CR3, Field.GUEST_CR4, Field.GUEST_EFER] as const;
const HOST_FIELDS = [Field.HOST_CR0, Field.HOST_CR3, Field.HOST_CR4, Field.HOST_EFER] as const;
const ACTIVATE_SECONDARY_CONTROLS = 1n << 31n;

export class VmxNesting implements Nesting {
  readonly svm = false;
  readonly call = 18n;
  private readonly writer: StepWriter;
  private readonly fields = new Map<bigint, bigint>();

  constructor(writer: StepWriter) {
    this.writer = writer;
  }

  vmwrite(field: bigint, value: bigint): void {
    this.fields.set(field, value);
  }

  private field(field: bigint): bigint {
    return this.fields.get(field) ?? 0n;
  }

  get eptpList(): bigint {
    return this.field(Field.EPTP_LIST);
  }

  /** VMFUNC: the EPT pointer of the VMCS changes too (SDM vol. 3C 26.5.6.3). */
  switchEptp(eptp: bigint): void {
    this.fields.set(Field.EPT_POINTER, eptp);
    this.writer.invalidate(Invalidation.EPTP_SWITCH, 0, 0n, eptp);
    this.writer.registers.set(Reg.EPTP, eptp);
  }

  enter(mark: MarkOf<'vmentry'>): void {
    const { writer } = this;
    const active = (this.field(Field.PRIMARY_CONTROLS) & ACTIVATE_SECONDARY_CONTROLS) !== 0n;
    const controls = active ? this.field(Field.SECONDARY_CONTROLS) : 0n;
    const ept = (controls & BigInt(SECONDARY_EPT)) !== 0n;
    const vpid = (controls & BigInt(SECONDARY_VPID)) !== 0n;
    writer.setRegister(Reg.SECONDARY_CONTROLS, controls, Provenance.MARK);
    writer.setRegister(Reg.EPTP, ept ? mark.eptp : 0n, Provenance.MARK);
    writer.setRegister(Reg.VPID, vpid ? BigInt(mark.vpid) : 0n, Provenance.MARK);
    writer.setRegister(Reg.GUEST_MODE, BigInt(GuestMode.VMX), Provenance.MARK);
    setControlRegisters(
      writer,
      GUEST_FIELDS.map((field) => this.field(field)) as unknown as ControlRegisters,
      Provenance.MARK,
    );
    writer.nestedEntry(false, 0, Provenance.MARK);
  }

  leave(cause: ExitCause): void {
    const { writer } = this;
    // A VM exit saves the guest's control registers and loads the host's (SDM vol. 3C 28.3, 28.5).
    current(writer).forEach((value, i) => {
      this.fields.set(GUEST_FIELDS[i]!, value);
    });
    writer.nestedExit(false, cause.reason, cause.information, cause.provenance);
    writer.setRegister(Reg.GUEST_MODE, BigInt(GuestMode.NONE), Provenance.INFERRED);
    setControlRegisters(
      writer,
      HOST_FIELDS.map((field) => this.field(field)) as unknown as ControlRegisters,
      Provenance.INFERRED,
    );
  }
}
