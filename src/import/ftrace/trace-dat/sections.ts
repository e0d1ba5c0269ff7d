/** What a trace.dat of trace-cmd consists of, whichever version wrote it (trace-cmd.dat.v6(5), trace-cmd.dat.v7(5)). */

import type { ByteSource } from './byte-source.ts';
import type { EventFormat } from './event-format.ts';

/** Pages of one CPU's buffer, in order, with their places in the file. */
export type Pages = Iterable<{ readonly page: Uint8Array; readonly offset: number }>;

export interface CpuBuffer {
  readonly cpu: number;
  readonly pageSize: number;
  readonly pages: Pages;
}

export interface TraceDat {
  readonly version: 6 | 7;
  /** The kernel's description of a page. */
  readonly headerPage: string;
  /** By number. */
  readonly formats: ReadonlyMap<number, EventFormat>;
  readonly taskNames: ReadonlyMap<number, string>;
  /** `/proc/kallsyms`, read when it is asked for. */
  readonly kallsyms: () => Uint8Array;
  readonly buffers: readonly CpuBuffer[];
  /** As the system gave it: `Linux host 6.1.0 x86_64`. */
  readonly uname: string | undefined;
  readonly cpuCount: number | undefined;
}

/** Numbers of options, the same in both versions. */
export const Option = {
  DONE: 0,
  BUFFER: 3,
  UNAME: 5,
  CPUCOUNT: 8,
  HEADER_INFO: 16,
  FTRACE_EVENTS: 17,
  EVENT_FORMATS: 18,
  KALLSYMS: 19,
  CMDLINES: 21,
  BUFFER_TEXT: 22,
} as const;

/** `PID NAME` per line. */
export function taskNamesOf(text: string): Map<number, string> {
  const names = new Map<number, string>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    const pid = Number(line.slice(0, space));
    if (space > 0 && Number.isInteger(pid)) names.set(pid, line.slice(space + 1).trimEnd());
  }
  return names;
}

/** An uncompressed buffer, page by page. */
export function* plainPages(source: ByteSource, offset: number, size: number, pageSize: number): Pages {
  for (let at = 0; at + pageSize <= size; at += pageSize) {
    yield { page: source.read(offset + at, pageSize), offset: offset + at };
  }
}
