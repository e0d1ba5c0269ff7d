/**
 * A program of a hypervisor and its guest on two machines at once: a bare processor, and one with an emulated KVM below.
 * Both make the same steps; `access` throws unless whoever runs sees the same.
 *
 * L1: 4-level tables at 0x1000, linear page i is frame 0x400 + i. L2: the same tables at nGPA 0x1000, linear page i is
 * nGPA frame 0x20 + i. L1's nested tables at 0x10000 map nGPA frame n to frame 0x100 + n, for n below 512; a second set at
 * 0x20000 maps it to 0x300 + n.
 */

import { expect } from 'vitest';
import { defaultKvmConfig, type KvmConfig } from '../../../src/formats/kvm-config.ts';
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SVME,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
  SECONDARY_VPID,
} from '../../../src/formats/registers.ts';
import {
  ACCESS_CPL_SHIFT,
  ACCESS_SOFTWARE,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_SHIFT,
  STEP_REGISTER_SHIFT,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../../src/formats/step.ts';
import { BareMachine } from '../../../src/machine/bare.ts';
import { KvmMachine, type KvmMachineOptions } from '../../../src/machine/kvm/machine.ts';
import { GuestOutcome } from '../../../src/replay/guest-outcome.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';
import { HEADER } from '../rig.ts';

export const L1_PAGES = 0x400;
export const L2_PAGES = 0x20;
export const OFFSET = 0x100;
export const SECOND_OFFSET = 0x300;
export const NESTED_ROOT = 0x10;
export const SECOND_ROOT = 0x20;
/** P, W, U, A, D; EPT: R, W, X, A, D, write-back. */
const ENTRY = 0x67;
const EPT_TABLE = 0x107;
const EPT_LEAF = 0x337;
const EXECUTE_ONLY = 1 << 0;
const ADVANCED_INFORMATION = 1 << 22;
const EPTP_FLAGS = 0x1e;
const EPTP_AD = 1 << 6;

const { READ, WRITE, FETCH, RMW } = AccessType;
export const Type = { read: READ, write: WRITE, fetch: FETCH, rmw: RMW } as const;

export interface Access {
  readonly type?: keyof typeof Type;
  readonly user?: boolean;
  readonly emulated?: boolean;
}

export class NestedBench {
  readonly bare: BareMachine;
  readonly kvm: KvmMachine;
  readonly vmx: boolean;
  private readonly nested: boolean;
  private ordinal = 0;

  /**
   * `nested`: L1 has nested paging for L2; if not, L2's tables translate to L1's addresses. `advanced`: the processor
   * reports bits 11:9 of qualifications. 6.1 has none for L1, whatever the processor reports.
   */
  constructor(
    change: Partial<KvmConfig>,
    options: KvmMachineOptions = {},
    nested = true,
    advanced = change.profile === '7.3',
  ) {
    const vendor = change.vendor ?? 'amd';
    const header: TraceHeader = {
      ...HEADER,
      processor: {
        ...HEADER.processor,
        vendor,
        features: ['nx', 'pse36', 'pdpe1gb'],
        eptVpidCap: { lo: advanced ? EXECUTE_ONLY | ADVANCED_INFORMATION : EXECUTE_ONLY, hi: 0 },
      },
    };
    this.vmx = vendor === 'intel';
    this.nested = nested;
    this.bare = new BareMachine(header);
    this.kvm = new KvmMachine(header, defaultKvmConfig({ hostMaxphyaddr: 46, ...change }), {
      checkInvariants: true,
      ...options,
    });
    const below = nested ? OFFSET : 0;
    for (let table = 1; table < 4; table++) {
      this.store(table << 12, ((table + 1) << 12) | ENTRY);
      if (nested) this.store((OFFSET + table) << 12, ((table + 1) << 12) | ENTRY);
    }
    for (let i = 0; i < 64; i++) {
      this.store(0x4000 + 8 * i, ((L1_PAGES + i) << 12) | ENTRY);
      if (nested) this.store(((below + 4) << 12) + 8 * i, ((L2_PAGES + i) << 12) | ENTRY);
    }
    if (nested) {
      this.nestedTables(NESTED_ROOT, OFFSET);
      this.nestedTables(SECOND_ROOT, SECOND_OFFSET);
      for (let table = 1; table < 4; table++) this.store((SECOND_OFFSET + table) << 12, ((table + 1) << 12) | ENTRY);
      for (let i = 0; i < 64; i++) this.store(((SECOND_OFFSET + 4) << 12) + 8 * i, ((L2_PAGES + i) << 12) | ENTRY);
    }
    this.set(Reg.CR0, CR0_PG | CR0_WP | CR0_PE);
    this.set(Reg.CR3, 0x1000);
    this.set(Reg.CR4, CR4_PAE);
    this.set(Reg.EFER, EFER_LME | EFER_LMA | EFER_NXE | (this.vmx ? 0 : EFER_SVME));
  }

  private nestedTables(root: number, offset: number): void {
    const table = this.vmx ? EPT_TABLE : ENTRY;
    for (let level = 0; level < 3; level++) this.store((root + level) << 12, ((root + level + 1) << 12) | table);
    for (let i = 0; i < 512; i++) this.map(i, offset + i, undefined, root);
  }

  /** L1 maps an nGPA frame. `flags`: of the entry; 0: not present. */
  map(nested: number, frame: number, flags = this.vmx ? EPT_LEAF : ENTRY, root = NESTED_ROOT): void {
    this.store(((root + 3) << 12) + 8 * nested, flags === 0 ? 0 : (frame << 12) | flags);
  }

  /** Where L1 sees L2's entry for a linear page. */
  l2Entry(page: number): number {
    return ((OFFSET + 4) << 12) + 8 * page;
  }

  apply(op: number, addressLo = 0, addressHi = 0, operandLo = 0, operandHi = 0): void {
    const { bare, kvm, ordinal } = this;
    this.ordinal++;
    bare.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, []);
    kvm.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, []);
    expect(kvm.invariantFindings).toEqual([]);
  }

  set(register: number, lo: number, hi = 0): void {
    this.apply(StepKind.REGISTER_SET | (register << STEP_REGISTER_SHIFT), 0, 0, lo, hi);
  }

  write(register: number, lo: number): void {
    this.apply(StepKind.REGISTER_WRITE | (register << STEP_REGISTER_SHIFT), 0, 0, lo, 0);
  }

  store(address: number, lo: number, hi = 0): void {
    this.apply(StepKind.STORE | (8 << STORE_SIZE_SHIFT), address, 0, lo, hi);
  }

  /** L1 enters L2; `changes`: registers beyond the usual. */
  enter(changes: readonly (readonly [number, number, number?])[] = []): void {
    if (this.nested) this.set(Reg.CR3, 0x1000);
    if (this.vmx) {
      this.set(Reg.GUEST_MODE, GuestMode.VMX);
      this.set(Reg.SECONDARY_CONTROLS, SECONDARY_VPID | (this.nested ? SECONDARY_EPT : 0));
      this.set(Reg.VPID, 1);
      if (this.nested) this.set(Reg.EPTP, (NESTED_ROOT << 12) | EPTP_FLAGS);
    } else {
      this.set(Reg.GUEST_MODE, GuestMode.SVM);
      this.set(Reg.ASID, 1);
      this.set(Reg.NESTED_CONTROL, this.nested ? NESTED_NP_ENABLE : 0);
      if (this.nested) this.set(Reg.NCR3, NESTED_ROOT << 12);
      this.set(Reg.HOST_CR0, CR0_PG | CR0_WP | CR0_PE);
      this.set(Reg.HOST_CR4, CR4_PAE);
      this.set(Reg.HOST_EFER, EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME);
    }
    for (const [register, lo, hi] of changes) this.set(register, lo, hi);
    // TLB_CONTROL: the ASID's translations go, on the bare processor, too.
    this.apply(StepKind.NESTED_ENTRY | (this.vmx ? 0 : NESTED_SVM | (3 << NESTED_TLB_CONTROL_SHIFT)));
  }

  withAd(): readonly [number, number] {
    return [Reg.EPTP, (NESTED_ROOT << 12) | EPTP_FLAGS | EPTP_AD];
  }

  leave(): void {
    this.apply(StepKind.NESTED_EXIT | (this.vmx ? 0 : NESTED_SVM), 0, 0, this.vmx ? 18 : 0x81, 0);
    this.set(Reg.CR3, 0x1000);
    this.set(Reg.GUEST_MODE, GuestMode.NONE);
    for (const register of [Reg.EPTP, Reg.VPID, Reg.SECONDARY_CONTROLS, Reg.NESTED_CONTROL, Reg.NCR3, Reg.ASID]) {
      this.set(register, 0);
    }
  }

  invalidate(what: number, type: number, address: number, tag: number): void {
    const op = StepKind.INVALIDATE | (what << INVALIDATION_SHIFT) | (type << INVALIDATION_TYPE_SHIFT);
    this.apply(op, address, 0, tag, 0);
  }

  /** L1 tells of changes to its nested tables, if it has to, in the way of its vendor. */
  nestedTablesChanged(): void {
    if (this.vmx) this.invalidate(Invalidation.INVEPT, 1, 0, (NESTED_ROOT << 12) | EPTP_FLAGS);
  }

  /** Makes an access; what both machines saw, as text. */
  access(address: number, { type = 'read', user = false, emulated = false }: Access = {}): string {
    const mode = (user ? ACCESS_USER | (3 << ACCESS_CPL_SHIFT) : 0) | (emulated ? ACCESS_SOFTWARE : 0);
    this.apply(StepKind.ACCESS | (Type[type] << ACCESS_TYPE_SHIFT) | mode, address);
    return this.compare();
  }

  gpaAccess(address: number): string {
    this.apply(StepKind.GPA_ACCESS, address);
    return this.compare();
  }

  compare(): string {
    const [expected, seen] = [new GuestOutcome(), new GuestOutcome()];
    expected.ofLog(this.bare.log);
    seen.ofLog(this.kvm.log);
    expect([seen.text, seen.valueLo >>> 0]).toEqual([expected.text, expected.valueLo >>> 0]);
    return seen.text;
  }
}
