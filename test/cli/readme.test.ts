/**
 * The README's examples do what it says: each block after `<!-- example -->` is run command by command, and prints what
 * stands there, where `…` stands for anything and long lines may be broken.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.ts';
import { MUTANTS } from '../../src/mmu/mutants.ts';
import { folder, rewalk } from './cli.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
const README = readFileSync(join(ROOT, 'README.md'), 'utf8');

interface Example {
  readonly command: string;
  readonly prints: string;
}

/** The commands of a block and what each prints; `# …` after a command is for the reader. */
function examplesOf(block: string): Example[] {
  return block
    .split(/^\$ /m)
    .filter((part) => part.trim() !== '')
    .map((part) => {
      const end = part.indexOf('\n');
      return { command: part.slice(0, end).replace(/ +#.*/, ''), prints: part.slice(end + 1) };
    });
}

const BLOCKS = [...README.matchAll(/^<!-- example -->\n```\w*\n([\s\S]*?)^```$/gm)].map(([, block]) => block!);

/** Files that examples write, which are the test's own. */
const WRITTEN = /(?<![\w/])(?:good|bad|small)\.(?:rwr|jsonl)/g;

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').trim();
}

async function runExample({ command, prints }: Example): Promise<void> {
  const [name, ...argv] = command.replace(WRITTEN, (file) => join(folder, file)).split(' ');
  expect(name).toBe('rewalk');
  const { stdout, stderr } = await rewalk(...argv);
  expect(stderr.replace(/^rewalk: wrote .*\n/gm, '')).toBe('');
  let rest = oneLine(stdout.replaceAll(`${folder}/`, ''));
  const pieces = oneLine(prints)
    .split('…')
    .map((piece) => piece.trim());
  // The first piece begins it, the last ends it, the others come in their order.
  const first = pieces.shift()!;
  expect(rest.slice(0, first.length)).toBe(first);
  rest = rest.slice(first.length);
  const last = pieces.pop() ?? '';
  for (const piece of pieces) {
    expect(rest).toContain(piece);
    rest = rest.slice(rest.indexOf(piece) + piece.length);
  }
  const end = prints.includes('…') ? rest.slice(Math.max(0, rest.length - last.length)) : rest;
  expect(end).toBe(last);
}

describe('examples of the README', () => {
  test('are there', () => expect(BLOCKS.length).toBeGreaterThanOrEqual(2));

  // In one go: later blocks use the files of earlier ones.
  for (const [i, block] of BLOCKS.entries()) {
    for (const example of examplesOf(block)) {
      test(`block ${i}: ${example.command}`, { timeout: 120_000 }, () => runExample(example));
    }
  }
});

test('the README names every command, and no other', () => {
  const names = COMMANDS.map(({ name }) => name);
  const table = README.slice(README.indexOf('\n## Commands'), README.indexOf('\n## Your own traces'));
  const rows = [...table.matchAll(/^\| `rewalk (\w+)/gm)].map(([, name]) => name!);
  expect([...new Set(rows)].sort()).toEqual([...names].sort());
});

test('the README counts the historical bugs', () => {
  expect(README).toContain(`\`rewalk mutants\` lists ${MUTANTS.length})`);
});

test('the README counts the traces that `npm start` replays', () => {
  const traces = readdirSync(join(ROOT, 'traces'), { recursive: true, encoding: 'utf8' });
  const count = traces.filter((name) => /\.(rwt|jsonl)$/.test(name)).length;
  expect(/^(\d+) traces, [\d,]+ steps$/m.exec(README)?.[1]).toBe(String(count));
  expect(README).toContain(`\n${count} match\n`);
});
