/** trace.dat of version 6: everything in a fixed order, pages uncompressed (trace-cmd.dat.v6(5)). */

import { ByteCursor, type ByteSource, corrupt, textOf } from './byte-source.ts';
import type { EventFormat } from './event-format.ts';
import { readFtraceFormats, readHeaderInfo, readSystemFormats } from './metadata.ts';
import { type CpuBuffer, Option, plainPages, type TraceDat, taskNamesOf } from './sections.ts';

/** More than any kernel's formats and symbols take. */
const MAX_HEAD = 256 * 1024 * 1024;
const STEP = 8 * 1024 * 1024;

/** `start`: behind the page size of the initial format. */
export function readVersion6(source: ByteSource, start: number, pageSize: number): TraceDat {
  // The head has no length of its own: more of the file is taken until the head is whole.
  for (let length = STEP; ; length *= 2) {
    const end = Math.min(source.size, start + length);
    const whole = end === source.size || length > MAX_HEAD;
    let cut = false;
    const cursor = new ByteCursor(source.read(start, end - start), (message) => {
      cut = true;
      return corrupt(source, message, end);
    });
    try {
      return readHead(source, cursor, start, pageSize);
    } catch (error) {
      if (!cut || whole) throw error;
    }
  }
}

function readHead(source: ByteSource, cursor: ByteCursor, start: number, pageSize: number): TraceDat {
  const here = (): number => start + cursor.at;
  const headerPage = readHeaderInfo(cursor);
  if (headerPage === undefined) throw corrupt(source, 'the description of pages is not where it should be', here());
  const formats = new Map<number, EventFormat>();
  readFtraceFormats(cursor, formats);
  readSystemFormats(cursor, formats);
  const kallsyms = cursor.take(cursor.u32());
  cursor.take(cursor.u32());
  const taskNames = taskNamesOf(textOf(cursor.take(cursor.u64())));
  const cpus = cursor.u32();
  let kind = cursor.string();
  let uname: string | undefined;
  if (kind.trimEnd() === 'options') {
    for (let option = cursor.u16(); option !== Option.DONE; option = cursor.u16()) {
      const data = cursor.take(cursor.u32());
      if (option === Option.UNAME) uname = zeroTerminated(data);
    }
    kind = cursor.string();
  }
  if (kind.trimEnd() !== 'flyrecord') {
    throw corrupt(source, `the file has no recorded buffer but ${JSON.stringify(kind.slice(0, 10).trimEnd())}`, here());
  }
  const buffers: CpuBuffer[] = [];
  for (let cpu = 0; cpu < cpus; cpu++) {
    const offset = cursor.u64();
    const size = cursor.u64();
    if (offset + size > source.size) throw corrupt(source, `the buffer of CPU ${cpu} is cut short`, here());
    buffers.push({ cpu, pageSize, pages: plainPages(source, offset, size, pageSize) });
  }
  return { version: 6, headerPage, formats, taskNames, kallsyms: () => kallsyms, buffers, uname, cpuCount: cpus };
}

function zeroTerminated(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return textOf(end === -1 ? bytes : bytes.subarray(0, end));
}
