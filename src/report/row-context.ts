/** The context that rows are read in: what the recorded processor was, and the mode that its registers are in. */

import type { PagingMode } from '../formats/decode/page-table-entry.ts';
import {
  CR0_PG,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PSE,
  EFER_LMA,
  EFER_LME,
  EPTP_AD,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_MBEC,
} from '../formats/registers.ts';
import {
  REGISTER_WRITE_TASK_SWITCH,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { RowContext } from './rows.ts';

/** IA32_VMX_EPT_VPID_CAP bit 0: execute-only translations (SDM vol. 3D A.10). */
const CAP_EXECUTE_ONLY = 1;
/** IA32_VMX_EPT_VPID_CAP bit 22: advanced VM-exit information for EPT violations. */
const CAP_ADVANCED = 1 << 22;

/**
 * The paging mode that CR0, CR4 and EFER select; `undefined` with CR0.PG=0 (SDM vol. 3A 4.1.1). With paging on, LME
 * stands for LMA: the operand of a WRMSR that is followed here need not have LMA, which the processor sets itself.
 */
export function pagingModeOf(cr0: number, cr4: number, efer: number): PagingMode | undefined {
  if ((cr0 & CR0_PG) === 0) return undefined;
  if ((cr4 & CR4_PAE) === 0) return '32-bit';
  if ((efer & (EFER_LMA | EFER_LME)) === 0) return 'pae';
  return (cr4 & CR4_LA57) !== 0 ? '5-level' : '4-level';
}

/** A name for how an access is translated: `no paging`, `4-level`, `4-level under EPT`, `pae under NPT` … */
export function translationName(registers: Uint32Array): string {
  const low = (register: number): number => registers[2 * register] ?? 0;
  const mode = pagingModeOf(low(Reg.CR0), low(Reg.CR4), low(Reg.EFER)) ?? 'no paging';
  const guest = low(Reg.GUEST_MODE);
  if (guest === GuestMode.VMX) {
    const ept = low(Reg.EPTP) !== 0 || registers[2 * Reg.EPTP + 1] !== 0;
    return ept ? `${mode} under EPT` : `${mode} in a VMX guest`;
  }
  if (guest === GuestMode.SVM) {
    return (low(Reg.NESTED_CONTROL) & NESTED_NP_ENABLE) !== 0 ? `${mode} under NPT` : `${mode} in an SVM guest`;
  }
  return mode;
}

/** Follows the registers through the steps of a trace and gives the context for each. Reports only: replay has its own. */
export class ContextTracker {
  readonly registers: Uint32Array;
  private readonly header: TraceHeader;
  private known: RowContext | undefined;

  /** The vCPU that `registers` are of, and those of the others. */
  private vcpu = 0;
  private readonly others = new Map<number, Uint32Array>();

  constructor(header: TraceHeader, registers: Uint32Array) {
    this.header = header;
    this.registers = registers.slice();
  }

  /** The state that a chunk begins with. */
  restart({ registers, vcpu, others }: Pick<StepColumns, 'registers' | 'vcpu' | 'others'>): void {
    this.registers.set(registers);
    this.known = undefined;
    this.vcpu = vcpu;
    this.others.clear();
    for (const each of others) this.others.set(each.vcpu, each.registers.slice());
  }

  private useVcpu(vcpu: number): void {
    if (vcpu === this.vcpu) return;
    const next = this.others.get(vcpu);
    this.others.set(this.vcpu, this.registers.slice());
    this.others.delete(vcpu);
    this.vcpu = vcpu;
    if (next === undefined) this.registers.fill(0);
    else this.registers.set(next);
    this.known = undefined;
  }

  /** To be called for each step, after its context was used. */
  step(op: number, operandLo: number, operandHi: number): void {
    const kind = op & STEP_KIND_MASK;
    if (kind === StepKind.VCPU) this.useVcpu(operandLo);
    if (kind !== StepKind.REGISTER_SET && kind !== StepKind.REGISTER_WRITE) return;
    const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
    if (2 * register + 1 >= this.registers.length) return;
    // Bit 63 of MOV to CR3's operand does not go into the register.
    const masked = kind === StepKind.REGISTER_WRITE && register === Reg.CR3 && (op & REGISTER_WRITE_TASK_SWITCH) === 0;
    this.registers[2 * register] = operandLo;
    this.registers[2 * register + 1] = masked ? operandHi % 0x8000_0000 : operandHi;
    this.known = undefined;
  }

  get context(): RowContext {
    this.known ??= this.make();
    return this.known;
  }

  private make(): RowContext {
    const low = (register: number): number => this.registers[2 * register] ?? 0;
    const { processor } = this.header;
    const cap = processor.eptVpidCap.lo;
    return {
      mmu: this.header.hypervisor?.mmu,
      paging: pagingModeOf(low(Reg.CR0), low(Reg.CR4), low(Reg.EFER)),
      hostPaging: pagingModeOf(low(Reg.HOST_CR0), low(Reg.HOST_CR4), low(Reg.HOST_EFER)),
      vendor: processor.vendor === 'unknown' ? undefined : processor.vendor,
      maxphyaddr: processor.maxphyaddr >= 32 && processor.maxphyaddr <= 52 ? processor.maxphyaddr : undefined,
      pse: (low(Reg.CR4) & CR4_PSE) !== 0,
      pcide: (low(Reg.CR4) & CR4_PCIDE) !== 0,
      mbec: (low(Reg.SECONDARY_CONTROLS) & SECONDARY_MBEC) !== 0,
      accessedDirty: (low(Reg.EPTP) & EPTP_AD) !== 0,
      executeOnly: (cap & CAP_EXECUTE_ONLY) !== 0,
      advanced: (cap & CAP_ADVANCED) !== 0 ? undefined : false,
    };
  }
}
