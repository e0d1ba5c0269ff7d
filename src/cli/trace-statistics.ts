/** Counting what is in a trace: kinds, access types, outcomes, paging modes, provenance, sources. */

import { exceptionName } from '../formats/decode/fault.ts';
import { KVM_EVENT_MASK, KVM_EVENT_SHIFT, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, OBS_NAMES, OBS_VECTOR_MASK, OBS_VECTOR_SHIFT, Obs } from '../formats/observation.ts';
import {
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_USER,
  expectsAddress,
  STEP_KIND_MASK,
  StepKind,
} from '../formats/step.ts';
import { kvmEventName } from '../report/kvm-events.ts';
import { ContextTracker, translationName } from '../report/row-context.ts';
import { accessName, provenanceName, stepKindName } from '../report/steps.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { firstRow } from './step-filter.ts';

/** Counts by name, in the order of first sight. */
export type Counts = Map<string, number>;

function add(counts: Counts, name: string, n = 1): void {
  counts.set(name, (counts.get(name) ?? 0) + n);
}

/** What the groups count, for headings. */
export const GROUPS = {
  steps: 'steps by kind',
  vcpus: 'steps by vCPU',
  accesses: 'accesses by type and mode',
  outcomes: 'accesses by outcome',
  paging: 'accesses by paging mode',
  observations: 'expected observations by kind',
  events: 'KVM events',
  provenance: 'steps by provenance',
  sources: 'steps by source',
} as const;

export type Group = keyof typeof GROUPS;

export class TraceStatistics {
  segments = 0;
  chunks = 0;
  steps = 0;
  observations = 0;
  readonly groups: Readonly<Record<Group, Counts>> = {
    steps: new Map(),
    vcpus: new Map(),
    accesses: new Map(),
    outcomes: new Map(),
    paging: new Map(),
    observations: new Map(),
    events: new Map(),
    provenance: new Map(),
    sources: new Map(),
  };
  private header: TraceHeader | undefined;
  private tracker: ContextTracker | undefined;

  beginSegment(header: TraceHeader): void {
    this.segments++;
    this.header = header;
    this.tracker = undefined;
  }

  /** Counts a chunk of the segment that was begun. */
  count(columns: StepColumns): void {
    const { header } = this;
    if (header === undefined) throw new Error('a segment begins with its header');
    this.tracker ??= new ContextTracker(header, columns.registers);
    this.tracker.restart(columns);
    this.chunks++;
    this.steps += columns.stepCount;
    this.observations += columns.observationCount;
    add(this.groups.sources, header.sources[columns.source]?.name ?? 'no source', columns.stepCount);
    // Names are made once per distinct word, not once per step.
    const words = new Map<number, number>();
    let mode: string | undefined;
    for (let step = 0; step < columns.stepCount; step++) {
      const op = columns.op[step]!;
      const kind = op & STEP_KIND_MASK;
      if (kind === StepKind.RARE) add(this.groups.steps, stepKindName(op, columns.stimuli[columns.operand[2 * step]!]));
      words.set(op, (words.get(op) ?? 0) + 1);
      if (kind === StepKind.ACCESS || kind === StepKind.GPA_ACCESS) {
        mode ??= translationName(this.tracker.registers);
        add(this.groups.paging, mode);
        add(this.groups.outcomes, outcomeName(columns, step));
      } else if (kind === StepKind.REGISTER_SET || kind === StepKind.REGISTER_WRITE || kind === StepKind.VCPU) {
        this.tracker.step(op, columns.operand[2 * step]!, columns.operand[2 * step + 1]!);
        mode = undefined;
      }
    }
    for (const [op, n] of words) this.countWord(op, n);
    this.countVcpus(columns);
    this.countRows(columns);
  }

  private countWord(op: number, n: number): void {
    const kind = op & STEP_KIND_MASK;
    if (kind !== StepKind.RARE) add(this.groups.steps, stepKindName(op), n);
    add(this.groups.provenance, provenanceName(op), n);
    if (kind === StepKind.ACCESS) add(this.groups.accesses, `${accessName(op)}, ${modeName(op)}`, n);
    else if (kind === StepKind.GPA_ACCESS) add(this.groups.accesses, `${accessName(op)}, guest-physical`, n);
  }

  /** Steps of each vCPU; nothing as long as there is only one. */
  private countVcpus({ vcpu, others, op, operand, stepCount }: StepColumns): void {
    let first = 0;
    let now = vcpu;
    let several = others.length > 0 || vcpu !== 0 || this.groups.vcpus.size > 0;
    for (let step = 0; step < stepCount; step++) {
      if ((op[step]! & STEP_KIND_MASK) !== StepKind.VCPU) continue;
      several = true;
      if (step > first) add(this.groups.vcpus, `vCPU ${now}`, step - first);
      now = operand[2 * step]!;
      first = step;
    }
    if (several && stepCount > first) add(this.groups.vcpus, `vCPU ${now}`, stepCount - first);
  }

  private countRows(columns: StepColumns): void {
    const kinds = new Uint32Array(OBS_KIND_MASK + 1);
    const events = new Uint32Array(KVM_EVENT_MASK + 1);
    for (let row = 0; row < columns.observationCount; row++) {
      const op = columns.observationOp[row]!;
      kinds[op & OBS_KIND_MASK]!++;
      if ((op & OBS_KIND_MASK) === Obs.KVM_EVENT) events[kvmEventOf(op)]!++;
    }
    events.forEach((n, event) => {
      if (n > 0) add(this.groups.events, kvmEventName(event << KVM_EVENT_SHIFT), n);
    });
    kinds.forEach((n, kind) => {
      if (n > 0) add(this.groups.observations, OBS_NAMES[kind] ?? `kind ${kind}`, n);
    });
  }

  /** Adds another's counts. */
  merge(other: TraceStatistics): void {
    this.segments += other.segments;
    this.chunks += other.chunks;
    this.steps += other.steps;
    this.observations += other.observations;
    for (const group of Object.keys(GROUPS) as Group[]) {
      for (const [name, n] of other.groups[group]) add(this.groups[group], name, n);
    }
  }

  /** The counts of a group, greatest first, equal ones by name. */
  sorted(group: Group): [name: string, count: number][] {
    return [...this.groups[group]].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
  }
}

function modeName(op: number): string {
  if ((op & ACCESS_USER) !== 0) return 'user';
  return ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3 ? 'implicit supervisor' : 'supervisor';
}

/** How the access ends, by what is expected of it. */
function outcomeName(columns: StepColumns, step: number): string {
  if (expectsAddress(columns.op[step]!)) return 'translated';
  for (let row = columns.observationEnd[step]! - 1; row >= firstRow(columns, step); row--) {
    const op = columns.observationOp[row]!;
    const kind = op & OBS_KIND_MASK;
    switch (kind) {
      case Obs.EXCEPTION: {
        const vector = (op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
        return `${exceptionName(vector)} error 0x${columns.observationValue[2 * row]!.toString(16)}`;
      }
      case Obs.TRANSLATED:
      case Obs.COMPLETED:
      case Obs.FAULTED:
      case Obs.EPT_VIOLATION:
      case Obs.EPT_MISCONFIG:
      case Obs.NPF:
      case Obs.PML_FULL:
        return OBS_NAMES[kind] ?? '';
      default:
    }
  }
  return 'not said';
}
