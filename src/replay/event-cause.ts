/** The cause of a divergence among KVM's events in one sentence, and the key of its group: which event, which field. */

import { type Word64, wordText } from '../bits/word64.ts';
import { roleFields } from '../formats/decode/kvm-role.ts';
import { type SpteContext, spteFields, spteKind } from '../formats/decode/kvm-spte.ts';
import { bitRange, bitsOf, type FieldSpec } from '../formats/decode/word.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { KVM_EVENT_NAMES, KvmEvent, kvmSpteLevel } from '../formats/kvm-event.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';

import { causeOf, describe, groupOf, rowName, stepName } from './cause.ts';
import { frameAddress } from './frames.ts';
import type { Row, SidePair } from './result.ts';
import { rowsEvent } from './units.ts';

/** Fields that tell an event from others of its kind, where it has them. */
const PLACES = [
  'gfn',
  'addr',
  'gpa',
  'gva',
  'cr2_or_gpa',
  'fault_address',
  'level',
  'exception',
  'start',
  'exit_reason',
  'exit_code',
];

/** Error codes and exit qualifications: their bits tell differences apart. */
const ERROR_CODES = ['error_code', 'pferr', 'info1', 'exit_info1'];

function fieldWord(rows: readonly Row[], { row, column, low, maskLo, maskHi }: KvmField): Word64 {
  const from = rows[row];
  if (from === undefined) return { lo: 0, hi: 0 };
  const lo = column === 'op' ? from.op : column === 'address' ? from.addressLo : from.valueLo;
  const hi = column === 'op' ? 0 : column === 'address' ? from.addressHi : from.valueHi;
  const word = { lo: (lo & maskLo) >>> 0, hi: (hi & maskHi) >>> 0 };
  return low < 32 ? { lo: word.lo >>> low, hi: word.hi } : { lo: word.hi >>> (low - 32), hi: 0 };
}

/** `set-spte gfn 0x100 level 1`. */
function eventName(rows: readonly Row[]): string {
  const event = rowsEvent(rows);
  const places = KVM_EVENT_FIELDS[event]!.filter(({ name }) => PLACES.includes(name)).map((field) => {
    const word = fieldWord(rows, field);
    return `${field.name} ${field.kind === 'number' && field.width < 64 ? word.lo : wordText(word)}`;
  });
  return [KVM_EVENT_NAMES[event]!, ...places].join(' ');
}

/** The fields of a word's format that differ, their meaning on both sides. */
function differingSpecs(specs: readonly FieldSpec[], a: Word64, b: Word64, without: string): FieldSpec[] {
  return specs.filter(({ name, high, low }) => name !== without && bitsOf(a, high, low) !== bitsOf(b, high, low));
}

function specText({ name, high, low, words }: FieldSpec, a: Word64, b: Word64): string {
  const bits = `${high === low ? 'bit' : 'bits'} ${bitRange(high, low)}`;
  return `${name} (${bits}) ${words(bitsOf(a, high, low))} in the recording, ${words(bitsOf(b, high, low))} in the replay`;
}

/** Which parts of a field's word differ: specs of its format, or none where it has no format. */
export function differingParts(field: KvmField, pair: SidePair, config: KvmConfig): FieldSpec[] {
  const a = fieldWord(pair.recorded, field);
  const b = fieldWord(pair.replayed, field);
  if (field.kind === 'role') return differingSpecs(roleFields(config.profile), a, b, '');
  if (field.kind !== 'spte') return [];
  const context = spteContext(pair, config);
  return spteKind(a, context) === spteKind(b, context) ? differingSpecs(spteFields(a, context), a, b, 'pfn') : [];
}

function spteContext(pair: SidePair, config: KvmConfig): SpteContext {
  return {
    profile: config.profile,
    ept: config.vendor === 'intel' && config.tdp,
    level: kvmSpteLevel(pair.recorded[0]!.op),
  };
}

/** The numbers of an error code's bits that differ, in one word: `bits 0,3`. */
function differingBits(field: KvmField, { recorded, replayed }: SidePair): string[] {
  const a = fieldWord(recorded, field);
  const b = fieldWord(replayed, field);
  const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => bitsOf(a, bit, bit) !== bitsOf(b, bit, bit));
  return [`${bits.length === 1 ? 'bit' : 'bits'} ${bits.join(',')}`];
}

function fieldText(field: KvmField, pair: SidePair, config: KvmConfig): string {
  const a = fieldWord(pair.recorded, field);
  const b = fieldWord(pair.replayed, field);
  const values = `${field.name} ${wordText(a)} was recorded, ${wordText(b)} replayed`;
  if (field.kind === 'spte') {
    const context = spteContext(pair, config);
    const [x, y] = [spteKind(a, context), spteKind(b, context)];
    if (x !== y) return `${values}: ${x} in the recording, ${y} in the replay`;
  }
  const parts = differingParts(field, pair, config).map((spec) => specText(spec, a, b));
  return parts.length === 0 ? values : `${values}: ${parts.join('; ')}`;
}

/** The fields in which two events of one kind differ. */
export function differing(pair: SidePair): KvmField[] {
  return KVM_EVENT_FIELDS[rowsEvent(pair.recorded)]!.filter(({ name }) => pair.fields.includes(name));
}

/** Whether both sides have an event of the same kind here. */
function isSameEvent(pair: SidePair): boolean {
  return rowsEvent(pair.recorded) > 0 && rowsEvent(pair.recorded) === rowsEvent(pair.replayed);
}

function wrongFrameText({ wrongFrame }: SidePair): string {
  const { field, isTable, recorded, replayed, expected } = wrongFrame!;
  const machine = frameAddress(replayed);
  const what = isTable ? 'table' : 'page';
  if (expected < 0) {
    return `wrong frame: ${field} names ${what} ${frameAddress(recorded)}, which another one of the replay stands for, not ${machine}`;
  }
  return `wrong frame: ${field} names ${what} ${frameAddress(recorded)}, the replay's ${machine} stands for ${frameAddress(expected)}`;
}

/** The pair that a step's divergence is about, and what stands beside it: what the other side has in its place. */
interface FirstDifference {
  readonly pair: SidePair;
  readonly recorded: readonly Row[];
  readonly replayed: readonly Row[];
}

function isDifference({ state }: SidePair): boolean {
  return state !== 'equal' && state !== 'host';
}

/** The first difference, or undefined if there is none. One too few and one too many in a row are one in the other's place. */
function firstDifference(pairs: readonly SidePair[]): (FirstDifference & { readonly at: number }) | undefined {
  const at = pairs.findIndex(isDifference);
  if (at < 0) return undefined;
  const pair = pairs[at]!;
  let end = at;
  while (pairs[end]?.state === pair.state) end++;
  const next = pairs[end];
  const beside = pair.state === 'missing' && next?.state === 'extra' ? next.replayed : pair.replayed;
  return { at, pair, recorded: pair.recorded, replayed: beside };
}

/** What the hardware reported of an exit: KVM prints it as `kvm_nested_vmexit` and again as `kvm_page_fault`. */
const REPORTS: Readonly<Record<number, string>> = {
  [KvmEvent.NESTED_VMEXIT]: 'info1',
  [KvmEvent.PAGE_FAULT]: 'error_code',
};

/** The pair's only difference if that is in what the hardware reported: the bits that differ. */
function reportDifference(pair: SidePair): string | undefined {
  const name = REPORTS[rowsEvent(pair.recorded)];
  if (!isSameEvent(pair) || pair.fields.length !== 1 || pair.fields[0] !== name) return undefined;
  return differingBits(differing(pair)[0]!, pair).join();
}

/** Whether the differences of a step are one, of which KVM may tell twice. */
function isOneDifference(pairs: readonly SidePair[]): boolean {
  const [first, second] = pairs;
  if (pairs.length !== 2) return pairs.length === 1;
  if (rowsEvent(first!.recorded) !== KvmEvent.NESTED_VMEXIT || rowsEvent(second!.recorded) !== KvmEvent.PAGE_FAULT) {
    return false;
  }
  const bits = reportDifference(first!);
  return bits !== undefined && bits === reportDifference(second!);
}

export interface EventExplanation {
  /** Index of the first pair that differs. */
  readonly at: number;
  readonly cause: string;
  readonly group: string;
  /** Nothing else in the step differs: an expectation of this group covers all of it. */
  readonly isOnly: boolean;
}

/** What the first difference of a step that differs is, in words and as a group. */
export function explainEvents(
  stepOp: number,
  pairs: readonly SidePair[],
  config: KvmConfig,
  registers: Uint32Array,
): EventExplanation {
  const first = firstDifference(pairs);
  // Each side has what the other one has, and yet they were found to differ: never passed over in silence.
  if (first === undefined) {
    const cause = 'the same events were recorded and replayed, but not as they follow one another';
    return { at: 0, cause, group: `${stepName(stepOp)}: order`, isOnly: true };
  }
  const { recorded, replayed, at } = first;
  const isOnly = isOneDifference(pairs.filter(isDifference));
  if (recorded.length > 0 && replayed.length > 0 && rowsEvent(recorded) < 0 && rowsEvent(replayed) < 0) {
    const cause = causeOf(stepOp, recorded, replayed, 0, registers);
    return { at, cause, group: groupOf(stepOp, recorded[0], replayed[0]), isOnly };
  }
  return { at, cause: eventCause(first, config), group: eventGroup(stepName(stepOp), first, config), isOnly };
}

function eventCause({ pair, recorded, replayed }: FirstDifference, config: KvmConfig): string {
  const name = (rows: readonly Row[]): string => (rowsEvent(rows) < 0 ? describe(rows[0]!) : eventName(rows));
  if (isSameEvent(pair)) {
    const fields = differing(pair).filter(({ name: field }) => field !== pair.wrongFrame?.field);
    const texts = fields.map((field) => fieldText(field, pair, config));
    if (pair.wrongFrame !== undefined) texts.push(wrongFrameText(pair));
    return `${eventName(recorded)}: ${texts.join('; ')}`;
  }
  if (recorded.length > 0 && replayed.length > 0)
    return `the recording has ${name(recorded)}, the replay ${name(replayed)}`;
  if (recorded.length > 0) return `the recording has ${name(recorded)}, which the replay lacks`;
  return `the replay has ${name(replayed)}, which was not recorded`;
}

/** Stable text without addresses: equal for divergences of the same shape. `step`: the kind of step. */
function eventGroup(step: string, { pair, recorded, replayed }: FirstDifference, config: KvmConfig): string {
  const name = (rows: readonly Row[]): string => {
    if (rows.length === 0) return 'nothing';
    const event = rowsEvent(rows);
    return event < 0 ? rowName(rows[0]) : KVM_EVENT_NAMES[event]!;
  };
  if (!isSameEvent(pair)) return `${step}: recorded ${name(recorded)}, replayed ${name(replayed)}`;
  const fields = differing(pair).map((field) => {
    if (field.name === pair.wrongFrame?.field) return `wrong frame in ${field.name}`;
    const parts = ERROR_CODES.includes(field.name)
      ? differingBits(field, pair)
      : differingParts(field, pair, config).map((spec) => spec.name);
    return parts.length === 0 ? field.name : `${field.name} ${parts.join(' ')}`;
  });
  return `${step}: ${name(recorded)} (${fields.join(', ')})`;
}
