import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import puppeteer, { type Browser, type Page } from 'puppeteer-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Dim, elementRow, OBS_VECTOR_SHIFT, Obs } from '../../../src/formats/observation.ts';
import type { Row } from '../../../src/replay/result.ts';
import { htmlReport } from '../../../src/report/html/page.ts';
import type { ReportRun } from '../../../src/report/run.ts';
import { walksOfRows } from '../../../src/report/walk-of-rows.ts';
import { ATTACK, difference, MIXED, reportCase, reportRun } from '../run-samples.ts';
import { chromiumPath, NO_CHROMIUM } from './browser.ts';

const path = chromiumPath();
if (path === undefined) console.warn(NO_CHROMIUM);

const folder = mkdtempSync(join(tmpdir(), 'rewalk-html-'));
let browser: Browser | undefined;

beforeAll(async () => {
  if (path === undefined) return;
  // Chromium's own sandbox cannot be had as root, which containers run as; the page has no network at all.
  browser = await puppeteer.launch({ executablePath: path, headless: true, args: ['--no-sandbox'] });
});
afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Opened {
  readonly page: Page;
  /** Messages on the console, uncaught errors, dialogs, and requests for anything but the file. */
  readonly noise: string[];
}

async function open(run: ReportRun, width = 1200): Promise<Opened> {
  const file = join(folder, 'report.html');
  writeFileSync(file, htmlReport(run));
  const page = await browser!.newPage();
  const noise: string[] = [];
  page.on('console', (message) => noise.push(`console: ${message.text()}`));
  page.on('pageerror', (error) => noise.push(`error: ${String(error)}`));
  page.on('dialog', (dialog) => {
    noise.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on('request', (request) => {
    if (request.url() !== pathToFileURL(file).href) noise.push(`request: ${request.url()}`);
  });
  await page.setOfflineMode(true);
  await page.setViewport({ width, height: 800, isMobile: width < 500, hasTouch: width < 500 });
  await page.goto(pathToFileURL(file).href);
  return { page, noise };
}

const row = (op: number, addressLo = 0, valueLo = 0): Row => ({ op, addressLo, addressHi: 0, valueLo, valueHi: 0 });
const WALK_ROWS = [
  ...[4, 3].flatMap((level) => [
    ...[4, 3, 2, 1].map((ept) => row(elementRow(Dim.EPT, ept, false), 0x100 * level + 8 * ept, 0x7)),
    row(elementRow(Dim.GUEST, level, false), 0x1000 * level, 0x2067),
  ]),
  row(Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT), 0x5000, 4),
];
const WITH_WALK = reportRun(
  [
    reportCase({
      file: 'traces/walk.rwt',
      outcome: 'fail',
      verdict: 'diverged',
      reason: 'step 12: it stopped',
      differing: 1,
      differences: [
        difference({
          walks: walksOfRows(WALK_ROWS, {
            row: { paging: '4-level' },
            address: 'read 0x5000',
            access: '',
            mode: '4-level under EPT',
            title: 'replayed',
          }).map((walk) => ({ label: 'replayed', walk })),
        }),
      ],
      timeline: {
        steps: 100,
        width: 1,
        faults: Array(100).fill(1),
        walks: Array(100).fill(2),
        flushes: Array(100).fill(0),
      },
    }),
    reportCase({ file: 'traces/good.rwt' }),
  ],
  { exitStatus: 1 },
);

const tipOf = (page: Page): Promise<string | null> =>
  page.$eval('#tip', (tip) => ((tip as unknown as { hidden: boolean }).hidden ? null : tip.textContent));

describe.skipIf(path === undefined)('in Chromium, from disk', () => {
  test.each([
    ['one of each outcome', MIXED],
    ['a walk and a timeline', WITH_WALK],
    ['a hostile trace', ATTACK],
    ['nothing at all', reportRun([])],
  ])('no request, no message, nothing run that is not ours: %s', async (_, run) => {
    const { page, noise } = await open(run);
    expect(noise).toEqual([]);
    expect(await page.title()).toMatch(/^rewalk replay: /);
    await page.close();
  });

  test.each([1200, 400])('nothing sticks out sideways at %i pixels', async (width) => {
    for (const run of [WITH_WALK, ATTACK]) {
      const { page } = await open(run, width);
      await page.click('#open');
      const beyond = await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth');
      expect(beyond).toBe(0);
      await page.close();
    }
  });

  test('search and filter show what fits', async () => {
    const { page } = await open(MIXED);
    const shown = (): Promise<unknown> =>
      page.evaluate("[...document.querySelectorAll('.case:not([hidden]) .file')].map((each) => each.textContent)");
    expect(await shown()).toHaveLength(4);
    await page.keyboard.press('/');
    await page.keyboard.type('B.RWT memory');
    expect(await shown()).toEqual(['traces/b.rwt']);
    await page.$eval('#search', (input) => {
      (input as unknown as { value: string }).value = '';
    });
    await page.click('button[data-outcome=error]');
    expect(await shown()).toEqual(['other/c.rwt']);
    expect(await page.$eval('#count', (count) => count.textContent)).toBe('1 of 4 shown');
    await page.click('button[data-outcome=all]');
    expect(await shown()).toHaveLength(4);
    await page.close();
  });

  test('a link to a case opens it', async () => {
    const { page } = await open(
      reportRun(
        Array.from({ length: 9 }, () => MIXED.cases[1]!),
        { exitStatus: 1 },
      ),
    );
    expect(await page.$('#case-8[open]')).toBeNull();
    await page.click('a[href="#case-8"]');
    await page.waitForSelector('#case-8[open]');
    await page.close();
  });

  test('words and cells explain themselves on hover, on focus and on touch', async () => {
    const { page } = await open(WITH_WALK);
    expect(await tipOf(page)).toBeNull();
    await page.hover('.place .word');
    expect(await tipOf(page)).toBe('PTE 0x7\n1  w  0x1  writable');
    await page.hover('h1');
    expect(await tipOf(page)).toBeNull();
    const cells = await page.$$('.cell[data-tip]');
    expect(cells).toHaveLength(25);
    await page.evaluate("document.querySelector('.cell.stopped[data-tip]').focus()");
    expect(await tipOf(page)).toMatch(
      /^PDPTE, cpuWalk\nat {5}0x3000\nvalue {2}0x2067\n[\s\S]*present[\s\S]*stopped: #PF/,
    );
    await page.keyboard.press('Escape');
    expect(await tipOf(page)).toBeNull();
    await page.close();

    const { page: small } = await open(WITH_WALK, 400);
    await small.tap('.cell.passed[data-tip]');
    expect(await tipOf(small)).toMatch(/^EPT PML4E, tdpWalk/);
    await small.tap('h1');
    expect(await tipOf(small)).toBeNull();
    await small.close();
  });

  test('the timeline tells of its bars to the pointer and to the keyboard', async () => {
    const { page } = await open(WITH_WALK);
    await page.focus('.timeline');
    expect(await tipOf(page)).toBe('step 0: 1 fault, 2 walks, 0 flushes');
    await page.keyboard.press('ArrowRight');
    expect(await tipOf(page)).toMatch(/^step 1:/);
    await page.keyboard.press('End');
    expect(await tipOf(page)).toMatch(/^step 99:/);
    await page.hover('.timeline svg');
    expect(await tipOf(page)).toMatch(/^step (49|50):/);
    await page.close();
  });

  test('text can be read in light and in dark', async () => {
    const { page } = await open(MIXED);
    for (const [value, back] of [
      ['light', 'rgb(255, 255, 255)'],
      ['dark', 'rgb(17, 20, 24)'],
    ] as const) {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value }]);
      expect(await page.evaluate('getComputedStyle(document.body).backgroundColor')).toBe(back);
    }
    await page.close();
  });
});
