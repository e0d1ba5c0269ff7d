/** Converts lines of a guest's log and tells the steps in words, for tests. */

import { hex64 } from '../../../src/bits/word64.ts';
import {
  OBS_KIND_MASK,
  OBS_LEVEL_MASK,
  OBS_LEVEL_SHIFT,
  OBS_NAMES,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../../src/formats/observation.ts';
import { REGISTER_NAMES } from '../../../src/formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_EXPECTS_ADDRESS,
  ACCESS_LENGTH_MASK,
  ACCESS_LENGTH_SHIFT,
  ACCESS_OF_TABLE,
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  PROVENANCE_MASK,
  PROVENANCE_SHIFT,
  Provenance,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../../src/formats/step.ts';
import { convert } from '../../../src/import/kvm-guest/conversion.ts';
import { type Dump, DumpReader } from '../../../src/import/kvm-guest/dump.ts';
import { parseMark } from '../../../src/import/kvm-guest/marks.ts';
import type { StepColumns } from '../../../src/trace/columns.ts';

function nameOf(names: Readonly<Record<string, number>>, value: number): string {
  const found = Object.entries(names).find(([, each]) => each === value);
  return found === undefined ? `?${value}` : found[0].toLowerCase();
}

function word(column: Uint32Array, row: number): string {
  return hex64(column[2 * row]!, column[2 * row + 1]!);
}

function tellStep(columns: StepColumns, i: number): string {
  const op = columns.op[i]!;
  const address = word(columns.address, i);
  const operand = word(columns.operand, i);
  const provenance = (op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK;
  const how = provenance === Provenance.MARK ? '' : ` (${nameOf(Provenance, provenance)})`;
  const register = REGISTER_NAMES[(op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK]!;
  switch (op & STEP_KIND_MASK) {
    case StepKind.RARE: {
      const stimulus = columns.stimuli[columns.operand[2 * i]!]!;
      if (stimulus.kind === 'note') return `note ${stimulus.text}`;
      if (stimulus.kind !== 'page-image' && stimulus.kind !== 'entry-fill') return stimulus.kind;
      const at = hex64(stimulus.address.lo, stimulus.address.hi);
      if (stimulus.kind === 'page-image') return `image ${at}${how}`;
      const { first, increment } = stimulus;
      return `fill ${at} ${stimulus.count}x${stimulus.size} ${hex64(first.lo, first.hi)}+${hex64(increment.lo, increment.hi)}`;
    }
    case StepKind.ACCESS:
    case StepKind.GPA_ACCESS: {
      const type = nameOf(AccessType, (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK);
      const cpl = (op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK;
      const who = (op & ACCESS_USER) !== 0 ? ' user' : cpl === 3 ? ' implicit' : '';
      const more = `${who}${(op & ACCESS_AC) !== 0 ? ' ac' : ''}${(op & ACCESS_SOFTWARE) !== 0 ? ' software' : ''}`;
      const length = (op >>> ACCESS_LENGTH_SHIFT) & ACCESS_LENGTH_MASK;
      const leads = (op & ACCESS_EXPECTS_ADDRESS) !== 0 ? ` -> ${operand}` : '';
      const kind = (op & STEP_KIND_MASK) === StepKind.ACCESS ? '' : 'gpa ';
      return `${kind}${type}${more}${(op & ACCESS_OF_TABLE) !== 0 ? ' of table' : ''} ${address}+${length}${leads}${how}`;
    }
    case StepKind.STORE: {
      const verb = (op & STORE_KNOWLEDGE) !== 0 ? 'know' : 'store';
      return `${verb} ${address}=${operand} size ${(op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK}${how}`;
    }
    case StepKind.CLEAR_PAGE:
      return `clear ${address}`;
    case StepKind.REGISTER_WRITE:
      return `write ${register}=${operand}`;
    case StepKind.REGISTER_SET:
      return `set ${register}=${operand}${how}`;
    case StepKind.INVALIDATE: {
      const kind = nameOf(Invalidation, (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK);
      return `${kind} type ${(op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK} ${address} ${operand}`;
    }
    case StepKind.NESTED_ENTRY:
      return `enter ${(op & NESTED_SVM) !== 0 ? 'svm' : 'vmx'} tlb ${(op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK}${how}`;
    case StepKind.NESTED_EXIT:
      return `exit ${operand} ${address}${how}`;
    default:
      return `step kind ${op & STEP_KIND_MASK}`;
  }
}

function tellObservation(columns: StepColumns, row: number): string {
  const op = columns.observationOp[row]!;
  const kind = op & OBS_KIND_MASK;
  const address = word(columns.observationAddress, row);
  const value = word(columns.observationValue, row);
  const name = OBS_NAMES[kind]!;
  switch (kind) {
    case Obs.COMPLETED:
    case Obs.FAULTED:
      return `  ${name}`;
    case Obs.EXCEPTION:
      return `  ${name} ${(op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK} error ${value} cr2 ${address}`;
    case Obs.ENTRY_AFTER:
      return `  ${name} level ${(op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK} ${address}=${value}`;
    default:
      return `  ${name} ${address} ${value}`;
  }
}

export function tellColumns(columns: StepColumns): string[] {
  const told: string[] = [];
  let row = 0;
  for (let i = 0; i < columns.stepCount; i++) {
    told.push(tellStep(columns, i));
    for (; row < columns.observationEnd[i]!; row++) told.push(tellObservation(columns, row));
  }
  return told;
}

export function readDump(text: string): Dump {
  const dump = new DumpReader();
  text
    .replace(/^\n|\n$/g, '')
    .split('\n')
    .forEach((line, i) => {
      dump.line(line, i + 1);
    });
  return dump;
}

export interface Telling {
  readonly steps: string[];
  readonly omissions: Readonly<Record<string, number>>;
  readonly columns: readonly StepColumns[];
}

/** `log`: lines of a guest's log. `dumps`: their text by name. */
export function tell(log: string, dumps: Readonly<Record<string, string>> = {}, splitsRmw = false): Telling {
  const marks = log
    .trim()
    .split('\n')
    .flatMap((line, i) => (line.trim() === '' ? [] : [parseMark(line.trim(), i + 1)]));
  const runs: StepColumns[] = [];
  const omissions = convert(
    {
      log: 'vmm.log.gz',
      marks,
      dumps: new Map(Object.entries(dumps).map(([name, text]) => [name, readDump(text)])),
      sources: [],
      kvmParameters: '',
      commandLine: '',
      together: false,
    },
    { header: () => undefined, steps: (columns) => runs.push(columns) },
    splitsRmw,
  );
  return { steps: runs.flatMap(tellColumns), omissions: Object.fromEntries(omissions), columns: runs };
}
