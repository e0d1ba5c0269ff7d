/** Replays a trace from its header to its end and makes the result. */

import { OBS_KIND_MASK, OBS_REGISTER_MASK, OBS_REGISTER_SHIFT, Obs } from '../formats/observation.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import { expectsAddress, STEP_KIND_NAMES, StepKind } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { type Aligned, alignRows, logRows } from './align.ts';
import { causeOf, groupOf } from './cause.ts';
import { ReplayEngine, type StepFilter } from './engine.ts';
import { type Expectation, ExpectationBook } from './expectations.ts';
import { Judge } from './judge.ts';
import type { Divergence, DivergenceGroup, Ending, Judgement, ReplayResult, Row, Verdict } from './result.ts';
import { CHUNK_STATE } from './result.ts';

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
  /** Names of what may be not modelled without spoiling the verdict. */
  readonly allowUnmodelled?: readonly string[];
}

/** Groups kept; further shapes are counted together. */
const MAXIMUM_GROUPS = 1000;

export class ReplaySession {
  private readonly file: string;
  private readonly header: TraceHeader;
  private readonly options: ReplayOptions;
  private readonly engine: ReplayEngine;
  private readonly judge: Judge;
  private readonly book: ExpectationBook;
  private readonly divergences: Divergence[] = [];
  private readonly groups = new Map<string, { count: number; first: number }>();
  private diverged = 0;
  private staleAllowed = 0;
  private undetermined = 0;
  private steps = 0;

  constructor(file: string, header: TraceHeader, options: ReplayOptions = {}) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.book = new ExpectationBook(options.expectations ?? []);
    this.engine = new ReplayEngine(new BareMachine(header), header, {
      mismatch: (_engine, columns, index) => this.mismatch(columns, index),
    });
    this.engine.from = options.from ?? 0;
    this.engine.to = options.to ?? Number.POSITIVE_INFINITY;
    this.engine.filter = options.filter ?? null;
    this.judge = new Judge(this.engine, header.adPolicy);
  }

  /** Replays a run of steps; false when `bail` stopped it. */
  run(columns: StepColumns): boolean {
    if (!this.takeState(columns) && this.options.bail) return false;
    const goOn = this.engine.run(columns);
    this.steps = goOn ? columns.firstOrdinal + columns.stepCount : this.engine.ordinal + 1;
    return goOn;
  }

  /**
   * The state that a chunk begins with: the machine's own for the first one, a question to it for the others. Returns
   * whether it was answered as recorded; the recorded state is taken over in any case.
   */
  private takeState(columns: StepColumns): boolean {
    const { machine } = this.engine;
    const recorded: Row[] = [];
    const replayed: Row[] = [];
    for (let register = 0; register < REGISTER_COUNT; register++) {
      const [lo, hi] = [columns.registers[2 * register]!, columns.registers[2 * register + 1]!];
      const [heldLo, heldHi] = [machine.registers[2 * register]!, machine.registers[2 * register + 1]!];
      if (lo === heldLo && hi === heldHi) continue;
      const row = { op: Obs.REGISTER | (register << OBS_REGISTER_SHIFT), addressLo: 0, addressHi: 0 };
      recorded.push({ ...row, valueLo: lo, valueHi: hi });
      replayed.push({ ...row, valueLo: heldLo, valueHi: heldHi });
      machine.setRegister(register, lo, hi);
    }
    const { from, to } = this.engine;
    const inRange = columns.firstOrdinal >= from && columns.firstOrdinal < to;
    if (recorded.length === 0 || columns.firstOrdinal === 0 || !inRange) return true;
    this.engine.ordinal = columns.firstOrdinal;
    const cause = `at the start of a chunk ${causeOf(StepKind.REGISTER_SET, recorded, replayed, 0, machine.registers)}`;
    this.note(columns, 0, { recorded, replayed, at: 0 }, [], { kind: 'diverged' }, CHUNK_STATE, cause);
    return false;
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
    if (engine.filtered > 0) skipped['left out by --filter'] = engine.filtered;
    const brokenExpectations = this.isWhole ? this.book.broken() : [];
    const groups: DivergenceGroup[] = [...this.groups].map(([group, { count, first }]) => ({ group, count, first }));
    groups.sort((a, b) => b.count - a.count || a.first - b.first);
    const observationsPredicted = engine.counters.whollyPredicted;
    return {
      verdict: this.verdict(observationsPredicted, brokenExpectations),
      divergences: this.divergences,
      receipt: {
        file: this.file,
        title: header.title,
        recorder: header.recorder,
        machine: 'bare',
        policy: `A/D ${header.adPolicy}${header.independent ? ', independent accesses' : ''}`,
        digest,
        ending,
        steps: this.steps,
        stepsByKind,
        counts: engine.counters.byKind(),
        observationsPredicted,
        skipped,
        notModelled: Object.fromEntries(engine.notModelled),
        staleAllowed: this.staleAllowed + engine.staleHits,
        undetermined: this.undetermined,
        expected: this.book.counts(),
        diverged: this.diverged,
        groups,
        brokenExpectations,
      },
    };
  }

  /** Every step was compared: only then do expectations have to come true. */
  private get isWhole(): boolean {
    const { from, to, filter, bail } = this.options;
    return !from && to === undefined && filter === undefined && !(bail && this.diverged > 0);
  }

  private verdict(predicted: number, broken: readonly string[]): Verdict {
    const allowed = this.options.allowUnmodelled ?? [];
    if ([...this.engine.notModelled.keys()].some((name) => !allowed.includes(name))) return 'not-modelled';
    if (this.diverged > 0 || broken.length > 0) return 'diverged';
    return predicted === 0 ? 'nothing-compared' : 'match';
  }

  private mismatch(columns: StepColumns, index: number): boolean {
    const { engine } = this;
    const op = columns.op[index]!;
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
    if (judgement.kind === 'stale-allowed') {
      this.staleAllowed++;
      return true;
    }
    const group = groupOf(op, recorded[at], replayed[at]);
    if (this.book.take(group, engine.ordinal) !== undefined) return true;
    if (judgement.kind === 'undetermined') {
      this.undetermined++;
      return true;
    }
    const cause = causeWith(judgement, causeOf(op, recorded, replayed, at, registers, walk));
    this.note(columns, index, aligned, walk, judgement, group, cause, registers);
    return this.options.bail !== true;
  }

  /** Counts a divergence and keeps it if it is among the first. */
  private note(
    columns: StepColumns,
    index: number,
    { recorded, replayed, at }: Aligned,
    walk: readonly Row[],
    judgement: Judgement,
    group: string,
    cause: string,
    registers = this.engine.machine.registers.slice(),
  ): void {
    this.diverged++;
    this.countGroup(group);
    if (this.divergences.length >= (this.options.maxDiffs ?? 10)) return;
    this.divergences.push({
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
      judgement,
      cause,
      group,
      registers,
    });
  }

  private countGroup(group: string): void {
    const key = this.groups.has(group) || this.groups.size < MAXIMUM_GROUPS ? group : 'others';
    const found = this.groups.get(key);
    if (found === undefined) this.groups.set(key, { count: 1, first: this.engine.ordinal });
    else found.count++;
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
