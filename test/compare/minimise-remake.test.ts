/** Expectations made anew are what a replay on the same machine finds. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Remake } from '../../src/compare/minimise-remake.ts';
import { columnsOf, StepListBuilder } from '../../src/compare/minimise-steps.ts';
import { type MachineChoice, machineFor } from '../../src/replay/machines.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { keptColumns } from '../../src/trace/columns.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { TRACES } from './minimised.ts';

/** Verdicts of the trace's segments with the expectations of the machine itself; `listed`: through a list of steps. */
function verdicts(path: string, machine: MachineChoice, listed: boolean): string[] {
  const all: string[] = [];
  let session: ReplaySession | undefined;
  let remake: Remake | undefined;
  let list: StepListBuilder | undefined;
  for (const item of openTrace(path)) {
    if (item.kind === 'header') {
      session = new ReplaySession(path, item.header, { machine });
      remake = new Remake(item.header, machine);
      list = new StepListBuilder(item.header, machineFor(item.header, machine).machine);
    } else if (item.kind === 'steps') {
      if (listed) list!.add(item.columns, Number.POSITIVE_INFINITY);
      else session!.run(remake!.run(keptColumns(item.columns)));
    } else {
      if (listed) session!.run(remake!.run(columnsOf(list!.take())));
      all.push(session!.result(undefined, 'complete').verdict);
      session!.release();
      remake!.release();
    }
  }
  return all;
}

const FOLDERS = ['hand', 'mutants', 'generated'];
const FILES = FOLDERS.flatMap((folder) =>
  readdirSync(join(TRACES, folder))
    .filter((name) => name.endsWith('.rwt'))
    .map((name) => join(folder, name)),
);
const RECORDINGS = ['ept0_g64', 'ept1_pse', 'c_nest_np0'].map((name) => join('kvmmmu', `${name}.rwt`));

describe.each([false, true])('through a list of steps: %s', (listed) => {
  test.each(FILES)('%s', (name) => {
    for (const verdict of verdicts(join(TRACES, name), {}, listed)) expect(verdict).toBe('match');
  });

  test.each(RECORDINGS.filter((name) => existsSync(join(TRACES, name))))('%s', (name) => {
    expect(verdicts(join(TRACES, name), {}, listed)).toEqual(['match']);
  });
});
