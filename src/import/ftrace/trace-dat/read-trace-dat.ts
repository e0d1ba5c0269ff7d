/** A trace.dat of trace-cmd into events: the buffers of all CPUs, merged by time. */

import { Problem } from '../../../bits/problem.ts';
import type { TraceEvent, TraceEventFields } from '../event.ts';
import { eventFromFields } from '../event-fields.ts';
import { BinaryFields } from './binary-fields.ts';
import { ByteCursor, type ByteSource, corrupt } from './byte-source.ts';
import { Kallsyms } from './kallsyms.ts';
import { pageLayout, type RawRecord, recordsOfPage } from './ring-buffer.ts';
import type { CpuBuffer, TraceDat } from './sections.ts';
import { readVersion6 } from './version-6.ts';
import { readVersion7 } from './version-7.ts';

const MAGIC = [0x17, 0x08, 0x44, ...Buffer.from('tracing')];

/** Whether a file that begins with `head` is a trace.dat. */
export function isTraceDat(head: Uint8Array): boolean {
  return head.length >= MAGIC.length && MAGIC.every((byte, i) => head[i] === byte);
}

export interface TraceDatContent {
  readonly version: 6 | 7;
  /** Release of the recording kernel, e.g. `6.1.0-56-amd64`, if the file tells it. */
  readonly kernel: string | undefined;
  readonly cpus: number;
  /** To be read once. `time` is that of the trace clock, without the corrections that trace-cmd may hold. */
  readonly events: Iterable<TraceEvent>;
}

/**
 * Opens the trace.dat in `source`: what it says of itself is read at once, the buffers while `events` is. Throws, and
 * `events` throws, E_IMPORT with file and offset for what is unsound, cut short or not of x86, E_LIMIT for sizes beyond
 * reason, E_NEWER_VERSION for a version after 7.
 */
export function readTraceDat(source: ByteSource): TraceDatContent {
  const dat = readFile(source);
  return {
    version: dat.version,
    kernel: dat.uname?.split(' ')[2],
    cpus: dat.cpuCount ?? dat.buffers.length,
    events: eventsOf(source, dat),
  };
}

function readFile(source: ByteSource): TraceDat {
  const head = source.read(0, Math.min(64, source.size));
  if (!isTraceDat(head)) throw corrupt(source, 'no trace.dat of trace-cmd', 0);
  const cursor = new ByteCursor(head, (message) => corrupt(source, message, 0));
  cursor.at = MAGIC.length;
  const version = cursor.string();
  if (cursor.u8() !== 0) throw corrupt(source, 'the file is big-endian, so not of an x86 machine', cursor.at);
  cursor.u8();
  const pageSize = cursor.u32();
  if (version === '7') return readVersion7(source, cursor.at);
  if (version === '6') {
    if (pageSize < 64 || pageSize > 0x1000000) throw corrupt(source, `pages of ${pageSize} bytes`, cursor.at);
    return readVersion6(source, cursor.at, pageSize);
  }
  const newer = Number(version) > 7;
  throw new Problem(
    newer ? 'E_NEWER_VERSION' : 'E_IMPORT',
    `trace.dat of version ${JSON.stringify(version.slice(0, 10))}; 6 and 7 are read`,
    { file: source.name },
  );
}

/** The next record of one CPU. */
interface Stream {
  readonly cpu: number;
  readonly records: Iterator<RawRecord, void, void>;
  /** Place of the page in the file. */
  offset: number;
  next: RawRecord | undefined;
}

function* recordsOf(
  source: ByteSource,
  dat: TraceDat,
  buffer: CpuBuffer,
  stream: () => Stream,
): Generator<RawRecord, void, void> {
  const layout = pageLayout(dat.headerPage, buffer.pageSize);
  if (layout === undefined || layout.dataAt + 4 > layout.size || layout.commitAt + layout.commitSize > layout.size) {
    throw corrupt(source, 'the description of pages is not understood');
  }
  for (const { page, offset } of buffer.pages) {
    stream().offset = offset;
    yield* recordsOfPage(page, layout, source, offset);
  }
}

function openStream(source: ByteSource, dat: TraceDat, buffer: CpuBuffer): Stream {
  const records = recordsOf(source, dat, buffer, () => stream);
  const stream: Stream = { cpu: buffer.cpu, records, offset: 0, next: undefined };
  advance(stream);
  return stream;
}

function advance(stream: Stream): void {
  const result = stream.records.next();
  stream.next = result.done === true ? undefined : result.value;
}

/** Of records of the same time, the one of the CPU that comes first in the file is first. */
function earliest(streams: readonly Stream[]): Stream | undefined {
  let found: Stream | undefined;
  for (const stream of streams) {
    if (stream.next !== undefined && (found === undefined || stream.next.time < found.next!.time)) found = stream;
  }
  return found;
}

function* eventsOf(source: ByteSource, dat: TraceDat): Generator<TraceEvent, void, void> {
  const streams = dat.buffers.map((buffer) => openStream(source, dat, buffer));
  const decoder = new RecordDecoder(dat);
  let position = 0;
  for (;;) {
    const stream = earliest(streams);
    if (stream === undefined) return;
    const record = stream.next!;
    position++;
    try {
      yield decoder.event(record, stream.cpu, position);
    } catch (error) {
      throw error instanceof Problem ? error.at({ file: source.name, offset: stream.offset }) : error;
    }
    advance(stream);
  }
}

class RecordDecoder {
  readonly #dat: TraceDat;
  readonly #kallsyms: Kallsyms;
  readonly #fields = new Map<number, BinaryFields>();

  constructor(dat: TraceDat) {
    this.#dat = dat;
    this.#kallsyms = new Kallsyms(dat.kallsyms);
  }

  event(record: RawRecord, cpu: number, position: number): TraceEvent {
    const { time } = record;
    if (record.start === 0) return { position, time, task: '', pid: -1, cpu, name: 'lost', count: record.lost };
    const fields = this.#fieldsOf(record);
    const pid = fields.number('common_pid');
    return { position, time, task: this.#taskName(pid), pid, cpu, ...this.#typed(fields) };
  }

  #fieldsOf(record: RawRecord): BinaryFields {
    // Every record begins with the number of its event.
    const id = record.view.getUint16(record.start, true);
    let fields = this.#fields.get(id);
    if (fields === undefined) {
      const format = this.#dat.formats.get(id);
      if (format === undefined) throw new Problem('E_IMPORT', `the file has no format for its event number ${id}`);
      fields = new BinaryFields(format);
      this.#fields.set(id, fields);
    }
    return fields.at(record.view, record.start, record.length);
  }

  /** As the kernel names those that it does not know. */
  #taskName(pid: number): string {
    return this.#dat.taskNames.get(pid) ?? (pid === 0 ? '<idle>' : '<...>');
  }

  #typed(fields: BinaryFields): TraceEventFields {
    return fields.format.name === 'print' ? this.#print(fields) : eventFromFields(fields.format.name, fields);
  }

  /** Marks and the kernel's own `trace_printk` share an event: the function tells them apart. */
  #print(fields: BinaryFields): TraceEventFields {
    const writer = this.#kallsyms.at(fields.big('ip'));
    const text = fields.text('buf').replace(/\n+$/, '');
    if (writer === undefined || writer.split('.', 1)[0] === 'tracing_mark_write') return { name: 'mark', text };
    return { name: 'other', event: writer, text };
  }
}
