/**
 * Pages of the kernel's ring buffer into records (`header_page` and `header_event` of a trace.dat, trace-cmd.dat(5)). A
 * page begins with the time of its first record and the number of bytes in use; a record with 5 bits of type or length
 * and 27 bits of time since the one before.
 */

import { type ByteSource, corrupt } from './byte-source.ts';
import { fieldsOf } from './event-format.ts';

export interface PageLayout {
  /** Bytes of a page. */
  readonly size: number;
  /** Offset and bytes of the count of bytes in use. */
  readonly commitAt: number;
  readonly commitSize: 4 | 8;
  /** Offset of the first record. */
  readonly dataAt: number;
}

/** Of the text that the kernel describes its pages with; undefined if it lacks something. */
export function pageLayout(text: string, size: number): PageLayout | undefined {
  const fields = fieldsOf(text);
  const commit = fields.get('commit');
  const data = fields.get('data');
  if (commit === undefined || data === undefined || (commit.size !== 4 && commit.size !== 8)) return undefined;
  return { size, commitAt: commit.offset, commitSize: commit.size, dataAt: data.offset };
}

/** Used again for every record. */
export interface RawRecord {
  /** Nanoseconds of the trace clock. */
  time: number;
  view: DataView;
  /** Of the record's data in `view`; 0: not a record but a gap. */
  start: number;
  length: number;
  /** A gap: events that were lost before this place, undefined if they were not counted. */
  lost: number | undefined;
}

const DATA_LONG = 0;
const DATA_MAX = 28;
const PADDING = 29;
const TIME_EXTEND = 30;

const IN_USE_MASK = 0x7ffffff;
const MISSED = 1 << 31;
const MISSED_COUNTED = 1 << 30;
/** Absolute time stamps have 59 bits; the rest is that of the page. */
const STAMP_RANGE = 2 ** 59;

/**
 * Records of one page, in its order; the same object is yielded again and again. `offset`: the page's place in the
 * file, for problems (E_IMPORT).
 */
export function* recordsOfPage(
  page: Uint8Array,
  layout: PageLayout,
  source: ByteSource,
  offset: number,
): Generator<RawRecord, void, void> {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const base = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  const flags = view.getUint32(layout.commitAt, true);
  const end = layout.dataAt + (flags & IN_USE_MASK);
  if (end > page.length) throw corrupt(source, 'a page of the trace uses more bytes than it has', offset);
  const record: RawRecord = { time: base, view, start: 0, length: 0, lost: undefined };
  if ((flags & MISSED) !== 0) {
    const counted = (flags & MISSED_COUNTED) !== 0 && end + layout.commitSize <= page.length;
    record.lost = counted ? view.getUint32(end, true) : undefined;
    yield record;
    record.lost = undefined;
  }
  let at = layout.dataAt;
  while (at < end) {
    if (at + 4 > end) throw corrupt(source, 'a record of the trace does not end in its page', offset + at);
    const head = view.getUint32(at, true);
    const type = head & 31;
    const delta = head >>> 5;
    if (type === PADDING && delta === 0) return;
    const short = type > DATA_LONG && type <= DATA_MAX;
    if (!short && at + 8 > end) throw corrupt(source, 'a record of the trace does not end in its page', offset + at);
    const word = short ? 0 : view.getUint32(at + 4, true);
    if (short || type === DATA_LONG) {
      record.time += delta;
      record.start = at + (short ? 4 : 8);
      record.length = short ? type * 4 : word - 4;
      at = record.start + ((record.length + 3) & ~3);
      if (record.length < 4 || at > end) {
        throw corrupt(source, 'a record of the trace does not end in its page', offset + record.start);
      }
      yield record;
    } else if (type === PADDING) {
      // A record that the kernel thought better of.
      record.time += delta;
      at += 4 + word;
    } else {
      const time = word * 2 ** 27 + delta;
      record.time = type === TIME_EXTEND ? record.time + time : Math.floor(base / STAMP_RANGE) * STAMP_RANGE + time;
      at += 8;
    }
  }
}
