/**
 * Reads results files. Opening one reads it through once, checks it and keeps of each trace a line; the rest is read
 * again when it is asked for, so that two runs over any corpus are compared in little memory.
 */

import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { Problem } from '../bits/problem.ts';
import type { Verdict } from '../replay/result.ts';
import { Input } from '../trace/input.ts';
import { countOf } from '../trace/messages.ts';
import { looksLikeResults, type PlacedRecord, recordAt } from './framing.ts';
import {
  type EndFacts,
  RESULTS_LIMITS,
  RESULTS_VERSION,
  type ResultsLimits,
  type RunFacts,
  type StoredStep,
  type StoredTrace,
} from './model.ts';
import type { rewalk } from './schema/results.js';
import { decodeStep } from './step-message.ts';
import { decodeTrace } from './trace-message.ts';
import { corpusDigest, corpusLine } from './writer.ts';

/** What is kept of a trace. */
export interface TraceEntry {
  readonly file: string;
  readonly segment: number;
  readonly digest: string | undefined;
  /** Of its record in the file, for `traceAt`. */
  readonly offset: number;
  readonly verdict: Verdict;
  readonly machine: string;
  readonly policy: string;
}

/** Whether there is a results file at the path, by its first bytes. False for what cannot be opened, and for `-`. */
export function isResultsFile(path: string): boolean {
  try {
    if (!statSync(path).isFile()) return false;
    const fd = openSync(path, 'r');
    try {
      const head = new Uint8Array(16);
      const got = readSync(fd, head);
      return looksLikeResults(head.subarray(0, got));
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}

const AGAIN = 'replay again with `rewalk replay -o`';

export class ResultsReader {
  readonly file: string;
  readonly run: RunFacts;
  readonly end: EndFacts;
  readonly traces: readonly TraceEntry[];
  private readonly input: Input;
  private readonly limits: ResultsLimits;

  private constructor(input: Input, limits: ResultsLimits) {
    this.input = input;
    this.limits = limits;
    this.file = input.name;
    if (!looksLikeResults(this.head())) {
      throw new Problem(
        'E_NOT_RESULTS',
        'this is not a results file',
        { file: this.file },
        'give what `rewalk replay -o run.rwr` wrote',
      );
    }
    const first = recordAt(input, 0, limits)!;
    this.run = this.runOf(first);
    const traces: TraceEntry[] = [];
    const lines: string[] = [];
    let predicted = 0;
    let offset = first.end;
    for (;;) {
      const record = this.next(offset);
      if (record.message.end) {
        this.end = this.endOf(record, lines, predicted);
        break;
      }
      if (traces.length >= limits.maxTraces) {
        throw new Problem('E_LIMIT', `there are more traces than the limit maxTraces of ${limits.maxTraces}`, {
          file: this.file,
          offset,
        });
      }
      const { trace } = this.traceOf(record);
      const { receipt } = trace;
      traces.push({
        file: trace.file,
        segment: trace.segment,
        digest: receipt.digest,
        offset,
        verdict: trace.verdict,
        machine: receipt.machine,
        policy: receipt.policy,
      });
      lines.push(corpusLine(trace));
      predicted += receipt.observationsPredicted;
      offset = this.skipSteps(record.end, trace);
    }
    this.traces = traces;
  }

  /**
   * Throws E_NOT_RESULTS, E_NEWER_VERSION, E_CUT_SHORT, E_CORRUPT, E_UNSOUND, E_LIMIT, E_NO_SUCH_FILE, E_IO. The caller
   * closes.
   */
  static open(path: string, limits: ResultsLimits = RESULTS_LIMITS): ResultsReader {
    if (path === '-') throw new Problem('E_USAGE', 'results are not read from standard input', {}, 'give a file');
    const input = Input.open(path);
    try {
      if (input.size === undefined) throw new Problem('E_USAGE', 'results are read from files only', { file: path });
      return new ResultsReader(input, limits);
    } catch (error) {
      input.close();
      throw error;
    }
  }

  close(): void {
    this.input.close();
  }

  /** A trace's result with its steps. */
  traceAt({ offset }: TraceEntry): { readonly trace: StoredTrace; readonly steps: readonly StoredStep[] } {
    const { trace, end } = this.traceOf(this.next(offset));
    const steps: StoredStep[] = [];
    let at = end;
    for (let i = 0; i < trace.keptSteps; i++) {
      const record = this.next(at);
      if (!record.message.step) throw this.unsound('a step is missing', at);
      const { step } = record.message;
      steps.push(this.placed(at, () => decodeStep(step, trace.machine.config)));
      at = record.end;
    }
    return { trace, steps };
  }

  private head(): Uint8Array {
    const head = new Uint8Array(16);
    return head.subarray(0, this.input.readAt(0, head, 0, head.length));
  }

  private unsound(sentence: string, offset: number): Problem {
    return new Problem('E_UNSOUND', sentence, { file: this.file, offset }, AGAIN);
  }

  private placed<T>(offset: number, decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const { code, message, place, remedy } = error;
      throw new Problem(code, message, { file: this.file, offset, ...place }, remedy ?? AGAIN);
    }
  }

  private next(offset: number): PlacedRecord {
    const record = recordAt(this.input, offset, this.limits);
    if (record !== undefined) return record;
    throw new Problem('E_CUT_SHORT', 'the file ends before its last record', { file: this.file, offset }, AGAIN);
  }

  private runOf({ message, offset }: PlacedRecord): RunFacts {
    const { run } = message;
    if (!run) throw this.unsound('the first record is no run', offset);
    const formatVersion = run.formatVersion ?? 0;
    if (formatVersion !== RESULTS_VERSION) {
      throw new Problem(
        'E_NEWER_VERSION',
        `the results have format version ${formatVersion}; this rewalk reads ${RESULTS_VERSION}`,
        { file: this.file },
        'use the rewalk that wrote them, or replay again with `rewalk replay -o`',
      );
    }
    return this.placed(offset, () => ({
      formatVersion,
      writer: run.writer ?? '',
      when: countOf(run.when, 'the time'),
      allowedUnmodelled: run.allowedUnmodelled ?? [],
      expectations: run.expectations ?? false,
      scope: run.scope ?? [],
    }));
  }

  private traceOf({ message, offset, end }: PlacedRecord): { trace: StoredTrace; end: number } {
    const { trace } = message;
    if (!trace) throw this.unsound('a record is not the trace that is due', offset);
    return { trace: this.placed(offset, () => decodeTrace(trace, this.limits)), end };
  }

  /** Checks the steps of a trace; returns where they end. */
  private skipSteps(offset: number, trace: StoredTrace): number {
    let at = offset;
    for (let i = 0; i < trace.keptSteps; i++) {
      const record = this.next(at);
      const { step } = record.message;
      if (!step) throw this.unsound('a step is missing', at);
      this.placed(at, () => decodeStep(step, trace.machine.config));
      at = record.end;
    }
    return at;
  }

  private endOf({ message, offset, end }: PlacedRecord, lines: readonly string[], predicted: number): EndFacts {
    const given: rewalk.results.End.$Properties = message.end ?? {};
    const corpus = Buffer.from(given.corpusDigest ?? []).toString('hex');
    const facts = this.placed(offset, () => ({
      traces: countOf(given.traceCount, 'a count'),
      observationsPredicted: countOf(given.observationsPredicted, 'a count'),
      corpusDigest: corpus,
      exitStatus: given.exitStatus ?? 0,
    }));
    if (facts.traces !== lines.length || facts.observationsPredicted !== predicted) {
      throw this.unsound('the last record counts other traces than there are', offset);
    }
    if (corpus !== corpusDigest(lines))
      throw this.unsound('the digest of the corpus is not that of the traces', offset);
    if (end !== this.input.size) throw this.unsound('there is something behind the last record', end);
    return facts;
  }
}
