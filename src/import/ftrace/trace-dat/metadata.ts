/** The parts of a trace.dat that both versions share: page description, event formats. */

import type { ByteCursor } from './byte-source.ts';
import { textOf } from './byte-source.ts';
import { EventFormat } from './event-format.ts';

/** `header_page`, then `header_event`, each with its length. undefined: something else stands there. */
export function readHeaderInfo(cursor: ByteCursor): string | undefined {
  if (cursor.string() !== 'header_page') return undefined;
  const page = textOf(cursor.take(cursor.u64()));
  if (cursor.string() !== 'header_event') return undefined;
  cursor.take(cursor.u64());
  return page;
}

/** The formats of system `ftrace`. */
export function readFtraceFormats(cursor: ByteCursor, formats: Map<number, EventFormat>): void {
  const count = cursor.u32();
  for (let i = 0; i < count; i++) readFormat(cursor, formats);
}

/** The formats of all other systems. */
export function readSystemFormats(cursor: ByteCursor, formats: Map<number, EventFormat>): void {
  const systems = cursor.u32();
  for (let i = 0; i < systems; i++) {
    cursor.string();
    const count = cursor.u32();
    for (let k = 0; k < count; k++) readFormat(cursor, formats);
  }
}

function readFormat(cursor: ByteCursor, formats: Map<number, EventFormat>): void {
  const format = EventFormat.parse(textOf(cursor.take(cursor.u64())));
  if (format !== undefined) formats.set(format.id, format);
}
