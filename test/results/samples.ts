/** Results of small replays, with every kind of verdict that there is. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import { Mutant } from '../../src/mmu/mutants.ts';
import { expectationsFor } from '../../src/replay/expectations.ts';
import { type MachineChoice, machineFacts } from '../../src/replay/machines.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import {
  RESULTS_LIMITS,
  RESULTS_VERSION,
  type RunFacts,
  type StoredStep,
  type StoredTrace,
} from '../../src/results/model.ts';
import { VerdictLog } from '../../src/results/verdict-log.ts';
import { ResultsWriter } from '../../src/results/writer.ts';
import type { TraceHeader } from '../../src/trace/header.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { access, header, state, TABLES, textFile } from '../replay/small-traces.ts';

export const folder = mkdtempSync(join(tmpdir(), 'rewalk-results-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

export const CORPUS = fileURLToPath(new URL('../../traces/', import.meta.url));

export interface Kept {
  readonly trace: StoredTrace;
  readonly steps: readonly StoredStep[];
}

export const RUN: RunFacts = {
  formatVersion: RESULTS_VERSION,
  writer: 'a test',
  when: 1_700_000_000_000,
  allowedUnmodelled: ['undetermined'],
  expectations: true,
  scope: ['--from 7'],
};

/** The segments of a trace, replayed. */
export function replayed(path: string, machine: MachineChoice = {}, limits = RESULTS_LIMITS): Kept[] {
  const kept: Kept[] = [];
  const trace = openTrace(path);
  let open: { session: ReplaySession; log: VerdictLog; segment: number; header: TraceHeader } | undefined;
  for (const item of trace) {
    if (item.kind === 'header') {
      const log = new VerdictLog(limits);
      const facts = machineFacts(item.header, machine);
      const session = new ReplaySession(path, item.header, {
        machine,
        maxDiffs: limits.maxDetails,
        onVerdict: (verdict) => log.add(verdict),
        expectations: expectationsFor(path, item.segment, facts),
      });
      open = { session, log, segment: item.segment, header: item.header };
    } else if (item.kind === 'steps') open!.session.run(item.columns);
    else {
      const { session, log, segment } = open!;
      const { verdict, receipt, guestDifferences = [] } = session.result(item.digest, 'complete');
      log.addGuest(guestDifferences, receipt.sameGuest?.groups ?? []);
      kept.push({
        trace: {
          file: path,
          segment,
          header: open!.header,
          verdict,
          machine: machineFacts(open!.header, machine),
          receipt,
          brokenInvariants: receipt.brokenInvariants.length,
          groups: log.groups(new Map(receipt.groups.map(({ group, leads }) => [group, leads]))),
          stepCount: log.stepCount,
          keptSteps: log.steps.length,
          keptBelow: log.keptBelow,
          coverage: { cells: 12, bits: Uint8Array.from([0xff, 3]) },
        },
        steps: log.steps,
      });
    }
  }
  trace.close();
  return kept;
}

let files = 0;

/** A results file of these traces. */
export function written(all: readonly Kept[], run = RUN, limits = RESULTS_LIMITS): string {
  const path = join(folder, `run${files++}.rwr`);
  const writer = new ResultsWriter(path, run, limits);
  for (const { trace, steps } of all) writer.add(trace, steps);
  writer.finish(1);
  return path;
}

/** A guest that sees a fault of another kind on the emulated KVM: a historical bug. */
export function guestThatDiffers(): Kept[] {
  const fault = access('fetch', '0x7000', { expect: [{ exception: '#PF', error: '0x0', cr2: '0x7000' }] });
  const path = textFile([header(), state({ efer: '0x500' }), ...TABLES, fault]);
  return replayed(path, { machine: 'kvm', tdp: false, mutants: [Mutant.FETCH_ALWAYS] });
}
