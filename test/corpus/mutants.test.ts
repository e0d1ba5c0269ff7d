/** Every historical bug that can be put into the emulated KVM is found by its trace, at the step that the README gives. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { MUTANTS } from '../../src/mmu/mutants.ts';
import { expectationsFor } from '../../src/replay/expectations.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { folder, rewalk } from '../cli/cli.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));
const HERE = join(TRACES, 'mutants');

interface Outcome {
  readonly verdict: string;
  /** Ordinal of the first step that diverged. */
  readonly step: number | undefined;
}

function replayed(trace: string, machine: MachineChoice, to?: number): Outcome {
  let session: ReplaySession | undefined;
  for (const item of openTrace(join(TRACES, trace))) {
    if (item.kind === 'header') {
      const expectations = expectationsFor(join(TRACES, trace), item.segment);
      const until = to === undefined ? {} : { to };
      session = new ReplaySession(trace, item.header, { machine, bail: true, expectations, ...until });
    } else if (item.kind === 'steps' && !session!.run(item.columns)) break;
  }
  const { verdict, divergences, guestDifferences = [] } = session!.result(undefined, 'complete');
  const steps = [...divergences, ...guestDifferences].map(({ step }) => step);
  return { verdict, step: steps.length === 0 ? undefined : Math.min(...steps) };
}

interface Case {
  readonly name: string;
  readonly mutants: readonly number[];
  /** Undefined: a recording of KVM's own, replayed as it is. */
  readonly machine: MachineChoice;
  readonly step: number;
}

const CASES: readonly Case[] = readFileSync(join(HERE, 'README.md'), 'utf8')
  .split('\n')
  .map((line) => /^\| `(m[^`]+)` \| (?:`--tdp (on|off)`)? *\| (\d+) \|/.exec(line))
  .filter((found) => found !== null)
  .map(([, name = '', tdp, step]) => ({
    name,
    mutants: [...name.matchAll(/m(\d\d)-/g)].map(([, number]) => Number(number)),
    machine: tdp === undefined ? {} : { machine: 'kvm', tdp: tdp === 'on' },
    step: Number(step),
  }));

const MACHINES: readonly MachineChoice[] = [
  { machine: 'bare' },
  { machine: 'kvm', tdp: true, tdpMmu: true },
  { machine: 'kvm', tdp: true, tdpMmu: false },
  { machine: 'kvm', tdp: false },
  { machine: 'kvm', tdp: true, profile: '7.3' },
  { machine: 'kvm', tdp: false, profile: '7.3' },
];

test('the README names every bug that needs no nested guest', () => {
  const needed = MUTANTS.filter(({ nested }) => !nested).map(({ number }) => number);
  const alone = CASES.filter(({ mutants }) => mutants.length === 1).flatMap(({ mutants }) => mutants);
  expect(needed.length).toBeGreaterThanOrEqual(20);
  expect(alone).toEqual(needed);
});

describe.each(CASES)('$name', ({ name, mutants, machine, step }) => {
  const trace = join('mutants', `${name}.rwt`);
  const ofGuest = machine.machine !== undefined;

  test('matches without the bug, on every machine that can replay it', () => {
    const outcomes = (ofGuest ? MACHINES : [{}]).map((each) => replayed(trace, each));
    expect(outcomes).toEqual(outcomes.map(() => ({ verdict: 'match', step: undefined })));
  });

  test(`with it diverges at step ${step}, and not before`, () => {
    expect(replayed(trace, { ...machine, mutants })).toEqual({ verdict: 'diverged', step });
  });

  if (mutants.length > 1) {
    test('needs all of them', () => {
      for (const mutant of mutants) expect(replayed(trace, { ...machine, mutants: [mutant] }).verdict).toBe('match');
    });
  }

  test('packed is its .rwt', async () => {
    const output = join(folder, `${name}.rwt`);
    const { status, stderr } = await rewalk('convert', join(HERE, `${name}.jsonl`), '-o', output);
    expect([status, stderr]).toEqual([0, '']);
    expect(readFileSync(output).equals(readFileSync(join(HERE, `${name}.rwt`)))).toBe(true);
  });
});

test('each has both forms', () => {
  const named = (extension: string): string[] =>
    readdirSync(HERE)
      .filter((name) => name.endsWith(extension))
      .map((name) => name.slice(0, -extension.length));
  expect(named('.rwt')).toEqual(CASES.map(({ name }) => name));
  expect(named('.jsonl')).toEqual(CASES.map(({ name }) => name));
});

/** Recordings of KVM, none of which was made with a mutant in mind. */
const RECORDED: readonly (readonly [mutant: string, trace: string, step: number])[] = [
  ['m01-inherited-permissions', 'ept0_g64', 1239],
  ['m02-ad-elsewhere', 'ept1_g64', 1785],
  ['m14-old-wp', 'ept1_pse', 3199],
  ['m15-wp-toggle-without-init', 'ept1_g64', 4279],
  ['m17-smap-not-in-role', 'ept1_pse', 8706],
  ['m20-fetch-in-rights-fault', 'ept1_pse', 1796],
  ['m22-nx-shared', 'ept0_pae', 1429],
  ['m25-key-mask-grows', 'icl_ept1_g64', 16429],
  ['m37-pdptes-keep-root', 'ept0_pae', 14904],
  ['m44-pcide-keeps-roots', 'ept0_g64', 18470],
  ['m57-accessed-before-rights', 'ept0_pse', 1493],
  ['m58-fetch-always', 'ept0_pse', 1537],
];

test.runIf(existsSync(join(TRACES, 'kvmmmu'))).each(RECORDED)(
  '%s is found by the recording %s at step %i',
  (mutant, name, step) => {
    const { number } = MUTANTS.find((each) => each.name === mutant)!;
    const trace = join('kvmmmu', `${name}.rwt`);
    expect(replayed(trace, {}, step + 1).step).toBeUndefined();
    expect(replayed(trace, { mutants: [number] })).toEqual({ verdict: 'diverged', step });
  },
);
