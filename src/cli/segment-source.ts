/**
 * A trace, or a foreign recording imported on the fly, as segments that can be read chunk by chunk. Nothing is written.
 * An import's columns are kept in memory until they are read; a trace is read as it goes.
 */

import { readdirSync, statSync } from 'node:fs';
import { Problem } from '../bits/problem.ts';
import type { SegmentSource } from '../compare/traces.ts';
import type { StepSink } from '../import/sink.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { ioProblem } from '../trace/input.ts';
import type { TraceItem } from '../trace/reader.ts';
import { openTrace } from '../trace/text/either-form.ts';
import type { Context } from './command.ts';
import { detectFormat, IMPORT_FORMATS, type ImportFormat } from './import-formats.ts';
import { Interrupted } from './io.ts';

/** Steps and rows of an import that are held: about 2 GB of columns. */
const MAXIMUM_ROWS = 50_000_000;

export interface Segments {
  readonly path: string;
  /** The first problem with the end of a segment: cut short. */
  readonly problems: readonly Problem[];
  /** Of the segments begun so far. */
  readonly headers: readonly TraceHeader[];
  /** Steps read so far. */
  readonly steps: number;
  /** The next segment, once the one before has been read to its end; throws what reading throws. */
  next(): SegmentSource | undefined;
  close(): void;
}

class ReadSegments implements Segments {
  readonly path: string;
  readonly problems: Problem[] = [];
  readonly headers: TraceHeader[] = [];
  steps = 0;
  readonly close: () => void;
  private readonly items: Iterator<TraceItem>;

  constructor(path: string, items: Iterable<TraceItem>, close: () => void) {
    this.path = path;
    this.items = items[Symbol.iterator]();
    this.close = close;
  }

  next(): SegmentSource | undefined {
    const { value: item, done } = this.items.next();
    if (done === true || item === undefined) return undefined;
    if (item.kind !== 'header') return this.next();
    this.headers.push(item.header);
    return { header: item.header, chunk: async () => this.chunk() };
  }

  private chunk(): StepColumns | undefined {
    const { value: item, done } = this.items.next();
    if (done === true || item === undefined) return undefined;
    if (item.kind === 'steps') {
      this.steps += item.columns.stepCount;
      return item.columns;
    }
    if (item.kind === 'end' && item.problem !== undefined) this.problems.push(item.problem);
    return undefined;
  }
}

/** The importer for a path that is no trace; `undefined` for a trace. KVM's own events before a guest's log. */
function importerOf(path: string): ImportFormat | undefined {
  if (path === '-' || path.endsWith('.rwt') || path.endsWith('.jsonl')) return undefined;
  let folder: string[] | undefined;
  try {
    if (statSync(path).isDirectory()) folder = readdirSync(path);
  } catch (error) {
    throw ioProblem(error, path, 'open it');
  }
  if (folder !== undefined) {
    const kvm = IMPORT_FORMATS.find(({ name }) => name === 'kvm');
    if (kvm?.fits({ folder, head: '' }) === true) return kvm;
    return detectFormat(path);
  }
  try {
    return detectFormat(path);
  } catch (error) {
    // What no importer knows is a trace under another name, or its reader says that it is none.
    if (error instanceof Problem && error.code === 'E_IMPORT') return undefined;
    throw error;
  }
}

/** Opens a trace, or imports a recording: `vm` chooses among the guests of one with several. */
export async function openSegments(path: string, vm: string | undefined, context: Context): Promise<Segments> {
  const format = importerOf(path);
  if (format === undefined) {
    const trace = openTrace(path);
    return new ReadSegments(path, trace, () => trace.close());
  }
  const items: TraceItem[] = [];
  const progress = await context.progress(`importing ${format.name}`);
  let [steps, rows] = [0, 0];
  const sink: StepSink = {
    header: (header) => items.push({ kind: 'header', header, segment: 0 }),
    steps: (columns) => {
      if (context.io.signal.aborted) throw new Interrupted('interrupted');
      steps += columns.stepCount;
      rows += columns.stepCount + columns.observationCount;
      if (rows > MAXIMUM_ROWS) {
        const remedy = '`rewalk import` it first, and compare the traces';
        throw new Problem('E_LIMIT', 'the recording is too large to be imported in memory', { file: path }, remedy);
      }
      items.push({ kind: 'steps', columns, place: { file: path } });
      progress.update(() => `importing ${format.name}: ${steps} steps`);
    },
  };
  try {
    await format.import(path, sink, vm === undefined ? {} : { vm });
  } finally {
    progress.done();
  }
  if (items.length === 0) {
    throw new Problem('E_IMPORT', `the input has nothing that ${format.name} knows`, { file: path });
  }
  return new ReadSegments(path, items, () => undefined);
}
