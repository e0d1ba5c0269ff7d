/** What is remembered of a step that is explained, and its explanation made of that. */

import { hexText } from '../bits/word64.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { REGISTER_COUNT, REGISTER_NAMES } from '../formats/registers.ts';
import { STEP_KIND_MASK, STEP_KIND_NAMES } from '../formats/step.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { guestDivergence, judgementText, recordedDivergence } from './explain-divergence.ts';
import { type Seen, seenWordText } from './explain-seen.ts';
import { contradictionsIn } from './explain-walks.ts';
import type {
  ContextName,
  ExplainedAction,
  ExplainedContext,
  ExplainedDivergence,
  ExplainedTables,
  ExplainedTlbEntry,
  ExplainedWalk,
  Explanation,
} from './explanation.ts';
import type { Divergence, ReplayResult, Row } from './result.ts';
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

/** What a step is explained by besides what was remembered of it. */
export interface Circumstances {
  readonly file: string;
  readonly header: TraceHeader;
  readonly segment: number;
  readonly words: Words;
  readonly result: ReplayResult;
  /** Of this step, if it differs from the recording. */
  readonly verdict: Divergence | undefined;
  readonly kvm: KvmMachine | null;
}

/** Actions shown of a step; zapping everything makes tens of thousands. */
const MAXIMUM_ACTIONS = 500;

export function explanationOf(captured: CapturedStep, by: Circumstances): Explanation {
  const { file, header, segment, words, result, verdict, kvm } = by;
  const { ordinal, columns, index, registers } = captured;
  const notes: string[] = [...result.receipt.limits];
  const actions = actionsOf(captured, words, kvm);
  if (actions.length > MAXIMUM_ACTIONS)
    notes.push(`of ${actions.length} actions the first ${MAXIMUM_ACTIONS} are shown`);
  const divergence = divergenceAt(captured, by);
  const judged = judgementText(verdict?.judgement);
  if (judged !== '') notes.push(judged);
  const contradictions = contradictionsIn(captured.walks);
  const cause =
    divergence === undefined ? contradictions[0] : [divergence.cause, ...contradictions.slice(0, 1)].join('; ');
  return {
    version: 1,
    trace: { file, title: header.title, recorder: header.recorder },
    machine: result.receipt.machine,
    step: {
      ordinal,
      segment,
      line: columns.lineOf(index),
      source: header.sources[columns.source]?.name,
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

function divergenceAt(captured: CapturedStep, by: Circumstances): ExplainedDivergence | undefined {
  const say = (rows: readonly Row[]): string => by.words.rows(rows, captured.registers);
  if (by.verdict !== undefined) return recordedDivergence(by.verdict, say);
  const different = by.result.guestDifferences?.find(({ step }) => step === captured.ordinal);
  return different === undefined ? undefined : guestDivergence(different, say);
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
