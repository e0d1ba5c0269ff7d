/**
 * Explains steps of a trace: replays it as `rewalk replay` does and looks closely at the steps asked for. `explain-watch.ts`
 * sees what the machine does, `explain-hardware.ts` and `explain-software.ts` make trees of its walks.
 */

import { hexText } from '../bits/word64.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { REGISTER_COUNT, REGISTER_NAMES } from '../formats/registers.ts';
import {
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  SOFTWARE_IMPLICIT,
  STEP_KIND_MASK,
  STEP_KIND_NAMES,
  StepKind,
} from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import { Outcome } from '../machine/kvm/processor.ts';
import type { Machine } from '../machine/machine.ts';
import { FETCH, USER, WRITE } from '../paging/access.ts';
import type { PageWalk } from '../paging/page-walk.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { logRows } from './align.ts';
import type { Expectation } from './expectations.ts';
import { type HardwareView, hardwareWalks } from './explain-hardware.ts';
import { softwareWalks } from './explain-software.ts';
import { contextsOf, tablesFor, tlbEntryFor } from './explain-state.ts';
import { nameOfMmu, nameOfWalk, type Seen, seenWordText, Watch } from './explain-watch.ts';
import type {
  ContextName,
  ExplainedAction,
  ExplainedContext,
  ExplainedDivergence,
  ExplainedPlace,
  ExplainedTables,
  ExplainedTlbEntry,
  ExplainedWalk,
  Explanation,
  WalkNode,
} from './explanation.ts';
import type { MachineChoice } from './machines.ts';
import type { Divergence, GuestDifference, Judgement, ReplayResult, Row } from './result.ts';
import { sideBySide } from './sequence.ts';
import { ReplaySession } from './session.ts';
import { unitsOf } from './units.ts';

/** How rows, steps and registers are put into words: reports know, which replay does not. */
export interface Words {
  /** An event of KVM with its further rows, or another row. */
  rows(rows: readonly Row[], registers: Uint32Array): string;
  step(columns: StepColumns, index: number, registers: Uint32Array): string;
  /** Empty where there is nothing to say. */
  register(register: number, lo: number, hi: number, registers: Uint32Array): string;
  /** `4-level under EPT`. */
  mode(registers: Uint32Array): string;
}

/** What is remembered of a step that is to be explained. */
export interface CapturedStep {
  readonly ordinal: number;
  readonly vcpu: number;
  readonly registers: Uint32Array;
  readonly rows: readonly Row[];
  readonly seen: readonly Seen[];
  readonly walks: readonly ExplainedWalk[];
  readonly tlb: readonly ExplainedTlbEntry[];
  readonly tables: readonly ExplainedTables[];
  readonly contexts: readonly ExplainedContext[];
  /** By row: whose software walk wrote it. */
  readonly signed: ReadonlyMap<number, ContextName>;
  readonly columns: StepColumns;
  readonly index: number;
}

/** Differences of a guest on KVM that are looked through for a step's own. */
const MAXIMUM_DIFFS = 10_000;
/** Actions and places shown of a step; zapping everything makes tens of thousands. */
const MAXIMUM_ACTIONS = 500;

/** The word of an ACCESS step that asks for what error-code bits W, U and F say. */
function stepOfAccess(access: number): number {
  const type = (access & FETCH) !== 0 ? AccessType.FETCH : (access & WRITE) !== 0 ? AccessType.WRITE : AccessType.READ;
  return StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT) | ((access & USER) !== 0 ? ACCESS_USER : 0);
}

/** Steps of a run before index `end`. */
export function firstSteps(columns: StepColumns, end: number): StepColumns {
  if (end >= columns.stepCount) return columns;
  const observationCount = end === 0 ? 0 : columns.observationEnd[end - 1]!;
  return { ...columns, stepCount: end, observationCount };
}

export interface ExplainerOptions {
  readonly machine: MachineChoice;
  readonly expectations: readonly Expectation[];
  /** Ordinals of the steps to be explained. */
  readonly steps: ReadonlySet<number>;
  /** Replay up to this step; by default the last of those. */
  readonly last?: number;
  readonly words: Words;
}

/** Called after each step of a machine: for who compares two. */
export type StepListener = (ordinal: number, watch: Watch | null, machine: Machine) => void;

export class Explainer {
  readonly header: TraceHeader;
  readonly captured = new Map<number, CapturedStep>();
  readonly watch: Watch | null;
  /** The machine cannot go on: why, and at which step. */
  failure: { readonly step: number; readonly message: string } | undefined;
  listener: StepListener | null = null;
  private readonly file: string;
  private readonly segment: number;
  private readonly options: ExplainerOptions;
  private readonly session: ReplaySession;
  private readonly bare: BareMachine | null;
  private readonly last: number;
  private columns: StepColumns | null = null;
  private vcpu = 0;
  private processorWalks: { readonly row: number; readonly walks: ExplainedWalk[] }[] = [];
  private reached: { lo: number; hi: number } | undefined;
  private now = 0;
  private readonly verdicts = new Map<number, Divergence>();
  private finished: ReplayResult | undefined;

  /** Throws E_USAGE if the machine asked for does not fit the trace. */
  constructor(file: string, header: TraceHeader, segment: number, options: ExplainerOptions) {
    this.file = file;
    this.header = header;
    this.segment = segment;
    this.options = options;
    this.last = options.last ?? Math.max(-1, ...options.steps);
    let kvm: KvmMachine | null = null;
    this.session = new ReplaySession(file, header, {
      machine: options.machine,
      maxDiffs: MAXIMUM_DIFFS,
      onVerdict: (verdict) => {
        if (options.steps.has(verdict.step)) this.verdicts.set(verdict.step, verdict);
      },
      expectations: options.expectations,
      makeKvm: (...from) => {
        kvm = new KvmMachine(...from);
        return kvm;
      },
    });
    const { machine } = this.session;
    const made = kvm as KvmMachine | null;
    this.watch = made === null ? null : new Watch(made);
    this.bare = made === null && machine instanceof BareMachine ? machine : null;
    this.cover(made ?? machine);
  }

  /** All steps asked for are behind. */
  get isDone(): boolean {
    return this.now > this.last;
  }

  /** Replays a run of steps up to the last one asked for. False: no more is needed. */
  run(columns: StepColumns): boolean {
    if (this.failure !== undefined || columns.firstOrdinal > this.last) return false;
    const end = Math.min(columns.stepCount, this.last + 1 - columns.firstOrdinal);
    this.columns = columns;
    this.vcpu = columns.vcpu;
    try {
      this.session.run(firstSteps(columns, end));
    } catch (error) {
      if (!(error instanceof Error) || error.name === 'Problem') throw error;
      this.failure = { step: this.now, message: error.message };
      return false;
    }
    this.now = Math.min(columns.firstOrdinal + columns.stepCount, this.last + 1);
    return this.now <= this.last;
  }

  /** The machine's own `apply` goes through here. */
  private cover(machine: Machine): void {
    const original = machine.apply.bind(machine);
    machine.apply = (ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli) => {
      this.now = ordinal;
      if ((op & STEP_KIND_MASK) === StepKind.VCPU) this.vcpu = operandLo >>> 0;
      const wanted = this.options.steps.has(ordinal) && !this.captured.has(ordinal);
      if (!wanted && this.listener === null) {
        original(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
        return;
      }
      const { watch } = this;
      const registers = machine.registers.slice();
      const tlb = wanted ? this.tlbBefore(op, addressLo, addressHi) : undefined;
      this.processorWalks = [];
      this.reached = undefined;
      if (watch !== null) {
        watch.detailed = wanted;
        watch.listener = wanted ? this.listen : null;
        watch.begin();
      }
      try {
        original(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli);
      } finally {
        watch?.end();
      }
      this.listener?.(ordinal, watch, machine);
      if (wanted) this.capture(machine, ordinal, op, addressLo, addressHi, registers, tlb);
    };
  }

  private tlbBefore(op: number, lo: number, hi: number): Omit<ExplainedTlbEntry, 'part' | 'stale'> | undefined {
    if ((op & STEP_KIND_MASK) !== StepKind.ACCESS) return undefined;
    if (this.bare !== null) {
      this.bare.configure();
      return tlbEntryFor(this.bare, lo | 0, hi | 0);
    }
    return this.watch === null ? undefined : tlbEntryFor(this.watch.machine.processor.hardware, lo | 0, hi | 0);
  }

  /** The processor above KVM has made an access, or was asked what it would make of one. */
  private readonly listen: NonNullable<Watch['listener']> = (processor, how, op, lo, hi, outcome) => {
    const { watch } = this;
    if (watch === null) return;
    const { machine } = watch;
    const rows = logRows(processor.hardware.log);
    if (outcome === Outcome.OK) this.reached = { lo: processor.meantLo, hi: processor.meantHi };
    const attempt = this.processorWalks.length + 1;
    const isProbe = how === 'probe' || how === 'probe-gpa';
    const title = isProbe
      ? "what the processor makes of the access with KVM's tables as they are"
      : `the processor, attempt ${attempt}`;
    const served = processor.servedByTlb && outcome === Outcome.OK && !isProbe;
    const address = { lo: lo | 0, hi: hi | 0 };
    const word = how === 'probe-gpa' ? stepOfAccess(op) : op;
    const walks = hardwareWalks(served ? [] : rows, this.viewOf(machine), word, address.lo, address.hi, title, served);
    const told = walks.map((walk) =>
      served ? { ...walk, result: `reaches ${hexText(processor.hpaLo, processor.hpaHi)}` } : walk,
    );
    this.processorWalks.push({ row: machine.log.count, walks: told });
  };

  private viewOf(machine: KvmMachine): HardwareView {
    const { processor, config, vcpu } = machine;
    const { hardware } = processor;
    return {
      cpuWalk: hardware.cpuWalk,
      tdpWalk: hardware.tdpWalk,
      registers: hardware.registers,
      maxphyaddr: config.hostMaxphyaddr,
      vendor: config.vendor,
      executeOnly: true,
      first: config.tdp ? nameOfWalk(vcpu, vcpu.gvaWalk) : nameOfMmu(vcpu, vcpu.mmu),
      second: nameOfMmu(vcpu, vcpu.mmu),
      sptes: config.tdp ? 'second' : 'first',
      config,
    };
  }

  private bareView(bare: BareMachine): HardwareView {
    const { vendor, maxphyaddr, eptVpidCap } = this.header.processor;
    return {
      cpuWalk: bare.cpuWalk,
      tdpWalk: bare.tdpWalk,
      registers: bare.registers,
      maxphyaddr,
      vendor: vendor === 'unknown' ? undefined : vendor,
      executeOnly: (eptVpidCap.lo & 1) !== 0,
      first: 'cpuWalk',
      second: 'tdpWalk',
      sptes: undefined,
      config: undefined,
    };
  }

  private capture(
    machine: Machine,
    ordinal: number,
    op: number,
    lo: number,
    hi: number,
    registers: Uint32Array,
    tlb: Omit<ExplainedTlbEntry, 'part' | 'stale'> | undefined,
  ): void {
    const { watch, columns } = this;
    const rows = logRows(machine.log);
    const walks = watch === null ? this.bareWalks(rows, op, lo, hi) : this.kvmWalks(watch, rows, op);
    const index = ordinal - columns!.firstOrdinal;
    this.captured.set(ordinal, {
      ordinal,
      vcpu: this.vcpu,
      registers,
      rows,
      seen: watch === null ? [] : [...watch.seen],
      walks,
      tlb: tlbPart(op, tlb, machine, walks),
      tables: watch === null ? [] : this.tables(watch),
      contexts: watch === null ? this.bareContexts(walks) : contextsOf(watch.machine, usedBy(watch, walks)),
      signed: new Map(watch?.walkRows.map(({ row, context }) => [row, context])),
      columns: columns!,
      index,
    });
  }

  private bareWalks(rows: readonly Row[], op: number, lo: number, hi: number): ExplainedWalk[] {
    const { bare } = this;
    const kind = op & STEP_KIND_MASK;
    if (bare === null || (kind !== StepKind.ACCESS && kind !== StepKind.GPA_ACCESS)) return [];
    const title = kind === StepKind.ACCESS ? 'the processor' : 'the processor, a guest-physical address';
    return hardwareWalks(rows, this.bareView(bare), op, lo, hi, title, bare.servedByTlb);
  }

  /** The processor's walks and KVM's in the order in which they were made. */
  private kvmWalks(watch: Watch, rows: readonly Row[], op: number): ExplainedWalk[] {
    const kind = op & STEP_KIND_MASK;
    const implicit =
      kind === StepKind.SOFTWARE_WALK
        ? (op & SOFTWARE_IMPLICIT) !== 0
        : kind === StepKind.ACCESS && (op & ACCESS_USER) === 0 && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3;
    const software = softwareWalks(rows, watch.walkRows, { implicit });
    const placed = [
      ...this.processorWalks.map(({ row, walks }) => ({ row, walks })),
      ...software.map(({ row, ...walk }) => ({ row: row + 0.5, walks: [walk] })),
    ];
    placed.sort((a, b) => a.row - b.row);
    return placed.flatMap(({ walks }) => walks);
  }

  private tables(watch: Watch): ExplainedTables[] {
    const { machine, addresses, before } = watch;
    const { vcpu } = machine;
    const wanted = [...addresses];
    const { reached } = this;
    const { config } = machine;
    if (reached !== undefined && config.tdp) wanted.push({ mmu: vcpu.mmu, lo: reached.lo & ~0xfff, hi: reached.hi });
    const tables = wanted.map(({ mmu, lo, hi }) => tablesFor(machine, mmu, lo & ~0xfff, hi, before));
    const keys = new Set<string>();
    return tables.filter(({ context, address }) => {
      const key = `${context} ${address}`;
      if (keys.has(key)) return false;
      keys.add(key);
      return true;
    });
  }

  private bareContexts(walks: readonly ExplainedWalk[]): ExplainedContext[] {
    const { bare } = this;
    if (bare === null) return [];
    const used = contextsIn(walks);
    const { cpuWalk, tdpWalk } = bare;
    const levels = (walk: PageWalk): string => (walk.rootLevel === 0 ? 'no paging' : `${walk.rootLevel} levels`);
    const second =
      tdpWalk === null
        ? 'not in use'
        : `${tdpWalk.ept ? 'EPT' : 'NPT'}, ${levels(tdpWalk)}${tdpWalk.ad ? '' : ', no A and D bits'}`;
    const through = tdpWalk === null ? '' : ', each address through tdpWalk';
    return [
      { context: 'cpuWalk', state: `CR3's tables, ${levels(cpuWalk)}${through}`, used: used.has('cpuWalk') },
      { context: 'tdpWalk', state: second, used: used.has('tdpWalk') },
    ];
  }

  // ------------------------------------------------------------------------------------------------------------ result

  /** The explanation of a step, or undefined if the trace has no such step. */
  explanation(ordinal: number): Explanation | undefined {
    const captured = this.captured.get(ordinal);
    if (captured === undefined) return undefined;
    const { words } = this.options;
    const { columns, index, registers } = captured;
    this.finished ??= this.session.result(undefined, 'not read');
    const result = this.finished;
    const notes: string[] = [...result.receipt.limits];
    const actions = actionsOf(captured, words, this.watch?.machine ?? null);
    if (actions.length > MAXIMUM_ACTIONS)
      notes.push(`of ${actions.length} actions the first ${MAXIMUM_ACTIONS} are shown`);
    const divergence = this.divergenceAt(result.guestDifferences ?? [], captured);
    const judged = judgementText(this.verdicts.get(ordinal)?.judgement);
    if (judged !== '') notes.push(judged);
    const contradictions = contradictionsIn(captured.walks);
    const cause =
      divergence === undefined ? contradictions[0] : [divergence.cause, ...contradictions.slice(0, 1)].join('; ');
    return {
      version: 1,
      trace: { file: this.file, title: this.header.title, recorder: this.header.recorder },
      machine: result.receipt.machine,
      step: {
        ordinal,
        segment: this.segment,
        line: columns.lineOf(index),
        source: this.header.sources[columns.source]?.name,
        kind: STEP_KIND_NAMES[columns.op[index]! & STEP_KIND_MASK] ?? 'unknown',
        text: words.step(columns, index, registers),
        vcpu: captured.vcpu,
        mode: words.mode(registers),
        registers: registerList(registers, words),
      },
      outcome: outcomeOf(captured, words),
      walks: captured.walks,
      tlb: captured.tlb,
      tables: captured.tables,
      contexts: captured.contexts,
      actions: actions.slice(0, MAXIMUM_ACTIONS),
      ...(divergence === undefined ? {} : { divergence }),
      ...(cause === undefined ? {} : { cause }),
      notes,
    };
  }

  private divergenceAt(guest: readonly GuestDifference[], captured: CapturedStep): ExplainedDivergence | undefined {
    const { words } = this.options;
    const { ordinal } = captured;
    const of = this.verdicts.get(ordinal);
    const say = (rows: readonly Row[]): string => words.rows(rows, captured.registers);
    if (of !== undefined) {
      const places =
        of.pairs === undefined
          ? rowPlaces(of.recorded, of.replayed, say)
          : of.pairs.map(
              ({ state, recorded, replayed, fields }): ExplainedPlace => ({
                state:
                  state === 'equal' || state === 'host'
                    ? 'equal'
                    : recorded.length === 0
                      ? 'only-b'
                      : replayed.length === 0
                        ? 'only-a'
                        : 'differs',
                a: unitsOf(recorded).map(({ rows }) => say(rows)),
                b: unitsOf(replayed).map(({ rows }) => say(rows)),
                fields,
              }),
            );
      return divergenceOf('recording', ['recorded', 'replayed'], places, of.cause);
    }
    const different = guest.find(({ step }) => step === ordinal);
    if (different === undefined) return undefined;
    const places = rowPlaces(outcomesOf(different.bare), outcomesOf(different.kvm), say);
    return divergenceOf('guest', ['bare processor', 'guest on KVM'], places, different.cause);
  }
}

/** How a step that differs was judged, where that is not simply diverged. */
function judgementText(judgement: Judgement | undefined): string {
  switch (judgement?.kind) {
    case 'stale-allowed':
      return 'the difference is no divergence: the architecture allows the recorded outcome with translations cached before a change';
    case 'stale-after-invalidation':
      return `the recorded outcome needs a translation that was invalidated at step ${judgement.invalidatedAt}`;
    case 'undetermined':
      return `whether the difference is lawful cannot be determined: ${judgement.why}`;
    case 'expected':
      return `the difference is expected: ${judgement.name}`;
    default:
      return '';
  }
}

/** Of a side's rows those that tell how an access ended: tables and events are not alike on a bare processor. */
function outcomesOf(rows: readonly Row[]): Row[] {
  const kinds = [
    Obs.TRANSLATED,
    Obs.EXCEPTION,
    Obs.EPT_VIOLATION,
    Obs.EPT_MISCONFIG,
    Obs.NPF,
    Obs.PML_FULL,
    Obs.EXIT_LINEAR,
  ];
  return rows.filter(({ op }) => kinds.some((kind) => kind === (op & OBS_KIND_MASK)));
}

export function divergenceOf(
  between: ExplainedDivergence['between'],
  labels: readonly [string, string],
  places: readonly ExplainedPlace[],
  cause: string,
): ExplainedDivergence {
  const at = Math.max(
    0,
    places.findIndex(({ state }) => state !== 'equal'),
  );
  const begin = places.length > MAXIMUM_ACTIONS ? Math.max(0, at - 50) : 0;
  return { between, labels, places: places.slice(begin, begin + MAXIMUM_ACTIONS), at: at - begin, cause };
}

/** Two sides' rows side by side, units with the same text being equal. */
export function rowPlaces(
  a: readonly Row[],
  b: readonly Row[],
  say: (rows: readonly Row[]) => string,
): ExplainedPlace[] {
  const [unitsA, unitsB] = [unitsOf(a), unitsOf(b)];
  const textsA = unitsA.map(({ rows }) => say(rows));
  const textsB = unitsB.map(({ rows }) => say(rows));
  const kinds = (units: typeof unitsA): string[] => units.map(({ rows }) => String(rows[0]!.op & OBS_KIND_MASK));
  return sideBySide([textsA, kinds(unitsA)], [textsB, kinds(unitsB)]).map(([i, j]): ExplainedPlace => {
    const left = textsA[i];
    const right = textsB[j];
    const state = left === undefined ? 'only-b' : right === undefined ? 'only-a' : left === right ? 'equal' : 'differs';
    return { state, a: left === undefined ? [] : [left], b: right === undefined ? [] : [right], fields: [] };
  });
}

function contextsIn(walks: readonly ExplainedWalk[]): Set<ContextName> {
  const used = new Set<ContextName>();
  const visit = (nodes: readonly WalkNode[]): void => {
    for (const node of nodes) {
      used.add(node.context);
      visit(node.inner);
    }
  };
  for (const walk of walks) {
    used.add(walk.by);
    visit(walk.nodes);
  }
  return used;
}

function usedBy(watch: Watch, walks: readonly ExplainedWalk[]): Set<ContextName> {
  const used = contextsIn(walks);
  for (const { context } of watch.seen) used.add(context);
  return used;
}

/** What the machine made of the words against the rules, in sentences: nothing for a machine that is right. */
export function contradictionsIn(walks: readonly ExplainedWalk[]): string[] {
  const found: string[] = [];
  const visit = (by: ContextName, nodes: readonly WalkNode[]): void => {
    for (const node of nodes) {
      for (const { contradicted, rule, citation } of node.checks) {
        if (contradicted === undefined) continue;
        const place = node.kind === 'entry' ? ` (${node.name} at ${node.address})` : '';
        found.push(`the walk of ${node.context}${place} is wrong: ${contradicted}; the rule: ${rule} (${citation})`);
      }
      visit(by, node.inner);
    }
  };
  for (const walk of walks) {
    // What the processor made of KVM's tables is no software's verdict.
    if (walk.by === 'processor') continue;
    visit(walk.by, walk.nodes);
    for (const { contradicted, rule, citation } of walk.checks) {
      if (contradicted !== undefined)
        found.push(`the walk of ${walk.by} is wrong: ${contradicted}; the rule: ${rule} (${citation})`);
    }
  }
  return [...new Set(found)];
}

function tlbPart(
  op: number,
  entry: Omit<ExplainedTlbEntry, 'part' | 'stale'> | undefined,
  machine: Machine,
  walks: readonly ExplainedWalk[],
): ExplainedTlbEntry[] {
  if (entry === undefined || (op & STEP_KIND_MASK) !== StepKind.ACCESS) return [];
  const stale = machine.staleHit;
  const first = walks.find(({ by }) => by === 'processor');
  const served = first?.outcome === 'served' || (walks.length === 0 && machine.servedByTlb);
  const part = served
    ? stale
      ? 'served the access, although tables say otherwise by now'
      : 'served the access'
    : 'was there and did not serve the access (rights, dirty, a flush before it, or a walk was asked for)';
  return [{ ...entry, part, stale }];
}

function registerList(registers: Uint32Array, words: Words): Explanation['step']['registers'] {
  return Array.from({ length: REGISTER_COUNT }, (_, register) => register).flatMap((register) => {
    const lo = registers[2 * register]!;
    const hi = registers[2 * register + 1]!;
    if (lo === 0 && hi === 0) return [];
    const decoded = words.register(register, lo, hi, registers);
    return [{ name: REGISTER_NAMES[register]!, value: hexText(lo, hi), decoded }];
  });
}

function outcomeOf({ rows, registers, walks, seen }: CapturedStep, words: Words): string {
  const last = unitsOf(rows).at(-1);
  const row = last?.rows[0];
  if (row !== undefined) {
    const kind = row.op & OBS_KIND_MASK;
    if (kind !== Obs.KVM_EVENT) return words.rows(last!.rows, registers);
  }
  const ended = seen.findLast(({ kind }) => kind === 'injection' || kind === 'fault');
  if (ended !== undefined) return `${ended.context} ${ended.does}`;
  const walk = walks.at(-1);
  if (walk !== undefined) return `${walk.title}: ${walk.result}`;
  if (row !== undefined) return words.rows(last!.rows, registers);
  return seen.length === 0 ? 'nothing is observed' : `${seen.at(-1)!.context} ${seen.at(-1)!.does}`;
}

/** Rows and what no row tells, in order. */
function actionsOf(captured: CapturedStep, words: Words, machine: KvmMachine | null): ExplainedAction[] {
  const actions: ExplainedAction[] = [];
  const { seen, rows, signed, registers } = captured;
  let next = 0;
  const until = (row: number): void => {
    for (; next < seen.length && seen[next]!.row <= row; next++) {
      const { context, kind, does, word } = seen[next]!;
      const text = word === undefined || machine === null ? does : `${does}: ${seenWordText(word, machine.config)}`;
      actions.push({ context, kind, text });
    }
  };
  for (const unit of unitsOf(rows)) {
    until(unit.at);
    const { op } = unit.rows[0]!;
    const isEvent = (op & OBS_KIND_MASK) === Obs.KVM_EVENT;
    const context: ContextName = signed.get(unit.at) ?? (isEvent ? 'kvm' : 'processor');
    actions.push({ context, kind: isEvent ? 'event' : 'observation', text: words.rows(unit.rows, registers) });
  }
  until(Number.POSITIVE_INFINITY);
  return actions;
}
