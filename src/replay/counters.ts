/**
 * The four counters of every compared field: predicted, renamed, learned, input (design §4), by kind of observation.
 *
 * Rows are counted while replaying; fields follow from the kind, since every row of a kind compares the same fields.
 */

import { OBS_KIND_COUNT, OBS_NAMES, Obs } from '../formats/observation.ts';

/** Compared fields of a row, by kind. The row's word (kind, dimension, level, attributes) counts as one. */
const FIELDS: readonly number[] = (() => {
  const fields = new Array<number>(OBS_KIND_COUNT).fill(0);
  fields[Obs.ELEMENT] = 3;
  fields[Obs.PDPTE] = 2;
  fields[Obs.NESTED_WALK] = 2;
  fields[Obs.ENTRY_WRITE] = 3;
  fields[Obs.TRANSLATED] = 3;
  fields[Obs.COMPLETED] = 1;
  fields[Obs.EXCEPTION] = 3;
  fields[Obs.EPT_VIOLATION] = 3;
  fields[Obs.EPT_MISCONFIG] = 2;
  fields[Obs.NPF] = 3;
  fields[Obs.EXIT_LINEAR] = 2;
  fields[Obs.PDPTE_LOADED] = 2;
  fields[Obs.REGISTER] = 1;
  fields[Obs.ENTRY_AFTER] = 1;
  fields[Obs.FAULTED] = 1;
  fields[Obs.PML_FULL] = 2;
  return fields;
})();

export interface KindCount {
  readonly kind: string;
  /** Observations compared and found equal. */
  readonly observations: number;
  /** Of them, those whose every field was predicted. */
  readonly whollyPredicted: number;
  readonly predicted: number;
  readonly renamed: number;
  readonly learned: number;
  readonly input: number;
}

export class Counters {
  /** Rows found equal, by kind. */
  readonly rows = new Float64Array(OBS_KIND_COUNT);
  /** Of them, rows with one field that was learned in the same step. */
  readonly learned = new Float64Array(OBS_KIND_COUNT);
  /** Translations compared by their physical address only (accesses whose expectation travels in the step). */
  addressOnly = 0;

  byKind(): KindCount[] {
    const counts: KindCount[] = [];
    for (let kind = 0; kind < OBS_KIND_COUNT; kind++) {
      const short = kind === Obs.TRANSLATED ? this.addressOnly : 0;
      const observations = this.rows[kind]! + short;
      if (observations === 0) continue;
      const learned = this.learned[kind]!;
      counts.push({
        kind: OBS_NAMES[kind]!,
        observations,
        whollyPredicted: observations - learned,
        predicted: this.rows[kind]! * FIELDS[kind]! + short - learned,
        renamed: 0,
        learned,
        input: 0,
      });
    }
    return counts;
  }

  get whollyPredicted(): number {
    return this.byKind().reduce((sum, count) => sum + count.whollyPredicted, 0);
  }
}
