import { describe, expect, test } from 'vitest';
import { githubLines, githubSummary, markdownText } from '../../src/report/github.ts';
import { ATTACK, difference, MIXED, reportCase, reportRun } from './run-samples.ts';

/** The runner's own rule: a line that begins with `::` after white space, or has `##[` anywhere. */
function commands(lines: readonly string[], token: string): string[] {
  const found: string[] = [];
  let off = false;
  for (const line of lines.flatMap((text) => text.split(/\r\n|\r|\n/))) {
    if (line.trim() === `::${token}::`) off = false;
    else if (!off && (/^\s*::/.test(line) || line.includes('##['))) found.push(line);
    if (line === `::stop-commands::${token}`) off = true;
  }
  return found;
}

describe('annotations', () => {
  test('one for each trace that is not as expected', () => {
    expect(commands(githubLines(MIXED, ['text'], 'tok'), 'tok').slice(1)).toEqual([
      '::error file=traces/b.rwt,title=diverged at step 12::step 12: the PTE was read as 0x7, memory holds 0x5',
      '::error file=other/c.rwt,title=E_CORRUPT::the file is damaged',
    ]);
  });

  test('text of a trace gives no command; % , and : are escaped', () => {
    const text = ['::set-output name=x::y', '##[group]z', '  ::add-mask::a'];
    const found = commands(githubLines(ATTACK, text, 'tok'), 'tok');
    expect(found.map((line) => line.slice(0, 20))).toEqual([
      '::stop-commands::tok',
      '::error title=rewalk',
      '::error file=dir/</s',
      '::error file=</scrip',
    ]);
    for (const line of found.slice(2)) {
      const [, properties = '', message = ''] = /^::error (.*?)::(.*)$/.exec(line) ?? [];
      expect(properties.replace(/^file=|,title=/g, '')).not.toMatch(/[,:]/);
      expect(message).toContain('%250A%2525');
    }
  });

  test('no more than GitHub shows', () => {
    const bad = Array.from({ length: 30 }, (_, i) =>
      reportCase({ file: `${i}.rwt`, outcome: 'fail', verdict: 'diverged', reason: 'x' }),
    );
    const lines = githubLines(reportRun(bad), [], 'tok');
    expect(lines.filter((line) => line.startsWith('::error'))).toHaveLength(10);
    expect(lines.at(-1)).toBe('::notice title=rewalk replay::20 more traces not as expected: see the job summary');
  });
});

describe('job summary', () => {
  test('a table, then differences in full', () => {
    const text = githubSummary(MIXED);
    expect(text).toContain('4 traces: 1 passed, 1 failed, 1 with errors, 1 skipped');
    expect(text).toContain('| ❌ | traces/b\\.rwt | diverged | step 12\\: the PTE was read as 0x7, memory holds 0x5 |');
    expect(text).toContain('<details><summary>traces/b.rwt, step 12</summary>');
  });

  test('a hostile trace leaves its cell and its fence as little as it becomes markup', () => {
    const text = githubSummary(ATTACK);
    const outside = text.replace(/^(`{3,})text\n[\s\S]*?\n\1$/gm, '');
    expect(outside).not.toContain('<script');
    expect(outside).not.toContain('<img');
    expect(outside).not.toMatch(/[^\\]\[a\]\(/);
    expect(outside).not.toContain('@team');
    const rows = outside.split('\n').filter((line) => line.startsWith('| ❌') || line.startsWith('| ⚠️'));
    expect(rows).toHaveLength(2);
    for (const row of rows) expect(row.match(/(?<!\\)\|/g)).toHaveLength(5);
    expect(markdownText('*a* _b_ <c> | `d`')).toBe('\\*a\\* \\_b\\_ &lt;c&gt; \\| \\`d\\`');
  });

  test('stays below what GitHub takes', () => {
    const long = Array.from({ length: 60 }, () => 'x'.repeat(5000));
    const bad = Array.from({ length: 30 }, () =>
      reportCase({ outcome: 'fail', verdict: 'diverged', reason: 'x', differences: [difference({ text: long })] }),
    );
    const text = githubSummary(reportRun(bad));
    expect(Buffer.byteLength(text)).toBeLessThan(1024 * 1024);
    expect(text).toContain('more differences than a job summary can hold');
  });
});
