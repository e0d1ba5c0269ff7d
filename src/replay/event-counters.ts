/**
 * The four counters of every compared field of KVM's events: predicted, renamed, learned, input (recordings/README.md,
 * "Inputs, predictions, and what may be learned"), and what differed. An SPTE counts as two fields: the host frame in
 * it, and all other bits.
 */

import { KVM_EVENT_COUNT, KVM_EVENT_NAMES } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS } from '../formats/kvm-event-fields.ts';
import { hasFinding } from './event-inputs.ts';

/** What a field that was equal tells. */
export const FieldCounter = {
  /** The machine came to the same value by itself. */
  PREDICTED: 0,
  /** A host frame, under the name that was bound to it before. */
  RENAMED: 1,
  /** A host frame seen for the first time, or a value that the machine took from this very step. */
  LEARNED: 2,
  /** An operand of the stimulus, or the host's own doing. */
  INPUT: 3,
  DIVERGED: 4,
} as const;

const COUNTERS = 5;

/** How a whole event ended. */
const Outcome = {
  EQUAL: 0,
  PREDICTED: 1,
  DIVERGED: 2,
  MISSING: 3,
  EXTRA: 4,
  NOT_MODELLED: 5,
  UNANSWERED: 6,
  NOT_JUDGED: 7,
} as const;
const OUTCOMES = 8;

export interface FieldCount {
  readonly field: string;
  readonly predicted: number;
  readonly renamed: number;
  readonly learned: number;
  readonly input: number;
  readonly diverged: number;
}

export interface EventCount {
  readonly event: string;
  /** Events compared and found equal. */
  readonly events: number;
  /** Of them, those without a learned or input field. */
  readonly whollyPredicted: number;
  /** Fields of the equal ones. */
  readonly predicted: number;
  readonly renamed: number;
  readonly learned: number;
  readonly input: number;
  /** Events that both sides have, with other fields. */
  readonly diverged: number;
  /** Recorded, not replayed. */
  readonly missing: number;
  /** Replayed, not recorded. */
  readonly extra: number;
  /** Recorded in steps that need something which the machine does not model. */
  readonly notModelled: number;
  /** The host's doing, recorded where the replay had no part in it. */
  readonly unanswered: number;
  /** Recorded in a partial trace where unknown state decides. Left out where there is none. */
  readonly notJudged?: number;
  readonly fields: readonly FieldCount[];
}

interface Slots {
  /** Index of the first counter of each field, in the order of the event's fields. */
  readonly field: readonly number[];
  /** The same for the frame of an `spte` field, -1 for others. */
  readonly frame: readonly number[];
  readonly names: readonly { readonly name: string; readonly at: number }[];
}

const SLOTS: readonly Slots[] = (() => {
  let at = 0;
  const take = (): number => {
    at += COUNTERS;
    return at - COUNTERS;
  };
  return KVM_EVENT_FIELDS.map((fields, event) => {
    const names: { name: string; at: number }[] = [];
    const field: number[] = [];
    const frame: number[] = [];
    for (const each of fields) {
      const { name, kind } = each;
      const own = take();
      field.push(own);
      names.push({ name, at: own });
      // The frame of an SPTE; which bits of an error code say what the tables hold (`event-inputs.ts`).
      const second = kind === 'spte' ? `${name} frame` : hasFinding(event, each) ? `${name} of the tables` : '';
      const other = second === '' ? -1 : take();
      frame.push(other);
      if (other >= 0) names.push({ name: second, at: other });
    }
    return { field, frame, names };
  });
})();

const SLOT_COUNT = SLOTS.reduce((sum, { names }) => sum + names.length * COUNTERS, 0);

export class EventCounters {
  private readonly slots = new Float64Array(SLOT_COUNT);
  private readonly outcomes = new Float64Array(KVM_EVENT_COUNT * OUTCOMES);
  private unpredicted = false;

  /** Counts a field of an event that is equal as a whole; `event` follows. */
  field(event: number, index: number, counter: number): void {
    this.count(SLOTS[event]!.field[index]!, counter);
  }

  /** The second counter of an SPTE or error code. */
  second(event: number, index: number, counter: number): void {
    this.count(SLOTS[event]!.frame[index]!, counter);
  }

  private count(at: number, counter: number): void {
    this.slots[at + counter]!++;
    if (counter === FieldCounter.LEARNED || counter === FieldCounter.INPUT) this.unpredicted = true;
  }

  /** The event whose fields were just counted. */
  equal(event: number): void {
    this.outcomes[event * OUTCOMES + Outcome.EQUAL]!++;
    if (!this.unpredicted) this.outcomes[event * OUTCOMES + Outcome.PREDICTED]!++;
    this.unpredicted = false;
  }

  /** Both sides have the event; `differing`: the fields that differ, by index. */
  diverged(event: number, differing: readonly number[]): void {
    this.outcomes[event * OUTCOMES + Outcome.DIVERGED]!++;
    for (const index of differing) this.slots[SLOTS[event]!.field[index]! + FieldCounter.DIVERGED]!++;
  }

  missing(event: number): void {
    this.outcomes[event * OUTCOMES + Outcome.MISSING]!++;
  }

  extra(event: number): void {
    this.outcomes[event * OUTCOMES + Outcome.EXTRA]!++;
  }

  notModelled(event: number): void {
    this.outcomes[event * OUTCOMES + Outcome.NOT_MODELLED]!++;
  }

  unanswered(event: number): void {
    this.outcomes[event * OUTCOMES + Outcome.UNANSWERED]!++;
  }

  /** Recorded where state decides that the trace does not tell. */
  notJudged(event: number): void {
    this.outcomes[event * OUTCOMES + Outcome.NOT_JUDGED]!++;
  }

  /** An event that was counted as diverged is not judged after all. */
  takeBackDiverged(event: number, differing: readonly number[]): void {
    this.outcomes[event * OUTCOMES + Outcome.DIVERGED]!--;
    for (const index of differing) this.slots[SLOTS[event]!.field[index]! + FieldCounter.DIVERGED]!--;
    this.notJudged(event);
  }

  /** What has been counted so far, to be put back by `restore`. */
  save(): readonly Float64Array[] {
    return [this.slots.slice(), this.outcomes.slice()];
  }

  restore([slots, outcomes]: readonly Float64Array[]): void {
    this.slots.set(slots!);
    this.outcomes.set(outcomes!);
  }

  get whollyPredicted(): number {
    let sum = 0;
    for (let event = 0; event < KVM_EVENT_COUNT; event++) sum += this.outcomes[event * OUTCOMES + Outcome.PREDICTED]!;
    return sum;
  }

  /** Events that were met at all, in the order of `KvmEvent`. */
  byEvent(): EventCount[] {
    return SLOTS.flatMap(({ names }, event): EventCount[] => {
      const of = (outcome: number): number => this.outcomes[event * OUTCOMES + outcome]!;
      if (Object.values(Outcome).every((outcome) => of(outcome) === 0)) return [];
      const fields = names.map(({ name, at }) => this.fieldCount(name, at));
      const sum = (key: 'predicted' | 'renamed' | 'learned' | 'input'): number =>
        fields.reduce((total, field) => total + field[key], 0);
      return [
        {
          event: KVM_EVENT_NAMES[event]!,
          events: of(Outcome.EQUAL),
          whollyPredicted: of(Outcome.PREDICTED),
          predicted: sum('predicted'),
          renamed: sum('renamed'),
          learned: sum('learned'),
          input: sum('input'),
          diverged: of(Outcome.DIVERGED),
          missing: of(Outcome.MISSING),
          extra: of(Outcome.EXTRA),
          notModelled: of(Outcome.NOT_MODELLED),
          unanswered: of(Outcome.UNANSWERED),
          ...(of(Outcome.NOT_JUDGED) === 0 ? {} : { notJudged: of(Outcome.NOT_JUDGED) }),
          fields: fields.filter((f) => f.predicted + f.renamed + f.learned + f.input + f.diverged > 0),
        },
      ];
    });
  }

  private fieldCount(field: string, at: number): FieldCount {
    const of = (counter: number): number => this.slots[at + counter]!;
    return {
      field,
      predicted: of(FieldCounter.PREDICTED),
      renamed: of(FieldCounter.RENAMED),
      learned: of(FieldCounter.LEARNED),
      input: of(FieldCounter.INPUT),
      diverged: of(FieldCounter.DIVERGED),
    };
  }
}
