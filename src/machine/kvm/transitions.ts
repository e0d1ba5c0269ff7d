/**
 * Between L1 and L2: which of the registers that a trace gives make L1's state and which L2's, and when KVM is told that
 * the one is entered or the other left. Traces say it by NESTED_ENTRY and NESTED_EXIT and by the REGISTER_SET steps around
 * them; such sets are no KVM_SET_SREGS.
 */

import { GuestMode, Reg } from '../../formats/registers.ts';
import type { Nested } from '../../nested/nested.ts';
import { refusesPdpteFields } from '../refused-entry.ts';
import type { GuestRegisters } from './guest-registers.ts';
import { REGISTER_WORDS } from './hardware.ts';
import type { Processor } from './processor.ts';

/** What L1 gives its L2 and L2 cannot change: another value means that L1 has run. */
const CONTROLS = new Set<number>([
  Reg.EPTP,
  Reg.VPID,
  Reg.SECONDARY_CONTROLS,
  Reg.NESTED_CONTROL,
  Reg.NCR3,
  Reg.ASID,
  Reg.HOST_CR0,
  Reg.HOST_CR4,
  Reg.HOST_EFER,
  Reg.PML_ADDRESS,
  Reg.EPTP_LIST,
  Reg.VM_FUNCTION_CONTROLS,
]);

export class Transitions {
  private readonly registers: Uint32Array;
  private readonly nested: Nested;
  private readonly guestRegisters: GuestRegisters;
  private readonly processor: Processor;
  /** The guest has been entered: requests are served, and there is a root. */
  private readonly run: () => void;
  /** Registers before those that are being set, and whether they had been given anew. */
  private readonly before = new Uint32Array(REGISTER_WORDS);
  private givenBefore = false;
  /** L1's registers while L2 runs. */
  private readonly l1 = new Uint32Array(REGISTER_WORDS);
  /** The last step set a register. */
  private setting = false;
  /** L2 has been left; what is set next says who runs. */
  private left = false;
  private controlsChanged = false;
  /** A NESTED_ENTRY step is being made, or waits for the guest mode. */
  private instruction = false;
  /**
   * L2's PDPTEs do not let it in, and the trace has it run all the same. Only where the trace has an instruction enter it:
   * an L2 that is given, as by KVM_SET_NESTED_STATE, has PDPTEs that are given, too.
   */
  refused = false;

  constructor(nested: Nested, guestRegisters: GuestRegisters, processor: Processor, run: () => void) {
    this.registers = processor.registers;
    this.nested = nested;
    this.guestRegisters = guestRegisters;
    this.processor = processor;
    this.run = run;
  }

  private get guestMode(): boolean {
    return this.registers[2 * Reg.GUEST_MODE] !== GuestMode.NONE;
  }

  /** Something may have to be settled before the next step is made. */
  get pending(): boolean {
    return this.left || this.controlsChanged || this.guestMode !== this.nested.active;
  }

  /** A REGISTER_SET step. */
  set(register: number, lo: number, hi: number): void {
    const { registers, nested } = this;
    if (!this.setting) {
      this.setting = true;
      // Sets may be interrupted by stores; L1's state is what was there before any of L2's.
      if (nested.active || !this.guestMode) {
        this.before.set(registers);
        this.givenBefore = this.guestRegisters.given;
      }
    }
    if (nested.active && CONTROLS.has(register)) {
      const same = registers[2 * register] === lo >>> 0 && registers[2 * register + 1] === hi >>> 0;
      if (!same) this.controlsChanged = true;
    }
    this.guestRegisters.set(register, lo, hi);
  }

  /**
   * A step that changes memory, or tells of it: what is set after it need not be meant together with what came before.
   * `stores`: somebody stores, so that who runs is settled.
   */
  interrupt(stores: boolean): void {
    this.setting = false;
    if (stores && this.left) this.move();
  }

  /** Any other step is about to be made. */
  settle(): void {
    this.setting = false;
    if (this.pending) this.move();
  }

  /** A NESTED_ENTRY step. Where the guest mode is given after it, entering has to wait for that. */
  enter(): void {
    this.setting = false;
    this.instruction = true;
    if (!this.guestMode) return;
    if (this.nested.active) this.reenter();
    else this.enterFrom(this.before);
  }

  /** A NESTED_EXIT step: who runs next is told by what follows. */
  leave(): void {
    this.left = this.nested.active;
    this.instruction = false;
    this.refused = false;
  }

  private move(): void {
    const { nested, guestMode } = this;
    if (nested.active && guestMode) this.reenter();
    else if (nested.active) this.exit();
    else if (guestMode) this.enterFrom(this.before);
    this.left = false;
  }

  private enterFrom(l1: Uint32Array): void {
    this.with(l1, () => {
      if (this.givenBefore) this.guestRegisters.take();
      // L1 has run, if only to enter L2 (facts/kvm-mmu.md §8.1).
      this.run();
    });
    this.l1.set(l1);
    this.completeL1();
    this.guestRegisters.given = false;
    this.controlsChanged = false;
    this.enterL2();
    this.processor.registersChanged();
  }

  private enterL2(): void {
    const { nested, registers, instruction, guestRegisters, processor } = this;
    this.instruction = false;
    const loaded = nested.enter(this.l1);
    const { maxphyaddr } = processor.hardware.features;
    this.refused = instruction && (!loaded || refusesPdpteFields(registers, maxphyaddr));
    if (!loaded && !instruction) guestRegisters.take();
  }

  /** SVM: what L1 runs with shapes its nested page tables, and is among L2's controls. */
  private completeL1(): void {
    const { registers, l1 } = this;
    if (registers[2 * Reg.GUEST_MODE] !== GuestMode.SVM || registers[2 * Reg.HOST_CR0] === 0) return;
    l1[2 * Reg.CR0] = registers[2 * Reg.HOST_CR0]!;
    l1[2 * Reg.CR4] = registers[2 * Reg.HOST_CR4]!;
    l1[2 * Reg.EFER] = registers[2 * Reg.HOST_EFER]!;
  }

  private exit(): void {
    if (this.givenBefore) this.with(this.before, () => this.guestRegisters.take());
    this.guestRegisters.given = false;
    this.controlsChanged = false;
    this.refused = false;
    this.nested.exit();
    this.processor.registersChanged();
  }

  /** L1 has run unseen: its registers are as they were. */
  private reenter(): void {
    this.with(this.l1, () => this.nested.exit());
    this.left = false;
    this.givenBefore = false;
    this.enterFrom(this.l1);
  }

  /** Does something while the registers are others. */
  private with(registers: Uint32Array, action: () => void): void {
    const now = this.registers.slice();
    this.registers.set(registers);
    action();
    this.registers.set(now);
  }
}
