/** Columns of differences: line numbers and timestamps. Only reports ask for them, so they are undone when asked for. */

/** How many numbers the varints in these bytes make; they must not end inside one, else `undefined`. */
export function countVarints(bytes: Uint8Array): number | undefined {
  if (bytes.length > 0 && bytes[bytes.length - 1]! >= 0x80) return undefined;
  let count = 0;
  for (let i = 0; i < bytes.length; i++) count += 1 - (bytes[i]! >>> 7);
  return count;
}

/** Line numbers, 0 where unknown, from `sint32` differences modulo 2^32. */
export function decodeLines(bytes: Uint8Array, count: number): Uint32Array {
  const lines = new Uint32Array(count);
  let line = 0;
  let at = 0;
  for (let i = 0; i < count; i++) {
    let zigzag = 0;
    let shift = 0;
    let byte: number;
    do {
      byte = bytes[at++]!;
      // Bits beyond the 32nd are dropped, as protobuf does.
      if (shift < 32) zigzag |= (byte & 0x7f) << shift;
      shift += 7;
    } while (byte >= 0x80);
    line = (line + ((zigzag >>> 1) ^ -(zigzag & 1))) | 0;
    lines[i] = line;
  }
  return lines;
}

/** Timestamps in nanoseconds from `sint64` differences modulo 2^64. */
export function decodeTimes(bytes: Uint8Array, count: number): BigInt64Array {
  const times = new BigInt64Array(count);
  let time = 0n;
  let at = 0;
  for (let i = 0; i < count; i++) {
    let zigzag = 0n;
    let shift = 0n;
    let byte: number;
    do {
      byte = bytes[at++]!;
      if (shift < 64n) zigzag |= BigInt(byte & 0x7f) << shift;
      shift += 7n;
    } while (byte >= 0x80);
    zigzag = BigInt.asUintN(64, zigzag);
    time = BigInt.asIntN(64, time + ((zigzag >> 1n) ^ -(zigzag & 1n)));
    times[i] = time;
  }
  return times;
}

/** The most bytes that one line's and one timestamp's difference take. */
export const LINE_DELTA_BYTES = 5;
export const TIME_DELTA_BYTES = 10;

/** Writes `count` lines as differences and returns the position after them. */
export function putLines(
  target: Uint8Array,
  position: number,
  count: number,
  lineOf: (step: number) => number | undefined,
): number {
  let at = position;
  let before = 0;
  for (let i = 0; i < count; i++) {
    const line = lineOf(i) ?? 0;
    const delta = (line - before) | 0;
    let zigzag = ((delta << 1) ^ (delta >> 31)) >>> 0;
    while (zigzag >= 0x80) {
      target[at++] = (zigzag & 0x7f) | 0x80;
      zigzag >>>= 7;
    }
    target[at++] = zigzag;
    before = line;
  }
  return at;
}

/** Writes `count` timestamps as differences and returns the position after them. */
export function putTimes(
  target: Uint8Array,
  position: number,
  count: number,
  timeOf: (step: number) => bigint,
): number {
  let at = position;
  let before = 0n;
  for (let i = 0; i < count; i++) {
    const time = timeOf(i);
    const delta = BigInt.asIntN(64, time - before);
    let zigzag = BigInt.asUintN(64, (delta << 1n) ^ (delta >> 63n));
    while (zigzag >= 0x80n) {
      target[at++] = Number(zigzag & 0x7fn) | 0x80;
      zigzag >>= 7n;
    }
    target[at++] = Number(zigzag);
    before = time;
  }
  return at;
}
