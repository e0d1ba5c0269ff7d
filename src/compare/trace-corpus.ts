/**
 * Two folders of traces held against each other, trace by trace: what all the comparisons of two traces came to together,
 * and the differences of all by class, with the trace that has the first of each.
 */

import type { DifferenceClass } from './trace-classes.ts';
import type { EventCounts } from './trace-events.ts';
import type { StepCounts, TracesResult } from './traces.ts';

/** What is said of a trace that both folders have. `unreadable`: one of the two is; what could be read may be compared. */
export type PairVerdict = 'equal' | 'different' | 'nothing-compared' | 'unreadable';

/** A class over all traces. `Where`: what names a trace to who reports it. */
export interface CorpusClass<Where> extends Omit<DifferenceClass, 'count' | 'companions' | 'events'> {
  count: number;
  companions: number;
  events: number;
  /** How many traces have it. */
  traces: number;
  /** The one that `first` is of. */
  readonly where: Where;
}

/** Classes that are told apart over all traces. */
const MAXIMUM_CLASSES = 2000;

export class TraceCorpus<Where> {
  readonly verdicts: Record<PairVerdict, number> = { equal: 0, different: 0, 'nothing-compared': 0, unreadable: 0 };
  readonly steps: StepCounts = { both: 0, differ: 0, onlyA: 0, onlyB: 0 };
  readonly events: EventCounts = { equal: 0, differ: 0, moved: 0, onlyA: 0, onlyB: 0 };
  marks = 0;
  differences = 0;
  /** Differences of classes beyond those told apart. */
  beyond = 0;
  private readonly classes = new Map<string, CorpusClass<Where>>();

  /** A trace that could not be read at all. */
  addUnreadable(): void {
    this.verdicts.unreadable++;
  }

  add(where: Where, verdict: PairVerdict, result: TracesResult): void {
    this.verdicts[verdict]++;
    const { steps, events } = result;
    for (const name of ['both', 'differ', 'onlyA', 'onlyB'] as const) this.steps[name] += steps[name];
    for (const name of ['equal', 'differ', 'moved', 'onlyA', 'onlyB'] as const) this.events[name] += events[name];
    this.marks += result.marks;
    this.differences += result.differences;
    this.beyond += result.beyond;
    for (const each of result.classes) this.addClass(where, each);
  }

  private addClass(where: Where, each: DifferenceClass): void {
    const { kind, subject, change, count, companions, events } = each;
    const key = JSON.stringify([kind, subject, change]);
    const known = this.classes.get(key);
    if (known !== undefined) {
      known.count += count;
      known.companions += companions;
      known.events += events;
      known.traces++;
    } else if (this.classes.size < MAXIMUM_CLASSES) this.classes.set(key, { ...each, traces: 1, where });
    else this.beyond += count;
  }

  /** The most frequent first. */
  sorted(): CorpusClass<Where>[] {
    return [...this.classes.values()].sort((x, y) => y.count - x.count);
  }
}
