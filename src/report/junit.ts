/**
 * JUnit XML, as Ant's JUnitReport and Jenkins read it: a suite for each folder, a test case for each trace. The dialects
 * differ in what they demand; this is what all of them take (test/fixtures/junit.xsd).
 */

import { basename, dirname } from 'node:path';
import { escapeControls } from './escape.ts';
import { faultCase } from './fault-case.ts';
import type { ReportCase, ReportRun } from './run.ts';

const SPECIAL: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
};

/** XML 1.0 2.2: what is no character of it cannot be written in any way; control characters show as `\x1b` instead. */
export function xmlText(text: string): string {
  return escapeControls(text)
    .replace(/[\ufffe\uffff]/g, (character) => `\\u{${character.charCodeAt(0).toString(16)}}`)
    .replace(/[&<>"']/g, (character) => SPECIAL[character] ?? '');
}

function lines(texts: readonly string[]): string {
  return texts.map(xmlText).join('\n');
}

/** A token of XML Schema: single spaces, none at the ends, not empty. */
function token(text: string): string {
  return xmlText(text.replace(/\s+/g, ' ').trim() || '-');
}

function seconds(duration: number): string {
  return duration.toFixed(3);
}

/** Steps shown in a failure: the text report has them all. */
const MAXIMUM_LINES = 400;

function detail({ summary, differences, receipt }: ReportCase): string {
  const texts = [summary, ...differences.flatMap(({ text }) => text), '', ...receipt];
  const more = texts.length > MAXIMUM_LINES ? [`and ${texts.length - MAXIMUM_LINES} lines more`] : [];
  return lines([...texts.slice(0, MAXIMUM_LINES), ...more]);
}

function outcomeElement(each: ReportCase): string {
  const message = xmlText(each.reason);
  switch (each.outcome) {
    case 'pass':
      return '';
    case 'skip':
      return `<skipped message="${message}"/>`;
    case 'fail':
      return `<failure type="${xmlText(each.verdict)}" message="${message}">${detail(each)}</failure>`;
    case 'error':
      return `<error type="${xmlText(each.verdict)}" message="${message}">${detail(each)}</error>`;
  }
}

function testCase(each: ReportCase, name: string, suite: string): string[] {
  const head = `    <testcase classname="${token(suite)}" name="${token(name)}" time="${seconds(each.seconds)}"`;
  const outcome = outcomeElement(each);
  return outcome === '' ? [`${head}/>`] : [`${head}>${outcome}</testcase>`];
}

/** Cases by folder, in the order in which the folders were met. */
function suitesOf(run: ReportRun): Map<string, ReportCase[]> {
  const suites = new Map<string, ReportCase[]>();
  const add = (name: string, each: ReportCase): void => {
    const cases = suites.get(name);
    if (cases === undefined) suites.set(name, [each]);
    else cases.push(each);
  };
  for (const each of run.cases) add(dirname(each.file), each);
  for (const fault of run.faults) add(run.command, faultCase(run, fault));
  return suites;
}

/** The names of cases within their suite; a second segment of one file is told from the first. */
function namesOf(cases: readonly ReportCase[]): string[] {
  const met = new Map<string, number>();
  return cases.map(({ file }) => {
    const times = (met.get(file) ?? 0) + 1;
    met.set(file, times);
    return times === 1 ? basename(file) : `${basename(file)} (${times})`;
  });
}

/** The whole document, lines without their ends. */
export function junitLines(run: ReportRun): string[] {
  const timestamp = run.startedAt.toISOString().slice(0, 19);
  const out = ['<?xml version="1.0" encoding="UTF-8"?>', '<testsuites>'];
  let id = 0;
  for (const [suite, cases] of suitesOf(run)) {
    const count = (outcome: ReportCase['outcome']): number => cases.filter((each) => each.outcome === outcome).length;
    const time = cases.reduce((total, each) => total + each.seconds, 0);
    const names = namesOf(cases);
    out.push(
      `  <testsuite id="${id++}" package="${token(suite)}" name="${token(suite)}" timestamp="${timestamp}" hostname="localhost" tests="${cases.length}" failures="${count('fail')}" errors="${count('error')}" skipped="${count('skip')}" time="${seconds(time)}">`,
      '    <properties>',
      `      <property name="command" value="${xmlText(run.command)}"/>`,
      `      <property name="version" value="${xmlText(run.version)}"/>`,
      '    </properties>',
      ...cases.flatMap((each, i) => testCase(each, names[i]!, suite)),
      `    <system-out>${lines(cases.map(({ summary }) => summary))}</system-out>`,
      '    <system-err/>',
      '  </testsuite>',
    );
  }
  return [...out, '</testsuites>'];
}
