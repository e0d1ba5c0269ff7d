/**
 * Two machines' rows of one step side by side.
 *
 * Both machines number host frames alike, so at first rows have to be equal as they are. Once the two have parted they
 * may not, e.g. since one has a table more: from then on frames are compared up to renaming (`replay/frames.ts`), or
 * one difference would become many.
 */

import { KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';
import type { KvmView } from '../machine/machine.ts';
import { sameRow } from '../replay/align.ts';
import { EventCounters } from '../replay/event-counters.ts';
import { EventMatcher } from '../replay/event-match.ts';
import { FrameNames } from '../replay/frames.ts';
import type { Row } from '../replay/result.ts';
import { sideBySide } from '../replay/sequence.ts';
import { eventOf, kindKey, placeKey, rowsEvent, shapeKey, type Unit, unitsOf } from '../replay/units.ts';
import type { Place, PlaceState } from './result.ts';

const EVERY_ROLE_BIT = ~0;

function keysOf(units: readonly Unit[]): string[][] {
  return [units.map((unit) => shapeKey(unit, EVERY_ROLE_BIT)), units.map(placeKey), units.map(kindKey)];
}

function fieldWord(rows: readonly Row[], { row, column, maskLo, maskHi }: KvmField): readonly [lo: number, hi: number] {
  const from = rows[row];
  if (from === undefined) return [0, 0];
  const lo = column === 'op' ? from.op : column === 'address' ? from.addressLo : from.valueLo;
  const hi = column === 'op' ? 0 : column === 'address' ? from.addressHi : from.valueHi;
  return [(lo & maskLo) >>> 0, (hi & maskHi) >>> 0];
}

/** Names of the fields of two events of one kind that differ as they are. */
export function fieldsThatDiffer(event: number, a: readonly Row[], b: readonly Row[]): string[] {
  return KVM_EVENT_FIELDS[event]!.filter((field) => {
    const [x, y] = [fieldWord(a, field), fieldWord(b, field)];
    return x[0] !== y[0] || x[1] !== y[1];
  }).map(({ name }) => name);
}

export class Alignment {
  private readonly names = new FrameNames();
  private readonly matcher: EventMatcher;
  private readonly view: KvmView | null;
  private renaming = false;
  private used = 0;

  /** `view`: the second side's KVM, whose tables' names are void when it gives their frames to others. */
  constructor(view: KvmView | null) {
    this.view = view;
    const vendor = view?.config.vendor ?? 'intel';
    this.matcher = new EventMatcher(this.names, new EventCounters(), EVERY_ROLE_BIT, vendor);
  }

  /** Whether rows that are not equal as they are may be equal up to the names of frames. */
  get renames(): boolean {
    return this.renaming;
  }

  /** The two sides have parted. */
  startRenaming(): void {
    this.renaming = true;
  }

  /**
   * Puts the rows of a step side by side, from row `begin` of the step on. With renaming, learns and forgets names: to be
   * called once for each step.
   */
  align(rowsA: readonly Row[], rowsB: readonly Row[], begin: number): Place[] {
    const [a, b] = [unitsOf(rowsA), unitsOf(rowsB)];
    this.used = 0;
    const places = sideBySide(keysOf(a), keysOf(b)).map(([i, j]) => this.place(a[i], b[j], begin));
    this.forgetTables(Number.POSITIVE_INFINITY);
    return places;
  }

  private place(a: Unit | undefined, b: Unit | undefined, begin: number): Place {
    if (b !== undefined) this.forgetTables(begin + b.at);
    const sides = { a: a?.rows ?? [], b: b?.rows ?? [] };
    if (b === undefined) return { ...sides, state: 'only-a', fields: [] };
    if (a === undefined) return { ...sides, state: 'only-b', fields: [] };
    const event = eventOf(a);
    const isSameEvent = event > 0 && event === rowsEvent(b.rows) && a.rows.length === b.rows.length;
    const equal = a.rows.length === b.rows.length && a.rows.every((row, i) => isSame(row, b.rows[i]!));
    let state: PlaceState = equal ? 'equal' : 'differs';
    if (isSameEvent && this.renaming) {
      this.matcher.takeRows(a.rows, b.rows);
      if (this.matcher.matches()) {
        this.matcher.commit(true, false);
        state = 'equal';
      } else {
        this.matcher.adopt(true);
        state = 'differs';
      }
    }
    const fields = state === 'differs' && isSameEvent ? fieldsThatDiffer(event, a.rows, b.rows) : [];
    return { ...sides, state, fields };
  }

  private forgetTables(row: number): void {
    if (this.view === null || !this.renaming) return;
    const { tableUses } = this.view;
    for (; this.used < tableUses.length && tableUses[this.used]!.row <= row; this.used++) {
      const { frame, taken } = tableUses[this.used]!;
      if (taken) this.names.forget(frame);
      else this.names.release(frame);
    }
  }
}

function isSame(a: Row, b: Row): boolean {
  return a.op === b.op && sameRow(a, b);
}
