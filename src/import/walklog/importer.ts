/** Reads the file of a walk log, plain or compressed, and hands its records to the conversion. */

import { createHash } from 'node:crypto';
import { closeSync, createReadStream, openSync, readFileSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { createGunzip } from 'node:zlib';
import { Problem } from '../../bits/problem.ts';
import type { Source, TraceHeader } from '../../trace/header.ts';
import { ioProblem } from '../../trace/input.ts';
import type { StepSink } from '../sink.ts';
import { OMITTED, WalklogImport } from './conversion.ts';
import { parseWalklogHeader } from './header.ts';

/** By content, whatever the name is. Throws E_NO_SUCH_FILE or E_IO. */
function isGzip(path: string): boolean {
  try {
    const fd = openSync(path, 'r');
    try {
      const head = new Uint8Array(2);
      return readSync(fd, head) === 2 && head[0] === 0x1f && head[1] === 0x8b;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw ioProblem(error, path, 'read it');
  }
}

/** Name, size and digest of the log. */
function sourceOf(path: string): Source {
  try {
    const bytes = readFileSync(path);
    return { name: basename(path), size: bytes.length, sha256: createHash('sha256').update(bytes).digest() };
  } catch (error) {
    throw ioProblem(error, path, 'read it');
  }
}

/** The lines of a plain or gzip-compressed file. */
async function* linesOf(path: string): AsyncGenerator<string, void, void> {
  const raw = createReadStream(path);
  const stream = path.endsWith('.gz') || isGzip(path) ? raw.pipe(createGunzip()) : raw;
  raw.on('error', (error) => stream.destroy(error));
  try {
    yield* createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
  } catch (error) {
    throw new Problem('E_IMPORT', `the log cannot be read: ${(error as Error).message}`, { file: path });
  }
}

/** Counts what will be left out: the header, which comes first, says so. */
async function countOmissions(path: string): Promise<TraceHeader['omissions']> {
  const counts = new Map<string, number>();
  for await (const line of linesOf(path)) {
    const what = OMITTED.get(line.split(' ', 1)[0] ?? '');
    if (what !== undefined) counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  return [...counts].map(([what, count]) => ({ what, count }));
}

/** Reads the walk log at `path` (plain or `.gz`) into `sink`. Problems: E_IMPORT with file and line. */
export async function importWalklog(path: string, sink: StepSink): Promise<TraceHeader> {
  const source = sourceOf(path);
  const { name } = source;
  const omissions = await countOmissions(path);
  let header: TraceHeader | undefined;
  const importer = new WalklogImport(sink, name);
  let line = 0;
  for await (const text of linesOf(path)) {
    line++;
    if (line === 1) {
      header = { ...parseWalklogHeader(text, source), omissions };
      sink.header(header);
    } else {
      importer.record(text, line);
    }
  }
  if (header === undefined) throw new Problem('E_IMPORT', 'the walk log is empty', { file: name });
  importer.finish();
  return header;
}
