/**
 * The comparison of KVM's events in one replay: what the recording tells of them, names of host frames, counters. The
 * engine asks it event by event; a step that differs is put side by side here as a whole, so that one missing event is
 * one difference and the names of what follows are learned.
 */

import { isHostEvent, KVM_EVENT_COUNT, KVM_EVENT_NAMES, kvmEventOf } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS } from '../formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { PROVENANCE_MASK, PROVENANCE_SHIFT, Provenance, STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { KvmView } from '../machine/machine.ts';
import type { RowLog } from '../paging/row-log.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { EventCounters, FieldCounter } from './event-counters.ts';
import { EventMatcher } from './event-match.ts';
import { FrameNames } from './frames.ts';
import { KnownEntries } from './known-entries.ts';
import type { PairState, Row, SidePair } from './result.ts';
import { sideBySide } from './sequence.ts';
import { eventOf, kindKey, placeKey, rowsEvent, shapeKey, type Unit } from './units.ts';

/** Hypervisor parameters in the header that say what a recording does not tell of KVM's events. */
const NOT_RECORDED = 'events-not-recorded=';
const ROLE_BITS = 'role-bits=';

/** What of KVM's events the recording holds. */
export interface EventsTold {
  /** Bit n: events of number n. */
  readonly events: number;
  /** Bits of role words. */
  readonly roleBits: number;
}

/**
 * Reads it from the hypervisor's parameters: `events-not-recorded=mmio,inj-exception` (the recorder had those switched
 * off) and `role-bits=0x1fff` (role words were put together from text, which does not print the others).
 */
export function eventsTold(header: TraceHeader): EventsTold {
  let events = ~0;
  let roleBits = ~0;
  for (const parameter of header.hypervisor?.parameters ?? []) {
    if (parameter.startsWith(NOT_RECORDED)) {
      for (const name of parameter.slice(NOT_RECORDED.length).split(',')) {
        const event = KVM_EVENT_NAMES.indexOf(name);
        if (event > 0) events &= ~(1 << event);
      }
    } else if (parameter.startsWith(ROLE_BITS)) {
      roleBits = Number(parameter.slice(ROLE_BITS.length)) | 0;
    }
  }
  return { events, roleBits };
}

/** The same in sentences, for receipts: what a replay does not compare. */
export function notTold(header: TraceHeader): string[] {
  const { events, roleBits } = eventsTold(header);
  const names = KVM_EVENT_NAMES.filter((_, event) => event > 0 && ((events >>> event) & 1) === 0);
  return [
    ...(names.length === 0 ? [] : [`events of KVM that were not recorded and are not compared: ${names.join(', ')}`]),
    ...(roleBits === ~0 ? [] : [`of role words only these bits were recorded: 0x${(roleBits >>> 0).toString(16)}`]),
  ];
}

export class EventComparison {
  readonly names = new FrameNames();
  readonly counters = new EventCounters();
  readonly told: EventsTold;
  /** Recorded rows of the step, from its first on, that were compared and counted when a difference was met. */
  reached = 0;
  /** State that the trace does not tell; empty: it tells all. */
  readonly unknown: ReadonlySet<string>;
  /** Entries of KVM's tables that are known, of a partial trace of the TDP MMU. */
  readonly knownEntries: KnownEntries | null;
  private readonly view: KvmView;
  private readonly matcher: EventMatcher;
  /** The last step had rows. */
  private wasObserved = false;
  /** Table uses of the step that have been taken note of. */
  private used = 0;

  /** `registers`: the machine's. */
  constructor(view: KvmView, header: TraceHeader, registers: Uint32Array) {
    this.view = view;
    this.told = eventsTold(header);
    this.unknown = new Set(header.unknown ?? []);
    this.knownEntries = this.unknown.size > 0 && view.config.tdpMmu ? new KnownEntries(registers) : null;
    this.matcher = new EventMatcher(this.names, this.counters, this.told.roleBits, view.config.vendor);
  }

  beginStep(): void {
    this.used = 0;
    this.reached = 0;
  }

  /**
   * Takes note of a step of a partial trace that was concluded from what follows: the next step with events learns from
   * it, and does not predict. `observed`: the step has rows.
   */
  noteStep(op: number, observed: boolean): void {
    const { matcher } = this;
    if (this.wasObserved) matcher.told = 'nothing';
    this.wasObserved = observed;
    matcher.concluded = ((op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK) === Provenance.INFERRED;
    if (!matcher.concluded) return;
    switch (op & STEP_KIND_MASK) {
      case StepKind.HOST_PAGES:
        if (matcher.told === 'nothing') matcher.told = 'pages';
        break;
      case StepKind.REGISTER_SET:
      case StepKind.REGISTER_WRITE:
      case StepKind.RARE:
        if (!observed) matcher.told = 'anything';
    }
  }

  /**
   * A step turned out undetermined. If both sides have the same events, those that differ are not judged; otherwise
   * none behind the first difference is. `before`: from `counters.save`, before `align`.
   */
  notJudged(before: readonly Float64Array[], units: readonly Unit[], pairs: readonly SidePair[]): void {
    const { counters } = this;
    const differing = pairs.filter(({ state }) => state !== 'equal' && state !== 'host');
    if (
      differing.every(
        ({ recorded, replayed }) => rowsEvent(recorded) > 0 && rowsEvent(recorded) === rowsEvent(replayed),
      )
    ) {
      for (const { recorded, fields } of differing) {
        const event = rowsEvent(recorded);
        const indices = KVM_EVENT_FIELDS[event]!.flatMap(({ name }, i) => (fields.includes(name) ? [i] : []));
        counters.takeBackDiverged(event, indices);
      }
      return;
    }
    counters.restore(before);
    for (const unit of units) {
      const event = eventOf(unit);
      if (event > 0 && unit.at >= this.reached) counters.notJudged(event);
    }
  }

  /** At the end of a step: tables that changed hands after the last row, too. */
  endStep(): void {
    this.noteTables(Number.POSITIVE_INFINITY);
  }

  /** Whether the event at recorded row `row` is the one at row `at` of the machine's log. If so, it is counted. */
  equal(columns: StepColumns, stepKind: number, row: number, log: RowLog, at: number, learned: boolean): boolean {
    this.noteTables(at);
    const { matcher } = this;
    const event = kvmEventOf(columns.observationOp[row]!);
    if (event !== kvmEventOf(log.op(at)) || event >= KVM_EVENT_COUNT) return false;
    matcher.step = stepKind;
    matcher.takeRecorded(columns, row);
    matcher.takeReplayed(log, at);
    if (!matcher.matches()) return false;
    matcher.commit(this.view.predictsFaults, learned);
    if (this.knownEntries !== null) {
      const { observationOp, observationAddress } = columns;
      this.knownEntries.learn(
        event,
        observationOp[row]!,
        observationAddress[2 * row]!,
        observationAddress[2 * row + 1]!,
      );
    }
    return true;
  }

  /** Whether the machine's log has the host's doing of recorded row `row` at `at`. Input, whether it has or not. */
  hostEvent(columns: StepColumns, row: number, log: RowLog, at: number): boolean {
    const event = kvmEventOf(columns.observationOp[row]!);
    const isEvent = at < log.count && (log.op(at) & OBS_KIND_MASK) === Obs.KVM_EVENT;
    if (isEvent && kvmEventOf(log.op(at)) === event) {
      this.matcher.takeRecorded(columns, row);
      this.matcher.takeReplayed(log, at);
      if (this.matcher.matches()) {
        this.countHost(event);
        return true;
      }
    }
    this.counters.unanswered(event);
    return false;
  }

  private countHost(event: number): void {
    KVM_EVENT_FIELDS[event]!.forEach((_, i) => {
      this.counters.field(event, i, FieldCounter.INPUT);
    });
    this.counters.equal(event);
  }

  /** Counts recorded events of a step that the machine could not model. */
  countNotModelled(columns: StepColumns, begin: number, end: number): void {
    for (let row = begin; row < end; row++) {
      const op = columns.observationOp[row]!;
      if ((op & OBS_KIND_MASK) === Obs.KVM_EVENT) this.counters.notModelled(kvmEventOf(op));
    }
  }

  /** Names of tables are void from where the machine gave their frames to others. */
  private noteTables(row: number): void {
    const { tableUses } = this.view;
    for (; this.used < tableUses.length && tableUses[this.used]!.row <= row; this.used++) {
      const { frame, taken } = tableUses[this.used]!;
      if (taken) this.names.forget(frame);
      else this.names.release(frame);
    }
  }

  /**
   * Puts both sides of a step that differs side by side, counts what lies behind the first difference, and takes over the
   * recorded names of frames. `sameRow`: compares rows of other kinds.
   */
  align(
    stepOp: number,
    recorded: readonly Unit[],
    replayed: readonly Unit[],
    sameRow: (recorded: Row, replayed: Row) => boolean,
  ): SidePair[] {
    const keys = (units: readonly Unit[]): string[][] => [
      units.map((unit) => shapeKey(unit, this.told.roleBits)),
      units.map(placeKey),
      units.map(kindKey),
    ];
    this.matcher.step = stepOp & STEP_KIND_MASK;
    return sideBySide(keys(recorded), keys(replayed)).map(([a, b]) => {
      const pair = this.pairOf(recorded[a], replayed[b], sameRow);
      const before = recorded[a] !== undefined && recorded[a].at < this.reached;
      this.take(pair, before);
      return pair;
    });
  }

  private pairOf(
    recorded: Unit | undefined,
    replayed: Unit | undefined,
    sameRow: (recorded: Row, replayed: Row) => boolean,
  ): SidePair {
    const side = { recorded: recorded?.rows ?? [], replayed: replayed?.rows ?? [] };
    const plain = (state: PairState): SidePair => ({ ...side, state, fields: [], wrongFrame: undefined });
    if (replayed !== undefined && replayed.at >= 0) this.noteTables(replayed.at);
    if (recorded === undefined) return plain('extra');
    const event = eventOf(recorded);
    if (replayed === undefined) return plain(event > 0 && isHostEvent(event) ? 'host' : 'missing');
    if (event < 0) return plain(sameRow(recorded.rows[0]!, replayed.rows[0]!) ? 'equal' : 'differs');
    if (event !== eventOf(replayed) || recorded.rows.length !== replayed.rows.length) return plain('differs');
    this.matcher.takeRows(recorded.rows, replayed.rows);
    if (this.matcher.matches()) return plain('equal');
    const fields = this.matcher.differingFields().map((index) => KVM_EVENT_FIELDS[event]![index]!.name);
    const wrongFrame = this.matcher.wrongFrame();
    const onlyFrames = shapeKey(recorded, this.told.roleBits) === shapeKey(replayed, this.told.roleBits);
    return { ...side, state: onlyFrames ? 'wrong-frame' : 'differs', fields, wrongFrame };
  }

  /** Counts a pair, but for those before the first difference, and binds what it names. */
  private take(pair: SidePair, counted: boolean): void {
    const { counters, matcher, view } = this;
    const event = rowsEvent(pair.recorded.length > 0 ? pair.recorded : pair.replayed);
    if (event < 0) return;
    const both = pair.recorded.length > 0 && rowsEvent(pair.replayed) === event;
    if (both) matcher.takeRows(pair.recorded, pair.replayed);
    switch (pair.state) {
      case 'equal':
        if (counted) return;
        if (isHostEvent(event)) this.countHost(event);
        else matcher.commit(view.predictsFaults, false);
        this.knownEntries?.learn(event, pair.recorded[0]!.op, pair.recorded[0]!.addressLo, pair.recorded[0]!.addressHi);
        return;
      case 'differs':
      case 'wrong-frame':
        if (!both) {
          counters.missing(event);
          if (rowsEvent(pair.replayed) > 0) counters.extra(rowsEvent(pair.replayed));
          return;
        }
        counters.diverged(event, matcher.differingFields());
        matcher.adopt(pair.state === 'wrong-frame');
        return;
      case 'missing':
        counters.missing(event);
        return;
      case 'extra':
        counters.extra(event);
        return;
      case 'host':
        if (!counted) counters.unanswered(event);
    }
  }
}
