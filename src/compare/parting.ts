/**
 * Where two machines on the same trace first part, which is seldom where it shows: everything that each of them does in a
 * step, told or not, is held against the other's, and the first difference is put into a sentence that names the mechanism.
 * What is compared is what was done; nobody here knows which bug one of them has.
 */

import { hexText } from '../bits/word64.ts';
import { decodeNpfExitInfo1, decodeQualification } from '../formats/decode/fault.ts';
import { roleFields } from '../formats/decode/kvm-role.ts';
import { spteFields, spteKind } from '../formats/decode/kvm-spte.ts';
import { bitRange, bitsOf } from '../formats/decode/word.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { KvmEvent } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import type { Machine } from '../machine/machine.ts';
import { ROW, type RowLog } from '../paging/row-log.ts';
import {
  type CapturedStep,
  contradictionsIn,
  divergenceOf,
  Explainer,
  type ExplainerOptions,
  type Words,
} from '../replay/explain.ts';
import { gfnText, type Seen, type SeenWord, seenWordText, type Watch } from '../replay/explain-watch.ts';
import type {
  ContextName,
  ExplainedDivergence,
  ExplainedParting,
  ExplainedPlace,
  Explanation,
} from '../replay/explanation.ts';
import type { Row } from '../replay/result.ts';
import { sideBySide } from '../replay/sequence.ts';
import { rowsEvent, unitsOf } from '../replay/units.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { explainPlaces } from './cause.ts';
import type { Sides } from './sides.ts';

/** Actions shown before and after the first difference. */
const AROUND = 4;

// ------------------------------------------------------------------------------------------------------------- digests

const FNV = 0x0100_0193;

function hashText(hash: number, text: string): number {
  let value = hash;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), FNV);
  return value;
}

function digestOfRows({ rows, count }: RowLog): number {
  let hash = 0x811c_9dc5 | 0;
  for (let at = 0; at < count * ROW; at++) hash = Math.imul(hash ^ rows[at]!, FNV);
  return hash;
}

/** The same whatever the order: what is only done sooner or later in a step parts nobody, if there is anything else. */
function digestOfSeen(watch: Watch | null): number {
  let sum = 0;
  if (watch === null) return sum;
  for (const { context, does, word } of watch.seen) {
    let hash = hashText(hashText(0x811c_9dc5 | 0, context), does);
    if (word !== undefined) hash = Math.imul(Math.imul(hash ^ word.lo, FNV) ^ word.hi, FNV);
    sum = (sum + hash) | 0;
  }
  return sum;
}

function digestOfOrder(watch: Watch | null): number {
  let hash = 0x811c_9dc5 | 0;
  if (watch === null) return hash;
  for (const { does } of watch.seen) hash = hashText(hash, does);
  return hash;
}

/** What two steps may differ in: rows; those and what is done; that and in which order. */
type Depth = 'rows' | 'actions' | 'order';

/** Digests of the steps of one run: of rows and of all actions. */
class Digests {
  private rows = new Int32Array(1024);
  private seen = new Int32Array(1024);
  private order = new Int32Array(1024);
  private first = 0;
  count = 0;

  begin(first: number): void {
    this.first = first;
    this.count = 0;
  }

  readonly take = (ordinal: number, watch: Watch | null, machine: Machine): void => {
    const at = ordinal - this.first;
    if (at !== this.count) return;
    if (at === this.rows.length) {
      this.rows = doubled(this.rows);
      this.seen = doubled(this.seen);
      this.order = doubled(this.order);
    }
    this.rows[at] = digestOfRows(machine.log);
    this.seen[at] = digestOfSeen(watch);
    this.order[at] = digestOfOrder(watch);
    this.count++;
  };

  /** Index of the first step that differs from the other's; -1. */
  firstDifference(other: Digests, depth: Depth): number {
    const both = Math.min(this.count, other.count);
    for (let at = 0; at < both; at++) {
      if (this.rows[at] !== other.rows[at]) return at;
      if (depth !== 'rows' && this.seen[at] !== other.seen[at]) return at;
      if (depth === 'order' && this.order[at] !== other.order[at]) return at;
    }
    return this.count === other.count ? -1 : both;
  }
}

function doubled(array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(2 * array.length);
  larger.set(array);
  return larger;
}

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

// ----------------------------------------------------------------------------------------------------------- sequences

/** An action of a step, or what a row tells, of one side. */
interface Item {
  readonly context: ContextName;
  readonly kind: string;
  readonly does: string;
  readonly word: SeenWord | undefined;
  readonly table: Seen['table'];
  readonly rows: readonly Row[];
  readonly key: string;
  readonly text: string;
}

function itemsOf(step: CapturedStep, words: Words, config: KvmConfig | undefined): Item[] {
  const items: Item[] = [];
  let next = 0;
  const take = (row: number): void => {
    for (; next < step.seen.length && step.seen[next]!.row <= row; next++) items.push(itemOf(step.seen[next]!, config));
  };
  for (const { rows, at } of unitsOf(step.rows)) {
    take(at);
    const isEvent = (rows[0]!.op & OBS_KIND_MASK) === Obs.KVM_EVENT;
    const context = step.signed.get(at) ?? (isEvent ? 'kvm' : 'processor');
    const text = words.rows(rows, step.registers);
    const numbers = rows.map(({ op, addressLo, addressHi, valueLo, valueHi }) =>
      [op, addressLo, addressHi, valueLo, valueHi].join(),
    );
    items.push({
      context,
      kind: 'event',
      does: text.split(' ')[0]!,
      word: undefined,
      table: undefined,
      rows,
      key: numbers.join(';'),
      text,
    });
  }
  take(Number.POSITIVE_INFINITY);
  return items;
}

function itemOf({ context, kind, does, word, table }: Seen, config: KvmConfig | undefined): Item {
  const text = word === undefined || config === undefined ? does : `${does}: ${seenWordText(word, config)}`;
  const number = word === undefined ? '' : ` ${word.lo} ${word.hi}`;
  return { context, kind, does, word, table, rows: [], key: `${context} ${does}${number}`, text };
}

interface Pairing {
  readonly a: Item | undefined;
  readonly b: Item | undefined;
  readonly state: ExplainedPlace['state'];
}

function paired(a: readonly Item[], b: readonly Item[]): Pairing[] {
  const keys = (items: readonly Item[]): string[][] => [
    items.map(({ key }) => key),
    items.map(({ context, kind, does }) => `${context} ${kind} ${does}`),
  ];
  return sideBySide(keys(a), keys(b)).map(([i, j]) => {
    const [left, right] = [a[i], b[j]];
    const state =
      left === undefined ? 'only-b' : right === undefined ? 'only-a' : left.key === right.key ? 'equal' : 'differs';
    return { a: left, b: right, state };
  });
}

function placeOf({ a, b, state }: Pairing): ExplainedPlace {
  const text = (item: Item | undefined): string[] => (item === undefined ? [] : [`${item.context}: ${item.text}`]);
  return { state, a: text(a), b: text(b), fields: [] };
}

// ----------------------------------------------------------------------------------------------------------- sentences

type Labels = readonly [a: string, b: string];

/** What an event is about, where its name does not say. */
const EVENT_MECHANISM: Readonly<Record<string, string>> = {
  'get-page': 'look-up of a shadow page',
  'set-spte': 'SPTE',
  'tdp-spte-changed': 'SPTE',
  'sync-page': 'synchronisation of a shadow page',
  'unsync-page': 'shadow page that becomes unsync',
  'prepare-zap-page': 'zap of a shadow page',
  'walker-error': 'verdict of a walk',
  'pagetable-walk': 'walk of guest tables',
  'paging-element': 'guest entry read',
  'set-accessed-bit': 'accessed bit',
  'set-dirty-bit': 'dirty bit',
  'inj-exception': 'exception injected',
  'nested-vmexit-inject': 'exit given to L1',
  'check-mmio-spte': 'MMIO SPTE',
  'handle-mmio-page-fault': 'MMIO fault',
};

const MECHANISM: Readonly<Record<string, string>> = {
  flush: 'TLB flush',
  request: 'request',
  root: 'change of roots',
  setup: 'set-up of the MMU',
  table: 'change of tables',
  cache: 'entry of the MMIO cache',
  injection: 'fault that is injected',
  fault: 'fault handling',
  event: 'event',
};

/** Fields of two words that differ: `access: rights inherited from the levels above: -ux on clean, wux on m01`. */
function wordDifferences(a: SeenWord, b: SeenWord, [labelA, labelB]: Labels, config: KvmConfig): string {
  if (a.format === 'plain' || b.format === 'plain' || a.format !== b.format) {
    return `${seenWordText(a, config)} on ${labelA}, ${seenWordText(b, config)} on ${labelB}`;
  }
  const [x, y] = [
    { lo: a.lo, hi: a.hi },
    { lo: b.lo, hi: b.hi },
  ];
  const context = { profile: config.profile, ept: config.vendor === 'intel' && config.tdp, level: a.level };
  if (a.format === 'spte' && spteKind(x, context) !== spteKind(y, context)) {
    return `${spteKind(x, context)} (${seenWordText(a, config)}) on ${labelA}, ${spteKind(y, context)} (${seenWordText(b, config)}) on ${labelB}`;
  }
  const specs = a.format === 'role' ? roleFields(config.profile) : spteFields(x, context);
  const parts = specs
    .filter(({ high }) => high < 32 || a.format === 'spte')
    .filter(({ high, low }) => bitsOf(x, high, low) !== bitsOf(y, high, low))
    .map(({ name, high, low, words }) => {
      const bits = high === low ? `bit ${high}` : `bits ${bitRange(high, low)}`;
      return `${name} (${bits}): ${words(bitsOf(x, high, low))} on ${labelA}, ${words(bitsOf(y, high, low))} on ${labelB}`;
    });
  return parts.length === 0
    ? `${seenWordText(a, config)} on ${labelA}, ${seenWordText(b, config)} on ${labelB}`
    : parts.join('; ');
}

/** The first difference in one sentence. */
function sentenceOf(
  pairs: readonly Pairing[],
  at: number,
  labels: Labels,
  config: KvmConfig | undefined,
  stepOp: number,
): string {
  const [labelA, labelB] = labels;
  const { a, b, state } = pairs[at]!;
  const before = pairs.slice(0, at).findLast(({ a: item }) => item !== undefined && item.kind !== 'event')?.a;
  const after = before === undefined ? '' : ` (after ${before.context} ${before.text})`;
  if (state === 'differs' && a !== undefined && b !== undefined) {
    if (a.rows.length > 0 && b.rows.length > 0) {
      const special = sameEventText(a, b, labels, config);
      if (special !== undefined) return `${special}${after}`;
      const fields = eventFields(a.rows, b.rows);
      const place = { state: 'differs' as const, a: a.rows, b: b.rows, fields };
      const { cause } = explainPlaces(stepOp, [place], 0, labels, config);
      return `${cause}: ${a.text} on ${labelA}, ${b.text} on ${labelB}${after}`;
    }
    if (a.word !== undefined && b.word !== undefined && config !== undefined) {
      return `${headline(a, 'other')}: ${a.context} ${a.does}, with another word: ${wordDifferences(a.word, b.word, labels, config)}${after}`;
    }
    return `${headline(a, 'other')}: ${labelA}: ${a.context} ${a.text}; ${labelB}: ${b.context} ${b.text}${after}`;
  }
  const beside = besideOf(pairs, at);
  if (state === 'only-a' && a !== undefined) {
    if (beside !== undefined && beside.kind === a.kind && beside.context === a.context) {
      return `${headline(a, 'other')}: on ${labelA} ${a.context} ${a.text}; on ${labelB} ${beside.context} ${beside.text} instead${after}`;
    }
    const reused = reuseText(a, beside, pairs.slice(at), labels, config);
    if (reused !== undefined) return `${reused}${after}`;
    const later = pairs.slice(at).some(({ b: item }) => item?.key === a.key);
    const missing = later ? `${labelB} does so only later, after something else` : `${labelB} does not`;
    const instead = beside === undefined ? '' : `, it goes on with: ${beside.context} ${beside.text}`;
    return `${headline(a, later ? 'late' : 'missing')}: on ${labelA} ${a.context} ${a.text}; ${missing}${later ? '' : instead}${after}`;
  }
  if (b === undefined) return 'the two differ';
  return `${headline(b, 'extra')}: on ${labelB} ${b.context} ${b.text}, which ${labelA} does not do${after}`;
}

/** Two events of a kind that say most when their words are taken apart: the role of a shadow page, what L1 is told. */
function sameEventText(a: Item, b: Item, labels: Labels, config: KvmConfig | undefined): string | undefined {
  const [x, y] = [a.rows[0]!, b.rows[0]!];
  const event = rowsEvent(a.rows);
  if (config === undefined || event !== rowsEvent(b.rows)) return undefined;
  if (
    event === KvmEvent.GET_PAGE &&
    x.addressLo === y.addressLo &&
    x.addressHi === y.addressHi &&
    x.valueLo !== y.valueLo
  ) {
    const word = (row: Row): SeenWord => ({ format: 'role', lo: row.valueLo >>> 0, hi: 0, level: 0 });
    const gfn = gfnText(x.addressHi * 0x1_0000_0000 + x.addressLo);
    return `another role of a shadow page: the table of ${gfn} is got with ${wordDifferences(word(x), word(y), labels, config)}`;
  }
  if (event === KvmEvent.NESTED_VMEXIT_INJECT && eventFields(a.rows, b.rows).join() === 'exit_info1') {
    const text = ({ valueLo: lo, valueHi: hi }: Row): string => {
      const word = { lo: lo >>> 0, hi: hi >>> 0 };
      const decoded = config.vendor === 'amd' ? decodeNpfExitInfo1(word) : decodeQualification(word);
      return `${hexText(word.lo, word.hi)} (${decoded.short})`;
    };
    const bits: number[] = [];
    for (let bit = 63; bit >= 0; bit--) {
      const half = bit < 32 ? x.valueLo ^ y.valueLo : x.valueHi ^ y.valueHi;
      if (((half >>> (bit & 31)) & 1) !== 0) bits.push(bit);
    }
    const name = config.vendor === 'amd' ? 'EXITINFO1' : 'the exit qualification';
    const what = `${name} differs in ${bits.length === 1 ? 'bit' : 'bits'} ${bits.join(', ')}`;
    return `other information in an exit given to L1: ${what}: ${text(x)} on ${labels[0]}, ${text(y)} on ${labels[1]}`;
  }
  return undefined;
}

/**
 * One side gets a table by frame and role, the other goes on without: with the table that is linked, whatever it is. What
 * it then writes to says which.
 */
function reuseText(
  a: Item,
  beside: Item | undefined,
  rest: readonly Pairing[],
  [labelA, labelB]: Labels,
  config: KvmConfig | undefined,
): string | undefined {
  if (config === undefined || rowsEvent(a.rows) !== KvmEvent.GET_PAGE) return undefined;
  const used = beside?.table ?? rest.find(({ b }) => b?.table !== undefined)?.b?.table;
  const row = a.rows[0]!;
  const gfn = row.addressHi * 0x1_0000_0000 + row.addressLo;
  const wanted = { format: 'role' as const, lo: row.valueLo >>> 0, hi: 0, level: 0 };
  const got = `on ${labelA} a table is got for ${gfnText(gfn)}, role ${seenWordText(wanted, config)}`;
  if (used === undefined) return `a look-up of a shadow page is missing: ${got}; ${labelB} gets none`;
  const held = { format: 'role' as const, lo: used.role >>> 0, hi: 0, level: 0 };
  const differs = [
    used.gfn === gfn ? '' : `it is of another guest frame (${gfnText(used.gfn)})`,
    held.lo === wanted.lo ? '' : `its role differs: ${wordDifferences(wanted, held, [labelA, labelB], config)}`,
  ].filter((text) => text !== '');
  const although = differs.length === 0 ? '' : ` although ${differs.join(' and ')}`;
  return `a child table is reused: ${got}; ${labelB} goes on with the linked table of ${gfnText(used.gfn)}, role ${seenWordText(held, config)},${although}`;
}

/** What the other side has in the place of something that only one has. */
function besideOf(pairs: readonly Pairing[], at: number): Item | undefined {
  const { state } = pairs[at]!;
  const next = pairs.slice(at).find((pair) => pair.state !== state);
  if (next === undefined) return undefined;
  return state === 'only-a' ? next.b : next.a;
}

function headline({ kind, does, rows }: Item, what: 'missing' | 'late' | 'extra' | 'other'): string {
  const isOutcome = rows.length > 0 && rowsEvent(rows) < 0;
  const name =
    (kind === 'event' ? EVENT_MECHANISM[does] : undefined) ?? (isOutcome ? 'outcome' : MECHANISM[kind]) ?? kind;
  switch (what) {
    case 'missing':
      return `${article(name)} ${name} is missing`;
    case 'late':
      return `${article(name)} ${name} comes too late`;
    case 'extra':
      return `one ${name} too many`;
    default:
      return `another ${name}`;
  }
}

function article(name: string): string {
  return /^([aeiou]|MMU|MMIO|SPTE)/.test(name) ? 'an' : 'a';
}

function eventFields(a: readonly Row[], b: readonly Row[]): string[] {
  const event = rowsEvent(a);
  if (event < 0 || event !== rowsEvent(b) || a.length !== b.length) return [];
  const word = (rows: readonly Row[], { row, column, maskLo, maskHi }: KvmField): string => {
    const from = rows[row];
    if (from === undefined) return '';
    const lo = column === 'op' ? from.op : column === 'address' ? from.addressLo : from.valueLo;
    const hi = column === 'op' ? 0 : column === 'address' ? from.addressHi : from.valueHi;
    return `${lo & maskLo} ${hi & maskHi}`;
  };
  return KVM_EVENT_FIELDS[event]!.filter((field) => word(a, field) !== word(b, field)).map(({ name }) => name);
}

// --------------------------------------------------------------------------------------------------------------- pairs

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
