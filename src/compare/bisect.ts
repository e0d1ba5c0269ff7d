/**
 * The first bad step of a trace. Of a replay: where it first diverges. Of two machines: where what they do first differs,
 * and before that, by halving, where their states part in a way that lasts until then: the step that went wrong, whether
 * or not anything showed it.
 */

import { expectationsFor } from '../replay/expectations.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { placeSentence, type StatePlace, stateDifferences } from './bisect-state.ts';
import { type Finding, machinesGoal, replayGoal, type Trial } from './minimise-goal.ts';
import { itemsOf, type Wanted } from './minimise-locate.ts';
import { RefereedMachine } from './referee.ts';
import type { Sides } from './sides.ts';

/** Places of a state that are told in words. */
const TOLD_PLACES = 5;

export interface BisectOptions extends Omit<Wanted, 'step'> {
  /** Look at the states of two machines, too: not where they build other tables by design. */
  readonly states: boolean;
}

export interface BisectProgress {
  readonly phase: 'looking for the first difference' | 'bisecting';
  /** Steps gone through in the present run. */
  readonly steps: number;
  /** Runs from the beginning so far. */
  readonly runs: number;
}

/** A step as it stands in the trace. */
export interface BadStep {
  readonly step: number;
  readonly line: number | undefined;
  readonly source: string | undefined;
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  /** Those of its chunk, which a RARE step's operand refers to. */
  readonly stimuli: readonly Stimulus[];
}

export interface Bisected {
  readonly segment: number;
  readonly header: TraceHeader;
  /** Steps that were gone through, of segments before it, too, if nothing was found. */
  readonly steps: number;
  /** The first difference that shows. */
  readonly shown: (BadStep & Finding) | undefined;
  /** The step after which the states differ until then, and in what; undefined if they do not, or were not looked at. */
  readonly parted: (BadStep & Parting) | undefined;
  readonly runs: number;
}

interface Parting {
  /** The first places in words. */
  readonly places: readonly string[];
  /** How many more there are; with very many not all are counted. */
  readonly more: number;
}

type Bisecting<Result> = Generator<BisectProgress, Result, void>;

/**
 * Looks through the segments of a file until one has a difference. Throws what reading throws, and E_USAGE for machines
 * that do not fit the trace.
 */
export function* bisect(path: string, options: BisectOptions): Bisecting<Bisected | undefined> {
  let last: Bisected | undefined;
  for (let segment = 0; ; segment++) {
    const found = yield* bisectSegment(path, segment, options);
    if (found === undefined) return last;
    last = { ...found, steps: found.steps + (last?.steps ?? 0) };
    if (found.shown !== undefined || found.parted !== undefined) return found;
  }
}

/** Undefined if there is no such segment. */
function* bisectSegment(path: string, segment: number, options: BisectOptions): Bisecting<Bisected | undefined> {
  const { sides, machine, scope = 'all' } = options;
  let begun: { readonly trial: Trial; readonly header: TraceHeader } | undefined;
  let steps = 0;
  for (const chunk of chunksOf(path, segment)) {
    if (begun === undefined) {
      const goal =
        sides === undefined ? replayGoal(machine, expectationsFor(path, segment), false) : machinesGoal(sides, scope);
      begun = { trial: goal.trial(chunk.header, { bail: true }), header: chunk.header };
    }
    const { columns } = chunk;
    if (columns === undefined) continue;
    steps = columns.firstOrdinal + columns.stepCount;
    yield { phase: 'looking for the first difference', steps, runs: 0 };
    if (!begun.trial.run(columns)) break;
  }
  if (begun === undefined) return undefined;
  const { header } = begun;
  const [finding] = begun.trial.findings();
  const shown = finding && { ...finding, ...stepAt(path, segment, finding.step) };
  if (sides === undefined || !options.states || steps === 0) {
    return { segment, header, steps, shown, parted: undefined, runs: 1 };
  }
  const halving = new Halving(path, segment, header, sides);
  const parting = yield* halving.find(shown?.step ?? steps - 1);
  const parted = parting && { ...parting, ...stepAt(path, segment, parting.step) };
  return { segment, header, steps, shown, parted, runs: 1 + halving.runs };
}

/** The header of a segment and its chunks, the first one without columns. */
function* chunksOf(
  path: string,
  segment: number,
): Generator<{ readonly header: TraceHeader; readonly columns: StepColumns | undefined }, void, void> {
  let header: TraceHeader | undefined;
  for (const item of itemsOf(path)) {
    if (item.kind === 'header') {
      if (header !== undefined) return;
      if (item.segment !== segment) continue;
      header = item.header;
      yield { header, columns: undefined };
    } else if (header !== undefined && item.kind === 'steps') yield { header, columns: item.columns };
  }
}

function stepAt(path: string, segment: number, step: number): BadStep {
  for (const { columns, header } of chunksOf(path, segment)) {
    if (columns === undefined || columns.firstOrdinal + columns.stepCount <= step) continue;
    const index = step - columns.firstOrdinal;
    const at = 2 * index;
    return {
      step,
      line: columns.lineOf(index),
      source: header.sources[columns.source]?.name,
      op: columns.op[index]!,
      addressLo: columns.address[at]!,
      addressHi: columns.address[at + 1]!,
      operandLo: columns.operand[at]!,
      operandHi: columns.operand[at + 1]!,
      stimuli: columns.stimuli,
    };
  }
  throw new Error(`step ${step} was there before`);
}

/** Halves the stretch at whose beginning the states are alike and at whose end they are not. */
class Halving {
  runs = 0;
  private readonly path: string;
  private readonly segment: number;
  private readonly header: TraceHeader;
  private readonly sides: Sides;
  /** What differs from the beginning on, since the machines are what they are. */
  private readonly apart = new Set<string>();

  constructor(path: string, segment: number, header: TraceHeader, sides: Sides) {
    this.path = path;
    this.segment = segment;
    this.header = header;
    this.sides = sides;
  }

  /** The first step after which the states differ, at most `last`; undefined if they do not even after that one. */
  *find(last: number): Bisecting<(Parting & { readonly step: number }) | undefined> {
    yield* this.placesAfter(-1, (places) => {
      for (const { path } of places) this.apart.add(path);
    });
    let differing = yield* this.partedAfter(last);
    if (differing === undefined) return undefined;
    let [alike, apart] = [-1, last];
    while (apart - alike > 1) {
      const middle = (alike + apart) >> 1;
      const found = yield* this.partedAfter(middle);
      if (found === undefined) alike = middle;
      else [apart, differing] = [middle, found];
    }
    return { step: apart, ...differing };
  }

  private *partedAfter(step: number): Bisecting<Parting | undefined> {
    const { sides } = this;
    return yield* this.placesAfter(step, (places, machines) => {
      const fresh = places.filter(({ path }) => !this.apart.has(path));
      if (fresh.length === 0) return undefined;
      const labels = [sides[0].label, sides[1].label] as const;
      const words = new Set(fresh.map((place) => placeSentence(machines, labels, place)));
      const told = [...words].slice(0, TOLD_PLACES);
      return { places: told, more: words.size - told.length };
    });
  }

  /** Runs both machines up to and including a step, and hands over where their states differ then. */
  private *placesAfter<Result>(
    last: number,
    use: (
      places: readonly StatePlace[],
      machines: readonly [RefereedMachine['machine'], RefereedMachine['machine']],
    ) => Result,
  ): Bisecting<Result> {
    const { header } = this;
    const a = new RefereedMachine(header, this.sides[0], 'all');
    const b = new RefereedMachine(header, this.sides[1], 'all');
    this.runs++;
    for (const { columns } of chunksOf(this.path, this.segment)) {
      if (columns === undefined) continue;
      if (columns.firstOrdinal > last) {
        // The state that the steps begin with is the machines' own from the beginning on.
        if (last < 0) for (const side of [a, b]) side.begin(columns);
        break;
      }
      for (const side of [a, b]) runSide(side, columns, last);
      yield { phase: 'bisecting', steps: columns.firstOrdinal + columns.stepCount, runs: this.runs };
    }
    return use(stateDifferences(a.machine, b.machine), [a.machine, b.machine]);
  }
}

/** Applies the steps of a chunk up to `last`, as a comparison does. */
function runSide(side: RefereedMachine, columns: StepColumns, last: number): void {
  const { stepCount, firstOrdinal } = columns;
  side.begin(columns);
  for (let i = 0; i < stepCount && firstOrdinal + i <= last; i++) {
    try {
      side.apply(columns, i);
    } catch {
      // It cannot go on, which is the difference that was found; its state is compared as it is.
      return;
    }
    side.learn(columns, i);
  }
}
