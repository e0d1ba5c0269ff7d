/** `rewalk explain`: how a step is named, what is printed, exit statuses. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { stepAsked } from '../../src/cli/explain-trace.ts';
import type { Explanation } from '../../src/replay/explanation.ts';
import { file, folder, rewalk } from './cli.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));
const EPT = join(TRACES, 'hand/nested-fault-ept.rwt');
const M06 = join(TRACES, 'mutants/m06-child-of-other-role.rwt');

describe('the step', () => {
  test.each([
    ['without @', EPT, 'names no step'],
    ['no number', `${EPT}@1x`, 'is no step'],
    ['beyond the end', `${EPT}@4200`, 'there is no step 4200'],
    ['no such note', `${EPT}@note:no such text`, 'no step follows a note'],
    ['nothing diverges', `${EPT}@first`, 'there is no first divergence'],
  ])('%s', async (_name, step, sentence) => {
    const { status, stdout, stderr } = await rewalk('explain', step);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(sentence);
  });

  test('a pipe cannot be read twice', () => {
    expect(() => stepAsked('-@1')).toThrow('read more than once');
  });

  test('no such segment, no such file', async () => {
    expect((await rewalk('explain', `${EPT}@1`, '--segment', '7')).stderr).toContain('there is no segment 7');
    expect((await rewalk('explain', join(folder, 'none.rwt@1'))).stderr).toContain('none.rwt');
  });

  test('by number, hexadecimal too, and by the note before it', async () => {
    const number = await rewalk('explain', `${EPT}@32`, '--json');
    expect([number.status, number.stderr]).toEqual([0, '']);
    expect(await rewalk('explain', `${EPT}@0x20`, '--json')).toEqual(number);
    const { stdout } = await rewalk('view', EPT, '--kind', 'note', '--json');
    const text = /"text": ?"([^"\\]{5,30})/.exec(stdout)?.[1];
    if (text !== undefined) {
      const noted = await rewalk('explain', `${EPT}@note:${text}`, '--json');
      expect((JSON.parse(noted.stdout) as Explanation).step.kind).not.toBe('rare');
    }
  });
});

describe('what is printed', () => {
  test('the walk as a tree, its rule, the citation', async () => {
    const { stdout } = await rewalk('explain', `${EPT}@32`);
    expect(stdout).toContain('├─ cpuWalk PML4E [0x101000, gpa 0x1000] = 0x2067');
    expect(stdout).toContain('│  ├─ tdpWalk EPT PDPTE [0x11000]');
    expect(stdout).toMatch(/STOPPED: ept-write\n.*FAIL a write needs bit 1 .*\(SDM vol\. 3C 29\.3\.3\.2, 29\.3\.5\)/);
    expect(stdout).not.toContain('not asked');
    expect((await rewalk('explain', `${EPT}@32`, '--all')).stdout).toContain('not asked');
  });

  test('a cause, both sides and where two machines part; status 1', async () => {
    const { status, stdout } = await rewalk('explain', `${M06}@first`, '--mutant', 'm06');
    expect(status).toBe(1);
    expect(stdout).toMatch(/^cause +a child table is reused: .* although its role differs/m);
    expect(stdout).toContain('recorded and replayed, side by side');
    expect(stdout).toContain('clean and m06-child-of-other-role first part at step 12');
  });

  test('a machine alone: the mutant is not there, nothing differs', async () => {
    const { status, stdout } = await rewalk('explain', `${M06}@12`);
    expect(status).toBe(0);
    expect(stdout).not.toContain('cause');
  });

  test('two wirings: nothing parts them', async () => {
    const { status, stdout } = await rewalk('explain', `${M06}@12`, '--wiring', 'walk-mmu', '--wiring', 'gva-walk');
    expect(status).toBe(0);
    expect(stdout).toContain('walk-mmu and gva-walk do the same up to this step');
  });

  test('controls out of a trace are shown, not obeyed', async () => {
    const text = readFileSync(join(TRACES, 'hand/nested-fault-ept.jsonl'), 'utf8');
    const hostile = file('hostile.jsonl', text.replace(/"title":"/, '"title":"\\u001b[31m'));
    const { stdout } = await rewalk('explain', `${hostile}@32`);
    expect(stdout).toContain('\\x1b[31m');
    expect(stdout.includes('\u001b[31m')).toBe(false);
  });

  test('a page, whole, and the text beside it', async () => {
    const page = join(folder, 'step.html');
    const { status, stdout } = await rewalk('explain', `${EPT}@32`, '--html', page);
    expect(status).toBe(0);
    expect(stdout).toContain('STOPPED: ept-write');
    expect(existsSync(page)).toBe(true);
    expect(readFileSync(page, 'utf8')).toMatch(/^<!doctype html>[\s\S]*<\/html>\s*$/i);
  });
});
