import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { html, linesAttribute } from '../../../src/report/html/markup.ts';
import { htmlReport } from '../../../src/report/html/page.ts';
import { ATTACK, difference, HOSTILE, MIXED, reportCase, reportRun } from '../run-samples.ts';

describe('markup', () => {
  test('what is put in is escaped, unless it is markup', () => {
    expect(html`<b title="${'"<\''}">${'<i>&'}${html`<u>${1}</u>`}${[html`a`, html`b`]}${undefined}</b>`.text).toBe(
      '<b title="&quot;&lt;&#39;">&lt;i&gt;&amp;<u>1</u>ab</b>',
    );
    expect(linesAttribute(['a\nb', '"']).text).toBe('a\\nb&#10;&quot;');
  });
});

describe('the page', () => {
  test('holds its own policy, and fetches nothing', () => {
    const page = htmlReport(MIXED);
    const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
    const style = /<style>([\s\S]*?)<\/style>/.exec(page)?.[1] ?? '';
    const script = /<script>([\s\S]*?)<\/script>/.exec(page)?.[1] ?? '';
    expect(page).toContain(`style-src ${hash(style)}; script-src ${hash(script)};`);
    expect(page).not.toMatch(/https?:|src=|@import|url\(|\sstyle=|\son[a-z]+=/);
    expect(page.match(/<script/g)).toHaveLength(1);
  });

  test('a hostile trace adds no tag and no attribute', () => {
    const tags = (text: string): string[] => text.match(/<[a-z/!][^>]*>/gi) ?? [];
    const names = (text: string): string[] => tags(text).map((tag) => /^<[^\s>]*/.exec(tag)?.[0] ?? '');
    const page = htmlReport(ATTACK);
    expect(page).not.toContain('<img');
    // The same run with harmless texts has the same tags.
    const tame = JSON.parse(
      JSON.stringify(ATTACK, (_, value: unknown) =>
        typeof value === 'string' ? value.replaceAll(HOSTILE, 'tame') : value,
      ),
    ) as typeof ATTACK;
    expect(names(page)).toEqual(names(htmlReport({ ...tame, startedAt: ATTACK.startedAt })));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    expect(page).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u202e]/);
  });

  test('says what was found', () => {
    const page = htmlReport(MIXED);
    expect(page).toContain('<a href="#case-1">traces/b.rwt</a>');
    expect(page).toContain('Step 12: diverged');
    expect(page).toContain('2 differences more not shown in full');
    expect(page).toContain('data-tip="PTE 0x7&#10;1  w  0x1  writable">0x7</button>');
    expect(page).toContain('exit status 3');
  });

  test('a run that compared nothing says so', () => {
    const page = htmlReport(reportRun([], { faults: ['nothing compared'], exitStatus: 1 }));
    expect(page).toContain('not as expected');
    expect(page).toContain('<p class="cause">nothing compared</p>');
  });

  test('a word is made a button where it stands as a whole', () => {
    const line = { text: 'PTE [0x1000] = 0x100', words: [{ text: '0x100', lines: ['x'] }] };
    const places = [{ state: 'equal' as const, a: [line], b: [] }];
    const page = htmlReport(reportRun([reportCase({ outcome: 'fail', differences: [difference({ places })] })]));
    expect(page).toContain('PTE [0x1000] = <button type="button" class="word" data-tip="x">0x100</button>');
  });
});
