/**
 * The guest's guest in a stranger's trace: which tables L1 has under it KVM's events tell; its other controls are not
 * known, and its registers are those that it is found to have had before, at first L1's.
 */

import { NESTED_NP_ENABLE, Reg, SECONDARY_EPT } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import {
  CONTROL_REGISTERS,
  type ControlRegisters,
  type NestedEntryEvent,
  type NestingKind,
  type Stated,
} from './nested-guest.ts';
import type { Parts } from './parts.ts';
import { interceptedExceptions } from './svm-dumped.ts';

export class ConcludedNesting implements NestingKind {
  readonly entryFlags = 0;
  readonly logKnown = false;
  /** What was concluded has been stated before. */
  readonly restored = Provenance.RECORDED;
  private readonly parts: Parts;
  /** What L2 left behind; `undefined`: it has not run. */
  private l2: ControlRegisters | undefined;
  /** CR3 is known: of L1, of L2. */
  private l1RootKnown = false;
  private l2RootKnown = false;

  constructor(parts: Parts) {
    this.parts = parts;
  }

  private get following(): Iterable<TraceEvent> {
    return this.parts.now.following();
  }

  take(): boolean {
    return false;
  }

  entered(l1: ControlRegisters, { tdp, guestPgd }: NestedEntryEvent): Stated[] {
    const { kvm, tables } = this.parts;
    this.l1RootKnown = tables.rootKnown;
    tables.rootKnown = this.l2RootKnown || !tdp;
    const [recorded, inferred] = [Provenance.RECORDED, Provenance.INFERRED];
    const control = [...(this.l2 ?? l1)];
    if (!tdp) control[1] = guestPgd;
    const known = this.l2 === undefined ? inferred : recorded;
    const registers = CONTROL_REGISTERS.map((register, i) => ({ register, value: control[i]!, provenance: known }));
    const root = tdp ? guestPgd : 0n;
    if (kvm.intel) {
      return [
        { register: Reg.SECONDARY_CONTROLS, value: tdp ? BigInt(SECONDARY_EPT) : 0n, provenance: recorded },
        { register: Reg.EPTP, value: root, provenance: recorded },
        ...registers,
      ];
    }
    const [cr0, , cr4, efer] = l1;
    return [
      { register: Reg.HOST_CR0, value: cr0, provenance: recorded },
      { register: Reg.HOST_CR4, value: cr4, provenance: recorded },
      { register: Reg.HOST_EFER, value: efer, provenance: recorded },
      { register: Reg.NESTED_CONTROL, value: tdp ? BigInt(NESTED_NP_ENABLE) : 0n, provenance: recorded },
      { register: Reg.NCR3, value: root, provenance: recorded },
      { register: Reg.ASID, value: 1n, provenance: inferred },
      { register: Reg.EXCEPTION_BITMAP, value: interceptedExceptions(this.following), provenance: recorded },
      ...registers,
    ];
  }

  /** Which EPT pointer it was is not known. */
  eptpSwitched(): void {}

  left(l1: ControlRegisters, l2: ControlRegisters): ControlRegisters {
    const { tables } = this.parts;
    this.l2 = l2;
    this.l2RootKnown = tables.rootKnown;
    tables.rootKnown = this.l1RootKnown;
    return l1;
  }
}
