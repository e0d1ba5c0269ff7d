/**
 * A machine on the bench: a small address space in 4-level tables, steps with addresses as BigInt, outcomes as text.
 *
 * PML4[0] leads over PDPT[0] and PD[0] to the page table PT: linear page i is physical page 0x100 + i, for all i in
 * 0..511. PD[1] is a 2 MB page at physical 0x400000. All entries have A and D set, so that walks write nothing.
 */

import { expect } from 'vitest';
import { fromBigInt, toBigInt } from '../../src/bits/word64.ts';
import { Obs } from '../../src/formats/observation.ts';
import { GuestMode, Reg, SECONDARY_EPT, SECONDARY_VPID } from '../../src/formats/registers.ts';
import {
  ACCESS_SHADOW_STACK,
  ACCESS_STACK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  AccessType,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_SHIFT,
  STEP_REGISTER_SHIFT,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../src/formats/step.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import { type Lawful, LawfulOutcomes } from '../../src/machine/lawful.ts';
import { logRows } from '../../src/replay/align.ts';
import type { Row } from '../../src/replay/result.ts';
import { FORMAT_VERSION, type TraceHeader } from '../../src/trace/header.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';

export const PML4 = 0x1000n;
export const PDPT = 0x2000n;
export const PD = 0x3000n;
export const PT = 0x4000n;
/** A second page table, not in use at first: linear page i is physical page 0x600 + i. */
export const PT2 = 0x5000n;
/** Roots of two EPTs that map every page below 4 GB to itself; but the second has 16 MB in the place of 2 MB. */
export const EPT_A = 0x8000n;
export const EPT_B = 0xa000n;

/** Present, writable, user, accessed, dirty. */
export const ENTRY = 0x67n;
export const GLOBAL = 0x100n;
export const LARGE = 0x80n;
export const NX = 1n << 63n;
/** EPT: readable, writable, executable from user and supervisor pages, A, D, write-back. */
export const EPT_ENTRY = 0x707n;
export const EPT_LEAF = 0x737n;

export const HEADER: TraceHeader = {
  formatVersion: FORMAT_VERSION,
  featureFlags: 0,
  recorder: '',
  writer: '',
  title: '',
  processor: {
    vendor: 'intel',
    model: '',
    maxphyaddr: 40,
    features: ['pse36', 'pdpe1gb'],
    // Execute-only, 2 MB and 1 GB pages, advanced exit information.
    eptVpidCap: { lo: 0x0043_0001, hi: 0 },
    secondaryControlsAllowed: 0,
  },
  adPolicy: 'after-permissions',
  observable: 0xffff,
  independent: false,
  sources: [],
  knownFaults: [],
  hypervisor: undefined,
  omissions: [],
};

export const CR0_PAGING = 0x8001_0011n;
export const CR4_PAE = 0x20n;
export const CR4_PGE = 0x80n;
export const CR4_PCIDE = 0x2_0000n;
export const CR4_SMEP = 0x10_0000n;
export const EFER_LONG = 0xd00n;
export const NO_FLUSH = 1n << 63n;

export type Kind = 'read' | 'write' | 'fetch';
const TYPES = { read: AccessType.READ, write: AccessType.WRITE, fetch: AccessType.FETCH } as const;

export interface AccessOptions {
  readonly user?: boolean;
  /** No TLB entry may serve it. */
  readonly walked?: boolean;
  /** Through the stack segment. */
  readonly stack?: boolean;
  readonly shadowStack?: boolean;
}

function accessOp(kind: Kind, options: AccessOptions): number {
  return (
    StepKind.ACCESS |
    (TYPES[kind] << ACCESS_TYPE_SHIFT) |
    (options.user ? ACCESS_USER : 0) |
    (options.walked ? ACCESS_WALKED : 0) |
    (options.stack ? ACCESS_STACK : 0) |
    (options.shadowStack ? ACCESS_SHADOW_STACK : 0)
  );
}

function hex(lo: number, hi: number): string {
  return `0x${toBigInt(lo, hi).toString(16)}`;
}

/** How an access ended: the physical address, or `#PF 7`, `EPT violation 181` … with codes in hexadecimal. */
export function outcomeOf(rows: readonly Row[]): string {
  for (const row of rows) {
    const code = toBigInt(row.valueLo, row.valueHi).toString(16);
    switch (row.op & 0x1f) {
      case Obs.TRANSLATED:
        return hex(row.addressLo, row.addressHi);
      case Obs.EXCEPTION: {
        const vector = (row.op >>> 11) & 0xff;
        return `${vector === 14 ? '#PF' : vector === 13 ? '#GP' : vector === 12 ? '#SS' : `exception ${vector}`} ${code}`;
      }
      case Obs.EPT_VIOLATION:
        return `EPT violation ${code}`;
      case Obs.EPT_MISCONFIG:
        return 'EPT misconfiguration';
      case Obs.NPF:
        return `NPF ${code}`;
      case Obs.NOT_MODELLED:
        return `not modelled ${(row.op >>> 11) & 0xff}`;
    }
  }
  return 'nothing';
}

export class Rig {
  readonly machine: BareMachine;
  private readonly lawful: LawfulOutcomes;
  /** Ordinal of the next step. */
  next = 0;

  constructor(header: Partial<TraceHeader> = {}) {
    this.machine = new BareMachine({ ...HEADER, ...header });
    this.lawful = new LawfulOutcomes(this.machine);
    this.buildTables();
    this.set(Reg.CR0, CR0_PAGING);
    this.set(Reg.CR3, PML4);
    this.set(Reg.CR4, CR4_PAE);
    this.set(Reg.EFER, EFER_LONG);
  }

  private buildTables(): void {
    const put = (address: bigint, value: bigint): void => this.hold(address, value);
    put(PML4, PDPT | ENTRY);
    put(PDPT, PD | ENTRY);
    put(PD, PT | ENTRY);
    put(PD + 8n, 0x40_0000n | ENTRY | LARGE);
    for (let i = 0n; i < 512n; i++) {
      put(PT + 8n * i, ((0x100n + i) << 12n) | ENTRY);
      put(PT2 + 8n * i, ((0x600n + i) << 12n) | ENTRY);
    }
    for (const root of [EPT_A, EPT_B]) {
      const pdpt = root + 0x1000n;
      const pd = root + 0x10000n;
      put(root, pdpt | EPT_ENTRY);
      put(pdpt, pd | EPT_ENTRY);
      for (let i = 1n; i < 4n; i++) put(pdpt + 8n * i, (i << 30n) | EPT_LEAF | LARGE);
      for (let i = 0n; i < 512n; i++) put(pd + 8n * i, (i << 21n) | EPT_LEAF | LARGE);
    }
    put(EPT_B + 0x10008n, 0x100_0000n | EPT_LEAF | LARGE);
  }

  /** Applies a step; returns the machine's rows. */
  apply(op: number, address = 0n, operand = 0n, stimuli: readonly Stimulus[] = []): Row[] {
    const a = fromBigInt(address);
    const o = fromBigInt(operand);
    this.machine.apply(this.next++, op, a.lo | 0, a.hi | 0, o.lo | 0, o.hi | 0, stimuli);
    return logRows(this.machine.log);
  }

  /** REGISTER_SET. */
  set(register: number, value: bigint): void {
    this.apply(StepKind.REGISTER_SET | (register << STEP_REGISTER_SHIFT), 0n, value);
  }

  /** REGISTER_WRITE. Returns the step's ordinal. */
  write(register: number, value: bigint, flags = 0): number {
    this.apply(StepKind.REGISTER_WRITE | (register << STEP_REGISTER_SHIFT) | flags, 0n, value);
    return this.next - 1;
  }

  register(register: number): bigint {
    const { registers } = this.machine;
    return toBigInt(registers[2 * register]!, registers[2 * register + 1]!);
  }

  /** STORE. Returns the step's ordinal. */
  store(address: bigint, value: bigint, size: 1 | 2 | 4 | 8 = 8): number {
    this.apply(StepKind.STORE | (size << STORE_SIZE_SHIFT), address, value);
    return this.next - 1;
  }

  /** Memory holds `value` and, as far as anybody knows, always has. */
  hold(address: bigint, value: bigint): void {
    const { memory } = this.machine;
    const { watcher } = memory;
    memory.watcher = null;
    this.store(address, value);
    memory.watcher = watcher;
  }

  load(address: bigint): bigint {
    const { lo, hi } = fromBigInt(address);
    const [valueLo, valueHi] = this.machine.readEntry(0, lo | 0, hi | 0);
    return toBigInt(valueLo, valueHi);
  }

  access(kind: Kind, address: bigint, options: AccessOptions = {}): string {
    return outcomeOf(this.apply(accessOp(kind, options), address));
  }

  read(address: bigint, options?: AccessOptions): string {
    return this.access('read', address, options);
  }

  /** INVLPG, INVPCID … Returns the step's ordinal. `tag`: PCID, VPID, ASID or EPTP. */
  invalidate(instruction: keyof typeof Invalidation, type: number, address = 0n, tag = 0n): number {
    const op =
      StepKind.INVALIDATE | (Invalidation[instruction] << INVALIDATION_SHIFT) | (type << INVALIDATION_TYPE_SHIFT);
    this.apply(op, address, tag);
    return this.next - 1;
  }

  invlpg(address: bigint): number {
    return this.invalidate('INVLPG', 0, address);
  }

  /** Whether `outcome` of an access to `address` would be lawful now. */
  judge(kind: Kind, address: bigint, outcome: string, options: AccessOptions = {}): Lawful {
    const { lo, hi } = fromBigInt(address);
    // In a replay the access has just been made, which brings tags up to date.
    this.machine.configure();
    return this.lawful.judge(
      accessOp(kind, options),
      lo | 0,
      hi | 0,
      () => outcomeOf(logRows(this.machine.log)) === outcome,
    );
  }

  // ------------------------------------------------------------------------------------------------------ guests

  /** Runs what follows as a VMX guest. `vpid` 0: VPIDs off. `ept`: the root of an EPT, or none. */
  enterVmx({ vpid = 0n, ept }: { vpid?: bigint; ept?: bigint }): void {
    this.set(Reg.GUEST_MODE, BigInt(GuestMode.VMX));
    this.set(Reg.VPID, vpid);
    let controls = vpid === 0n ? 0 : SECONDARY_VPID;
    if (ept !== undefined) controls |= SECONDARY_EPT;
    this.set(Reg.SECONDARY_CONTROLS, BigInt(controls));
    this.set(Reg.EPTP, ept === undefined ? 0n : eptp(ept));
  }

  /** Runs what follows as an SVM guest without nested paging. */
  enterSvm(asid: bigint): void {
    this.set(Reg.GUEST_MODE, BigInt(GuestMode.SVM));
    this.set(Reg.ASID, asid);
  }

  vmEntry(): number {
    this.apply(StepKind.NESTED_ENTRY);
    return this.next - 1;
  }

  vmExit(): number {
    this.apply(StepKind.NESTED_EXIT);
    return this.next - 1;
  }

  vmrun(tlbControl: number): number {
    this.apply(StepKind.NESTED_ENTRY | NESTED_SVM | (tlbControl << NESTED_TLB_CONTROL_SHIFT));
    return this.next - 1;
  }
}

/** The EPTP of a 4-level EPT; A/D flags as asked. */
export function eptp(root: bigint, accessedDirty = false): bigint {
  return root | 0x1en | (accessedDirty ? 0x40n : 0n);
}

/** An address whose translation a processor may have out of date. */
export interface Stale {
  readonly address: bigint;
  /** What it led to before, and what it leads to now. */
  readonly old: string;
  readonly fresh: string;
  /** The step that changed its entry. */
  readonly changed: number;
}

/** Reads linear page `index`, so that it may be cached, and then maps it elsewhere. `flags`: of both entries. */
export function makeStale(rig: Rig, index: bigint, flags = ENTRY): Stale {
  const entry = PT + 8n * index;
  const address = index << 12n;
  rig.hold(entry, ((0x100n + index) << 12n) | flags);
  const old = rig.read(address, { walked: true });
  const changed = rig.store(entry, ((0x700n + index) << 12n) | flags);
  return { address, old, fresh: `0x${((0x700n + index) << 12n).toString(16)}`, changed };
}

/** The architecture still allows the old translation. */
export function expectAllowed(rig: Rig, stale: Stale): void {
  const allowed = { kind: 'allowed', level: 1, replacedAt: stale.changed };
  expect(rig.judge('read', stale.address, stale.old)).toEqual(allowed);
}

/** Nobody may use the old translation since `step`, and the machine does not. */
export function expectForgotten(rig: Rig, stale: Stale, step: number): void {
  const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 1 };
  expect(rig.judge('read', stale.address, stale.old)).toEqual(invalidated);
  expect(rig.read(stale.address)).toBe(stale.fresh);
}

/** The entry of a page table that maps page `frame`. */
export function page(frame: bigint, flags = ENTRY): bigint {
  return (frame << 12n) | flags;
}

/** 4-level paging with global pages and PCIDs, running as PCID 1. */
export function withPcid1(): Rig {
  const rig = new Rig();
  rig.set(Reg.CR4, CR4_PAE | CR4_PCIDE | CR4_PGE);
  rig.set(Reg.CR3, PML4 | 1n);
  return rig;
}

/** Back to PCID 1 without forgetting anything. */
export function backToPcid1(rig: Rig): void {
  rig.write(Reg.CR3, PML4 | 1n | NO_FLUSH);
}
