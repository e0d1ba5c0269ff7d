/** Guest frames that a trace puts something into: what two machines' guest memory is compared in at the end. */

import { OBS_KIND_MASK, Obs, obsMask } from '../formats/observation.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import { frameOf } from '../paging/guest-memory.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, type RowLog } from '../paging/row-log.ts';
import type { Stimulus } from '../trace/stimulus.ts';

const ENTRY_ROWS = obsMask(Obs.ELEMENT, Obs.ENTRY_WRITE);
const PAGE = 0x1000;

/** A word of guest memory that differs. */
export interface WordDifference {
  readonly addressLo: number;
  readonly addressHi: number;
  readonly a: readonly [lo: number, hi: number];
  readonly b: readonly [lo: number, hi: number];
}

export class GuestFrames {
  private readonly frames = new Set<number>();

  noteStep(op: number, addressLo: number, addressHi: number, operandLo: number, stimuli: readonly Stimulus[]): void {
    const kind = op & STEP_KIND_MASK;
    if (kind === StepKind.STORE || kind === StepKind.CLEAR_PAGE) this.note(addressLo, addressHi);
    else if (kind === StepKind.RARE) this.noteStimulus(stimuli[operandLo]);
  }

  private noteStimulus(stimulus: Stimulus | undefined): void {
    if (stimulus?.kind === 'page-image') this.note(stimulus.address.lo, stimulus.address.hi);
    if (stimulus?.kind !== 'entry-fill') return;
    const first = frameOf(stimulus.address.lo, stimulus.address.hi & 0xf_ffff);
    const bytes = (stimulus.address.lo & 0xfff) + stimulus.count * stimulus.size;
    for (let page = 0; page * PAGE < bytes; page++) this.frames.add(first + page);
  }

  /** Entries that a machine read or wrote. */
  noteLog(log: RowLog): void {
    const { rows } = log;
    for (let i = 0; i < log.count; i++) {
      if (((ENTRY_ROWS >>> (log.op(i) & OBS_KIND_MASK)) & 1) === 0) continue;
      this.note(rows[i * ROW + ROW_ADDRESS_LO]!, rows[i * ROW + ROW_ADDRESS_HI]!);
    }
  }

  private note(lo: number, hi: number): void {
    this.frames.add(frameOf(lo, hi & 0xf_ffff));
  }

  /** 8-byte words that both machines are asked for. */
  get words(): number {
    return this.frames.size * (PAGE / 8);
  }

  /** Words of guest memory that differ, in order of their frames' first use. */
  *differences(a: Machine, b: Machine): Generator<WordDifference, void, void> {
    for (const frame of this.frames) {
      const addressHi = Math.floor(frame / 0x10_0000);
      const base = (frame % 0x10_0000) * PAGE;
      for (let at = 0; at < PAGE; at += 8) {
        const addressLo = base + at;
        const x = a.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
        const y = b.readEntry(Obs.ENTRY_AFTER, addressLo, addressHi);
        if (x[0] !== y[0] || x[1] !== y[1]) yield { addressLo, addressHi, a: x, b: y };
      }
    }
  }
}
