/**
 * What two steps that stand side by side let KVM do and the guest see: their rows put side by side, events field by
 * field, host frames under their names (`trace-names.ts`).
 */

import type { Word64 } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { isHostEvent, KVM_EVENT_NAMES, KvmEvent, kvmEventOf, kvmSpteLevel } from '../formats/kvm-event.ts';
import { fieldNumber, KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, OBS_NAMES, Obs } from '../formats/observation.ts';
import { eventsTold } from '../replay/events.ts';
import type { Row } from '../replay/result.ts';
import { sideBySide } from '../replay/sequence.ts';
import { eventOf, placeKey, rowsEvent, shapeKey, type Unit, unitsOf } from '../replay/units.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { TraceSide } from './trace-lanes.ts';
import { TraceNames } from './trace-names.ts';
import { stepRows, type TraceStep } from './trace-steps.ts';
import { bitChanges, exitChanges, pfecChanges, roleChanges, spteChanges } from './trace-words.ts';

/** One event, or one row of another kind, as it was recorded. */
export type Observed = readonly Row[];

export interface EventDifference {
  /** The event's name, or the kind of row: `set-spte`, `guest: exception`. */
  readonly subject: string;
  /** `only-a`, `only-b`: the other side has nothing in its place. `moved`: it has it elsewhere in the step. */
  readonly kind: 'differs' | 'moved' | 'only-a' | 'only-b';
  /** Of one field: `spte: a 1 → 0 (bit 8)`; empty if only one side has the event. */
  readonly change: string;
  readonly a: Observed | undefined;
  readonly b: Observed | undefined;
}

export interface EventCounts {
  /** Events and rows of other kinds that are equal but for names. */
  equal: number;
  differ: number;
  /** Both have it in one step, in another order. */
  moved: number;
  onlyA: number;
  onlyB: number;
}

/** An event with what both sides are compared by: host addresses by memslot. */
interface NamedUnit extends Unit {
  readonly recorded: Observed;
}

/** What was requested for a guest frame within the step. */
interface Requested {
  readonly gfn: number;
  readonly frame: number;
}

/** Bits of a base role word that hold the level, in every profile. */
const ROLE_LEVEL = 0xf;
const SPTE_PRESENT = 1 << 11;
const SPTE_LARGE = 1 << 7;
/** From here on the upper half of a pfn is no frame: KVM's error and no-slot values. */
const PFN_END_HI = 1 << 20;
const PAGES_BY_LEVEL: readonly number[] = [1, 1, 2 ** 9, 2 ** 18];

/** Fields of events whose values a class of differences names; others merely differ. */
const SHOWN: ReadonlySet<string> = new Set([
  'level',
  'exception',
  'type',
  'exit_reason',
  'exit_code',
  'as_id',
  'errno',
]);
const ERROR_CODES: ReadonlySet<string> = new Set(['pferr', 'error_code', 'access']);

const FRAME_RELATION = 'frame: ';
const BEFORE = 'the one that the gfn had before';
/** How differences begin where one host gave a page another frame than before, and the other did not. */
export const HOST_FRAME = `${FRAME_RELATION}${BEFORE}`;

function frameNumber({ lo, hi }: Word64): number {
  return (hi & 0xf_ffff) * 2 ** 20 + (lo >>> 12);
}

/** Whether an SPTE points at a page, at a table, or holds no frame. */
function frameOf({ lo }: Word64, level: number): 'page' | 'table' | 'none' {
  if ((lo & SPTE_PRESENT) === 0) return 'none';
  return level === 1 || (level <= 3 && (lo & SPTE_LARGE) !== 0) ? 'page' : 'table';
}

function wordOf({ column, row }: KvmField, rows: Observed): Word64 {
  const at = rows[row];
  if (at === undefined) return { lo: 0, hi: 0 };
  if (column === 'op') return { lo: at.op, hi: 0 };
  return column === 'address' ? { lo: at.addressLo, hi: at.addressHi } : { lo: at.valueLo, hi: at.valueHi };
}

function fieldOf(event: number, name: string): KvmField | undefined {
  return KVM_EVENT_FIELDS[event]!.find((field) => field.name === name);
}

/** The event and what it is about: of a shadow page also its level, of which there may be several for one frame. */
function placeOf(unit: Unit): string {
  const event = eventOf(unit);
  const isPage = event >= KvmEvent.GET_PAGE && event <= KvmEvent.PREPARE_ZAP_PAGE;
  return isPage ? `${placeKey(unit)} ${unit.rows[0]!.valueLo & ROLE_LEVEL}` : placeKey(unit);
}

function subjectOf(rows: Observed): string {
  const event = rowsEvent(rows);
  const { op } = rows[0]!;
  if (event < 0) return `guest: ${OBS_NAMES[op & OBS_KIND_MASK] ?? `observation ${op & OBS_KIND_MASK}`}`;
  return KVM_EVENT_NAMES[event] ?? `event ${event}`;
}

export class TraceEvents {
  readonly counts: EventCounts = { equal: 0, differ: 0, moved: 0, onlyA: 0, onlyB: 0 };
  /** Bit n: rows of kind n, where both recorders could see them. Of role words also only the bits that both have. */
  readonly observable: number;
  private readonly roleBits: number;
  private readonly names = new TraceNames();
  readonly mmus: readonly [a: KvmConfig | undefined, b: KvmConfig | undefined];

  constructor(a: TraceHeader, b: TraceHeader) {
    this.mmus = [a.hypervisor?.mmu, b.hypervisor?.mmu];
    this.observable = a.observable & b.observable;
    const [toldA, toldB] = [eventsTold(a), eventsTold(b)];
    this.roleBits = toldA.roleBits & toldB.roleBits;
  }

  /** Events and rows of a step without a partner, counted as they are; the tables that it zaps go. */
  alone(step: TraceStep, side: TraceSide): number {
    const units = this.unitsOf(step);
    for (const unit of units) this.noteZap(unit.recorded, side);
    if (side === 'a') this.counts.onlyA += units.length;
    else this.counts.onlyB += units.length;
    return units.length;
  }

  /** Compares the rows of two steps. */
  compare(a: TraceStep, b: TraceStep): EventDifference[] {
    const unitsA = this.unitsOf(a);
    const unitsB = this.unitsOf(b);
    const { roleBits } = this;
    const shapesA = unitsA.map((unit) => shapeKey(unit, roleBits));
    const shapesB = unitsB.map((unit) => shapeKey(unit, roleBits));
    const pairs = sideBySide([shapesA, unitsA.map(placeOf)], [shapesB, unitsB.map(placeOf)]);
    const requested: Record<TraceSide, Requested | undefined> = { a: undefined, b: undefined };
    const alone: { readonly side: TraceSide; readonly shape: string; readonly unit: NamedUnit }[] = [];
    const differences: EventDifference[] = [];
    for (const [x, y] of pairs) {
      const [unitA, unitB] = [unitsA[x], unitsB[y]];
      if (unitA !== undefined && unitB !== undefined) {
        const changes = this.changes(unitA, unitB, requested);
        if (changes.length === 0) this.counts.equal++;
        else this.counts.differ++;
        const subject = subjectOf(unitA.recorded);
        for (const change of changes) {
          differences.push({ subject, kind: 'differs', change, a: unitA.recorded, b: unitB.recorded });
        }
      } else if (unitA !== undefined) {
        this.relations(unitA, 'a', requested);
        alone.push({ side: 'a', shape: shapesA[x]!, unit: unitA });
      } else if (unitB !== undefined) {
        this.relations(unitB, 'b', requested);
        alone.push({ side: 'b', shape: shapesB[y]!, unit: unitB });
      }
      if (unitA !== undefined) this.noteZap(unitA.recorded, 'a');
      if (unitB !== undefined) this.noteZap(unitB.recorded, 'b');
    }
    return [...differences, ...this.oneSided(alone)];
  }

  /** Events that stand alone: what both sides have, if in another order, was moved. */
  private oneSided(
    alone: readonly { readonly side: TraceSide; readonly shape: string; readonly unit: NamedUnit }[],
  ): EventDifference[] {
    const elsewhere = new Map<string, NamedUnit[]>();
    for (const { side, shape, unit } of alone) {
      if (side !== 'b') continue;
      const units = elsewhere.get(shape);
      if (units === undefined) elsewhere.set(shape, [unit]);
      else units.push(unit);
    }
    const moved = new Set<NamedUnit>();
    const differences: EventDifference[] = [];
    for (const { side, shape, unit } of alone) {
      if (side === 'b') continue;
      const partner = elsewhere.get(shape)?.shift();
      const subject = subjectOf(unit.recorded);
      if (partner !== undefined) {
        moved.add(partner);
        this.counts.moved++;
        differences.push({ subject, kind: 'moved', change: '', a: unit.recorded, b: partner.recorded });
      } else {
        this.counts.onlyA++;
        differences.push({ subject, kind: 'only-a', change: '', a: unit.recorded, b: undefined });
      }
    }
    for (const { side, unit } of alone) {
      if (side !== 'b' || moved.has(unit)) continue;
      this.counts.onlyB++;
      const subject = subjectOf(unit.recorded);
      differences.push({ subject, kind: 'only-b', change: '', a: undefined, b: unit.recorded });
    }
    return differences;
  }

  private unitsOf(step: TraceStep): NamedUnit[] {
    const rows = stepRows(step, this.observable | (1 << Obs.KVM_MORE));
    return unitsOf(rows).map((unit) => {
      const event = eventOf(unit);
      const named = event >= 0 && isHostEvent(event) ? unit.rows.map((row) => step.host.named(row)) : unit.rows;
      return { rows: named, at: unit.at, recorded: unit.rows };
    });
  }

  /** How two units differ, a text for each field. */
  private changes(a: Unit, b: Unit, requested: Record<TraceSide, Requested | undefined>): string[] {
    const event = eventOf(a);
    if (event < 0 || event !== eventOf(b)) return rowChanges(a.rows[0]!, b.rows[0]!);
    const relationsA = this.relations(a, 'a', requested);
    const relationsB = this.relations(b, 'b', requested);
    const parts: string[] = [];
    for (const field of KVM_EVENT_FIELDS[event]!) {
      const change = this.fieldChanges(event, field, a.rows, b.rows);
      if (change !== '') parts.push(`${field.name}: ${change}`);
    }
    for (const { text, holds } of relationsA) {
      const other = relationsB.find((each) => each.text === text)?.holds;
      if (holds === undefined || other === undefined || holds === other) continue;
      parts.push(`${FRAME_RELATION}${text} only in ${holds ? 'A' : 'B'}`);
    }
    return parts;
  }

  private fieldChanges(event: number, field: KvmField, rowsA: Observed, rowsB: Observed): string {
    const [a, b] = [wordOf(field, rowsA), wordOf(field, rowsB)];
    const level = kvmSpteLevel(rowsA[0]!.op);
    switch (field.kind) {
      case 'spte': {
        const change = spteChanges(a, b, level, this.mmus);
        if (change !== '' || frameOf(a, level) !== 'table' || frameOf(b, level) !== 'table') return change;
        return this.names.sameTable(frameNumber(a), frameNumber(b)) ? '' : 'another table';
      }
      case 'sptep': {
        if (((a.lo ^ b.lo) & 0xfff) !== 0) return 'another entry of its table';
        const none = (a.lo | a.hi) === 0 || (b.lo | b.hi) === 0;
        if (none) return a.lo === b.lo && a.hi === b.hi ? '' : 'no entry on one side';
        const frame = ({ lo, hi }: Word64): number => hi * 2 ** 20 + (lo >>> 12);
        return this.names.sameTable(frame(a), frame(b)) ? '' : 'in another table';
      }
      case 'pfn': {
        const frame = a.hi < PFN_END_HI && b.hi < PFN_END_HI;
        return frame || (a.lo === b.lo && a.hi === b.hi) ? '' : 'no frame on one side, or another error';
      }
      case 'role':
        return roleChanges(a.lo, b.lo, this.roleBits, this.mmus);
      default:
        return this.plainChanges(event, field, a, b);
    }
  }

  private plainChanges(event: number, field: KvmField, a: Word64, b: Word64): string {
    if ((((a.lo ^ b.lo) & field.maskLo) | ((a.hi ^ b.hi) & field.maskHi)) === 0) return '';
    if (field.width === 1 || (SHOWN.has(field.name) && field.width <= 32)) {
      return `${fieldNumber(field, a.lo, a.hi)} → ${fieldNumber(field, b.lo, b.hi)}`;
    }
    if (SHOWN.has(field.name) && a.hi === 0 && b.hi === 0) return `${a.lo.toString(16)} → ${b.lo.toString(16)}`;
    if (event === KvmEvent.PAGE_FAULT && field.name === 'error_code') return exitChanges(a, b, this.mmus);
    if (ERROR_CODES.has(field.name)) return pfecChanges(a, b);
    return field.kind === 'flags' ? bitChanges(a, b) : 'differs';
  }

  /** What an event says of its page's frame in relation to others of its own side. */
  private relations(
    { rows }: Unit,
    side: TraceSide,
    requested: Record<TraceSide, Requested | undefined>,
  ): { readonly text: string; readonly holds: boolean | undefined }[] {
    const event = rowsEvent(rows);
    const { op, addressLo, addressHi } = rows[0]!;
    const gfn = addressHi * 2 ** 32 + addressLo;
    const level = kvmSpteLevel(op);
    if (event === KvmEvent.SPTE_REQUESTED) {
      const { valueLo, valueHi } = rows[0]!;
      if (valueHi >= PFN_END_HI) return [];
      const frame = valueHi * 2 ** 32 + valueLo;
      requested[side] = { gfn, frame };
      return [];
    }
    if (event !== KvmEvent.SET_SPTE && event !== KvmEvent.TDP_SPTE_CHANGED && event !== KvmEvent.FAST_PAGE_FAULT)
      return [];
    const now = wordOf(fieldOf(event, event === KvmEvent.SET_SPTE ? 'spte' : 'new_spte')!, rows);
    if (frameOf(now, level) !== 'page') return [];
    const frame = frameNumber(now);
    const relations: { text: string; holds: boolean | undefined }[] = [];
    if (event !== KvmEvent.SET_SPTE) {
      const old = wordOf(fieldOf(event, 'old_spte')!, rows);
      const holds = frameOf(old, level) === 'page' ? frameNumber(old) === frame : undefined;
      relations.push({ text: 'that of old_spte', holds });
    }
    if (event === KvmEvent.FAST_PAGE_FAULT) return relations;
    const pages = PAGES_BY_LEVEL[level]!;
    const wanted = requested[side];
    const within = wanted !== undefined && Math.floor(wanted.gfn / pages) === Math.floor(gfn / pages);
    relations.push({
      text: 'the one requested',
      holds: within ? Math.floor(wanted.frame / pages) === Math.floor(frame / pages) : undefined,
    });
    relations.push({
      text: BEFORE,
      holds: this.names.samePage(side, gfn * 8 + level, frame),
    });
    return relations;
  }

  private noteZap(rows: Observed, side: TraceSide): void {
    const event = rowsEvent(rows);
    if (event < 0) return;
    const op = rows[0]!.op;
    if (kvmEventOf(op) === KvmEvent.PREPARE_ZAP_PAGE || event === KvmEvent.ZAP_ALL_FAST) this.names.zapped(side);
    else if (event === KvmEvent.TDP_SPTE_CHANGED) {
      const old = wordOf(fieldOf(event, 'old_spte')!, rows);
      if (frameOf(old, kvmSpteLevel(op)) === 'table') this.names.zapped(side);
    }
  }
}

/** Rows that are no event of KVM's; none changes if nothing does. */
function rowChanges(a: Row, b: Row): string[] {
  const [kindA, kindB] = [a.op & OBS_KIND_MASK, b.op & OBS_KIND_MASK];
  if (kindA !== kindB) return [`now ${OBS_NAMES[kindB] ?? kindB}`];
  const parts: string[] = [];
  if (a.op !== b.op) parts.push('level, size or kind: differs');
  if (a.addressLo !== b.addressLo || a.addressHi !== b.addressHi) parts.push('address: differs');
  const value = bitChanges({ lo: a.valueLo, hi: a.valueHi }, { lo: b.valueLo, hi: b.valueHi });
  if (value !== '') parts.push(`value: ${value}`);
  return parts;
}
