/**
 * A guest recorded as a hypervisor with nested paging, on a KVM that uses shadow paging: such a KVM offers neither EPT
 * nor NPT to its guests (facts/kvm-mmu.md §1.3), so that the guest's guest cannot run there at all. Its steps are kept
 * from the machine; what they store reaches memory all the same, and when the hypervisor runs on, the machine is told
 * its registers.
 */

import { GuestMode, NESTED_NP_ENABLE, REGISTER_COUNT, Reg, SECONDARY_EPT } from '../formats/registers.ts';
import { STEP_KIND_MASK, STEP_REGISTER_MASK, STEP_REGISTER_SHIFT, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import type { Stimulus } from '../trace/stimulus.ts';

/** Steps that concern memory alone, or the host. */
const REACH_MEMORY: ReadonlySet<number> = new Set([
  StepKind.STORE,
  StepKind.CLEAR_PAGE,
  StepKind.RARE,
  StepKind.HOST_PAGES,
]);

/** A register set that waits until it is known for whom it is. */
interface WaitingSet {
  readonly ordinal: number;
  readonly op: number;
  readonly lo: number;
  readonly hi: number;
}

/** Whether a guest of the guest's runs on EPT or NPT. `registers`: 2 elements each, in the order of `Reg`. */
export function usesNestedTdp(registers: Uint32Array): boolean {
  switch (registers[2 * Reg.GUEST_MODE]) {
    case GuestMode.VMX:
      return (registers[2 * Reg.SECONDARY_CONTROLS]! & SECONDARY_EPT) !== 0;
    case GuestMode.SVM:
      return (registers[2 * Reg.NESTED_CONTROL]! & NESTED_NP_ENABLE) !== 0;
    default:
      return false;
  }
}

/** What the machine is not told of one vCPU. */
class Hidden {
  waiting: WaitingSet[] = [];
  hides = false;
  /** Registers that were set while the machine was not told. */
  readonly missed = new Set<number>();
}

export class HiddenNesting {
  private readonly guest: Machine;
  /** The guest's registers as recorded; those of `guest` are behind while something is hidden from it. */
  private readonly registers: Uint32Array;
  private readonly vcpus = new Map<number, Hidden>();
  /** That of the vCPU whose steps come now. */
  private current = new Hidden();

  constructor(guest: Machine, registers: Uint32Array) {
    this.guest = guest;
    this.registers = registers;
    this.vcpus.set(0, this.current);
  }

  /** To be called for each step before it is applied to anything: register sets before it are for whoever makes it. */
  before(op: number): void {
    const kind = op & STEP_KIND_MASK;
    if (kind !== StepKind.REGISTER_SET && !REACH_MEMORY.has(kind)) this.settle();
  }

  /** As `Machine.apply`; false: the step is kept from the machine. */
  apply(
    ordinal: number,
    op: number,
    addressLo: number,
    addressHi: number,
    operandLo: number,
    operandHi: number,
    stimuli: readonly Stimulus[],
  ): boolean {
    const { guest } = this;
    const kind = op & STEP_KIND_MASK;
    if (kind === StepKind.REGISTER_SET) {
      this.current.waiting.push({ ordinal, op, lo: operandLo, hi: operandHi });
      return true;
    }
    if (kind === StepKind.VCPU) this.useVcpu(operandLo >>> 0);
    else if (this.current.hides && !REACH_MEMORY.has(kind)) return false;
    guest.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
    return true;
  }

  private useVcpu(vcpu: number): void {
    let hidden = this.vcpus.get(vcpu);
    if (hidden === undefined) {
      hidden = new Hidden();
      this.vcpus.set(vcpu, hidden);
    }
    this.current = hidden;
  }

  /** A guest's guest runs, of which the machine is told nothing. */
  get hides(): boolean {
    return this.current.hides;
  }

  /** The machine was not given all: its log may be of an earlier step, and its registers those of an earlier state. */
  get isBehind(): boolean {
    return this.current.hides || this.current.waiting.length > 0;
  }

  /** As `Machine.setRegister`, at the beginning of a chunk. */
  setRegister(ordinal: number, register: number, lo: number, hi: number): void {
    this.current.waiting.push({ ordinal, op: StepKind.REGISTER_SET | (register << STEP_REGISTER_SHIFT), lo, hi });
  }

  /** The sets that wait are for whoever runs with all of them in force. */
  private settle(): void {
    const { guest, current } = this;
    const { waiting, missed, hides } = current;
    if (waiting.length === 0) return;
    current.waiting = [];
    current.hides = usesNestedTdp(this.registers);
    if (hides || current.hides) {
      for (const { op } of waiting) missed.add((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK);
      if (!current.hides) this.tellMissed(waiting.at(-1)!.ordinal);
    } else {
      for (const { ordinal, op, lo, hi } of waiting) guest.apply(ordinal, op, 0, 0, lo, hi, []);
    }
  }

  /** What is as it was before is not told again: to a KVM, setting a register is an event. */
  private tellMissed(ordinal: number): void {
    const { guest, registers } = this;
    const { missed } = this.current;
    for (let register = 0; register < REGISTER_COUNT; register++) {
      if (!missed.has(register)) continue;
      const [lo, hi] = [registers[2 * register]!, registers[2 * register + 1]!];
      if (guest.registers[2 * register] === lo && guest.registers[2 * register + 1] === hi) continue;
      guest.apply(ordinal, StepKind.REGISTER_SET | (register << STEP_REGISTER_SHIFT), 0, 0, lo, hi, []);
    }
    missed.clear();
  }
}
