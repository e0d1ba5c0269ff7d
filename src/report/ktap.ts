/**
 * KTAP version 1, the kernel's dialect of TAP (Documentation/dev-tools/ktap.rst): a line for each trace, its diagnosis
 * in front of it.
 */

import { escapeControls } from './escape.ts';
import { faultCase } from './fault-case.ts';
import type { ReportCase, ReportRun } from './run.ts';
import { tapText } from './tap.ts';

const MAXIMUM_LINES = 200;

function diagnosis(each: ReportCase): string[] {
  if (each.outcome === 'pass' || each.outcome === 'skip') return [];
  const texts = [each.summary, ...(each.differences.length === 0 ? [each.reason] : [])];
  const detail = [...texts, ...each.differences.flatMap(({ text }) => text)];
  const shown = detail.slice(0, MAXIMUM_LINES);
  if (detail.length > shown.length) shown.push(`and ${detail.length - shown.length} lines more`);
  return shown.map((line) => `# ${escapeControls(line)}`);
}

function caseLine(each: ReportCase, number: number): string {
  const name = tapText(each.file);
  switch (each.outcome) {
    case 'pass':
      return `ok ${number} ${name}`;
    case 'skip':
      return `ok ${number} ${name} # SKIP ${tapText(each.reason)}`;
    case 'error':
      return `not ok ${number} ${name} # ERROR`;
    case 'fail':
      return `not ok ${number} ${name}`;
  }
}

/** The whole report, lines without their ends. */
export function ktapLines(run: ReportRun): string[] {
  const cases = [...run.cases, ...run.faults.map((fault) => faultCase(run, fault))];
  const lines = ['KTAP version 1', `1..${cases.length}`];
  cases.forEach((each, i) => {
    lines.push(...diagnosis(each), caseLine(each, i + 1));
  });
  return [...lines, ...run.totals.map((line) => `# ${escapeControls(line)}`)];
}
