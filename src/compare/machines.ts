/**
 * Machine against machine: both get the steps of a trace, and what they do is compared step by step; what was recorded
 * is not judged. One trace at a time, chunk by chunk, nothing of a step is kept but what differs.
 */

import { Problem } from '../bits/problem.ts';
import { hexText } from '../bits/word64.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  NOT_MODELLED_NAMES,
  OBS_KIND_MASK,
  OBS_NOT_MODELLED_MASK,
  OBS_NOT_MODELLED_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { REGISTER_COUNT, REGISTER_NAMES } from '../formats/registers.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { Machine } from '../machine/machine.ts';
import { ROW, type RowLog } from '../paging/row-log.ts';
import { logRows } from '../replay/align.ts';
import { stepName } from '../replay/cause.ts';
import type { KvmMachineMaker } from '../replay/machines.ts';
import type { Ending, Row } from '../replay/result.ts';
import type { StepColumns } from '../trace/columns.ts';
import { isKvmRecording, type TraceHeader } from '../trace/header.ts';
import { Alignment } from './align.ts';
import { type Explanation, explainPlaces } from './cause.ts';
import { DOCUMENTED, type DocumentedDifference } from './documented.ts';
import { GuestFrames } from './guest-frames.ts';
import { GuestView } from './guest-view.ts';
import { namesEntry } from './knowledge.ts';
import { RefereedMachine } from './referee.ts';
import type { ComparisonResult, ComparisonVerdict, Difference, DifferenceGroup, Place, Scope } from './result.ts';
import type { Sides } from './sides.ts';

export interface MachineComparisonOptions {
  readonly scope: Scope;
  /** Differences kept in full. All are counted. */
  readonly maxDiffs: number;
  /** Stop at the first difference that is not documented. */
  readonly bail: boolean;
  /** Names of what may be not modelled without spoiling the verdict. */
  readonly allowUnmodelled: readonly string[];
  /** The closed list; another one in tests only. */
  readonly documented?: readonly DocumentedDifference[];
  /** Makes machines with an emulated KVM; for tests. */
  readonly makeKvm?: KvmMachineMaker;
}

/** Groups kept; further shapes are counted together. */
const MAXIMUM_GROUPS = 1000;
/** Rows of one step that are aligned and kept of each side; of a longer one those about the first difference. */
const MAXIMUM_ROWS = 4096;
/** Rows before the first difference that are kept of such a step. */
const ROWS_BEFORE = 64;
/** Words of guest memory that differ at the end and are counted one by one. */
const MAXIMUM_WORDS = 10_000;

const POLICY: Readonly<Record<Scope, string>> = {
  all: "every row of every step, KVM's events among them; registers, guest entries, guest memory",
  guest: 'what the guest sees: outcomes, exceptions and exits that reach it; registers, guest entries, guest memory',
};

/** Of a recording's accesses those that one machine needs an exit for and the other does not. */
const UNTOLD = 'accesses with an exit that the recording does not tell of';

const OPEN_WORDS = 'guest entries whose A and D bits such an access decides';
/** Accessed and dirty in guest entries of either size. */
const AD_BITS = (1 << 5) | (1 << 6);

/** No place that differs. */
const NO_PLACES: readonly Place[] = [];

function notModelledBy({ log }: Machine): string | undefined {
  const op = log.count === 0 ? 0 : log.op(log.count - 1);
  if ((op & OBS_KIND_MASK) !== Obs.NOT_MODELLED) return undefined;
  return NOT_MODELLED_NAMES[(op >>> OBS_NOT_MODELLED_SHIFT) & OBS_NOT_MODELLED_MASK] ?? 'unnamed';
}

/** Index of the first row in which two logs differ; -1 if they are equal. */
function firstDifference(a: RowLog, b: RowLog): number {
  const [x, y] = [a.rows, b.rows];
  const shorter = Math.min(a.count, b.count);
  for (let at = 0; at < shorter * ROW; at++) if (x[at] !== y[at]) return Math.floor(at / ROW);
  return a.count === b.count ? -1 : shorter;
}

/** Rows of a log from `begin` on that are kept. */
function keptRows(log: RowLog, begin: number): Row[] {
  return logRows(log).slice(begin, begin + MAXIMUM_ROWS);
}

export class MachineComparison {
  private readonly file: string;
  private readonly header: TraceHeader;
  private readonly options: MachineComparisonOptions;
  private readonly labels: readonly [a: string, b: string];
  private readonly sides: readonly [a: RefereedMachine, b: RefereedMachine];
  private readonly a: Machine;
  private readonly b: Machine;
  private readonly configs: readonly [a: KvmConfig | undefined, b: KvmConfig | undefined];
  private readonly hasExits: boolean;
  private readonly skippedBecause: string | undefined;
  private readonly alignment: Alignment;
  private readonly viewA = new GuestView();
  private readonly viewB = new GuestView();
  private readonly frames = new GuestFrames();
  private readonly documented: readonly DocumentedDifference[];
  /** Registers that differed after the last step: reported once. */
  private readonly apart = new Set<number>();
  private ordinal = 0;
  private stepsCompared = 0;
  private rows = 0;
  private events = 0;
  private registerSets = 0;
  private entries = 0;
  private words = 0;
  private changed = 0;
  private stopped = false;
  private readonly notCompared = new Map<string, number>();
  private readonly notModelled = new Map<string, number>();
  private readonly documentedCounts = new Map<DocumentedDifference, number>();
  private readonly groups = new Map<string, { count: number; first: number }>();
  private readonly differences: Difference[] = [];

  /** Throws E_USAGE if a machine asked for does not fit the trace. */
  constructor(file: string, header: TraceHeader, sides: Sides, options: MachineComparisonOptions) {
    this.file = file;
    this.header = header;
    this.options = options;
    this.labels = [sides[0].label, sides[1].label];
    const made = sides.map((side) => new RefereedMachine(header, side, options.scope, options.makeKvm));
    const [a, b] = made as [RefereedMachine, RefereedMachine];
    this.sides = [a, b];
    this.a = a.machine;
    this.b = b.machine;
    this.configs = [a.config, b.config];
    this.hasExits = isKvmRecording(header);
    this.skippedBecause = this.reasonToSkip();
    this.alignment = new Alignment(this.b.kvm);
    this.documented = options.documented ?? DOCUMENTED;
  }

  private reasonToSkip(): string | undefined {
    const [a, b] = this.sides;
    if (a.description === b.description) return 'both sides are the same machine for this trace';
    if (this.hasExits && a.config?.tdp !== b.config?.tdp) {
      return 'the exits that a recording of KVM is made of mean nothing on tables of the other kind';
    }
    return undefined;
  }

  /** Compares a run of steps. False: there is no need for more, `bail` or a machine that cannot go on has stopped it. */
  run(columns: StepColumns): boolean {
    if (this.skippedBecause !== undefined || this.stopped) return false;
    for (const side of this.sides) side.begin(columns);
    this.ordinal = columns.firstOrdinal;
    let begin = 0;
    for (let index = 0; index < columns.stepCount; index++) {
      const end = columns.observationEnd[index]!;
      if (!this.step(columns, index, begin, end)) {
        this.ordinal++;
        this.stopped = true;
        return false;
      }
      begin = end;
      this.ordinal++;
    }
    return true;
  }

  private step(columns: StepColumns, index: number, begin: number, end: number): boolean {
    const { a, b } = this;
    const before = this.changed;
    if (!this.applyBoth(columns, index)) return false;
    this.noteFrames(columns, index);
    const [left, right] = this.sides;
    const isBehind = left.isBehind || right.isBehind;
    const unmodelled = left.hiddenBy ?? right.hiddenBy ?? notModelledBy(a) ?? notModelledBy(b);
    if (unmodelled === undefined) {
      this.stepsCompared++;
      if (this.options.scope === 'all') this.compareRows(columns, index);
      else if (!isBehind) this.compareViews(columns, index);
    } else if (unmodelled !== '') {
      this.notModelled.set(unmodelled, (this.notModelled.get(unmodelled) ?? 0) + 1);
    }
    if (!isBehind) this.compareRegisters(columns, index);
    for (let row = begin; row < end; row++) {
      if (namesEntry(columns.observationOp[row]!)) this.compareEntry(columns, index, row);
    }
    for (const side of this.sides) side.learn(columns, index);
    return !this.options.bail || this.changed === before;
  }

  /** Whether both machines can go on. */
  private applyBoth(columns: StepColumns, index: number): boolean {
    const [a, b] = this.sides.map((side) => failureOf(() => side.apply(columns, index)));
    if (a === undefined && b === undefined) return true;
    // Both of them: no difference, but a bug of rewalk's.
    if (a !== undefined && b !== undefined) throw a;
    const [label, error] = a === undefined ? [this.labels[1], b!] : [this.labels[0], a];
    const cause = `${label} cannot go on: ${error.message}`;
    this.note(columns, index, NO_PLACES, 0, { cause, group: `${stepName(columns.op[index]!)}: ${label} cannot go on` });
    return false;
  }

  private noteFrames({ op, address, operand, stimuli }: StepColumns, index: number): void {
    const at = 2 * index;
    this.frames.noteStep(op[index]!, address[at]! | 0, address[at + 1]! | 0, operand[at]!, stimuli);
    this.frames.noteLog(this.a.log);
    this.frames.noteLog(this.b.log);
  }

  // -------------------------------------------------------------------------------------------------------------- rows

  private compareRows(columns: StepColumns, index: number): void {
    const { a, b, alignment } = this;
    this.rows += Math.max(a.log.count, b.log.count);
    const events = eventCount(a.log);
    this.events += events;
    const first = firstDifference(a.log, b.log);
    const longest = Math.max(a.log.count, b.log.count);
    const align = first >= 0 || (alignment.renames && events > 0);
    if (!align) return;
    const begin = longest <= MAXIMUM_ROWS ? 0 : beginOfUnit(a.log, Math.max(0, first - ROWS_BEFORE));
    const places = alignment.align(keptRows(a.log, begin), keptRows(b.log, begin), begin);
    const at = places.findIndex(({ state }) => state !== 'equal');
    if (at < 0) return;
    const op = columns.op[index]!;
    this.note(columns, index, places, at, explainPlaces(op, places, at, this.labels, this.wordsConfig), begin);
    alignment.startRenaming();
  }

  private compareViews(columns: StepColumns, index: number): void {
    const { viewA, viewB } = this;
    viewA.ofLog(this.a.log);
    viewB.ofLog(this.b.log);
    const kind = columns.op[index]! & STEP_KIND_MASK;
    if (this.hasExits && kind === StepKind.ACCESS && viewA.hasEnded !== viewB.hasEnded) {
      this.notCompared.set(UNTOLD, (this.notCompared.get(UNTOLD) ?? 0) + 1);
      return;
    }
    // That nothing of a fault reaches the guest is something to see, too.
    const least = kind === StepKind.FAULT_EXIT || kind === StepKind.SOFTWARE_WALK ? 1 : 0;
    this.rows += Math.max(viewA.rows, viewB.rows, least);
    if (viewA.equals(viewB)) return;
    this.note(columns, index, NO_PLACES, 0, this.explainViews(columns.op[index]!));
  }

  /** Of one event in the place of the like the fields that differ, otherwise what each guest sees. */
  private explainViews(op: number): Explanation {
    const { viewA, viewB, labels } = this;
    const place = viewA.eventBeside(viewB);
    if (place !== undefined) return explainPlaces(op, [place], 0, labels, this.wordsConfig);
    return {
      cause: `the guest sees ${viewA.text} on ${labels[0]}, ${viewB.text} on ${labels[1]}`,
      group: `${stepName(op)}: ${viewA.shape} / ${viewB.shape}`,
    };
  }

  // ------------------------------------------------------------------------------------------------------------- state

  private compareRegisters(columns: StepColumns, index: number): void {
    const [a, b] = [this.a.registers, this.b.registers];
    this.registerSets++;
    for (let at = 0; at < 2 * REGISTER_COUNT; at += 2) {
      const register = at >>> 1;
      if (a[at] === b[at] && a[at + 1] === b[at + 1]) {
        if (this.apart.size > 0) this.apart.delete(register);
        continue;
      }
      if (this.apart.has(register)) continue;
      this.apart.add(register);
      const name = REGISTER_NAMES[register] ?? '?';
      const values = [hexText(a[at]!, a[at + 1]!), hexText(b[at]!, b[at + 1]!)] as const;
      const cause = `after the step ${name} holds ${this.onBoth(values)}`;
      this.note(columns, index, NO_PLACES, 0, { cause, group: `${stepName(columns.op[index]!)}: register ${name}` });
    }
  }

  /** An entry that the recording names, after the step. */
  private compareEntry(columns: StepColumns, index: number, row: number): void {
    const op = columns.observationOp[row]!;
    const lo = columns.observationAddress[2 * row]!;
    const hi = columns.observationAddress[2 * row + 1]!;
    const a = this.a.readEntry(op, lo, hi);
    const b = this.b.readEntry(op, lo, hi);
    this.entries++;
    if ((a[0] === b[0] && a[1] === b[1]) || this.isLeftOpen(a, b)) return;
    const cause = `after the step the entry at ${hexText(lo, hi)} is ${this.onBoth([hexText(...a), hexText(...b)])}`;
    this.note(columns, index, NO_PLACES, 0, { cause, group: `${stepName(columns.op[index]!)}: guest entry` });
  }

  private onBoth([a, b]: readonly [string, string]): string {
    return `${a} on ${this.labels[0]}, ${b} on ${this.labels[1]}`;
  }

  /** Two values of a word differ in A or D only, which accesses with an exit that nobody told of have set on one side. */
  private isLeftOpen(a: readonly [number, number], b: readonly [number, number]): boolean {
    if (((a[0] ^ b[0]) & ~AD_BITS) !== 0 || ((a[1] ^ b[1]) & ~AD_BITS) !== 0) return false;
    const untold = this.notCompared.get(UNTOLD) ?? 0;
    if (untold > 0) this.notCompared.set(OPEN_WORDS, (this.notCompared.get(OPEN_WORDS) ?? 0) + 1);
    return untold > 0;
  }

  /** All guest memory that the trace put something into. */
  private compareMemory(): void {
    let found = 0;
    for (const side of this.sides) side.end();
    this.words = this.frames.words;
    for (const { addressLo, addressHi, a, b } of this.frames.differences(this.a, this.b)) {
      if (this.isLeftOpen(a, b)) continue;
      if (found++ === MAXIMUM_WORDS) return;
      const values = this.onBoth([hexText(...a), hexText(...b)]);
      const cause = `at the end guest memory at ${hexText(addressLo, addressHi)} is ${values}`;
      this.note(null, 0, NO_PLACES, 0, { cause, group: 'guest memory at the end' });
    }
  }

  /** Configuration that the words of both sides can be taken apart by, if it is the same for both. */
  private get wordsConfig(): KvmConfig | undefined {
    const [a, b] = this.configs;
    return a !== undefined && a.profile === b?.profile && a.tdp === b.tdp ? a : undefined;
  }

  // ----------------------------------------------------------------------------------------------------------- results

  private note(
    columns: StepColumns | null,
    index: number,
    places: readonly Place[],
    at: number,
    { cause, group }: Explanation,
    begin = 0,
  ): void {
    const step = columns === null ? this.ordinal - 1 : this.ordinal;
    const isKept = this.differences.length < this.options.maxDiffs;
    if (isKept || this.documented.length > 0) {
      const difference: Difference = {
        step,
        line: columns?.lineOf(index),
        source: columns === null ? undefined : this.header.sources[columns.source]?.name,
        ofStep: columns !== null,
        op: columns?.op[index] ?? StepKind.RARE,
        addressLo: columns?.address[2 * index] ?? 0,
        addressHi: columns?.address[2 * index + 1] ?? 0,
        operandLo: columns?.operand[2 * index] ?? 0,
        operandHi: columns?.operand[2 * index + 1] ?? 0,
        places,
        at,
        a: columns === null ? [] : keptRows(this.a.log, begin),
        b: columns === null ? [] : keptRows(this.b.log, begin),
        configs: this.configs,
        explained: this.sides.every(({ isExplained }) => isExplained),
        cause,
        group,
        registers: this.a.registers.slice(),
      };
      const known = this.documented.find((each) => each.covers(difference));
      if (known !== undefined) {
        this.documentedCounts.set(known, (this.documentedCounts.get(known) ?? 0) + 1);
        return;
      }
      if (isKept) this.differences.push(difference);
    }
    this.changed++;
    const key = this.groups.has(group) || this.groups.size < MAXIMUM_GROUPS ? group : 'others';
    const counts = this.groups.get(key);
    if (counts === undefined) this.groups.set(key, { count: 1, first: step });
    else counts.count++;
  }

  /** What the comparison came to; to be called once. `digest`: from the end of the trace, if it was reached. */
  result(digest: string | undefined, ending: Ending): ComparisonResult {
    if (!this.stopped && this.skippedBecause === undefined) this.compareMemory();
    const groups: DifferenceGroup[] = [...this.groups].map(([group, counts]) => ({ group, ...counts }));
    groups.sort((a, b) => a.first - b.first || b.count - a.count);
    const { unknown } = this.header;
    const limits: string[] = [];
    const verdict = this.verdict();
    if (verdict === 'skipped') limits.push(this.skippedBecause ?? 'nothing in the trace reaches the guest');
    if (unknown !== undefined && unknown.length > 0) {
      limits.push(`a partial trace, which does not tell: ${unknown.join(', ')}`);
    }
    if (this.stopped) limits.push(`stopped at step ${this.ordinal - 1}: what follows was not compared`);
    return {
      labels: this.labels,
      verdict,
      differences: this.differences,
      receipt: {
        file: this.file,
        title: this.header.title,
        sides: [this.sides[0].description, this.sides[1].description],
        policy: POLICY[this.options.scope],
        limits,
        digest,
        ending,
        steps: this.ordinal,
        stepsCompared: this.stepsCompared,
        rows: this.rows,
        events: this.events,
        registerSets: this.registerSets,
        entries: this.entries,
        words: this.words,
        documented: [...this.documentedCounts].map(([{ name, citation, sentence }, count]) => ({
          name,
          citation,
          sentence,
          count,
        })),
        notCompared: Object.fromEntries(this.notCompared),
        notModelled: Object.fromEntries(this.notModelled),
        changed: this.changed,
        groups,
      },
    };
  }

  private verdict(): ComparisonVerdict {
    if (this.skippedBecause !== undefined) return 'skipped';
    const { allowUnmodelled } = this.options;
    const unmodelled = [...this.notModelled.keys()].some((name) => !allowUnmodelled.includes(name));
    if (unmodelled) return 'not-modelled';
    if (this.changed > 0) return 'changed';
    // What is left out by name is left out knowingly.
    if (this.rows > 0 || this.notModelled.size > 0) return 'unchanged';
    return this.options.scope === 'guest' && this.stepsCompared > 0 ? 'skipped' : 'nothing-compared';
  }
}

/** The error by which a machine cannot go on, undefined if it can. A Problem is the trace's, and thrown. */
function failureOf(apply: () => void): Error | undefined {
  try {
    apply();
    return undefined;
  } catch (error) {
    if (error instanceof Problem || !(error instanceof Error)) throw error;
    return error;
  }
}

function eventCount(log: RowLog): number {
  let events = 0;
  for (let i = 0; i < log.count; i++) if ((log.op(i) & OBS_KIND_MASK) === Obs.KVM_EVENT) events++;
  return events;
}

/** The row at or before `row` that an event or another observation begins with. */
function beginOfUnit(log: RowLog, row: number): number {
  let begin = row;
  while (begin > 0 && begin < log.count && (log.op(begin) & OBS_KIND_MASK) === Obs.KVM_MORE) begin--;
  return begin;
}
