/** Writes a results file, trace by trace; it appears under its name whole or not at all. */

import { createHash } from 'node:crypto';
import { Problem } from '../bits/problem.ts';
import type { Receipt } from '../replay/result.ts';
import { longOfCount } from '../trace/messages.ts';
import { Output } from '../trace/output.ts';
import { framed } from './framing.ts';
import {
  type EndFacts,
  RESULTS_LIMITS,
  type ResultsLimits,
  type RunFacts,
  type StoredStep,
  type StoredTrace,
  traceName,
} from './model.ts';
import { encodeStep } from './step-message.ts';
import { encodeTrace } from './trace-message.ts';

/** The line of a trace that the corpus digest is made of. */
export function corpusLine(trace: {
  readonly file: string;
  readonly segment: number;
  readonly receipt: Receipt;
}): string {
  return `${trace.receipt.digest ?? `none ${traceName(trace)}`}\n`;
}

/** 64 hexadecimal digits; equal for the same traces in whatever order. */
export function corpusDigest(lines: readonly string[]): string {
  return createHash('sha256').update(lines.toSorted().join('')).digest('hex');
}

export class ResultsWriter {
  private readonly output: Output;
  private readonly limits: ResultsLimits;
  private readonly lines: string[] = [];
  private predicted = 0;

  /** `path`: a file, or `-` for standard output. Throws E_IO. */
  constructor(path: string, run: RunFacts, limits: ResultsLimits = RESULTS_LIMITS) {
    this.output = Output.create(path);
    this.limits = limits;
    const { formatVersion, writer, when, allowedUnmodelled, expectations, scope } = run;
    this.put(
      framed({
        run: {
          formatVersion,
          writer,
          when: longOfCount(when),
          allowedUnmodelled: [...allowedUnmodelled],
          expectations,
          scope: [...scope],
        },
      }),
    );
  }

  /** Throws E_IO, E_LIMIT. */
  add(trace: StoredTrace, steps: readonly StoredStep[]): void {
    const bytes = framed({ trace: encodeTrace({ ...trace, keptSteps: steps.length }, this.limits) });
    if (bytes.length > this.limits.maxRecordBytes || this.lines.length >= this.limits.maxTraces) {
      throw new Problem('E_LIMIT', 'the result is too large for a results file', { file: trace.file });
    }
    this.put(bytes);
    for (const step of steps) {
      const whole = framed({ step: encodeStep(step) });
      const fits = whole.length <= this.limits.maxRecordBytes;
      this.put(fits ? whole : framed({ step: encodeStep({ ...step, detail: undefined }) }));
    }
    this.lines.push(corpusLine(trace));
    this.predicted += trace.receipt.observationsPredicted;
  }

  /** Makes the file appear. Throws E_IO. */
  finish(exitStatus: number): EndFacts & { readonly bytes: number } {
    const end: EndFacts = {
      traces: this.lines.length,
      observationsPredicted: this.predicted,
      corpusDigest: corpusDigest(this.lines),
      exitStatus,
    };
    this.put(
      framed({
        end: {
          traceCount: longOfCount(end.traces),
          observationsPredicted: longOfCount(end.observationsPredicted),
          corpusDigest: Buffer.from(end.corpusDigest, 'hex'),
          exitStatus,
        },
      }),
    );
    this.output.finish();
    return { ...end, bytes: this.output.size };
  }

  /** Leaves nothing behind. After `finish` it does nothing. */
  abort(): void {
    this.output.abort();
  }

  private put(bytes: Uint8Array): void {
    this.output.write(bytes);
  }
}
