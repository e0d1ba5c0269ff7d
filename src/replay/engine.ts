/**
 * The replay engine: applies steps to a machine and compares, step by step, what it did with what was recorded.
 *
 * The comparison is exact and in order. Four kinds of row are special: COMPLETED matches any translation,
 * FAULTED any exception or exit, and REGISTER and ENTRY_AFTER are questions about the machine's state after the step.
 * Kinds that the recorder could not see are passed over, and so is a step of which nothing was recorded; both are
 * counted. Events of an emulated KVM are compared by `events.ts`, host frames under their names.
 */

import { isHostEvent, KVM_MORE_ROWS, KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import {
  NOT_MODELLED_NAMES,
  OBS_FAULTS,
  OBS_KIND_MASK,
  OBS_NOT_MODELLED_MASK,
  OBS_NOT_MODELLED_SHIFT,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { ACCESS_EXPECTS_ADDRESS, STEP_KIND_MASK, STORE_KNOWLEDGE, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { Counters } from './counters.ts';
import { EventComparison } from './events.ts';
import type { Row } from './result.ts';

/** Whether step `index` of a run takes part in the comparison. */
export type StepFilter = (columns: StepColumns, index: number) => boolean;

export interface MismatchHandler {
  /** Called for a step that did not match, before the next one is applied. Returns false to stop replaying. */
  mismatch(engine: ReplayEngine, columns: StepColumns, index: number): boolean;
}

/** Row kinds that ask about state after the step. */
const QUESTIONS = (1 << Obs.REGISTER) | (1 << Obs.ENTRY_AFTER);
/** Row kinds that are not compared with the machine's next row as they are. */
const SPECIAL = QUESTIONS | (1 << Obs.KVM_EVENT) | (1 << Obs.KVM_MORE);

// V8 folds a module's own constants into the code but loads and checks imported ones at each use: copies for what runs
// on every step.
const STEP_KIND = STEP_KIND_MASK;
const ROW_KIND = OBS_KIND_MASK;
const KNOWLEDGE = STORE_KNOWLEDGE;
const EXPECTS_ADDRESS = ACCESS_EXPECTS_ADDRESS;
const { ACCESS, GPA_ACCESS, STORE } = StepKind;
const { ELEMENT, TRANSLATED, COMPLETED, FAULTED, NOT_MODELLED, KVM_EVENT, KVM_MORE } = Obs;
const FAULTS = OBS_FAULTS;
const ROW_SIZE = ROW;
const AT_ADDRESS_LO = ROW_ADDRESS_LO;
const AT_ADDRESS_HI = ROW_ADDRESS_HI;
const AT_VALUE_LO = ROW_VALUE_LO;
const AT_VALUE_HI = ROW_VALUE_HI;

/** Whether a kind that names no more than how an access ended stands for the machine's outcome. */
function standsFor(kind: number, outcome: number): boolean {
  return (kind === COMPLETED && outcome === TRANSLATED) || (kind === FAULTED && ((FAULTS >>> outcome) & 1) !== 0);
}

function isPartOfEvent(op: number): boolean {
  const kind = op & ROW_KIND;
  return kind === KVM_EVENT || kind === KVM_MORE;
}

/** Whether as many rows follow the KVM_EVENT row at `row` as its event has; the step's rows end at `end`. */
function isWholeEvent(ops: Uint32Array, row: number, end: number): boolean {
  let last = row;
  while (last + 1 < end && (ops[last + 1]! & ROW_KIND) === KVM_MORE) last++;
  return last - row === (KVM_MORE_ROWS[kvmEventOf(ops[row]!)] ?? 0);
}

export class ReplayEngine {
  readonly machine: Machine;
  /** The comparison of KVM's events; null if the recording has none or the machine has no KVM below it. */
  readonly events: EventComparison | null;
  readonly counters = new Counters();
  readonly stepsByKind = new Float64Array(32);
  readonly notModelled = new Map<string, number>();
  /** Accesses of which nothing was recorded. */
  unobserved = 0;
  /** Steps with observations that were not compared: outside `from` and `to`, or filtered out. */
  outside = 0;
  filtered = 0;
  /** Recorded events of KVM that the machine, a bare processor, does not have. */
  beyondMachine = 0;
  /** Steps with observations of their own that were found equal. */
  matched = 0;
  /** Matches that a TLB entry made which memory would not make any more. */
  staleHits = 0;
  /** Ordinal of the next step. */
  ordinal = 0;
  /** Compare only steps with `from` <= ordinal < `to`; the others are applied all the same. */
  from = 0;
  to = Number.POSITIVE_INFINITY;
  filter: StepFilter | null = null;
  /** The machine's rows that take part: what the recorder could see. */
  private readonly visible: number;
  /** The recording has events of KVM and the machine none. */
  private readonly isBelowEvents: boolean;
  /** Of KVM's events those that the recording tells, one bit each. */
  private readonly toldEvents: number;
  /** Entries whose value was stated as knowledge and not yet read: the first comparison learns, it does not predict. */
  private readonly learned = new Set<number>();
  private readonly handler: MismatchHandler;

  constructor(machine: Machine, header: TraceHeader, handler: MismatchHandler) {
    this.machine = machine;
    this.handler = handler;
    const seesEvents = ((header.observable >>> Obs.KVM_EVENT) & 1) !== 0;
    this.events =
      machine.kvm !== null && seesEvents ? new EventComparison(machine.kvm, header, machine.registers) : null;
    this.isBelowEvents = seesEvents && this.events === null;
    this.toldEvents = this.events === null ? 0 : this.events.told.events;
    const completed = ((header.observable >>> Obs.COMPLETED) & 1) << Obs.TRANSLATED;
    const faulted = ((header.observable >>> Obs.FAULTED) & 1) * OBS_FAULTS;
    // What follows an event belongs to it.
    this.visible = (header.observable | completed | faulted | (1 << Obs.NOT_MODELLED)) & ~(1 << Obs.KVM_MORE);
  }

  isVisible(op: number): boolean {
    const kind = op & ROW_KIND;
    if (((this.visible >>> kind) & 1) === 0) return false;
    return kind !== KVM_EVENT || ((this.toldEvents >>> kvmEventOf(op)) & 1) !== 0;
  }

  /** Replays a run of steps. Returns false when the handler asked to stop. */
  run(columns: StepColumns): boolean {
    const { machine, stepsByKind, events } = this;
    const { op, address, operand, observationEnd, stimuli, stepCount } = columns;
    const { tlb } = machine;
    const everything = this.filter === null && this.from === 0 && this.to === Number.POSITIVE_INFINITY;
    this.ordinal = columns.firstOrdinal;
    let begin = 0;
    for (let i = 0; i < stepCount; i++) {
      const word = op[i]!;
      const kind = word & STEP_KIND;
      stepsByKind[kind]!++;
      const at = i << 1;
      const addressLo = address[at]! | 0;
      const addressHi = address[at + 1]! | 0;
      const operandLo = operand[at]! | 0;
      const operandHi = operand[at + 1]! | 0;
      const end = observationEnd[i]!;
      const addressOnly = kind === ACCESS && (word & EXPECTS_ADDRESS) !== 0;
      // By far the commonest step of a long trace: the TLB has what was recorded, nothing happens.
      if (addressOnly && everything && end === begin && machine.serves(word, addressLo, addressHi)) {
        if (tlb.lo === operandLo && tlb.hi === operandHi) {
          this.counters.addressOnly++;
          this.ordinal++;
          continue;
        }
      }
      machine.apply(this.ordinal, word, addressLo, addressHi, operandLo, operandHi, stimuli);
      if (kind === STORE) this.noteStore(word, addressLo, addressHi);
      if (events !== null) {
        events.beginStep();
        if (events.unknown.size > 0) events.noteStep(word, end > begin);
      }
      if (this.takesPart(columns, i, addressOnly || end > begin)) {
        const equal = addressOnly
          ? this.compareAddress(columns, begin, end, operandLo, operandHi)
          : this.compareRows(columns, kind, begin, end);
        if (!equal) {
          if (this.countIfNotModelled()) events?.countNotModelled(columns, begin, end);
          else if (!this.handler.mismatch(this, columns, i)) return false;
        } else {
          if (addressOnly || end > begin) this.matched++;
          if (machine.staleHit) this.staleHits++;
        }
      }
      if (events !== null) events.endStep();
      begin = end;
      this.ordinal++;
    }
    return true;
  }

  private takesPart(columns: StepColumns, index: number, observed: boolean): boolean {
    if (this.ordinal < this.from || this.ordinal >= this.to) {
      if (observed) this.outside++;
      return false;
    }
    if (this.filter === null || !observed || this.filter(columns, index)) return true;
    this.filtered++;
    return false;
  }

  /** The access must have been translated to that physical address; how is not known. Rows may ask questions only. */
  private compareAddress(columns: StepColumns, begin: number, end: number, lo: number, hi: number): boolean {
    const { log } = this.machine;
    const last = log.count - 1;
    if (last < 0 || (this.events !== null && this.hasEvent())) return false;
    const at = last * ROW_SIZE;
    if ((log.rows[at]! & ROW_KIND) !== TRANSLATED) return false;
    if (log.rows[at + AT_ADDRESS_LO] !== lo || log.rows[at + AT_ADDRESS_HI] !== hi) return false;
    this.counters.addressOnly++;
    for (let row = begin; row < end; row++) {
      const expected = columns.observationOp[row]!;
      const kind = expected & ROW_KIND;
      if (((QUESTIONS >>> kind) & 1) === 0 || !this.answers(expected, columns, row)) return false;
      this.counters.rows[kind]!++;
    }
    return true;
  }

  /** Whether the machine's log has an event that the recording would have told. */
  private hasEvent(): boolean {
    const { log } = this.machine;
    for (let k = 0; k < log.count; k++) {
      const op = log.op(k);
      if ((op & ROW_KIND) === KVM_EVENT && this.isVisible(op)) return true;
    }
    return false;
  }

  private compareRows(columns: StepColumns, stepKind: number, begin: number, end: number): boolean {
    const { log } = this.machine;
    const { observationOp, observationAddress, observationValue } = columns;
    const { count } = log;
    const seenRows = log.rows;
    const { rows } = this.counters;
    if (begin === end || (this.isBelowEvents && this.hasNothingForMachine(columns, begin, end))) {
      if (this.events !== null && this.hasEvent()) return false;
      const access = stepKind === ACCESS || stepKind === GPA_ACCESS;
      if (count > 0 && !this.countIfNotModelled() && access) this.unobserved++;
      return true;
    }
    let k = 0;
    for (let j = begin; j < end; j++) {
      const expected = observationOp[j]! | 0;
      const kind = expected & ROW_KIND;
      if (((SPECIAL >>> kind) & 1) !== 0) {
        if (kind === KVM_MORE) {
          if (j === begin || !isPartOfEvent(observationOp[j - 1]!)) return false;
          continue;
        }
        if (kind === KVM_EVENT) {
          if (!isWholeEvent(observationOp, j, end)) return false;
          k = this.compareEvent(columns, stepKind, begin, j, k);
          if (k < 0) return false;
          continue;
        }
        if (!this.answers(expected, columns, j)) return false;
        rows[kind]!++;
        continue;
      }
      while (k < count && !this.isVisible(log.op(k))) k++;
      if (k === count) return false;
      const b = k * ROW_SIZE;
      const seen = seenRows[b]!;
      if (seen !== expected) {
        if (!standsFor(kind, seen & ROW_KIND)) return false;
      } else {
        const a = j << 1;
        const addressLo = seenRows[b + AT_ADDRESS_LO]!;
        const addressHi = seenRows[b + AT_ADDRESS_HI]!;
        if (
          (observationAddress[a]! | 0) !== addressLo ||
          (observationAddress[a + 1]! | 0) !== addressHi ||
          (observationValue[a]! | 0) !== seenRows[b + AT_VALUE_LO] ||
          (observationValue[a + 1]! | 0) !== seenRows[b + AT_VALUE_HI]
        ) {
          return false;
        }
        if (kind === ELEMENT && this.learned.size > 0 && this.takeLearned(addressLo, addressHi)) {
          this.counters.learned[kind]!++;
        }
      }
      rows[kind]!++;
      k++;
    }
    while (k < count && !this.isVisible(log.op(k))) k++;
    return k === count;
  }

  /** Whether all that was recorded of a step are events of KVM and the machine has no KVM. Counts them. */
  private hasNothingForMachine(columns: StepColumns, begin: number, end: number): boolean {
    let events = 0;
    for (let row = begin; row < end; row++) {
      const kind = columns.observationOp[row]! & ROW_KIND;
      if (kind === KVM_EVENT) events++;
      else if (kind !== KVM_MORE) return false;
    }
    this.beyondMachine += events;
    return true;
  }

  /** Compares the event at recorded row `row` with the machine's from row `from` on; how far that got, or -1. */
  private compareEvent(columns: StepColumns, stepKind: number, begin: number, row: number, from: number): number {
    const { events } = this;
    if (events === null) {
      this.beyondMachine++;
      return from;
    }
    const { log } = this.machine;
    let k = from;
    while (k < log.count && !this.isVisible(log.op(k))) k++;
    events.reached = row - begin;
    if (isHostEvent(kvmEventOf(columns.observationOp[row]!))) {
      events.reached++;
      return events.hostEvent(columns, row, log, k) ? k + 1 : k;
    }
    if (k === log.count || (log.op(k) & ROW_KIND) !== KVM_EVENT) return -1;
    const lo = log.rows[k * ROW_SIZE + AT_ADDRESS_LO]!;
    const hi = log.rows[k * ROW_SIZE + AT_ADDRESS_HI]!;
    const element = kvmEventOf(log.op(k)) === KvmEvent.PAGING_ELEMENT;
    const learned = element && this.isLearned(lo, hi);
    if (!events.equal(columns, stepKind, row, log, k, learned)) return -1;
    if (learned) this.takeLearned(lo, hi);
    events.reached = row - begin + 1;
    return k + 1;
  }

  /** Counts rows that turned out to match after all. `addressOnly`: the first is known by its address only. */
  countAfterAll(rows: readonly Row[], addressOnly: boolean): void {
    rows.forEach(({ op, addressLo, addressHi }, i) => {
      const kind = op & ROW_KIND;
      if (addressOnly && i === 0) this.counters.addressOnly++;
      else this.counters.rows[kind]!++;
      if (kind === ELEMENT && this.takeLearned(addressLo, addressHi)) this.counters.learned[kind]!++;
    });
  }

  /** What a store of knowledge states is learned, once; what somebody stored predicts. */
  private noteStore(word: number, lo: number, hi: number): void {
    if ((word & KNOWLEDGE) !== 0) this.learned.add((hi >>> 0) * 0x4000_0000 + (lo >>> 2));
    else if (this.learned.size > 0) this.takeLearned(lo, hi);
  }

  private isLearned(lo: number, hi: number): boolean {
    return this.learned.size > 0 && this.learned.has((hi >>> 0) * 0x4000_0000 + (lo >>> 2));
  }

  private takeLearned(lo: number, hi: number): boolean {
    return this.learned.delete((hi >>> 0) * 0x4000_0000 + (lo >>> 2));
  }

  /** Whether the machine said that it does not model what the step needs; if so, that is counted by name. */
  private countIfNotModelled(): boolean {
    const { log } = this.machine;
    const op = log.count === 0 ? 0 : log.op(log.count - 1);
    if ((op & ROW_KIND) !== NOT_MODELLED) return false;
    const name = NOT_MODELLED_NAMES[(op >>> OBS_NOT_MODELLED_SHIFT) & OBS_NOT_MODELLED_MASK] ?? 'unnamed';
    this.notModelled.set(name, (this.notModelled.get(name) ?? 0) + 1);
    return true;
  }

  /** Whether the machine's state answers a REGISTER or ENTRY_AFTER row as recorded. */
  answers(expected: number, columns: StepColumns, row: number): boolean {
    const lo = columns.observationValue[2 * row]!;
    const hi = columns.observationValue[2 * row + 1]!;
    const { registers } = this.machine;
    if ((expected & OBS_KIND_MASK) === Obs.REGISTER) {
      const register = (expected >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK;
      return registers[2 * register] === lo && registers[2 * register + 1] === hi;
    }
    const [seenLo, seenHi] = this.machine.readEntry(
      expected,
      columns.observationAddress[2 * row]!,
      columns.observationAddress[2 * row + 1]!,
    );
    return seenLo === lo && seenHi === hi;
  }
}
