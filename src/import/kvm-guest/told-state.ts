/**
 * Registers that marks and dumps tell of after the fact. Where the guest announces its writes they only confirm what is
 * known; elsewhere they are how a write, or a state, becomes known.
 */

import { CR0_WP, CR4_PCIDE, CR4_PGE, CR4_PSE, Reg, type RegId } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { Dump } from './dump.ts';
import type { StepWriter } from './step-writer.ts';

const SREGS: readonly (readonly [name: string, register: RegId])[] = [
  ['cr0', Reg.CR0],
  ['cr4', Reg.CR4],
  ['efer', Reg.EFER],
  ['cr3', Reg.CR3],
];

export class ToldState {
  private readonly writer: StepWriter;
  /** The guest announces its register writes. */
  private readonly announced: boolean;
  private readonly count: (what: string) => void;

  constructor(writer: StepWriter, announced: boolean, count: (what: string) => void) {
    this.writer = writer;
    this.announced = announced;
    this.count = count;
  }

  /** The guest says what registers hold. */
  holds(register: RegId, value: bigint): void {
    const { writer } = this;
    if (writer.registers.get(register) === value) return;
    this.count(this.announced ? 'register found changed' : 'register write not announced');
    writer.setRegister(register, value, Provenance.MARK);
  }

  /** The guest says that it has written a register. */
  written(register: RegId, value: bigint): void {
    if (this.announced) {
      this.holds(register, value);
      return;
    }
    this.count('register write not announced');
    this.writer.writeRegister(register, value);
  }

  /** The guest says that it has written the register's own value again, with more bits set. */
  rewritten(register: RegId, bits: bigint): void {
    if (!this.announced) this.written(register, this.writer.registers.get(register) | bits);
  }

  private bits(register: RegId, mask: number, on: boolean): void {
    const old = this.writer.registers.get(register);
    this.written(register, on ? old | BigInt(mask) : old & ~BigInt(mask));
  }

  globalPages(on: boolean): void {
    this.bits(Reg.CR4, CR4_PGE, on);
  }

  pageSizeExtensions(on: boolean): void {
    this.bits(Reg.CR4, CR4_PSE, on);
  }

  pcids(on: boolean): void {
    this.bits(Reg.CR4, CR4_PCIDE, on);
  }

  writeProtect(on: boolean): void {
    this.bits(Reg.CR0, CR0_WP, on);
  }

  /** A dump shows the state of whatever runs at that moment. */
  dumped(dump: Dump): void {
    const { writer } = this;
    for (const [name, register] of SREGS) {
      const value = dump.registers.get(name);
      if (value === undefined || writer.registers.get(register) === value) continue;
      this.count(this.announced ? 'register found changed' : 'register write not announced');
      writer.setRegister(register, value, Provenance.DUMP);
    }
    dump.pdptes?.forEach((value, i) => {
      writer.setRegister((Reg.PDPTE0 + i) as RegId, value, Provenance.DUMP);
    });
  }
}
