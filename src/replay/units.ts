/** Rows cut into what is compared as one: an event of KVM with its further rows, or a row of another kind. */

import { KVM_EVENT_COUNT, KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS } from '../formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, OBS_LEVEL_MASK, OBS_LEVEL_SHIFT, Obs, obsMask } from '../formats/observation.ts';
import type { Row } from './result.ts';

/** How an access ended, or that how is not modelled. */
const OUTCOMES = obsMask(
  Obs.TRANSLATED,
  Obs.COMPLETED,
  Obs.EXCEPTION,
  Obs.EPT_VIOLATION,
  Obs.EPT_MISCONFIG,
  Obs.NPF,
  Obs.PML_FULL,
  Obs.FAULTED,
  Obs.NOT_MODELLED,
);

export interface Unit {
  readonly rows: readonly Row[];
  /** Position of the first row: in the step's recorded rows, or in the machine's log. */
  readonly at: number;
}

/** The event of a unit's rows, or -1 for rows of another kind and for nothing. */
export function rowsEvent(rows: readonly Row[]): number {
  const first = rows[0];
  if (first === undefined || (first.op & OBS_KIND_MASK) !== Obs.KVM_EVENT) return -1;
  const event = kvmEventOf(first.op);
  return event < KVM_EVENT_COUNT ? event : -1;
}

export function eventOf(unit: Unit): number {
  return rowsEvent(unit.rows);
}

/** Cuts rows into units. */
export function unitsOf(rows: readonly Row[]): Unit[] {
  const units: { rows: Row[]; at: number }[] = [];
  rows.forEach((row, at) => {
    const last = units.at(-1);
    if ((row.op & OBS_KIND_MASK) === Obs.KVM_MORE && last !== undefined) last.rows.push(row);
    else units.push({ rows: [row], at });
  });
  return units;
}

/** Host frames and what is no field left out: equal for events that differ in nothing but the names of frames. */
export function shapeKey(unit: Unit, roleBits: number): string {
  const event = eventOf(unit);
  const first = unit.rows[0]!;
  if (event < 0)
    return `${first.op & OBS_KIND_MASK} ${first.op} ${first.addressLo} ${first.addressHi} ${first.valueLo}`;
  const parts = KVM_EVENT_FIELDS[event]!.map(({ kind, column, row, maskLo, maskHi }) => {
    const at = unit.rows[row] ?? first;
    const lo = column === 'op' ? at.op : column === 'address' ? at.addressLo : at.valueLo;
    const hi = column === 'op' ? 0 : column === 'address' ? at.addressHi : at.valueHi;
    if (kind === 'spte' && (lo & (1 << 11)) !== 0) return `${lo & 0xfff}.${(hi & 0xfff0_0000) >>> 0}`;
    if (kind === 'sptep') return lo & 0xfff;
    if (kind === 'pfn') return hi >= 1 << 20 ? `${lo}.${hi}` : '';
    return `${(lo & maskLo & (kind === 'role' ? roleBits : ~0)) >>> 0}.${(hi & maskHi) >>> 0}`;
  });
  return `e${event} ${parts.join(' ')}`;
}

/** The event, the address or frame that it is about, and the level. */
export function placeKey(unit: Unit): string {
  const event = eventOf(unit);
  const { op, addressLo, addressHi } = unit.rows[0]!;
  // Where an entry stands the machine may say, a recording does not.
  if (event === KvmEvent.PAGING_ELEMENT) return `e${event} ${(op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK}`;
  return event < 0 ? kindKey(unit) : `e${event} ${addressLo} ${addressHi} ${(op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK}`;
}

export function kindKey(unit: Unit): string {
  const event = eventOf(unit);
  if (event >= 0) return `e${event}`;
  const { op } = unit.rows[0]!;
  const kind = op & OBS_KIND_MASK;
  return ((OUTCOMES >>> kind) & 1) !== 0 ? 'outcome' : `${kind}`;
}
