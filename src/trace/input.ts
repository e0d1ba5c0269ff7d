/** Synchronous reading of a file at any place, or of a pipe from front to back. */

import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { Problem } from '../bits/problem.ts';

/** The name that standard input goes by in messages. */
export const STDIN_NAME = '<stdin>';

/** Sleeps without a thread of one's own: a pipe that another process made non-blocking has nothing to read yet. */
export function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

/** What the operating system refused, as a problem. */
export function ioProblem(error: unknown, file: string, doing: string): Problem {
  const code = errorCode(error);
  // Node words these as "ENOENT: no such file or directory, open 'x'".
  const reason =
    error instanceof Error ? (/^[A-Z0-9]+: ([^,]+)/.exec(error.message)?.[1] ?? error.message) : String(error);
  return new Problem(code === 'ENOENT' ? 'E_NO_SUCH_FILE' : 'E_IO', `cannot ${doing}: ${reason}`, { file });
}

export class Input {
  /** For messages. */
  readonly name: string;
  /** Bytes, of a regular file; a pipe's is not known, and only a regular file has `readAt`. */
  readonly size: number | undefined;
  private readonly fd: number;
  private readonly owned: boolean;
  /** Where the next `read` of a regular file begins. */
  private position = 0;

  private constructor(name: string, fd: number, owned: boolean, size: number | undefined) {
    this.name = name;
    this.fd = fd;
    this.owned = owned;
    this.size = size;
  }

  /** `path`: a file, or `-` for standard input. Throws E_NO_SUCH_FILE or E_IO. */
  static open(path: string): Input {
    if (path === '-') return new Input(STDIN_NAME, 0, false, undefined);
    try {
      const fd = openSync(path, 'r');
      const stat = fstatSync(fd);
      if (stat.isDirectory()) {
        closeSync(fd);
        throw new Error('it is a folder');
      }
      return new Input(path, fd, true, stat.isFile() ? stat.size : undefined);
    } catch (error) {
      throw ioProblem(error, path, 'open it');
    }
  }

  /** Reads on for `count` bytes into `target` at `start`. Returns how many came: fewer only at the end of the input. */
  read(target: Uint8Array, start: number, count: number): number {
    const got = this.readFully(target, start, count, this.size === undefined ? undefined : this.position);
    this.position += got;
    return got;
  }

  /** Like `read`, but content with less: with whatever is there. Returns 0 only at the end of the input. */
  readSome(target: Uint8Array, start: number, count: number): number {
    const got = this.readOnce(target, start, count, this.size === undefined ? undefined : this.position);
    this.position += got;
    return got;
  }

  /** Reads `count` bytes from `offset` of a regular file; `read` goes on where it was. */
  readAt(offset: number, target: Uint8Array, start: number, count: number): number {
    return this.readFully(target, start, count, offset);
  }

  close(): void {
    if (this.owned) closeSync(this.fd);
  }

  private readFully(target: Uint8Array, start: number, count: number, offset: number | undefined): number {
    let done = 0;
    while (done < count) {
      const got = this.readOnce(target, start + done, count - done, offset === undefined ? undefined : offset + done);
      if (got === 0) break;
      done += got;
    }
    return done;
  }

  private readOnce(target: Uint8Array, start: number, count: number, offset: number | undefined): number {
    for (;;) {
      try {
        return readSync(this.fd, target, start, count, offset ?? null);
      } catch (error) {
        const code = errorCode(error);
        // Windows ends a pipe in this way.
        if (code === 'EOF') return 0;
        if (code !== 'EAGAIN') throw ioProblem(error, this.name, 'read it');
        sleep(2);
      }
    }
  }
}
