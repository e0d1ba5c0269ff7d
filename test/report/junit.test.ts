import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { validateXML } from 'xmllint-wasm';
import { junitLines, xmlText } from '../../src/report/junit.ts';
import type { ReportRun } from '../../src/report/run.ts';
import { ATTACK, MIXED, reportCase, reportRun } from './run-samples.ts';

const SCHEMA = readFileSync(new URL('../fixtures/junit.xsd', import.meta.url), 'utf8');

async function errorsOf(xml: string): Promise<readonly string[]> {
  const { errors } = await validateXML({
    xml: { fileName: 'report.xml', contents: xml },
    schema: { fileName: 'junit.xsd', contents: SCHEMA },
  });
  return errors.map(({ rawMessage }) => rawMessage);
}

const xmlOf = (run: ReportRun): string => `${junitLines(run).join('\n')}\n`;

describe('JUnit', () => {
  test.each([
    ['one of each outcome', MIXED],
    ['a hostile trace', ATTACK],
    ['no case', reportRun([])],
    ['a fault of the run alone', reportRun([], { faults: ['nothing compared'], exitStatus: 1 })],
  ])('holds by its schema: %s', async (_, run) => {
    expect(await errorsOf(xmlOf(run))).toEqual([]);
  });

  test('the schema is not empty: it refuses what is wrong', async () => {
    const xml = xmlOf(MIXED);
    expect(await errorsOf(xml.replace(' hostname="localhost"', ''))).not.toEqual([]);
    expect(await errorsOf(xml.replace('<system-err/>', ''))).not.toEqual([]);
    expect(await errorsOf(xml.replace('time="1.250"', 'time="fast"'))).not.toEqual([]);
    expect(await errorsOf(xml.replace('</testsuites>', '\u0001</testsuites>'))).not.toEqual([]);
  });

  test('a suite for each folder, with its counts', () => {
    const xml = xmlOf(MIXED);
    expect(xml).toContain('package="traces" name="traces" timestamp="2026-01-02T03:04:05"');
    expect(xml).toContain('tests="2" failures="1" errors="0" skipped="0" time="2.500"');
    expect(xml).toContain('tests="2" failures="0" errors="1" skipped="1" time="2.500"');
    expect(xml).toContain('<error type="E_CORRUPT" message="the file is damaged">');
    expect(xml).toContain('<skipped message="cannot differ"/>');
    expect(xml).toContain('<failure type="diverged" message="step 12: the PTE was read as 0x7, memory holds 0x5">');
  });

  test('a second segment of a file has a name of its own', () => {
    const xml = xmlOf(reportRun([reportCase(), reportCase()]));
    expect(xml).toContain('name="a.rwt" time');
    expect(xml).toContain('name="a.rwt (2)" time');
  });

  test('what is no character of XML is shown, not written', () => {
    expect(xmlText('\u0000\u001b\ufffe\uffff\ud800<&"\'>')).toBe(
      '\\x00\\x1b\\u{fffe}\\u{ffff}\\u{d800}&lt;&amp;&quot;&apos;&gt;',
    );
    expect(xmlText('\u{1f600} é')).toBe('\u{1f600} é');
  });
});
