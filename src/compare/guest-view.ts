/**
 * What a guest can notice of a step: how its access ended, or, where a trace has the exits themselves for steps, which
 * exceptions and exits KVM gave it.
 */

import { KVM_EVENT_NAMES, KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import {
  ROW,
  ROW_ADDRESS_HI,
  ROW_ADDRESS_LO,
  ROW_OP,
  ROW_VALUE_HI,
  ROW_VALUE_LO,
  type RowLog,
} from '../paging/row-log.ts';
import { rowName } from '../replay/cause.ts';
import { GuestOutcome } from '../replay/guest-outcome.ts';
import type { Row } from '../replay/result.ts';
import { rowsEvent, unitsOf } from '../replay/units.ts';
import { fieldsThatDiffer } from './align.ts';
import type { Place } from './result.ts';

/** `before`: the row before it reaches the guest. */
function reachesGuest(op: number, before: boolean): boolean {
  const kind = op & OBS_KIND_MASK;
  if (kind === Obs.EXIT_LINEAR || kind === Obs.PDPTE_LOADED) return true;
  if (kind === Obs.KVM_MORE) return before;
  if (kind !== Obs.KVM_EVENT) return false;
  const event = kvmEventOf(op);
  return event === KvmEvent.INJ_EXCEPTION || event === KvmEvent.NESTED_VMEXIT_INJECT;
}

export class GuestView {
  readonly outcome = new GuestOutcome();
  /** Offsets in the log of rows that reach the guest, without the outcome. */
  private readonly offsets: number[] = [];
  private log: RowLog | null = null;

  ofLog(log: RowLog): void {
    this.log = log;
    this.outcome.ofLog(log);
    this.offsets.length = 0;
    let taken = false;
    for (let at = 0; at < log.count * ROW; at += ROW) {
      const op = log.rows[at + ROW_OP]!;
      taken = reachesGuest(op, taken);
      // An exception that KVM injects is the outcome, where there is one.
      if (this.hasEnded && (op & OBS_KIND_MASK) === Obs.KVM_EVENT) taken = false;
      if (taken) this.offsets.push(at);
    }
  }

  /** The access has an outcome. */
  get hasEnded(): boolean {
    return this.outcome.kind !== Obs.NONE;
  }

  /** What there is to compare. */
  get rows(): number {
    return this.offsets.length + (this.hasEnded ? 1 : 0);
  }

  equals(other: GuestView): boolean {
    const [a, b] = [this.offsets, other.offsets];
    if (!this.outcome.equals(other.outcome) || a.length !== b.length) return false;
    const [x, y] = [this.log!.rows, other.log!.rows];
    return a.every((from, i) => {
      const to = b[i]!;
      for (let k = 0; k < ROW; k++) if (x[from + k] !== y[to + k]) return false;
      return true;
    });
  }

  /** The first event that differs from the like in its place in `other`'s; undefined: something else differs. */
  eventBeside(other: GuestView): Place | undefined {
    const [ours, theirs] = [this.units, other.units];
    if (!this.outcome.equals(other.outcome) || ours.length !== theirs.length) return undefined;
    for (const [i, a] of ours.entries()) {
      const b = theirs[i]!;
      const event = rowsEvent(a);
      if (event !== rowsEvent(b)) return undefined;
      const fields = event < 0 ? [] : fieldsThatDiffer(event, a, b);
      if (fields.length > 0) return { state: 'differs', a, b, fields };
    }
    return undefined;
  }

  /** Events and other rows that reach the guest, each with all of its rows. */
  get units(): readonly Row[][] {
    const { rows } = this.log!;
    const all = this.offsets.map((at) => ({
      op: rows[at + ROW_OP]!,
      addressLo: rows[at + ROW_ADDRESS_LO]!,
      addressHi: rows[at + ROW_ADDRESS_HI]!,
      valueLo: rows[at + ROW_VALUE_LO]!,
      valueHi: rows[at + ROW_VALUE_HI]!,
    }));
    return unitsOf(all).map(({ rows }) => [...rows]);
  }

  private get others(): string[] {
    return this.units.map((rows) => {
      const event = rowsEvent(rows);
      return event > 0 ? KVM_EVENT_NAMES[event]! : rowName(rows[0]);
    });
  }

  private joined(outcome: string): string {
    const parts = this.hasEnded ? [outcome, ...this.others] : this.others;
    return parts.length === 0 ? 'nothing' : parts.join(', ');
  }

  /** `#PF error 0x2 cr2 0x7000`. */
  get text(): string {
    return this.joined(this.outcome.text);
  }

  /** The same without addresses. */
  get shape(): string {
    return this.joined(this.outcome.shape);
  }
}
