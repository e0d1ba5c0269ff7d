/** Differences between two traces, counted by class: what they are about, what kind of change, whose doing; firsts kept. */

import { OBS_FAULTS, OBS_KIND_MASK, Obs, obsMask } from '../formats/observation.ts';
import type { Row } from '../replay/result.ts';
import type { Observed } from './trace-events.ts';
import { registersBefore, stepRows, type TraceStep } from './trace-steps.ts';

/** `guest`: what the guest did or saw. `host`: the host's memory management and the VMM. `kvm`: exits, and KVM's events. */
export type Doing = 'guest' | 'host' | 'kvm';

/** `moved`: both have it in one step, in another order. */
export type ClassKind = 'differs' | 'moved' | 'only-a' | 'only-b';

export interface TraceDifference {
  readonly doing: Doing;
  /** `set-spte`, `exit P W`. */
  readonly subject: string;
  readonly kind: ClassKind;
  /** Which field or part, and how: `spte: a 1 → 0 (bit 8)`; empty unless it differs. */
  readonly change: string;
  /** The steps; of an event that only one side has, both. */
  readonly a: TraceStep | undefined;
  readonly b: TraceStep | undefined;
  /** Of a difference within a step: the event, or the row of another kind. */
  readonly rowsA: Observed | undefined;
  readonly rowsB: Observed | undefined;
}

/** A difference that lasts: out of a class's many, the first. */
export interface FirstDifference extends TraceDifference {
  readonly segment: number;
  /** Rows of the hardware's walks in either step, with how they ended; empty where none was recorded. */
  readonly walkA: readonly Row[];
  readonly walkB: readonly Row[];
}

export interface DifferenceClass {
  readonly doing: Doing;
  readonly subject: string;
  readonly kind: ClassKind;
  readonly change: string;
  count: number;
  readonly first: FirstDifference;
  /** Entries and host pages that come with steps of the class, and events in these; both only if one side has them. */
  companions: number;
  events: number;
}

/** Classes that are told apart; a hostile trace must not fill memory with them. */
const MAXIMUM_CLASSES = 2000;

export class DifferenceClasses {
  /** Differences of further classes, beyond the maximum. */
  beyond = 0;
  total = 0;
  private readonly classes = new Map<string, DifferenceClass>();

  add(difference: TraceDifference, segment: number): DifferenceClass | undefined {
    const { doing, subject, kind, change } = difference;
    const key = `${kind} ${subject} ${change}`;
    this.total++;
    let known = this.classes.get(key);
    if (known === undefined) {
      if (this.classes.size >= MAXIMUM_CLASSES) {
        this.beyond++;
        return undefined;
      }
      const { a, b } = difference;
      const first = { ...difference, a: kept(a), b: kept(b), segment, walkA: walkRows(a), walkB: walkRows(b) };
      known = { doing, subject, kind, change, count: 0, first, companions: 0, events: 0 };
      this.classes.set(key, known);
    }
    known.count++;
    return known;
  }

  /** The most frequent first. */
  sorted(): DifferenceClass[] {
    return [...this.classes.values()].sort((x, y) => y.count - x.count);
  }
}

const WALK_KINDS =
  (OBS_FAULTS | obsMask(Obs.ELEMENT, Obs.PDPTE, Obs.NESTED_WALK, Obs.ENTRY_WRITE, Obs.TRANSLATED)) >>> 0;
/** A walk has 35 reads at most; a step some walks. */
const MAXIMUM_WALK_ROWS = 512;

function walkRows(step: TraceStep | undefined): readonly Row[] {
  if (step === undefined) return [];
  const rows = stepRows(step, WALK_KINDS);
  const isRead = ({ op }: Row): boolean => (op & OBS_KIND_MASK) === Obs.ELEMENT;
  return rows.some(isRead) ? rows.slice(0, MAXIMUM_WALK_ROWS) : [];
}

/** A step alone, without the chunk that it is of; with the registers as they were before it. */
function kept(step: TraceStep | undefined): TraceStep | undefined {
  if (step === undefined) return undefined;
  const { columns, at } = step;
  const stimulus = columns.op[at]! % 32 === 0 ? columns.stimuli[columns.operand[2 * at]!] : undefined;
  const [line, time] = [columns.lineOf(at), columns.timeOf(at)];
  return {
    ...step,
    at: 0,
    columns: {
      ...columns,
      registers: registersBefore(step),
      others: [],
      stepCount: 1,
      observationCount: 0,
      op: columns.op.slice(at, at + 1),
      address: columns.address.slice(2 * at, 2 * at + 2),
      operand: stimulus === undefined ? columns.operand.slice(2 * at, 2 * at + 2) : new Uint32Array(2),
      observationEnd: new Uint32Array(1),
      observationOp: new Uint32Array(0),
      observationAddress: new Uint32Array(0),
      observationValue: new Uint32Array(0),
      stimuli: stimulus === undefined ? [] : [stimulus],
      lineOf: () => line,
      timeOf: () => time,
    },
  };
}
