/** Opens a kernel trace in any of its forms, by what the file holds, whatever its name is. */

import { createReadStream } from 'node:fs';
import { createGunzip, gunzipSync } from 'node:zlib';
import { Problem } from '../../bits/problem.ts';
import { Input } from '../../trace/input.ts';
import type { TraceEvent } from './event.ts';
import { linesOfFile } from './lines.ts';
import { TextTraceParser } from './text-trace.ts';
import { type ByteSource, fileSource, memorySource } from './trace-dat/byte-source.ts';
import { isTraceDat, readTraceDat } from './trace-dat/read-trace-dat.ts';

export interface KvmTrace {
  readonly form: 'ftrace' | 'trace-cmd report' | 'perf script' | 'trace.dat 6' | 'trace.dat 7';
  /** Release of the recording kernel, e.g. `6.1.0-56-amd64`; undefined if the file does not tell it. */
  readonly kernel: string | undefined;
  readonly cpus: number | undefined;
  /** To be read once, to its end or to a `break`: either closes the file. Throws what reading the form throws. */
  readonly events: AsyncIterable<TraceEvent>;
}

/** Bytes of a trace.dat within gzip data, which must be in memory. */
const MAX_UNZIPPED = 1 << 30;
const HEAD = 16;

/**
 * Opens the trace at `path`: text of the kernel, of `trace-cmd report` or of `perf script`, or a trace.dat; any of them
 * also within gzip. Throws E_NO_SUCH_FILE, E_IO, E_IMPORT (with line or offset), E_LIMIT, E_NEWER_VERSION.
 */
export async function openKvmTrace(path: string): Promise<KvmTrace> {
  const head = headOf(path);
  if (isTraceDat(head)) return openTraceDat(fileSource(path));
  const gzip = head[0] === 0x1f && head[1] === 0x8b;
  if (gzip) {
    const unzipped = await unzippedTraceDat(path);
    if (unzipped !== undefined) return openTraceDat(unzipped);
  }
  return openText(path, gzip);
}

function headOf(path: string): Uint8Array {
  const input = Input.open(path);
  try {
    if (input.size === undefined) {
      throw new Problem('E_IMPORT', 'a trace is opened more than once, which a pipe does not allow', { file: path });
    }
    const head = new Uint8Array(HEAD);
    return head.subarray(0, input.readAt(0, head, 0, HEAD));
  } finally {
    input.close();
  }
}

/** undefined: the gzip data hold something else. */
async function unzippedTraceDat(path: string): Promise<ByteSource | undefined> {
  const head = await unzippedHead(path);
  if (!isTraceDat(head)) return undefined;
  const file = fileSource(path);
  try {
    return memorySource(gunzipSync(file.read(0, file.size), { maxOutputLength: MAX_UNZIPPED }), path);
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem('E_IMPORT', `the gzip data are unsound or too large: ${(error as Error).message}`, {
      file: path,
    });
  } finally {
    file.close();
  }
}

/** The first bytes within gzip data; none if those are unsound, which reading them as text will tell. */
async function unzippedHead(path: string): Promise<Uint8Array> {
  const file = createReadStream(path);
  const stream = file.pipe(createGunzip());
  file.on('error', (error) => stream.destroy(error));
  try {
    for await (const chunk of stream) return chunk as Buffer;
  } catch {
    return new Uint8Array(0);
  } finally {
    file.destroy();
  }
  return new Uint8Array(0);
}

function openTraceDat(source: ByteSource): KvmTrace {
  try {
    const { version, kernel, cpus, events } = readTraceDat(source);
    return { form: `trace.dat ${version}`, kernel, cpus, events: closing(source, events) };
  } catch (error) {
    source.close();
    throw error;
  }
}

async function* closing(source: ByteSource, events: Iterable<TraceEvent>): AsyncGenerator<TraceEvent, void, void> {
  try {
    yield* events;
  } finally {
    source.close();
  }
}

/** What the text says of itself stands before its first event, so that much is read at once. */
async function openText(path: string, gzip: boolean): Promise<KvmTrace> {
  const parser = new TextTraceParser(path);
  const events = textEvents(parser, linesOfFile(path, gzip));
  const first = await events.next();
  const { form, kernel, cpus } = parser.about;
  return { form, kernel, cpus, events: continued(first, events) };
}

async function* textEvents(
  parser: TextTraceParser,
  lines: AsyncIterable<string>,
): AsyncGenerator<TraceEvent, void, void> {
  for await (const line of lines) {
    const event = parser.line(line);
    if (event !== undefined) yield event;
  }
  const last = parser.end();
  if (last !== undefined) yield last;
}

async function* continued(
  first: IteratorResult<TraceEvent, void>,
  events: AsyncGenerator<TraceEvent, void, void>,
): AsyncGenerator<TraceEvent, void, void> {
  try {
    if (first.done !== true) yield first.value;
    yield* events;
  } finally {
    await events.return();
  }
}
