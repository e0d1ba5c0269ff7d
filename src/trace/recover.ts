/** Saves what can be saved of a damaged trace: its whole chunks, as a new sound file. */

import { type Place, Problem } from '../bits/problem.ts';
import { chunkBody } from './chunk.ts';
import type { StepColumns } from './columns.ts';
import type { Frame } from './framing.ts';
import type { TraceHeader } from './header.ts';
import { decodeHeader } from './header-message.ts';
import { Input } from './input.ts';
import { limitsWith, type TraceLimits } from './limits.ts';
import { Salvage } from './salvage.ts';
import { readSteps } from './steps-reading.ts';
import { upgradeHeader, upgradeSteps } from './upgrade.ts';
import { TraceWriter, type WriteSummary } from './writer.ts';

/** A stretch of the old file that is not in the new one. */
export interface Loss {
  /** First byte, and the one after the last. */
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

export interface Recovery {
  /** The new file. */
  readonly written: WriteSummary;
  /** Chunks of steps that were saved. */
  readonly chunks: number;
  /** Empty if nothing was wrong but, perhaps, the index. */
  readonly losses: readonly Loss[];
  /** Losses beyond those that are listed. */
  readonly furtherLosses: number;
  /** Steps that are known to be missing between saved ones. */
  readonly missingSteps: number;
}

/** What the header of a segment that begins behind damage says, in its omissions. */
const OMISSION = 'steps lost to damage before this segment';

const LISTED_LOSSES = 1000;

class Recoverer {
  readonly losses: Loss[] = [];
  furtherLosses = 0;
  chunks = 0;
  missingSteps = 0;
  writer: TraceWriter | undefined;
  private readonly to: string;
  private readonly limits: TraceLimits;
  /** The last header that was read, until an index ends its segment. */
  private header: TraceHeader | undefined;
  private version = 0;
  /** The header's segment is not yet begun in the new file. */
  private pending = false;
  /** Ordinal of the next step in the old file. */
  private due = 0;
  private codec: 'none' | 'deflate' = 'none';

  constructor(to: string, limits: TraceLimits) {
    this.to = to;
    this.limits = limits;
  }

  lose(from: number, to: number, reason: string): void {
    if (this.losses.length < LISTED_LOSSES) this.losses.push({ from, to, reason });
    else this.furtherLosses++;
  }

  take(frame: Frame): void {
    const end = frame.offset + frame.bytes.length;
    try {
      const body = chunkBody(frame, this.limits);
      if (body.kind === 'header') {
        this.endSegment();
        const header = decodeHeader(body.bytes, body.start, body.end, this.limits);
        this.version = header.formatVersion;
        this.header = upgradeHeader(header);
        this.pending = true;
        this.due = 0;
      } else if (body.kind === 'index') this.endSegment();
      else {
        const columns = readSteps(body, this.limits);
        if (body.fileOffset === undefined) this.codec = 'deflate';
        if (this.header === undefined) this.lose(frame.offset, end, 'steps whose header is lost');
        else this.steps(upgradeSteps(columns, this.version), this.header);
      }
    } catch (error) {
      if (!(error instanceof Problem) || error.code === 'E_IO') throw error;
      this.lose(frame.offset, end, error.message);
    }
  }

  /** Begins the segment of a header that no saved steps followed, so that it is not lost. */
  endSegment(): void {
    if (this.header !== undefined && this.pending) this.begin(this.header);
    this.header = undefined;
  }

  private steps(columns: StepColumns, header: TraceHeader): void {
    const missing = columns.firstOrdinal - this.due;
    if (missing !== 0) {
      // Memory behind the gap is not known: a new segment says so, a file without a seam would not.
      this.missingSteps += Math.max(0, missing);
      const count = Math.max(0, missing);
      this.begin({ ...header, omissions: [...header.omissions, { what: OMISSION, count }] });
    } else if (this.pending) this.begin(header);
    this.writer?.add(columns);
    this.chunks++;
    this.due = columns.firstOrdinal + columns.stepCount;
  }

  private begin(header: TraceHeader): void {
    this.pending = false;
    if (this.writer === undefined) this.writer = TraceWriter.create(this.to, header, { codec: this.codec });
    else this.writer.beginSegment(header);
  }
}

/**
 * Copies the whole chunks of the trace `from`, a regular file, to the new trace `to`. Where chunks are missing in
 * between, a new segment begins. Throws E_CORRUPT if no header can be found, E_USAGE for a pipe, E_IO.
 */
export function recoverTrace(from: string, to: string, limits?: Partial<TraceLimits>): Recovery {
  const all = limitsWith(limits);
  const input = Input.open(from);
  const recoverer = new Recoverer(to, all);
  try {
    for (const part of new Salvage(input, all).parts()) {
      if ('bytes' in part) recoverer.take(part);
      else recoverer.lose(part.from, part.to, part.reason);
    }
    recoverer.endSegment();
    const { writer, chunks, losses, furtherLosses, missingSteps } = recoverer;
    if (writer === undefined) {
      const place: Place = { file: input.name };
      throw new Problem('E_CORRUPT', 'nothing can be recovered: no header was found', place, 'record or copy it again');
    }
    return { written: writer.finish(), chunks, losses, furtherLosses, missingSteps };
  } finally {
    recoverer.writer?.abort();
    input.close();
  }
}
