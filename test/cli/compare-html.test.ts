/** The page that `rewalk compare A B --report html=` makes of two traces: both sides' walks as pictures. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import puppeteer from 'puppeteer-core';
import { describe, expect, test } from 'vitest';
import { chromiumPath, NO_CHROMIUM } from '../report/html/browser.ts';
import { CASE, file, folder, rewalk } from './cli.ts';

const path = chromiumPath();
if (path === undefined) console.warn(NO_CHROMIUM);

const GRID = /<svg class="walk[^"]*"[^>]*role="group"/g;

/** The guest's walk stops at the PDE, where it went through. */
const STOPPED = CASE.replace(/\{"element":"0x3000","level":2,"value":"0x4027"\}.*"translated"[^}]*\}/, (rows) =>
  rows.replace(/,"value":"0x4027"[\s\S]*/, ',"value":"0x0"},{"exception":"#PF","error":"0x6","cr2":"0x1040"}'),
);

let pages = 0;

async function pageOf(a: string, b: string): Promise<{ html: string; path: string }> {
  const page = join(folder, `page${pages++}.html`);
  const traces = [file(`a${pages}.jsonl`, a), file(`b${pages}.jsonl`, b)];
  const { status, stderr } = await rewalk('compare', ...traces, '--report', `html=${page}`);
  expect([status, stderr]).toEqual([1, '']);
  return { html: readFileSync(page, 'utf8'), path: page };
}

describe('two traces', () => {
  test('with a walk that ended otherwise: a grid for each side, once, with what differs', async () => {
    const { html } = await pageOf(CASE, STOPPED);
    expect(html.match(GRID)).toHaveLength(2);
    expect(html).toContain('4 reads: translated to 0x5040');
    expect(html).toMatch(/3 reads: #PF/);
    expect(html).toMatch(/class="cell stopped differs"/);
    // The mode of the step, which its chunk begins with, too.
    expect(html).toContain('<span class="mode">4-level</span>');
    expect(html).not.toContain('--max-diffs shows more');
  });

  test('of which one has a step more: its walk, and that the other has none', async () => {
    const lines = CASE.split('\n');
    const walk = lines.findIndex((line) => line.includes('{"element"'));
    const { html } = await pageOf(CASE, lines.toSpliced(walk, 1).join('\n'));
    expect(html.match(GRID)).toHaveLength(1);
    expect(html).toContain('No walk of the side B is to be seen.');
  });

  test('whose difference has no walk: no picture, and nothing said of one', async () => {
    const { html } = await pageOf(CASE, CASE.replace('{"invlpg":"0x1000"}', '{"invlpg":"0x3000"}'));
    expect(html.match(GRID)).toBeNull();
    expect(html).not.toContain('No walk');
    expect(html).not.toContain('class="legend"');
  });
});

describe.skipIf(path === undefined)('in Chromium, from disk', () => {
  test('nothing is fetched or said, nothing sticks out, cells explain themselves', async () => {
    const { path: page } = await pageOf(CASE, STOPPED);
    const browser = await puppeteer.launch({ executablePath: path!, headless: true, args: ['--no-sandbox'] });
    try {
      for (const width of [1200, 400]) {
        const tab = await browser.newPage();
        const noise: string[] = [];
        tab.on('console', (message) => noise.push(message.text()));
        tab.on('pageerror', (error) => noise.push(String(error)));
        tab.on('request', (request) => {
          if (request.url() !== pathToFileURL(page).href) noise.push(request.url());
        });
        await tab.setOfflineMode(true);
        await tab.setViewport({ width, height: 800 });
        await tab.goto(pathToFileURL(page).href);
        expect(noise).toEqual([]);
        const beyond = 'document.documentElement.scrollWidth - document.documentElement.clientWidth';
        expect(await tab.evaluate(beyond)).toBe(0);
        await tab.hover('.cell.stopped[data-tip]');
        expect(await tab.$eval('#tip', (tip) => tip.textContent)).toMatch(/^PDE, cpuWalk[\s\S]*stopped: #PF/);
        await tab.close();
      }
    } finally {
      await browser.close();
    }
  }, 60_000);
});
