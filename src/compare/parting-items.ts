/** What two machines did in a step, told in rows or not, put side by side. */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { type Seen, type SeenWord, seenWordText } from '../replay/explain-seen.ts';
import type { CapturedStep, Words } from '../replay/explain-step.ts';
import type { ContextName, ExplainedPlace } from '../replay/explanation.ts';
import type { Row } from '../replay/result.ts';
import { sideBySide } from '../replay/sequence.ts';
import { unitsOf } from '../replay/units.ts';

/** An action of a step, or what a row tells, of one side. */
export interface Item {
  readonly context: ContextName;
  readonly kind: string;
  readonly does: string;
  readonly word: SeenWord | undefined;
  readonly table: Seen['table'];
  readonly rows: readonly Row[];
  readonly key: string;
  readonly text: string;
}

export function itemsOf(step: CapturedStep, words: Words, config: KvmConfig | undefined): Item[] {
  const items: Item[] = [];
  let next = 0;
  const take = (row: number): void => {
    for (; next < step.seen.length && step.seen[next]!.row <= row; next++) items.push(itemOf(step.seen[next]!, config));
  };
  for (const { rows, at } of unitsOf(step.rows)) {
    take(at);
    const isEvent = (rows[0]!.op & OBS_KIND_MASK) === Obs.KVM_EVENT;
    const context = step.signed.get(at) ?? (isEvent ? 'kvm' : 'processor');
    const text = words.rows(rows, step.registers);
    const numbers = rows.map(({ op, addressLo, addressHi, valueLo, valueHi }) =>
      [op, addressLo, addressHi, valueLo, valueHi].join(),
    );
    items.push({
      context,
      kind: 'event',
      does: text.split(' ')[0]!,
      word: undefined,
      table: undefined,
      rows,
      key: numbers.join(';'),
      text,
    });
  }
  take(Number.POSITIVE_INFINITY);
  return items;
}

function itemOf({ context, kind, does, word, table }: Seen, config: KvmConfig | undefined): Item {
  const text = word === undefined || config === undefined ? does : `${does}: ${seenWordText(word, config)}`;
  const number = word === undefined ? '' : ` ${word.lo} ${word.hi}`;
  return { context, kind, does, word, table, rows: [], key: `${context} ${does}${number}`, text };
}

export interface Pairing {
  readonly a: Item | undefined;
  readonly b: Item | undefined;
  readonly state: ExplainedPlace['state'];
}

export function paired(a: readonly Item[], b: readonly Item[]): Pairing[] {
  const keys = (items: readonly Item[]): string[][] => [
    items.map(({ key }) => key),
    items.map(({ context, kind, does }) => `${context} ${kind} ${does}`),
  ];
  return sideBySide(keys(a), keys(b)).map(([i, j]) => {
    const [left, right] = [a[i], b[j]];
    const state =
      left === undefined ? 'only-b' : right === undefined ? 'only-a' : left.key === right.key ? 'equal' : 'differs';
    return { a: left, b: right, state };
  });
}

export function placeOf({ a, b, state }: Pairing): ExplainedPlace {
  const text = (item: Item | undefined): string[] => (item === undefined ? [] : [`${item.context}: ${item.text}`]);
  return { state, a: text(a), b: text(b), fields: [] };
}
