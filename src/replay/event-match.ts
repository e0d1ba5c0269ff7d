/**
 * Compares one recorded event of KVM's with one of the machine, field by field, host frames under their names
 * (`frames.ts`), and counts what each field told (`event-counters.ts`). Both events are copied into scratch space first:
 * nothing is allocated per event.
 */

import { KVM_MORE_ROWS, KvmEvent, kvmEventOf, kvmSpteLevel } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';
import { OBS_LEARNED } from '../formats/observation.ts';
import { StepKind } from '../formats/step.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO, type RowLog } from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';
import { type EventCounters, FieldCounter } from './event-counters.ts';
import { comparedBits, isFinding, isInput } from './event-inputs.ts';
import type { FrameNames } from './frames.ts';
import type { Row, WrongFrame } from './result.ts';

/** Elements per row: address and value, low halves first. */
const SCRATCH_ROW = 4;
const SCRATCH = 3 * SCRATCH_ROW;
const SPTE_PRESENT = 1 << 11;
const SPTE_LARGE = 1 << 7;
const LARGEST_PAGE = 3;
const FRAME_LO = 0xffff_f000;
const FRAME_HI = 0xf_ffff;
/** From here on the upper half of a pfn is no frame: KVM's error and no-slot values. */
const PFN_END_HI = 1 << 20;

/** What host frame is in an SPTE, if any (facts/kvm-mmu.md §6.7). */
const Frame = { NONE: 0, PAGE: 1, TABLE: 2 } as const;

/** Frozen, empty and MMIO SPTEs have bit 11 clear, and hold no frame. Nothing above level 3 is a page. */
function frameOfSpte(lo: number, level: number): number {
  if ((lo & SPTE_PRESENT) === 0) return Frame.NONE;
  return level === 1 || (level <= LARGEST_PAGE && (lo & SPTE_LARGE) !== 0) ? Frame.PAGE : Frame.TABLE;
}

/** Fields that a fault or call of the VMM is concluded from where a trace has no exits, by event. */
const CONCLUDED_FROM: Readonly<Record<number, readonly string[]>> = {
  [KvmEvent.PAGETABLE_WALK]: ['addr', 'pferr'],
  [KvmEvent.SPTE_REQUESTED]: ['gfn'],
  [KvmEvent.FAST_PAGE_FAULT]: ['cr2_or_gpa', 'error_code'],
  [KvmEvent.HANDLE_MMIO_PAGE_FAULT]: ['addr', 'gfn'],
  [KvmEvent.ZAP_ALL_FAST]: ['mmu_valid_gen'],
};

function frameNumber(lo: number, hi: number): number {
  return hi * 2 ** 20 + (lo >>> 12);
}

export class EventMatcher {
  private readonly names: FrameNames;
  private readonly counters: EventCounters;
  /** Bits of role words that the recording tells. */
  private readonly roleMask: number;
  private readonly vendor: 'amd' | 'intel' | null;
  /** What the machine was told just ahead of the step because the step shows it: nothing, rights of pages, anything. */
  told: 'nothing' | 'pages' | 'anything' = 'nothing';
  /** Kind of the step under way. */
  step = 0;
  /** The step under way was itself concluded from its events: what it is about is no prediction. */
  concluded = false;
  private recordedOp = 0;
  private replayedOp = 0;
  private readonly recorded = new Uint32Array(SCRATCH);
  private readonly replayed = new Uint32Array(SCRATCH);

  /** `vendor`: whose exits the recording tells of; null: both sides are machines, and every bit is compared. */
  constructor(names: FrameNames, counters: EventCounters, roleMask: number, vendor: 'amd' | 'intel' | null = null) {
    this.names = names;
    this.counters = counters;
    this.roleMask = roleMask;
    this.vendor = vendor;
  }

  /** Takes the event at row `row` of a trace. */
  takeRecorded(columns: StepColumns, row: number): void {
    const { observationOp, observationAddress, observationValue } = columns;
    const op = observationOp[row]!;
    const end = row + KVM_MORE_ROWS[kvmEventOf(op)]!;
    this.recordedOp = op;
    for (let from = row, to = 0; from <= end; from++, to += SCRATCH_ROW) {
      this.recorded[to] = observationAddress[2 * from]!;
      this.recorded[to + 1] = observationAddress[2 * from + 1]!;
      this.recorded[to + 2] = observationValue[2 * from]!;
      this.recorded[to + 3] = observationValue[2 * from + 1]!;
    }
  }

  /** Takes the event at row `row` of the machine's log. */
  takeReplayed(log: RowLog, row: number): void {
    const { rows } = log;
    const op = log.op(row);
    const end = row + KVM_MORE_ROWS[kvmEventOf(op)]!;
    this.replayedOp = op;
    for (let from = row * ROW, to = 0; from <= end * ROW; from += ROW, to += SCRATCH_ROW) {
      this.replayed[to] = rows[from + ROW_ADDRESS_LO]!;
      this.replayed[to + 1] = rows[from + ROW_ADDRESS_HI]!;
      this.replayed[to + 2] = rows[from + ROW_VALUE_LO]!;
      this.replayed[to + 3] = rows[from + ROW_VALUE_HI]!;
    }
  }

  /** Takes two events as rows, which begin with a KVM_EVENT. */
  takeRows(recorded: readonly Row[], replayed: readonly Row[]): void {
    this.recordedOp = recorded[0]!.op;
    this.replayedOp = replayed[0]!.op;
    copyRows(recorded, this.recorded);
    copyRows(replayed, this.replayed);
  }

  /** Whether both are the same event with the same fields. Binds and counts nothing. */
  matches(): boolean {
    const event = kvmEventOf(this.recordedOp);
    if (event !== kvmEventOf(this.replayedOp)) return false;
    const fields = KVM_EVENT_FIELDS[event]!;
    for (let i = 0; i < fields.length; i++) if (!this.fieldMatches(event, fields[i]!)) return false;
    return true;
  }

  /** Indices of the fields that differ between two events of one kind. */
  differingFields(): number[] {
    const event = kvmEventOf(this.recordedOp);
    return KVM_EVENT_FIELDS[event]!.flatMap((field, i) => (this.fieldMatches(event, field) ? [] : [i]));
  }

  /** Binds the frames of two events that match, and counts their fields. */
  commit(predictsFaults: boolean, learned: boolean): void {
    const event = kvmEventOf(this.recordedOp);
    const fields = KVM_EVENT_FIELDS[event]!;
    const { counters } = this;
    const level = kvmSpteLevel(this.recordedOp);
    const foundHere = predictsFaults && this.step === StepKind.FAULT_EXIT;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i]!;
      switch (field.kind) {
        case 'spte':
          counters.field(event, i, this.told === 'nothing' ? FieldCounter.PREDICTED : FieldCounter.LEARNED);
          if (frameOfSpte(this.lo(field), level) !== Frame.NONE) counters.second(event, i, this.bind(field, level));
          break;
        case 'sptep':
        case 'pfn':
          counters.field(event, i, this.bind(field, level));
          break;
        default:
          counters.field(event, i, this.plainCounter(event, field, learned));
          if (foundHere && isFinding(event, field, this.exitReason(event))) {
            counters.second(event, i, FieldCounter.PREDICTED);
          }
      }
    }
    counters.equal(event);
  }

  private plainCounter(event: number, field: KvmField, learned: boolean): number {
    if (isInput(event, field, this.step, this.exitReason(event)) || this.bitsCompared(event, field) === 0)
      return FieldCounter.INPUT;
    if (this.told === 'anything') return FieldCounter.LEARNED;
    if (this.concluded && CONCLUDED_FROM[event]?.includes(field.name) === true) return FieldCounter.INPUT;
    if (event !== KvmEvent.PAGING_ELEMENT || field.name !== 'pte') return FieldCounter.PREDICTED;
    return learned || (this.replayedOp & OBS_LEARNED) !== 0 ? FieldCounter.LEARNED : FieldCounter.PREDICTED;
  }

  /** The first frame that has another name, if all else is equal or not. */
  wrongFrame(): WrongFrame | undefined {
    const event = kvmEventOf(this.recordedOp);
    for (const field of KVM_EVENT_FIELDS[event]!) {
      const kind = this.frameKind(field);
      if (kind === Frame.NONE || this.fieldMatches(event, field) || !this.sameButFrame(field)) continue;
      const recorded = this.frame(field, this.recorded);
      const replayed = this.frame(field, this.replayed);
      const isTable = kind === Frame.TABLE;
      const expected = isTable ? this.names.tableName(replayed) : this.names.pageName(replayed);
      return { field: field.name, isTable, recorded, replayed, expected };
    }
    return undefined;
  }

  /**
   * Binds what two events of one kind name by frames, although they differ: the recording is right from here on.
   * `force`: also against what was bound before.
   */
  adopt(force: boolean): void {
    const event = kvmEventOf(this.recordedOp);
    const level = kvmSpteLevel(this.recordedOp);
    for (const field of KVM_EVENT_FIELDS[event]!) {
      if (this.frameKind(field) === Frame.NONE) continue;
      if (this.fieldMatches(event, field) || (force && this.sameButFrame(field))) this.bind(field, level);
    }
  }

  /** Whether a field is equal but for its host frame. */
  private sameButFrame(field: KvmField): boolean {
    const lo = this.lo(field) ^ this.lo(field, this.replayed);
    const hi = this.hi(field) ^ this.hi(field, this.replayed);
    switch (field.kind) {
      case 'spte':
        return (lo & ~FRAME_LO) === 0 && (hi & ~FRAME_HI) === 0;
      case 'sptep':
        return (lo & ~FRAME_LO) === 0;
      case 'pfn':
        return true;
      default:
        return ((lo & field.maskLo) | (hi & field.maskHi)) === 0;
    }
  }

  private fieldMatches(event: number, field: KvmField): boolean {
    const kind = this.frameKind(field);
    if (field.kind === 'role') {
      return ((this.lo(field) ^ this.lo(field, this.replayed)) & field.maskLo & this.roleMask) === 0;
    }
    if (kind === Frame.NONE) {
      const lo = (this.lo(field) ^ this.lo(field, this.replayed)) & field.maskLo;
      const hi = (this.hi(field) ^ this.hi(field, this.replayed)) & field.maskHi;
      if ((lo | hi) === 0) return true;
      const compared = this.bitsCompared(event, field);
      return compared === 0 || ((lo & compared) | hi) === 0;
    }
    if (!this.sameButFrame(field)) return false;
    const recorded = this.frame(field, this.recorded);
    const replayed = this.frame(field, this.replayed);
    if (kind === Frame.TABLE) return this.names.tableFits(replayed, recorded);
    return this.names.pageFits(replayed, recorded, this.mappingLevel(field));
  }

  /** A VM exit's reason or code; 0 for other events. */
  private exitReason(event: number): number {
    const isExit = event === KvmEvent.NESTED_VMEXIT || event === KvmEvent.NESTED_VMEXIT_INJECT;
    return isExit ? this.recorded[SCRATCH_ROW]! : 0;
  }

  private bitsCompared(event: number, field: KvmField): number {
    if (this.vendor === null) return -1;
    const interruption = event === KvmEvent.NESTED_VMEXIT_INJECT ? this.recorded[SCRATCH_ROW + 2]! : 0;
    return comparedBits(event, field, this.step, this.vendor, interruption);
  }

  /** What kind of frame both sides' field holds; NONE if it is compared as it is. */
  private frameKind(field: KvmField): number {
    switch (field.kind) {
      case 'spte': {
        const level = kvmSpteLevel(this.recordedOp);
        const kind = frameOfSpte(this.lo(field), level);
        return kind === frameOfSpte(this.lo(field, this.replayed), kvmSpteLevel(this.replayedOp)) ? kind : Frame.NONE;
      }
      case 'sptep': {
        const none = (this.lo(field) | this.hi(field)) === 0;
        return none || (this.lo(field, this.replayed) | this.hi(field, this.replayed)) === 0 ? Frame.NONE : Frame.TABLE;
      }
      case 'pfn':
        return this.hi(field) < PFN_END_HI && this.hi(field, this.replayed) < PFN_END_HI ? Frame.PAGE : Frame.NONE;
      default:
        return Frame.NONE;
    }
  }

  /** Level of the mapping that a page's frame is the first of: a requested frame stands for itself. */
  private mappingLevel(field: KvmField): number {
    return field.kind === 'spte' ? kvmSpteLevel(this.recordedOp) : 1;
  }

  /** Binds a field's frame; which counter that is. Fields without a frame were compared as they are. */
  private bind(field: KvmField, level: number): number {
    const kind = this.frameKind(field);
    if (kind === Frame.NONE) return FieldCounter.PREDICTED;
    const recorded = this.frame(field, this.recorded);
    const replayed = this.frame(field, this.replayed);
    const known =
      kind === Frame.TABLE
        ? this.names.bindTable(replayed, recorded)
        : this.names.bindPage(replayed, recorded, field.kind === 'spte' ? level : 1);
    return known ? FieldCounter.RENAMED : FieldCounter.LEARNED;
  }

  /** The frame number that a field of kind `spte`, `sptep` or `pfn` holds. */
  private frame(field: KvmField, side: Uint32Array): number {
    const lo = this.lo(field, side);
    const hi = this.hi(field, side);
    if (field.kind === 'pfn') return hi * 0x1_0000_0000 + lo;
    return frameNumber(lo, field.kind === 'spte' ? hi & FRAME_HI : hi);
  }

  /** Low half of a field's column. */
  private lo({ column, row }: KvmField, side: Uint32Array = this.recorded): number {
    if (column === 'op') return side === this.recorded ? this.recordedOp : this.replayedOp;
    return side[row * SCRATCH_ROW + (column === 'address' ? 0 : 2)]!;
  }

  private hi({ column, row }: KvmField, side: Uint32Array = this.recorded): number {
    return column === 'op' ? 0 : side[row * SCRATCH_ROW + (column === 'address' ? 1 : 3)]!;
  }
}

function copyRows(rows: readonly Row[], to: Uint32Array): void {
  to.fill(0);
  rows.slice(0, 3).forEach((row, i) => {
    to.set([row.addressLo, row.addressHi, row.valueLo, row.valueHi], i * SCRATCH_ROW);
  });
}
