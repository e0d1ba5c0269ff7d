/** A comparison of two machines as a case of a report. */

import type { ComparisonResult, ComparisonVerdict, Difference } from '../compare/result.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import type { Row } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { comparisonReceiptLines, comparisonSummaryLine, differenceLines, stimulusText } from './compare-text.ts';
import { reportLine, reportLines, reportRegisters } from './lines.ts';
import { aboutFirst, labelledWalks, placeOf, unpainted } from './replay-cases.ts';
import { ContextTracker, translationName } from './row-context.ts';
import type { RowContext } from './rows.ts';
import type { CaseOutcome, ReportCase, ReportDifference, ReportPlace } from './run.ts';
import type { Timeline } from './timeline.ts';

const OUTCOME: Readonly<Record<ComparisonVerdict, CaseOutcome>> = {
  unchanged: 'pass',
  changed: 'fail',
  'not-modelled': 'error',
  'nothing-compared': 'fail',
  skipped: 'skip',
};

const MAXIMUM_ROWS = 80;

function placesOf({ places, a, b }: Difference, contexts: readonly [RowContext, RowContext]): readonly ReportPlace[] {
  if (places.length === 0) {
    const [left, right] = [reportLines(a, contexts[0], MAXIMUM_ROWS), reportLines(b, contexts[1], MAXIMUM_ROWS)];
    return left.length + right.length === 0 ? [] : [{ state: 'differs', a: left, b: right }];
  }
  const side = (rows: readonly Row[], context: RowContext): ReportPlace['a'] =>
    rows.length === 0 ? [] : [reportLine(rows, context)];
  return places.map((place) => ({
    state: place.state,
    a: side(place.a, contexts[0]),
    b: side(place.b, contexts[1]),
  }));
}

function differenceOf(difference: Difference, result: ComparisonResult, header: TraceHeader): ReportDifference {
  const { step, ofStep, source, line, cause, group, registers, configs, a, b, at } = difference;
  const { context } = new ContextTracker(header, registers);
  const withMmu = (mmu: KvmConfig | undefined): RowContext => ({ ...context, mmu });
  const contexts = [withMmu(configs[0]), withMmu(configs[1])] as const;
  const stimulus = stimulusText(difference, header) ?? '';
  const mode = translationName(registers);
  return {
    step: ofStep ? step : undefined,
    where: placeOf(source, line),
    judgement: ofStep ? 'changed' : `changed, after step ${step}, the last one`,
    stimulus,
    mode,
    cause,
    group,
    labels: result.labels,
    places: aboutFirst(placesOf(difference, contexts), at),
    registers: reportRegisters(registers, contexts[0]),
    walks: [
      ...labelledWalks(result.labels[0], a, contexts[0], stimulus, mode),
      ...labelledWalks(result.labels[1], b, contexts[1], stimulus, mode),
    ],
    text: differenceLines(difference, result, header, unpainted),
  };
}

function reasonOf({ verdict, receipt, differences }: ComparisonResult): string {
  const first = differences[0];
  switch (verdict) {
    case 'unchanged':
      return '';
    case 'changed':
      return first === undefined ? 'it changed' : `step ${first.step}: ${first.cause}`;
    case 'not-modelled':
      return `not modelled by one side or both: ${Object.entries(receipt.notModelled)
        .map(([name, count]) => `${count} ${name}`)
        .join(', ')}`;
    case 'nothing-compared':
      return 'nothing was compared';
    case 'skipped':
      return receipt.limits[0] ?? 'the two sides cannot differ on this trace, or cannot both take it';
  }
}

/** One case for each compared segment. `seconds`: how long it took. */
export function comparisonCase(
  result: ComparisonResult,
  header: TraceHeader,
  seconds: number,
  timeline?: Timeline | undefined,
): ReportCase {
  const { receipt, verdict, differences } = result;
  return {
    file: receipt.file,
    title: receipt.title,
    outcome: OUTCOME[verdict],
    verdict,
    summary: comparisonSummaryLine(result, unpainted),
    reason: reasonOf(result),
    steps: receipt.steps,
    compared: receipt.rows,
    seconds,
    receipt: comparisonReceiptLines(result),
    differing: receipt.changed,
    differences: differences.map((difference) => differenceOf(difference, result, header)),
    groups: receipt.groups,
    ...(timeline === undefined ? {} : { timeline }),
  };
}
