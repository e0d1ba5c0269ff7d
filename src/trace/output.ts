/** Files that appear whole or not at all: written beside their place, made durable, then renamed. */

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  openSync,
  realpathSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { errorCode, ioProblem, sleep } from './input.ts';

/** Temporary files that this process has open: removed if it exits before they are finished. */
const unfinished = new Set<string>();

process.on('exit', () => {
  for (const path of unfinished) removeQuietly(path);
});

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // There is nobody left to tell, and nothing to be done about it.
  }
}

/** The file that a path names in the end, if it exists: a link keeps pointing at what is written. */
function targetOf(path: string): { path: string; mode: number | undefined; special: boolean } {
  try {
    const real = realpathSync(path);
    const stat = statSync(real);
    return { path: real, mode: stat.mode & 0o7777, special: !stat.isFile() };
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return { path, mode: undefined, special: false };
    throw error;
  }
}

/** The folder's own entry, the rename, must be durable too; not every system lets a folder be opened. */
function syncFolder(path: string): void {
  try {
    const fd = openSync(path, 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch {
    // The file itself is whole; only its durability after a power cut is the file system's word.
  }
}

export class Output {
  /** For messages. */
  readonly name: string;
  /** Bytes written so far. */
  size = 0;
  private readonly fd: number;
  /** Where the bytes are until they are whole, and where they go then; absent for a pipe or device. */
  private readonly temporary: { readonly path: string; readonly final: string } | undefined;
  private open = true;

  private constructor(name: string, fd: number, temporary?: { path: string; final: string }) {
    this.name = name;
    this.fd = fd;
    this.temporary = temporary;
  }

  /** `path`: a file, or `-` for standard output. Pipes and devices are written straight away. Throws E_IO. */
  static create(path: string): Output {
    if (path === '-') return new Output('<stdout>', 1);
    try {
      const target = targetOf(path);
      if (target.special) return new Output(path, openSync(target.path, 'w'));
      const name = `.${basename(target.path)}.${randomBytes(6).toString('hex')}.tmp`;
      const temporary = { path: join(dirname(target.path), name), final: target.path };
      const fd = openSync(temporary.path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o666);
      unfinished.add(temporary.path);
      if (target.mode !== undefined) fchmodSync(fd, target.mode);
      return new Output(path, fd, temporary);
    } catch (error) {
      throw ioProblem(error, path, 'write it');
    }
  }

  /** Writes all of `bytes`. */
  write(bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      try {
        done += writeSync(this.fd, bytes, done, bytes.length - done);
      } catch (error) {
        if (errorCode(error) === 'EAGAIN') {
          sleep(2);
          continue;
        }
        throw ioProblem(error, this.name, 'write it');
      }
    }
    this.size += bytes.length;
  }

  /** Makes the file appear under its name, durable. */
  finish(): void {
    if (!this.open) return;
    try {
      if (this.temporary !== undefined) fsyncSync(this.fd);
      this.close();
      if (this.temporary === undefined) return;
      renameSync(this.temporary.path, this.temporary.final);
      unfinished.delete(this.temporary.path);
      syncFolder(dirname(this.temporary.final));
    } catch (error) {
      this.remove();
      throw ioProblem(error, this.name, 'write it');
    }
  }

  /** Leaves nothing behind; what went to a pipe is gone. After `finish` it does nothing. */
  abort(): void {
    if (!this.open) return;
    this.close();
    this.remove();
  }

  private close(): void {
    this.open = false;
    if (this.fd !== 1) closeSync(this.fd);
  }

  private remove(): void {
    if (this.temporary === undefined || !unfinished.delete(this.temporary.path)) return;
    removeQuietly(this.temporary.path);
  }
}
