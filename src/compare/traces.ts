/**
 * Two traces held against each other by what they mean: which steps and events both have, which differ, which only one
 * has. Timestamps, lines, tasks, provenance and the names of host frames are left out.
 */

import { hex64, type Word64 } from '../bits/word64.ts';
import { decodeNpfExitInfo1, decodePfec, decodeQualification } from '../formats/decode/fault.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { namesByNumber } from '../formats/names.ts';
import { REGISTER_COUNT, REGISTER_NAMES } from '../formats/registers.ts';
import {
  FAULT_MISCONFIG,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  Invalidation,
  PROVENANCE_MASK,
  PROVENANCE_SHIFT,
  Provenance,
  STEP_KIND_NAMES,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  StepKind,
} from '../formats/step.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { type DifferenceClass, DifferenceClasses, type Doing } from './trace-classes.ts';
import { type EventCounts, HOST_FRAME, TraceEvents } from './trace-events.ts';
import { Lanes, type TraceSide } from './trace-lanes.ts';
import { StepCursor, stepKind, stepOp, stimulusOf, type TraceStep } from './trace-steps.ts';
import { exitChanges } from './trace-words.ts';

export interface StepCounts {
  /** Side by side; `differ`: those of them that do not say the same. */
  both: number;
  differ: number;
  onlyA: number;
  onlyB: number;
}

export interface TracesResult {
  readonly steps: StepCounts;
  readonly events: EventCounts;
  readonly classes: readonly DifferenceClass[];
  /** Differences of classes beyond those told apart. */
  readonly beyond: number;
  readonly differences: number;
  readonly segments: Readonly<Record<TraceSide, number>>;
  /** Notes of the guest that stand side by side. */
  readonly marks: number;
}

/** Where one segment of each trace comes from, and its steps chunk by chunk; `undefined`: no more. */
export interface SegmentSource {
  readonly header: TraceHeader;
  chunk(): Promise<StepColumns | undefined>;
}

const INVALIDATION_NAMES = namesByNumber(Invalidation);

export class TracesComparison {
  private readonly steps: StepCounts = { both: 0, differ: 0, onlyA: 0, onlyB: 0 };
  private readonly eventCounts: EventCounts = { equal: 0, differ: 0, moved: 0, onlyA: 0, onlyB: 0 };
  private readonly classes = new DifferenceClasses();
  private readonly segments = { a: 0, b: 0 };
  private marks = 0;
  private readonly window: number | undefined;

  /** `window`: for tests, steps that are looked at together. */
  constructor(window?: number) {
    this.window = window;
  }

  /** Compares two segments, or tells of one that the other trace does not have. `progress`: called chunk by chunk. */
  async segment(
    a: SegmentSource | undefined,
    b: SegmentSource | undefined,
    progress: (steps: number) => Promise<void>,
  ): Promise<void> {
    if (a !== undefined) this.segments.a++;
    if (b !== undefined) this.segments.b++;
    const header = (a ?? b)?.header;
    if (header === undefined) return;
    const segment = Math.max(this.segments.a, this.segments.b) - 1;
    const pair = new SegmentPair(a?.header ?? header, b?.header ?? header, this.classes, this.steps, segment);
    const lanes = new Lanes((x, y, lane) => pair.paired(x, y, lane), this.window);
    const sources = { a, b };
    const cursors = { a: new StepCursor(), b: new StepCursor() };
    const ended = { a: a === undefined, b: b === undefined };
    const first = { a: undefined as StepColumns | undefined, b: undefined as StepColumns | undefined };
    const read = async (side: TraceSide): Promise<void> => {
      while (!ended[side] && lanes.wants(side)) {
        const step = cursors[side].next();
        if (step !== undefined) {
          lanes.add(side, step);
          continue;
        }
        const columns = await sources[side]!.chunk();
        if (columns === undefined) ended[side] = true;
        else {
          first[side] ??= { ...columns, registers: columns.registers.slice() };
          cursors[side].take(columns);
        }
        await progress(this.steps.both + this.steps.onlyA + this.steps.onlyB);
      }
    };
    while (!ended.a || !ended.b) {
      await read('a');
      await read('b');
      // What the one waits for may have made room for the other.
      if (!ended.a && lanes.wants('a')) continue;
      lanes.advance(ended);
      await progress(this.steps.both + this.steps.onlyA + this.steps.onlyB);
    }
    pair.finish();
    if (first.a !== undefined && first.b !== undefined) pair.firstState(first.a, first.b);
    this.marks += pair.marks;
    const { counts } = pair.events;
    for (const name of ['equal', 'differ', 'moved', 'onlyA', 'onlyB'] as const) this.eventCounts[name] += counts[name];
  }

  result(): TracesResult {
    const { steps, eventCounts: events, segments, marks } = this;
    const { beyond, total: differences } = this.classes;
    return { steps, events, classes: this.classes.sorted(), beyond, differences, segments, marks };
  }
}

/** What an importer concluded from events: registers, contents of memory. */
function isConcluded(step: TraceStep): boolean {
  const op = stepOp(step);
  const kind = stepKind(step);
  if (((op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK) !== Provenance.INFERRED) return false;
  return kind === StepKind.REGISTER_SET || (kind === StepKind.STORE && (op & STORE_KNOWLEDGE) !== 0);
}

/** Steps that come with another one which only one side has: they are no differences of their own. */
function isCompanion(step: TraceStep): boolean {
  const kind = stepKind(step);
  return kind === StepKind.VM_ENTRY || kind === StepKind.HOST_PAGES || isConcluded(step);
}

/** What stands alone on one side since the last pair. */
interface Alone {
  /** Class of the last step that is no companion. */
  main: DifferenceClass | undefined;
  /**
   * Companions before there was one, with their events; only the first is kept. `concluded`: all of them from events,
   * which may be those of the next pair.
   */
  waiting: { readonly first: TraceStep; count: number; events: number; concluded: boolean } | undefined;
}

class SegmentPair {
  readonly events: TraceEvents;
  marks = 0;
  private readonly headers: readonly [a: TraceHeader, b: TraceHeader];
  private readonly classes: DifferenceClasses;
  private readonly steps: StepCounts;
  private readonly segment: number;
  private readonly alone = new Map<string, Alone>();

  constructor(a: TraceHeader, b: TraceHeader, classes: DifferenceClasses, steps: StepCounts, segment: number) {
    this.headers = [a, b];
    this.events = new TraceEvents(a, b);
    this.classes = classes;
    this.steps = steps;
    this.segment = segment;
  }

  paired(a: TraceStep | undefined, b: TraceStep | undefined, lane: number): void {
    if (a !== undefined && b !== undefined) {
      const difference = this.both(a, b);
      this.runEnds('a', lane, difference);
      this.runEnds('b', lane, difference);
    } else if (a !== undefined) this.one(a, 'a', lane);
    else if (b !== undefined) this.one(b, 'b', lane);
  }

  finish(): void {
    for (const key of [...this.alone.keys()]) {
      const [side, lane] = key.split(' ');
      this.runEnds(side as TraceSide, Number(lane));
    }
  }

  /** The registers that the segments begin with. */
  firstState(a: StepColumns, b: StepColumns): void {
    for (let register = 0; register < REGISTER_COUNT; register++) {
      const at = 2 * register;
      if (a.registers[at] === b.registers[at] && a.registers[at + 1] === b.registers[at + 1]) continue;
      const text = ({ registers }: StepColumns): string => hex64(registers[at] ?? 0, registers[at + 1] ?? 0);
      const subject = `${REGISTER_NAMES[register] ?? `register ${register}`} at the beginning`;
      const change = `${text(a)} → ${text(b)}`;
      const nothing = { a: undefined, b: undefined, rowsA: undefined, rowsB: undefined };
      this.classes.add({ doing: 'guest', subject, kind: 'differs', change, ...nothing }, this.segment);
    }
  }

  /** Returns the class of the first difference. */
  private both(a: TraceStep, b: TraceStep): DifferenceClass | undefined {
    let found: DifferenceClass | undefined;
    this.steps.both++;
    const before = this.classes.total;
    if (stimulusOf(a)?.kind === 'note') this.marks++;
    if (a.key !== b.key) {
      const { doing, subject } = this.subject(a, 'a', true);
      found = this.classes.add(
        {
          doing,
          subject,
          kind: 'differs',
          change: stepChange(a, b, this.events.mmus),
          a,
          b,
          rowsA: undefined,
          rowsB: undefined,
        },
        this.segment,
      );
    }
    for (const { subject, kind, change, a: rowsA, b: rowsB } of this.events.compare(a, b)) {
      const isHost = HOST_SUBJECTS.test(subject) || change.startsWith(HOST_FRAME);
      const doing = subject.startsWith('guest:') ? 'guest' : isHost ? 'host' : 'kvm';
      const added = this.classes.add({ doing, subject, kind, change, a, b, rowsA, rowsB }, this.segment);
      found ??= added;
    }
    if (this.classes.total > before) this.steps.differ++;
    return found;
  }

  private one(step: TraceStep, side: TraceSide, lane: number): void {
    if (side === 'a') this.steps.onlyA++;
    else this.steps.onlyB++;
    const events = this.events.alone(step, side);
    const run = this.runOf(side, lane);
    if (isCompanion(step)) {
      if (run.main !== undefined) {
        run.main.companions++;
        run.main.events += events;
      } else if (run.waiting !== undefined) {
        run.waiting.count++;
        run.waiting.events += events;
        run.waiting.concluded &&= isConcluded(step);
      } else run.waiting = { first: step, count: 1, events, concluded: isConcluded(step) };
      return;
    }
    run.main = this.addAlone(step, side);
    if (run.main === undefined) return;
    run.main.events += events;
    if (run.waiting === undefined) return;
    run.main.companions += run.waiting.count;
    run.main.events += run.waiting.events;
    run.waiting = undefined;
  }

  private addAlone(step: TraceStep, side: TraceSide): DifferenceClass | undefined {
    const { doing, subject } = this.subject(step, side, false);
    const kind = side === 'a' ? 'only-a' : 'only-b';
    const [a, b] = side === 'a' ? [step, undefined] : [undefined, step];
    return this.classes.add(
      { doing, subject, kind, change: '', a, b, rowsA: undefined, rowsB: undefined },
      this.segment,
    );
  }

  private runOf(side: TraceSide, lane: number): Alone {
    const key = `${side} ${lane}`;
    let run = this.alone.get(key);
    if (run === undefined) {
      run = { main: undefined, waiting: undefined };
      this.alone.set(key, run);
    }
    return run;
  }

  /** Companions that nothing came with are differences themselves, but for conclusions from `next`, what follows. */
  private runEnds(side: TraceSide, lane: number, next?: DifferenceClass): void {
    const run = this.alone.get(`${side} ${lane}`);
    if (run === undefined) return;
    if (run.waiting !== undefined) {
      const { first, count, events, concluded } = run.waiting;
      const isOfNext = concluded && next !== undefined;
      const added = isOfNext ? next : this.addAlone(first, side);
      if (added !== undefined) {
        added.companions += isOfNext ? count : count - 1;
        added.events += events;
      }
    }
    this.alone.delete(`${side} ${lane}`);
  }

  /** What a step is, for its class; `brief`: without what would tell two of one place apart. */
  private subject(step: TraceStep, side: TraceSide, brief: boolean): { doing: Doing; subject: string } {
    const op = stepOp(step);
    const kind = stepKind(step);
    const stimulus = stimulusOf(step);
    if (stimulus !== undefined) {
      const isHost = stimulus.kind !== 'page-image' && stimulus.kind !== 'entry-fill' && stimulus.kind !== 'note';
      return { doing: isHost ? 'host' : 'guest', subject: stimulus.kind };
    }
    switch (kind) {
      case StepKind.FAULT_EXIT: {
        const mmu = this.headers[side === 'a' ? 0 : 1].hypervisor?.mmu;
        return { doing: 'kvm', subject: brief ? 'exit' : `exit ${exitWords(step, mmu)}` };
      }
      case StepKind.REGISTER_SET:
      case StepKind.REGISTER_WRITE: {
        const name = REGISTER_NAMES[(op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK] ?? 'register';
        return { doing: 'guest', subject: `${name} ${kind === StepKind.REGISTER_SET ? 'known' : 'written'}` };
      }
      case StepKind.INVALIDATE:
        return {
          doing: 'guest',
          subject: INVALIDATION_NAMES[(op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK] ?? 'invalidate',
        };
      case StepKind.STORE:
        return { doing: 'guest', subject: (op & STORE_KNOWLEDGE) !== 0 ? 'found in memory' : 'store' };
      case StepKind.HOST_PAGES:
        return { doing: 'host', subject: 'host-pages' };
      case StepKind.VM_ENTRY:
      case StepKind.SOFTWARE_WALK:
        return { doing: 'kvm', subject: STEP_KIND_NAMES[kind] ?? 'step' };
      default:
        return { doing: 'guest', subject: STEP_KIND_NAMES[kind] ?? `step kind ${kind}` };
    }
  }
}

const HOST_SUBJECTS = /^(?:unmap-hva-range|set-spte-hva|age-hva|test-age-hva)$/;

/** The error code in words: `P|W`. */
function exitWords(step: TraceStep, mmu: KvmConfig | undefined): string {
  const { columns, at } = step;
  if ((columns.op[at]! & FAULT_MISCONFIG) !== 0) return 'EPT misconfiguration';
  const word = { lo: columns.operand[2 * at]!, hi: columns.operand[2 * at + 1]! };
  if (mmu?.tdp === true) {
    return mmu.vendor === 'intel'
      ? decodeQualification(word).short
      : decodeNpfExitInfo1(word).short.replaceAll(' ', '|').replace(';|', '; ');
  }
  return decodePfec(word, mmu?.vendor).short.replaceAll(' ', '|');
}

/** In which way two steps about the same thing do not say the same. */
function stepChange(a: TraceStep, b: TraceStep, mmus: TraceEvents['mmus']): string {
  const [x, y] = [a.columns, b.columns];
  const parts: string[] = [];
  if (stimulusOf(a) !== undefined) return stimulusOf(a)?.kind === 'note' ? 'text' : 'contents';
  const half = (step: TraceStep, column: Uint32Array, i: number): number => column[2 * step.at + i]!;
  const same = (p: Uint32Array, q: Uint32Array): boolean => [0, 1].every((i) => half(a, p, i) === half(b, q, i));
  if ((stepOp(a) ^ stepOp(b)) >>> 7 !== 0) parts.push('kind of access or size');
  if (!same(x.address, y.address)) parts.push('address');
  if (!same(x.operand, y.operand)) {
    const word = (step: TraceStep): Word64 => ({
      lo: half(step, step.columns.operand, 0),
      hi: half(step, step.columns.operand, 1),
    });
    parts.push(stepKind(a) === StepKind.FAULT_EXIT ? `error code: ${exitChanges(word(a), word(b), mmus)}` : 'value');
  }
  return parts.join(', ');
}
