/**
 * Where two machines on the same trace first part, which is seldom where it shows: everything that each of them does in a
 * step, told or not, is held against the other's, and the first difference is put into a sentence that names the mechanism.
 * What is compared is what was done; nobody here knows which bug one of them has.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { Explainer, type ExplainerOptions } from '../replay/explain.ts';
import { divergenceOf } from '../replay/explain-divergence.ts';
import type { Words } from '../replay/explain-step.ts';
import { contradictionsIn } from '../replay/explain-walks.ts';
import type { ExplainedDivergence, ExplainedParting, Explanation } from '../replay/explanation.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { type Depth, Digests } from './parting-digests.ts';
import { type Item, itemsOf, type Pairing, paired, placeOf } from './parting-items.ts';
import { type Labels, sentenceOf } from './parting-sentence.ts';
import type { Sides } from './sides.ts';

/** Actions shown before and after the first difference. */
const AROUND = 4;

export interface PartingOptions {
  readonly expectations: ExplainerOptions['expectations'];
  readonly words: Words;
  /** Compare what no row tells, too: for machines that are built alike. */
  readonly internals: boolean;
}

/** First pass: finds the steps at which the two part. */
export class PartingFinder {
  /** Ordinal of the first step with a difference in rows; undefined so far. */
  shown: number | undefined;
  private parting: number | undefined;
  private reordered: number | undefined;
  private readonly sides: readonly [a: Explainer, b: Explainer];
  private readonly digests = [new Digests(), new Digests()] as const;
  private readonly options: PartingOptions;

  /** `last`: ordinal of the last step of interest. Throws E_USAGE if a machine asked for does not fit the trace. */
  constructor(file: string, header: TraceHeader, segment: number, sides: Sides, last: number, options: PartingOptions) {
    this.options = options;
    const { expectations, words } = options;
    const side = (which: 0 | 1): Explainer => {
      const { choice } = sides[which];
      const explainer = new Explainer(file, header, segment, {
        machine: choice,
        expectations,
        words,
        steps: new Set(),
        last,
      });
      explainer.listener = this.digests[which].take;
      return explainer;
    };
    this.sides = [side(0), side(1)];
  }

  /** Ordinal of the first step with a difference in anything; undefined so far. */
  get parted(): number | undefined {
    return this.parting ?? this.reordered;
  }

  /** False: no more is needed. */
  run(columns: StepColumns): boolean {
    const [a, b] = this.sides;
    for (const digests of this.digests) digests.begin(columns.firstOrdinal);
    const goOn = a.run(columns);
    b.run(columns);
    const [digestsA, digestsB] = this.digests;
    const first = (depth: Depth): number | undefined => {
      const at = digestsA.firstDifference(digestsB, depth);
      return at < 0 ? undefined : columns.firstOrdinal + at;
    };
    this.shown ??= first('rows');
    this.parting ??= this.options.internals ? first('actions') : this.shown;
    if (this.options.internals) this.reordered ??= first('order');
    return goOn && this.shown === undefined;
  }
}

export interface PairOptions extends PartingOptions {
  /** The step to be explained. */
  readonly step: number;
  readonly parted: number | undefined;
  readonly shown: number | undefined;
}

/** Second pass: looks closely at both machines at the step asked for and at the one where they part. */
export class PairExplainer {
  private readonly a: Explainer;
  private readonly b: Explainer;
  private readonly labels: Labels;
  private readonly options: PairOptions;

  constructor(file: string, header: TraceHeader, segment: number, sides: Sides, options: PairOptions) {
    this.options = options;
    this.labels = [sides[0].label, sides[1].label];
    const { step, parted, expectations, words } = options;
    const steps = new Set(parted === undefined || parted > step ? [step] : [step, parted]);
    this.a = new Explainer(file, header, segment, { machine: sides[0].choice, expectations, words, steps });
    this.b = new Explainer(file, header, segment, { machine: sides[1].choice, expectations, words, steps });
  }

  /** False: no more is needed. */
  run(columns: StepColumns): boolean {
    const a = this.a.run(columns);
    return this.b.run(columns) || a;
  }

  /** The second machine's step, against the first's; undefined if the trace has no such step. */
  explanation(): Explanation | undefined {
    const { options, a, b, labels } = this;
    const { step } = options;
    const own = b.explanation(step);
    if (own === undefined) return undefined;
    const parting = this.parting();
    const difference = this.differenceAt(step);
    const shows = own.divergence?.cause ?? difference?.cause;
    const cause =
      parting === undefined
        ? own.cause
        : parting.step === step
          ? parting.sentence
          : `at step ${parting.step} (${parting.stepText}) ${parting.sentence}${shows === undefined ? '' : `; at step ${step} it shows: ${shows}`}`;
    const notes = parting === undefined ? [`${labels[0]} and ${labels[1]} do the same up to this step`] : [];
    const { cause: _own, ...rest } = own;
    return {
      ...rest,
      ...(difference === undefined ? {} : { difference }),
      ...(parting === undefined ? {} : { parting }),
      ...(cause === undefined ? {} : { cause }),
      notes: [
        ...own.notes,
        ...notes,
        ...[a, b].flatMap((side, i) =>
          side.failure === undefined
            ? []
            : [`${labels[i]} cannot go on at step ${side.failure.step}: ${side.failure.message}`],
        ),
      ],
    };
  }

  private configs(): readonly [KvmConfig | undefined, KvmConfig | undefined] {
    return [this.a.watch?.machine.config, this.b.watch?.machine.config];
  }

  private pairsAt(step: number): Pairing[] | undefined {
    const [left, right] = [this.a.captured.get(step), this.b.captured.get(step)];
    if (left === undefined || right === undefined) return undefined;
    const [configA, configB] = this.configs();
    const { words, internals } = this.options;
    const only = (items: Item[]): Item[] => (internals ? items : items.filter(({ rows }) => rows.length > 0));
    return paired(only(itemsOf(left, words, configA)), only(itemsOf(right, words, configB)));
  }

  private differenceAt(step: number): ExplainedDivergence | undefined {
    const pairs = this.pairsAt(step)?.filter(({ a, b }) => (a ?? b)!.rows.length > 0);
    const at = pairs?.findIndex(({ state }) => state !== 'equal') ?? -1;
    if (pairs === undefined || at < 0) return undefined;
    const op = this.b.captured.get(step)!.columns.op[this.b.captured.get(step)!.index]!;
    const cause = sentenceOf(pairs, at, this.labels, this.configs()[1], op);
    return divergenceOf('machines', this.labels, pairs.map(placeOf), cause);
  }

  private parting(): ExplainedParting | undefined {
    const { parted, step, words } = this.options;
    if (parted === undefined || parted > step) return undefined;
    const { labels } = this;
    const pairs = this.pairsAt(parted);
    const right = this.b.captured.get(parted) ?? this.a.captured.get(parted);
    if (right === undefined) return undefined;
    const stepText = words.step(right.columns, right.index, right.registers);
    const base = { labels, step: parted, stepText };
    const failed = this.b.failure ?? this.a.failure;
    if (pairs === undefined) {
      const sentence =
        failed === undefined
          ? 'the two differ'
          : `${this.b.failure === undefined ? labels[0] : labels[1]} cannot go on: ${failed.message}`;
      return { ...base, sentence, places: [], state: [] };
    }
    const at = pairs.findIndex(({ state }) => state !== 'equal');
    if (at < 0) return undefined;
    const op = right.columns.op[right.index]!;
    const own = sentenceOf(pairs, at, labels, this.configs()[1], op);
    const wrong = this.newContradiction(parted);
    const sentence = wrong === undefined ? own : `on ${labels[1]} ${wrong}`;
    const places = pairs.slice(Math.max(0, at - AROUND), at + 2 * AROUND).map(placeOf);
    return { ...base, sentence, places, state: this.stateDifferences(parted) };
  }

  /** What the second machine's walks do against the rules and the first one's do not. */
  private newContradiction(step: number): string | undefined {
    const known = new Set(contradictionsIn(this.a.captured.get(step)?.walks ?? []));
    return contradictionsIn(this.b.captured.get(step)?.walks ?? []).find((each) => !known.has(each));
  }

  private stateDifferences(step: number): string[] {
    const [left, right] = [this.a.captured.get(step)?.contexts ?? [], this.b.captured.get(step)?.contexts ?? []];
    return left.flatMap(({ context, state }) => {
      const other = right.find((each) => each.context === context);
      if (other === undefined || other.state === state) return [];
      return [`${context}: ${state} on ${this.labels[0]}; ${other.state} on ${this.labels[1]}`];
    });
  }
}
