/** What a check of a trace found: each with a stable identity, a place and a sentence. */

import type { Place } from '../../bits/problem.ts';

export interface Finding {
  /** Stable, `subject.what`, or a problem's code; scripts may rely on it, whatever becomes of the sentence. */
  readonly id: string;
  /** An error makes results wrong; a warning is strange, and may be meant. */
  readonly severity: 'error' | 'warning';
  readonly place: Place;
  readonly sentence: string;
  /** How many more there are of the same id that are not listed; only ever on the last that is. */
  readonly further: number;
}

/** A hostile trace has millions of findings; this many of each kind are worth reading. */
const LISTED_PER_ID = 10;

export class Findings {
  private readonly byId = new Map<string, { list: Omit<Finding, 'further'>[]; further: number }>();

  add(id: string, severity: Finding['severity'], place: Place, sentence: string): void {
    let entry = this.byId.get(id);
    if (entry === undefined) {
      entry = { list: [], further: 0 };
      this.byId.set(id, entry);
    }
    if (entry.list.length < LISTED_PER_ID) entry.list.push({ id, severity, place, sentence });
    else entry.further++;
  }

  /** Grouped by id, ids in the order in which they first came. */
  list(): Finding[] {
    return [...this.byId.values()].flatMap(({ list, further }) =>
      list.map((finding, i) => ({ ...finding, further: i === list.length - 1 ? further : 0 })),
    );
  }
}
