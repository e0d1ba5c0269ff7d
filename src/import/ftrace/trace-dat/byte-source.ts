/** Bytes of a file at any place, bounded: whatever an offset in the file says, no more is read than there is. */

import { Problem } from '../../../bits/problem.ts';
import { Input } from '../../../trace/input.ts';

export interface ByteSource {
  /** For problems. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset`. Throws E_IMPORT if the source ends before. */
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

/** E_IMPORT at a byte of the file. */
export function corrupt(source: ByteSource, message: string, offset?: number): Problem {
  return new Problem('E_IMPORT', message, { file: source.name, ...(offset === undefined ? {} : { offset }) });
}

export function memorySource(bytes: Uint8Array, name: string): ByteSource {
  const source: ByteSource = {
    name,
    size: bytes.length,
    read: (offset, length) => {
      checkRange(source, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    close: () => {},
  };
  return source;
}

/** A regular file. Throws E_NO_SUCH_FILE or E_IO, E_IMPORT if it is a pipe. */
export function fileSource(path: string): ByteSource {
  const input = Input.open(path);
  const size = input.size;
  if (size === undefined) {
    input.close();
    throw new Problem('E_IMPORT', 'a trace.dat is read at many places, which a pipe does not allow', { file: path });
  }
  const source: ByteSource = {
    name: path,
    size,
    read: (offset, length) => {
      checkRange(source, offset, length);
      const bytes = new Uint8Array(length);
      if (input.readAt(offset, bytes, 0, length) < length) throw corrupt(source, 'the file is cut short', offset);
      return bytes;
    },
    close: () => input.close(),
  };
  return source;
}

function checkRange(source: ByteSource, offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset > source.size || length > source.size - offset) {
    throw corrupt(
      source,
      'the file is cut short, or an offset or a length in it is wrong',
      Math.min(offset, source.size),
    );
  }
}

/** Reads little-endian numbers and strings of a block of bytes from front to back. */
export class ByteCursor {
  at = 0;
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  readonly #fail: (message: string) => Problem;

  /** `fail` makes the problem that is thrown when the block ends too soon. */
  constructor(bytes: Uint8Array, fail: (message: string) => Problem) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#fail = fail;
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** As a number: exact up to 2^53, beyond which nothing in a file can be. */
  u64(): number {
    const from = this.#take(8);
    return this.#view.getUint32(from, true) + this.#view.getUint32(from + 4, true) * 2 ** 32;
  }

  take(length: number): Uint8Array {
    const from = this.#take(length);
    return this.bytes.subarray(from, from + length);
  }

  /** Up to a NUL. */
  string(): string {
    const end = this.bytes.indexOf(0, this.at);
    if (end === -1) throw this.#fail('a name does not end');
    const text = textOf(this.bytes.subarray(this.at, end));
    this.at = end + 1;
    return text;
  }

  #take(length: number): number {
    const from = this.at;
    if (length > this.left) throw this.#fail('a part of the file is cut short, or a length in it is wrong');
    this.at += length;
    return from;
  }
}

/** Bytes of the kernel as text: UTF-8, with replacements for what is none. */
export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}
