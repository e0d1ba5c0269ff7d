/** What `npm start` replays, but for the largest files; and that the folders of `traces/` say what is in them. */

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { rewalk } from '../cli/cli.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));
const FOLDERS = readdirSync(TRACES, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);
const FILES = FOLDERS.flatMap((folder) =>
  readdirSync(join(TRACES, folder))
    .filter((name) => name.endsWith('.rwt'))
    .map((name) => join(TRACES, folder, name)),
);

/** `npm start`, in CI, replays these as well. */
const LEFT_OUT = FILES.toSorted((a, b) => statSync(b).size - statSync(a).size).slice(0, 3);

interface Receipt {
  readonly file: string;
  readonly ending: string;
  readonly observationsPredicted: number;
  readonly undetermined: number;
}

describe('the corpus', () => {
  let status = -1;
  let stderr = '';
  let results: { verdict: string; receipt: Receipt }[] = [];
  beforeAll(async () => {
    const run = await rewalk('replay', '--json', ...FILES.filter((file) => !LEFT_OUT.includes(file)));
    ({ status, stderr } = run);
    ({ results } = JSON.parse(run.stdout) as { results: typeof results });
  });

  test('every trace matches, none of it undetermined', () => {
    expect([status, stderr]).toEqual([0, '']);
    expect(results.filter(({ verdict }) => verdict !== 'match').map(({ receipt }) => receipt.file)).toEqual([]);
    expect(results.filter(({ receipt }) => receipt.ending !== 'complete' || receipt.undetermined > 0)).toEqual([]);
    expect(results.length).toBe(FILES.length - LEFT_OUT.length);
  });

  test('a million observations and more are predicted and equal, some of every trace', () => {
    expect(results.reduce((sum, { receipt }) => sum + receipt.observationsPredicted, 0)).toBeGreaterThan(1_000_000);
    expect(Math.min(...results.map(({ receipt }) => receipt.observationsPredicted))).toBeGreaterThan(0);
  });
});

test('every trace is sound', async () => {
  const { status, stdout, stderr } = await rewalk('check', '--json', ...FILES);
  const reports = JSON.parse(stdout) as { trace: string; sound: boolean }[];
  expect(reports.filter(({ sound }) => !sound).map(({ trace }) => trace)).toEqual([]);
  expect([status, stderr, reports.length]).toEqual([0, '', FILES.length]);
});

/** The names in a table of a README, where `*` stands for anything. */
function namesIn(readme: string): RegExp[] {
  return [...readme.matchAll(/`([^`\s]+)`/g)].map(
    ([, name = '']) => new RegExp(`^${name.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$`),
  );
}

describe.each(FOLDERS)('traces/%s', (folder) => {
  const here = readdirSync(join(TRACES, folder));
  const traces = here.filter((name) => name.endsWith('.rwt'));
  const readme = readFileSync(join(TRACES, folder, 'README.md'), 'utf8');

  test('has traces, and nothing that is neither trace nor about them', () => {
    expect(traces.length).toBeGreaterThan(0);
    expect(here.filter((name) => !/\.(rwt|jsonl)$|^README\.md$|^expectations\.json$/.test(name))).toEqual([]);
  });

  test('its README names every trace', () => {
    const names = namesIn(readme);
    const unnamed = traces.filter((trace) => !names.some((name) => name.test(trace.replace(/\.rwt$/, ''))));
    expect(unnamed).toEqual([]);
  });

  test('its README names no trace that is not there', () => {
    const table = readme.split('\n').filter((line) => line.startsWith('| `'));
    const names = table.flatMap((line) => namesIn(line.split('|')[1]!));
    const stray = names.filter((name) => !traces.some((trace) => name.test(trace.replace(/\.rwt$/, ''))));
    expect([names.length > 0, stray]).toEqual([true, []]);
  });

  test('its README says how they are made again', () => {
    expect(readme).toMatch(/rewalk (import|convert) /);
  });
});

test.each(
  FOLDERS.filter((folder) => existsSync(join(TRACES, folder, 'expectations.json'))),
)('the expectations of traces/%s are about traces that are there, and say why', (folder) => {
  const content = readFileSync(join(TRACES, folder, 'expectations.json'), 'utf8');
  const file = JSON.parse(content) as Record<string, { reason: string; fault: string }[]>;
  expect(Object.keys(file).filter((name) => !existsSync(join(TRACES, folder, name)))).toEqual([]);
  const entries = Object.values(file).flat();
  expect(entries.length).toBeGreaterThan(0);
  expect(entries.filter(({ fault, reason }) => !/^[a-z0-9-]+$/.test(fault) || reason.length < 40)).toEqual([]);
});

test('the README of the corpus names every folder, and only those', () => {
  const table = readFileSync(join(TRACES, 'README.md'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| `'));
  const named = table.flatMap((line) => [...line.split('|')[1]!.matchAll(/`([^`]+)\/`/g)].map(([, name]) => name));
  expect(named.toSorted()).toEqual(FOLDERS.toSorted());
});
