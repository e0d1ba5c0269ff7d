/**
 * Explains steps of a trace: replays it as `rewalk replay` does and looks closely at the steps asked for. `explain-watch.ts`
 * sees what the machine does, `explain-bare.ts` and `explain-kvm.ts` make walks and tables of it, `explain-step.ts` the whole.
 */

import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import type { Machine } from '../machine/machine.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { logRows } from './align.ts';
import { cover } from './cover.ts';
import type { Expectation } from './expectations.ts';
import { bareContexts, bareWalks } from './explain-bare.ts';
import { KvmStep } from './explain-kvm.ts';
import { tlbEntryFor } from './explain-state.ts';
import { type CapturedStep, explanationOf, type Words } from './explain-step.ts';
import { Watch } from './explain-watch.ts';
import type { ExplainedTlbEntry, ExplainedWalk, Explanation } from './explanation.ts';
import type { MachineChoice } from './machines.ts';
import type { Divergence, ReplayResult } from './result.ts';
import { ReplaySession } from './session.ts';

/** Differences of a guest on KVM that are looked through for a step's own. */
const MAXIMUM_DIFFS = 10_000;

/** Steps of a run before index `end`. */
function firstSteps(columns: StepColumns, end: number): StepColumns {
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
  private readonly kvm: KvmStep | null;
  private readonly bare: BareMachine | null;
  private readonly last: number;
  private columns: StepColumns | null = null;
  private vcpu = 0;
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
    this.kvm = this.watch === null ? null : new KvmStep(this.watch);
    this.bare = made === null && machine instanceof BareMachine ? machine : null;
    this.coverApply(made ?? machine);
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
  private coverApply(machine: Machine): void {
    cover(machine, 'apply', (call: () => void, ...args: Parameters<Machine['apply']>) => {
      const [ordinal, op, addressLo, addressHi, operandLo] = args;
      this.now = ordinal;
      if ((op & STEP_KIND_MASK) === StepKind.VCPU) this.vcpu = operandLo >>> 0;
      const wanted = this.options.steps.has(ordinal) && !this.captured.has(ordinal);
      if (!wanted && this.listener === null) {
        call();
        return;
      }
      const { watch, kvm } = this;
      const registers = machine.registers.slice();
      const tlb = wanted ? this.tlbBefore(op, addressLo, addressHi) : undefined;
      if (watch !== null && kvm !== null) {
        kvm.begin();
        watch.begin(wanted ? kvm.listen : null);
      }
      try {
        call();
      } finally {
        watch?.end();
      }
      this.listener?.(ordinal, watch, machine);
      if (wanted) this.capture(machine, ordinal, op, addressLo, addressHi, registers, tlb);
    });
  }

  private tlbBefore(op: number, lo: number, hi: number): Omit<ExplainedTlbEntry, 'part' | 'stale'> | undefined {
    if ((op & STEP_KIND_MASK) !== StepKind.ACCESS) return undefined;
    if (this.bare !== null) {
      this.bare.configure();
      return tlbEntryFor(this.bare, lo | 0, hi | 0);
    }
    return this.watch === null ? undefined : tlbEntryFor(this.watch.machine.processor.hardware, lo | 0, hi | 0);
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
    const { watch, kvm, bare, columns } = this;
    const rows = logRows(machine.log);
    const { processor } = this.header;
    const walks =
      kvm !== null ? kvm.allWalks(rows, op) : bare === null ? [] : bareWalks(bare, processor, rows, op, lo, hi);
    const index = ordinal - columns!.firstOrdinal;
    this.captured.set(ordinal, {
      ordinal,
      vcpu: this.vcpu,
      registers,
      rows,
      seen: watch === null ? [] : [...watch.seen],
      walks,
      tlb: tlbPart(op, tlb, machine, walks),
      tables: kvm === null ? [] : kvm.tables(),
      contexts: kvm !== null ? kvm.contexts(walks) : bare === null ? [] : bareContexts(bare, walks),
      signed: new Map(watch?.walkRows.map(({ row, context }) => [row, context])),
      columns: columns!,
      index,
    });
  }

  /** The explanation of a step, or undefined if the trace has no such step. */
  explanation(ordinal: number): Explanation | undefined {
    const captured = this.captured.get(ordinal);
    if (captured === undefined) return undefined;
    this.finished ??= this.session.result(undefined, 'not read');
    return explanationOf(captured, {
      file: this.file,
      header: this.header,
      segment: this.segment,
      words: this.options.words,
      result: this.finished,
      verdict: this.verdicts.get(ordinal),
      kvm: this.watch?.machine ?? null,
    });
  }
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
