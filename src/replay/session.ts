/** Replays a trace from its header to its end and makes the result. */

import { isFault, OBS_KIND_MASK, OBS_REGISTER_MASK, OBS_REGISTER_SHIFT, Obs } from '../formats/observation.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import { expectsAddress, STEP_KIND_NAMES, StepKind } from '../formats/step.ts';
import type { KvmView, Machine } from '../machine/machine.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { type Aligned, alignRows, type EventUnits, eventUnits, logRows, sameRow } from './align.ts';
import { causeOf, groupOf } from './cause.ts';
import { ReplayEngine, type StepFilter } from './engine.ts';
import { type EventExplanation, explainEvents } from './event-cause.ts';
import type { EventComparison } from './events.ts';
import { type Expectation, ExpectationBook } from './expectations.ts';
import { Judge } from './judge.ts';
import { type KvmMachineMaker, type MachineChoice, machineFor } from './machines.ts';
import type {
  Divergence,
  DivergenceGroup,
  Ending,
  GuestComparison,
  Judgement,
  ReplayResult,
  Row,
  SidePair,
  Verdict,
} from './result.ts';
import { CHUNK_STATE, UNDETERMINED } from './result.ts';
import type { SameGuest } from './same-guest.ts';
import { addUp } from './totals.ts';
import { followRecording, followReflection, undeterminedBy } from './undetermined.ts';

export interface ReplayOptions {
  /** Divergences kept in full. Default 10; all are counted. */
  readonly maxDiffs?: number;
  /** Stop at the first divergence. */
  readonly bail?: boolean;
  /** Compare steps from this ordinal on. Earlier ones are applied all the same. */
  readonly from?: number;
  /** Compare steps before this ordinal. */
  readonly to?: number;
  /** Compare only steps for which it holds. */
  readonly filter?: StepFilter;
  readonly expectations?: readonly Expectation[];
  /** Names of what may be not modelled without spoiling the verdict; `UNDETERMINED` for steps that could not be judged. */
  readonly allowUnmodelled?: readonly string[];
  /** Which machine; by default what was recorded. */
  readonly machine?: MachineChoice;
  /**
   * Told of every step that was not a plain match, in the order of steps, however it was judged. TLB hits that were
   * stale and allowed stay on the hot path and are only counted.
   */
  readonly onVerdict?: (verdict: Divergence) => void;
  /** Makes the machine with an emulated KVM; for tests. */
  readonly makeKvm?: KvmMachineMaker;
}

/** Divergences kept in full unless told otherwise. */
const MAXIMUM_DIFFS = 10;
/** Groups kept; further shapes are counted together. */
const MAXIMUM_GROUPS = 1000;

/** Both sides of a step; `pairs`: with events of KVM. */
interface Sides extends Aligned {
  readonly pairs?: readonly SidePair[];
  readonly mixed?: boolean;
}

function sidesOf(pairs: readonly SidePair[], { at, isOnly }: EventExplanation): Sides {
  return {
    recorded: pairs.flatMap((pair) => pair.recorded),
    replayed: pairs.flatMap((pair) => pair.replayed),
    at,
    pairs,
    mixed: !isOnly,
  };
}

export class ReplaySession {
  private readonly file: string;
  private readonly header: TraceHeader;
  private readonly options: ReplayOptions;
  private readonly engine: ReplayEngine;
  private readonly description: string;
  private readonly limits: readonly string[];
  private readonly judge: Judge;
  private readonly same: SameGuest | null;
  private readonly findings: KvmView['invariantFindings'];
  /** Leaves the machines' memory to sessions to come. The session must not be used afterwards. */
  readonly release: () => void;
  private readonly book: ExpectationBook;
  private readonly divergences: Divergence[] = [];
  private readonly groups = new Map<string, { count: number; first: number; leads: number }>();
  private diverged = 0;
  /** Equal observations when the last step diverged: none since means that the run of diverging steps goes on. */
  private equalAtDivergence = -1;
  private staleAllowed = 0;
  private undetermined = 0;
  /** Steps of a partial trace that unknown state decides, by that state. */
  private readonly undeterminedBy = new Map<string, number>();
  private steps = 0;

  /** Throws E_USAGE if the machine asked for does not fit the trace. */
  constructor(file: string, header: TraceHeader, options: ReplayOptions = {}) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.book = new ExpectationBook(options.expectations ?? []);
    const chosen = machineFor(header, options.machine ?? {}, options.makeKvm);
    this.description = chosen.description;
    this.limits = chosen.limits;
    this.engine = new ReplayEngine(chosen.machine, header, {
      mismatch: (_engine, columns, index) => this.mismatch(columns, index),
    });
    this.engine.from = options.from ?? 0;
    this.engine.to = options.to ?? Number.POSITIVE_INFINITY;
    this.engine.filter = options.filter ?? null;
    this.judge = new Judge(this.engine, header.adPolicy, chosen.bare);
    this.same = chosen.same;
    this.findings = chosen.findings;
    this.release = chosen.release;
    const { from, to, filter } = this.engine;
    this.same?.restrict({ from, to, filter, bail: options.bail === true, maxDiffs: options.maxDiffs ?? MAXIMUM_DIFFS });
  }

  /** What replays: for who looks at it between runs. */
  get machine(): Machine {
    return this.engine.machine;
  }

  /** Replays a run of steps; false when `bail` stopped it. */
  run(columns: StepColumns): boolean {
    this.same?.begin(columns);
    if (!this.takeState(columns) && this.options.bail) return false;
    const goOn = this.engine.run(columns) && !(this.options.bail && this.same?.hasDiffered);
    this.steps = goOn ? columns.firstOrdinal + columns.stepCount : this.engine.ordinal + 1;
    return goOn;
  }

  /**
   * The state that a chunk begins with: the machine's own for the first one, a question to it for the others. Returns
   * whether it was answered as recorded; the recorded state is taken over in any case.
   */
  private takeState(columns: StepColumns): boolean {
    const { machine, stepsByKind } = this.engine;
    const { vcpu, registers, others, firstOrdinal } = columns;
    const recorded: Row[] = [];
    const replayed: Row[] = [];
    // The vCPU that goes on comes last: the machine stays with it.
    const several = vcpu !== 0 || others.length > 0 || stepsByKind[StepKind.VCPU]! > 0;
    for (const state of [...others, { vcpu, registers }]) {
      if (several) machine.apply(firstOrdinal, StepKind.VCPU, 0, 0, state.vcpu, 0, []);
      this.takeRegisters(state.registers, recorded, replayed);
    }
    const { from, to } = this.engine;
    const inRange = columns.firstOrdinal >= from && columns.firstOrdinal < to;
    if (recorded.length === 0 || columns.firstOrdinal === 0 || !inRange) return true;
    this.engine.ordinal = columns.firstOrdinal;
    const cause = `at the start of a chunk ${causeOf(StepKind.REGISTER_SET, recorded, replayed, 0, machine.registers)}`;
    this.note(columns, 0, { recorded, replayed, at: 0 }, [], { kind: 'diverged' }, CHUNK_STATE, cause);
    return false;
  }

  /** Takes over the registers of the machine's vCPU; those that it had otherwise are added to both sides. */
  private takeRegisters(registers: Uint32Array, recorded: Row[], replayed: Row[]): void {
    const { machine } = this.engine;
    for (let register = 0; register < REGISTER_COUNT; register++) {
      const [lo, hi] = [registers[2 * register]!, registers[2 * register + 1]!];
      const [heldLo, heldHi] = [machine.registers[2 * register]!, machine.registers[2 * register + 1]!];
      if (lo === heldLo && hi === heldHi) continue;
      const row = { op: Obs.REGISTER | (register << OBS_REGISTER_SHIFT), addressLo: 0, addressHi: 0 };
      recorded.push({ ...row, valueLo: lo, valueHi: hi });
      replayed.push({ ...row, valueLo: heldLo, valueHi: heldHi });
      machine.setRegister(register, lo, hi);
    }
  }

  /** What the replay came to. `digest`: from the end of the trace, if it was reached. */
  result(digest: string | undefined, ending: Ending): ReplayResult {
    const { engine, header } = this;
    const stepsByKind: Record<string, number> = {};
    STEP_KIND_NAMES.forEach((name, kind) => {
      if (engine.stepsByKind[kind]! > 0) stepsByKind[name] = engine.stepsByKind[kind]!;
    });
    const skipped: Record<string, number> = {};
    if (engine.unobserved > 0) skipped['accesses of which no outcome was recorded'] = engine.unobserved;
    if (engine.outside > 0) skipped['outside --from and --to'] = engine.outside;
    if (engine.beyondMachine > 0) skipped["KVM's events"] = engine.beyondMachine;
    if (engine.filtered > 0) skipped['left out by --filter'] = engine.filtered;
    const brokenExpectations = this.isWhole ? this.book.broken() : [];
    const expectationOutcomes = this.isWhole ? this.book.outcomes() : [];
    const groups: DivergenceGroup[] = [...this.groups].map(([group, counts]) => ({ group, ...counts }));
    groups.sort((a, b) => b.count - a.count || a.first - b.first);
    const { events } = engine;
    const observationsPredicted = engine.counters.whollyPredicted + (events?.counters.whollyPredicted ?? 0);
    const shared = events?.names.sharedPages ?? 0;
    const sharedText = `host frames of the replay that share a recorded one with others: ${shared}`;
    const same = this.same?.result();
    const notModelled = addUp([
      Object.fromEntries(engine.notModelled),
      Object.fromEntries(this.same?.notModelled ?? []),
    ]);
    return {
      verdict: this.verdict(observationsPredicted, brokenExpectations, notModelled, same),
      divergences: this.divergences,
      ...(this.same === null ? {} : { guestDifferences: this.same.differences }),
      receipt: {
        file: this.file,
        title: header.title,
        recorder: header.recorder,
        machine: this.description,
        limits: shared === 0 ? this.limits : [...this.limits, sharedText],
        policy: `A/D ${header.adPolicy}${header.independent ? ', independent accesses' : ''}`,
        digest,
        ending,
        steps: this.steps,
        stepsByKind,
        counts: engine.counters.byKind(),
        events: events?.counters.byEvent() ?? [],
        observationsPredicted,
        skipped,
        notModelled,
        staleAllowed: this.staleAllowed + engine.staleHits,
        undetermined: this.undetermined,
        ...(header.unknown === undefined || header.unknown.length === 0
          ? {}
          : { partial: { unknown: header.unknown, undetermined: Object.fromEntries(this.undeterminedBy) } }),
        expected: this.book.counts(),
        diverged: this.diverged,
        groups,
        brokenExpectations,
        ...(expectationOutcomes.length === 0 ? {} : { expectationOutcomes }),
        brokenInvariants: this.findings,
        ...(same === undefined ? {} : { sameGuest: same }),
      },
    };
  }

  /** Every step was compared: only then do expectations have to come true. */
  private get isWhole(): boolean {
    const { from, to, filter, bail } = this.options;
    return !from && to === undefined && filter === undefined && !(bail && this.diverged > 0);
  }

  private verdict(
    predicted: number,
    broken: readonly string[],
    notModelled: Readonly<Record<string, number>>,
    same: GuestComparison | undefined,
  ): Verdict {
    const allowed = this.options.allowUnmodelled ?? [];
    if (Object.keys(notModelled).some((name) => !allowed.includes(name))) return 'not-modelled';
    if (this.diverged > 0 || broken.length > 0 || this.findings.length > 0 || (same?.unexplained ?? 0) > 0)
      return 'diverged';
    const isPartial = this.header.unknown !== undefined && this.header.unknown.length > 0;
    const open = this.undetermined + (same?.undetermined ?? 0);
    if (open > 0 && !isPartial && !allowed.includes(UNDETERMINED)) return 'undetermined';
    // What is left out by name is left out knowingly.
    const nothing = predicted === 0 || (same?.accesses === 0 && Object.keys(notModelled).length === 0);
    return nothing ? 'nothing-compared' : 'match';
  }

  private mismatch(columns: StepColumns, index: number): boolean {
    const { engine } = this;
    const op = columns.op[index]!;
    if (engine.events !== null) {
      const units = eventUnits(engine, columns, index);
      if (units.hasEvent) return this.eventMismatch(engine.events, columns, index, units);
    }
    const aligned = alignRows(engine, columns, index);
    const walk = logRows(engine.machine.log);
    const registers = engine.machine.registers.slice();
    const { recorded, replayed, at } = aligned;
    const judgement = this.judge.judge(columns, index, aligned);
    this.adopt(recorded);
    if (judgement.kind === 'match') {
      if (this.header.adPolicy === 'unspecified') this.adoptAd(recorded, walk);
      engine.countAfterAll(recorded.slice(at), expectsAddress(op) && at === 0);
      return true;
    }
    const group = groupOf(op, recorded[at], replayed[at]);
    const tell = (as: Judgement): void => {
      if (this.options.onVerdict === undefined) return;
      const cause = causeWith(as, causeOf(op, recorded, replayed, at, registers, walk));
      this.tell(this.verdictAt(columns, index, aligned, walk, as, group, cause, registers));
    };
    if (judgement.kind === 'stale-allowed') {
      this.staleAllowed++;
      tell(judgement);
      return true;
    }
    if (isFault(recorded[at]?.op ?? 0)) engine.machine.kvm?.takeBackAd();
    const expectation = this.book.take(group, engine.ordinal);
    if (expectation !== undefined) {
      tell({ kind: 'expected', name: expectation.fault });
      return true;
    }
    if (judgement.kind === 'undetermined') {
      this.undetermined++;
      tell(judgement);
      return true;
    }
    const cause = causeWith(judgement, causeOf(op, recorded, replayed, at, registers, walk));
    this.note(columns, index, aligned, walk, judgement, group, cause, registers);
    return this.options.bail !== true;
  }

  /** The same for a step with events of KVM: both sides are put side by side as a whole. */
  private eventMismatch(events: EventComparison, columns: StepColumns, index: number, units: EventUnits): boolean {
    const { engine } = this;
    const op = columns.op[index]!;
    const registers = engine.machine.registers.slice();
    const walk = logRows(engine.machine.log);
    const counted = events.unknown.size === 0 ? undefined : events.counters.save();
    const pairs = [...events.align(op, units.recorded, units.replayed, sameRow), ...units.questions];
    this.adopt(units.rows);
    const found = explainEvents(op, pairs, engine.machine.kvm!.config, registers);
    const tell = (as: Judgement): void => {
      if (this.options.onVerdict === undefined) return;
      this.tell(this.verdictAt(columns, index, sidesOf(pairs, found), walk, as, found.group, found.cause, registers));
    };
    const expectation = found.isOnly ? this.book.take(found.group, engine.ordinal) : undefined;
    if (expectation !== undefined) {
      tell({ kind: 'expected', name: expectation.fault });
      return true;
    }
    const unknown =
      counted && undeterminedBy(op, pairs, engine.machine.kvm!.config, events.unknown, events.knownEntries);
    if (counted !== undefined && unknown !== undefined) {
      events.notJudged(counted, units.recorded, pairs);
      events.knownEntries?.forget(pairs);
      followRecording(engine.machine, pairs, walk);
      followReflection(engine.machine, op, pairs);
      this.undetermined++;
      this.undeterminedBy.set(unknown, (this.undeterminedBy.get(unknown) ?? 0) + 1);
      tell({ kind: 'undetermined', why: `${unknown} unknown` });
      return true;
    }
    const sides = sidesOf(pairs, found);
    this.note(columns, index, sides, walk, { kind: 'diverged' }, found.group, found.cause, registers);
    return this.options.bail !== true;
  }

  /** Counts a divergence and keeps it if it is among the first. */
  private note(
    columns: StepColumns,
    index: number,
    sides: Sides,
    walk: readonly Row[],
    judgement: Judgement,
    group: string,
    cause: string,
    registers = this.engine.machine.registers.slice(),
  ): void {
    this.diverged++;
    this.countGroup(group);
    const isKept = this.divergences.length < (this.options.maxDiffs ?? MAXIMUM_DIFFS);
    if (!isKept && this.options.onVerdict === undefined) return;
    const divergence = this.verdictAt(columns, index, sides, walk, judgement, group, cause, registers);
    if (isKept) this.divergences.push(divergence);
    this.tell(divergence);
  }

  private tell(verdict: Divergence): void {
    this.options.onVerdict?.(verdict);
  }

  private verdictAt(
    columns: StepColumns,
    index: number,
    { recorded, replayed, at, pairs, mixed }: Sides,
    walk: readonly Row[],
    judgement: Judgement,
    group: string,
    cause: string,
    registers: Uint32Array,
  ): Divergence {
    return {
      step: this.engine.ordinal,
      line: columns.lineOf(index),
      source: this.header.sources[columns.source]?.name,
      op: columns.op[index]!,
      addressLo: columns.address[2 * index]!,
      addressHi: columns.address[2 * index + 1]!,
      operandLo: columns.operand[2 * index]!,
      operandHi: columns.operand[2 * index + 1]!,
      recorded,
      replayed,
      walk,
      firstDifference: at,
      pairs,
      judgement,
      cause,
      group,
      ...(mixed === true ? { mixed } : {}),
      registers,
    };
  }

  private countGroup(group: string): void {
    const key = this.groups.has(group) || this.groups.size < MAXIMUM_GROUPS ? group : 'others';
    const equal = this.engine.matched + this.engine.counters.addressOnly;
    const leads = equal === this.equalAtDivergence ? 0 : 1;
    this.equalAtDivergence = equal;
    const found = this.groups.get(key);
    if (found === undefined) {
      this.groups.set(key, { count: 1, first: this.engine.ordinal, leads });
    } else {
      found.count++;
      found.leads += leads;
    }
  }

  /** Without a declared A/D policy the recorded writes count: the machine's own are taken back. */
  private adoptAd(recorded: readonly Row[], walk: readonly Row[]): void {
    const { machine } = this.engine;
    const isKind = (row: Row, kind: number): boolean => (row.op & OBS_KIND_MASK) === kind;
    if (!recorded.some((row) => isKind(row, Obs.ELEMENT))) return;
    const take = (row: Row): void => machine.adoptEntry(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi);
    for (const row of walk) if (isKind(row, Obs.ELEMENT)) take(row);
    for (const row of recorded) if (isKind(row, Obs.ENTRY_WRITE)) take(row);
  }

  /** State that the recording saw is taken over, so that one divergence does not become many. */
  private adopt(recorded: readonly Row[]): void {
    const { machine } = this.engine;
    for (const row of recorded) {
      const kind = row.op & OBS_KIND_MASK;
      if (kind === Obs.REGISTER) {
        machine.setRegister((row.op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK, row.valueLo, row.valueHi);
      } else if (kind === Obs.ENTRY_AFTER) {
        machine.adoptEntry(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi);
      }
    }
  }
}

function causeWith(judgement: Judgement, cause: string): string {
  if (judgement.kind !== 'stale-after-invalidation') return cause;
  return `${cause}; an earlier value of an entry explains the recording, but it was invalidated at step ${judgement.invalidatedAt}`;
}
