/** Records of a results file: tag, length, CRC around a message of the schema. The trace file's chunks look alike. */

import protobuf from 'protobufjs/minimal.js';
import { Problem } from '../bits/problem.ts';
import { CHUNK_TAG, FRAME_HEAD, frameCrc, parseFrameHead, storedCrc } from '../trace/framing.ts';
import type { Input } from '../trace/input.ts';
import { putVarint, varintSize } from '../trace/wire.ts';
import type { ResultsLimits } from './model.ts';
import { rewalk } from './schema/results.js';

export type RecordMessage = rewalk.results.Record.$Properties;

/** Field 16, length-delimited: what every results file has right behind the CRC of its first record. */
const RUN_TAG = [0x82, 0x01];

/** A record as it stands in the file. */
export function framed(message: Omit<RecordMessage, 'crc'>): Uint8Array {
  // A zero would be left out; the real one takes its place below.
  const body = rewalk.results.Record.encode({ ...message, crc: 1 }).finish();
  const lengthSize = varintSize(body.length);
  const bytes = new Uint8Array(1 + lengthSize + body.length);
  bytes[0] = CHUNK_TAG;
  const start = putVarint(bytes, 1, body.length);
  bytes.set(body, start);
  const crc = frameCrc(bytes, { length: body.length, start });
  new DataView(bytes.buffer).setUint32(start + 1, crc, true);
  return bytes;
}

/** Whether a file that begins with these bytes, some ten of them, is a results file. */
export function looksLikeResults(head: Uint8Array): boolean {
  const frame = parseFrameHead(head, head.length);
  if (frame === undefined) return false;
  return RUN_TAG.every((byte, i) => head[frame.start + 5 + i] === byte);
}

const DAMAGED = 'replay again with `rewalk replay -o`';

/** A record and where it begins in the file. */
export interface PlacedRecord {
  readonly offset: number;
  readonly end: number;
  readonly message: RecordMessage;
}

/**
 * The record at `offset`, `undefined` at the end of the file. Throws E_CUT_SHORT, E_CORRUPT, E_LIMIT, E_UNSOUND with the
 * byte offset; E_NOT_RESULTS at offset 0.
 */
export function recordAt(input: Input, offset: number, limits: ResultsLimits): PlacedRecord | undefined {
  const place = { file: input.name, offset };
  const size = input.size ?? 0;
  if (offset >= size) return undefined;
  const head = new Uint8Array(FRAME_HEAD);
  const got = input.readAt(offset, head, 0, FRAME_HEAD);
  const frame = parseFrameHead(head, got);
  if (frame === undefined) {
    if (got < FRAME_HEAD) throw new Problem('E_CUT_SHORT', 'the file ends inside a record', place, DAMAGED);
    throw new Problem('E_CORRUPT', 'no record begins where the one before ends', place, DAMAGED);
  }
  const bytesInFile = frame.start + frame.length;
  if (bytesInFile > limits.maxRecordBytes) {
    throw new Problem(
      'E_LIMIT',
      `the record's size is ${bytesInFile}, more than the limit maxRecordBytes of ${limits.maxRecordBytes}`,
      place,
      'the file may be damaged or made to do harm',
    );
  }
  if (offset + bytesInFile > size) {
    throw new Problem('E_CUT_SHORT', 'the file ends inside a record', place, DAMAGED);
  }
  const bytes = new Uint8Array(bytesInFile);
  if (input.readAt(offset, bytes, 0, bytesInFile) < bytesInFile) {
    throw new Problem('E_CUT_SHORT', 'the file ends inside a record', place, DAMAGED);
  }
  if (frameCrc(bytes, frame) !== storedCrc(bytes, frame)) {
    throw new Problem('E_CORRUPT', 'the record is damaged: its checksum does not match its bytes', place, DAMAGED);
  }
  try {
    const message = rewalk.results.Record.decode(protobuf.Reader.create(bytes.subarray(frame.start)));
    return { offset, end: offset + bytesInFile, message };
  } catch {
    throw new Problem('E_UNSOUND', 'the record cannot be decoded', place, DAMAGED);
  }
}
