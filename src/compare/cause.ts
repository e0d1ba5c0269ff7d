/** What differs between two sides in one sentence, and the key under which differences of the like are counted. */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { KVM_EVENT_NAMES } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS } from '../formats/kvm-event-fields.ts';
import { describe, rowName, stepName } from '../replay/cause.ts';
import { differingParts } from '../replay/event-cause.ts';
import type { Row } from '../replay/result.ts';
import { rowsEvent } from '../replay/units.ts';
import type { Place } from './result.ts';

/** A difference in words and as a class. */
export interface Explanation {
  readonly cause: string;
  readonly group: string;
}

type Labels = readonly [a: string, b: string];

/** Without addresses: the same for differences of the like. */
function shortName(rows: readonly Row[]): string {
  const event = rowsEvent(rows);
  return event > 0 ? KVM_EVENT_NAMES[event]! : rowName(rows[0]);
}

function longName(rows: readonly Row[]): string {
  return rowsEvent(rows) > 0 ? shortName(rows) : describe(rows[0]!);
}

/** Fields of two events, with the parts of SPTEs and roles that differ: `spte w mmu-writable`. */
function fieldNames({ a, b, fields }: Place, config: KvmConfig | undefined): string {
  const pair = { state: 'differs', recorded: a, replayed: b, fields, wrongFrame: undefined } as const;
  const names = KVM_EVENT_FIELDS[rowsEvent(a)]!.filter(({ name }) => fields.includes(name)).map((field) => {
    const parts = config === undefined ? [] : differingParts(field, pair, config).map(({ name }) => name);
    return [field.name, ...parts].join(' ');
  });
  return names.join(', ');
}

/** The first place that differs. Something on one side only, and then on the other, is one in the other's place. */
export function explainPlaces(
  stepOp: number,
  places: readonly Place[],
  at: number,
  labels: Labels,
  config: KvmConfig | undefined,
): Explanation {
  const place = places[at]!;
  let next = at;
  while (places[next]?.state === place.state) next++;
  const isReplaced = place.state === 'only-a' && places[next]?.state === 'only-b';
  const b = isReplaced ? places[next]!.b : place.b;
  const { a } = place;
  const step = stepName(stepOp);
  if (a.length === 0) {
    return {
      cause: `${labels[1]} has ${longName(b)}, which ${labels[0]} lacks`,
      group: `${step}: nothing / ${shortName(b)}`,
    };
  }
  if (b.length === 0) {
    return {
      cause: `${labels[0]} has ${longName(a)}, which ${labels[1]} lacks`,
      group: `${step}: ${shortName(a)} / nothing`,
    };
  }
  if (place.fields.length > 0) {
    const fields = fieldNames(place, config);
    return { cause: `${shortName(a)} differs in ${fields}`, group: `${step}: ${shortName(a)} (${fields})` };
  }
  const [x, y] = [longName(a), longName(b)];
  const cause = x === y ? `${x} differs` : `${labels[0]} has ${x}, ${labels[1]} ${y}`;
  return { cause, group: `${step}: ${shortName(a)} / ${shortName(b)}` };
}
