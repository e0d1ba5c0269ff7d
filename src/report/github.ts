/**
 * For GitHub Actions: the result as text, then annotations as workflow commands, and a job summary in Markdown. While
 * the text is printed, workflow commands are off: a trace may have one for a title.
 */

import { escapeControls } from './escape.ts';
import type { ReportCase, ReportRun } from './run.ts';
import { counted, countText } from './table.ts';

/** GitHub shows so many annotations of a kind for a step; what is beyond that stands in the summary. */
const MAXIMUM_ANNOTATIONS = 10;

/** GitHub refuses a summary of more than 1 MiB; a step may have written some of it already. */
const MAXIMUM_SUMMARY = 900_000;
/** Differences in full in the summary, and lines of each. */
const MAXIMUM_DIFFERENCES = 20;
const MAXIMUM_LINES = 60;
const MAXIMUM_ROWS = 200;

/** A command's message: `%` begins an escape. */
function message(text: string): string {
  return escapeControls(text).replaceAll('%', '%25');
}

/** A command's property: it ends at `,` and its name at `:`. */
function property(text: string): string {
  return message(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}

function annotation(each: ReportCase): string {
  const step = each.differences[0]?.step;
  const title = step === undefined ? each.verdict : `${each.verdict} at step ${step}`;
  return `::error file=${property(each.file)},title=${property(title)}::${message(each.reason)}`;
}

function isBad(each: ReportCase): boolean {
  return each.outcome === 'fail' || each.outcome === 'error';
}

/**
 * What goes to the log. `text`: the result as text. `token`: a word that no trace can know, which turns workflow commands
 * on again.
 */
export function githubLines(run: ReportRun, text: readonly string[], token: string): string[] {
  const bad = run.cases.filter(isBad);
  const shown = bad.slice(0, MAXIMUM_ANNOTATIONS - Math.min(run.faults.length, MAXIMUM_ANNOTATIONS));
  const lines = [`::stop-commands::${token}`, ...text, `::${token}::`];
  lines.push(...run.faults.map((fault) => `::error title=${property(run.command)}::${message(fault)}`));
  lines.push(...shown.map(annotation));
  if (bad.length > shown.length) {
    const more = counted(bad.length - shown.length, 'more trace');
    lines.push(`::notice title=${property(run.command)}::${more} not as expected: see the job summary`);
  }
  return lines;
}

const MARKDOWN: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };

/** A text within Markdown: no tag, no link, no emphasis, no mention, no end of a table's cell. */
export function markdownText(text: string): string {
  return escapeControls(text)
    .replace(/[\\`*_{}[\]()#+\-.!|~$:]/g, '\\$&')
    .replace(/[&<>]/g, (character) => MARKDOWN[character] ?? '')
    .replaceAll('@', '&#64;');
}

/** Lines in a fence that they cannot close. */
function fenced(lines: readonly string[]): string[] {
  const runs = lines.flatMap((line) => line.match(/`+/g) ?? []).map((run) => run.length);
  const fence = '`'.repeat(Math.max(3, 1 + Math.max(0, ...runs)));
  return [`${fence}text`, ...lines.map(escapeControls), fence];
}

const SYMBOL: Readonly<Record<ReportCase['outcome'], string>> = {
  pass: '✅',
  fail: '❌',
  error: '⚠️',
  skip: '⏭️',
};

function differenceLines(each: ReportCase): string[] {
  const [difference] = each.differences;
  if (difference === undefined) return [];
  const { text } = difference;
  const shown = text.slice(0, MAXIMUM_LINES);
  if (text.length > shown.length) shown.push(`and ${text.length - shown.length} lines more`);
  const step = difference.step === undefined ? '' : `, step ${difference.step}`;
  const summary = `<details><summary>${htmlText(each.file)}${step}</summary>`;
  return [summary, '', ...fenced(shown), '', '</details>', ''];
}

/** A text within a tag's line: references for all that HTML and Markdown know. */
function htmlText(text: string): string {
  return escapeControls(text).replace(/[&<>"'@[\]`*_\\!|~]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** The job summary in Markdown; ends with a line feed. */
export function githubSummary(run: ReportRun): string {
  const bad = run.cases.filter(isBad);
  const count = (outcome: ReportCase['outcome']): number => run.cases.filter((each) => each.outcome === outcome).length;
  const parts = [
    `## ${SYMBOL[run.exitStatus === 0 ? 'pass' : 'fail']} ${markdownText(run.command)}`,
    '',
    `${counted(run.cases.length, 'trace')}: ${countText(count('pass'))} passed, ${countText(count('fail'))} failed, ${countText(count('error'))} with errors, ${countText(count('skip'))} skipped`,
    '',
    ...run.faults.flatMap((fault) => [`**${markdownText(fault)}**`, '']),
  ];
  if (bad.length > 0) {
    parts.push('| | trace | verdict | why |', '|---|---|---|---|');
    for (const each of bad.slice(0, MAXIMUM_ROWS)) {
      const cells = [each.file, each.verdict, each.reason].map(markdownText);
      parts.push(`| ${SYMBOL[each.outcome]} | ${cells.join(' | ')} |`);
    }
    parts.push('');
    if (bad.length > MAXIMUM_ROWS) parts.push(`and ${counted(bad.length - MAXIMUM_ROWS, 'trace')} more`, '');
  }
  const begin = `${parts.join('\n')}\n`;
  const end = ['<details><summary>totals</summary>', '', ...fenced(run.totals), '', '</details>', ''].join('\n');
  let text = begin;
  for (const each of bad.slice(0, MAXIMUM_DIFFERENCES)) {
    const next = differenceLines(each).join('\n');
    if (Buffer.byteLength(text) + Buffer.byteLength(next) + Buffer.byteLength(end) > MAXIMUM_SUMMARY) {
      text += '\nmore differences than a job summary can hold\n\n';
      break;
    }
    text += next;
  }
  return text + end;
}
