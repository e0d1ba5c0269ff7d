/** Minimises in tests, and asks what the result is worth. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import { type Minimised, minimise } from '../../src/compare/minimise.ts';
import type { Wanted } from '../../src/compare/minimise-locate.ts';
import { type GivenMachines, sidesOf } from '../../src/compare/sides.ts';
import { MUTANTS } from '../../src/mmu/mutants.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { checkTrace } from '../../src/trace/check/trace.ts';
import { openTrace, TraceOutput } from '../../src/trace/text/either-form.ts';

export const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));

export const folder = mkdtempSync(join(tmpdir(), 'rewalk-minimise-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const NONE: GivenMachines = { machine: [], profile: [], wiring: [], tdp: [], tdpMmu: [], mutant: [] };
export const REPLAY: Wanted = { sides: undefined, machine: {}, scope: undefined, step: undefined };

/** A clean machine against one with the mutant. */
export function mutantAgainstClean(name: string, common: Partial<GivenMachines> = {}): Wanted {
  const { number } = MUTANTS.find((each) => each.name === name)!;
  return mutantsAgainstClean([number], common);
}

/** The same with several mutants on one machine, by number. */
export function mutantsAgainstClean(numbers: readonly number[], common: Partial<GivenMachines>): Wanted {
  return { ...REPLAY, sides: sidesOf({ ...NONE, ...common, mutant: [numbers] }) };
}

/** To the end, whatever it takes, or after so many trials. */
export function minimised(path: string, wanted: Wanted, maximum = Number.POSITIVE_INFINITY): Minimised {
  let questions = 0;
  const work = minimise(path, { ...wanted, isOver: () => questions++ >= maximum });
  for (;;) {
    const next = work.next();
    if (next.done === true) return next.value;
  }
}

/** Writes it in both forms and checks these. Returns the path of the packed one. */
export function written({ header, columns }: Minimised, name: string): string {
  for (const extension of ['.jsonl', '.rwt']) {
    const path = join(folder, name + extension);
    const output = new TraceOutput(path);
    output.header(header);
    output.steps(columns);
    output.finish();
    const errors = checkTrace(path).filter(({ severity }) => severity === 'error');
    if (errors.length > 0) throw new Error(`${path}: ${errors[0]!.sentence}`);
  }
  return join(folder, `${name}.rwt`);
}

/** Verdict of a replay, step and group of its first divergence. */
export function replayed(
  path: string,
  machine: MachineChoice = {},
): { readonly verdict: string; readonly step: number | undefined; readonly group: string | undefined } {
  let session: ReplaySession | undefined;
  for (const item of openTrace(path)) {
    if (item.kind === 'header') session = new ReplaySession(path, item.header, { machine, bail: true });
    else if (item.kind === 'steps' && !session!.run(item.columns)) break;
  }
  const { verdict, divergences, guestDifferences = [] } = session!.result(undefined, 'complete');
  session!.release();
  const [first] = [...divergences, ...guestDifferences].sort((a, b) => a.step - b.step);
  return { verdict, step: first?.step, group: first?.group };
}
