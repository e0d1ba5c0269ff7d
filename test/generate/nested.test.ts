/** Nested programs: valid ones, that get somewhere, in which every kind of fault and exit, and every kind of step occurs. */

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { OBS_EXCEPTION_EXITS, OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { GuestMode, Reg } from '../../src/formats/registers.ts';
import {
  ACCESS_SOFTWARE,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  Invalidation,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../../src/formats/step.ts';
import { generateProgram } from '../../src/generate/generate.ts';
import { PAGINGS, type Program } from '../../src/generate/program.ts';
import { withoutIdleSets } from '../../src/generate/trim.ts';
import { isValid } from '../../src/generate/valid.ts';
import { programColumns } from '../../src/generate/write-programs.ts';
import { folder, rewalk } from '../cli/cli.ts';

const NESTED = ['npt', 'ept', 'none'] as const;
const NUMBERS = 15;

/** What the programs are made of, counted. */
class Census {
  accesses = 0;
  translated = 0;
  pageFaults = 0;
  interceptedFaults = 0;
  emulated = 0;
  entries = 0;
  exits = 0;
  vcpus = 0;
  readonly outcomes = new Map<number, number>();
  readonly invalidations = new Set<number>();
  readonly controls = new Set<number>();

  count(program: Program): void {
    const columns = programColumns(program);
    let row = 0;
    const modes = [0, 0];
    let vcpu = 0;
    for (let step = 0; step < columns.stepCount; step++) {
      const op = columns.op[step]!;
      const kind = op & STEP_KIND_MASK;
      const operand = columns.operand[2 * step]!;
      const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
      if (kind === StepKind.VCPU) {
        vcpu = operand;
        this.vcpus++;
      }
      if (kind === StepKind.REGISTER_SET && register === Reg.GUEST_MODE) modes[vcpu] = operand;
      if (kind === StepKind.NESTED_ENTRY) {
        this.entries++;
        this.controls.add((op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK);
      }
      if (kind === StepKind.NESTED_EXIT) this.exits++;
      if (kind === StepKind.INVALIDATE) this.invalidations.add((op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK);
      const inL2 = modes[vcpu] !== GuestMode.NONE;
      if (kind === StepKind.ACCESS && inL2) {
        this.accesses++;
        if ((op & ACCESS_SOFTWARE) !== 0) this.emulated++;
      }
      for (const end = columns.observationEnd[step]!; row < end; row++) {
        if (kind === StepKind.ACCESS && inL2) this.outcome(columns.observationOp[row]!);
      }
    }
  }

  private outcome(op: number): void {
    const kind = op & OBS_KIND_MASK;
    this.outcomes.set(kind, (this.outcomes.get(kind) ?? 0) + 1);
    if (kind === Obs.TRANSLATED) this.translated++;
    if (kind === Obs.EXCEPTION && (op & OBS_EXCEPTION_EXITS) === 0) this.pageFaults++;
    if (kind === Obs.EXCEPTION && (op & OBS_EXCEPTION_EXITS) !== 0) this.interceptedFaults++;
  }
}

function programsOf(nested: (typeof NESTED)[number], vcpus: 1 | 2 = 1): Program[] {
  return Array.from({ length: NUMBERS }, (_, index) =>
    PAGINGS.map((paging) => generateProgram({ seed: 3, index, paging, nested, vcpus })),
  ).flat();
}

describe.each(NESTED)('%s', (nested) => {
  const programs = programsOf(nested);
  const census = new Census();
  for (const program of programs) census.count(program);

  test('the same seed and number give the same program', () => {
    const [first] = programs;
    expect(generateProgram({ seed: 3, index: 0, paging: PAGINGS[0], nested })).toEqual(first);
  });

  test('a processor goes through every step, also without the registers that are set to what they are', () => {
    expect(programs.filter((program) => !isValid(program))).toEqual([]);
    expect(programs.filter((program) => !isValid(withoutIdleSets(program)))).toEqual([]);
  });

  test('L2 gets somewhere, and stays on the way', () => {
    const { accesses, translated, pageFaults, interceptedFaults, emulated, entries, exits } = census;
    expect(accesses).toBeGreaterThan(25 * programs.length);
    expect(translated / accesses).toBeGreaterThan(0.2);
    expect(pageFaults / accesses).toBeGreaterThan(0.1);
    expect(Math.min(interceptedFaults, emulated)).toBeGreaterThan(50);
    expect(Math.min(entries, exits)).toBeGreaterThan(5 * programs.length);
  });

  test('every kind of exit and of invalidation occurs', () => {
    const { outcomes, invalidations, controls } = census;
    const { NPF, EPT_VIOLATION, EPT_MISCONFIG, PML_FULL } = Obs;
    const exits = [NPF, EPT_VIOLATION, EPT_MISCONFIG, PML_FULL].filter((kind) => (outcomes.get(kind) ?? 0) > 0);
    const { INVLPG, INVEPT, INVVPID, INVLPGA, EPTP_SWITCH } = Invalidation;
    if (nested === 'npt') {
      expect(exits).toEqual([NPF]);
      expect(outcomes.get(NPF)! / census.accesses).toBeGreaterThan(0.1);
      expect([...invalidations]).toEqual(expect.arrayContaining([INVLPG, INVLPGA]));
      expect([...controls].sort()).toEqual([0, 1, 3, 7]);
    } else if (nested === 'ept') {
      expect(exits).toEqual([EPT_VIOLATION, EPT_MISCONFIG, PML_FULL]);
      expect(outcomes.get(EPT_VIOLATION)! / census.accesses).toBeGreaterThan(0.1);
      expect([...invalidations]).toEqual(expect.arrayContaining([INVLPG, INVEPT, INVVPID, EPTP_SWITCH]));
    } else {
      expect(exits).toEqual([]);
      expect([...invalidations]).toEqual(expect.arrayContaining([INVLPG, INVVPID, INVLPGA]));
    }
  });

  test('two vCPUs take turns', () => {
    const both = new Census();
    const shared = programsOf(nested, 2);
    for (const program of shared) both.count(program);
    expect(shared.filter((program) => !isValid(program))).toEqual([]);
    expect(both.vcpus).toBeGreaterThan(10 * shared.length);
    expect(both.translated / both.accesses).toBeGreaterThan(0.2);
  });

  test('the trace is sound and matches on a bare machine', async () => {
    const path = join(folder, `nested-${nested}.rwt`);
    const made = await rewalk(
      ...['generate', '--seed', '3', '--programs', '5', '--nested', nested, '--vcpus', '2', '-o', path, '--json'],
    );
    expect([made.status, made.stderr]).toEqual([0, expect.anything()]);
    expect(JSON.parse(made.stdout)).toMatchObject({ programs: 5, segments: 5, nested });
    expect((await rewalk('check', path)).status).toBe(0);
    const replay = await rewalk('replay', '--json', '--machine', 'bare', path);
    const { results } = JSON.parse(replay.stdout) as { results: { verdict: string }[] };
    expect([replay.status, results.map(({ verdict }) => verdict)]).toEqual([0, new Array(5).fill('match')]);
  });
});

test('--vendor goes with --nested none', async () => {
  const path = join(folder, 'vendor.jsonl');
  const { status, stderr } = await rewalk('generate', '--nested', 'npt', '--vendor', 'intel', '-o', path);
  expect(status).toBe(2);
  expect(stderr).toContain('--vendor goes with --nested none only');
  expect((await rewalk('generate', '--nested', 'none', '--vendor', 'intel', '-o', path)).status).toBe(0);
});
