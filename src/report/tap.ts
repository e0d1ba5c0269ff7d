/** TAP version 13 (https://testanything.org/tap-version-13-specification.html): a line for each trace, YAML below a failure. */

import { escapeControls } from './escape.ts';
import { faultCase } from './fault-case.ts';
import type { ReportCase, ReportRun } from './run.ts';

/** A description: `#` would begin a directive. */
export function tapText(text: string): string {
  return escapeControls(text).replaceAll('#', '\\x23').trim() || '-';
}

/** A text as YAML takes it: JSON's form is part of YAML, less the characters that are not printable there. */
export function yamlText(text: string): string {
  return JSON.stringify(escapeControls(text)).replace(
    /[\ufffe\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16)}`,
  );
}

const MAXIMUM_LINES = 200;

function yamlLines({ verdict, outcome, reason, steps, compared, differing, differences }: ReportCase): string[] {
  const text = differences.flatMap((difference) => difference.text);
  const shown = text.slice(0, MAXIMUM_LINES);
  if (text.length > shown.length) shown.push(`and ${text.length - shown.length} lines more`);
  return [
    '  ---',
    `  message: ${yamlText(reason)}`,
    `  severity: ${outcome === 'error' ? 'error' : 'fail'}`,
    `  verdict: ${yamlText(verdict)}`,
    `  steps: ${steps}`,
    `  compared: ${compared}`,
    `  differing: ${differing}`,
    ...(shown.length === 0 ? [] : ['  detail:', ...shown.map((line) => `    - ${yamlText(line)}`)]),
    '  ...',
  ];
}

function caseLines(each: ReportCase, number: number): string[] {
  const name = tapText(each.file);
  switch (each.outcome) {
    case 'pass':
      return [`ok ${number} - ${name}`];
    case 'skip':
      return [`ok ${number} - ${name} # SKIP ${tapText(each.reason)}`];
    default:
      return [`not ok ${number} - ${name}`, ...yamlLines(each)];
  }
}

/** The whole report, lines without their ends. */
export function tapLines(run: ReportRun): string[] {
  const cases = [...run.cases, ...run.faults.map((fault) => faultCase(run, fault))];
  const lines = ['TAP version 13'];
  if (cases.length === 0) lines.push('1..0 # SKIP nothing was compared');
  else lines.push(`1..${cases.length}`);
  lines.push(...cases.flatMap((each, i) => caseLines(each, i + 1)));
  return [...lines, ...run.totals.map((line) => `# ${escapeControls(line)}`)];
}
