/** Two traces held against each other as a case of a report: the first of each class of difference. */

import type { DifferenceClass } from '../compare/trace-classes.ts';
import type { Observed } from '../compare/trace-events.ts';
import type { TraceStep } from '../compare/trace-steps.ts';
import type { Row } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import {
  classesText,
  classTitle,
  sideText,
  stepLine,
  type TraceFacts,
  type TracesReport,
  tracesLines,
} from './compare-traces-text.ts';
import { plainLine, reportLine, reportRegisters } from './lines.ts';
import { labelledWalks, placeOf, unpainted } from './replay-cases.ts';
import { ContextTracker, translationName } from './row-context.ts';
import type { ReportCase, ReportDifference, ReportPlace } from './run.ts';
import { counted } from './table.ts';

/** Classes in full. */
const MAXIMUM_CLASSES = 40;

/** The step as one line, then what was observed of it that differs. */
function linesOf(step: TraceStep | undefined, rows: Observed | undefined, header: TraceHeader): ReportPlace['a'] {
  if (step === undefined) return [];
  const { context } = new ContextTracker(header, step.columns.registers);
  const stimulus = plainLine(sideText(step, undefined, header));
  return rows === undefined ? [stimulus] : [stimulus, reportLine(rows, context)];
}

/** `drawn`: steps whose walks stand with a class before this one. */
function differenceOf(each: DifferenceClass, { a, b }: TracesReport, drawn: Set<string>): ReportDifference {
  const { first, count, doing } = each;
  const step = first.a ?? first.b;
  const header = first.a === undefined ? b.header : a.header;
  const registers = step?.columns.registers;
  const mode = registers === undefined ? '' : translationName(registers);
  const walksOf = (label: string, of: TraceStep | undefined, rows: readonly Row[], facts: TraceFacts) => {
    if (of === undefined || rows.length === 0) return [];
    const { context } = new ContextTracker(facts.header, of.columns.registers);
    return labelledWalks(label, rows, context, stepLine(of, facts.header), translationName(of.columns.registers));
  };
  const steps = `${first.segment} ${first.a?.step} ${first.b?.step}`;
  const walks = drawn.has(steps)
    ? []
    : [...walksOf('A', first.a, first.walkA, a), ...walksOf('B', first.b, first.walkB, b)];
  drawn.add(steps);
  const inB = first.b === undefined ? '' : first.a === undefined ? 'step of B' : `step ${first.b.step} of B`;
  return {
    step: step?.step,
    where: [placeOf(undefined, step?.columns.lineOf(step.at)), inB].filter((part) => part !== '').join(', '),
    judgement: `${counted(count, 'time')}, by ${doing === 'kvm' ? 'KVM' : `the ${doing}`}`,
    stimulus: '',
    mode,
    cause: classTitle(each),
    group: each.subject,
    labels: ['A', 'B'],
    places: [
      {
        state: first.a === undefined ? 'only-b' : first.b === undefined ? 'only-a' : 'differs',
        a: linesOf(first.a, first.rowsA, a.header),
        b: linesOf(first.b, first.rowsB, b.header),
      },
    ],
    registers: registers === undefined ? [] : reportRegisters(registers, new ContextTracker(header, registers).context),
    walks,
    text: [
      classTitle(each),
      ...(first.a === undefined ? [] : [`  A ${sideText(first.a, first.rowsA, a.header)}`]),
      ...(first.b === undefined ? [] : [`  B ${sideText(first.b, first.rowsB, b.header)}`]),
    ],
  };
}

/** `compared`: whether there was anything to compare; `isEqual`: nothing differs. */
export function tracesCase(report: TracesReport, compared: boolean, isEqual: boolean, seconds: number): ReportCase {
  const { a, b, result } = report;
  const { steps, events, classes, differences } = result;
  const first = classes[0];
  const drawn = new Set<string>();
  const reason = !compared ? 'nothing was compared' : first === undefined ? 'the segments differ' : classTitle(first);
  return {
    file: `${a.path} ↔ ${b.path}`,
    title: a.header.title === b.header.title ? a.header.title : `${a.header.title} ↔ ${b.header.title}`,
    outcome: isEqual && compared ? 'pass' : 'fail',
    verdict: !compared ? 'nothing-compared' : isEqual ? 'equal' : 'different',
    summary: `${isEqual ? 'equal' : counted(differences, 'difference')}: ${a.path}, ${b.path}`,
    reason: isEqual && compared ? '' : reason,
    steps: steps.both + steps.onlyA + steps.onlyB,
    compared: events.equal,
    seconds,
    receipt: tracesLines(report, 0, unpainted),
    differing: differences,
    differences: classes.slice(0, MAXIMUM_CLASSES).map((each) => differenceOf(each, report, drawn)),
    rest:
      classes.length > MAXIMUM_CLASSES
        ? `The first of each class, of the ${MAXIMUM_CLASSES} most frequent; ${classesText(classes.length - MAXIMUM_CLASSES)} more, all in --json.`
        : differences > classes.length
          ? 'The first of each class; the table below counts them.'
          : '',
    groups: classes.map((each) => ({
      group: classTitle(each),
      count: each.count,
      first: (each.first.a ?? each.first.b)?.step ?? 0,
    })),
  };
}
