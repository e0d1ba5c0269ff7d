/** A replay's result as a case of a report. */

import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import {
  CHUNK_STATE,
  type Divergence,
  type GuestDifference,
  type PairState,
  type ReplayResult,
  type Row,
  type Verdict,
} from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { plainLine, reportLine, reportLines, reportRegisters } from './lines.ts';
import { divergenceLines, judgementText, receiptLines, summaryLine } from './replay-text.ts';
import { ContextTracker, translationName } from './row-context.ts';
import type { RowContext } from './rows.ts';
import type { CaseOutcome, ReportCase, ReportDifference, ReportPlace } from './run.ts';
import { guestDifferenceLines } from './same-guest.ts';
import { stepText } from './steps.ts';
import { counted } from './table.ts';
import type { Timeline } from './timeline.ts';
import { walksOfRows } from './walk-of-rows.ts';

const OUTCOME: Readonly<Record<Verdict, CaseOutcome>> = {
  match: 'pass',
  diverged: 'fail',
  undetermined: 'error',
  'not-modelled': 'error',
  'nothing-compared': 'fail',
};

/** Places of a difference at most, those before the first difference among them. */
const MAXIMUM_PLACES = 80;
const PLACES_BEFORE = 12;

export const unpainted = (_style: unknown, text: string): string => text;

const STATE: Readonly<Record<PairState, ReportPlace['state']>> = {
  equal: 'equal',
  host: 'equal',
  differs: 'differs',
  'wrong-frame': 'differs',
  missing: 'only-a',
  extra: 'only-b',
};

/** `walk.log line 12`. */
export function placeOf(source: string | undefined, line: number | undefined): string {
  const parts = [source ?? '', line === undefined ? '' : `line ${line}`];
  return parts.filter((part) => part !== '').join(' ');
}

/** Those about the first that differs; a place in front tells of more before, one behind of more after. */
export function aboutFirst(places: readonly ReportPlace[], at: number): ReportPlace[] {
  const begin = Math.max(0, at - PLACES_BEFORE);
  const end = Math.min(places.length, begin + MAXIMUM_PLACES);
  const note = (text: string): ReportPlace => ({ state: 'equal', a: [plainLine(text)], b: [] });
  return [
    ...(begin > 0 ? [note(`${begin} more before, alike`)] : []),
    ...places.slice(begin, end),
    ...(end < places.length ? [note(`and ${places.length - end} more`)] : []),
  ];
}

function placesOf(divergence: Divergence, context: RowContext): ReportPlace[] {
  const { pairs, recorded, replayed, firstDifference } = divergence;
  const lines = (rows: readonly Row[]): ReportPlace['a'] => (rows.length === 0 ? [] : [reportLine(rows, context)]);
  if (pairs !== undefined) {
    return pairs.map((pair) => ({ state: STATE[pair.state], a: lines(pair.recorded), b: lines(pair.replayed) }));
  }
  return Array.from({ length: Math.max(recorded.length, replayed.length) }, (_, i): ReportPlace => {
    const [a, b] = [recorded[i], replayed[i]];
    const state = i < firstDifference ? 'equal' : a === undefined ? 'only-b' : b === undefined ? 'only-a' : 'differs';
    const same = state === 'differs' && sameRow(a!, b!);
    return {
      state: same ? 'equal' : state,
      a: a === undefined ? [] : lines([a]),
      b: b === undefined ? [] : lines([b]),
    };
  });
}

function sameRow(a: Row, b: Row): boolean {
  return (
    a.op === b.op &&
    a.addressLo === b.addressLo &&
    a.addressHi === b.addressHi &&
    a.valueLo === b.valueLo &&
    a.valueHi === b.valueHi
  );
}

/** The walks that the rows of a side tell of. `text`: the step in one line. */
export function labelledWalks(
  label: string,
  rows: readonly Row[],
  context: RowContext,
  text: string,
  mode: string,
): ReportDifference['walks'] {
  const walks = walksOfRows(rows, { row: context, address: text, access: '', mode, title: label });
  return walks.map((walk) => ({ label, walk }));
}

/** A step that is not as recorded. */
export function divergenceOf(divergence: Divergence, header: TraceHeader): ReportDifference {
  const { registers, step, source, line, judgement, cause, group, op } = divergence;
  const { context } = new ContextTracker(header, registers);
  const { addressLo, addressHi, operandLo, operandHi } = divergence;
  const stimulus = group === CHUNK_STATE ? '' : stepText(op, addressLo, addressHi, operandLo, operandHi, [], context);
  const mode = translationName(registers);
  const replayedRows = divergence.walk.length > divergence.replayed.length ? divergence.walk : divergence.replayed;
  return {
    step,
    where: placeOf(source, line),
    judgement: judgementText(judgement),
    stimulus,
    mode,
    cause,
    group,
    labels: ['recorded', 'replayed'],
    places: aboutFirst(placesOf(divergence, context), divergence.firstDifference),
    registers: reportRegisters(registers, context),
    walks: [
      ...labelledWalks('recorded', divergence.recorded, context, stimulus, mode),
      ...labelledWalks('replayed', replayedRows, context, stimulus, mode),
    ],
    text: divergenceLines(divergence, header, unpainted),
  };
}

/** A step at which the guest on KVM sees something else. */
export function guestDifferenceOf(difference: GuestDifference, header: TraceHeader): ReportDifference {
  const { registers, step, line, cause, group, op, bare, kvm, config } = difference;
  const { context } = new ContextTracker(header, registers);
  const withKvm: RowContext = { ...context, mmu: config };
  const { addressLo, addressHi, operandLo, operandHi } = difference;
  const stimulus =
    (op & STEP_KIND_MASK) === StepKind.RARE
      ? ''
      : stepText(op, addressLo, addressHi, operandLo, operandHi, [], withKvm);
  const mode = translationName(registers);
  const [a, b] = [reportLines(bare, context, MAXIMUM_PLACES), reportLines(kvm, withKvm, MAXIMUM_PLACES)];
  return {
    step,
    where: placeOf(undefined, line),
    judgement: 'the guest on KVM sees something else',
    stimulus,
    mode,
    cause,
    group,
    labels: ['bare machine', 'emulated KVM'],
    places: [{ state: 'differs', a, b }],
    registers: reportRegisters(registers, context),
    walks: [
      ...labelledWalks('bare machine', bare, context, stimulus, mode),
      ...labelledWalks('emulated KVM', kvm, withKvm, stimulus, mode),
    ],
    text: guestDifferenceLines(difference, header, unpainted),
  };
}

/** Why a replay is no match, in a sentence. */
function reasonOf({ verdict, receipt, divergences, guestDifferences }: ReplayResult): string {
  const first = divergences[0] ?? guestDifferences?.[0];
  switch (verdict) {
    case 'match':
      return '';
    case 'diverged': {
      const broken = receipt.brokenInvariants[0]?.sentence ?? receipt.brokenExpectations[0] ?? 'it diverged';
      return first === undefined ? broken : `step ${first.step}: ${first.cause}`;
    }
    case 'not-modelled':
      return `not modelled: ${Object.entries(receipt.notModelled)
        .map(([name, count]) => `${count} ${name}`)
        .join(', ')}`;
    case 'undetermined':
      return `${counted(receipt.undetermined, 'step')} could not be judged`;
    case 'nothing-compared':
      return 'nothing was compared';
  }
}

/** One case for each replayed segment. `seconds`: how long it took. */
export function replayCase(
  result: ReplayResult,
  header: TraceHeader,
  seconds: number,
  timeline?: Timeline | undefined,
): ReportCase {
  const { receipt, verdict, divergences, guestDifferences = [] } = result;
  return {
    file: receipt.file,
    title: receipt.title,
    outcome: OUTCOME[verdict],
    verdict,
    summary: summaryLine(result, unpainted),
    reason: reasonOf(result),
    steps: receipt.steps,
    compared: receipt.observationsPredicted,
    seconds,
    receipt: receiptLines(receipt),
    differing: receipt.diverged + (receipt.sameGuest?.unexplained ?? 0),
    differences: [
      ...divergences.map((divergence) => divergenceOf(divergence, header)),
      ...guestDifferences.map((difference) => guestDifferenceOf(difference, header)),
    ],
    groups: [...receipt.groups, ...(receipt.sameGuest?.groups ?? [])],
    ...(timeline === undefined ? {} : { timeline }),
  };
}
