/**
 * Accesses of the guest's guest that no mark announces as such, because they are how it builds its tables: its own
 * stores to them and reads of them. They matter where they leave traces that a later mark shows: under EPT with
 * accessed and dirty bits.
 */

import { EPTP_AD, Reg, SECONDARY_EPT } from '../../formats/registers.ts';
import { Provenance, StepKind } from '../../formats/step.ts';
import { accessFlags } from './access-kinds.ts';
import type { StepWriter } from './step-writer.ts';

export class ImpliedAccesses {
  private readonly writer: StepWriter;
  private readonly waiting: { readonly type: number; readonly address: bigint; readonly line: number }[] = [];

  constructor(writer: StepWriter) {
    this.writer = writer;
  }

  /** The guest's guest is about to touch its tables at linear `address`: exits may still come in between. */
  announce(type: number, address: bigint): void {
    const { registers, inL2, line } = this.writer;
    const shows = registers.has(Reg.SECONDARY_CONTROLS, SECONDARY_EPT) && registers.has(Reg.EPTP, EPTP_AD);
    if (inL2 && shows) this.waiting.push({ type, address, line });
  }

  /** Whatever was announced has happened. */
  write(): void {
    const { writer } = this;
    if (this.waiting.length === 0 || !writer.inL2) return;
    const line = writer.line;
    for (const { type, address, line: announced } of this.waiting.splice(0)) {
      writer.line = announced;
      const component = { type, address, length: 8, software: false, implied: true, implicit: false };
      writer.access(StepKind.ACCESS, accessFlags(component, false, false), address, Provenance.INFERRED);
    }
    writer.line = line;
  }
}
