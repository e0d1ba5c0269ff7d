/**
 * The steps of a trace one by one, as a comparison of two traces holds them: where each stands, under which keys it can
 * be found on the other side, and which memslots were there.
 */

import { OBS_KIND_MASK } from '../formats/observation.ts';
import { REGISTER_COUNT, Reg } from '../formats/registers.ts';
import {
  PROVENANCE_MASK,
  PROVENANCE_SHIFT,
  Provenance,
  REGISTER_WRITE_TASK_SWITCH,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { Row } from '../replay/result.ts';
import { keptColumns, type StepColumns } from '../trace/columns.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { NOTE_PLACE } from './trace-align.ts';
import { HostAddresses } from './trace-host-addresses.ts';

/** A step of one side. */
export interface TraceStep {
  /** Ordinal in its segment. */
  readonly step: number;
  readonly vcpu: number;
  readonly columns: StepColumns;
  /** Position in the columns. */
  readonly at: number;
  /** Equal for steps that say the same: host addresses by memslot, provenance left out. */
  readonly key: string;
  /** Equal for steps about the same thing, whatever they say of it. */
  readonly place: string;
  /** As they were before the step. */
  readonly host: HostAddresses;
}

export function stepOp({ columns, at }: TraceStep): number {
  return columns.op[at]!;
}

export function stepKind(step: TraceStep): number {
  return stepOp(step) & STEP_KIND_MASK;
}

/** The message of a RARE step. */
export function stimulusOf(step: TraceStep): Stimulus | undefined {
  return stepKind(step) === StepKind.RARE ? step.columns.stimuli[step.columns.operand[2 * step.at]!] : undefined;
}

/** Rows of the step of those kinds that `observable` (bit n: kind n) has. */
export function stepRows({ columns, at }: TraceStep, observable: number): Row[] {
  const { observationEnd, observationOp, observationAddress, observationValue } = columns;
  const rows: Row[] = [];
  for (let row = at === 0 ? 0 : observationEnd[at - 1]!; row < observationEnd[at]!; row++) {
    const op = observationOp[row]!;
    if (((observable >>> (op & OBS_KIND_MASK)) & 1) === 0) continue;
    rows.push({
      op,
      addressLo: observationAddress[2 * row]!,
      addressHi: observationAddress[2 * row + 1]!,
      valueLo: observationValue[2 * row]!,
      valueHi: observationValue[2 * row + 1]!,
    });
  }
  return rows;
}

/**
 * Registers of the step's vCPU before it, 2 elements each: what its chunk begins with, and what was set and written since.
 * Goes through the chunk: not for every step.
 */
export function registersBefore({ columns, at, vcpu }: TraceStep): Uint32Array {
  const { op, operand, others } = columns;
  const own = columns.vcpu === vcpu ? columns : others.find((each) => each.vcpu === vcpu);
  const registers = own?.registers.slice() ?? new Uint32Array(columns.registers.length);
  let current = columns.vcpu;
  for (let i = 0; i < at; i++) {
    const kind = op[i]! & STEP_KIND_MASK;
    if (kind === StepKind.VCPU) current = operand[2 * i]!;
    else if (current === vcpu && (kind === StepKind.REGISTER_SET || kind === StepKind.REGISTER_WRITE)) {
      const register = (op[i]! >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
      if (register >= REGISTER_COUNT) continue;
      const isLoad = kind === StepKind.REGISTER_WRITE && (op[i]! & REGISTER_WRITE_TASK_SWITCH) === 0;
      registers[2 * register] = operand[2 * i]!;
      // Bit 63 of MOV to CR3's operand does not go into the register.
      registers[2 * register + 1] = operand[2 * i + 1]! & (isLoad && register === Reg.CR3 ? 0x7fff_ffff : ~0);
    }
  }
  return registers;
}

const WITHOUT_PROVENANCE = ~(PROVENANCE_MASK << PROVENANCE_SHIFT);

/** FNV-1a over whole words, enough to tell page contents apart. */
function hashOf(words: Uint32Array): number {
  let hash = 0x811c_9dc5;
  for (const word of words) hash = Math.imul(hash ^ word, 0x0100_0193);
  return hash >>> 0;
}

function keysOfStimulus(stimulus: Stimulus, host: HostAddresses): readonly [key: string, place: string] {
  switch (stimulus.kind) {
    case 'page-image': {
      const place = `image ${stimulus.address.lo} ${stimulus.address.hi}`;
      return [`${place} ${hashOf(stimulus.words)}`, place];
    }
    case 'entry-fill': {
      const { address, count, first, increment, size } = stimulus;
      const place = `fill ${address.lo} ${address.hi}`;
      return [`${place} ${count} ${first.lo} ${first.hi} ${increment.lo} ${increment.hi} ${size}`, place];
    }
    case 'note':
      return [`note ${stimulus.text}`, NOTE_PLACE];
    case 'memslot': {
      const { what, slot, addressSpace, address, size, readOnly, dirtyLog } = stimulus;
      const place = `memslot ${what} ${addressSpace} ${slot}`;
      return [`${place} ${address.lo} ${address.hi} ${size.lo} ${size.hi} ${readOnly} ${dirtyLog}`, place];
    }
    case 'dirty-log':
      return [`dirty-log ${stimulus.slot}`, 'dirty-log'];
    case 'notifier': {
      const place = `notifier ${stimulus.what}`;
      return [`${place} ${host.rangeName(stimulus.start, stimulus.end)}`, place];
    }
    case 'hypervisor':
      return [`hypervisor ${stimulus.what}`, `hypervisor ${stimulus.what}`];
  }
}

/** Both keys of a step; of a RARE one without its message as of any step. */
function keysOf(
  columns: StepColumns,
  at: number,
  stimulus: Stimulus | undefined,
  host: HostAddresses,
): readonly [key: string, place: string] {
  if (stimulus !== undefined) return keysOfStimulus(stimulus, host);
  const { address, operand } = columns;
  const op = (columns.op[at]! & WITHOUT_PROVENANCE) >>> 0;
  const kind = op & STEP_KIND_MASK;
  const where = `${address[2 * at]!} ${address[2 * at + 1]!}`;
  const key = `${op} ${where} ${operand[2 * at]!} ${operand[2 * at + 1]!}`;
  switch (kind) {
    case StepKind.REGISTER_WRITE:
    case StepKind.REGISTER_SET:
      return [key, `${kind} r${(op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK}`];
    case StepKind.NESTED_EXIT:
    case StepKind.NESTED_ENTRY:
      return [key, `${kind}`];
    default:
      return [key, `${kind} ${where}`];
  }
}

/** What an importer concluded of the host from KVM's own events, which are compared themselves. */
function isConcluded(op: number): boolean {
  const provenance = (op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK;
  return (op & STEP_KIND_MASK) === StepKind.HOST_PAGES && provenance === Provenance.INFERRED;
}

/**
 * Hands out the steps of one segment. VCPU steps are not among them: they say whose the others are; nor is what was
 * concluded from events.
 */
export class StepCursor {
  private columns: StepColumns | undefined;
  private at = 0;
  private vcpu = 0;
  private host = HostAddresses.NONE;

  /** Takes a chunk, of which the one before has been handed out. Copied: a reader's buffers do not last. */
  take(columns: StepColumns): void {
    this.columns = keptColumns(columns);
    this.at = 0;
    this.vcpu = columns.vcpu;
  }

  /** `undefined`: the next chunk is due. */
  next(): TraceStep | undefined {
    const { columns } = this;
    while (columns !== undefined && this.at < columns.stepCount) {
      const at = this.at++;
      const kind = columns.op[at]! & STEP_KIND_MASK;
      if (kind === StepKind.VCPU) {
        this.vcpu = columns.operand[2 * at]!;
        continue;
      }
      if (isConcluded(columns.op[at]!)) continue;
      const { vcpu, host } = this;
      const stimulus = kind === StepKind.RARE ? columns.stimuli[columns.operand[2 * at]!] : undefined;
      const [key, place] = keysOf(columns, at, stimulus, host);
      if (stimulus?.kind === 'memslot') this.host = host.after(stimulus);
      return { step: columns.firstOrdinal + at, vcpu, columns, at, key, place, host };
    }
    this.columns = undefined;
    return undefined;
  }
}
