/** What `rewalk replay` leaves in files: the results (`-o`), and pending files beside the traces (`--pending`). */

import { rmSync } from 'node:fs';
import type { Machine } from '../machine/machine.ts';
import { coverageOf } from '../replay/coverage.ts';
import { type MachineChoice, machineFacts } from '../replay/machines.ts';
import type { ReplayResult } from '../replay/result.ts';
import {
  RESULTS_VERSION,
  type RunFacts,
  type StoredCoverage,
  type StoredStep,
  type StoredTrace,
} from '../results/model.ts';
import { isResultsFile } from '../results/reader.ts';
import { reviewItems } from '../results/review.ts';
import { VerdictLog } from '../results/verdict-log.ts';
import { ResultsWriter } from '../results/writer.ts';
import type { TraceHeader } from '../trace/header.ts';
import { ioProblem } from '../trace/input.ts';
import { WRITER } from '../trace/version.ts';

/** `trace.rwt.pending.rwr` */
export const PENDING_SUFFIX = '.pending.rwr';

export interface RecorderOptions {
  /** The results file; undefined for none. */
  readonly output: string | undefined;
  readonly pending: boolean;
  readonly machine: MachineChoice;
  readonly run: Pick<RunFacts, 'allowedUnmodelled' | 'expectations' | 'scope'>;
}

interface Kept {
  readonly trace: StoredTrace;
  readonly steps: readonly StoredStep[];
}

/** Whether a review can accept something. */
function isOpen({ trace }: Kept): boolean {
  return reviewItems(trace).length > 0;
}

export class RunRecorder {
  private readonly options: RecorderOptions;
  private readonly run: RunFacts;
  private readonly writer: ResultsWriter | undefined;
  /** Segments of the file that is being replayed, for its pending file. */
  private segments: Kept[] = [];
  /** Pending files written. */
  readonly pending: string[] = [];

  /** Throws E_IO. */
  constructor(options: RecorderOptions) {
    this.options = options;
    this.run = { formatVersion: RESULTS_VERSION, writer: WRITER, when: Date.now(), ...options.run };
    this.writer = options.output === undefined ? undefined : new ResultsWriter(options.output, this.run);
  }

  /** Where a session tells its verdicts; undefined if nobody wants them. */
  begin(segment: number): VerdictLog | undefined {
    if (segment === 0) this.segments = [];
    return this.writer === undefined && !this.options.pending ? undefined : new VerdictLog();
  }

  /** The cells of the model that a session reaches from here on; undefined if there is no results file to keep them. */
  watch(session: { readonly machine: Machine }): StoredCoverage | undefined {
    return this.writer === undefined ? undefined : coverageOf(session);
  }

  /** A segment's end. `result` has as many of the guest's differences as `VerdictLog` keeps. */
  add(
    file: string,
    segment: number,
    header: TraceHeader,
    result: ReplayResult,
    log: VerdictLog,
    coverage?: StoredCoverage,
  ): void {
    const { receipt, verdict, guestDifferences = [] } = result;
    log.addGuest(guestDifferences, receipt.sameGuest?.groups ?? []);
    const trace: StoredTrace = {
      file,
      segment,
      header,
      verdict,
      machine: machineFacts(header, this.options.machine),
      receipt,
      brokenInvariants: receipt.brokenInvariants.length,
      groups: log.groups(new Map(receipt.groups.map(({ group, leads }) => [group, leads]))),
      stepCount: log.stepCount,
      keptSteps: log.steps.length,
      keptBelow: log.keptBelow,
      coverage,
    };
    this.writer?.add(trace, log.steps);
    if (this.options.pending) this.segments.push({ trace, steps: log.steps });
  }

  /** A trace file's end: its pending file is written, or removed if there is nothing to review any more. Throws E_IO. */
  endOfFile(path: string): void {
    const segments = this.segments;
    this.segments = [];
    if (!this.options.pending || path === '-' || segments.length === 0) return;
    const pending = path + PENDING_SUFFIX;
    if (!segments.some(isOpen)) {
      if (isResultsFile(pending)) removeFile(pending);
      return;
    }
    const writer = new ResultsWriter(pending, this.run);
    try {
      for (const { trace, steps } of segments) writer.add(trace, steps);
      writer.finish(1);
    } finally {
      writer.abort();
    }
    this.pending.push(pending);
  }

  /** Makes the results file appear. Returns its size in bytes; undefined if none was asked for. Throws E_IO. */
  finish(exitStatus: number): number | undefined {
    return this.writer?.finish(exitStatus).bytes;
  }

  abort(): void {
    this.writer?.abort();
  }
}

export function removeFile(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch (error) {
    throw ioProblem(error, path, 'remove it');
  }
}
