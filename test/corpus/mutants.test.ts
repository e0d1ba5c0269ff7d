/** Every historical bug that can be put into the emulated KVM is found by its trace, at the step that the README gives. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { MUTANTS } from '../../src/mmu/mutants.ts';
import type { WiringName } from '../../src/mmu/wiring.ts';
import { expectationsFor } from '../../src/replay/expectations.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { folder, rewalk } from '../cli/cli.ts';
import { MUTANT_CASES as CASES, HERE } from './mutant-cases.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));

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

const MACHINES: readonly MachineChoice[] = [
  { machine: 'bare' },
  { machine: 'kvm', tdp: true, tdpMmu: true },
  { machine: 'kvm', tdp: true, tdpMmu: false },
  { machine: 'kvm', tdp: false },
  { machine: 'kvm', tdp: true, profile: '7.3' },
  { machine: 'kvm', tdp: false, profile: '7.3' },
  { machine: 'kvm', tdp: true, wiring: 'gva-walk' },
  { machine: 'kvm', tdp: true, profile: '7.3', wiring: 'walk-mmu' },
];

test('the README has every bug', () => {
  const alone = CASES.filter(({ mutants }) => mutants.length === 1).flatMap(({ mutants }) => mutants);
  expect(MUTANTS.length).toBeGreaterThanOrEqual(50);
  expect(alone.sort((a, b) => a - b)).toEqual(MUTANTS.map(({ number }) => number));
});

describe.each(CASES)('$name', ({ name, mutants, machine, step }) => {
  const trace = join('mutants', `${name}.rwt`);
  const ofGuest = machine.machine !== undefined;

  test('matches without the bug, on every machine that can replay it', () => {
    const machines = ofGuest ? [machine, ...MACHINES] : [{}];
    const outcomes = machines.map((each) => replayed(trace, each));
    expect(outcomes[0]).toEqual({ verdict: 'match', step: undefined });
    const nested = MUTANTS.some((mutant) => mutant.nested && mutants.includes(mutant.number));
    machines.forEach(({ tdp }, i) => {
      // With shadow paging KVM offers no nested paging.
      const cannot = nested && tdp === false && outcomes[i]!.verdict === 'not-modelled';
      expect(outcomes[i]).toEqual({ verdict: cannot ? 'not-modelled' : 'match', step: undefined });
    });
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

interface Recorded {
  readonly mutant: string;
  /** Of the recording. */
  readonly name: string;
  readonly step: number;
  readonly wiring?: WiringName;
}

/** Recordings of KVM, none of which was made with a mutant in mind. */
const RECORDED: readonly Recorded[] = [
  { mutant: 'm01-inherited-permissions', name: 'ept0_g64', step: 1239 },
  { mutant: 'm02-ad-elsewhere', name: 'ept1_g64', step: 1785 },
  { mutant: 'm14-old-wp', name: 'ept1_pse', step: 3199 },
  { mutant: 'm15-wp-toggle-without-init', name: 'ept1_g64', step: 4279 },
  { mutant: 'm16-l2-old-wp', name: 'nest_ept', step: 51805 },
  { mutant: 'm17-smap-not-in-role', name: 'ept1_pse', step: 8706 },
  { mutant: 'm20-fetch-in-rights-fault', name: 'ept1_pse', step: 1796 },
  { mutant: 'm22-nx-shared', name: 'ept0_pae', step: 1429 },
  { mutant: 'm23-ept-read-implied', name: 'nest_ept', step: 7539 },
  { mutant: 'm24-qualification-acc-order', name: 'nest_ept', step: 2833 },
  { mutant: 'm25-key-mask-grows', name: 'icl_ept1_g64', step: 16429 },
  { mutant: 'm27-l2-tables-only-read', name: 'nest_ept', step: 2373 },
  { mutant: 'm27-l2-tables-only-read', name: 'c_nest_np1', step: 1796 },
  { mutant: 'm30-invvpid-frees-l1-roots', name: 'nest_ept0', step: 4876 },
  { mutant: 'm34-npt-root-level-of-l1', name: 'c_nest_np1', step: 1696 },
  { mutant: 'm35-no-passthrough', name: 'c_nest_np1', step: 1696 },
  { mutant: 'm37-pdptes-keep-root', name: 'ept0_pae', step: 14904 },
  { mutant: 'm38-guest-mode-not-in-role', name: 'nest_noept12', step: 1835 },
  { mutant: 'm44-pcide-keeps-roots', name: 'ept0_g64', step: 18470 },
  { mutant: 'm57-accessed-before-rights', name: 'ept0_pse', step: 1493 },
  { mutant: 'm58-fetch-always', name: 'ept0_pse', step: 1537 },
  { mutant: 'm60-translates-in-guest-mode', name: 'nest_noept12', step: 1809, wiring: 'gva-walk' },
];

const AT_HAND = RECORDED.filter(({ name }) => existsSync(join(TRACES, 'kvmmmu', `${name}.rwt`)));

test.each(AT_HAND)('$mutant is found by the recording $name at step $step', ({ mutant, name, step, wiring }) => {
  const { number } = MUTANTS.find((each) => each.name === mutant)!;
  const trace = join('kvmmmu', `${name}.rwt`);
  expect(replayed(trace, { wiring }, step + 1).step).toBeUndefined();
  expect(replayed(trace, { wiring, mutants: [number] })).toEqual({ verdict: 'diverged', step });
});
