/** Which steps, and which of their observations, `view` shows. */

import { KVM_EVENT_NAMES, kvmEventOf } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS } from '../formats/kvm-event-fields.ts';
import {
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_NAMES,
  Obs,
} from '../formats/observation.ts';
import {
  expectsAddress,
  FAULT_MISCONFIG,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  STEP_KIND_MASK,
  STEP_KIND_NAMES,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import { stepKindName } from '../report/steps.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import type { AddressRange } from './option-values.ts';

export interface StepFilter {
  /** Names of step kinds. */
  readonly kinds: ReadonlySet<string> | undefined;
  /** Names of observation kinds or KVM events, one of which the step must have. */
  readonly observed: ReadonlySet<string> | undefined;
  /** Linear addresses. */
  readonly linear: AddressRange | undefined;
  /** Physical addresses (guest-physical, or of any table): the history of an entry or page. */
  readonly physical: AddressRange | undefined;
}

/** Kinds of steps that a filter can name: those in columns, and each kind of rare stimulus. */
export const FILTER_KINDS: readonly string[] = [
  ...STEP_KIND_NAMES.filter((name) => name !== 'rare'),
  ...([
    'page-image',
    'entry-fill',
    'note',
    'memslot',
    'dirty-log',
    'notifier',
    'hypervisor',
  ] satisfies Stimulus['kind'][]),
];

/** What a step can be observed to show: kinds of observation, and KVM's events each by its own name. */
export const FILTER_OBSERVATIONS: readonly string[] = [...OBS_NAMES.slice(1), ...KVM_EVENT_NAMES.slice(1)];

/** `'none'`, or the observations to show: all of the step's, or those at these positions. */
export type Selected = 'none' | 'all' | readonly number[];

function atLeast(lo: number, hi: number, bound: { lo: number; hi: number }): boolean {
  return hi > bound.hi || (hi === bound.hi && lo >= bound.lo);
}

/** Whether the `size` bytes from an address and the range have one in common. */
function overlaps(range: AddressRange, lo: number, hi: number, size: number): boolean {
  const end = lo + size - 1;
  const endLo = end >>> 0;
  const endHi = hi + Math.floor(end / 0x1_0000_0000);
  return atLeast(endLo, endHi, range.first) && atLeast(range.last.lo, range.last.hi, { lo, hi });
}

/** Whether an invalidation names a linear address, and thus has one. */
function namesAddress(op: number): boolean {
  const which = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
  const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
  if (which === Invalidation.INVLPG || which === Invalidation.INVLPGA) return true;
  return (which === Invalidation.INVPCID || which === Invalidation.INVVPID) && type === 0;
}

/** Whether a fault's address is a guest-physical one: under two-dimensional paging, and where EPT is misconfigured. */
function isPhysicalFault(op: number, tdp: boolean): boolean {
  return tdp || (op & FAULT_MISCONFIG) !== 0;
}

function isLinear(columns: StepColumns, step: number, range: AddressRange, tdp: boolean): boolean {
  const op = columns.op[step]!;
  const kind = op & STEP_KIND_MASK;
  const has =
    kind === StepKind.ACCESS ||
    kind === StepKind.SOFTWARE_WALK ||
    (kind === StepKind.INVALIDATE && namesAddress(op)) ||
    (kind === StepKind.FAULT_EXIT && !isPhysicalFault(op, tdp));
  if (!has) return false;
  return overlaps(range, columns.address[2 * step]!, columns.address[2 * step + 1]!, 1);
}

/** Whether the step itself, leaving its observations aside, touches physical memory in the range. */
function touches(columns: StepColumns, step: number, range: AddressRange, tdp: boolean): boolean {
  const op = columns.op[step]!;
  const [lo, hi] = [columns.address[2 * step]!, columns.address[2 * step + 1]!];
  switch (op & STEP_KIND_MASK) {
    case StepKind.STORE:
      return overlaps(range, lo, hi, (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK);
    case StepKind.CLEAR_PAGE:
      return overlaps(range, lo, hi, 4096);
    case StepKind.GPA_ACCESS:
      return overlaps(range, lo, hi, 1);
    case StepKind.PDPTE_LOAD:
      // Four entries of 8 bytes, 32-byte aligned (SDM vol. 3A 4.4.1).
      return overlaps(range, (lo & ~0x1f) >>> 0, hi, 32);
    case StepKind.ACCESS:
      return expectsAddress(op) && overlaps(range, columns.operand[2 * step]!, columns.operand[2 * step + 1]!, 1);
    case StepKind.RARE: {
      const stimulus = columns.stimuli[columns.operand[2 * step]!];
      if (stimulus?.kind === 'page-image') return overlaps(range, stimulus.address.lo, stimulus.address.hi, 4096);
      if (stimulus?.kind === 'memslot') {
        const { address, size } = stimulus;
        return overlaps(range, address.lo, address.hi, size.hi * 0x1_0000_0000 + size.lo);
      }
      if (stimulus?.kind !== 'entry-fill') return false;
      return overlaps(range, stimulus.address.lo, stimulus.address.hi, Math.max(1, stimulus.count * stimulus.size));
    }
    case StepKind.FAULT_EXIT:
      return isPhysicalFault(op, tdp) && overlaps(range, lo, hi, 1);
    case StepKind.HOST_PAGES: {
      const count = columns.operand[2 * step + 1]! * 0x1_0000_0000 + columns.operand[2 * step]!;
      return overlaps(range, lo, hi, count * 4096);
    }
    default:
      return false;
  }
}

/** Whether a KVM event names a guest frame or a guest-physical address in the range. */
function eventTouches(columns: StepColumns, row: number, range: AddressRange): boolean {
  const op = columns.observationOp[row]!;
  for (const field of KVM_EVENT_FIELDS[kvmEventOf(op)] ?? []) {
    if (field.row !== 0 || (field.kind !== 'gfn' && field.name !== 'gpa')) continue;
    const column = field.column === 'address' ? columns.observationAddress : columns.observationValue;
    const [lo, hi] = [column[2 * row]!, column[2 * row + 1]!];
    if (field.kind !== 'gfn') {
      if (overlaps(range, lo, hi, 4)) return true;
      continue;
    }
    // Frame numbers, of as many frames as an entry of the event's level maps.
    const level = Math.max(1, (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK);
    const frames = 2 ** (9 * (level - 1));
    const frame = Math.floor((hi * 0x1_0000_0000 + lo) / frames) * frames;
    const address = frame * 4096;
    if (overlaps(range, address % 0x1_0000_0000, Math.floor(address / 0x1_0000_0000), frames * 4096)) return true;
  }
  return false;
}

function rowTouches(columns: StepColumns, row: number, range: AddressRange): boolean {
  const op = columns.observationOp[row]!;
  const [lo, hi] = [columns.observationAddress[2 * row]!, columns.observationAddress[2 * row + 1]!];
  switch (op & OBS_KIND_MASK) {
    case Obs.ELEMENT:
    case Obs.ENTRY_WRITE:
    case Obs.ENTRY_AFTER:
      return overlaps(range, lo, hi, (op & OBS_FOUR_BYTES) !== 0 ? 4 : 8);
    case Obs.TRANSLATED: {
      const value = columns.observationValue;
      return overlaps(range, lo, hi, 1) || overlaps(range, value[2 * row]!, value[2 * row + 1]!, 1);
    }
    case Obs.NESTED_WALK:
    case Obs.EPT_VIOLATION:
    case Obs.EPT_MISCONFIG:
    case Obs.NPF:
    case Obs.PML_FULL:
      return overlaps(range, lo, hi, 1);
    case Obs.KVM_EVENT:
      return eventTouches(columns, row, range);
    default:
      return false;
  }
}

/** Position of a step's first observation. */
export function firstRow(columns: StepColumns, step: number): number {
  return step === 0 ? 0 : columns.observationEnd[step - 1]!;
}

function isObserved(op: number, names: ReadonlySet<string>): boolean {
  const kind = op & OBS_KIND_MASK;
  if (names.has(OBS_NAMES[kind] ?? '')) return true;
  return kind === Obs.KVM_EVENT && names.has(KVM_EVENT_NAMES[kvmEventOf(op)] ?? '');
}

/** What the filter lets through of step number `step` of `columns`. `tdp`: faults come from two-dimensional paging. */
export function selectStep(columns: StepColumns, step: number, filter: StepFilter, tdp = false): Selected {
  const op = columns.op[step]!;
  if (filter.kinds !== undefined) {
    const stimulus = (op & STEP_KIND_MASK) === StepKind.RARE ? columns.stimuli[columns.operand[2 * step]!] : undefined;
    if (!filter.kinds.has(stepKindName(op, stimulus))) return 'none';
  }
  if (filter.linear !== undefined && !isLinear(columns, step, filter.linear, tdp)) return 'none';
  const end = columns.observationEnd[step]!;
  if (filter.observed !== undefined) {
    let seen = expectsAddress(op) && filter.observed.has('translated');
    for (let row = firstRow(columns, step); row < end && !seen; row++) {
      seen = isObserved(columns.observationOp[row]!, filter.observed);
    }
    if (!seen) return 'none';
  }
  if (filter.physical === undefined) return 'all';
  const rows: number[] = [];
  for (let row = firstRow(columns, step); row < end; row++) {
    if (rowTouches(columns, row, filter.physical)) rows.push(row);
  }
  return rows.length > 0 || touches(columns, step, filter.physical, tdp) ? rows : 'none';
}
