/** The kinds of step and of observation in the text form: which key names the kind, which fields go with it. */

import { EXCEPTION_NAMES } from '../../formats/decode/fault.ts';
import { KVM_EVENT_MASK, KVM_EVENT_NAMES, KVM_EVENT_SHIFT } from '../../formats/kvm-event.ts';
import {
  DIM_NAMES,
  NOT_MODELLED_NAMES,
  OBS_DIM_MASK,
  OBS_DIM_SHIFT,
  OBS_EXCEPTION_EXITS,
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_NAMES,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_NO_LINEAR,
  OBS_NESTED_NX,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_SHADOW_STACK,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
  OBS_NOT_MODELLED_MASK,
  OBS_NOT_MODELLED_SHIFT,
  OBS_PAGE_SHIFT_MASK,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../formats/observation.ts';
import { REGISTER_NAMES } from '../../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_EXPECTS_ADDRESS,
  ACCESS_LENGTH_MASK,
  ACCESS_LENGTH_SHIFT,
  ACCESS_OF_TABLE,
  ACCESS_SHADOW_STACK,
  ACCESS_SOFTWARE,
  ACCESS_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_NAMES,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  FAULT_AC,
  FAULT_CPL3,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  HOST_LEVEL_MASK,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_MASK,
  HOST_PAGE_NAMES,
  HOST_PAGE_SHIFT,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  MAXIMUM_VCPUS,
  NESTED_SVM,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  PROVENANCE_MASK,
  PROVENANCE_NAMES,
  PROVENANCE_SHIFT,
  REGISTER_WRITE_TASK_SWITCH,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  SOFTWARE_RMW,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_EMULATED,
  STORE_KNOWLEDGE,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import { type Field, fieldMask, type Names } from './fields.ts';

export interface Kind {
  /** The field whose key names the kind; always written, always first. */
  readonly main: Field;
  readonly fields: readonly Field[];
  /** The bits that the kind itself has in the row's word. */
  readonly bits: number;
  readonly mask: number;
  /** The bits of the row's word that no field shows. */
  readonly rest: number;
}

/** A kind's own parts, before the fields that every kind has are added. */
interface Draft {
  readonly main: Field;
  readonly fields?: readonly Field[];
  readonly bits: number;
  readonly mask?: number;
}

const flag = (name: string, bit: number): Field => ({ type: 'flag', name, bit });
const address = (name: string): Field => ({ type: 'word', name, of: 'address' });
const second = (name: string): Field => ({ type: 'word', name, of: 'second' });
const mark = (name: string): Field => ({ type: 'mark', name });
const number = (name: string, shift: number, mask: number, usual: number | ((op: number) => number) = 0): Field => ({
  type: 'number',
  name,
  shift,
  mask,
  usual,
});
const named = (name: string, shift: number, mask: number, names: Names): Field => ({
  type: 'name',
  name,
  shift,
  mask,
  names,
});

/** What is left of a row's word, for rows that are stranger than this version knows. */
export const REST_OF_BITS = 'bits';

function completed(bits: number, mask: number, main: Field, fields: readonly Field[]): Kind {
  const shown = fields.reduce((sum, field) => sum | fieldMask(field), mask | fieldMask(main));
  return { main, fields, bits, mask, rest: ~shown >>> 0 };
}

/**
 * Completes kinds: `common` fields go with each of them, and words that a kind gives no name of its own can still be
 * written under their column's, so that nothing that a file can hold is lost on the way through text.
 */
function complete(
  drafts: readonly Draft[],
  kindMask: number,
  common: readonly Field[],
  words: readonly Field[],
): Kind[] {
  return drafts.map(({ main, fields = [], bits, mask = 0 }) => {
    const own = [main, ...fields];
    const uses = (word: Field): boolean => own.some((field) => 'of' in field && 'of' in word && field.of === word.of);
    const shared = common.filter((field) => (fieldMask(field) & fieldMask(main)) === 0);
    return completed(bits, kindMask | mask, main, [...fields, ...words.filter((word) => !uses(word)), ...shared]);
  });
}

const PROVENANCE = named('provenance', PROVENANCE_SHIFT, PROVENANCE_MASK, PROVENANCE_NAMES);

/** Privilege level where the text gives none: 3 for a user access, else 0. */
const usualCpl = (op: number): number => ((op & ACCESS_USER) !== 0 ? 3 : 0);

const ACCESS_FIELDS: readonly Field[] = [
  address('address'),
  flag('user', ACCESS_USER),
  number('cpl', ACCESS_CPL_SHIFT, ACCESS_CPL_MASK, usualCpl),
  number('length', ACCESS_LENGTH_SHIFT, ACCESS_LENGTH_MASK),
  flag('ac', ACCESS_AC),
  flag('shadowStack', ACCESS_SHADOW_STACK),
  flag('stack', ACCESS_STACK),
  flag('software', ACCESS_SOFTWARE),
  flag('ofTable', ACCESS_OF_TABLE),
  flag('walked', ACCESS_WALKED),
  { type: 'optional-word', name: 'physical', of: 'second', bit: ACCESS_EXPECTS_ADDRESS },
  second('operand'),
];

const accessType = (name: string): Field => named(name, ACCESS_TYPE_SHIFT, ACCESS_TYPE_MASK, ACCESS_TYPE_NAMES);
const register = (name: string): Field => named(name, STEP_REGISTER_SHIFT, STEP_REGISTER_MASK, REGISTER_NAMES);
const TYPE = number('type', INVALIDATION_TYPE_SHIFT, INVALIDATION_TYPE_MASK);

function invalidation(which: number, main: Field, fields: readonly Field[]): Draft {
  const bits = StepKind.INVALIDATE | (which << INVALIDATION_SHIFT);
  return { main, fields, bits, mask: INVALIDATION_MASK << INVALIDATION_SHIFT };
}

const HYPERVISOR_MODE: Names = ['vmx', 'svm'];
const nestedMode = (name: string): Field => named(name, Math.log2(NESTED_SVM), 1, HYPERVISOR_MODE);

const STEP_DRAFTS: readonly Draft[] = [
  { main: accessType('access'), bits: StepKind.ACCESS, fields: ACCESS_FIELDS },
  { main: accessType('gpa-access'), bits: StepKind.GPA_ACCESS, fields: ACCESS_FIELDS },
  {
    main: address('store'),
    bits: StepKind.STORE,
    fields: [
      second('value'),
      number('size', STORE_SIZE_SHIFT, STORE_SIZE_MASK, 8),
      flag('knowledge', STORE_KNOWLEDGE),
      flag('emulated', STORE_EMULATED),
    ],
  },
  { main: address('clear-page'), bits: StepKind.CLEAR_PAGE },
  {
    main: register('register-write'),
    bits: StepKind.REGISTER_WRITE,
    fields: [second('value'), flag('taskSwitch', REGISTER_WRITE_TASK_SWITCH)],
  },
  { main: register('register-set'), bits: StepKind.REGISTER_SET, fields: [second('value')] },
  invalidation(Invalidation.INVLPG, address('invlpg'), []),
  invalidation(Invalidation.INVPCID, address('invpcid'), [TYPE, second('pcid')]),
  invalidation(Invalidation.INVEPT, second('invept'), [TYPE]),
  invalidation(Invalidation.INVVPID, address('invvpid'), [TYPE, second('vpid')]),
  invalidation(Invalidation.INVLPGA, address('invlpga'), [second('asid')]),
  invalidation(Invalidation.EPTP_SWITCH, second('eptp-switch'), [address('index')]),
  { main: number('invalidate', INVALIDATION_SHIFT, INVALIDATION_MASK), bits: StepKind.INVALIDATE, fields: [TYPE] },
  {
    main: nestedMode('nested-entry'),
    bits: StepKind.NESTED_ENTRY,
    fields: [number('tlbControl', NESTED_TLB_CONTROL_SHIFT, NESTED_TLB_CONTROL_MASK)],
  },
  {
    main: nestedMode('nested-exit'),
    bits: StepKind.NESTED_EXIT,
    fields: [second('reason'), address('qualification')],
  },
  { main: address('pdpte-load'), bits: StepKind.PDPTE_LOAD },
  {
    main: address('fault-exit'),
    bits: StepKind.FAULT_EXIT,
    fields: [
      second('error'),
      flag('misconfig', FAULT_MISCONFIG),
      flag('duringEvent', FAULT_DURING_EVENT),
      flag('cpl3', FAULT_CPL3),
      flag('ac', FAULT_AC),
    ],
  },
  { main: mark('vm-entry'), bits: StepKind.VM_ENTRY },
  {
    main: address('software-walk'),
    bits: StepKind.SOFTWARE_WALK,
    fields: [
      second('access'),
      flag('quiet', SOFTWARE_QUIET),
      flag('operandOfInstruction', SOFTWARE_OPERAND),
      flag('implicit', SOFTWARE_IMPLICIT),
      flag('ac', SOFTWARE_AC),
      flag('rmw', SOFTWARE_RMW),
    ],
  },
  {
    main: address('host-pages'),
    bits: StepKind.HOST_PAGES,
    fields: [
      second('count'),
      named('residency', HOST_PAGE_SHIFT, HOST_PAGE_MASK, HOST_PAGE_NAMES),
      number('level', HOST_LEVEL_SHIFT, HOST_LEVEL_MASK, 1),
    ],
  },
  { main: { type: 'whole', name: 'vcpu', of: 'second', greatest: MAXIMUM_VCPUS - 1 }, bits: StepKind.VCPU },
];

/** Without the rare ones. */
export const STEP_KINDS = complete(STEP_DRAFTS, STEP_KIND_MASK, [PROVENANCE], [address('address'), second('operand')]);

/** What every rare step may have beside its stimulus; the stimulus itself is `stimulus.ts`'s business. */
export const RARE_KIND = completed(StepKind.RARE, STEP_KIND_MASK, mark('rare'), [PROVENANCE]);

const PAGE_SIZES: Names = { 12: '4k', 21: '2m', 22: '4m', 30: '1g' };

const TABLES = named('tables', OBS_DIM_SHIFT, OBS_DIM_MASK, DIM_NAMES);
const LEVEL = number('level', OBS_LEVEL_SHIFT, OBS_LEVEL_MASK);
const FOUR_BYTES = flag('fourBytes', OBS_FOUR_BYTES);

const OBSERVATION_DRAFTS: readonly Draft[] = [
  { main: mark('none'), bits: Obs.NONE },
  { main: address('element'), bits: Obs.ELEMENT },
  { main: number('pdpte', OBS_LEVEL_SHIFT, OBS_LEVEL_MASK), bits: Obs.PDPTE },
  {
    main: address('nested-walk'),
    bits: Obs.NESTED_WALK,
    fields: [
      named('access', OBS_NESTED_ACCESS_SHIFT, OBS_NESTED_ACCESS_MASK, ACCESS_TYPE_NAMES),
      flag('ofTable', OBS_NESTED_OF_TABLE),
      flag('noLinear', OBS_NESTED_NO_LINEAR),
      flag('user', OBS_NESTED_USER),
      flag('writable', OBS_NESTED_WRITABLE),
      flag('nx', OBS_NESTED_NX),
      flag('shadowStack', OBS_NESTED_SHADOW_STACK),
    ],
  },
  { main: address('entry-write'), bits: Obs.ENTRY_WRITE },
  {
    main: address('translated'),
    bits: Obs.TRANSLATED,
    fields: [named('page', OBS_PAGE_SHIFT_SHIFT, OBS_PAGE_SHIFT_MASK, PAGE_SIZES), second('guestPhysical')],
  },
  { main: mark('completed'), bits: Obs.COMPLETED },
  {
    main: named('exception', OBS_VECTOR_SHIFT, OBS_VECTOR_MASK, EXCEPTION_NAMES),
    bits: Obs.EXCEPTION,
    fields: [second('error'), address('cr2'), flag('exits', OBS_EXCEPTION_EXITS)],
  },
  { main: address('ept-violation'), bits: Obs.EPT_VIOLATION, fields: [second('qualification')] },
  { main: address('ept-misconfig'), bits: Obs.EPT_MISCONFIG },
  { main: address('npf'), bits: Obs.NPF, fields: [second('exitInfo1')] },
  { main: address('exit-linear'), bits: Obs.EXIT_LINEAR },
  { main: { type: 'truth', name: 'pdpte-loaded', of: 'second' }, bits: Obs.PDPTE_LOADED },
  { main: named('register', OBS_REGISTER_SHIFT, OBS_REGISTER_MASK, REGISTER_NAMES), bits: Obs.REGISTER },
  { main: address('entry-after'), bits: Obs.ENTRY_AFTER },
  {
    main: named('not-modelled', OBS_NOT_MODELLED_SHIFT, OBS_NOT_MODELLED_MASK, NOT_MODELLED_NAMES),
    bits: Obs.NOT_MODELLED,
  },
  { main: mark('faulted'), bits: Obs.FAULTED },
  // The row as such; `kvm-event.ts` makes one object of it and the KVM_MORE rows behind it.
  { main: named('kvm-event', KVM_EVENT_SHIFT, KVM_EVENT_MASK, KVM_EVENT_NAMES), bits: Obs.KVM_EVENT },
  { main: address('kvm-more'), bits: Obs.KVM_MORE },
  { main: address('pml-full'), bits: Obs.PML_FULL },
];

/** By number of kind. Their keys are `OBS_NAMES`, which filters and reports use too. */
export const OBSERVATION_KINDS = complete(
  OBSERVATION_DRAFTS,
  OBS_KIND_MASK,
  [TABLES, LEVEL, FOUR_BYTES],
  [second('value'), address('address')],
);

if (OBSERVATION_KINDS.some(({ main }, kind) => main.name !== OBS_NAMES[kind])) {
  throw new Error('the text form spells a kind of observation differently from everyone else');
}

/** Kinds by the low 5 bits of the row's word, where steps and observations alike have their number. */
function byNumber(kinds: readonly Kind[]): readonly (readonly Kind[])[] {
  return Array.from({ length: 32 }, (_, number) => kinds.filter(({ bits }) => (bits & 0x1f) === number));
}

const STEPS_BY_NUMBER = byNumber([RARE_KIND, ...STEP_KINDS]);

/** The kind of a step's word; readers refuse those that have none. */
export function stepKindOf(op: number): Kind {
  const kinds = STEPS_BY_NUMBER[op & STEP_KIND_MASK]!;
  const kind = kinds.length === 1 ? kinds[0] : kinds.find(({ bits, mask }) => (op & mask) === bits);
  if (kind === undefined) throw new Error(`no kind of step has the word ${op}`);
  return kind;
}

/** The kind of an observation's word; readers refuse those that have none. */
export function observationKindOf(op: number): Kind {
  const kind = OBSERVATION_KINDS[op & OBS_KIND_MASK];
  if (kind === undefined) throw new Error(`no kind of observation has the word ${op}`);
  return kind;
}
