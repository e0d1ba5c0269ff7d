/** What `rewalk compare` found between two traces, as plain data. */

import type { DifferenceClass } from '../compare/trace-classes.ts';
import type { Observed } from '../compare/trace-events.ts';
import type { TraceStep } from '../compare/trace-steps.ts';
import { classTitle, type Sides, sideText, type TraceFacts, type TracesReport } from './compare-traces-text.ts';

function sideObject(step: TraceStep | undefined, rows: Observed | undefined, { header }: TraceFacts): object | null {
  if (step === undefined) return null;
  const line = step.columns.lineOf(step.at);
  return {
    step: step.step,
    vcpu: step.vcpu,
    line: line ?? null,
    text: sideText(step, rows, header),
    hasEvent: rows !== undefined,
  };
}

export function classObject(each: DifferenceClass, { a, b }: Sides): object {
  const { doing, subject, kind, change, count, companions, events, first } = each;
  return {
    title: classTitle(each),
    whose: doing,
    subject,
    kind,
    change,
    count,
    companions,
    companionEvents: events,
    first: { segment: first.segment, a: sideObject(first.a, first.rowsA, a), b: sideObject(first.b, first.rowsB, b) },
  };
}

function factsObject({ path, header, steps }: TraceFacts): object {
  return { path, title: header.title, recorder: header.recorder, steps };
}

export function tracesObject(report: TracesReport, exitStatus: number): object {
  const { a, b, headers, notCompared, oneSided, result } = report;
  const { steps, events, marks, differences, beyond, segments, classes } = result;
  return {
    mode: 'traces',
    a: factsObject(a),
    b: factsObject(b),
    recordedWith: headers,
    notCompared,
    absentFromOne: oneSided,
    segments,
    steps,
    marks,
    events,
    differences,
    classes: classes.map((each) => classObject(each, report)),
    beyond,
    exitStatus,
  };
}
